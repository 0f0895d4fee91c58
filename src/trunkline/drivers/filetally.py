"""The books of a transfer, over all its connections: what became of each file, how far it is, who is told."""

from collections.abc import Iterable

from trunkline.transfer.messages import Entry, Kind
from trunkline.transfer.report import FileOutcome, OnProgress, Outcome, Phase, Progress, Status


class Tally:
    """One per transfer; `start` begins each connection."""

    def __init__(self, left_out: Iterable[FileOutcome] = ()) -> None:
        self.outcomes: dict[str, FileOutcome] = {}
        self.bytes_moved = 0
        self.connections = 0
        self._left_out = tuple(left_out)
        self._expected: dict[str, Entry] = {}
        self._total = 0
        self._settled = 0
        self._on_progress: OnProgress | None = None

    def start(self, on_progress: OnProgress | None) -> None:
        """Begin a connection."""
        self.connections += 1
        self._on_progress = on_progress

    def expect(self, entries: Iterable[Entry]) -> None:
        """Add what is offered; what was offered on an earlier connection is known."""
        self._expected |= {entry.name: entry for entry in entries}
        self._total = sum(entry.size for entry in self._expected.values())

    def settle(self, entry: Entry, status: Status, reason: str = "", *, at: int = 0, sha256: bytes = b"") -> None:
        """Note what became of an entry; `at` is where it was resumed, in bytes."""
        outcome = FileOutcome(
            entry.name,
            status,
            entry.size,
            at if status is Status.RESUMED else 0,
            reason,
            sha256.hex(),
            entry.kind is Kind.DIRECTORY,
        )
        earlier = self.outcomes.get(entry.name)
        if status is Status.SKIPPED and earlier is not None and earlier.ok:
            outcome = earlier  # it came over an earlier connection, and only the acknowledgement was lost
        if earlier is None:
            self._settled += entry.size
        self.outcomes[entry.name] = outcome
        self.report(Phase.SETTLED, entry, entry.size, outcome)

    def report(
        self, phase: Phase, entry: Entry | None = None, done: int = 0, outcome: FileOutcome | None = None
    ) -> None:
        """Tell the caller how far it is."""
        if self._on_progress is None:
            return
        current = done if entry is not None and entry.name not in self.outcomes and phase is not Phase.CHECKING else 0
        self._on_progress(
            Progress(
                phase,
                entry.name if entry is not None else "",
                done,
                entry.size if entry is not None else 0,
                len(self.outcomes),
                len(self._expected),
                self._settled + current,
                self._total,
                outcome,
            )
        )

    def outcome(self) -> Outcome:
        """Return what became of everything so far."""
        pending = [
            FileOutcome(entry.name, Status.PENDING, entry.size, directory=entry.kind is Kind.DIRECTORY)
            for entry in self._expected.values()
            if entry.name not in self.outcomes
        ]
        files = (*self.outcomes.values(), *pending, *self._left_out)
        return Outcome(files, self.bytes_moved, self.connections)
