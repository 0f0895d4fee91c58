import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from tests.leaks import no_leaks
from tests.securekit import Lone, TinyRealm
from trunkline.drivers.clock import now as clock
from trunkline.drivers.pollers import Pollers
from trunkline.drivers.proofs_blocking import Outcome, Proofs, Span, prove
from trunkline.drivers.secure_sockets import SecureConnection, SecureHandshake
from trunkline.drivers.sockets import Connection
from trunkline.errors import LinkClosed, NotThatUser, SilentPeer
from trunkline.meeting.confirmation import Meeting
from trunkline.meeting.handshake import Role
from trunkline.names import Peer

ANN = Meeting(Role.ACTIVE, b"8 bytes.", "alice", "bob", "ann", "ben")
BEN = Meeting(Role.PASSIVE, b"8 bytes.", "bob", "alice", "ben", "")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with no_leaks():
        yield


@pytest.fixture(scope="module")
def realm() -> TinyRealm:
    return TinyRealm()


@pytest.fixture(scope="module")
def ann(realm: TinyRealm) -> Lone:
    return realm.member("ann")


@pytest.fixture(scope="module")
def ben(realm: TinyRealm) -> Lone:
    return realm.member("ben")


def pair() -> tuple[Connection, Connection]:
    return tuple(Connection.adopt(each, Peer("")) for each in socket.socketpair())  # type: ignore[return-value]


class World:
    """The handshakes of a post, and a thread for each client."""

    def __init__(self, ben: Lone) -> None:
        self.pollers = Pollers()
        self.proofs = Proofs(self.pollers)
        self.ben = ben
        self.outcomes: list[Outcome] = []
        self.threads: list[threading.Thread] = []

    def arrives(self, sock: Connection, owner: bytes = b"post", timeout: float = 10.0) -> None:
        handshake = SecureHandshake(BEN, self.ben, allow=("ann",), now=clock(), timeout=timeout)
        self.proofs.begin(owner, handshake, sock, self.outcomes.append)

    def client(self, sock: Connection, member: Lone) -> None:
        def call() -> None:
            with contextlib.suppress(Exception):
                prove(SecureHandshake(ANN, member, now=clock()), sock, Span()).close()

        thread = threading.Thread(target=call)
        self.threads.append(thread)
        thread.start()

    def turn_until(self, count: int) -> None:
        while len(self.outcomes) < count:
            self.pollers.enter()
            ready = self.pollers.wait(1.0)
            self.pollers.leave()
            self.pollers.handle(ready)

    def close(self) -> None:
        self.proofs.abandon()
        self.pollers.close()
        for outcome in self.outcomes:
            if isinstance(outcome, SecureConnection):
                outcome.close()
        for thread in self.threads:
            thread.join()


@pytest.fixture
def world(ben: Lone) -> Iterator[World]:
    world = World(ben)
    yield world
    world.close()


def test_a_caller_waits_for_the_proof(world, ann):
    ours, theirs = pair()
    world.arrives(theirs)
    got: list[SecureConnection] = []
    caller = threading.Thread(target=lambda: got.append(prove(SecureHandshake(ANN, ann, now=clock()), ours, Span())))
    caller.start()
    world.turn_until(1)
    caller.join()
    (conn,), (served,) = got, world.outcomes
    assert isinstance(served, SecureConnection)
    assert conn.peer.user == "ben"
    assert served.peer.user == "ann"
    assert conn.getblocking()
    assert served.getblocking()
    with conn:
        conn.sendall(b"x")
        assert served.recv(1) == b"x"


def test_a_caller_does_not_wait_for_ever(ann):
    ours, theirs = pair()
    with theirs, pytest.raises(SilentPeer):
        prove(SecureHandshake(ANN, ann, now=clock(), timeout=0.01), ours, Span())


def test_a_caller_whose_peer_is_gone(ann):
    ours, theirs = pair()
    theirs.close()
    with pytest.raises(LinkClosed):
        prove(SecureHandshake(ANN, ann, now=clock()), ours, Span())


def test_slow_and_hostile_clients_hold_up_nobody(world, realm, ann):
    """Before the honest one come: a silent one, one in the middle of TLS, one that speaks something else, and eve."""
    silent, theirs = pair()
    world.arrives(theirs)
    half, theirs = pair()
    half.setblocking(False)
    stuck = ann.tls_client().wrap_socket(half, do_handshake_on_connect=False)
    with pytest.raises(ssl.SSLWantReadError):
        stuck.do_handshake()
    world.arrives(theirs)
    other, theirs = pair()
    other.sendall(b"GET / HTTP/1.0\r\n\r\n" * 9)
    world.arrives(theirs)
    for member in (realm.member("eve"), ann):
        ours, theirs = pair()
        world.client(ours, member)
        world.arrives(theirs)
    world.turn_until(3)
    served = [each for each in world.outcomes if isinstance(each, SecureConnection)]
    assert [each.peer.user for each in served] == ["ann"]
    assert len(world.proofs) == 2, "the silent one and the slow one have their ten seconds"
    silent.close()
    stuck.close()
    other.close()
    world.turn_until(5)


def test_each_has_its_time_and_no_more(world):
    socks = []
    for timeout in (5.0, 7.0):
        ours, theirs = pair()
        socks.append(ours)
        world.arrives(theirs, timeout=timeout)
    due = world.proofs.next_deadline()
    assert due is not None
    world.proofs.handle_timer(due - 1)
    assert not world.outcomes
    world.proofs.handle_timer(due)
    assert [type(each) for each in world.outcomes] == [SilentPeer]
    later = world.proofs.next_deadline()
    assert later is not None
    assert later > due
    for sock in socks:
        sock.close()


def test_what_a_post_leaves_behind_is_closed(world):
    mine, theirs = pair()
    world.arrives(theirs, owner=b"this")
    others, theirs = pair()
    world.arrives(theirs, owner=b"that")
    world.proofs.drop(b"this")
    assert mine.recv(1) == b""
    assert not select.select([others], [], [], 0)[0]
    assert not world.outcomes
    mine.close()
    others.close()


def test_a_connection_that_is_gone_at_once(world):
    ours, theirs = socket.create_server(("127.0.0.1", 0)), None
    near = socket.create_connection(ours.getsockname())
    theirs, _ = ours.accept()
    ours.close()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    near.close()
    world.arrives(Connection.adopt(theirs, Peer("")))
    assert [type(each) for each in world.outcomes] == [LinkClosed]


def test_the_members_of_posts_are_kept_fresh(world):
    class Due:
        ticks = 0

        def next_deadline(self) -> float:
            return 50.0 + self.ticks

        def tick(self) -> None:
            self.ticks += 1

    due = Due()
    assert not world.proofs.timed
    world.proofs.keep_fresh(b"post", due)  # type: ignore[arg-type]
    assert world.proofs.timed
    assert world.proofs.next_deadline() == 50.0
    world.proofs.handle_timer(49.0)
    assert due.ticks == 0
    world.proofs.handle_timer(50.0)
    assert due.ticks == 1
    assert world.proofs.next_deadline() == 51.0
    world.proofs.drop(b"post")
    assert world.proofs.next_deadline() is None


def test_who_meets_somebody_else_is_told(world, ann):
    ours, theirs = pair()
    world.arrives(theirs)
    wrong = Meeting(Role.ACTIVE, ANN.match, "alice", "bob", "ann", "zoe")
    raised: list[Exception] = []

    def call() -> None:
        try:
            prove(SecureHandshake(wrong, ann, now=clock()), ours, Span())
        except NotThatUser as error:
            raised.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    world.turn_until(1)
    caller.join()
    assert "'zoe' was asked for" in str(raised[0])
    assert "the peer refuses" in str(world.outcomes[0])
