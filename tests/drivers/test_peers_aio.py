import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from tests.drivers.aiokit import run, until
from trunkline.drivers import peers_aio
from trunkline.drivers.peers_aio import PeerSockets
from trunkline.drivers.sockets import Listeners
from trunkline.names import Candidate
from trunkline.switchboard.events import (
    ClientEvent,
    PeerBind,
    PeerBound,
    PeerData,
    PeerDial,
    PeerDialled,
    PeerLost,
    PeerOpened,
    PeerSend,
)


class Fake:
    """A machine that wants so many bytes of every connection, and writes down what it is told."""

    def __init__(self) -> None:
        self.wanted = 4
        self.events: list[ClientEvent] = []
        self.peers = PeerSockets(asyncio.get_running_loop(), self, self.events.append)

    def bytes_wanted(self, conn: int) -> int:
        return self.wanted


@contextlib.contextmanager
def listeners() -> Iterator[Listeners]:
    made = Listeners.open()
    try:
        yield made
    finally:
        made.close()


async def accept(sock: socket.socket) -> socket.socket:
    accepted, _ = await asyncio.get_running_loop().sock_accept(sock)
    return accepted


KINDS = ("unix", "tcp4", "tcp6")


@pytest.mark.parametrize("kind", KINDS)
def test_a_dial_on_one_host_is_open_at_once(kind: str) -> None:
    async def main() -> None:
        fake = Fake()
        with listeners() as ours:
            (candidate,) = [c for c in ours.candidates(addresses=()).at if c.kind == kind]
            fake.peers.dial(PeerDial(1, candidate))
            assert fake.events == [PeerOpened(1, 0)]
            fake.peers.send(PeerSend(1, b"hello"))
            far = await accept(ours.sockets[("tcp4", "tcp6", "unix").index(kind)])
            assert far.recv(9) == b"hello"
            far.send(b"123456")
            await until(lambda: len(fake.events) == 2)
            assert fake.events[1] == PeerData(1, b"1234")  # not a byte more than was wanted
            fake.wanted = 0
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            sock = fake.peers.take(1)
            assert sock is not None
            assert sock.recv(9) == b"56"
            assert fake.peers.take(1) is None
            far.close()
            sock.close()

    run(main)


def test_a_dial_that_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_aio, "_is_connected", lambda sock: False)

    async def main() -> None:
        fake = Fake()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            here = Candidate("tcp4", *listener.getsockname())
            fake.peers.dial(PeerDial(1, here))
            assert fake.events == []
            await until(lambda: fake.events)
            assert fake.events == [PeerOpened(1, 0)]
            fake.peers.dial(PeerDial(2, here))
            fake.peers.close(2)  # while it is being dialled
        fake.peers.dial(PeerDial(3, here))
        await until(lambda: len(fake.events) == 2)
        assert fake.events[1] == PeerLost(3, "connection refused")
        fake.peers.close_all()

    run(main)


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (Candidate("unix", "@trunkline-nobody"), "connection refused"),
        (Candidate("pigeon", "x"), "this side does not know"),
        (Candidate("tcp4", "127.0.0.1", 70000), "the port is a number"),
    ],
)
def test_a_dial_that_fails_at_once(candidate: Candidate, reason: str) -> None:
    async def main() -> None:
        fake = Fake()
        fake.peers.dial(PeerDial(1, candidate))
        (event,) = fake.events
        assert isinstance(event, PeerLost)
        assert reason in event.reason

    run(main)


def test_a_refused_port_is_told_sooner_or_later() -> None:
    async def main() -> None:
        fake = Fake()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            here = Candidate("tcp4", *listener.getsockname())
        fake.peers.dial(PeerDial(1, here))
        await until(lambda: fake.events)
        assert fake.events == [PeerLost(1, "connection refused")]

    run(main)


def test_a_full_queue_of_a_unix_socket_is_a_failure() -> None:
    async def main() -> None:
        fake = Fake()
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
            listener.bind("\0trunkline-test-full")
            listener.listen(0)
            first.connect(listener.getsockname())
            fake.peers.dial(PeerDial(1, Candidate("unix", "@trunkline-test-full")))
            assert fake.events == [PeerLost(1, "resource temporarily unavailable")]

    run(main)


def inbound(fake: Fake) -> socket.socket:
    near, far = socket.socketpair()
    near.setblocking(False)
    fake.peers.accepted(near, "")
    return far


def test_what_came_with_the_dial_is_read_at_once() -> None:
    async def main() -> None:
        fake = Fake()
        near, far = socket.socketpair()
        near.setblocking(False)
        far.send(b"dial")
        fake.peers.accepted(near, "")
        assert fake.events == [PeerDialled(-1), PeerData(-1, b"dial")]
        silent = inbound(fake)
        assert fake.events[2:] == [PeerDialled(-2)]
        silent.send(b"late")
        await until(lambda: len(fake.events) == 4)
        assert fake.events[3] == PeerData(-2, b"late")
        far.close()
        silent.close()
        await until(lambda: len(fake.events) == 6)
        assert set(fake.events[4:]) == {PeerLost(-1, "closed by the peer"), PeerLost(-2, "closed by the peer")}

    run(main)


def test_a_stranger_may_be_closed_at_the_door() -> None:
    async def main() -> None:
        fake = Fake()
        fake.peers._feed = lambda event: fake.peers.close(event.conn)
        with inbound(fake) as far:
            assert far.recv(1) == b""

    run(main)


def test_a_reset_is_told() -> None:
    async def main() -> None:
        fake = Fake()
        with listeners() as ours:
            fake.peers.dial(PeerDial(1, ours.candidates(addresses=()).at[0]))
            fake.peers.send(PeerSend(1, b"unread"))
            (await accept(ours.sockets[-1])).close()
            await until(lambda: len(fake.events) == 2)
            assert fake.events[1] == PeerLost(1, "connection reset by peer")
            fake.peers.send(PeerSend(1, b"to nobody"))

    run(main)


def test_a_send_to_who_is_gone_is_told() -> None:
    async def main() -> None:
        fake = Fake()
        fake.wanted = 0
        inbound(fake).close()
        fake.peers.send(PeerSend(-1, b"x"))
        assert fake.events[1:] == [PeerLost(-1, "broken pipe")]

    run(main)


def test_a_send_that_is_not_taken_whole_is_a_failure() -> None:
    async def main() -> None:
        fake = Fake()
        fake.wanted = 0
        with inbound(fake):
            fake.peers.send(PeerSend(-1, bytes(10_000_000)))
            assert fake.events[1:] == [PeerLost(-1, "the connection takes no data")]

    run(main)


def test_a_send_makes_it_listen_again() -> None:
    async def main() -> None:
        fake = Fake()
        fake.wanted = 0
        with inbound(fake) as far:
            far.send(b"1234")
            await asyncio.sleep(0)
            assert fake.events == [PeerDialled(-1)]
            fake.wanted = 4
            fake.peers.send(PeerSend(-1, b"x"))
            await until(lambda: len(fake.events) == 2)
            assert fake.events[1] == PeerData(-1, b"1234")
            fake.peers.close_all()

    run(main)


def test_udp_is_paired_beside_the_stream() -> None:
    async def main() -> None:
        active, passive = Fake(), Fake()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            active.peers.dial(PeerDial(1, Candidate("tcp4", *listener.getsockname()), datagram=True))
            (opened,) = active.events
            assert isinstance(opened, PeerOpened)
            listener.setblocking(False)
            passive.peers.accepted(await accept(listener), "")
            passive.peers.bind(PeerBind(-1, opened.udp_port))
            bound = passive.events[1]
            assert isinstance(bound, PeerBound)
            active.peers.bind(PeerBind(1, bound.udp_port))
            assert active.events[1] == PeerBound(1, opened.udp_port)
            left, right = active.peers.take(1), passive.peers.take(-1)
            assert left is not None
            assert right is not None
            left.send(b"x")
            right.settimeout(30)
            assert right.recv(9) == b"x"
            left.close()
            right.close()

    run(main)


def test_udp_that_cannot_be_paired() -> None:
    async def main() -> None:
        fake = Fake()
        with inbound(fake), listeners() as ours:
            fake.peers.bind(PeerBind(-1, 9))
            assert isinstance(fake.events[1], PeerLost)
            fake.peers.bind(PeerBind(-1, 9))  # gone by now
            fake.peers.dial(PeerDial(1, ours.candidates(addresses=()).at[0], datagram=True))
            (last,) = fake.events[2:]
            assert isinstance(last, PeerLost)
            assert "IP connection" in last.reason or "ip connection" in last.reason
        with socket.create_server(("127.0.0.1", 0)) as listener:
            fake.peers.dial(PeerDial(2, Candidate("tcp4", *listener.getsockname()), datagram=True))
            fake.peers.bind(PeerBind(2, 1 << 20))
            assert isinstance(fake.events[-1], PeerLost)
            fake.peers.dial(PeerDial(3, Candidate("tcp4", *listener.getsockname()), datagram=True))
            fake.peers.close(3)
            fake.peers.close(3)

    run(main)


def test_abandoned_after_a_fork() -> None:
    async def main() -> None:
        fake = Fake()
        with socket.create_server(("127.0.0.1", 0)) as listener, inbound(fake) as far:
            fake.peers.dial(PeerDial(2, Candidate("tcp4", *listener.getsockname()), datagram=True))
            reading = [peer.sock.fileno() for peer in fake.peers._open.values() if peer.reading]
            for descriptor in reading:  # in a child, this loop would be gone
                asyncio.get_running_loop().remove_reader(descriptor)
            fake.peers.abandon()
            assert far.recv(1) == b""

    run(main)
