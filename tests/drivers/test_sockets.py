import contextlib
import errno
import socket
import sys

import pytest

from trunkline.drivers import sockets
from trunkline.drivers.sockets import (
    Carrier,
    Connection,
    Listeners,
    accept,
    be_prompt,
    bind_udp,
    connect_udp,
    dialling_socket,
    hand_out,
)
from trunkline.errors import InvalidAddress
from trunkline.names import Candidate, Peer

BOB = Peer("bob", match="00ff")


def test_a_connection_takes_the_descriptor_over() -> None:
    a, b = socket.socketpair()
    a.setblocking(False)
    with Connection.adopt(a, BOB) as conn, b:
        assert a.fileno() == -1
        assert conn.peer is BOB
        assert conn.gettimeout() == 0.0
        assert isinstance(conn, socket.socket)
        b.sendall(b"hello")
        assert conn.recv(9) == b"hello"
        assert "'bob'" in repr(conn)
        assert "direct" in repr(conn)


def test_the_peer_stays_through_dup_and_detach() -> None:
    a, b = socket.socketpair()
    with b, Connection.adopt(a, BOB) as conn:
        with conn.dup() as twin:
            assert isinstance(twin, Connection)
            assert twin.peer is BOB
            assert twin.fileno() != conn.fileno()
        descriptor = conn.detach()
        assert conn.peer is BOB
        assert "'bob'" in repr(conn)
        with Connection(fileno=descriptor, peer=BOB) as again:
            assert again.family == b.family
            again.sendall(b"x")
            assert b.recv(1) == b"x"


def dial(candidate: Candidate) -> socket.socket:
    sock, address = dialling_socket(candidate)
    assert sock.gettimeout() == 0.0
    with contextlib.suppress(BlockingIOError):
        sock.connect(address)
    return sock


def test_every_candidate_of_a_listener_can_be_dialled() -> None:
    listeners = Listeners.open()
    try:
        offer = listeners.candidates(addresses=())
        by_family = {sock.family: sock for sock in listeners.sockets}
        families = {"tcp4": socket.AF_INET, "tcp6": socket.AF_INET6, "unix": getattr(socket, "AF_UNIX", None)}
        assert {families[candidate.kind] for candidate in offer.at} == set(by_family)
        for candidate in offer.at:
            with dial(candidate) as sock:
                listener = by_family[sock.family]
                listener.settimeout(30)
                accepted, _ = listener.accept()
                with accepted:
                    accepted.sendall(b"hi")
                    sock.settimeout(30)
                    assert sock.recv(2) == b"hi"
                    if sock.family != families["unix"] and sys.platform.startswith("linux"):
                        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    finally:
        listeners.close()


def test_a_datagram_listener_offers_ip_only() -> None:
    listeners = Listeners.open()
    try:
        assert {c.kind for c in listeners.candidates(datagram=True).at} <= {"tcp4", "tcp6"}
    finally:
        listeners.close()


def test_without_ipv6_or_unix_there_is_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def only_v4(family: int, kind: int) -> socket.socket:
        if family != socket.AF_INET:
            raise OSError(errno.EAFNOSUPPORT, "no")
        return real(family, kind)

    monkeypatch.setattr(sockets.sys, "platform", "other")
    monkeypatch.setattr(sockets.socket, "socket", only_v4)
    listeners = Listeners.open()
    listeners.close()
    assert listeners.unix_path is None
    assert len(listeners.sockets) == 1
    assert [c.kind for c in listeners.candidates(addresses=("::2",)).at] == ["tcp4"]


def test_a_port_taken_on_ipv6_is_not_insisted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    real = sockets._listener
    calls = []

    def taken_once(family: int, host: str, port: int) -> socket.socket:
        calls.append(family)
        if family == socket.AF_INET6 and calls.count(family) == 1:
            raise OSError(errno.EADDRINUSE, "taken")
        return real(family, host, port)

    monkeypatch.setattr(sockets, "_listener", taken_once)
    listeners = Listeners.open()
    listeners.close()
    assert calls == [socket.AF_INET, socket.AF_INET6] * 2


def test_no_descriptor_is_lost_when_listening_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError):
        sockets._listener(socket.AF_INET, "127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate("carrier-pigeon", "roof", 1),
        Candidate("tcp4", "localhost", 1),
        Candidate("tcp4", "::1", 1),
        Candidate("tcp6", "127.0.0.1", 1),
        Candidate("tcp4", "a\0b", 1),
        Candidate("unix", "/run/docker.sock"),
        Candidate("tcp4", "127.0.0.1", 0),
        Candidate("tcp6", "::1", 65536),
        Candidate("tcp4", "127.0.0.1", -1),
    ],
    ids=str,
)
def test_a_candidate_that_cannot_be_dialled(candidate: Candidate) -> None:
    with pytest.raises(InvalidAddress):
        dialling_socket(candidate)


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_udp_beside_a_stream(family: int, host: str) -> None:
    with socket.socket(family) as listener:
        try:
            listener.bind((host, 0))
        except OSError:
            pytest.skip(f"no {host} here")
        listener.listen()
        with socket.create_connection((host, listener.getsockname()[1])) as active:
            sockets.be_prompt(active)
            passive, _ = listener.accept()
            with passive, bind_udp(active) as left, bind_udp(passive) as right:
                connect_udp(left, active, right.getsockname()[1])
                connect_udp(right, passive, left.getsockname()[1])
                left.send(b"one")
                right.settimeout(30)
                assert right.recv(9) == b"one"


def test_hanging_up_is_eof_even_with_something_unread() -> None:
    a, b = socket.socketpair()
    with b:
        b.sendall(b"unread")
        sockets.hang_up(a)
        assert b.recv(1) == b""


def test_udp_beside_a_unix_stream_is_refused() -> None:
    a, b = socket.socketpair()
    with a, b:
        sockets.be_prompt(a)
        with pytest.raises(OSError, match="IP connection"):
            bind_udp(a)


def test_no_udp_descriptor_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(socket.socket):
        def getsockname(self) -> tuple[str, int]:
            return ("198.51.100.1", 0)

    with Odd(socket.AF_INET) as stream, pytest.raises(OSError):
        bind_udp(stream)


def test_both_sides_find_out_that_the_other_host_is_gone() -> None:
    listeners = Listeners.open()
    try:
        listener = next(sock for sock in listeners.sockets if sock.family == socket.AF_INET)
        dialled, _ = dialling_socket(Candidate("tcp4", "127.0.0.1", listener.getsockname()[1]))
        with dialled:
            dialled.setblocking(True)
            be_prompt(dialled)
            dialled.connect(("127.0.0.1", listener.getsockname()[1]))
            listener.setblocking(True)
            with accept(listener, socket.AF_INET) as accepted:
                for sock in (dialled, accepted):
                    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
                    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    finally:
        listeners.close()


def test_a_datagram_meeting_hands_out_the_udp_socket() -> None:
    stream, other = socket.socketpair()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with other, hand_out(stream, udp, BOB, secure=False) as conn:
        assert conn.type == socket.SOCK_DGRAM
        assert conn.peer is BOB
        assert stream.fileno() == udp.fileno() == -1


def test_a_secure_datagram_meeting_hands_out_the_stream_and_what_it_carries() -> None:
    stream, other = socket.socketpair()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with other, hand_out(stream, udp, BOB, secure=True) as conn:
        assert isinstance(conn, Carrier)
        assert conn.type == socket.SOCK_STREAM
        assert conn.udp is udp
    assert conn.fileno() == udp.fileno() == -1
