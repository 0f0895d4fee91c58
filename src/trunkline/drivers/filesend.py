"""The sending side on real files (docs/spec/transfer.md section 7)."""

import hashlib
import os
import socket
from collections.abc import Iterable

from trunkline import errors
from trunkline.transfer import messages
from trunkline.transfer.messages import Verdict
from trunkline.transfer.report import OnProgress, Outcome, Phase, Status
from trunkline.transfer.sender import Sender

from .clock import now
from .filesource import Identity, Refusal, Source, check_unchanged, open_source, plan
from .filetally import Tally
from .filewire import Digest, FileWire

MARK_EVERY = 16 * 1024 * 1024
"""Bytes between the remembered states of a file's hash: as much, at most, is hashed twice."""

_STATUS = {
    Verdict.KEPT: Status.SENT,
    Verdict.SAME: Status.SKIPPED,
    Verdict.REFUSED: Status.REFUSED,
    Verdict.FAILED: Status.FAILED,
}


class Sending:
    """Files on their way to one receiver, over as many connections as it takes."""

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        """Look at the files; directories are sent with all that is in them, links inside are left out.

        Raises:
            ConfigError: a path can't be sent.
            InvalidName: a name that no receiver would take.
            TooMany: a limit of the protocol.
        """
        self._sources, left_out = plan(paths)
        self._tally = Tally(left_out)
        self._tally.expect(source.entry for source in self._sources)
        self._marks_of: Identity | None = None
        self._marks: list[tuple[int, Digest]] = []

    @property
    def outcome(self) -> Outcome:
        """What became of the files so far."""
        return self._tally.outcome()

    def run(
        self, sock: socket.socket, *, on_progress: OnProgress | None = None, timeout: float | None = None
    ) -> Outcome:
        """Send what is not settled yet. The socket stays open.

        Args:
            sock: a connected stream socket whose other end receives.
            on_progress: called from here, often; must not block.
            timeout: for this connection, in seconds; None waits as long as the other side lives.

        Returns once the receiver has said that every file is safe on its disk.

        Raises:
            TransferFailed: with ``again`` true, call run() with a new connection; otherwise see the text, and
                `outcome` for each file.
            RemoteError: the other side broke the protocol.
        """
        self._tally.start(on_progress)
        todo = [source for source in self._sources if source.entry.name not in self._tally.outcomes]
        entries = [source.entry for source in todo]
        machine = Sender(entries, now())
        self._tally.report(Phase.OFFERING)
        with FileWire(sock, machine, timeout) as wire:
            _Service(self, todo, machine, wire, self._tally).run()
        _raise_for(self.outcome)
        return self.outcome

    def hash_beginning(self, wire: FileWire, source: Source, fd: int, end: int) -> Digest:
        """Return the hash of a file's first `end` bytes, from the nearest state that is remembered."""
        if self._marks_of != source.identity:
            self._marks_of, self._marks = source.identity, []
        start, mark = max((mark for mark in self._marks if mark[0] <= end), default=(0, hashlib.sha256()))
        digest = mark.copy()
        self._marks = [mark for mark in self._marks if mark[0] <= start]

        def on_chunk(position: int) -> None:
            self.remember(position, digest)
            self._tally.report(Phase.CHECKING, source.entry, position)

        wire.hash_range(fd, start, end, digest, on_chunk)
        return digest

    def remember(self, position: int, digest: Digest) -> None:
        """Keep a state of the current file's hash, now and then."""
        last = self._marks[-1][0] if self._marks else 0
        if position >= last + MARK_EVERY:
            self._marks.append((position, digest.copy()))

    def forget_after(self, position: int) -> None:
        """Drop the remembered states beyond a position: the file is sent from there."""
        self._marks = [mark for mark in self._marks if mark[0] <= position]


class _Service:
    """One connection of a Sending."""

    def __init__(self, sending: Sending, sources: list[Source], machine: Sender, wire: FileWire, tally: Tally) -> None:
        self._sending = sending
        self._sources = sources
        self._machine = machine
        self._wire = wire
        self._tally = tally
        self._sent: dict[int, tuple[int, bytes]] = {}

    def run(self) -> None:
        while True:
            event = self._wire.next_event()
            match event:
                case messages.Want():
                    self._serve(event)
                case messages.Whole():
                    self._compare(event)
                case messages.Settled():
                    self._settled(event)
                case messages.Complete():
                    self._machine.send_done()
                    self._wire.flush()
                    return
                case _:
                    assert isinstance(event, messages.Ready), event

    def _serve(self, want: messages.Want) -> None:
        source = self._sources[want.index]
        try:
            fd = open_source(source)
            try:
                self._send_file(want, source, fd)
            finally:
                os.close(fd)
        except Refusal as refusal:
            self._machine.send_spoiled(want.index, str(refusal))

    def _send_file(self, want: messages.Want, source: Source, fd: int) -> None:
        index, size, position = want.index, source.entry.size, want.offset
        digest = self._hash_beginning(source, fd, position)
        if digest.digest() != want.sha256:
            position = 0
            digest = self._hash_beginning(source, fd, 0)
        self._sending.forget_after(position)
        self._machine.send_start(index, position)
        start = position
        self._tally.report(Phase.MOVING, source.entry, position)
        while position < size:
            length = min(messages.MAX_RUN, size - position)
            self._machine.send_run(index, length)
            got = self._wire.send_run(fd, position, digest)
            self._tally.bytes_moved += got
            if got < length:
                raise Refusal("it became shorter while it was sent: send it again when it is at rest")
            position += length
            self._sending.remember(position, digest)
            self._tally.report(Phase.MOVING, source.entry, position)
            self._wire.hear()
        check_unchanged(source, fd)
        sha256 = digest.digest()
        self._sent[index] = (start, sha256)
        self._machine.send_sum(index, sha256)
        self._tally.report(Phase.SAVING, source.entry, size)

    def _compare(self, whole: messages.Whole) -> None:
        source = self._sources[whole.index]
        try:
            fd = open_source(source)
            try:
                digest = self._hash_beginning(source, fd, source.entry.size)
                check_unchanged(source, fd)
            finally:
                os.close(fd)
        except Refusal as refusal:
            self._machine.send_spoiled(whole.index, str(refusal))
            return
        if digest.digest() == whole.sha256:
            self._sent[whole.index] = (0, whole.sha256)
            self._machine.send_same(whole.index)
        else:
            self._machine.send_differs(whole.index)

    def _hash_beginning(self, source: Source, fd: int, end: int) -> Digest:
        try:
            return self._sending.hash_beginning(self._wire, source, fd, end)
        except OSError as error:
            raise Refusal(f"the sender can't read it: {error.strerror}") from error

    def _settled(self, event: messages.Settled) -> None:
        status = _STATUS[event.verdict]
        at, sha256 = self._sent.pop(event.index, (0, b""))
        if status is Status.SENT and at:
            status = Status.RESUMED
        if status in (Status.REFUSED, Status.FAILED):
            sha256 = b""
        self._tally.settle(self._sources[event.index].entry, status, event.reason, at=at, sha256=sha256)


def _raise_for(outcome: Outcome) -> None:
    """Raise TransferFailed unless the receiver has every file."""
    bad = [file for file in outcome.files if not file.ok]
    if bad:
        first = "; ".join(f"{file.name}: {file.reason}" for file in bad[:3])
        more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise errors.TransferFailed(f"{len(bad)} of {len(outcome.files)} did not go over: {first}{more}")
