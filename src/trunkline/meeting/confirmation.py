"""The confirming round trip of a secure meeting, inside TLS (docs/spec/secure-meeting.md section 3).

    active (TLS client)                           passive (TLS server)
      Confirm: role 1, the meeting, my head  -->    checks it against its own meeting, judges the head
      checks it, judges the head             <--    Confirm: role 2, the same meeting, my head
      returns the connection                        returns the connection

TLS has proved who holds the other end; this binds it to one meeting. Both say the match, both process names and both
users; whoever hears anything else than its own meeting, seen from the other side, refuses. The role keeps a
confirmation from being reflected, the match from being replayed, names and users from being crossed. The heads are how
peers find out that the authority tells them different histories.

A side that doesn't want the other says why (Refuse) instead of its Confirm. Once the passive side has sent its Confirm,
the stream belongs to the users: from there on the active side refuses by closing.

Each message is a frame of a u16 length and MessagePack, and not a byte beyond it is read. The machine judges all but
the head, which needs the realm's keys: its owner takes `PeerConfirmed`, judges, and calls `accept` or `refuse`. What is
wrong is raised; nothing is told by a return value.
"""

from enum import IntEnum
from struct import Struct
from typing import Annotated, Final, NoReturn

import msgspec
from msgspec import Meta

from trunkline.authority.messages import SignedHead
from trunkline.authority.statements import UserName
from trunkline.errors import (
    FrameTooLarge,
    LinkClosed,
    LocalError,
    MalformedMessage,
    NotAllowed,
    NotThatUser,
    SilentPeer,
    TrunklineError,
    TrustError,
)
from trunkline.meeting.handshake import Role
from trunkline.wire.limits import MATCH_SIZE, MAX_TEXT

MAX_CONFIRM: Final = 4096
"""Largest frame body in bytes: two process names, two users and a head take less than 3 KiB."""

_LENGTH: Final = Struct("!H")

Name = Annotated[str, Meta(min_length=1, max_length=255)]


class Confirm(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """I am in this meeting, and this is the newest head that I have seen."""

    role: Annotated[int, Meta(ge=1, le=2)]
    """The sender's `Role`."""
    match: Annotated[bytes, Meta(min_length=MATCH_SIZE, max_length=MATCH_SIZE)]
    me: Name
    """What the sender's process calls itself."""
    you: Name
    user: UserName
    """The sender."""
    peer_user: UserName
    """Whom the sender means to talk to, and knows from TLS to be talking to."""
    head: SignedHead


class Refuse(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """I don't want this meeting with you; ``code`` is an error's wire code."""

    code: Annotated[int, Meta(ge=0, lt=1 << 16)]
    text: Annotated[str, Meta(max_length=MAX_TEXT)]


class Meeting(msgspec.Struct, frozen=True):
    """A meeting as one side knows it before the peer has proved anything."""

    role: Role
    match: bytes
    me: str
    """What this process calls itself; for a post, its name."""
    you: str
    """What the peer's process calls itself, by what the server said."""
    user: str
    """Our user."""
    peer_user: str
    """Whom we want to talk to; empty on a post, which has a list of them."""


class State(IntEnum):
    """How far the round trip is."""

    EXPECTING = 1
    """The peer's Confirm has not come."""
    JUDGING = 2
    """It has come and fits; the owner judges the head."""
    CONFIRMED = 3
    """The connection is the user's."""
    BROKEN = 4
    """There is no meeting here."""


class Input(IntEnum):
    """What can happen; CONFIRM, REFUSE and GARBAGE come from the peer."""

    CONFIRM = 1
    """The peer's Confirm, and it fits."""
    MISFIT = 2
    """The peer's Confirm, and it is for another meeting, or from another than TLS has proved."""
    REFUSED = 3
    """The peer's Refuse."""
    GARBAGE = 4
    EOF = 5
    TIMEOUT = 6
    ACCEPT = 7
    """The owner has judged the head to be good."""
    REFUSE = 8
    """The owner doesn't want the peer."""


_ENDS: Final = dict.fromkeys(
    (Input.MISFIT, Input.REFUSED, Input.GARBAGE, Input.EOF, Input.TIMEOUT, Input.REFUSE), State.BROKEN
)
TABLE: Final[dict[State, dict[Input, State]]] = {
    State.EXPECTING: {Input.CONFIRM: State.JUDGING, **_ENDS},
    State.JUDGING: {
        Input.ACCEPT: State.CONFIRMED,
        Input.REFUSE: State.BROKEN,
        Input.EOF: State.BROKEN,
        Input.TIMEOUT: State.BROKEN,
    },
    State.CONFIRMED: {},
    State.BROKEN: {},
}
"""Every legal move."""

_ONCE: Final = "the peer's Confirm is here: what follows is the user's"
_HANDED_OVER: Final = "the connection belongs to the user"
_OVER: Final = "the round trip is broken off"
ILLEGAL: Final[dict[tuple[State, Input], str]] = {
    (State.EXPECTING, Input.ACCEPT): "the peer has not confirmed anything",
    (State.JUDGING, Input.CONFIRM): _ONCE,
    (State.JUDGING, Input.MISFIT): _ONCE,
    (State.JUDGING, Input.REFUSED): _ONCE,
    (State.JUDGING, Input.GARBAGE): _ONCE,
    **{(State.CONFIRMED, given): _HANDED_OVER for given in Input},
    **{(State.BROKEN, given): _OVER for given in Input},
}
"""Every other state and input, with the reason. Only the owner can cause one: a `LocalError`, and nothing changes."""


class PeerConfirmed(msgspec.Struct, frozen=True, gc=False):
    """The peer's Confirm fits; the owner judges ``head`` and calls `Confirmation.accept` or `Confirmation.refuse`."""

    head: SignedHead


class Confirmation:
    """One side of the round trip. The active side's Confirm is in `data_to_send` from the start.

    Args:
        meeting: what this side knows of it, `Meeting.peer_user` included.
        peer_user: whom TLS has proved the peer to be.
        head: the newest head that this side has seen.
        now: the owner's clock.
        timeout: seconds within which the peer's Confirm has to come.
    """

    __slots__ = ("_buffer", "_deadline", "_event", "_head", "_meeting", "_out", "_peer_user", "_timeout", "state")

    def __init__(self, meeting: Meeting, peer_user: str, head: SignedHead, *, now: float, timeout: float) -> None:
        self.state = State.EXPECTING
        self._meeting = meeting
        self._peer_user = peer_user
        self._head = head
        self._timeout = timeout
        self._deadline = now + timeout
        self._buffer = b""
        self._event: PeerConfirmed | None = None
        self._out = self._confirm() if meeting.role is Role.ACTIVE else b""

    @property
    def bytes_wanted(self) -> int:
        """How many bytes may be read now: never one that is not ours."""
        if self.state is not State.EXPECTING:
            return 0
        if len(self._buffer) < _LENGTH.size:
            return _LENGTH.size - len(self._buffer)
        size: int = _LENGTH.unpack_from(self._buffer)[0]
        return _LENGTH.size + size - len(self._buffer)

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes, at most `bytes_wanted`; then ask `next_event`.

        Raises:
            TrustError: the peer confirms another meeting, or is another than TLS has proved, or refuses us.
            NotAllowed: the peer refuses us because our user may not do this.
            RemoteError: it sent something else.
            LocalError: the round trip is over.
        """
        if self.state is not State.EXPECTING:
            self._advance(Input.GARBAGE)
        if len(data) > self.bytes_wanted:
            self._fail(Input.GARBAGE, MalformedMessage(f"{len(data)} bytes where {self.bytes_wanted} are due"))
        self._buffer += data
        if len(self._buffer) < _LENGTH.size:
            return
        (size,) = _LENGTH.unpack_from(self._buffer)
        if not size:
            self._fail(Input.GARBAGE, MalformedMessage("an empty confirmation"))
        if size > MAX_CONFIRM:
            self._fail(Input.GARBAGE, FrameTooLarge(size, MAX_CONFIRM))
        if len(self._buffer) < _LENGTH.size + size:
            return
        body, self._buffer = self._buffer[_LENGTH.size :], b""
        try:
            message = _decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._fail(Input.GARBAGE, MalformedMessage(f"the confirmation: {error}"))
        if isinstance(message, Refuse):
            self._fail(Input.REFUSED, _refusal(message))
        self._check(message)
        self._advance(Input.CONFIRM)
        self._event = PeerConfirmed(message.head)

    def receive_eof(self, now: float) -> None:
        """Say that the connection ended.

        Raises:
            LinkClosed: always, but for
            LocalError: the round trip is over.
        """
        self._fail(Input.EOF, LinkClosed("the peer closed the connection before the meeting was confirmed"))

    def next_event(self) -> PeerConfirmed | None:
        """Return what happened since the last call, once."""
        event, self._event = self._event, None
        return event

    def accept(self) -> None:
        """Say that the peer's head is good: when `data_to_send` is sent, the connection is the user's.

        Raises:
            LocalError: the peer has not confirmed, or the round trip is over.
        """
        self._advance(Input.ACCEPT)
        if self._meeting.role is Role.PASSIVE:
            self._out = self._confirm()

    def refuse(self, error: TrunklineError) -> None:
        """Break off because of ``error``; `data_to_send` tells the peer, if it is still listening for that.

        Raises:
            LocalError: the round trip is over.
        """
        self._advance(Input.REFUSE)
        self._tell(error)

    def data_to_send(self) -> bytes:
        """Return what to send since the last call, once; also after an error was raised: the peer may be told."""
        out, self._out = self._out, b""
        return out

    def next_deadline(self) -> float | None:
        """Return when `handle_timer` is due."""
        return self._deadline if TABLE[self.state] else None

    def handle_timer(self, now: float) -> None:
        """Break off if the deadline has passed.

        Raises:
            SilentPeer: it has.
        """
        if now >= self._deadline and TABLE[self.state]:
            self._fail(Input.TIMEOUT, SilentPeer(self._timeout))

    # ---- inside ------------------------------------------------------------------------------------------------

    def _confirm(self) -> bytes:
        m = self._meeting
        return frame(Confirm(int(m.role), m.match, m.me, m.you, m.user, self._peer_user, self._head))

    def _check(self, theirs: Confirm) -> None:
        """Compare the peer's view with ours; the order is from what it is to whom it is with."""
        m = self._meeting
        if theirs.role == m.role:
            self._fail(Input.MISFIT, TrustError("confirmation: the peer takes our own side (it was reflected)"))
        if theirs.match != m.match:
            what = f"it is for the match {theirs.match.hex()}, and this is {m.match.hex()}"
            self._fail(Input.MISFIT, TrustError(f"confirmation: {what} (it was replayed, or two meetings are crossed)"))
        if theirs.user != self._peer_user:
            what = f"it names the user {theirs.user!r}, and the certificate is of {self._peer_user!r}"
            self._fail(Input.MISFIT, NotThatUser(f"confirmation: {what}"))
        if m.peer_user and theirs.user != m.peer_user:
            what = f"the peer is {theirs.user!r}, and {m.peer_user!r} was asked for"
            self._fail(Input.MISFIT, NotThatUser(f"confirmation: {what}"))
        if theirs.peer_user != m.user:
            what = f"the peer means to talk to {theirs.peer_user!r}, and we are {m.user!r}"
            self._fail(Input.MISFIT, NotThatUser(f"confirmation: {what}"))
        if (theirs.me, theirs.you) != (m.you, m.me):
            what = f"the peer is {theirs.me!r} and meets {theirs.you!r}, and this is {m.me!r} meeting {m.you!r}"
            self._fail(Input.MISFIT, TrustError(f"confirmation: {what}"))

    def _fail(self, given: Input, error: TrunklineError) -> NoReturn:
        expecting = self.state is State.EXPECTING
        self._advance(given)
        self._buffer = b""
        self._event = None
        if expecting and given in (Input.MISFIT, Input.GARBAGE, Input.TIMEOUT):
            self._tell(error)
        else:
            self._out = b""
        raise error

    def _tell(self, error: TrunklineError) -> None:
        # The active side's Confirm may be on its way back as our user's stream begins: it only closes.
        active = self._meeting.role is Role.ACTIVE
        self._out = b"" if active else refusal(error)

    def _advance(self, given: Input) -> None:
        state = TABLE[self.state].get(given)
        if state is None:
            raise LocalError(f"{given.name} can't be in {self.state.name}: {ILLEGAL[self.state, given]}")
        self.state = state


def refusal(error: TrunklineError) -> bytes:
    """Return the frame that tells the peer why it is refused: instead of a Confirm, by either side."""
    return frame(Refuse(getattr(error, "code", TrustError.code), str(error)[:MAX_TEXT]))


def frame(message: Confirm | Refuse) -> bytes:
    """Return a message as it is sent."""
    body = _encode(message)
    assert len(body) <= MAX_CONFIRM, "names, users and heads have limits of their own"
    return _LENGTH.pack(len(body)) + body


def _refusal(message: Refuse) -> TrunklineError:
    told = "".join(c if c.isprintable() else "�" for c in message.text)  # it ends up on terminals
    text = f"the peer refuses: {told}"
    return NotAllowed(text) if message.code == NotAllowed.code else TrustError(text)


_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(Confirm | Refuse)
