import asyncio
import socket

import pytest

from tests.drivers.aiokit import run, server
from trunkline.aio import Switchboard
from trunkline.drivers.meetings_aio import Meeting
from trunkline.drivers.sockets import Connection
from trunkline.errors import ClosedError
from trunkline.names import Peer
from trunkline.switchboard.events import Delivered

MET = Delivered(b"", 1, Peer("x"))


def test_delivered_after_all() -> None:
    async def main() -> None:
        meeting = Meeting(asyncio.get_running_loop(), streams=False)
        meeting.future.cancel()
        a, b = socket.socketpair()
        meeting.delivered(Connection.adopt(a, MET.peer), MET)
        assert b.recv(1) == b""
        b.close()
        meeting.failed(ClosedError("ignored"))
        meeting.drop()

    run(main)


def test_cancelled_and_closed_at_once() -> None:
    async def main() -> None:
        async with server() as s, Switchboard(s.address) as board:
            post = await board.post("p")
            accepting = asyncio.create_task(post.accept_socket())
            await asyncio.sleep(0)
            a, b = socket.socketpair()
            post.delivered(Connection.adopt(a, MET.peer), MET)
            accepting.cancel()
            await post.close()
            with pytest.raises(asyncio.CancelledError):
                await accepting
            assert b.recv(1) == b""
            b.close()

    run(main)
