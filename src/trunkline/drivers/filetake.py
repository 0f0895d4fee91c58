"""The receiving side on a real directory (docs/spec/transfer.md section 8)."""

import contextlib
import dataclasses
import hashlib
import os
import socket
import stat
from collections.abc import Iterator
from types import TracebackType
from typing import NoReturn, Self

from trunkline import errors
from trunkline.transfer import messages
from trunkline.transfer.link import FileBytes
from trunkline.transfer.messages import Entry, Kind, Verdict
from trunkline.transfer.receiver import Receiver
from trunkline.transfer.report import OnProgress, Outcome, Phase, Status

from .clock import now
from .filesource import Identity, Refusal, identity
from .filetally import Tally
from .filetree import Tree
from .filewire import Digest, FileWire

FLUSH_EVERY = 256 * 1024 * 1024
"""Bytes after which a file is flushed amid its way: no flush takes so long that the sender gives up."""

HASHES_KEPT = 2 * messages.MAX_WINDOW
"""Hashes remembered for a next connection: those of files whose acknowledgement may have been lost."""


@dataclasses.dataclass(slots=True)
class _Part:
    """An unfinished file in hand."""

    entry: Entry
    fd: int
    digest: Digest
    offset: int
    """Bytes that it has."""
    resumed_at: int = 0
    flushed: int = 0


class Taking:
    """Files on their way from one sender, over as many connections as it takes. Use as a context manager."""

    def __init__(
        self,
        into: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        max_file: int = messages.MAX_FILE,
        max_total: int = messages.MAX_TOTAL,
    ) -> None:
        """Open the directory.

        Args:
            into: an existing directory.
            overwrite: replace files that differ, each in one step.
            max_file: bytes in one file.
            max_total: bytes in all.

        Raises:
            ConfigError: the directory can't be used.
        """
        self._tree = Tree(into)
        self._overwrite = overwrite
        self._limits = (max_file, max_total)
        self._tally = Tally()
        self._hashes: dict[Identity, Digest] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the directory; unfinished files stay, for another time."""
        self._tree.close()

    @property
    def outcome(self) -> Outcome:
        """What became of the files so far."""
        return self._tally.outcome()

    def run(
        self, sock: socket.socket, *, on_progress: OnProgress | None = None, timeout: float | None = None
    ) -> Outcome:
        """Receive what the other side offers. The socket stays open.

        Args:
            sock: a connected stream socket whose other end sends.
            on_progress: called from here, often; must not block.
            timeout: for this connection, in seconds; None waits as long as the other side lives.

        Raises:
            TransferFailed: with ``again`` true, call run() with a new connection; otherwise see the text, and
                `outcome` for each file.
            RemoteError: the other side broke the protocol, or offered a name that could leave the directory.
        """
        self._tally.start(on_progress)
        max_file, max_total = self._limits
        machine = Receiver(now(), max_file=max_file, max_total=max_total)
        with FileWire(sock, machine, timeout) as wire:
            service = _Service(self._tree, self._hashes, machine, wire, self._tally, overwrite=self._overwrite)
            try:
                service.run()
            finally:
                service.close()
        outcome = self.outcome
        bad = [file for file in outcome.files if not file.ok]
        if bad:
            first = "; ".join(f"{file.name}: {file.reason}" for file in bad[:3])
            more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
            raise errors.TransferFailed(f"{len(bad)} of {len(outcome.files)} were not taken: {first}{more}")
        return outcome


class _Service:
    """One connection of a Taking."""

    def __init__(
        self,
        tree: Tree,
        hashes: dict[Identity, Digest],
        machine: Receiver,
        wire: FileWire,
        tally: Tally,
        *,
        overwrite: bool,
    ) -> None:
        self._tree = tree
        self._hashes = hashes
        self._machine = machine
        self._wire = wire
        self._tally = tally
        self._overwrite = overwrite
        self._entries = machine.course.manifest.entries
        self._parts: dict[int, _Part] = {}

    def run(self) -> None:
        while True:
            index = self._machine.next_to_answer()
            if index is not None:
                self._answer(index)
                continue
            if self._machine.all_settled():
                self._finish()
            event = self._wire.next_event()
            match event:
                case None | messages.Done():
                    return
                case messages.OfferEnd():
                    self._tally.expect(self._entries)
                    self._tally.report(Phase.OFFERING)
                    self._check_space()
                    self._machine.send_ready()
                case messages.Same():
                    self._same(event.index)
                case messages.Differs():
                    self._differs(event.index)
                case messages.Start():
                    self._start(event)
                case FileBytes():
                    self._write(event)
                case messages.Sum():
                    self._finish_file(event)
                case messages.Spoiled():
                    self._let_go(event.index)
                    self._settle(event.index, Verdict.FAILED, event.reason)
                case _:
                    assert isinstance(event, messages.Run), event

    def close(self) -> None:
        for index in tuple(self._parts):
            self._let_go(index)

    # Before the bytes

    def _check_space(self) -> None:
        needed = 0
        for entry in self._entries:
            try:
                status = self._tree.status(entry.name)
                if entry.kind is Kind.FILE and (status is None or status.st_size != entry.size):
                    needed += max(0, entry.size - self._tree.part_size(entry.name))
            except Refusal:
                continue  # it will be refused, and needs nothing
        free = self._tree.free_bytes()
        if needed > free:
            self._stop(
                f"the receiver's disk has {free} bytes free and {needed} are needed: "
                f"free {needed - free} bytes, or take the files into another directory"
            )

    def _answer(self, index: int) -> None:
        entry = self._entries[index]
        try:
            if entry.kind is Kind.DIRECTORY:
                made = self._tree.make_directory(entry)
                self._settle(index, Verdict.KEPT if made else Verdict.SAME)
            else:
                self._answer_file(index, entry)
        except Refusal as refusal:
            self._settle(index, Verdict.REFUSED, str(refusal))
        except OSError as error:
            self._settle(index, Verdict.REFUSED, f"the receiver can't read what is in its place: {error.strerror}")

    def _answer_file(self, index: int, entry: Entry) -> None:
        status = self._tree.status(entry.name)
        if status is None:
            self._want(index, entry)
        elif not stat.S_ISREG(status.st_mode):
            raise Refusal("something that is no plain file has this name here: move it away")
        elif status.st_size == entry.size:
            self._machine.send_whole(index, self._hash_of(entry))
        elif self._overwrite:
            self._want(index, entry)
        else:
            raise Refusal(
                f"another file of this name is here, with {status.st_size} bytes instead of {entry.size}: "
                "it is left as it is; take with --force to replace it"
            )

    def _hash_of(self, entry: Entry) -> bytes:
        fd = self._tree.open_file(entry.name)
        try:
            return self._hash(entry, fd, entry.size).digest()
        finally:
            os.close(fd)

    def _hash(self, entry: Entry, fd: int, size: int) -> Digest:
        """Return a file's hash, from memory if this transfer wrote it and nobody touched it since."""
        known = self._hashes.get(identity(os.fstat(fd)))
        if known is not None:
            return known.copy()
        digest: Digest = hashlib.sha256()
        self._wire.hash_range(fd, 0, size, digest, lambda position: self._tally.report(Phase.CHECKING, entry, position))
        return digest

    def _want(self, index: int, entry: Entry, *, afresh: bool = False) -> None:
        fd = self._tree.open_part(entry)
        part = self._parts[index] = _Part(entry, fd, hashlib.sha256(), 0)
        try:
            if afresh:
                os.ftruncate(fd, 0)
            part.offset = os.fstat(fd).st_size
            part.digest = self._hash(entry, fd, part.offset)
        except OSError:
            self._let_go(index)
            raise
        self._machine.send_want(index, part.offset, part.digest.digest())

    def _same(self, index: int) -> None:
        self._tree.remove_part(self._entries[index].name)
        self._settle(index, Verdict.SAME)

    def _differs(self, index: int) -> None:
        entry = self._entries[index]
        try:
            if not self._overwrite:
                raise Refusal(  # noqa: TRY301
                    f"another file of this name is here, also with {entry.size} bytes: "
                    "it is left as it is; take with --force to replace it"
                )
            self._want(index, entry, afresh=True)
        except Refusal as refusal:
            self._settle(index, Verdict.REFUSED, str(refusal))
        except OSError as error:
            self._settle(index, Verdict.REFUSED, f"the receiver can't write it: {error.strerror}")

    # The bytes

    def _start(self, start: messages.Start) -> None:
        part = self._parts[start.index]
        if start.offset != part.offset:  # our beginning is not the sender's
            with self._disk(part.entry):
                os.ftruncate(part.fd, 0)
            part.offset, part.digest = 0, hashlib.sha256()
        part.resumed_at = part.flushed = part.offset
        self._tally.report(Phase.MOVING, part.entry, part.offset)

    def _write(self, piece: FileBytes) -> None:
        part = self._parts[piece.index]
        assert piece.offset == part.offset, "the machine counts every byte"
        data = piece.data
        while data:
            with self._disk(part.entry):
                written = os.pwrite(part.fd, data, part.offset)
            part.digest.update(data[:written])
            part.offset += written
            data = data[written:]
        self._tally.bytes_moved += len(piece.data)
        if part.offset - part.flushed >= FLUSH_EVERY:
            with self._disk(part.entry):
                os.fdatasync(part.fd)
            part.flushed = part.offset
        self._tally.report(Phase.MOVING, part.entry, part.offset)

    def _finish_file(self, total: messages.Sum) -> None:
        index = total.index
        part = self._parts[index]
        if part.digest.digest() != total.sha256:
            self._tree.remove_part(part.entry.name)
            self._let_go(index)
            self._settle(index, Verdict.FAILED, "what arrived has another hash than what was sent: send it again")
            return
        self._tally.report(Phase.SAVING, part.entry, part.offset)
        self._wire.breathe()
        try:
            with self._disk(part.entry):
                self._tree.finish_part(part.fd, part.entry, overwrite=self._overwrite)
        except Refusal as refusal:
            self._let_go(index)
            self._settle(index, Verdict.REFUSED, str(refusal))
            return
        self._let_go(index, whole=True)
        self._settle(index, Verdict.KEPT, at=part.resumed_at, sha256=total.sha256)

    def _finish(self) -> None:
        try:
            self._tree.finish()
        except OSError as error:
            self._stop(f"the receiver's disk failed: {error.strerror}")
        self._machine.send_complete()

    # Endings

    def _settle(self, index: int, verdict: Verdict, reason: str = "", *, at: int = 0, sha256: bytes = b"") -> None:
        self._machine.send_settled(index, verdict, reason)
        status = {
            Verdict.KEPT: Status.RESUMED if at else Status.SENT,
            Verdict.SAME: Status.SKIPPED,
            Verdict.REFUSED: Status.REFUSED,
            Verdict.FAILED: Status.FAILED,
        }[verdict]
        self._tally.settle(self._entries[index], status, reason, at=at, sha256=sha256)

    def _let_go(self, index: int, *, whole: bool = False) -> None:
        """Close an unfinished file and remember its hash; an empty one is removed, for it is of no use."""
        part = self._parts.pop(index, None)
        if part is None:
            return
        status = os.fstat(part.fd)
        if part.offset and status.st_size == part.offset:
            self._hashes[identity(status)] = part.digest
            while len(self._hashes) > HASHES_KEPT:
                del self._hashes[next(iter(self._hashes))]
        if not whole and not part.offset:
            self._tree.remove_part(part.entry.name)
        os.close(part.fd)

    @contextlib.contextmanager
    def _disk(self, entry: Entry) -> Iterator[None]:
        """End the transfer if the disk fails: the next file would fare no better."""
        try:
            yield
        except OSError as error:
            self._stop(
                f"the receiver can't write {entry.name!r}: {error.strerror} "
                f"({self._tree.free_bytes()} bytes are free); what has arrived is kept: "
                "make room and run the same command again"
            )

    def _stop(self, reason: str) -> NoReturn:
        self._machine.send_stop(0, reason)
        raise errors.TransferFailed(reason)
