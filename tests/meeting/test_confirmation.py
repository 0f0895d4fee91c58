import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.authority.messages import SignedHead
from trunkline.errors import (
    ForkedHistory,
    FrameTooLarge,
    LinkClosed,
    LocalError,
    MalformedMessage,
    NotAllowed,
    NotThatUser,
    RemoteError,
    SilentPeer,
    TrunklineError,
    TrustError,
)
from trunkline.meeting.confirmation import (
    ILLEGAL,
    MAX_CONFIRM,
    TABLE,
    Confirmation,
    Input,
    Meeting,
    PeerConfirmed,
    Refuse,
    State,
    refusal,
)
from trunkline.meeting.handshake import Role

ANN = Meeting(Role.ACTIVE, b"8 bytes.", "alice", "bob", "ann", "ben")
BEN = Meeting(Role.PASSIVE, b"8 bytes.", "bob", "alice", "ben", "ann")
POST = msgspec.structs.replace(BEN, peer_user="")
ANNS_HEAD = SignedHead(b"a head that ann has seen", b"signed")
BENS_HEAD = SignedHead(b"a head that ben has seen", b"signed")


def side(meeting: Meeting = ANN, *, proved: str = "", now: float = 0.0) -> Confirmation:
    """One side of the round trip; TLS has proved the peer to be ``proved``, by default whom it wants."""
    head = ANNS_HEAD if meeting.user == "ann" else BENS_HEAD
    return Confirmation(meeting, proved or meeting.peer_user or "ann", head, now=now, timeout=10.0)


def said_by(meeting: Meeting, *, to: str = "") -> bytes:
    """What a side that believes in ``meeting`` says when it is its turn."""
    return (
        side(msgspec.structs.replace(meeting, role=Role.ACTIVE), proved=to)
        .data_to_send()
        .replace(_role(Role.ACTIVE), _role(meeting.role), 1)
    )


def _role(role: Role) -> bytes:
    return bytes((0x01, role)) + b"\xc4\x08"  # the tag, the role, and how the match begins


def hear(listener: Confirmation, data: bytes) -> None:
    while data and (wanted := listener.bytes_wanted):
        listener.receive_data(data[:wanted], 0.0)
        data = data[wanted:]
    assert not data, "it would have read what is not for it"


def refused(listener: Confirmation, data: bytes, kind: type[TrunklineError], *parts: str) -> bytes:
    with pytest.raises(kind) as raised:
        hear(listener, data)
    for part in parts:
        assert part in str(raised.value)
    assert listener.state is State.BROKEN
    assert listener.next_event() is None
    return listener.data_to_send()


# ---- the round trip ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passive", [BEN, POST], ids=["meet", "post"])
def test_two_sides_of_one_meeting_confirm_it(passive):
    ann, ben = side(ANN), side(passive)
    assert ben.data_to_send() == b""
    hear(ben, ann.data_to_send())
    assert ben.next_event() == PeerConfirmed(ANNS_HEAD)
    assert ben.data_to_send() == b"", "the head is to be judged first"
    ben.accept()
    assert ben.state is State.CONFIRMED
    hear(ann, ben.data_to_send())
    assert ann.next_event() == PeerConfirmed(BENS_HEAD)
    ann.accept()
    assert ann.data_to_send() == b""
    assert ann.state is State.CONFIRMED
    assert ann.next_deadline() is None
    assert ann.bytes_wanted == ben.bytes_wanted == 0


def test_it_reads_byte_by_byte_and_not_one_too_many():
    ben, said = side(BEN), side(ANN).data_to_send()
    for at in range(len(said)):
        assert ben.bytes_wanted > 0
        assert ben.next_event() is None
        ben.receive_data(said[at : at + 1], 0.0)
    assert ben.next_event() == PeerConfirmed(ANNS_HEAD)
    assert ben.bytes_wanted == 0


def test_more_than_was_wanted_is_refused():
    said = side(ANN).data_to_send()
    ben = side(BEN)
    with pytest.raises(MalformedMessage, match="where 2 are due"):
        ben.receive_data(said, 0.0)


# ---- confirmations of something else ------------------------------------------------------------------------------


def test_a_reflected_confirmation_is_refused():
    ann = side(ANN)
    assert refused(ann, ann.data_to_send(), TrustError, "reflected") == b"", "the active side only closes"


def test_a_confirmation_of_another_match_is_refused():
    replayed = said_by(msgspec.structs.replace(ANN, match=b"earlier."))
    answer = refused(side(BEN), replayed, TrustError, "replayed", b"earlier.".hex())
    told = side(ANN)
    refused(told, answer, TrustError, "the peer refuses", "replayed")


@pytest.mark.parametrize(
    ("theirs", "kind", "parts"),
    [
        ({"user": "eve"}, NotThatUser, ["names the user 'eve'", "of 'ann'"]),
        ({"peer_user": "zoe"}, NotThatUser, ["means to talk to 'zoe'", "we are 'ben'"]),
        ({"me": "mallory"}, TrustError, ["'mallory'", "'alice'"]),
        ({"you": "carol"}, TrustError, ["'carol'", "'bob'"]),
        ({"me": "bob", "you": "alice"}, TrustError, ["the peer is 'bob' and meets 'alice'"]),
    ],
)
@pytest.mark.parametrize("passive", [BEN, POST], ids=["meet", "post"])
def test_a_confirmation_with_other_names_is_refused_and_told_why(passive, theirs, kind, parts):
    said = said_by(msgspec.structs.replace(ANN, **theirs))
    answer = refused(side(passive), said, kind, *parts)
    refused(side(ANN), answer, TrustError, "the peer refuses", parts[0])


def test_whom_tls_proved_must_be_who_was_asked_for():
    said = said_by(msgspec.structs.replace(ANN, user="eve"))
    refused(side(BEN, proved="eve"), said, NotThatUser, "the peer is 'eve'", "'ann' was asked for")


def test_the_active_side_checks_the_answer_as_well():
    for theirs, kind in (
        ({"user": "eve"}, NotThatUser),
        ({"peer_user": "zoe"}, NotThatUser),
        ({"me": "mallory"}, TrustError),
        ({"match": b"another."}, TrustError),
    ):
        ann = side(ANN)
        ann.data_to_send()
        assert refused(ann, said_by(msgspec.structs.replace(BEN, **theirs)), kind) == b""


# ---- judging, refusing ---------------------------------------------------------------------------------------------


def test_a_passive_side_that_does_not_like_the_head_says_so():
    ann, ben = side(ANN), side(BEN)
    hear(ben, ann.data_to_send())
    ben.refuse(ForkedHistory("heads: they don't fit together"))
    assert ben.state is State.BROKEN
    refused(ann, ben.data_to_send(), TrustError, "the peer refuses: heads: they don't fit together")


def test_an_active_side_that_does_not_like_the_head_only_closes():
    ann, ben = side(ANN), side(BEN)
    hear(ben, ann.data_to_send())
    ben.accept()
    hear(ann, ben.data_to_send())
    ann.refuse(ForkedHistory("heads"))
    assert ann.data_to_send() == b"", "the passive side's user would read it"


def test_whoever_is_not_allowed_hears_it_as_that():
    refused(side(ANN), refusal(NotAllowed("the user 'ann' may not")), NotAllowed, "the peer refuses: the user 'ann'")


def test_what_a_peer_says_can_not_play_with_the_terminal():
    with pytest.raises(TrustError) as raised:
        hear(side(ANN), refusal(TrustError("\x1b[2Jgone\nand away")))
    assert str(raised.value).isprintable()


def test_a_long_reason_is_cut():
    hear_it = side(ANN)
    with pytest.raises(TrustError):
        hear(hear_it, refusal(TrustError("x" * 10_000)))


# ---- rubbish, silence, the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"\xc1", b"\x93\x01\x01\x01", msgspec.msgpack.encode([1, 3]), b"\xff" * 40])
def test_rubbish_is_a_remote_error(body):
    refused(side(BEN), len(body).to_bytes(2, "big") + body, MalformedMessage, "the confirmation")


def test_nothing_is_too_little():
    refused(side(BEN), b"\0\0", MalformedMessage, "empty")


def test_a_frame_that_is_too_large_is_refused_at_its_header():
    refused(side(BEN), (MAX_CONFIRM + 1).to_bytes(2, "big"), FrameTooLarge, str(MAX_CONFIRM))


def test_the_largest_confirmation_fits():
    user = "/".join(["u" * 31] * 8)[:255]
    long = Meeting(Role.ACTIVE, b"8 bytes.", "é" * 127, "ü" * 127, user, user)
    said = Confirmation(long, user, SignedHead(b"x" * 512, b"y" * 128), now=0, timeout=1).data_to_send()
    assert len(said) <= MAX_CONFIRM


def test_the_end_of_the_stream_is_an_error():
    ben = side(BEN)
    with pytest.raises(LinkClosed, match="before the meeting was confirmed"):
        ben.receive_eof(0.0)
    assert ben.data_to_send() == b""
    assert ben.next_deadline() is None


def test_silence_is_an_error_in_time():
    ben = side(BEN, now=5.0)
    assert ben.next_deadline() == 15.0
    ben.handle_timer(14.9)
    with pytest.raises(SilentPeer, match="10 s"):
        ben.handle_timer(15.0)
    refused(side(ANN), ben.data_to_send(), TrustError, "the peer refuses: nothing was heard for 10 s")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_confirmation_or_a_stated_error(data):
    ben = side(BEN)
    try:
        while data and ben.bytes_wanted:
            size = ben.bytes_wanted
            ben.receive_data(data[:size], 0.0)
            data = data[size:]
    except (RemoteError, TrustError, NotAllowed):
        assert ben.state is State.BROKEN
    assert ben.next_event() is None, "nobody guesses a confirmation"


@given(st.data())
def test_any_change_to_a_confirmation_is_refused_or_changes_only_the_head(data):
    said = bytearray(side(ANN).data_to_send())
    at = data.draw(st.integers(2, len(said) - 1))
    said[at] ^= data.draw(st.integers(1, 255))
    ben = side(BEN)
    try:
        hear(ben, bytes(said))
    except (RemoteError, TrustError):
        return
    event = ben.next_event()
    assert event is not None
    assert event.head != ANNS_HEAD, "which its owner judges"


# ---- the table ------------------------------------------------------------------------------------------------------


def brought_to(state: State) -> Confirmation:
    ben = side(BEN)
    if state in (State.JUDGING, State.CONFIRMED):
        hear(ben, side(ANN).data_to_send())
    if state is State.CONFIRMED:
        ben.accept()
    if state is State.BROKEN:
        ben.refuse(TrustError("no"))
    ben.data_to_send()
    assert ben.state is state
    return ben


def cause(ben: Confirmation, given: Input) -> None:
    match given:
        case Input.CONFIRM:
            said = side(ANN).data_to_send()
        case Input.MISFIT:
            said = said_by(msgspec.structs.replace(ANN, me="mallory"))
        case Input.REFUSED:
            said = refusal(TrustError("no"))
        case Input.GARBAGE:
            said = b"\0\0"
        case Input.EOF:
            return ben.receive_eof(0.0)
        case Input.TIMEOUT:
            return ben.handle_timer(99.0)
        case Input.ACCEPT:
            return ben.accept()
        case Input.REFUSE:
            return ben.refuse(TrustError("no"))
    ben.receive_data(said[:2], 0.0)
    ben.receive_data(said[2:], 0.0)
    return None


@pytest.mark.parametrize(("state", "given"), list(itertools.product(State, Input)))
def test_every_state_and_input_is_legal_or_named_illegal(state, given):
    assert (given in TABLE[state]) != ((state, given) in ILLEGAL)
    ben = brought_to(state)
    if given in TABLE[state]:
        ended = (
            pytest.raises(TrunklineError)
            if given in (Input.MISFIT, Input.REFUSED, Input.GARBAGE, Input.EOF, Input.TIMEOUT)
            else None
        )
        if ended is None:
            cause(ben, given)
        else:
            with ended:
                cause(ben, given)
        assert ben.state is TABLE[state][given]
    elif given is Input.TIMEOUT:
        cause(ben, given)  # a timer that comes late is nobody's mistake
        assert ben.state is state
    else:
        with pytest.raises(LocalError):
            cause(ben, given)
        assert ben.state is state, "a mistake of the owner changes nothing"


def test_a_refusal_holds_the_code_of_its_error():
    frame = refusal(NotThatUser("who?"))
    assert msgspec.msgpack.decode(frame[2:], type=Refuse) == Refuse(NotThatUser.code, "who?")
    assert msgspec.msgpack.decode(refusal(LinkClosed("gone"))[2:], type=Refuse).code == TrustError.code
