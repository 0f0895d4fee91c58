"""How long a warm `meet` with a post takes, one at a time: from the name to the first byte echoed.

Beside it, if redis-server is installed, the usual home-made rendezvous: the client pushes the name of its reply list,
the acceptor pops it and pushes its address, the client connects by TCP. It speaks to Redis by the usual library if that
is installed (redis), else by a few lines of its own, which cost about half as much. And plain connects to a known
address, as the floor.

All servers are up side by side; the kinds take turns in short rounds, so that noise on the machine meets all alike.

    python benchmarks/meet.py [--rounds N] [--meets N] [--threads N]
"""

import argparse
import contextlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import trunkline

try:
    import redis
except ImportError:
    redis = None

SERVER = """
import sys
from trunkline.drivers.selector import run
from trunkline.drivers.server_aio import SwitchboardServer
from trunkline.names import Address
from trunkline.switchboard.config import ServerConfig
async def main():
    async with SwitchboardServer(ServerConfig(id="", address=Address("127.0.0.1", 0))) as server:
        print(server.address, flush=True)
        await server.serve_forever()
run(main())
"""
Call = Callable[[], None]


def echo(conn: socket.socket) -> None:
    with conn:
        conn.sendall(conn.recv(1))


def call(conn: socket.socket) -> None:
    with conn:
        conn.sendall(b"x")
        assert conn.recv(1) == b"x"


class Lean:
    """As much of a Redis client as this needs."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = self.sock.makefile("rb")

    def rpush(self, key: str, value: str) -> None:
        self.ask("RPUSH", key, value)

    def blpop(self, key: str) -> str:
        return self.ask("BLPOP", key, "0")

    def ask(self, *words: str) -> str:
        parts = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        self.sock.sendall(f"*{len(words)}\r\n{parts}".encode())
        return self.answer()

    def answer(self) -> str:
        line = self.stream.readline().decode().strip()
        if line[0] == "*":
            return [self.answer() for _ in range(int(line[1:]))][-1]
        if line[0] == "$":
            return self.stream.read(int(line[1:]) + 2)[:-2].decode()
        return line[1:]


class Library:
    """The usual client library."""

    def __init__(self, port: int) -> None:
        self.redis = redis.Redis(port=port)

    def rpush(self, key: str, value: str) -> None:
        self.redis.rpush(key, value)

    def blpop(self, key: str) -> str:
        return self.redis.blpop(key)[1].decode()


def connect_redis(port: int) -> Lean | Library:
    return Lean(port) if redis is None else Library(port)


@contextlib.contextmanager
def process(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a program, and end it."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.terminate()


def acceptor(kind: str, where: str, home: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """Start this script's other half; it prints a line once it accepts."""
    return process([sys.executable, __file__, "--accept", kind, where, home])


def accept(kind: str, where: str, home: str) -> None:
    """Be the other half: echo a byte to everybody, for ever."""
    if kind == "trunkline":
        with trunkline.Switchboard(where, home=home) as board, board.post("service", backlog=1024) as post:
            print("ready", flush=True)
            for conn in post:
                echo(conn)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port = str(listener.getsockname()[1])
    if kind == "redis":
        client = connect_redis(int(where))

        def serve() -> None:
            while True:
                client.rpush(client.blpop("service"), port)

        threading.Thread(target=serve, daemon=True).start()
    print(port, flush=True)
    while True:
        echo(listener.accept()[0])


def measure(calls: list[Call], meets: int) -> list[float]:
    """Return the seconds of each of ``meets`` calls, by as many threads as there are ``calls``."""
    took: list[float] = []

    def go(one: Call) -> None:
        for _ in range(meets // len(calls)):
            start = time.perf_counter()
            one()
            took.append(time.perf_counter() - start)

    if len(calls) == 1:
        go(calls[0])
        return took
    threads = [threading.Thread(target=go, args=(one,)) for one in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


def free_port() -> int:
    """Return a port that is free at this moment; Redis can't say which it took."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def kinds(stack: contextlib.ExitStack, home: str, threads: int) -> dict[str, list[Call]]:
    """Start everything and return what to measure: for each kind, a call for each thread."""
    server = stack.enter_context(process([sys.executable, "-c", SERVER]))
    where = server.stdout.readline().strip()
    stack.enter_context(acceptor("trunkline", where, home)).stdout.readline()
    board = stack.enter_context(trunkline.Switchboard(where, home=home))
    found: dict[str, list[Call]] = {
        "trunkline": [lambda me=f"client{n}": call(board.meet(me, "service")) for n in range(threads)]
    }
    program = shutil.which("redis-server")
    if program is None:
        print("redis-server is not installed: nothing to compare with (apt-get install redis-server)")
    else:
        port = free_port()
        command = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--daemonize", "no"]
        started = stack.enter_context(process(command))
        while "Ready to accept" not in started.stdout.readline():
            pass
        stack.enter_context(acceptor("redis", str(port), home)).stdout.readline()

        def rendezvous(client: Lean | Library, key: str) -> None:
            client.rpush("service", key)
            call(socket.create_connection(("127.0.0.1", int(client.blpop(key)))))

        found["redis"] = [partial(rendezvous, connect_redis(port), f"reply{n}") for n in range(threads)]
    port = int(stack.enter_context(acceptor("tcp", "", home)).stdout.readline())
    found["known address"] = [lambda: call(socket.create_connection(("127.0.0.1", port)))] * threads
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--meets", type=int, default=500, help="of each kind in each round")
    parser.add_argument("--threads", type=int, default=1, help="that meet at the same time")
    parser.add_argument("--accept", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.accept:
        accept(*options.accept)
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        calls = kinds(stack, home, options.threads)
        medians: dict[str, list[float]] = {kind: [] for kind in calls}
        rates: dict[str, list[float]] = {kind: [] for kind in calls}
        for each in calls.values():
            measure(each, 100 * options.threads)  # warm
        for _ in range(options.rounds):
            for kind, each in calls.items():
                start = time.perf_counter()
                took = measure(each, options.meets)
                rates[kind].append(len(took) / (time.perf_counter() - start))
                medians[kind].append(statistics.median(took))
    print(f"{options.threads} at a time; median of {options.rounds} rounds of {options.meets}")
    base = medians.get("redis")
    for kind in calls:
        ratio = ""
        if base and kind != "redis":
            each = [mine / theirs for mine, theirs in zip(medians[kind], base, strict=True)]
            ratio = f"   {statistics.median(each):.2f} x redis"
        micro = statistics.median(medians[kind]) * 1e6
        print(f"{kind:15} {micro:7.0f} us   {statistics.median(rates[kind]):7.0f} a second{ratio}")


if __name__ == "__main__":
    main()
