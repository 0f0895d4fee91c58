import contextlib
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.leaks import no_leaks
from tests.securekit import Lone, TinyRealm
from trunkline.drivers.secure_ahead import Ahead
from trunkline.drivers.secure_sockets import SecureConnection, SecureHandshake, Want
from trunkline.drivers.sockets import Carrier, Connection
from trunkline.errors import TrustError
from trunkline.meeting.confirmation import Meeting
from trunkline.meeting.handshake import Role
from trunkline.names import Peer

ANN = Meeting(Role.ACTIVE, b"8 bytes.", "alice", "bob", "ann", "ben")
BEN = Meeting(Role.PASSIVE, b"8 bytes.", "bob", "alice", "ben", "")
Pair = Callable[[], tuple[socket.socket, socket.socket]]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with no_leaks():
        yield


@pytest.fixture(scope="module")
def realm() -> TinyRealm:
    return TinyRealm()


@pytest.fixture
def ben(realm: TinyRealm) -> Lone:
    return realm.member("ben")


@pytest.fixture
def ann(realm: TinyRealm, ben: Lone) -> Lone:
    """She has a session with ben."""
    ann = realm.member("ann")
    conn = meet(ann, ben)
    assert not conn.session_reused
    return ann


def tcp() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


def meet(ann: Lone, ben: Lone, ahead: Ahead | None = None, pair: Pair = tcp) -> SecureConnection:
    """Return ann's connection, closed, after a byte went through it."""
    near, far = pair()
    where = near.getsockname(), near.getpeername(), near.family
    handshakes = SecureHandshake(ANN, ann, now=0.0), SecureHandshake(BEN, ben, allow=("ann",), now=0.0)
    for sock in (near, far):
        sock.setblocking(False)
    with handshakes[0].over_socket(near, ahead) as conn, handshakes[1].over_socket(far) as peer:
        assert near.fileno() == -1
        assert not conn.getblocking()
        assert not os.get_inheritable(conn.fileno())
        assert (conn.getsockname(), conn.getpeername(), conn.family) == where
        done = [False, False]
        while not all(done):
            for who, handshake in enumerate(handshakes):
                done[who] = done[who] or handshake.step(0.0) is Want.NOTHING
        for each in (conn, peer):
            each.setblocking(True)
        conn.sendall(b"x")
        assert peer.recv(1) == b"x"
    return conn


@pytest.mark.parametrize("pair", [tcp, socket.socketpair])
def test_what_is_ready_takes_the_connection_over(ann, ben, pair):
    ahead = Ahead(ann, "bob", "ben")
    ahead.make()
    ready = ahead._conn
    ahead.make()
    assert ahead._conn is ready, "once is enough"
    with watched(ready) as resumed:
        assert meet(ann, ben, ahead, pair) is ready
    assert resumed == [True]
    assert meet(ann, ben, ahead) is not ready, "it is used up"
    ahead.close()


@contextlib.contextmanager
def watched(conn: SecureConnection) -> Iterator[list[bool]]:
    """Note whether the session was resumed, before the connection is closed."""
    found: list[bool] = []
    close = conn.close

    def note() -> None:
        found.append(conn.session_reused is True)
        close()

    conn.close = note  # type: ignore[method-assign]
    yield found
    del conn.close


def test_without_a_session_nothing_is_ready(realm, ben):
    ann = realm.member("ann")
    with contextlib.closing(Ahead(ann, "bob", "ben")) as ahead:
        ahead.make()
        assert ahead._conn is None
        meet(ann, ben, ahead)


def test_what_nobody_takes_is_closed(ann):
    ahead = Ahead(ann, "bob", "ben")
    ahead.make()
    ahead.close()
    ahead.close()


def test_a_session_that_was_forgotten_meanwhile_is_not_used(ann, ben):
    with contextlib.closing(Ahead(ann, "bob", "ben")) as ahead:
        ahead.make()
        ready = ahead._conn
        ann.sessions.forget("ben", "bob")
        assert meet(ann, ben, ahead) is not ready


def test_the_passive_side_takes_nothing(ann):
    near, far = tcp()
    with contextlib.closing(Ahead(ann, "bob", "ben")) as ahead, far:
        ahead.make()
        SecureHandshake(BEN, ann, now=0.0).over_socket(near, ahead).close()
        assert ahead._conn is not None


def test_a_carrier_hands_its_socket_on(ann):
    near, far = tcp()
    carrier = Carrier.adopt(near, Peer("bob"))
    carrier.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with contextlib.closing(Ahead(ann, "bob", "ben")) as ahead, far:
        ahead.make()
        conn = ahead.take(carrier, ann.tls_client())
        assert conn is not None
        assert conn.udp is carrier.udp
        assert conn.udp.fileno() >= 0
        conn.close()
        assert carrier.udp.fileno() == -1


def test_what_keeps_it_from_being_ready_is_left_to_the_handshake(ann, monkeypatch):
    ahead = Ahead(ann, "bob", "ben")
    for error in (OSError("no descriptor is left"), TrustError("the certificate has expired")):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(socket, "socketpair", fail)
            ahead.make()
        near, far = socket.socketpair()
        with near, far:
            assert ahead.take(near, ann.tls_client()) is None
            assert near.fileno() >= 0


def test_the_class_of_the_socket_does_not_matter(ann, ben):
    def pair() -> tuple[socket.socket, socket.socket]:
        near, far = tcp()
        return Connection.adopt(near, Peer("bob")), far

    ahead = Ahead(ann, "bob", "ben")
    ahead.make()
    meet(ann, ben, ahead, pair)
