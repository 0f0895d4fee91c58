import asyncio
import contextlib
import gc
import hashlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.drivers import flow, splice
from trunkline.drivers.splice import Joined, join
from trunkline.errors import LocalError

KINDS = ["tcp", "unix"]


def pair(kind: str) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets; the first is the user's end, the second goes to join()."""
    if kind == "unix":
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
    ours.setblocking(False)
    return ours, theirs


class World:
    """left <-> join <-> right."""

    def __init__(self, left_kind: str, right_kind: str, idle_timeout: float | None = None) -> None:
        self.left, a = pair(left_kind)
        self.right, b = pair(right_kind)
        self.ends = (a, b)
        self.task = asyncio.create_task(join(a, b, idle_timeout=idle_timeout))


@contextlib.asynccontextmanager
async def world(
    left_kind: str = "tcp", right_kind: str = "tcp", idle_timeout: float | None = None
) -> AsyncIterator[World]:
    made = World(left_kind, right_kind, idle_timeout)
    try:
        yield made
    finally:
        made.left.close()
        made.right.close()
        made.task.cancel()
        await asyncio.gather(made.task, return_exceptions=True)


def run(main: Callable[[], Coroutine[object, object, None]]) -> None:
    """Run it, and see that no descriptor stays open."""

    async def guarded() -> None:
        async with asyncio.timeout(60):
            await main()

    gc.collect()
    before = descriptors()
    asyncio.run(guarded())
    assert descriptors() == before


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


async def send(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


async def receive(sock: socket.socket, limit: int = 1 << 16) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, limit)


async def read_all(sock: socket.socket) -> bytes:
    parts = []
    while data := await receive(sock):
        parts.append(data)
    return b"".join(parts)


async def send_until_refused(sock: socket.socket) -> None:
    while True:
        await send(sock, b"x" * 1000)


async def readable(sock: socket.socket) -> None:
    loop, seen = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, seen.set)
    await seen.wait()
    loop.remove_reader(sock)


async def fill(sock: socket.socket) -> int:
    """Write until nothing is taken for many loop turns, in which the join has its own turns."""
    sent, refused = 0, 0
    while refused < 200:
        try:
            sent += sock.send(b"x" * 65536)
            refused = 0
        except BlockingIOError:
            refused += 1
        await asyncio.sleep(0)
    return sent


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("left", KINDS)
@pytest.mark.parametrize("right", KINDS)
def test_both_ways_and_half_close_either_way(left: str, right: str) -> None:
    async def main() -> None:
        async with world(left, right) as w:
            await send(w.left, b"question")
            assert await receive(w.right) == b"question"
            w.left.shutdown(socket.SHUT_WR)
            assert await receive(w.right) == b""
            await send(w.right, b"a long answer")
            assert await receive(w.left) == b"a long answer"
            w.right.shutdown(socket.SHUT_WR)
            assert await receive(w.left) == b""
            assert await w.task == Joined(8, 13, None)
        async with world(left, right) as w:
            w.right.shutdown(socket.SHUT_WR)
            assert await receive(w.left) == b""
            await send(w.left, b"late")
            w.left.shutdown(socket.SHUT_WR)
            assert await read_all(w.right) == b"late"
            assert await w.task == Joined(4, 0, None)

    run(main)


def test_ping_pong_byte_by_byte() -> None:
    async def main() -> None:
        async with world("tcp", "unix") as w:
            for number in range(300):
                byte = bytes([number % 256])
                await send(w.left, byte)
                assert await receive(w.right) == byte
                await send(w.right, byte)
                assert await receive(w.left) == byte

    run(main)


@pytest.mark.parametrize(("left", "right"), [("tcp", "tcp"), ("unix", "tcp"), ("tcp", "unix")])
@pytest.mark.parametrize("spliced", [True, False])
def test_64_mb_both_ways_at_once(left: str, right: str, spliced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "CAN_SPLICE", spliced and flow.CAN_SPLICE)
    block = random.Random(1).randbytes(1 << 20)
    wanted = hashlib.sha256()
    for number in range(64):
        wanted.update(block[number:])

    async def talk(sock: socket.socket) -> str:
        async def produce() -> None:
            for number in range(64):
                await send(sock, block[number:])
            sock.shutdown(socket.SHUT_WR)

        producing = asyncio.create_task(produce())
        digest = hashlib.sha256()
        while data := await receive(sock, 1 << 20):
            digest.update(data)
        await producing
        return digest.hexdigest()

    async def main() -> None:
        async with world(left, right) as w:
            assert await asyncio.gather(talk(w.left), talk(w.right)) == [wanted.hexdigest()] * 2
            size = sum(len(block) - number for number in range(64))
            assert await w.task == Joined(size, size, None)

    run(main)


@pytest.mark.parametrize("kind", KINDS)
def test_a_slow_reader_stops_the_writer_and_misses_nothing(kind: str) -> None:
    async def main() -> None:
        async with world(kind, kind) as w:
            sent = await fill(w.left)
            # Bounded: four socket buffers and one pipe. The kernel lets a TCP buffer grow to some megabytes.
            assert sent < 64 << 20
            w.left.shutdown(socket.SHUT_WR)
            w.right.shutdown(socket.SHUT_WR)
            taken = 0
            while data := await receive(w.right, 4096 if taken < 1 << 20 else 1 << 20):
                taken += len(data)
            assert taken == sent
            assert await w.task == Joined(sent, 0, None)

    run(main)


def test_a_reset_reaches_the_other_side_as_a_reset() -> None:
    async def main() -> None:
        for from_left in (True, False):
            async with world() as w:
                near, far = (w.left, w.right) if from_left else (w.right, w.left)
                await send(near, b"half of it")
                assert await receive(far) == b"half of it"
                reset(near)
                with pytest.raises(ConnectionResetError):
                    await receive(far)
                assert isinstance((await w.task).error, ConnectionResetError)

    run(main)


def test_a_reset_ends_a_pair_that_waits_for_a_reader() -> None:
    async def main() -> None:
        async with world() as w:
            await fill(w.left)
            reset(w.left)
            assert isinstance((await w.task).error, ConnectionResetError)

    run(main)


def test_a_reset_after_end_of_file_ends_the_pair() -> None:
    async def main() -> None:
        async with world() as w:
            w.left.shutdown(socket.SHUT_WR)
            assert await receive(w.right) == b""
            reset(w.left)
            assert isinstance((await w.task).error, OSError)
            # After an end of file the kernel shows a reset to writers only.
            with pytest.raises(ConnectionError):
                await send(w.right, b"x")

    run(main)


def test_a_side_that_left_is_an_error_for_what_still_comes() -> None:
    async def main() -> None:
        for kind in KINDS:
            async with world("tcp", kind) as w:
                w.right.close()
                assert await receive(w.left) == b""
                with pytest.raises(ConnectionError):
                    await send_until_refused(w.left)
                assert isinstance((await w.task).error, ConnectionError)

    run(main)


def test_a_unix_peer_that_leaves_unread_bytes_is_seen_while_blocked() -> None:
    async def main() -> None:
        async with world("unix", "tcp") as w:
            await send(w.right, b"never read")
            await readable(w.left)
            await fill(w.left)
            w.left.close()
            assert isinstance((await w.task).error, ConnectionResetError)

    run(main)


@pytest.mark.parametrize("blocked", [False, True])
def test_cancelled_it_resets_both_sides(blocked: bool) -> None:
    async def main() -> None:
        async with world() as w:
            if blocked:
                await fill(w.left)
            else:
                await send(w.left, b"hello")
                assert await receive(w.right) == b"hello"
            w.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await w.task
            with pytest.raises(ConnectionResetError):
                await read_all(w.left)
            with pytest.raises(ConnectionResetError):
                await read_all(w.right)
            assert all(sock.fileno() == -1 for sock in w.ends)

    run(main)


def test_cancelled_while_both_sides_end_it_says_nothing() -> None:
    async def main() -> None:
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with world() as w:
            await send(w.left, b"x")
            assert await receive(w.right) == b"x"
            w.left.close()
            w.right.close()
            w.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await w.task
        assert complaints == []

    run(main)


def test_idle_for_too_long_it_ends_with_a_timeout() -> None:
    async def main() -> None:
        async with world(idle_timeout=0.05) as w:
            await send(w.left, b"hello")
            joined = await w.task
            assert isinstance(joined.error, TimeoutError)
            assert joined.a_to_b == 5
            with pytest.raises(ConnectionResetError):
                await read_all(w.right)
        async with world(idle_timeout=60) as w:
            w.left.close()
            w.right.close()
            assert (await w.task).error is None

    run(main)


def test_the_idle_timer_counts_from_the_last_byte() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        real_time, ahead = loop.time, 0.0
        loop.time = lambda: real_time() + ahead  # type: ignore[method-assign]

        async def turns() -> None:
            for _ in range(10):
                await asyncio.sleep(0)

        async with world(idle_timeout=1000) as w:
            await turns()
            ahead = 600.0
            await send(w.left, b"x")
            assert await receive(w.right) == b"x"
            ahead = 1200.0
            await turns()
            assert not w.task.done()
            ahead = 2000.0
            assert isinstance((await w.task).error, TimeoutError)

    asyncio.run(main())  # run() has a deadline by the clock that is moved here


def test_500_pairs_at_once_hold_no_pipe_when_idle() -> None:
    async def talk(number: int) -> None:
        async with world("unix", "tcp" if number % 10 == 0 else "unix") as w:
            data = random.Random(number).randbytes(200_000)
            sending = asyncio.create_task(send(w.left, data))
            taken = bytearray()
            while len(taken) < len(data):
                taken += await receive(w.right)
            await sending
            assert taken == data
            at_rest.append(number)
            if len(at_rest) == 500:
                pool = flow._pools[asyncio.get_running_loop()]
                assert pool._lent == 0
                assert len(pool._free) <= flow.MAX_PIPES
                everybody.set()
            await everybody.wait()
            w.left.close()
            w.right.close()
            assert (await w.task).error is None

    at_rest: list[int] = []
    everybody = asyncio.Event()

    async def main() -> None:
        await asyncio.gather(*(talk(number) for number in range(500)))

    run(main)


def test_what_cannot_be_joined_is_refused_and_closed() -> None:
    async def refused(a: socket.socket, b: socket.socket, error: type[Exception]) -> None:
        with pytest.raises(error):
            await join(a, b)
        assert a.fileno() == b.fileno() == -1

    async def main() -> None:
        one, two = socket.socketpair()
        await refused(one, one, LocalError)
        two.close()

    run(main)


def test_a_pair_that_is_gone_before_it_starts_is_an_error() -> None:
    async def main() -> None:
        async with world() as w:
            reset(w.left)
            w.right.shutdown(socket.SHUT_WR)
            assert isinstance((await w.task).error, OSError)

    run(main)


CHUNKS = st.lists(st.integers(1, 200_000), max_size=8)
ENDINGS = st.sampled_from(["close", "half", "reset"])


async def _play(sock: socket.socket, chunks: list[int], ending: str, seed: int) -> tuple[bytes, bytes, bool]:
    """Return what was sent, what came, and whether it ended without an error."""
    source = random.Random(seed)
    sent = b"".join(source.randbytes(size) for size in chunks)
    came = bytearray()

    async def produce() -> None:
        offset = 0
        for size in chunks:
            await send(sock, sent[offset : offset + size])
            offset += size
        if ending != "reset":
            sock.shutdown(socket.SHUT_WR)

    async def consume() -> None:
        while data := await receive(sock):
            came.extend(data)

    if ending == "reset":
        with contextlib.suppress(OSError):
            await produce()
        reset(sock)
        return sent, b"", False
    producing, consuming = asyncio.create_task(produce()), asyncio.create_task(consume())
    results = await asyncio.gather(producing, consuming, return_exceptions=True)
    assert all(result is None or isinstance(result, OSError) for result in results), results
    if ending == "close":
        sock.close()
    return sent, bytes(came), results == [None, None]


@settings(max_examples=60, deadline=None)
@given(CHUNKS, CHUNKS, ENDINGS, ENDINGS, st.sampled_from(KINDS), st.sampled_from(KINDS))
def test_whatever_is_sent_arrives_or_an_error_shows(
    left: list[int], right: list[int], left_ends: str, right_ends: str, left_kind: str, right_kind: str
) -> None:
    async def main() -> None:
        async with world(left_kind, right_kind) as w:
            (sent_l, came_l, clean_l), (sent_r, came_r, clean_r) = await asyncio.gather(
                _play(w.left, left, left_ends, 1), _play(w.right, right, right_ends, 2)
            )
            joined = await w.task
            assert sent_l.startswith(came_r)
            assert sent_r.startswith(came_l)
            if "reset" not in (left_ends, right_ends):
                assert (came_r, came_l) == (sent_l, sent_r)
                assert joined == Joined(len(sent_l), len(sent_r), None)
                assert clean_l
                assert clean_r
            elif "tcp" == left_kind == right_kind and left_ends == "reset" != right_ends:
                # A Unix socket has no reset to send or to pass on; TCP has.
                assert not clean_r or came_r == sent_l
                assert joined.error is not None or not clean_r

    run(main)


def test_errors_without_a_code_are_named() -> None:
    one, two = socket.socketpair()
    with one, two:
        assert isinstance(splice.pending_error(one), ConnectionResetError)
