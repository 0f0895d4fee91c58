import socket
import ssl
import threading
from collections import deque
from collections.abc import Iterator

import pytest

from tests.deaf import deaf_listener
from tests.realmkit import Realm
from trunkline.drivers import uplinks_blocking
from trunkline.drivers.pollers import Pollers
from trunkline.drivers.uplinks_blocking import Uplinks
from trunkline.names import Address
from trunkline.switchboard.events import Close, Dial, Lost, Opened, Received, Send
from trunkline.wire.codec import PREAMBLE, Inbound, encode
from trunkline.wire.messages import Alive, AskStatus, Goodbye, Hello


class World:
    """Uplinks by themselves, and a listener in the place of a server."""

    def __init__(self) -> None:
        self.pollers = Pollers()
        self.events: deque[object] = deque()
        self.uplinks = Uplinks(self.pollers, self.events, 3.0)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address(*self.listener.getsockname())

    def turn(self) -> object:
        """Wait until something has happened, and return the first thing."""
        while not self.events:
            self.pollers.handle(self.pollers.wait(20))
            self.uplinks.take_resolved()
            self.uplinks.flush()
        return self.events.popleft()

    def connected(self) -> socket.socket:
        self.uplinks.dial(Dial(1, self.address))
        assert self.turn() == Opened(1, str(self.address))
        self.uplinks.flush()
        server, _ = self.listener.accept()
        assert server.recv(100) == PREAMBLE
        return server


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.uplinks.abandon()
    made.pollers.close()
    made.listener.close()


def test_messages_both_ways(world):
    with world.connected() as server:
        world.uplinks.send(Send(1, Hello("test")))
        world.uplinks.send(Send(1, AskStatus(7)))
        world.uplinks.send(Send(2, AskStatus(8)))  # a connection that is gone
        world.uplinks.flush()
        assert server.recv(1000) == encode(Hello("test")) + encode(AskStatus(7))
        answer = PREAMBLE + encode(Alive()) + encode(Alive())
        server.sendall(answer[:-1])
        assert world.turn() == Received(1, Alive())
        server.sendall(answer[-1:])
        assert world.turn() == Received(1, Alive())


def test_a_server_that_closes(world):
    with world.connected():
        pass
    assert world.turn() == Lost(1, "the server closed the connection")
    assert len(world.uplinks) == 0


def test_a_server_that_speaks_something_else_is_told_so(world):
    with world.connected() as server:
        server.sendall(b"HTTP/1.1 400")
        lost = world.turn()
        assert isinstance(lost, Lost)
        assert "does not speak Trunkline" in lost.reason
        (goodbye,) = sent_to(server)
        assert isinstance(goodbye, Goodbye)
        assert goodbye.code == 2


def sent_to(server: socket.socket) -> list[object]:
    inbound = Inbound()
    inbound.receive_data(PREAMBLE)
    return inbound.receive_data(server.recv(1000))


def test_closing_sends_first(world):
    with world.connected() as server:
        world.uplinks.send(Send(1, Goodbye(0, "done")))
        world.uplinks.close(Close(1))
        assert server.recv(1000) == encode(Goodbye(0, "done"))
        assert server.recv(1) == b""
    world.uplinks.close(Close(1))
    assert not world.events


def test_a_refused_connection_is_lost_with_its_reason(world):
    world.listener.close()
    world.uplinks.dial(Dial(1, world.address))
    assert world.turn() == Lost(1, "Connection refused")


def test_a_name_is_resolved_aside(world):
    world.uplinks.dial(Dial(1, Address("localhost", world.address.port)))
    assert not world.events
    assert world.turn() == Opened(1, f"localhost:{world.address.port}")


def test_an_unknown_name_is_lost_with_its_reason(world, monkeypatch):
    def unknown(host: str, *args: object, flags: int, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    world.uplinks.dial(Dial(1, Address("nowhere.invalid", 1)))
    assert world.turn() == Lost(1, "the host name is not known: [Errno -2] Name or service not known")


def test_the_next_address_is_tried_when_one_refuses(world, monkeypatch):
    dead = socket.create_server(("127.0.0.1", 0))
    addresses = [(socket.AF_INET, dead.getsockname()), (socket.AF_INET, world.listener.getsockname())]
    dead.close()
    monkeypatch.setattr(uplinks_blocking, "_resolve", lambda *_: list(addresses))
    world.uplinks.dial(Dial(1, world.address))
    assert world.turn() == Opened(1, str(world.address))


def test_a_silent_address_is_given_up(world):
    with deaf_listener() as address:
        world.uplinks.dial(Dial(1, address))
        due = world.uplinks.next_deadline()
        assert world.uplinks.dialling
        world.uplinks.handle_timer(due - 1)
        assert not world.events
        world.uplinks.handle_timer(due)
        assert world.turn() == Lost(1, "no answer within 3 s")
        assert not world.uplinks.dialling


def test_what_the_kernel_does_not_take_waits(world):
    with world.connected() as server:
        big = Goodbye(0, "x" * 1000)
        size = len(encode(big))
        count = 0
        while not world.uplinks._links[1].out:
            world.uplinks.send(Send(1, big))
            world.uplinks.flush()
            count += 1
        got = 0
        while got < count * size:
            world.pollers.handle(world.pollers.wait(0))
            world.uplinks.flush()
            got += len(server.recv(1 << 20))
        assert got == count * size
        assert not world.uplinks._links[1].out
        assert not world.events


def test_a_server_that_never_reads_is_given_up(world, monkeypatch):
    monkeypatch.setattr(uplinks_blocking, "MAX_UNSENT", 10_000)
    with world.connected():
        while not world.events:
            world.uplinks.send(Send(1, Goodbye(0, "x" * 1000)))
            world.uplinks.flush()
        lost = world.turn()
        assert isinstance(lost, Lost)
        assert "unread" in lost.reason


# ---- with a realm ------------------------------------------------------------------------------------------------

REALM = Realm("lab.example")


class Secured(World):
    """The same, whose servers have to be of a realm."""

    def __init__(self, user: str = "switchboard/a") -> None:
        super().__init__()
        self.member = REALM.membership("ann")
        self.server = REALM.membership(user)
        self.uplinks = Uplinks(self.pollers, self.events, 30.0, member=self.member)

    def accept(self) -> ssl.SSLSocket:
        """Dial, and shake hands as a server that waits, in a thread."""
        self.uplinks.dial(Dial(1, self.address))
        accepted: list[ssl.SSLSocket] = []

        def serve() -> None:
            sock, _ = self.listener.accept()
            context = self.server.tls_server(required=False)
            accepted.append(context.wrap_socket(sock, server_side=True))

        thread = threading.Thread(target=serve)
        thread.start()
        while thread.is_alive() or not self.events:
            self.pollers.handle(self.pollers.wait(0.01))
        self.uplinks.flush()
        return accepted[0]


@pytest.fixture
def secured():
    made = Secured()
    yield made
    made.uplinks.abandon()
    made.pollers.close()
    made.listener.close()


def test_tls_both_ways(secured):
    with secured.accept() as server:
        assert secured.turn() == Opened(1, str(secured.address))
        assert server.recv(100) == PREAMBLE
        for number in range(2000):  # more than a record, and than the kernel takes
            secured.uplinks.send(Send(1, AskStatus(number)))
        secured.uplinks.flush()
        wanted = b"".join(encode(AskStatus(number)) for number in range(2000))
        got = b""
        while len(got) < len(wanted):
            got += server.recv(65536)
            secured.pollers.handle(secured.pollers.wait(0))
            secured.uplinks.flush()
        assert got == wanted
        server.sendall(PREAMBLE + encode(Alive()) * 10_000)
        for _ in range(10_000):
            assert secured.turn() == Received(1, Alive())
        secured.uplinks.close(Close(1))
        assert server.recv(1) == b""  # "close notify", no cut


def test_who_answers_is_no_server_of_the_realm(secured):
    secured.server = REALM.membership("eve")
    with secured.accept():
        lost = secured.turn()
        assert "is of 'eve', and a switchboard server of 'lab.example'" in lost.reason


def test_a_server_that_ends_with_tls(secured):
    with secured.accept() as server:
        secured.turn()
        server.close()
    assert isinstance(secured.turn(), Lost)


def test_what_a_server_proved_is_looked_at_again(secured):
    with secured.accept():
        assert isinstance(secured.turn(), Opened)
        due = secured.uplinks.next_deadline()
        assert secured.uplinks.timed
        secured.uplinks.handle_timer(due - 1)
        secured.uplinks.handle_timer(due)
        assert not secured.events
        assert secured.uplinks.next_deadline() > due
        secured.member._wall = lambda: REALM.wall + 200 * 86400
        secured.uplinks.handle_timer(secured.uplinks.next_deadline())
        lost = secured.turn()
        assert isinstance(lost, Lost)
        assert "expired" in lost.reason
    assert not secured.uplinks.timed


def test_a_tls_handshake_that_takes_too_long(secured):
    secured.uplinks.dial(Dial(1, secured.address))
    sock, _ = secured.listener.accept()
    with sock:
        secured.pollers.handle(secured.pollers.wait(20))
        secured.uplinks.handle_timer(secured.uplinks.next_deadline())
        assert "no answer within 30 s" in secured.turn().reason
