"""Attacks on a secure meeting by those between the two: other users of the realm, and the switchboard itself.

Each fails for a stated reason. Attacks by bad certificates are in tests/drivers/test_secure_sockets.py, those on single
messages in tests/meeting/test_confirmation.py, squatters in tests/drivers/test_secure_blocking.py.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator

import msgspec
import pytest

from tests.leaks import no_leaks
from tests.securekit import Lone, TinyRealm
from trunkline.drivers.secure_sockets import SecureConnection, SecureHandshake, Want
from trunkline.errors import NotThatUser, TrunklineError, TrustError
from trunkline.meeting.confirmation import Meeting
from trunkline.meeting.handshake import Role
from trunkline.names import Peer

FIRST, SECOND = b"match 1.", b"match 2."

Outcome = Peer | TrunklineError | None


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with no_leaks():
        yield


@pytest.fixture(scope="module")
def realm() -> TinyRealm:
    return TinyRealm()


class Side:
    """A process in a meeting; it is stepped until there is nothing more to do."""

    def __init__(self, sock: socket.socket, member: Lone, meeting: Meeting, allow: tuple[str, ...] = ()) -> None:
        sock.setblocking(False)
        self._handshake = SecureHandshake(meeting, member, allow=allow, now=0.0)
        self.conn: SecureConnection = self._handshake.over_socket(sock)
        self.outcome: Outcome = None

    def step(self) -> None:
        if self.outcome is None:
            try:
                if self._handshake.step(0.0) is Want.NOTHING:
                    self.outcome = self._handshake.peer
            except TrunklineError as error:
                self.outcome = error
                self.conn.hang_up()


class Between:
    """A wire with somebody on it: what comes from one end is changed, or not, and goes to the other."""

    def __init__(self, change: Callable[[int, bytes], bytes] = lambda way, data: data) -> None:
        (self.near, self._left), (self._right, self.far) = socket.socketpair(), socket.socketpair()
        for sock in (self._left, self._right):
            sock.setblocking(False)
        self._change = change
        self.seen = b""

    def carry(self) -> None:
        for way, (source, sink) in enumerate([(self._left, self._right), (self._right, self._left)]):
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    self.seen += data
                    sink.sendall(self._change(way, data))
                sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._left.close()
        self._right.close()


def play(*sides: Side, over: Between | None = None) -> list[Outcome]:
    for _ in range(12):
        for side in sides:
            side.step()
            if over is not None:
                over.carry()
    for side in sides:
        side.conn.close()
    if over is not None:
        over.close()
    return [side.outcome for side in sides]


def meeting(role: Role, me: str, you: str, user: str, peer_user: str, match: bytes = FIRST) -> Meeting:
    return Meeting(role, match, me, you, user, peer_user)


def fails(outcome: Outcome, kind: type[TrunklineError], *parts: str) -> None:
    assert type(outcome) is kind, outcome
    for part in parts:
        assert part in str(outcome)


# ---- Lowe's attack (1995) on Needham and Schroeder's handshake, transposed ------------------------------------------
#
# Ann means to talk to mallory, a valid user. Mallory uses what she says in order to talk to ben as if he were ann.


def test_lowe_mallory_ends_both_connections_himself(realm):
    """He can't show ann's certificate to ben: he has no key for it."""
    ann, mallory, ben = (realm.member(user) for user in ("ann", "mallory", "ben"))
    one, other = socket.socketpair(), socket.socketpair()
    with_ann = play(
        Side(one[0], ann, meeting(Role.ACTIVE, "alice", "mal", "ann", "mallory")),
        Side(one[1], mallory, meeting(Role.PASSIVE, "mal", "alice", "mallory", "ann")),
    )
    assert all(isinstance(each, Peer) for each in with_ann), "that is what ann asked for"
    as_ann, at_ben = play(
        Side(other[0], mallory, meeting(Role.ACTIVE, "alice", "bob", "ann", "ben", SECOND)),
        Side(other[1], ben, meeting(Role.PASSIVE, "bob", "alice", "ben", "ann", SECOND)),
    )
    fails(at_ben, NotThatUser, "it is of 'mallory'", "'ann' was asked for")
    fails(as_ann, TrustError, "the peer refuses")


def test_lowe_mallory_splices_the_two(realm):
    """Ann sees ben's certificate where she asked for mallory, before she has confirmed anything."""
    ann, ben = realm.member("ann"), realm.member("ben")
    wire = Between()
    at_ann, at_ben = play(
        Side(wire.near, ann, meeting(Role.ACTIVE, "alice", "mal", "ann", "mallory")),
        Side(wire.far, ben, meeting(Role.PASSIVE, "bob", "alice", "ben", ""), allow=("ann",)),
        over=wire,
    )
    fails(at_ann, NotThatUser, "it is of 'ben'", "'mallory' was asked for")
    fails(at_ben, TrustError, "the peer refuses")


# ---- a switchboard that lies ---------------------------------------------------------------------------------------


def test_a_switchboard_that_hands_both_sides_to_a_user_in_the_middle(realm):
    ann, mallory, ben = (realm.member(user) for user in ("ann", "mallory", "ben"))
    one, other = socket.socketpair(), socket.socketpair()
    at_ann, _ = play(
        Side(one[0], ann, meeting(Role.ACTIVE, "alice", "bob", "ann", "ben")),
        Side(one[1], mallory, meeting(Role.PASSIVE, "bob", "alice", "ben", "ann")),
    )
    _, at_ben = play(
        Side(other[0], mallory, meeting(Role.ACTIVE, "alice", "bob", "ann", "ben")),
        Side(other[1], ben, meeting(Role.PASSIVE, "bob", "alice", "ben", "ann")),
    )
    fails(at_ann, NotThatUser, "it is of 'mallory'", "'ben' was asked for")
    fails(at_ben, NotThatUser, "it is of 'mallory'", "'ann' was asked for")


def test_who_only_passes_the_bytes_on_reads_nothing(realm):
    """Then he is a wire, and the meeting is good: that is the worst that he can do."""
    ann, ben = realm.member("ann"), realm.member("ben")
    wire = Between()
    sides = (
        Side(wire.near, ann, meeting(Role.ACTIVE, "alice", "bob", "ann", "ben")),
        Side(wire.far, ben, meeting(Role.PASSIVE, "bob", "alice", "ben", "ann")),
    )
    for _ in range(8):
        for side in sides:
            side.step()
            wire.carry()
    sides[0].conn.sendall(b"the password is swordfish")
    wire.carry()
    assert sides[1].conn.recv(99) == b"the password is swordfish"
    assert all(isinstance(outcome, Peer) for outcome in play(*sides, over=wire))
    for secret in (b"swordfish", b"alice", b"ben", ann.head().body):
        assert secret not in wire.seen, "not even the names are in the clear"


def test_whoever_changes_a_byte_ends_it(realm):
    for turn in range(4):
        turns = iter(range(99))

        def change(way: int, data: bytes, turn: int = turn, turns: Iterator[int] = turns) -> bytes:
            return data[:-1] + bytes([data[-1] ^ 1]) if next(turns) == turn else data

        ann, ben = realm.member("ann"), realm.member("ben")
        wire = Between(change)
        outcomes = play(
            Side(wire.near, ann, meeting(Role.ACTIVE, "alice", "bob", "ann", "ben")),
            Side(wire.far, ben, meeting(Role.PASSIVE, "bob", "alice", "ben", "ann")),
            over=wire,
        )
        assert any(isinstance(each, TrunklineError) for each in outcomes)
        assert not all(isinstance(each, Peer) for each in outcomes)
        assert not isinstance(outcomes[0], Peer), "the active side is the last to know"


@pytest.mark.parametrize(
    ("theirs", "kind", "reason"),
    [
        ({"match": SECOND}, TrustError, "replayed, or two meetings are crossed"),
        ({"you": "carol"}, TrustError, "is 'alice' and meets 'carol'"),
        ({"me": "anna"}, TrustError, "the peer is 'anna'"),
    ],
    ids=["another match", "another name of ours", "another name of theirs"],
)
def test_a_switchboard_that_crosses_two_meetings_of_the_same_users(realm, theirs, kind, reason):
    """Both users are who they should be, so TLS is content; the confirmation is not."""
    ann, ben = realm.member("ann"), realm.member("ben")
    near, far = socket.socketpair()
    said = msgspec.structs.replace(meeting(Role.ACTIVE, "alice", "bob", "ann", "ben"), **theirs)
    at_ann, at_ben = play(
        Side(near, ann, said),
        Side(far, ben, meeting(Role.PASSIVE, "bob", "alice", "ben", "ann")),
    )
    fails(at_ben, kind, reason)
    fails(at_ann, TrustError, "the peer refuses", reason)


def test_a_switchboard_that_swaps_the_users(realm):
    """It tells a post of ben's that eve is ann; who comes to a post is seen by the certificate alone."""
    eve, ben = realm.member("eve"), realm.member("ben")
    near, far = socket.socketpair()
    at_eve, at_ben = play(
        Side(near, eve, meeting(Role.ACTIVE, "alice", "vault", "ann", "ben")),
        Side(far, ben, meeting(Role.PASSIVE, "vault", "alice", "ben", ""), allow=("ann", "eve")),
    )
    fails(at_ben, NotThatUser, "names the user 'ann'", "the certificate is of 'eve'")
    fails(at_eve, TrustError, "the peer refuses")


def test_a_switchboard_that_makes_both_sides_active_or_both_passive(realm):
    ann, ben = realm.member("ann"), realm.member("ben")
    for role in Role:
        near, far = socket.socketpair()
        outcomes = play(
            Side(near, ann, meeting(role, "alice", "bob", "ann", "ben")),
            Side(far, ben, meeting(role, "bob", "alice", "ben", "ann")),
        )
        assert not any(isinstance(each, Peer) for each in outcomes)


def test_a_connection_that_is_led_back_to_its_maker(realm):
    """Reflection: ann's own bytes, from her own post, under her own certificate."""
    ann = realm.member("ann")
    near, far = socket.socketpair()
    active, passive = play(
        Side(near, ann, meeting(Role.ACTIVE, "alice", "bob", "ann", "ben")),
        Side(far, ann, meeting(Role.PASSIVE, "vault", "bob", "ann", ""), allow=("ben",)),
    )
    fails(active, NotThatUser, "it is of 'ann'", "'ben' was asked for")
    assert isinstance(passive, TrunklineError)


def test_a_recorded_meeting_played_again(realm):
    """TLS agrees on new keys each time: nothing that was recorded can be read, let alone be believed."""
    ann, ben = realm.member("ann"), realm.member("ben")
    recorded: list[bytes] = []

    def record(way: int, data: bytes) -> bytes:
        if way == 0:
            recorded.append(data)
        return data

    wire = Between(record)
    outcomes = play(
        Side(wire.near, ann, meeting(Role.ACTIVE, "alice", "bob", "ann", "ben")),
        Side(wire.far, ben, meeting(Role.PASSIVE, "bob", "alice", "ben", "ann")),
        over=wire,
    )
    assert all(isinstance(each, Peer) for each in outcomes)
    replayer, far = socket.socketpair()
    side = Side(far, ben, meeting(Role.PASSIVE, "bob", "alice", "ben", "ann"))
    with replayer:
        for data in recorded:
            with contextlib.suppress(OSError):
                replayer.sendall(data)
            side.step()
        side.step()
    assert isinstance(side.outcome, TrunklineError)
    side.conn.close()
