"""Bytes to messages and back, and liveness: what the sender's and the receiver's machine share.

Raw file bytes pass through here without being copied or looked at: coming in, they are cut from the
caller's buffer as views; going out, the machine says how many are due and the driver moves them as it
likes (docs/spec/transfer.md section 6).
"""

import dataclasses
from collections import deque
from typing import ClassVar

from trunkline import errors

from . import messages
from .lifecycle import Course, LinkState, Role
from .manifest import Manifest

SILENCE = 120.0
"""Seconds without a byte from the peer after which it is given up; TCP alone would wait for hours."""
ALIVE_EVERY = 20.0
"""Seconds without a byte of ours after which we say that we live: several fit into SILENCE."""


@dataclasses.dataclass(frozen=True, slots=True)
class FileBytes:
    """Raw bytes of a file. `data` is a view of the caller's buffer: use it before you reuse that."""

    index: int
    offset: int
    data: memoryview


Event = messages.Message | FileBytes


class TransferLink:
    """One side of one connection; see `Sender` and `Receiver`."""

    role: ClassVar[Role]

    def __init__(self, manifest: Manifest, now: float) -> None:
        self.course = Course(manifest)
        self.stopped_by_peer: messages.Stop | None = None
        """Set as soon as it is heard, ahead of the events that wait."""
        self._events: deque[Event] = deque()
        self._inbox = bytearray()
        self._greeted = False
        self._raw_in = 0
        self._raw_index = 0
        self._raw_offset = 0
        self._failed: errors.TrunklineError | None = None
        self._outbox: list[bytes] = [messages.PREAMBLE]
        self._held: list[bytes] = []
        self._raw_out = 0
        self._now = now
        self._heard = now
        self._spoke = now

    # Bytes in

    def receive_data(self, data: bytes | memoryview, now: float) -> None:
        """Take bytes from the peer; afterwards drain next_event().

        Raises:
            RemoteError: the peer broke the rules; it is told by a Stop in data_to_send(); the link is over.
        """
        if self._failed is not None:
            raise self._failed
        self._now = self._heard = now
        view = memoryview(data)
        try:
            while view:
                view = view[self._take(view) :]
        except errors.RemoteError as error:
            self._fail(error)
            raise

    def _take(self, view: memoryview) -> int:
        """Use up some bytes of the view and return how many."""
        if self._raw_in:
            size = min(len(view), self._raw_in)
            self._events.append(FileBytes(self._raw_index, self._raw_offset, view[:size]))
            self._raw_in -= size
            self._raw_offset += size
            return size
        if not self._greeted:
            return self._take_preamble(view)
        inbox = self._inbox
        goal = messages.HEADER_BYTES
        if len(inbox) >= goal:
            goal += messages.frame_size(inbox[: messages.HEADER_BYTES])
        size = min(len(view), goal - len(inbox))
        inbox += view[:size]
        if len(inbox) == messages.HEADER_BYTES and goal == messages.HEADER_BYTES:
            goal += messages.frame_size(inbox)  # the limit is checked before the body is awaited
        if len(inbox) == goal:
            body = bytes(inbox[messages.HEADER_BYTES :])
            inbox.clear()
            self._heard_message(messages.decode(body))
        return size

    def _take_preamble(self, view: memoryview) -> int:
        size = min(len(view), len(messages.PREAMBLE) - len(self._inbox))
        self._inbox += view[:size]
        start = bytes(self._inbox)
        if not messages.PREAMBLE.startswith(start):
            family = messages.PREAMBLE[:-1]
            if not family.startswith(start[: len(family)]):
                raise errors.NotTrunkline(start)
            raise errors.VersionMismatch(start.decode("ascii", "backslashreplace"), messages.PREAMBLE.decode())
        if start == messages.PREAMBLE:
            self._greeted = True
            self._inbox.clear()
        return size

    def _heard_message(self, message: messages.Message) -> None:
        self.course.apply(message, self.role.other)
        match message:
            case messages.Run():
                self._raw_index, self._raw_offset, self._raw_in = (
                    message.index,
                    message.offset,
                    message.length,
                )
            case messages.Alive() | messages.Offer():
                return  # OfferEnd is the event for the whole manifest
            case messages.Stop():
                self.stopped_by_peer = messages.Stop(message.code, messages.printable(message.reason))
                return
            case messages.Spoiled():
                self._events.append(messages.Spoiled(message.index, messages.printable(message.reason)))
                return
            case messages.Settled():
                reason = messages.printable(message.reason)
                self._events.append(messages.Settled(message.index, message.verdict, reason))
                return
            case _:
                pass
        self._events.append(message)

    def receive_eof(self, now: float) -> None:
        """Take note that the peer will send no more.

        Raises:
            TransferFailed: before the end of the conversation; ``again`` is true.
        """
        self._now = now
        if self.course.state in (LinkState.ENDED, LinkState.STOPPED):
            return
        if self._failed is not None:
            raise self._failed
        if self.role is Role.RECEIVER and self.course.state is LinkState.COMPLETE:
            # Everything is on disk and said; whether the sender read it is the sender's concern (section 8).
            self.course.state = LinkState.ENDED
            return
        self._failed = errors.TransferFailed(
            "the connection broke before the transfer was complete; "
            "what has arrived is kept: run the same command again",
            again=True,
        )
        raise self._failed

    @property
    def over(self) -> bool:
        """Whether nothing more will be said on this connection."""
        return self._failed is not None or self.course.state in (LinkState.ENDED, LinkState.STOPPED)

    def next_event(self) -> Event | None:
        """Return what the peer said next, or None."""
        return self._events.popleft() if self._events else None

    # Bytes out

    def data_to_send(self) -> bytes:
        """Return the bytes to send now. If `raw_due` is not 0 afterwards, that many file bytes come next."""
        data = b"".join(self._outbox)
        self._outbox.clear()
        if data:
            self._spoke = self._now
        return data

    @property
    def raw_due(self) -> int:
        """File bytes that the driver has to send before data_to_send() goes on."""
        return self._raw_out

    def raw_sent(self, size: int, now: float) -> None:
        """Take note that the driver sent so many file bytes."""
        if size > self._raw_out:
            raise errors.LocalError(f"{size} raw bytes sent where {self._raw_out} were due")
        self._now = self._spoke = now
        self._raw_out -= size
        if not self._raw_out:
            self._outbox += self._held
            self._held.clear()

    def send_raw(self, data: bytes) -> None:
        """Queue file bytes that are due: for small files, one write for all is quicker than sendfile."""
        if len(data) > self._raw_out:
            raise errors.LocalError(f"{len(data)} raw bytes given where {self._raw_out} were due")
        self._outbox.append(data)
        self.raw_sent(len(data), self._now)

    def send_stop(self, code: int, reason: str) -> None:
        """End the transfer, with a reason for the other side's user."""
        self._say(messages.Stop(code, reason[: messages.MAX_TEXT]))

    def _say(self, message: messages.Message) -> None:
        if self._failed is not None:
            raise errors.ClosedError("the transfer is over") from self._failed
        try:
            self.course.apply(message, self.role)
        except errors.RemoteError as error:
            raise errors.LocalError(f"the {self.role.value} can't say that: {error}") from error
        self._queue(message)

    def _queue(self, message: messages.Message) -> None:
        (self._held if self._raw_out else self._outbox).append(messages.encode(message))
        if isinstance(message, messages.Run):
            self._raw_out = message.length

    def _fail(self, error: errors.RemoteError) -> None:
        self._failed = error
        if self.course.state not in (LinkState.ENDED, LinkState.STOPPED):
            self._queue(messages.Stop(error.code, str(error)[: messages.MAX_TEXT]))

    # Time

    def peer_is_there(self, now: float) -> None:
        """Take note that bytes of the peer wait unread, because this side is busy with its disk."""
        self._now = self._heard = now

    def next_deadline(self) -> float | None:
        """Return when handle_timer() is due, by the driver's clock in seconds."""
        if self.over:
            return None
        return min(self._heard + SILENCE, self._spoke + ALIVE_EVERY)

    def handle_timer(self, now: float) -> None:
        """Say that we live, if nothing else was said for a while.

        Raises:
            SilentPeer: nothing came from the peer for SILENCE seconds.
        """
        deadline = self.next_deadline()
        self._now = max(self._now, now)
        if deadline is None or now < deadline:
            return
        if now >= self._heard + SILENCE:
            error = errors.SilentPeer(SILENCE)
            self._fail(error)
            raise error
        self._spoke = now
        if not self._raw_out:  # within a run nothing else can be said, and the run's bytes are a sign of life
            self._queue(messages.Alive())
