"""The secure datagram socket: as a socket, and with somebody on the way."""

import asyncio
import concurrent.futures
import copy
import os
import pickle
import select
import socket
from collections.abc import Iterator

import pytest

from tests.leaks import no_leaks
from trunkline.drivers import secure_datagram
from trunkline.drivers.secure_datagram import SecureDatagramSocket
from trunkline.errors import ClosedError, TrustError
from trunkline.meeting.datagram_keys import Session, derive
from trunkline.meeting.datagrams import MAX_DATA, Drop, Opener, Sealer
from trunkline.meeting.handshake import Role
from trunkline.names import Peer, Secret

ONE, TWO = Secret(bytes(32)), Secret(bytes(range(32)))
PATIENCE = 20.0


def session(role: Role) -> Session:
    return derive(role, b"match id", *((ONE, TWO) if role is Role.ACTIVE else (TWO, ONE)))


@pytest.fixture
def plain() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two UDP sockets that are connected to each other."""
    with no_leaks():
        ours, theirs = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        with ours, theirs:
            for sock in (ours, theirs):
                sock.bind(("127.0.0.1", 0))
                sock.settimeout(PATIENCE)
            ours.connect(theirs.getsockname())
            theirs.connect(ours.getsockname())
            yield ours, theirs


@pytest.fixture
def ann(plain: tuple[socket.socket, socket.socket]) -> Iterator[SecureDatagramSocket]:
    with SecureDatagramSocket(plain[0], session(Role.ACTIVE), Peer("bob", "ben")) as ann:
        yield ann


@pytest.fixture
def ben(plain: tuple[socket.socket, socket.socket]) -> Iterator[SecureDatagramSocket]:
    with SecureDatagramSocket(plain[1], session(Role.PASSIVE), Peer("alice", "ann")) as ben:
        yield ben


@pytest.fixture
def wire(plain: tuple[socket.socket, socket.socket]) -> socket.socket:
    """The place of Ben's socket for somebody who reads along and sends what they like to Ann."""
    return plain[1]


def test_there_and_back(ann: SecureDatagramSocket, ben: SecureDatagramSocket) -> None:
    for data in (b"hello", b"", bytearray(b"buffer"), memoryview(b"view"), bytes(MAX_DATA)):
        assert ann.send(data) == len(data)
        assert ben.recv() == data
        assert ben.send(data) == len(data)
        assert ann.recv() == data
    assert set(ann.dropped.values()) == {0}


def test_it_is_like_a_socket(ann: SecureDatagramSocket, ben: SecureDatagramSocket) -> None:
    assert ann.peer == Peer("bob", "ben")
    assert ann.getpeername() == ben.getsockname()
    assert ann.gettimeout() == PATIENCE, "the time-out of the socket that it took over"
    assert repr(ann) == "<SecureDatagramSocket to 'bob' of 'ben' (direct)>"
    ann.send(b"too long for that")
    assert ben.recv(3) == b"too"
    assert not select.select([ben], [], [], 0)[0]
    ann.send(b"more")
    assert select.select([ben], [], [], PATIENCE)[0] == [ben]
    ann.close()
    ann.close()
    assert ann.fileno() == -1
    for use in (lambda: ann.send(b"x"), ann.recv):
        with pytest.raises(ClosedError):
            use()


def test_the_time_out(ann: SecureDatagramSocket) -> None:
    ann.settimeout(0.01)
    with pytest.raises(TimeoutError):
        ann.recv()
    for nothing in (lambda: ann.settimeout(0), lambda: ann.setblocking(False)):
        ann.setblocking(True)
        assert ann.gettimeout() is None
        assert ann.getblocking()
        nothing()
        assert not ann.getblocking()
        with pytest.raises(BlockingIOError):
            ann.recv()
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match="0 or more"):
            ann.settimeout(wrong)


def test_it_waits_as_long_as_it_takes(ann: SecureDatagramSocket, ben: SecureDatagramSocket) -> None:
    ben.settimeout(None)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        came = pool.submit(ben.recv)
        ann.send(b"hello")
        assert came.result(PATIENCE) == b"hello"


def test_asyncio_takes_it(ann: SecureDatagramSocket, ben: SecureDatagramSocket) -> None:
    async def talk() -> list[bytes]:
        loop = asyncio.get_running_loop()
        for each in (ann, ben):
            each.setblocking(False)
        first = loop.create_task(loop.sock_recv(ben, 100))
        await asyncio.sleep(0)  # it has looked, and found nothing
        await loop.sock_sendall(ann, b"hello")
        return [await first, await answer(loop)]

    async def answer(loop: asyncio.AbstractEventLoop) -> bytes:
        await loop.sock_sendall(ben, b"hello yourself")
        return await loop.sock_recv(ann, 100)

    assert asyncio.run(talk(), debug=True) == [b"hello", b"hello yourself"]


# ---- somebody on the way ---------------------------------------------------------------------------------------


def test_what_goes_out_is_sealed(ann: SecureDatagramSocket, wire: socket.socket) -> None:
    ann.send(b"secret")
    datagram = wire.recv(1000)
    assert b"secret" not in datagram
    assert Opener(session(Role.PASSIVE)).open(datagram) == b"secret"


def test_attacks_are_dropped_and_counted(ann: SecureDatagramSocket, wire: socket.socket) -> None:
    ben = Sealer(session(Role.PASSIVE))
    first, second, third = ben.seal(b"first"), ben.seal(b"second"), ben.seal(b"third")
    ann._sealer.sequence = 7
    ann.send(b"mine")
    attacks = [
        second,
        first,  # overtaken: that is fine
        first,  # said again
        wire.recv(1000),  # sent back
        third[:-1],  # cut
        third[:10],
        third[:-1] + bytes((third[-1] ^ 1,)),  # altered
        Sealer(derive(Role.PASSIVE, b"another!", TWO, ONE), 8).seal(b"of another session"),
        b"",
        third,
    ]
    for datagram in attacks:
        wire.send(datagram)
    assert [ann.recv(), ann.recv(), ann.recv()] == [b"second", b"first", b"third"]
    assert ann.dropped == {Drop.SIZE: 2, Drop.FORGED: 4, Drop.REPLAYED: 1, Drop.OLD: 0}


def test_a_flood_does_not_hold_up_a_call_that_may_not_wait(ann: SecureDatagramSocket, wire: socket.socket) -> None:
    for _ in range(secure_datagram.DROPS_AT_ONCE):
        wire.send(b"rubbish")
    wire.send(Sealer(session(Role.PASSIVE)).seal(b"hello"))
    ann.settimeout(0)
    with pytest.raises(BlockingIOError):
        ann.recv()
    assert ann.recv() == b"hello"


def test_a_flood_does_not_hold_up_a_call_beyond_its_time(
    ann: SecureDatagramSocket, wire: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2 * secure_datagram.DROPS_AT_ONCE):
        wire.send(b"rubbish")
    ticks = iter((0.0, PATIENCE - 1, PATIENCE + 1))
    monkeypatch.setattr(secure_datagram, "clock", lambda: next(ticks))
    with pytest.raises(TimeoutError):
        ann.recv()
    assert ann.dropped[Drop.SIZE] == 2 * secure_datagram.DROPS_AT_ONCE


def test_a_key_that_is_given_up_ends_it(ann: SecureDatagramSocket, wire: socket.socket) -> None:
    ann._opener = Opener(session(Role.ACTIVE), max_forged=1)
    for _ in range(2):
        wire.send(bytes(40))
    with pytest.raises(TrustError, match="given up"):
        ann.recv()


def test_a_peer_that_is_gone(ann: SecureDatagramSocket, wire: socket.socket) -> None:
    wire.close()
    ann.send(b"hello")
    with pytest.raises(ConnectionRefusedError):
        ann.recv()


# ---- copies ----------------------------------------------------------------------------------------------------


def test_a_child_can_not_use_it(ann: SecureDatagramSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that seal under one number give both clear texts away."""
    monkeypatch.setattr(secure_datagram.os, "getpid", os.getppid)
    for use in (lambda: ann.send(b"x"), ann.recv):
        with pytest.raises(ClosedError, match="after a fork"):
            use()


def test_copies_are_refused(ann: SecureDatagramSocket) -> None:
    for way in (copy.copy, pickle.dumps):
        with pytest.raises(TypeError, match="can't be pickled"):
            way(ann)


def test_what_is_too_long_is_refused(ann: SecureDatagramSocket, ben: SecureDatagramSocket) -> None:
    with pytest.raises(ValueError, match="limit of 65483"):
        ann.send(bytes(MAX_DATA + 1))
    ann.send(b"hello")
    assert ben.recv() == b"hello"


class FullSocket(socket.socket):
    """The kernel's buffer is full for the first ``full`` datagrams."""

    full = 1

    def send(self, data: bytes, flags: int = 0) -> int:  # type: ignore[override]
        if self.full:
            self.full -= 1
            raise BlockingIOError
        return super().send(data, flags)


def test_a_full_buffer_is_waited_for(plain: tuple[socket.socket, socket.socket]) -> None:
    full = FullSocket(fileno=plain[0].detach())
    full.settimeout(None)
    with SecureDatagramSocket(full, session(Role.ACTIVE), Peer("bob", "ben")) as ann:
        assert ann.send(b"hello") == 5
        assert Opener(session(Role.PASSIVE)).open(plain[1].recv(1000)) == b"hello"
        full.full = 1
        ann.setblocking(False)
        with pytest.raises(BlockingIOError):
            ann.send(b"hello")
