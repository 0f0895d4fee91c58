"""Secure datagram meetings, whole: a server, two users, the drivers of both faces, and others who would be them."""

import asyncio
import concurrent.futures
import logging
from collections.abc import Iterator

import pytest

from tests.leaks import no_leaks
from tests.live import LiveServer
from tests.securekit import TinyRealm, new_key
from trunkline import aio, connect
from trunkline.drivers import secure_aio, secure_blocking, secure_sockets
from trunkline.drivers.client_blocking import BlockingClient
from trunkline.drivers.meetings_aio import Meeting
from trunkline.drivers.secure_aio import SecurePost, secure_meet_datagram
from trunkline.drivers.secure_datagram import SecureDatagramSocket
from trunkline.drivers.sockets import Carrier
from trunkline.errors import ClosedError, ConfigError, MeetTimeout
from trunkline.meeting.datagrams import Drop

REALM = TinyRealm()
ANN, BEN = REALM.member("ann"), REALM.member("ben")
PATIENCE = 20.0


@pytest.fixture
def server() -> Iterator[str]:
    with no_leaks(), LiveServer() as server:
        yield server.address


@pytest.fixture
def ann(server: str) -> Iterator[BlockingClient]:
    with connect.Switchboard(server) as board:
        yield board._client


@pytest.fixture
def ben(server: str) -> Iterator[BlockingClient]:
    with connect.Switchboard(server) as board:
        yield board._client


@pytest.fixture
def pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        yield pool


def talk(one: SecureDatagramSocket, two: SecureDatagramSocket) -> None:
    """Check that datagrams go both ways."""
    for each in (one, two):
        each.settimeout(PATIENCE)
    one.send(b"there")
    assert two.recv() == b"there"
    two.send(b"back")
    assert one.recv() == b"back"


def test_two_users_meet(ann: BlockingClient, ben: BlockingClient, pool) -> None:
    other = pool.submit(secure_blocking.secure_meet_datagram, ben, BEN, "b", "a", "ann", PATIENCE)
    with (
        secure_blocking.secure_meet_datagram(ann, ANN, "a", "b", "ben", PATIENCE) as one,
        other.result(PATIENCE) as two,
    ):
        assert (one.peer.name, one.peer.user, two.peer.name, two.peer.user) == ("b", "ben", "a", "ann")
        assert one.peer.public_key == REALM.identity_of("ben")
        assert one.gettimeout() is two.gettimeout() is None
        assert one.getpeername() == two.getsockname()
        talk(one, two)


def test_datagrams_of_one_meeting_are_nothing_to_another(ann: BlockingClient, ben: BlockingClient, pool) -> None:
    """The same users meet twice; what was sent in the first meeting is said again in the second."""
    others = [pool.submit(secure_blocking.secure_meet_datagram, ben, BEN, "b", "a", "ann", PATIENCE) for _ in range(2)]
    ours = [secure_blocking.secure_meet_datagram(ann, ANN, "a", "b", "ben", PATIENCE) for _ in range(2)]
    theirs = {each.peer.match: each for each in (other.result(PATIENCE) for other in others)}
    pairs = [(one, theirs[one.peer.match]) for one in ours]
    (one, _), (again, two) = pairs
    one._sock.send(b"")  # the kernel takes it
    datagram = one._sealer.seal(b"pay ten to eve")
    again._sock.send(datagram)
    again.send(b"hello")
    two.settimeout(PATIENCE)
    assert two.recv() == b"hello"
    assert two.dropped[Drop.FORGED] == 1
    for pair in pairs:
        for each in pair:
            each.close()


def test_a_post_of_datagrams(ann: BlockingClient, ben: BlockingClient, pool) -> None:
    offer = ben.post("p", unique=False, secret=None, backlog=8, datagram=True, member=BEN, allow=("ann",))
    for _ in range(2):  # the second handshake resumes the first one's session
        other = pool.submit(secure_blocking.secure_meet_datagram, ann, ANN, "a", "p", "ben", PATIENCE)
        with ben.accept_datagram(offer, PATIENCE) as one, other.result(PATIENCE) as two:
            talk(one, two)
    ben.close_post(offer)


def test_what_nobody_accepted_is_closed(ann: BlockingClient, ben: BlockingClient) -> None:
    offer = ben.post("p", unique=False, secret=None, backlog=8, datagram=True, member=BEN, allow=("ann",))
    with secure_blocking.secure_meet_datagram(ann, ANN, "a", "p", "ben", PATIENCE) as one:
        ben.bell(offer)
        ben.close_post(offer)
        one.settimeout(PATIENCE)
        with pytest.raises(ConnectionRefusedError):
            while True:
                one.send(b"hello")
                one.recv()


def test_plain_and_secure_do_not_meet(ann: BlockingClient, ben: BlockingClient, pool) -> None:
    plain = pool.submit(ben.meet, "b", "a", 0.3, datagram=True)
    with pytest.raises(MeetTimeout):
        secure_blocking.secure_meet_datagram(ann, ANN, "a", "b", "ben", 0.3)
    with pytest.raises(MeetTimeout):
        plain.result(PATIENCE)


def test_an_impostor_does_not_end_the_call(
    ann: BlockingClient, ben: BlockingClient, server: str, pool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trunkline")
    key = new_key()
    eve = REALM.impostor("ben", REALM.chain("eve", key), key)
    with connect.Switchboard(server) as board:
        lying = pool.submit(secure_blocking.secure_meet_datagram, board._client, eve, "b", "a", "ann", None)
        while board.status().meets != 1:
            pass
        call = pool.submit(secure_blocking.secure_meet_datagram, ann, ANN, "a", "b", "ben", PATIENCE)
        while not any("eve" in record.getMessage() for record in caplog.records):
            pass
        with (
            secure_blocking.secure_meet_datagram(ben, BEN, "b", "a", "ann", PATIENCE) as two,
            call.result(PATIENCE) as one,
        ):
            talk(one, two)
    with pytest.raises(ClosedError):
        lying.result(PATIENCE)


def test_who_confirms_and_then_exchanges_no_keys_is_an_impostor(
    server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A peer whose keys never come costs one handshake's time, and no socket."""
    caplog.set_level(logging.INFO, "trunkline")
    monkeypatch.setattr(secure_aio, "HANDSHAKE_TIMEOUT", 0.2)
    monkeypatch.setattr(secure_sockets.SecureConnection, "exchange_keys", silent)

    async def main() -> None:
        async with aio.Switchboard(server) as ours, aio.Switchboard(server) as theirs:
            calls = [
                asyncio.create_task(secure_meet_datagram(theirs.client(), BEN, "b", "a", "ann", PATIENCE)),
                asyncio.create_task(secure_meet_datagram(ours.client(), ANN, "a", "b", "ben", PATIENCE)),
            ]
            while not any("nothing was heard for 0.2 s" in record.getMessage() for record in caplog.records):
                await asyncio.sleep(0)
            for call in calls:
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call

    asyncio.run(main())


def silent(self: secure_sockets.SecureConnection, role: object, match: object) -> None:
    raise secure_sockets.ssl.SSLWantReadError


def test_asynchronous_and_blocking_meet(ann: BlockingClient, server: str, pool) -> None:
    async def ben() -> SecureDatagramSocket:
        async with aio.Switchboard(server) as board:
            made = await secure_meet_datagram(board.client(), BEN, "b", "a", "ann", PATIENCE)
            assert made.gettimeout() == 0
            loop = asyncio.get_running_loop()
            assert await loop.sock_recv(made, 100) == b"from a thread"
            await loop.sock_sendall(made, b"from a task")
            return made

    other = pool.submit(asyncio.run, ben())
    with secure_blocking.secure_meet_datagram(ann, ANN, "a", "b", "ben", PATIENCE) as one:
        one.send(b"from a thread")
        one.settimeout(PATIENCE)
        assert one.recv() == b"from a task"
        other.result(PATIENCE).close()


def test_an_asynchronous_post(server: str) -> None:
    async def main() -> None:
        async with aio.Switchboard(server) as ours, aio.Switchboard(server) as theirs:
            post = SecurePost(theirs.client, "p", BEN, ("ann",), unique=False, secret=None, backlog=8, datagram=True)
            async with post:
                for wrong in (post.accept, post.accept_socket):
                    with pytest.raises(ConfigError, match="datagrams"):
                        await wrong()
                one, two = await asyncio.gather(
                    secure_meet_datagram(ours.client(), ANN, "a", "p", "ben", PATIENCE), post.accept_datagram(PATIENCE)
                )
                talk(one, two)
                one.close()
                two.close()
            streams = SecurePost(theirs.client, "q", BEN, ("ann",), unique=False, secret=None, backlog=8)
            async with streams:
                with pytest.raises(ConfigError, match="streams"):
                    await streams.accept_datagram()

    asyncio.run(main())


def test_a_caller_who_is_cancelled_leaves_nothing(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled when the pair of UDP sockets is there and TLS has begun."""

    async def main() -> None:
        async with aio.Switchboard(server) as ours, aio.Switchboard(server) as theirs:
            sink = Meeting(asyncio.get_running_loop(), streams=False)
            theirs.client().meet(sink, "b", "a", seconds=None, datagram=True, user="ben", peer_user="ann")
            call = asyncio.create_task(secure_meet_datagram(ours.client(), ANN, "a", "b", "ben", PATIENCE))
            carrier = await sink.future
            assert isinstance(carrier, Carrier)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            carrier.close()
            assert carrier.udp.fileno() == -1

    asyncio.run(main())
