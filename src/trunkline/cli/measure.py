"""What `bench` measures: meetings and a stream between real processes; messages in the simulator's worlds."""

import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from trunkline.errors import TrunklineError

if TYPE_CHECKING:
    from trunkline.aio import Switchboard

NAME: Final = "bench/echo"
WARM_UP: Final = 50
"""Meetings that are made before any is measured."""

CHUNK: Final = 1 << 20
"""Bytes that are read or written at once on the stream."""

FORMING: Final = 60.0
"""Seconds of its own time that a simulated mesh has to form, and a meeting to be made."""


class Meetings(NamedTuple):
    """Times from the call of `meet` to the first byte echoed, in seconds."""

    at_once: int
    meetings: int
    rate: float
    """Meetings a second."""
    p50: float
    p99: float


class Messages(NamedTuple):
    """Messages that one connection takes, against the budget (docs/design.md section 4)."""

    case: str
    servers: int
    messages: int
    budget: int


class Stream(NamedTuple):
    """Bytes a second."""

    straight: float
    relayed: float


class Programs:
    """The processes of a measurement, with a home of their own."""

    def __init__(self, home: Path, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._environment = os.environ | {"TRUNKLINE_HOME": str(home)}
        self._environment.pop("TRUNKLINE_SWITCHBOARDS", None)

    def server(self, spin: float) -> str:
        """Start a switchboard server, and return its address."""
        said = self.start("-m", "trunkline", "switchboard", "--listen", "127.0.0.1:0", "--json", "--spin", str(spin))
        self._environment["TRUNKLINE_SWITCHBOARDS"] = said["address"]
        return str(said["address"])

    def start(self, *argv: str) -> Any:
        """Start a Python program, and return what it says as JSON when it is ready; it ends with the measurement.

        Raises:
            TrunklineError: it ended instead.
        """
        process = subprocess.Popen(  # noqa: S603 - our own programs
            [sys.executable, *argv],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._stack.callback(_end, process)
        assert process.stdout is not None, "we asked for it"
        line = process.stdout.readline()
        if not line:
            raise TrunklineError(f"a program of the measurement ended at once: {' '.join(argv)}")
        return json.loads(line)

    def part(self, name: str) -> Any:
        """Start one of the programs at the end of this file."""
        return self.start("-c", f"from trunkline.cli import measure; measure.{name}()")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.communicate()


# ---- meetings ---------------------------------------------------------------------------------------------------


async def meetings(address: str, count: int, at_once: Sequence[int]) -> list[Meetings]:
    """Measure meetings with a post in another process, over one warm connection to the server."""
    from trunkline.aio import Switchboard

    async with Switchboard(address) as switchboard:
        for number in range(WARM_UP):
            await _meet_once(switchboard, f"warm-{number}")
        return [await _meet_many(switchboard, count, width) for width in at_once]


async def _meet_many(switchboard: "Switchboard", count: int, width: int) -> Meetings:
    times: list[float] = []
    left = iter(range(count))

    async def worker() -> None:
        for number in left:
            seconds = await _meet_once(switchboard, f"bench-{width}-{number}")
            times.append(seconds)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(width)))
    rate = count / (time.perf_counter() - began)
    cuts = statistics.quantiles(times, n=100)
    return Meetings(width, count, rate, statistics.median(times), cuts[98])


async def _meet_once(switchboard: "Switchboard", me: str) -> float:
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    with await switchboard.meet_socket(me, NAME, timeout=30) as conn:
        conn.send(b"x")  # there is room for one byte
        await loop.sock_recv(conn, 1)
        return time.perf_counter() - began


# ---- messages ---------------------------------------------------------------------------------------------------


def messages(servers: Sequence[int]) -> list[Messages]:
    """Count the messages of one connection in meshes of several sizes, without faults."""
    from trunkline.sim.worlds import Want

    a, b, p, to_p = Want("a", "b"), Want("b", "a"), Want("p"), Want("a", "p")
    found = []
    for n in servers:
        others = n - 1
        found.append(Messages("one waits, the other comes", n, _count(n, a, b), 6 + 2 * others if others else 4))
        found.append(Messages("both come at once", n, _count(n, a, b, race=True), 6 + 3 * others if others else 4))
        found.append(Messages("with a post that is known", n, _count(n, p, to_p, first=False), 6))
    return found


def _count(servers: int, *wants: Any, race: bool = False, first: bool = True) -> int:
    """Return how many messages a connection took; without those of the first request, if ``first`` is false."""
    from trunkline.sim.engine import Memo
    from trunkline.sim.world import World, settle
    from trunkline.sim.worlds import ClientSpec, Spec

    order = tuple(range(servers))
    homes = (order, order[::-1])  # as far apart as they can be
    clients = tuple(ClientSpec(home, (want,)) for home, want in zip(homes, wants, strict=True))
    spec = Spec(name="bench", about="", servers=servers, clients=clients, counting=True)
    world = World(spec, Memo(spec, None))

    def go_on() -> None:
        settle(world, world.now + FORMING)
        world.now += FORMING

    for site in order:
        world.begin(site)
    go_on()
    world.count = 0
    world.begin(servers)
    if not race:
        go_on()
    if not first:
        world.count = 0
    world.begin(servers + 1)
    go_on()
    return int(world.count)


# ---- the stream -------------------------------------------------------------------------------------------------


def stream(programs: Programs, seconds: float) -> Stream:
    """Measure one TCP stream from another process: straight over loopback, then through `reach` and `expose`."""
    source = programs.part("source")
    programs.start("-m", "trunkline", "expose", "bench/source", f"tcp:127.0.0.1:{source}", "--json")
    reached = programs.start("-m", "trunkline", "reach", "bench/source", "--listen", "127.0.0.1:0", "--json")
    here = int(reached["listen"].rpartition(":")[2])
    return Stream(_drink(source, seconds), _drink(here, seconds))


def _drink(port: int, seconds: float) -> float:
    buffer = bytearray(CHUNK)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as conn:
        conn.recv_into(buffer)  # the way is open
        taken, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds:
            taken += conn.recv_into(buffer)
    return taken / spent


# ---- the other processes ----------------------------------------------------------------------------------------


def source() -> None:
    """Give zeros to whoever connects, for as long as they take them."""
    zeros = bytes(CHUNK)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            conn, _ = listener.accept()
            with conn, contextlib.suppress(OSError):
                while True:
                    conn.sendall(zeros)


def echo() -> None:
    """Post the name, and give back the first byte of each connection."""
    from trunkline.cli.common import run_service

    run_service(_echo())


async def _echo() -> None:
    from trunkline.aio import Switchboard

    loop = asyncio.get_running_loop()
    async with Switchboard() as switchboard, switchboard.post(NAME) as post, asyncio.TaskGroup() as tasks:
        print("true", flush=True)

        async def answer(conn: socket.socket) -> None:
            with conn, contextlib.suppress(OSError):
                await loop.sock_sendall(conn, await loop.sock_recv(conn, 1))

        while True:
            tasks.create_task(answer(await post.accept_socket()))


@contextlib.contextmanager
def running() -> Iterator[Programs]:
    """Give a place to start programs in; they end with the block."""
    import tempfile

    with contextlib.ExitStack() as stack:
        yield Programs(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trunkline-bench-"))), stack)
