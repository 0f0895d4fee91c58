import errno
import socket
from collections import deque
from collections.abc import Iterator

import pytest

from tests.deaf import deaf_listener
from trunkline.drivers import peers_blocking
from trunkline.drivers.peers_blocking import Peers
from trunkline.drivers.pollers import Pollers
from trunkline.drivers.sockets import Listeners
from trunkline.names import Candidate, Peer
from trunkline.switchboard.events import (
    Delivered,
    PeerBind,
    PeerBound,
    PeerClose,
    PeerData,
    PeerDial,
    PeerDialled,
    PeerLost,
    PeerOpened,
    PeerSend,
)


class World:
    """Peers by themselves; the test is the machine."""

    def __init__(self) -> None:
        self.pollers = Pollers()
        self.events: deque[object] = deque()
        self.fed: list[object] = []
        self.wanted: dict[int, int] = {}
        self.listeners = Listeners.open()
        self.peers = Peers(
            self.pollers, self.listeners, self.events, self.run, lambda conn: self.wanted.get(conn, 0), 3.0
        )

    def run(self) -> None:
        self.fed += self.events
        self.events.clear()

    def turn(self) -> object:
        """Wait until something has happened, and return the first thing."""
        self.run()
        while not self.fed:
            self.peers.settle()
            self.pollers.handle(self.pollers.wait(20))
            self.run()
        return self.fed.pop(0)

    @property
    def tcp(self) -> Candidate:
        return Candidate("tcp4", "127.0.0.1", self.listeners.port)

    def accepted(self, wanted: int = 0) -> socket.socket:
        self.wanted[-1] = wanted
        sock = socket.create_connection(("127.0.0.1", self.listeners.port))
        assert self.turn() == PeerDialled(-1)
        return sock


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.peers.abandon()
    made.pollers.close()


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_not_a_byte_more_than_wanted_is_read(world):
    with world.accepted(wanted=5) as sock:
        sock.sendall(b"helloTHE USER'S")
        assert world.turn() == PeerData(-1, b"hello")
        conn = world.peers.hand_over(Delivered(b"r", -1, Peer("them")))
        with conn:
            assert conn.peer.name == "them"
            assert conn.gettimeout() is None
            assert conn.recv(100) == b"THE USER'S"
    assert len(world.peers) == 0


def test_what_is_not_wanted_is_left_but_a_hang_up_is_noticed(world):
    with world.accepted() as sock:
        sock.sendall(b"early")
        sock.shutdown(socket.SHUT_WR)
        assert world.turn() == PeerLost(-1, "the peer hung up")


def test_a_peer_that_closes_is_lost(world):
    world.accepted(wanted=8).close()
    assert world.turn() == PeerLost(-1, "the peer closed the connection")


def test_dialling_a_listener(world, stranger):
    world.peers.dial(PeerDial(5, Candidate("tcp4", *stranger.getsockname())))
    assert world.turn() == PeerOpened(5, 0)
    sock, _ = stranger.accept()
    with sock:
        world.peers.send(PeerSend(5, b"token"))
        assert sock.recv(100) == b"token"
        with world.peers.hand_over(Delivered(b"r", 5, Peer("them"))) as conn:
            assert conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_dialling_over_a_unix_socket_completes_at_once(world):
    if world.listeners.unix_path is None:
        pytest.skip("no abstract name space here")
    world.peers.dial(PeerDial(5, Candidate("unix", world.listeners.unix_path)))
    assert list(world.events) == [PeerOpened(5, 0)]


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (Candidate("unix", "@nobody-listens-here"), "Connection refused"),
        (Candidate("carrier-pigeon", "coop"), "does not know the kind"),
        (Candidate("tcp4", "a-name", 1), "literal address"),
    ],
)
def test_what_cannot_be_dialled_is_lost_with_its_reason(world, candidate, reason):
    world.peers.dial(PeerDial(5, candidate))
    lost = world.turn()
    assert isinstance(lost, PeerLost)
    assert reason in lost.reason


def test_a_refused_dial_is_lost(world, stranger):
    address = stranger.getsockname()
    stranger.close()
    world.peers.dial(PeerDial(5, Candidate("tcp4", *address)))
    assert world.turn() == PeerLost(5, "Connection refused")
    assert not world.peers.timed


def test_a_unix_listener_with_a_full_backlog_is_lost(world):
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as first:
        full.bind(f"\0trunkline-test-full-{id(world)}")
        full.listen(0)
        first.connect(full.getsockname())
        world.peers.dial(PeerDial(5, Candidate("unix", "@" + full.getsockname()[1:].decode())))
        assert world.turn() == PeerLost(5, "its backlog is full")


def test_a_silent_address_is_given_up(world):
    with deaf_listener() as address:
        world.peers.dial(PeerDial(5, Candidate("tcp4", address.host, address.port)))
        due = world.peers.next_deadline()
        world.peers.handle_timer(due - 1)
        assert not world.events
        world.peers.handle_timer(due)
        assert world.turn() == PeerLost(5, "no answer within 3 s")


def test_closing_and_what_comes_after_it(world):
    with world.accepted(wanted=8) as sock:
        world.peers.close(PeerClose(-1))
        assert sock.recv(1) == b""
    world.peers.close(PeerClose(-1))
    world.peers.send(PeerSend(-1, b"x"))
    world.peers.bind(PeerBind(-1, 1))
    assert not world.events


def test_sending_to_one_that_is_gone(world):
    sock = world.accepted()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()  # a reset
    world.peers.send(PeerSend(-1, b"x"))
    lost = world.turn()
    assert isinstance(lost, PeerLost)
    with world.peers.hand_over(Delivered(b"r", -1, Peer("them"))) as conn:
        assert conn.recv(1) == b""


def test_a_datagram_meeting_ends_with_two_connected_sockets(world):
    world.peers.dial(PeerDial(5, world.tcp, datagram=True))
    opened = next(event for event in (world.turn(), world.turn()) if isinstance(event, PeerOpened))
    world.peers.bind(PeerBind(-1, opened.udp_port))
    bound = world.events.popleft()
    assert isinstance(bound, PeerBound)
    world.peers.bind(PeerBind(5, bound.udp_port))
    assert world.events.popleft() == PeerBound(5, opened.udp_port)
    one = world.peers.hand_over(Delivered(b"r", 5, Peer("a")))
    other = world.peers.hand_over(Delivered(b"s", -1, Peer("b")))
    with one, other:
        other.settimeout(20)
        one.send(b"datagram")
        assert other.recv(100) == b"datagram"


def test_datagrams_need_an_ip_connection(world):
    if world.listeners.unix_path is None:
        pytest.skip("no abstract name space here")
    world.peers.dial(PeerDial(5, Candidate("unix", world.listeners.unix_path), datagram=True))
    lost = world.turn()
    assert isinstance(lost, PeerLost)
    assert "needs an IP connection" in lost.reason


def test_without_descriptors_accepting_pauses(world, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    accept = peers_blocking.accept
    monkeypatch.setattr(peers_blocking, "accept", full)
    with socket.create_connection(("127.0.0.1", world.listeners.port)):
        world.pollers.handle(world.pollers.wait(20))
        assert world.pollers.wait(0) == []  # it doesn't spin
        monkeypatch.setattr(peers_blocking, "accept", accept)
        due = world.peers.next_deadline()
        world.peers.handle_timer(due - 1)
        assert world.pollers.wait(0) == []
        world.peers.handle_timer(due)
        assert world.turn() == PeerDialled(-1)
    assert not world.peers.timed
