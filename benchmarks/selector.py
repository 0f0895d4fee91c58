"""What polling before blocking is worth, and what it costs: our selector against the stock loop and uvloop.

A server process echoes 64 bytes over TCP on loopback; the clients are plain blocking sockets in processes
of their own. All kinds of server are up side by side and take turns, so that noise on the machine meets all
alike.

    python benchmarks/selector.py [--rounds N] [--seconds S] [--spin MICROSECONDS ...] [--only WORD] [--quiet]
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import resource
import selectors
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

from trunkline.drivers.selector import new_event_loop
from trunkline.drivers.spin import DEFAULT_SPIN

try:
    import uvloop
except ImportError:
    uvloop = None

PAYLOAD = bytes(64)
WARM_UP = 50
MakeLoop = Callable[[], asyncio.AbstractEventLoop]
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Setting:
    """How the clients behave, and where everybody runs."""

    clients: int = 1
    relay: bool = False  # a second server of the same kind behind the first
    cores: frozenset[int] | None = None  # servers and clients may use these only
    burst: int = 1
    pause: float = 0.0  # seconds that a client sleeps before each burst of round trips


class Echo(asyncio.Protocol):
    """Echoes; or, given a next hop, passes on what comes from either side to the other."""

    def __init__(self, hop: int | None) -> None:
        self.hop = hop
        self.other: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        if self.hop is None:
            self.transport.write(data)
        elif self.other is not None:
            self.other.write(data)
        else:
            self.dialling = asyncio.get_running_loop().create_task(self.dial(self.hop, data))

    async def dial(self, port: int, first: bytes) -> None:
        back = Echo(hop=-1)
        back.other = self.transport
        loop = asyncio.get_running_loop()
        self.other, _ = await loop.create_connection(lambda: back, "127.0.0.1", port)
        self.other.write(first)


def serve(make_loop: MakeLoop, pipe: Connection, hop: int | None, cores: frozenset[int] | None) -> None:
    """A server process: tells its port, then its CPU seconds so far whenever asked, until it is killed."""
    if cores:
        os.sched_setaffinity(0, cores)
    loop = make_loop()
    asyncio.set_event_loop(loop)
    server = loop.run_until_complete(loop.create_server(lambda: Echo(hop), "127.0.0.1", 0))
    pipe.send(server.sockets[0].getsockname()[1])

    def asked() -> None:
        pipe.recv()
        used = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send(used.ru_utime + used.ru_stime)

    loop.add_reader(pipe.fileno(), asked)
    loop.run_forever()


class Server:
    """A running server process; with ``relay`` set it passes on to a second one of its kind behind it."""

    def __init__(self, make_loop: MakeLoop, setting: Setting) -> None:
        self.behind = Server(make_loop, replace(setting, relay=False)) if setting.relay else None
        self.pipe, theirs = FORK.Pipe()
        hop = self.behind.port if self.behind else None
        self.process = FORK.Process(target=serve, args=(make_loop, theirs, hop, setting.cores), daemon=True)
        self.process.start()
        theirs.close()
        self.port: int = self.pipe.recv()

    def cpu(self) -> float:
        """CPU seconds used so far."""
        self.pipe.send("cpu")
        used: float = self.pipe.recv()
        return used + (self.behind.cpu() if self.behind else 0.0)

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()
        if self.behind:
            self.behind.close()


def ping(port: int, seconds: float, setting: Setting) -> list[float]:
    """Round trips one at a time; the time of each, in seconds."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def trip() -> float:
            start = time.perf_counter()
            sock.sendall(PAYLOAD)
            sock.recv(len(PAYLOAD))
            return time.perf_counter() - start

        for _ in range(WARM_UP):
            trip()
        times: list[float] = []
        end = time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            if setting.pause:
                time.sleep(setting.pause)
            times += [trip() for _ in range(setting.burst)]
        return times


def pings(port: int, seconds: float, setting: Setting) -> list[list[float]]:
    """The same from as many client processes as the setting says, at a time."""

    def client(pipe: Connection) -> None:
        if setting.cores:
            os.sched_setaffinity(0, setting.cores)
        pipe.send(ping(port, seconds, setting))
        os._exit(0)

    running = []
    for _ in range(setting.clients):
        ours, theirs = FORK.Pipe()
        process = FORK.Process(target=client, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        running.append((process, ours))
    results = [ours.recv() for _, ours in running]
    for process, ours in running:
        process.join()
        ours.close()
    return results


@contextlib.contextmanager
def hogs(cores: set[int]) -> Iterator[None]:
    """One process on each core that never sleeps."""

    def burn(core: int) -> None:
        os.sched_setaffinity(0, {core})
        while True:
            pass

    running = [FORK.Process(target=burn, args=(core,), daemon=True) for core in cores]
    for process in running:
        process.start()
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.join()


def wait_until_quiet(patience: float = 5.0) -> None:
    """Waits until the cores have been idle for a moment, for at most ``patience`` seconds."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        before = idle_ticks()
        time.sleep(0.1)
        ticks = (idle_ticks() - before) / os.sysconf("SC_CLK_TCK")
        if ticks > 0.085 * (os.cpu_count() or 1):
            return


def idle_ticks() -> int:
    return int(Path("/proc/stat").read_text().split(maxsplit=5)[4])


@dataclass
class Row:
    """What one kind of server did in one setting, over all rounds."""

    times: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def measure(kinds: dict[str, MakeLoop], rounds: int, seconds: float, setting: Setting, quiet: bool) -> dict[str, Row]:
    servers = {kind: Server(make, setting) for kind, make in kinds.items()}
    rows = {kind: Row() for kind in kinds}
    try:
        for _ in range(rounds):
            for kind, server in servers.items():
                if quiet:
                    wait_until_quiet()
                before = server.cpu()
                results = pings(server.port, seconds, setting)
                count = sum(map(len, results))
                rows[kind].cpu.append((server.cpu() - before) / count)
                rows[kind].rate.append(count / seconds)
                for times in results:
                    rows[kind].times += times
    finally:
        for server in servers.values():
            server.close()
    return rows


def idle(kinds: dict[str, MakeLoop], seconds: float) -> dict[str, float]:
    """CPU seconds that each server uses in ``seconds`` of silence right after work."""
    setting = Setting()
    servers = {kind: Server(make, setting) for kind, make in kinds.items()}
    try:
        before = {}
        for kind, server in servers.items():
            ping(server.port, 0.05, setting)
            before[kind] = server.cpu()
        time.sleep(seconds)
        return {kind: server.cpu() - before[kind] for kind, server in servers.items()}
    finally:
        for server in servers.values():
            server.close()


def show(title: str, rows: dict[str, Row]) -> None:
    base = statistics.median(rows["stock"].times)
    print(f"\n{title}\n{'':18}{'ratio':>8}{'median':>10}{'p99':>10}{'trips/s':>10}{'CPU/trip':>10}")
    for kind, row in rows.items():
        times = sorted(row.times)
        median = statistics.median(times)
        p99 = times[int(len(times) * 0.99)]
        print(
            f"{kind:18}{median / base:8.2f}{median * 1e6:8.0f}us{p99 * 1e6:8.0f}us"
            f"{statistics.median(row.rate):10.0f}{statistics.median(row.cpu) * 1e6:8.0f}us"
        )
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each round, for each kind")
    parser.add_argument("--spin", type=float, nargs="*", default=[DEFAULT_SPIN * 1e6], help="microseconds")
    parser.add_argument("--only", default="", help="settings whose title has this in it")
    parser.add_argument("--quiet", action="store_true", help="wait for idle cores before each round")
    args = parser.parse_args()

    kinds: dict[str, MakeLoop] = {
        "stock": lambda: asyncio.SelectorEventLoop(selectors.DefaultSelector()),
        "ours, spin off": lambda: new_event_loop(0),
    }
    for spin in args.spin:
        kinds[f"ours, {spin:g} us"] = partial(new_event_loop, spin * 1e-6)
    if uvloop:
        kinds["uvloop"] = uvloop.new_event_loop
    else:
        print("uvloop is not installed: no row for it")

    everywhere = os.sched_getaffinity(0)
    settings = {
        "one client": Setting(),
        "one client, bursts of four every 2 ms": Setting(burst=4, pause=2e-3),
        "three processes: client, relay, server": Setting(relay=True),
        "eight clients": Setting(clients=8),
        "all on one core": Setting(cores=frozenset({min(everywhere)})),
        "a hog on each core": Setting(),
    }
    for title, setting in settings.items():
        if args.only in title:
            hogged = "hog" in title
            with hogs(everywhere if hogged else set()):
                quiet = args.quiet and not hogged
                show(title, measure(kinds, args.rounds, args.seconds, setting, quiet))
    if args.only in "idle":
        print("\nCPU used in 2 s of silence after work")
        for kind, used in idle(kinds, 2.0).items():
            print(f"{kind:18}{used * 1e3:8.2f} ms")


if __name__ == "__main__":
    main()
