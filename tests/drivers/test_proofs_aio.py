import asyncio
import socket

import pytest

from tests.drivers.aiokit import run
from tests.securekit import TinyRealm
from trunkline.drivers.clock import now
from trunkline.drivers.proofs_aio import Outcome, Proof
from trunkline.drivers.secure_sockets import SecureConnection, SecureHandshake, Want
from trunkline.drivers.sockets import Connection
from trunkline.errors import LinkClosed, SilentPeer, TrunklineError
from trunkline.meeting.confirmation import Meeting
from trunkline.meeting.handshake import Role
from trunkline.names import Peer

REALM = TinyRealm()
ANN, BEN = REALM.member("ann"), REALM.member("ben")
MATCH = bytes(8)


def pair() -> tuple[Connection, Connection]:
    one, two = socket.socketpair()
    one.setblocking(False)
    two.setblocking(False)
    return Connection.adopt(one, Peer("b")), Connection.adopt(two, Peer("a"))


class Side:
    """A proof, and what came of it."""

    def __init__(self, role: Role, timeout: float = 30.0) -> None:
        active = role is Role.ACTIVE
        names = ("a", "b", "ann", "ben") if active else ("b", "a", "ben", "ann")
        self.handshake = SecureHandshake(
            Meeting(role, MATCH, *names), ANN if active else BEN, now=now(), timeout=timeout
        )
        self.done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.proof = Proof(asyncio.get_running_loop(), self.handshake, self.done.set_result)


def test_both_prove_who_they_are() -> None:
    async def main() -> None:
        one, two = pair()
        active, passive = Side(Role.ACTIVE), Side(Role.PASSIVE)
        passive.proof.begin(two)
        active.proof.begin(one)
        for side, user in ((active, "ben"), (passive, "ann")):
            conn = await side.done
            assert isinstance(conn, SecureConnection)
            assert conn.peer.user == user
            side.proof.cancel()  # too late, and so nothing
            assert conn.fileno() >= 0
            conn.close()

    run(main)


def test_a_peer_that_is_gone_already() -> None:
    async def main() -> None:
        for shut in (True, False):
            one, two = pair()
            two.close()
            if shut:
                one.close()
            side = Side(Role.ACTIVE)
            side.proof.begin(one)
            assert side.done.done()  # at once
            assert isinstance(side.done.result(), LinkClosed)

    run(main)


def test_a_silent_peer() -> None:
    async def main() -> None:
        one, two = pair()
        side = Side(Role.PASSIVE, timeout=0.01)
        side.proof.begin(one)
        assert isinstance(await side.done, SilentPeer)
        with two:
            assert two.recv(9) == b""

    run(main)


def test_cancelling_closes_and_tells_nobody() -> None:
    async def main() -> None:
        one, two = pair()
        side = Side(Role.PASSIVE)
        side.proof.begin(one)
        side.proof.cancel()
        side.proof.cancel()
        with two:
            assert two.recv(9) == b""
        assert not side.done.done()

    run(main)


@pytest.mark.parametrize("wants", [[Want.WRITE], [Want.READ, Want.WRITE, Want.READ], [Want.WRITE, Want.WRITE]])
def test_it_waits_for_what_the_handshake_wants(wants: list[Want], monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter(wants)

    def step(self: SecureHandshake, at: float) -> Want:
        want = next(given, None)
        if want is Want.READ:
            two.send(b"x")
        if want is None:
            raise TrunklineError("enough")
        return want

    async def main() -> None:
        nonlocal two
        one, two = pair()
        side = Side(Role.ACTIVE)
        monkeypatch.setattr(SecureHandshake, "step", step)
        side.proof.begin(one)
        assert str(await side.done) == "enough"
        two.close()

    two = Connection()
    two.close()
    run(main)
