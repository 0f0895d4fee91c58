"""Measure a stream through two hops: straight, through socat, through ours.

    python benchmarks/stream.py [--rounds 5] [--seconds 2]

Needs iperf3 and socat. "Two hops" is what `reach` and `expose` are: a process that accepts and dials, joined
by one connection to another process that accepts and dials the service. Rounds are interleaved, so that a
noisy machine disturbs every candidate alike; medians of rounds, and of the ratios within a round, are
printed.
"""

import argparse
import asyncio
import contextlib
import json
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from trunkline.drivers.splice import join

HOST = "127.0.0.1"
PING_BYTES = 100  # about a pgbench query or its answer
PINGS = 2000


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


# --- one hop of ours, run as a child process: `stream.py --hop LISTEN DIAL`


def _listen(address: str) -> socket.socket:
    if address.startswith("/"):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(address)
    else:
        sock = socket.create_server((HOST, int(address)))
    sock.listen(128)
    sock.setblocking(False)
    return sock


async def _dial(address: str) -> socket.socket:
    loop = asyncio.get_running_loop()
    unix = address.startswith("/")
    sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    sock.setblocking(False)
    await loop.sock_connect(sock, address if unix else (HOST, int(address)))
    return sock


async def hop(listen: str, dial: str) -> None:
    async def joined(taken: socket.socket) -> None:
        await join(taken, await _dial(dial))

    loop = asyncio.get_running_loop()
    tasks = set()
    with _listen(listen) as listener:
        print("ready", flush=True)
        while True:
            taken, _ = await loop.sock_accept(listener)
            task = asyncio.create_task(joined(taken))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


async def echo(port: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, HOST, int(port))
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


# --- the driver


@contextlib.contextmanager
def child(*argv: str) -> Iterator[None]:
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def ready_child(*argv: str) -> Iterator[None]:
    command = (sys.executable, __file__, *argv)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n", argv
            yield
        finally:
            process.terminate()


def wait_for(port: int) -> None:
    """Return once somebody listens. Reads the kernel's table: dialling would take a connection."""
    wanted = f":{port:04X}"
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        tables = (Path("/proc/net") / name for name in ("tcp", "tcp6"))
        for fields in (line.split() for table in tables for line in table.read_text("ascii").splitlines()):
            if fields[1].endswith(wanted) and fields[3] == "0A":
                return
        time.sleep(0.01)
    raise TimeoutError(f"nobody listens on port {port}")


@contextlib.contextmanager
def path_to(kind: str, service: int, directory: str) -> Iterator[int]:
    """Yield the port at which the service is reached by that kind of path."""
    if kind == "straight":
        yield service
        return
    front, middle = free_port(), str(free_port())
    with contextlib.ExitStack() as stack:
        if kind.startswith("socat"):
            flags = ["-b", "131072"] if kind == "socat -b 128k" else []
            for listen, dial in ((middle, service), (front, middle)):
                stack.enter_context(
                    child(
                        "socat",
                        *flags,
                        f"TCP-LISTEN:{listen},fork,reuseaddr,nodelay",
                        f"TCP:{HOST}:{dial},nodelay",
                    )
                )
                wait_for(int(listen))
        else:
            if kind == "ours, unix":
                middle = tempfile.mktemp(dir=directory)
            stack.enter_context(ready_child("--hop", middle, str(service)))
            stack.enter_context(ready_child("--hop", str(front), middle))
        yield front


def bulk(port: int, seconds: float) -> float:
    """Gbit/s received by iperf3."""
    command = ["iperf3", "-c", HOST, "-p", str(port), "-t", f"{seconds:g}", "-J"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9


def ping_pong(port: int) -> float:
    """Median round trip in microseconds."""
    with socket.create_connection((HOST, port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        payload, taken = b"x" * PING_BYTES, []
        for _ in range(PINGS):
            started = time.perf_counter()
            sock.sendall(payload)
            left = PING_BYTES
            while left:
                left -= len(sock.recv(left))
            taken.append(time.perf_counter() - started)
        return statistics.median(taken) * 1e6


KINDS = ("straight", "socat", "socat -b 128k", "ours, tcp", "ours, unix")


def measure(rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    figures: dict[str, dict[str, list[float]]] = {kind: {"gbits": [], "ping_us": []} for kind in KINDS}
    iperf, echoing = free_port(), free_port()
    with (
        tempfile.TemporaryDirectory() as directory,
        child("iperf3", "-s", "-p", str(iperf)),
        ready_child("--echo", str(echoing)),
    ):
        wait_for(iperf)
        for _ in range(rounds):
            for kind in KINDS:
                with path_to(kind, iperf, directory) as port:
                    figures[kind]["gbits"].append(bulk(port, seconds))
                with path_to(kind, echoing, directory) as port:
                    figures[kind]["ping_us"].append(ping_pong(port))
    return figures


def report(figures: dict[str, dict[str, list[float]]]) -> None:
    straight, socat = figures["straight"], figures["socat"]
    print("| path | x straight | x socat | Gbit/s | ping p50, us | ping x socat |\n|---|---|---|---|---|---|")
    for kind, mine in figures.items():

        def ratio(what: str, other: dict[str, list[float]], mine: dict[str, list[float]] = mine) -> float:
            return statistics.median(x / y for x, y in zip(mine[what], other[what], strict=True))

        print(
            f"| {kind} | {ratio('gbits', straight):.2f} | {ratio('gbits', socat):.2f} "
            f"| {statistics.median(mine['gbits']):.1f} | {statistics.median(mine['ping_us']):.0f} "
            f"| {ratio('ping_us', socat):.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="measure a stream through two hops")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--json", action="store_true", help="print every figure, for a program to read")
    parser.add_argument("--hop", nargs=2, metavar=("LISTEN", "DIAL"), help=argparse.SUPPRESS)
    parser.add_argument("--echo", metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hop:
        asyncio.run(hop(*options.hop))
    elif options.echo:
        asyncio.run(echo(options.echo))
    else:
        for tool in ("iperf3", "socat"):
            if shutil.which(tool) is None:
                sys.exit(f"{tool} is needed: apt-get install {tool}")
        figures = measure(options.rounds, options.seconds)
        if options.json:
            print(json.dumps(figures))
        else:
            kernel = platform.release().split("-")[0]
            print(f"Linux {kernel}, Python {platform.python_version()}, {options.rounds} rounds\n")
            report(figures)


if __name__ == "__main__":
    main()
