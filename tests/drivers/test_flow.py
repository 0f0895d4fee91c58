import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from trunkline.drivers import flow
from trunkline.drivers.flow import MAX_PIPES, SCRATCH_BYTES, Flow, Pool, Side


def run(main: Callable[[Pool], Coroutine[object, object, None]]) -> None:
    """Run it with a pool, and see that no descriptor stays open."""

    async def guarded() -> None:
        pool = Pool.hold(asyncio.get_running_loop())
        try:
            async with asyncio.timeout(30):
                await main(pool)
        finally:
            pool.release()

    before = descriptors()
    asyncio.run(guarded())
    assert descriptors() == before


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


async def copy(pool: Pool, source: int, destination: int) -> Flow:
    """Run a flow to its end."""
    ended: asyncio.Future[Flow] = asyncio.get_running_loop().create_future()
    one = Flow(pool, source, destination, ended.set_result)
    one.start()
    try:
        return await ended
    finally:
        one.close()


def test_one_pool_for_a_loop_while_somebody_holds_it() -> None:
    async def main(pool: Pool) -> None:
        loop = asyncio.get_running_loop()
        assert Pool.hold(loop) is pool
        pool.release()
        assert Pool.hold(loop) is pool
        pool.release()

    run(main)


def test_pipes_are_lent_up_to_the_limit_and_reused() -> None:
    async def main(pool: Pool) -> None:
        lent = [pool.lend() for _ in range(MAX_PIPES)]
        assert pool.lend() is None
        first = lent[0]
        assert first is not None
        pool.give_back(first, empty=True)
        assert pool.lend() == first
        for pipe in lent:
            assert pipe is not None
            pool.give_back(pipe, empty=False)
        assert pool._free == []  # a pipe with bytes in it is never lent again

    run(main)


def test_without_descriptors_or_with_small_pipes_only_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    async def main(pool: Pool) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(flow.fcntl, "fcntl", refuse)
            pipe = pool.lend()
            assert pipe is not None
            pool.give_back(pipe, empty=False)
        with monkeypatch.context() as patch:
            patch.setattr(flow.os, "pipe2", refuse)
            assert pool.lend() is None

    run(main)


def test_a_file_is_read_although_epoll_refuses_it(tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    (tmp_path / "from").write_bytes(data)

    async def main(pool: Pool) -> None:
        with (tmp_path / "from").open("rb") as source, (tmp_path / "to").open("wb") as destination:
            done = await copy(pool, source.fileno(), destination.fileno())
        assert (done.moved, done.error) == (len(data), None)
        assert (tmp_path / "to").read_bytes() == data

    run(main)


def test_a_destination_that_cannot_be_spliced_to_gets_every_byte(tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    (tmp_path / "from").write_bytes(data)
    (tmp_path / "to").write_bytes(b"before ")

    async def main(pool: Pool) -> None:
        with (tmp_path / "from").open("rb") as source, (tmp_path / "to").open("ab") as destination:
            done = await copy(pool, source.fileno(), destination.fileno())
        assert not done.spliceable
        assert (done.moved, done.error) == (len(data), None)
        assert (tmp_path / "to").read_bytes() == b"before " + data

    run(main)


def test_a_source_that_cannot_be_spliced_from_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EINVAL, "invalid argument")

    data = os.urandom(1_000_001)

    async def main(pool: Pool) -> None:
        monkeypatch.setattr(flow.os, "splice", refuse)
        one, two = socket.socketpair()
        three, four = socket.socketpair()
        with one, two, three, four:
            for sock in (one, two, three, four):
                sock.setblocking(False)
            copying = asyncio.create_task(copy(pool, two.fileno(), three.fileno()))
            loop = asyncio.get_running_loop()
            sending = asyncio.create_task(loop.sock_sendall(one, data))
            taken = bytearray()
            while len(taken) < len(data):
                taken += await loop.sock_recv(four, 1 << 16)
            await sending
            one.close()
            assert (await copying).moved == len(data)
            assert taken == data

    run(main)


def test_when_all_pipes_are_lent_the_buffer_serves() -> None:
    async def main(pool: Pool) -> None:
        lent = [pool.lend() for _ in range(MAX_PIPES)]
        one, two = socket.socketpair()
        read_end, write_end = os.pipe2(os.O_NONBLOCK)
        with one, two:
            one.setblocking(False)
            two.setblocking(False)
            one.send(b"x" * SCRATCH_BYTES)
            one.send(b"y" * 100_000)
            one.close()
            copying = asyncio.create_task(copy(pool, two.fileno(), write_end))
            taken = bytearray()
            while not copying.done():
                await asyncio.sleep(0)
                try:
                    taken += os.read(read_end, 1 << 16)
                except BlockingIOError:
                    continue
            assert (await copying).moved == len(taken) == SCRATCH_BYTES + 100_000
        os.close(read_end)
        os.close(write_end)
        for pipe in lent:
            assert pipe is not None
            pool.give_back(pipe, empty=True)

    run(main)


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_an_error_names_its_side(size: int) -> None:
    async def main(pool: Pool) -> None:
        one, two = socket.socketpair()
        read_end, write_end = os.pipe2(os.O_NONBLOCK)
        os.close(read_end)
        with one, two:
            one.setblocking(False)
            two.setblocking(False)
            one.send(b"x" * size)
            done = await copy(pool, two.fileno(), write_end)
            assert done.failed_side is Side.DESTINATION
            assert isinstance(done.error, BrokenPipeError)
        os.close(write_end)

    run(main)


def test_an_error_of_the_source() -> None:
    async def main(pool: Pool) -> None:
        one, two = socket.socketpair()
        three, four = socket.socketpair()
        with one, two, three, four:
            two.setblocking(False)
            two.send(b"unread")
            one.close()  # with bytes unread: the other end is reset
            done = await copy(pool, two.fileno(), three.fileno())
            assert done.failed_side is Side.SOURCE
            assert isinstance(done.error, ConnectionResetError)
            done.close()  # nothing happens the second time

    run(main)
