"""One client's channel by itself: what goes in and out, and when it is not listened to; see test_authority_server."""

import asyncio
import socket
import ssl

import pytest

from tests.realmkit import Realm
from trunkline.authority.codec import encode
from trunkline.authority.messages import PREAMBLE, AskRoot, Denied
from trunkline.drivers.authority_channel import MAX_UNANSWERED, PAUSE_OUTPUT, RECEIVE_SIZE, Channel
from trunkline.drivers.tls import client_context, server_context


class Owner:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def requests_arrived(self, channel: Channel) -> None:
        self.arrived.set()

    def channel_lost(self, channel: Channel, why: str) -> None:
        self.lost.set_result(why)


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    realm = Realm()
    server = server_context(realm.root, realm.credential("authority/main"), required=False)
    server.verify_mode = ssl.CERT_NONE
    return server, client_context(realm.root, None)


async def joined(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> tuple[Channel, Owner, asyncio.StreamWriter]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    owner, room = Owner(), memoryview(bytearray(RECEIVE_SIZE))
    channel = Channel(asyncio.get_running_loop(), owner, contexts[0], ours, conn=1, remote="test", room=room)
    _, writer = await asyncio.open_connection(sock=theirs, ssl=contexts[1], server_hostname="any")
    return channel, owner, writer


def test_requests_come_out_until_too_many_are_under_way(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def main() -> None:
        channel, owner, writer = await joined(contexts)
        writer.write(PREAMBLE + encode(AskRoot(7)) * (MAX_UNANSWERED + 1))
        await owner.arrived.wait()
        taken = 0
        while (request := channel.next_request()) is not None:
            assert request == AskRoot(7)
            channel.unanswered += 1
            taken += 1
        assert taken == MAX_UNANSWERED
        assert channel.crowded
        assert not channel.hungry
        assert not channel.idle
        channel.unanswered = 0
        assert channel.hungry
        channel.send(bytes(PAUSE_OUTPUT + 1))
        assert channel.crowded
        assert channel.next_request() is None
        writer.transport.abort()
        channel.settle()
        await owner.lost
        assert channel.closed

    asyncio.run(main())


def test_last_words_are_read_before_it_is_gone(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def main() -> None:
        channel, owner, writer = await joined(contexts)
        writer.write(PREAMBLE)
        await owner.arrived.wait()
        assert channel.next_request() is None
        channel.send(encode(Denied(0, 3, "no")))
        channel.close(linger=True)
        assert channel.closed
        channel.send(b"nothing more")
        writer.transport.abort()
        assert await owner.lost == "closed"
        channel.close()

    asyncio.run(main())
