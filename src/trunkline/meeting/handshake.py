"""What two matched peers say to each other on a fresh connection (docs/spec/switchboard.md section 6).

    active                                    passive
      Dial: TRUNKD/1, token, UDP port   -->     looks the token up
      binds, for datagrams              <--   Ready: TRUNKR/1, UDP port   (once for each match)
      Commit: TRUNKC/1                  -->     returns the connection
      returns the connection

Each of the three has a fixed length and neither side ever reads more than the one that it waits for, so no byte of the
user's stream passes through here. Each message moves both ends along the same path of states, so one table serves both
roles; which role sends a message is told by `SENDER`.

The machines don't judge: the owner looks the token up and calls `send_ready`, or closes. They end in COMMITTED (the
connection is the user's), or in BROKEN with one `Broken` event that says why.
"""

from abc import ABC, abstractmethod
from enum import IntEnum
from struct import Struct
from typing import ClassVar, Final

import msgspec

from trunkline.errors import LinkClosed, LocalError, MalformedMessage, NotTrunkline, VersionMismatch
from trunkline.wire.limits import TOKEN_SIZE

_VERSION: Final = b"1"
DIAL: Final = b"TRUNKD/" + _VERSION
READY: Final = b"TRUNKR/" + _VERSION
COMMIT: Final = b"TRUNKC/" + _VERSION
_PORT: Final = Struct("!H")

DIAL_SIZE: Final = len(DIAL) + TOKEN_SIZE + 2
READY_SIZE: Final = len(READY) + 2
COMMIT_SIZE: Final = len(COMMIT)


class Role(IntEnum):
    """Who dials, and who is dialled."""

    ACTIVE = 1
    PASSIVE = 2


class State(IntEnum):
    """How far the exchange is. The active side begins in SHOWN: making it is sending the Dial."""

    EXPECTING = 1
    """Nothing has come (passive only)."""
    SHOWN = 2
    """The Dial is out, or in."""
    READY = 3
    """The Ready is out, or in."""
    COMMITTED = 4
    """The connection belongs to the user."""
    BROKEN = 5
    """There will be no meeting on this connection."""


class Input(IntEnum):
    """What can happen to a handshake; the first three are sent by one side and received by the other."""

    DIAL = 1
    READY = 2
    COMMIT = 3
    GARBAGE = 4
    """Bytes that are not the next message, or more than it."""
    EOF = 5
    TIMEOUT = 6


SENDER: Final = {Input.DIAL: Role.ACTIVE, Input.READY: Role.PASSIVE, Input.COMMIT: Role.ACTIVE}

_ENDS: Final = {Input.GARBAGE: State.BROKEN, Input.EOF: State.BROKEN, Input.TIMEOUT: State.BROKEN}
TABLE: Final[dict[State, dict[Input, State]]] = {
    State.EXPECTING: {Input.DIAL: State.SHOWN, **_ENDS},
    State.SHOWN: {Input.READY: State.READY, **_ENDS},
    State.READY: {Input.COMMIT: State.COMMITTED, **_ENDS},
    State.COMMITTED: {},
    State.BROKEN: {},
}
"""Every legal move."""

_HANDED_OVER: Final = "the connection belongs to the user"
_OVER: Final = "the exchange is broken off"
ILLEGAL: Final[dict[tuple[State, Input], str]] = {
    (State.EXPECTING, Input.READY): "no token was shown yet",
    (State.EXPECTING, Input.COMMIT): "no token was shown yet",
    (State.SHOWN, Input.DIAL): "the token was shown already",
    (State.SHOWN, Input.COMMIT): "the passive side is not ready yet",
    (State.READY, Input.DIAL): "the token was shown already",
    (State.READY, Input.READY): "ready is said once",
    **{(State.COMMITTED, given): _HANDED_OVER for given in Input},
    **{(State.BROKEN, given): _OVER for given in Input},
}
"""Every other state and input, with the reason. Only the owner can cause one: a `LocalError`, and nothing changes."""


class DialShown(msgspec.Struct, frozen=True, gc=False):
    """The active side showed ``token``; the owner answers with `PassiveHandshake.send_ready`, or closes."""

    token: bytes
    udp_port: int


class PeerReady(msgspec.Struct, frozen=True, gc=False):
    """The passive side knows the token; the owner answers with `ActiveHandshake.send_commit`, or closes."""

    udp_port: int


class Committed(msgspec.Struct, frozen=True, gc=False):
    """The active side committed: the meeting is made."""


class Broken(msgspec.Struct, frozen=True, gc=False):
    """The exchange ended without a meeting."""

    error: Exception


HandshakeEvent = DialShown | PeerReady | Committed | Broken


class _Handshake(ABC):
    """What both roles share: a buffer of less than one message, and at most one event that nobody took yet."""

    __slots__ = ("_buffer", "_event", "_out", "deadline", "state")

    expected: ClassVar[dict[State, tuple[Input, bytes, int]]]
    """What is read in which state: the input, how it begins, how long it is."""

    def __init__(self, state: State, deadline: float | None, out: bytes = b"") -> None:
        self.state = state
        self.deadline = deadline
        """When to break off if the other side's next message has not come; None is never. The owner may change it."""
        self._buffer = b""
        self._out = out
        self._event: HandshakeEvent | None = None

    @property
    def bytes_wanted(self) -> int:
        """How many bytes may be read now: never one that is not ours."""
        awaited = self.expected.get(self.state)
        return 0 if awaited is None else awaited[2] - len(self._buffer)

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes, at most `bytes_wanted`; then ask `next_event`.

        Raises:
            LocalError: the exchange is over.
        """
        awaited = self.expected.get(self.state)
        if awaited is None:
            self._break(Input.GARBAGE, MalformedMessage(f"{len(data)} bytes came out of turn"))
            return
        given, start, size = awaited
        buffer = self._buffer + data if self._buffer else data
        if len(buffer) == size and buffer.startswith(start):
            self._buffer = b""
            self._advance(given)
            self._event = self._parse(given, buffer)
        elif len(buffer) > size:
            self._break(Input.GARBAGE, MalformedMessage(f"{len(buffer)} bytes where {size} are due"))
        elif buffer.startswith(start[: len(buffer)]):
            self._buffer = buffer
        else:
            self._break(Input.GARBAGE, _why_not(buffer, start))

    def receive_eof(self, now: float, reason: str = "the peer closed the connection") -> None:
        """Say that the connection ended.

        Raises:
            LocalError: the exchange is over.
        """
        self._break(Input.EOF, LinkClosed(reason))

    def next_event(self) -> HandshakeEvent | None:
        """Return what happened since the last call, once."""
        event, self._event = self._event, None
        return event

    def data_to_send(self) -> bytes:
        """Return what to send since the last call, once."""
        out, self._out = self._out, b""
        return out

    def next_deadline(self) -> float | None:
        """Return when `handle_timer` is due."""
        return self.deadline if TABLE[self.state] else None

    def handle_timer(self, now: float) -> None:
        """Break off if the deadline has passed."""
        if self.deadline is not None and now >= self.deadline and TABLE[self.state]:
            self._break(Input.TIMEOUT, LinkClosed("the peer's next message did not come in time"))

    def _advance(self, given: Input) -> None:
        state = TABLE[self.state].get(given)
        if state is None:
            raise LocalError(f"{given.name} can't be in {self.state.name}: {ILLEGAL[self.state, given]}")
        self.state = state

    def _break(self, given: Input, error: Exception) -> None:
        self._advance(given)
        self._buffer = self._out = b""
        self._event = Broken(error)

    @abstractmethod
    def _parse(self, given: Input, message: bytes) -> HandshakeEvent:
        """Return what a whole message says."""

    def snapshot(self) -> tuple[int, bytes, float | None]:
        """Return the whole state, between steps of the owner."""
        assert not self._out, "the owner sends what there is at once"
        assert self._event is None, "the owner takes the event at once"
        return (int(self.state), self._buffer, self.deadline)

    def restore(self, snapshot: tuple[int, bytes, float | None]) -> None:
        """Become what `snapshot` was taken of."""
        state, self._buffer, self.deadline = snapshot
        self.state = State(state)
        self._out = b""
        self._event = None


class ActiveHandshake(_Handshake):
    """The side that dials. The Dial is in `data_to_send` from the start."""

    __slots__ = ()
    expected: ClassVar = {State.SHOWN: (Input.READY, READY, READY_SIZE)}

    def __init__(self, token: bytes, udp_port: int = 0, *, deadline: float | None = None) -> None:
        assert len(token) == TOKEN_SIZE, "the codec checks a token's length"
        super().__init__(State.SHOWN, deadline, DIAL + token + _PORT.pack(udp_port))

    def send_commit(self) -> None:
        """Make the meeting: from the moment that `data_to_send` is sent, the connection is the user's.

        Raises:
            LocalError: the peer is not ready, or the exchange is over.
        """
        self._advance(Input.COMMIT)
        self._out = COMMIT

    def _parse(self, given: Input, message: bytes) -> HandshakeEvent:
        assert given is Input.READY, "the active side receives nothing else"
        return PeerReady(_PORT.unpack_from(message, len(READY))[0])


class PassiveHandshake(_Handshake):
    """The side that is dialled. It learns the token from the other side."""

    __slots__ = ()
    expected: ClassVar = {
        State.EXPECTING: (Input.DIAL, DIAL, DIAL_SIZE),
        State.READY: (Input.COMMIT, COMMIT, COMMIT_SIZE),
    }

    def __init__(self, *, deadline: float | None = None) -> None:
        super().__init__(State.EXPECTING, deadline)

    def send_ready(self, udp_port: int = 0) -> None:
        """Say that the token is known. The owner does this once for a token, on one connection.

        Raises:
            LocalError: no token was shown, or the exchange is over.
        """
        self._advance(Input.READY)
        self._out = READY + _PORT.pack(udp_port)

    def _parse(self, given: Input, message: bytes) -> HandshakeEvent:
        if given is Input.COMMIT:
            return Committed()
        end = len(DIAL) + TOKEN_SIZE
        return DialShown(bytes(message[len(DIAL) : end]), _PORT.unpack_from(message, end)[0])


def _why_not(buffer: bytes, start: bytes) -> Exception:
    family = start[: -len(_VERSION)]
    if buffer.startswith(family):
        theirs = buffer[: len(start)].decode("ascii", "replace")
        return VersionMismatch(theirs, start.decode("ascii"))
    return NotTrunkline(bytes(buffer[: len(start)]))
