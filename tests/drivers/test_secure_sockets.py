import socket
import ssl
from collections.abc import Callable, Iterator

import pytest

from tests.leaks import no_leaks
from tests.realmkit import Realm
from tests.securekit import Lone, TinyRealm, new_key
from trunkline.authority.statements import HASH_SIZE
from trunkline.drivers.secure_sockets import (
    SESSION_TIME,
    SecureConnection,
    SecureHandshake,
    Suspects,
    Want,
    ends_the_call,
    tls_error,
    user_of,
)
from trunkline.errors import (
    ForkedHistory,
    LinkClosed,
    MeetTimeout,
    NotAllowed,
    NotThatUser,
    RemoteError,
    Revoked,
    SilentPeer,
    StaleHead,
    TrunklineError,
    TrustError,
)
from trunkline.meeting.confirmation import Meeting
from trunkline.meeting.handshake import Role
from trunkline.names import Peer
from trunkline.wire.limits import MAX_AVOID

ANN = Meeting(Role.ACTIVE, b"8 bytes.", "alice", "bob", "ann", "ben")
BEN = Meeting(Role.PASSIVE, b"8 bytes.", "bob", "alice", "ben", "ann")
POST = Meeting(Role.PASSIVE, b"8 bytes.", "bob", "alice", "ben", "")

Outcome = Peer | TrunklineError
Pair = Callable[[], tuple[socket.socket, socket.socket]]


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


def tcp() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


class Two:
    """Both sides of a connection, each with its handshake, in one thread."""

    def __init__(
        self, ann: Lone, ben: Lone, a: Meeting = ANN, b: Meeting = BEN, pair: Pair = socket.socketpair
    ) -> None:
        self.handshakes = [
            SecureHandshake(a, ann, now=0.0),
            SecureHandshake(b, ben, allow=("ann", "ops/*"), now=0.0),
        ]
        self.socks = pair()
        self.conns: list[SecureConnection] = []
        self.outcomes: list[Outcome | None] = [None, None]
        for sock, handshake in zip(self.socks, self.handshakes, strict=True):
            sock.setblocking(False)
            self.conns.append(self.over_socket(handshake, sock))

    def over_socket(self, handshake: SecureHandshake, sock: socket.socket) -> SecureConnection:
        return handshake.over_socket(sock)

    def step(self, who: int) -> None:
        if self.outcomes[who] is not None:
            return
        try:
            if self.handshakes[who].step(0.0) is Want.NOTHING:
                self.outcomes[who] = self.handshakes[who].peer
        except TrunklineError as error:
            self.outcomes[who] = error
            self.conns[who].hang_up()

    def run(self) -> "Two":
        for _ in range(12):
            self.step(0)
            self.step(1)
            if None not in self.outcomes:
                break
        assert None not in self.outcomes, "they wait for each other"
        return self

    def end(self) -> tuple[Outcome, Outcome]:
        for conn in self.conns:
            conn.close()
        a, b = self.outcomes
        assert a is not None
        assert b is not None
        return a, b


def meet(*args: object, **more: object) -> tuple[Outcome, Outcome]:
    return Two(*args, **more).run().end()  # type: ignore[arg-type]


def fails(outcome: Outcome, kind: type[TrunklineError], *parts: str) -> None:
    assert type(outcome) is kind, outcome
    for part in parts:
        assert part in str(outcome)


# ---- two honest sides ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [socket.socketpair, tcp])
@pytest.mark.parametrize("passive", [BEN, POST], ids=["meet", "post"])
def test_two_sides_prove_who_they_are(ann, ben, passive, pair):
    two = Two(ann, ben, b=passive, pair=pair).run()
    near, far = two.conns
    near.setblocking(True)
    far.setblocking(True)
    near.sendall(b"hello")
    assert far.recv(99) == b"hello", "no byte of the stream is read or written by us"
    far.sendall(b"you too")
    assert near.recv(99) == b"you too"
    assert near.version() == "TLSv1.3"
    a, b = two.end()
    assert isinstance(a, Peer)
    assert (a.name, a.user, a.match) == ("bob", "ben", b"8 bytes.".hex())
    assert len(a.public_key) == HASH_SIZE
    assert a.public_key == ben.realm.identity_of("ben")
    assert isinstance(b, Peer)
    assert (b.name, b.user) == ("alice", "ann")
    assert b.certificate.startswith(b"\x30")


def test_heads_are_exchanged(ann, ben):
    ann.seen.clear()
    ben.seen.clear()
    meet(ann, ben)
    assert ann.seen == [ben.head()]
    assert ben.seen == [ann.head()]


def test_over_memory(ann, ben):
    """What comes and goes is in the hands of the owner."""
    ends = []
    for meeting, member in ((ANN, ann), (BEN, ben)):
        handshake = SecureHandshake(meeting, member, now=0.0)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        handshake.over_memory(incoming, outgoing)
        ends.append((handshake, incoming, outgoing))
    wants = [Want.READ, Want.READ]
    for _ in range(6):
        for me in (0, 1):
            if wants[me] is Want.READ:
                wants[me] = ends[me][0].step(0.0)
            ends[1 - me][1].write(ends[me][2].read())
    assert wants == [Want.NOTHING, Want.NOTHING]
    assert ends[0][0].peer.user == "ben"


def test_a_real_membership_will_do():
    realm = Realm()
    a, b = meet(realm.membership("ann"), realm.membership("ben"))
    assert isinstance(a, Peer)
    assert isinstance(b, Peer)
    assert (a.user, b.user) == ("ben", "ann")


# ---- sessions ------------------------------------------------------------------------------------------------------


def reused(ann: Lone, ben: Lone) -> bool:
    two = Two(ann, ben).run()
    was = two.conns[0].session_reused
    assert all(isinstance(outcome, Peer) for outcome in two.end())
    assert was is not None
    return was


def test_the_next_handshake_is_short(realm):
    ann, ben = realm.member("ann"), realm.member("ben")
    assert [reused(ann, ben) for _ in range(3)] == [False, True, True]
    (kept,) = ann.sessions.kept.values()
    assert kept[1].timeout > SESSION_TIME


def test_a_session_that_is_old_is_changed_for_a_new_one(realm, monkeypatch):
    ann, ben = realm.member("ann"), realm.member("ben")
    reused(ann, ben)
    (first,) = ann.sessions.kept.values()
    reused(ann, ben)
    assert list(ann.sessions.kept.values()) == [first]
    monkeypatch.setattr("trunkline.drivers.secure_sockets.SESSION_TIME", -1)
    assert not reused(ann, ben)
    assert list(ann.sessions.kept.values()) != [first]


class Late(Two):
    """The passive side begins when the hello is there, as the drivers have it."""

    def over_socket(self, handshake: SecureHandshake, sock: socket.socket) -> SecureConnection:
        if handshake is self.handshakes[1]:
            assert not handshake.can_begin(sock)
            assert self.handshakes[0].can_begin(self.conns[0])
            self.step(0)
            assert handshake.can_begin(sock)
        return super().over_socket(handshake, sock)

    def tickets(self) -> int:
        """Run, and say how many tickets there were."""
        self.run()
        given = self.conns[1].context.num_tickets
        assert all(isinstance(outcome, Peer) for outcome in self.end())
        return given


def test_who_resumes_gets_no_other_ticket(realm):
    ann, ben = realm.member("ann"), realm.member("ben")
    assert [Late(ann, ben).tickets() for _ in range(3)] == [1, 0, 0]


def test_who_asks_to_resume_in_vain_has_a_full_handshake_and_then_a_ticket(realm):
    ann, ben = realm.member("ann"), realm.member("ben")
    assert Late(ann, ben).tickets() == 1
    ben = realm.member("ben")  # it was started anew, and knows of no session
    assert Late(ann, ben).tickets() == 0
    assert not ann.sessions.kept
    assert Late(ann, ben).tickets() == 1
    assert reused(ann, ben)


def test_a_connection_that_is_gone_is_no_reason_to_wait(ben):
    near, far = tcp()
    with far:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        near.close()
        far.setblocking(False)
        assert SecureHandshake(BEN, ben, now=0.0).can_begin(far)


def test_who_is_revoked_is_refused_on_a_resumed_connection_too(realm):
    ann, ben = realm.member("ann"), realm.member("ben")
    reused(ann, ben)

    def judge(identity: object) -> None:
        raise Revoked("certificate: it was revoked")

    ben.judge = judge
    a, b = meet(ann, ben)
    fails(b, Revoked)
    fails(a, TrustError, "the peer refuses: certificate: it was revoked")


def test_a_session_with_somebody_who_is_refused_is_forgotten(realm):
    ann, ben = realm.member("ann"), realm.member("ben")
    reused(ann, ben)

    def judge(identity: object) -> None:
        raise Revoked("certificate: it was revoked")

    ann.judge = judge
    a, b = meet(ann, ben)
    fails(a, Revoked)
    fails(b, TrustError, "the peer refuses")
    assert not ann.sessions.kept


# ---- those who can't prove it --------------------------------------------------------------------------------------


def self_signed(realm: TinyRealm, user: str) -> Lone:
    other = TinyRealm(realm.name)  # the same name, and a root of its own making
    key = new_key()
    return realm.impostor(user, other.chain(user, key), key)


def other_realm(realm: TinyRealm, user: str) -> Lone:
    other = TinyRealm("elsewhere.example")
    key = new_key()
    return realm.impostor(user, other.chain(user, key), key)


def expired(realm: TinyRealm, user: str) -> Lone:
    return realm.member(user, not_before=-900, not_after=-300)


def not_yet_valid(realm: TinyRealm, user: str) -> Lone:
    return realm.member(user, not_before=600, not_after=900)


def signed_by_a_user(realm: TinyRealm, user: str) -> Lone:
    """Eve has a good certificate, and signs another with it."""
    eve, key = new_key(), new_key()
    (good, intermediate) = realm.chain("eve", eve)
    return realm.impostor(user, (realm.signed_by(good, eve, user, key), good, intermediate), key)


BAD = {
    self_signed: "self-signed",
    other_realm: "unable to get local issuer",
    expired: "certificate has expired",
    not_yet_valid: "certificate is not yet valid",
    signed_by_a_user: "",
}


@pytest.mark.parametrize("pair", [socket.socketpair, tcp])
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_certificate_on_the_side_that_is_dialled(realm, ann, bad, pair):
    ann.sessions.kept.clear()
    a, b = meet(ann, bad(realm, "ben"), pair=pair)
    fails(a, TrustError, "certificate: the peer's is not good")
    fails(b, TrustError, "the peer does not accept ours")


@pytest.mark.parametrize("pair", [socket.socketpair, tcp])
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_certificate_on_the_side_that_dials(realm, ben, bad, pair):
    """It is done with TLS before it hears of it, at its first read."""
    a, b = meet(bad(realm, "ann"), ben, pair=pair)
    fails(b, TrustError, "certificate: the peer's is not good")
    fails(a, TrustError, "the peer does not accept ours")


@pytest.mark.parametrize("pair", [socket.socketpair, tcp])
def test_a_peer_that_refuses_and_is_gone_before_we_write(realm, ben, pair):
    """Then it is the write that fails; why, is still there to be read."""
    ann = expired(realm, "ann")
    two = Two(ann, ben, pair=pair)
    ann.judge = lambda identity: two.step(1)
    a, b = two.run().end()
    fails(b, TrustError, "certificate has expired")
    fails(a, TrustError, "the peer does not accept ours", "certificate expired")


def test_a_peer_that_is_gone_before_we_write_and_has_said_nothing(realm, ben):
    ann = realm.member("ann")
    two = Two(ann, ben)

    def go_away(identity: object) -> None:
        two.conns[1].close()
        two.outcomes[1] = LinkClosed("gone")

    ann.judge = go_away
    a, _ = two.run().end()
    fails(a, LinkClosed)


def test_no_certificate_at_all(realm, ben):
    a, b = meet(realm.impostor("ann", (), new_key()), ben)
    fails(b, TrustError, "the peer shows none")
    fails(a, TrustError, "certificate required")


def test_the_dialled_side_is_somebody_else(realm, ann):
    a, b = meet(ann, realm.member("eve"))
    fails(a, NotThatUser, "it is of 'eve'", "'ben' was asked for")
    fails(b, TrustError, "the peer refuses")


def test_the_dialling_side_is_somebody_else(realm, ben):
    a, b = meet(realm.member("eve"), ben)
    fails(b, NotThatUser, "it is of 'eve'", "'ann' was asked for")
    fails(a, TrustError, "the peer refuses")


def test_who_is_not_on_the_list_of_a_post(realm, ben):
    for user, may in (("ops/joe", True), ("ops", False), ("ops/joe/x", False), ("eve", False)):
        a, b = meet(realm.member(user), ben, a=_as(user), b=POST)
        if may:
            assert isinstance(b, Peer)
            assert b.user == user
        else:
            fails(b, NotAllowed, f"the user {user!r} may not come to 'bob'")
            fails(a, NotAllowed, "the peer refuses")


def _as(user: str) -> Meeting:
    return Meeting(Role.ACTIVE, ANN.match, ANN.me, ANN.you, user, ANN.peer_user)


def test_histories_that_do_not_fit_together(realm):
    ann, ben = realm.member("ann"), realm.member("ben")
    ben.forked = True
    a, b = meet(ann, ben)
    fails(b, ForkedHistory)
    assert isinstance(b, TrunklineError)
    assert ends_the_call(b)
    fails(a, TrustError, "the peer refuses: heads")
    assert isinstance(a, TrunklineError)
    assert not ends_the_call(a), "that is what a peer says"
    ann.forked, ben.forked = True, False
    a, b = meet(ann, ben)
    fails(a, ForkedHistory)
    assert isinstance(b, Peer), "it had confirmed; it reads EOF"


# ---- other protocols, silence, the end -----------------------------------------------------------------------------


def against(member: Lone, meeting: Meeting, act: Callable[[socket.socket, Callable[[], None]], None]) -> Outcome:
    """One handshake against something else."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        handshake = SecureHandshake(meeting, member, now=0.0)
        conn = handshake.over_socket(ours)
        outcomes: list[Outcome] = []

        def step() -> None:
            if not outcomes:
                try:
                    if handshake.step(0.0) is Want.NOTHING:
                        outcomes.append(handshake.peer)
                except TrunklineError as error:
                    outcomes.append(error)

        with conn:
            step()
            act(theirs, step)
            step()
        (outcome,) = outcomes
        return outcome


@pytest.mark.parametrize("meeting", [ANN, BEN], ids=["active", "passive"])
def test_a_peer_that_does_not_speak_tls(ann, ben, meeting):
    ann.sessions.kept.clear()
    member = ann if meeting is ANN else ben
    fails(against(member, meeting, lambda sock, _: sock.sendall(b"hello, in the clear\n" * 9)), RemoteError, "TLS")


def older(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = version
    return context


@pytest.mark.parametrize("meeting", [ANN, BEN], ids=["active", "passive"])
def test_a_peer_that_wants_an_older_tls(realm, ann, ben, meeting):
    """A downgrade: whoever sits between can make one side believe that the other knows no better."""
    ann.sessions.kept.clear()
    other = realm.member("ben" if meeting is ANN else "ann")
    context = older(other.tls_server() if meeting is ANN else other.tls_client(), ssl.TLSVersion.TLSv1_2)
    member = ann if meeting is ANN else ben

    def act(sock: socket.socket, step: Callable[[], None]) -> None:
        sock.setblocking(False)
        with context.wrap_socket(sock, server_side=meeting is ANN, do_handshake_on_connect=False) as tls:
            for _ in range(4):
                try:
                    tls.do_handshake()
                except ssl.SSLWantReadError:
                    step()
                except ssl.SSLError:
                    break

    fails(against(member, meeting, act), RemoteError, "does not speak TLS 1.3")


def test_even_a_context_that_would_take_an_older_tls_is_not_believed(realm):
    ann, ben = realm.member("ann"), realm.member("ben")
    older(ann.tls_client(), ssl.TLSVersion.TLSv1_2)
    older(ben.tls_server(), ssl.TLSVersion.TLSv1_2)
    two = Two(ann, ben)
    for _ in range(6):
        two.step(0)
        two.step(1)
    errors = [outcome for outcome in two.outcomes if isinstance(outcome, TrustError)]
    assert any("TLSv1.2" in str(error) for error in errors)
    assert not any(isinstance(outcome, Peer) for outcome in two.outcomes)
    for conn in two.conns:
        conn.close()


@pytest.mark.parametrize("meeting", [ANN, BEN], ids=["active", "passive"])
def test_a_peer_that_hangs_up(ann, ben, meeting):
    ann.sessions.kept.clear()
    member = ann if meeting is ANN else ben
    fails(against(member, meeting, lambda sock, _: sock.close()), LinkClosed)


def test_a_peer_that_hangs_up_after_tls(ann, ben):
    two = Two(ann, ben)
    while two.handshakes[1].peer.name == "":
        two.step(0)
        two.step(1)
    two.conns[0].close()
    two.outcomes[0] = Peer("")
    two.step(1)
    two.step(1)
    assert isinstance(two.outcomes[1], LinkClosed | Peer)
    two.end()


def test_a_connection_that_is_gone_before_it_begins(ann):
    ours, theirs = tcp()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    ours.setblocking(False)
    handshake = SecureHandshake(ANN, ann, now=0.0)
    with pytest.raises(LinkClosed):
        with handshake.over_socket(ours):
            handshake.step(0.0)


def test_silence_has_an_end(ann, ben):
    handshake = SecureHandshake(BEN, ben, now=100.0, timeout=3.0)
    assert handshake.deadline == 103.0
    with pytest.raises(SilentPeer, match="3 s"):
        handshake.expire(103.0)


def test_silence_after_tls_has_an_end_and_the_peer_is_told(ann, ben):
    ann.sessions.kept.clear()
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    handshake = SecureHandshake(BEN, ben, now=0.0)
    conn = handshake.over_socket(ours)
    mute = ann.tls_client().wrap_socket(theirs, do_handshake_on_connect=False)
    with conn, mute:
        for _ in range(4):
            try:
                mute.do_handshake()
            except ssl.SSLWantReadError:
                assert handshake.step(0.0) is Want.READ
        assert handshake.step(0.0) is Want.READ
        with pytest.raises(SilentPeer, match="10 s"):
            handshake.expire(10.0)
        assert b"nothing was heard" in mute.recv(999)


def test_our_own_side_may_not_be_ready(realm):
    ann = realm.member("ann")

    def none() -> None:
        raise StaleHead("no head was ever seen")

    ann.head = none  # type: ignore[method-assign, assignment]
    with pytest.raises(StaleHead):
        SecureHandshake(ANN, ann, now=0.0)
    ann.user = None  # type: ignore[assignment]
    with pytest.raises(NotAllowed, match="trunkline key new"):
        user_of(ann)


# ---- the small parts -----------------------------------------------------------------------------------------------


def test_suspects_are_told_of_once_for_each_reason():
    suspects = Suspects("bob")
    assert suspects.pause() == 0.0
    for n in range(20):
        suspects.add(bytes([n]) * 16, "ben", TrustError("certificate: it has expired"))
    suspects.add(b"z" * 16, "ben", LinkClosed("gone"))
    assert len(suspects.avoid) == MAX_AVOID
    assert suspects.avoid[-1] == b"z" * 16
    assert suspects.notes == (
        "somebody under the name 'bob' could not prove to be 'ben' (certificate: it has expired), 20 times",
        "somebody under the name 'bob' could not prove to be 'ben' (gone)",
    )
    for n in range(20):
        suspects.add(b"y" * 16, "ben", LinkClosed(str(n)))
    assert len(suspects.notes) == 8
    assert MeetTimeout("alice", "bob", 1, suspects.notes).explanation == suspects.notes


def test_impostors_are_met_ever_more_slowly():
    suspects = Suspects("bob")
    pauses = []
    for n in range(9):
        suspects.add(bytes([n]) * 16, "ben", TrustError("no"))
        pauses.append(suspects.pause())
    assert pauses == [0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


@pytest.mark.parametrize(
    ("error", "kind", "part"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), LinkClosed, "Connection reset by peer"),
        (ssl.SSLEOFError(8, "EOF occurred"), LinkClosed, "closed the connection"),
        (ssl.SSLZeroReturnError(6, "closed"), LinkClosed, "closed the connection"),
        (ssl.SSLError(1, "something"), RemoteError, "something"),
    ],
)
def test_errors_are_said_in_our_words(error, kind, part):
    told = tls_error(error)
    assert type(told) is kind
    assert part in str(told)


def test_a_connection_says_who_is_there(ann, ben):
    two = Two(ann, ben).run()
    conn = two.conns[0]
    conn.peer = two.handshakes[0].peer
    assert "to 'bob' of 'ben'" in repr(conn)
    two.end()
