"""Bad input against a real server: a clear error, bounded memory, and nothing lost for others.

Around each case two well-behaved clients meet: before it, while it lasts, and after it. In the end the server's
tables are empty, it stops in good order, and its log holds no traceback.
"""

import asyncio
import contextlib
import os
import random
import re
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.drivers.aiokit import Raw, run
from tests.e2e.process import Process
from trunkline.aio import Switchboard
from trunkline.errors import InvalidName, NoSwitchboard
from trunkline.meeting.handshake import COMMIT, DIAL, READY_SIZE
from trunkline.names import Address
from trunkline.wire.codec import PREAMBLE, decode_candidates, encode
from trunkline.wire.limits import MAX_FRAME
from trunkline.wire.messages import (
    Alive,
    AskStatus,
    Goodbye,
    Granted,
    Hello,
    Leaving,
    ListNames,
    Matched,
    Meet,
    Post,
    Refused,
    ServerStatus,
    Welcome,
)

pytestmark = pytest.mark.e2e

HEARTBEAT = 20.0
"""Seconds: nobody here is silent for three of these, however busy the machine; the test of silence has its own."""

GROWTH = 24 * 1024 * 1024
"""Bytes by which the server may grow under any abuse here: its caps allow some MiB, one buffered flood many more."""

ROOT = Path(__file__).resolve().parents[2]


class Server(Process):
    """A switchboard server in a process of its own."""

    def __init__(self, *options: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        argv = [sys.executable, "-m", "trunkline", "switchboard", *options]
        super().__init__(argv, env=environment)

    def wait_until_listening(self) -> Address:
        """Return where it listens."""
        return Address.parse(self.wait_for_line(r"^switchboard(?: \S+)? listens on ([^ ,]+), not secured").group(1))

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return resident(self)

    @property
    def descriptors(self) -> int:
        """How many it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208


def resident(process: Process) -> int:
    """Return how many bytes of memory a process has."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1))  # type: ignore[union-attr]


class Scene:
    """A server, and two clients that behave."""

    def __init__(self, server: Server, address: Address, home: Path, other: Address | None = None) -> None:
        self.server = server
        self.address = address
        self.ann = Switchboard(address, home=home / "ann")
        self.ben = Switchboard(other or address, home=home / "ben")
        self._meetings = 0

    async def meet(self) -> None:
        """Let the two meet under names not used before, and talk."""
        self._meetings += 1
        ann, ben = f"ann {self._meetings}", f"ben {self._meetings}"
        await talk(self.ann.meet(ann, ben, timeout=30), self.ben.meet(ben, ann, timeout=30), ben, ann)

    async def until(self, fits: Callable[[ServerStatus], bool]) -> None:
        """Ask for the server's status until it fits."""
        status = None
        try:
            async with asyncio.timeout(20):
                while not fits(status := await self.ann.status()):
                    pass
        except TimeoutError:
            raise AssertionError(f"the last status was {status}") from None

    async def close(self) -> None:
        await self.ann.close()
        await self.ben.close()


async def talk(one: Awaitable[Any], two: Awaitable[Any], one_peer: str, two_peer: str) -> None:
    """Await both ends of a meeting; each must have the right peer, and be heard by it."""
    (reader1, writer1, peer1), (reader2, writer2, peer2) = await asyncio.gather(one, two)
    assert (peer1.name, peer2.name) == (one_peer, two_peer)
    writer1.write(b"ping")
    assert await reader2.readexactly(4) == b"ping"
    writer2.write(b"pong")
    assert await reader1.readexactly(4) == b"pong"
    for writer in (writer1, writer2):
        writer.close()
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def scene(home: Path, heartbeat: float = HEARTBEAT) -> AsyncIterator[Scene]:
    """A server around which two clients meet before and after the block; see the head of this file."""
    with Server("--listen=127.0.0.1:0", f"--heartbeat={heartbeat}") as server:
        it = Scene(server, server.wait_until_listening(), home)
        await it.meet()
        yield it
        await it.meet()
        await it.until(lambda status: (status.meets, status.posts, status.foreign, status.clients) == (0, 0, 0, 2))
        await it.close()
        assert server.stop() == 0
        assert "Traceback" not in server.stderr


async def last_words(raw: Raw) -> Goodbye:
    """Return the Goodbye that ends a connection."""
    words = None
    while (message := await raw.receive()) is not None:
        words = message
    assert isinstance(words, Goodbye), words
    return words


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


HELLO = PREAMBLE + encode(Hello("bad"))
RID = b"r" * 16


def named(name: object) -> bytes:
    """A Meet as no client of ours would send it: ``name`` may be anything that MessagePack holds."""
    return frame(msgspec.msgpack.encode([11, RID, 1, name, "you", b"", False]))


BROKEN = {
    "http": (b"GET / HTTP/1.1\r\n\r\n", 2, "does not speak Trunkline: it began with b'GET / HT'"),
    "version 2": (b"TRUNK/2\n", 3, "speaks TRUNK/2, this side speaks TRUNK/1"),
    "oversized": (PREAMBLE + (MAX_FRAME + 1).to_bytes(4, "big"), 4, f"exceeds the limit of {MAX_FRAME} bytes"),
    "gigabytes": (HELLO + b"\xff" * 4, 4, f"exceeds the limit of {MAX_FRAME} bytes"),
    "no MessagePack": (HELLO + frame(b"\xc1"), 5, "malformed message"),
    "truncated": (HELLO + frame(encode(AskStatus(1))[4:-1]), 5, "malformed message"),
    "unknown": (HELLO + frame(b"\x91\x63"), 6, "unknown message 99"),
    "number is a list": (HELLO + frame(b"\x91\x91\x01"), 6, "unknown message"),
    "nested": (HELLO + frame(b"\x91" * 60_000), 5, "malformed message"),
    "of a server": (HELLO + encode(Welcome("me", 1, 1.0, ())), 7, "a client may not send Welcome"),
    "of a mate": (HELLO + encode(Granted(b"m" * 8)), 7, "a client may not send Granted"),
    "leaving": (HELLO + encode(Leaving()), 7, "a client may not send Leaving"),
    "no hello": (PREAMBLE + encode(Meet(RID, 1, "a", "b", b"")), 7, "a newcomer may not send Meet"),
    "hello twice": (HELLO + encode(Hello("again")), 7, "a client may not send Hello"),
    "empty name": (HELLO + named(""), 5, "it is empty"),
    "long name": (HELLO + named("x" * 256), 5, "255"),
    "long in bytes": (HELLO + named("ä" * 128), 5, "it has 256 bytes, and the limit is 255"),
    "control character": (HELLO + named("a\x07b"), 5, "it has a control character"),
    "no name": (HELLO + named(7), 5, "malformed message"),
    "not UTF-8": (HELLO + named("?").replace(b"\xa1?", b"\xa1\xff"), 5, "malformed message"),
    "itself": (HELLO + named("you"), 5, "a process can't meet itself"),
    "short id": (HELLO + frame(b"\x93\x0d\xc4\x01r\x01"), 5, "malformed message"),
}


def test_who_breaks_the_protocol_is_told_how(tmp_path: Path) -> None:
    async def main() -> None:
        async with scene(tmp_path) as it:
            for case, (data, code, said) in BROKEN.items():
                raw = await Raw.dial(it.address)
                raw.send_bytes(data)
                words = await last_words(raw)
                assert (case, words.code) == (case, code), words
                assert said in words.text, case
                await raw.close()
            await it.meet()

    run(main)


def test_random_bytes(tmp_path: Path) -> None:
    draw = random.Random(7117)

    async def throw(it: Scene, start: bytes) -> None:
        raw = await Raw.dial(it.address)
        with contextlib.suppress(ConnectionError):
            raw.send_bytes(start + draw.randbytes(draw.randrange(1, 4000)))
            raw.writer.write_eof()
            while await raw.reader.read(65536):
                pass
        await raw.close()

    async def main() -> None:
        async with scene(tmp_path) as it:
            starts = (b"", PREAMBLE, HELLO, HELLO + b"\0\0\0\x10", HELLO + b"\0\0\x01\0\x96\x0b\xc4\x10")
            await asyncio.gather(it.meet(), *(throw(it, start) for start in starts * 40))

    run(main)


def test_names_are_checked_before_anything_is_sent(tmp_path: Path) -> None:
    async def main() -> None:
        async with scene(tmp_path) as it:
            for me, you, said in (
                ("", "b", "it is empty"),
                ("x" * 256, "b", "it has 256 bytes, and the limit is 255"),
                ("a\nb", "b", "it has a control character"),
                ("\udcff", "b", "it is not UTF-8"),
                ("a", "a", "a process can't meet itself"),
            ):
                with pytest.raises(InvalidName, match=said):
                    await it.ann.meet(me, you, timeout=5)

    run(main)


def test_a_hundred_thousand_requests_on_one_connection(tmp_path: Path) -> None:
    number, cap = 100_000, 1024

    async def main() -> None:
        async with scene(tmp_path) as it:
            before = it.server.memory
            greedy = await Raw.hello(it.address)

            async def ask() -> None:
                for i in range(0, number, 100):
                    greedy.send(*(Meet(j.to_bytes(16, "big"), 1, "a", f"b{j}", b"c" * 100) for j in range(i, i + 100)))
                    await greedy.writer.drain()

            asking = asyncio.create_task(ask())
            refused = 0
            while refused < number - cap:
                answer = await greedy.receive()
                if isinstance(answer, Refused):
                    assert answer.text == f"too many requests lodged by one client: the limit is {cap}"
                    refused += 1
                    if refused in (1, 50_000):
                        await it.meet()
                else:
                    assert isinstance(answer, Alive)
            await asking
            assert it.server.memory - before < GROWTH
            await it.meet()
            await greedy.close()

    run(main)


def test_a_client_that_never_reads(tmp_path: Path) -> None:
    async def main() -> None:
        async with scene(tmp_path) as it:
            posts = await Raw.hello(it.address)
            names = [f"{number:03}".ljust(255, "x") for number in range(200)]
            posts.send(*(Post(bytes([number]) * 16, 1, name, b"") for number, name in enumerate(names)))
            await it.until(lambda status: status.posts == 200)
            before = it.server.memory
            deaf = [socket.create_connection((it.address.host, it.address.port)) for _ in range(8)]
            for sock in deaf:
                sock.setblocking(False)
                # Each question is some twenty bytes, each answer fifty thousand.
                with contextlib.suppress(BlockingIOError):
                    sock.send(HELLO + b"".join(encode(ListNames(number, "")) for number in range(3000)))
            await it.meet()
            await it.until(lambda status: status.clients == 3)
            assert it.server.memory - before < GROWTH
            for sock in deaf:
                assert 0 < left_to_read(sock) < GROWTH
                sock.close()
            await posts.close()

    def left_to_read(sock: socket.socket) -> int:
        """Return what the kernel still held of a connection that the server has ended."""
        sock.settimeout(10)
        size = 0
        with contextlib.suppress(ConnectionResetError):
            while data := sock.recv(1 << 20):
                size += len(data)
        return size

    run(main)


def test_silent_and_slow_ones(tmp_path: Path) -> None:
    async def drip(raw: Raw, data: bytes) -> None:
        """Send a byte, wait for the end for a while, and so on."""
        ended = asyncio.create_task(raw.reader.read())
        for at in range(len(data)):
            with contextlib.suppress(ConnectionError):
                raw.send_bytes(data[at : at + 1])
            done, _ = await asyncio.wait([ended], timeout=0.2)
            if done:
                break
        said = await ended
        assert b"nothing was heard for" in said, said
        await raw.close()

    async def main() -> None:
        async with scene(tmp_path, heartbeat=0.5) as it:
            silent, slow, late, stuck = [await Raw.dial(it.address) for _ in range(4)]
            late.send_bytes(HELLO)
            stuck.send_bytes(HELLO + b"\0\0\0\x40")
            await asyncio.gather(
                it.meet(),
                drip(silent, b""),
                drip(slow, PREAMBLE + frame(b"\x92" * 200)),  # longer than the time that it has
                drip(late, b""),
                drip(stuck, b"\x96" * 60),
            )

    run(main)


def test_two_thousand_connections_opened_and_dropped(tmp_path: Path) -> None:
    async def open_and_drop(it: Scene, rudely: bool) -> None:
        raw = await Raw.dial(it.address)
        raw.send_bytes(HELLO[: 4 + rudely * 40] + encode(Meet(RID, 1, "a", "b", b"")) * rudely)
        raw.writer.transport.abort()

    async def main() -> None:
        async with scene(tmp_path) as it:
            before = it.server.memory
            for at in range(0, 2000, 100):
                await asyncio.gather(*(open_and_drop(it, number % 2 == 0) for number in range(at, at + 100)))
                if at == 1000:
                    await it.meet()
            await it.meet()
            assert it.server.memory - before < GROWTH
            await it.until(lambda status: status.clients == 2)
            assert it.server.descriptors < 64

    run(main)


def test_strangers_at_a_passive_listener(tmp_path: Path) -> None:
    async def main() -> None:
        async with scene(tmp_path) as it:
            # Learn where ann listens, as one who is matched with her once may.
            waiting = asyncio.create_task(it.ann.meet("victim", "spy", timeout=30))
            await it.until(lambda status: status.meets == 1)
            spy = await Raw.hello(it.address)
            spy.send(Meet(RID, 1, "spy", "victim", b""))
            while not isinstance(match := await spy.receive(), Matched):
                assert isinstance(match, Alive)
            assert match.active
            at = next(c for c in decode_candidates(match.candidates).at if c.kind == "tcp4")
            listener = Address(at.host, at.port)
            dialled = await Raw.dial(listener)
            dialled.send_bytes(DIAL + match.token + b"\0\0")
            await dialled.reader.readexactly(READY_SIZE)
            dialled.send_bytes(COMMIT)
            _, writer, peer = await waiting
            assert peer.name == "spy"

            waiting = asyncio.create_task(it.ann.meet("victim", "ben", timeout=30))
            await it.until(lambda status: status.meets == 1)
            strangers = [await Raw.dial(listener) for _ in range(5)]
            for stranger, data in zip(
                strangers,
                (
                    b"",
                    b"GET / HTTP/1.1\r\n\r\n",
                    DIAL[:-1] + b"2" + bytes(18),
                    DIAL + match.token + b"\0\0",
                    DIAL + bytes(18),
                ),
                strict=True,
            ):
                stranger.send_bytes(data)
            await it.meet()
            for stranger in strangers[1:]:
                assert await stranger.reader.read() == b"", "a stranger was answered"
            await talk(waiting, it.ben.meet("ben", "victim", timeout=30), "ben", "victim")
            for raw in (*strangers, dialled, spy):
                await raw.close()
            writer.close()
            await writer.wait_closed()

    run(main)


def test_a_server_with_a_taken_id(tmp_path: Path) -> None:
    async def main() -> None:
        async with scene(tmp_path) as it:
            taken = str(it.address)
            with Server("--listen=127.0.0.1:0", f"--id={taken}", f"--join={taken}") as double:
                assert await asyncio.to_thread(double.wait) == 1
                assert f"the name '{taken}' is taken" in double.stderr
                assert "choose another" in double.stderr
                assert "Traceback" not in double.stderr
            await it.meet()

    run(main)


@pytest.fixture
def ports() -> list[int]:
    """Two ports that nobody uses."""
    with socket.socket() as one, socket.socket() as two:
        for sock in (one, two):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", 0))
        return [one.getsockname()[1], two.getsockname()[1]]


def test_a_join_loop(tmp_path: Path, ports: list[int]) -> None:
    """Each server is told to join itself and the other, each by two spellings."""
    one, two = ports
    every = [f"--join={host}:{port}" for host in ("127.0.0.1", "localhost") for port in ports]

    async def main() -> None:
        with (
            Server(f"--listen=127.0.0.1:{one}", *every) as first,
            Server(f"--listen=127.0.0.1:{two}", *every) as second,
        ):
            it = Scene(first, first.wait_until_listening(), tmp_path, second.wait_until_listening())
            await it.meet()
            for asked, mate in ((it.ann, two), (it.ben, one)):
                async with asyncio.timeout(10):
                    while [m.address for m in (await asked.status()).connected] != [f"127.0.0.1:{mate}"]:
                        pass
                assert (await asked.status()).missing == ()
            for _ in range(20):
                await it.meet()
            await it.until(lambda status: (status.meets, status.foreign) == (0, 0))
            await it.close()
            for server in (first, second):
                assert server.stop() == 0
                assert "Traceback" not in server.stderr
                # It settles: whoever found itself, or a mate that it has, does not try again and again.
                assert server.stderr.count("server joined") <= 4, server.stderr

    run(main)


def test_no_room_for_the_host_list(tmp_path: Path, ports: list[int], caplog: pytest.LogCaptureFixture) -> None:
    """The list can't be written for want of space, or because something else has its name; meetings go on."""
    full, blocked = tmp_path / "full", tmp_path / "blocked"
    full.mkdir()
    (full / f".switchboards.{os.getpid()}").symlink_to("/dev/full")
    (blocked / "switchboards").mkdir(parents=True)

    async def main() -> None:
        async with scene(tmp_path) as it:
            servers = (Address("127.0.0.1", ports[0]), it.address)  # the first is dead: so the list must change
            async with Switchboard(servers, home=full) as one, Switchboard(servers, home=blocked) as two:
                for number in range(3):
                    me, you = f"c{number}", f"d{number}"
                    await talk(one.meet(me, you, timeout=30), two.meet(you, me, timeout=30), you, me)
            await it.meet()

    run(main)
    warnings = [record.getMessage() for record in caplog.records if "host list" in record.getMessage()]
    assert len(warnings) == 2, "each is warned of once"
    assert any("No space left on device" in warning for warning in warnings), warnings
    assert any("Is a directory" in warning for warning in warnings), warnings
    assert not (full / "switchboards").exists()


def test_no_server_at_all(tmp_path: Path, ports: list[int]) -> None:
    async def main() -> None:
        tried = [f"127.0.0.1:{port}" for port in ports]
        async with Switchboard(tried, home=tmp_path) as nobody:
            with pytest.raises(NoSwitchboard) as raised:
                await nobody.meet("a", "b", timeout=30)
            text = str(raised.value)
            assert all(f"{address}: connection refused" in text for address in tried), text
            assert "trunkline up" in text
        async with scene(tmp_path):
            pass

    run(main)
