"""What the caller is told: progress, and an outcome for each file (docs/spec/transfer.md section 9)."""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any


class Phase(enum.StrEnum):
    """What a transfer is busy with."""

    OFFERING = "offering"
    """The list of files goes over, the disk is looked at; no file yet."""
    CHECKING = "checking"
    """Bytes that are there already are hashed."""
    MOVING = "moving"
    """Bytes go over the connection."""
    SAVING = "saving"
    """All bytes are there; the file is flushed to disk and put in its place."""
    SETTLED = "settled"
    """Done with this file, well or not: see `Progress.outcome`."""


class Status(enum.StrEnum):
    """What became of one file."""

    SENT = "sent"
    RESUMED = "resumed"
    """Sent, from `FileOutcome.resumed_at` on."""
    SKIPPED = "skipped"
    """Was there already, with the same hash."""
    REFUSED = "refused"
    """The receiver did not want it; what was there is untouched."""
    FAILED = "failed"
    """Did not arrive."""
    PENDING = "pending"
    """Not settled yet: the connection broke, or the transfer was stopped, before its turn came."""
    LEFT_OUT = "left out"
    """Never offered: a symbolic link, a device, an unfinished file of another transfer."""


@dataclasses.dataclass(frozen=True, slots=True)
class FileOutcome:
    """What became of one file or directory."""

    name: str
    status: Status
    size: int = 0
    """In bytes; 0 for a directory."""
    resumed_at: int = 0
    """Bytes that were there before and did not have to travel."""
    reason: str = ""
    sha256: str = ""
    """In hex; empty for a directory and for what did not arrive."""
    directory: bool = False

    @property
    def ok(self) -> bool:
        """Whether the receiver has it, or nobody meant to send it."""
        return self.status in (Status.SENT, Status.RESUMED, Status.SKIPPED, Status.LEFT_OUT)


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a whole transfer."""

    files: tuple[FileOutcome, ...]
    bytes_moved: int
    """File bytes that went over the connections, those sent in vain included."""
    connections: int
    """1, and 1 more for each time that it had to be resumed."""

    @property
    def ok(self) -> bool:
        """Whether the receiver has every file."""
        return all(file.ok for file in self.files)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for `--json`."""
        return {"ok": self.ok} | dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """One report; made at most once per `MAX_RUN` bytes, and at each change of phase."""

    phase: Phase
    name: str
    """The file; empty while offering."""
    done: int
    """Bytes of this file that the receiver has or that were checked, by phase."""
    total: int
    """Bytes of this file."""
    files_done: int
    files_total: int
    all_done: int
    """Bytes of all files, settled ones in full."""
    all_total: int
    outcome: FileOutcome | None = None
    """Set when the phase is SETTLED."""


OnProgress = Callable[[Progress], None]
