import asyncio
import gc
import socket

import pytest

from tests.drivers.aiokit import LOOPS, run
from trunkline.drivers.sockets import Connection
from trunkline.drivers.streams_aio import streams, streams_at_once
from trunkline.names import Peer

BOB = Peer("bob")


def connected() -> tuple[Connection, socket.socket]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    return Connection.adopt(near, BOB), far


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("at_once", [True, False])
def test_streams_carry_bytes_and_the_peer(at_once: bool, loop: type[asyncio.SelectorEventLoop]) -> None:
    async def main() -> None:
        conn, far = connected()
        made = streams_at_once(conn) if at_once else await streams(conn)
        assert made is not None
        reader, writer = made
        with far:
            writer.write(b"hello")
            await writer.drain()
            assert await asyncio.get_running_loop().sock_recv(far, 9) == b"hello"
            far.send(b"line\nrest")
            assert await reader.readline() == b"line\n"
            assert writer.get_extra_info("peer") is BOB
            assert writer.get_extra_info("peername") == ""
            assert writer.get_extra_info("nothing") is None
            writer.write_eof()
            assert await asyncio.get_running_loop().sock_recv(far, 9) == b""
            writer.close()
            await writer.wait_closed()

    run(main, loop)


def test_a_task_that_nothing_else_holds_goes_on() -> None:
    async def main() -> None:
        conn, far = connected()
        done = asyncio.get_running_loop().create_future()

        async def serve() -> None:
            made = streams_at_once(conn)
            assert made is not None
            reader, writer = made
            writer.write(await reader.readexactly(1))
            writer.close()
            done.set_result(None)

        asyncio.create_task(serve())  # noqa: RUF006 - that is the point
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gc.collect()
        with far:
            far.send(b"x")
            await done
            assert far.recv(1) == b"x"

    run(main)


def test_another_loop_is_asked_politely(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        conn, far = connected()
        with far, conn:
            monkeypatch.setattr(asyncio.get_running_loop(), "_make_socket_transport", None)
            assert streams_at_once(conn) is None

    run(main)


def test_a_loop_that_refuses_loses_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async def refuse(*args: object, **kwargs: object) -> None:
            raise OSError("no")

        conn, far = connected()
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", refuse)
        with far, pytest.raises(OSError, match="no"):
            await streams(conn)

    run(main)
