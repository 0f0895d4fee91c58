"""A server is killed while many clients wait: how long until all wait again, on the other server?

    python benchmarks/recovery.py [--clients N] [--rounds N]

Two servers in one mesh, each a process of its own. N clients, each with its own connection, lodge a meeting with the
first; then that one is killed. Both times are taken until a server says that it holds all N requests. The clients
share one process and so one core: it is the ratio that counts.
"""

import argparse
import asyncio
import json
import resource
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence

from trunkline.aio import Switchboard
from trunkline.drivers.selector import run
from trunkline.errors import ClosedError, NoSwitchboard


async def start_server(*more: str) -> tuple[Process, str]:
    """Start a server on a free port; return it and its address."""
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trunkline", "switchboard", "--listen", "127.0.0.1:0", "--json", *more),
        stdout=PIPE,
        stderr=DEVNULL,
    )
    assert server.stdout is not None
    return server, json.loads(await server.stdout.readline())["address"]


async def until_all_wait(probes: Sequence[Switchboard], clients: int, since: float) -> float:
    """Return the seconds from ``since`` until the probed servers hold a request of each client.

    On a busy machine a few clients settle on the second server from the start: whoever answers first is taken.
    """
    while sum([(await probe.status()).meets for probe in probes]) < clients:  # noqa: ASYNC110 - it is another process that is asked
        await asyncio.sleep(0.01)
    return time.perf_counter() - since


async def one_round(clients: int, home: str) -> tuple[float, float]:
    """Return the seconds of the first lodging, and of the one after the kill."""
    first, first_at = await start_server()
    second, second_at = await start_server("--join", first_at)
    boards = [Switchboard([first_at, second_at], home=home) for _ in range(clients)]
    probes = Switchboard([first_at], home=home), Switchboard([second_at], home=home)
    tasks: list[asyncio.Task[object]] = []
    try:
        for probe in probes:
            await probe.status()
        begun = time.perf_counter()
        tasks = [
            asyncio.create_task(board.meet_socket(f"waiting-{number}", f"absent-{number}"))
            for number, board in enumerate(boards)
        ]
        lodged = await until_all_wait(probes, clients, begun)
        killed = time.perf_counter()
        first.kill()
        again = await until_all_wait(probes[1:], clients, killed)
        return lodged, again
    finally:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, asyncio.CancelledError | ClosedError | NoSwitchboard), outcome
        for board in (*boards, *probes):
            await board.close()
        for server in (first, second):
            if server.returncode is None:
                server.kill()
            await server.wait()


async def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--clients", type=int, default=1000)
    options.add_argument("--rounds", type=int, default=3)
    args = options.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ratios = []
    with tempfile.TemporaryDirectory() as home:
        for number in range(args.rounds):
            lodged, again = await one_round(args.clients, home)
            ratios.append(again / lodged)
            print(
                f"round {number + 1}: {args.clients} clients lodged in {lodged:.2f} s, "
                f"again after the kill in {again:.2f} s: {again / lodged:.2f} times",
                flush=True,
            )
    print(f"median: {statistics.median(ratios):.2f} times the first lodging")


if __name__ == "__main__":
    run(main())
