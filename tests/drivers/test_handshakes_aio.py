"""TLS handshakes on a loop: the first byte, deadlines, the cap, turns, and what is given up."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.drivers.aiokit import run, until
from tests.realmkit import Realm
from trunkline.drivers import handshakes_aio
from trunkline.drivers.handshakes_aio import Handshakes
from trunkline.drivers.servers_tls import accepted, dialled
from trunkline.errors import TrustError

REALM = Realm("lab.example")
SERVER, ANN = REALM.membership("switchboard/a"), REALM.membership("ann")


class Owner:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.done: dict[int, ssl.SSLSocket] = {}
        self.plain: dict[int, socket.socket] = {}
        self.failed: dict[int, str] = {}

    def handshake_done(self, conn: int, sock: ssl.SSLSocket, remote: str) -> None:
        self.done[conn] = sock

    def plain_arrived(self, conn: int, sock: socket.socket, remote: str) -> None:
        self.plain[conn] = sock

    def handshake_failed(self, conn: int, remote: str, error: Exception) -> None:
        self.failed[conn] = str(error)

    def close(self) -> None:
        for sock in (*self.done.values(), *self.plain.values()):
            sock.close()


def accept(sock: socket.socket) -> ssl.SSLSocket:
    return accepted(SERVER, sock, require_user=False)


@asynccontextmanager
async def world(within: float = 30.0) -> AsyncIterator[tuple[Owner, Handshakes]]:
    owner = Owner()
    shakes = Handshakes(asyncio.get_running_loop(), owner, within, accept)
    try:
        yield owner, shakes
    finally:
        shakes.close()
        owner.close()


def pair() -> tuple[socket.socket, socket.socket]:
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    return one, other


def test_both_sides() -> None:
    async def main() -> None:
        async with world() as (owner, shakes):
            for number in range(1, 20):  # more than are taken further in one turn
                ours, theirs = pair()
                shakes.accepted(-number, theirs, "there")
                shakes.dialled(number, dialled(ANN, ours), "here")
            await until(lambda: len(owner.done) == 38)
            assert not len(shakes)
            assert not owner.failed
            assert ANN.identify(owner.done[1]).user == "switchboard/a"
            assert SERVER.identify(owner.done[-1]).user == "ann"
            assert owner.done[-1].session is not None
            owner.done[-1].send(b"x")
            assert owner.done[1].recv(10) == b"x"

    run(main)


def test_who_does_not_begin_with_tls_is_handed_over_untouched() -> None:
    async def main() -> None:
        async with world() as (owner, shakes):
            ours, theirs = pair()
            shakes.accepted(-1, theirs, "there")
            await asyncio.sleep(0)
            assert not owner.plain
            ours.send(b"TRUNK/1\n")
            await until(lambda: owner.plain)
            assert owner.plain[-1].recv(100) == b"TRUNK/1\n"
            ours.close()

    run(main)


def test_who_goes_away() -> None:
    async def main() -> None:
        async with world() as (owner, shakes):
            for conn, sent in ((-1, b""), (-2, b"\x16\x03\x01")):
                ours, theirs = pair()
                shakes.accepted(conn, theirs, "there")
                ours.send(sent)
                ours.close()
            await until(lambda: len(owner.failed) == 2)

    run(main)


def test_the_silent_have_a_deadline_and_hold_up_nobody() -> None:
    async def main() -> None:
        async with world(within=0.0) as (owner, shakes):
            ours, theirs = pair()
            shakes.accepted(-1, theirs, "there")
            await until(lambda: owner.failed)
            assert "was not over within 0 s" in owner.failed[-1]
            assert ours.recv(1) == b""
            ours.close()

    run(main)


def test_the_oldest_goes_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshakes_aio, "MAX_HALF_OPEN", 3)

    async def main() -> None:
        async with world() as (owner, shakes):
            ends = []
            for number in range(1, 6):
                ours, theirs = pair()
                ends.append(ours)
                shakes.accepted(-number, theirs, "there")
            assert list(owner.failed) == [-1, -2]
            assert len(shakes) == 3
            for end in ends:
                end.close()

    run(main)


def test_what_is_given_up_is_closed_and_nothing_is_told() -> None:
    async def main() -> None:
        async with world() as (owner, shakes):
            ours, theirs = pair()
            shakes.accepted(-1, theirs, "there")
            shakes.give_up(-1)
            shakes.give_up(-1)
            assert ours.recv(1) == b""
            ours.close()
            one, other = pair()
            shakes.dialled(1, dialled(ANN, one), "there")  # it is queued, and its turn comes when it is gone
            shakes.give_up(1)
            await asyncio.sleep(0)
            assert not owner.failed
            assert not owner.done
            other.close()

    run(main)


def test_a_server_that_has_no_certificate_any_more() -> None:
    def none(sock: socket.socket) -> ssl.SSLSocket:
        raise TrustError("there is no certificate")

    async def main() -> None:
        owner = Owner()
        shakes = Handshakes(asyncio.get_running_loop(), owner, 30.0, none)
        ours, theirs = pair()
        shakes.accepted(-1, theirs, "there")
        ours.send(b"\x16")
        await until(lambda: owner.failed)
        assert owner.failed == {-1: "there is no certificate"}
        shakes.close()
        ours.close()

    run(main)


def test_one_that_has_to_wait_for_the_kernel() -> None:
    """The flight is larger than what the kernel takes at once."""

    async def main() -> None:
        async with world() as (owner, shakes):
            ours, theirs = pair()
            for sock in (ours, theirs):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            filled = 0
            while True:
                try:
                    filled += theirs.send(b"x" * 100)
                except BlockingIOError:
                    break
            client = ANN.tls_client()
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = client.wrap_bio(incoming, outgoing)
            with pytest.raises(ssl.SSLWantReadError):
                tls.do_handshake()
            ours.send(outgoing.read())
            shakes.accepted(-1, theirs, "there")
            await until(lambda: any(shake.writing for shake in shakes._shakes.values()))
            while filled:
                filled -= len(ours.recv(min(filled, 65536)))
            while not owner.done:
                await asyncio.sleep(0)
                try:
                    incoming.write(ours.recv(65536))
                except BlockingIOError:
                    continue
                try:
                    tls.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                ours.send(outgoing.read())
            assert not owner.failed
            ours.close()

    run(main)
