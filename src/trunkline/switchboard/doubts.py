"""Entries that we hold for matched by somebody else's word than their owner's (docs/spec/switchboard.md section 4).

Whoever grants a match says so to all, and names the partner: that one is then *taken* before its own owner says it. But
if the grant never reached that owner, it lets its entry wait on and can't know who was told otherwise. So such an entry
is looked at again after a while: if its owner has not removed it by then, it is free.
"""

from typing import Any, Final

from trunkline.switchboard.entries import Entry

DOUBT_DELAY: Final = 1.5
"""Seconds after which an entry is looked at again: longer than its owner may take to say that it is gone. A look comes
once in this time, so one entry may wait twice as long."""

Doubt = tuple[str, bytes, int]
"""Owner, request, attempt."""


class Doubts:
    """Two lists: what was marked since the last look, and what was marked before it."""

    __slots__ = ("_newer", "_older", "due")

    def __init__(self) -> None:
        self.due: float | None = None
        """When to `look`."""
        self._newer: list[Doubt] = []
        self._older: list[Doubt] = []

    def mark(self, entry: Entry, now: float) -> None:
        """Hold another's entry for taken, for now."""
        entry.taken = True
        self._newer.append((entry.owner, entry.rid, entry.n))
        if self.due is None:
            self.due = now + DOUBT_DELAY

    def look(self, now: float) -> list[Doubt]:
        """Return what was marked long enough ago."""
        ripe, self._older, self._newer = self._older, self._newer, []
        self.due = now + DOUBT_DELAY if self._older else None
        return ripe

    def snapshot(self) -> tuple[Any, ...]:
        """Return the whole state."""
        return tuple(self._newer), tuple(self._older), self.due

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Become what was snapshot."""
        newer, older, self.due = snapshot
        self._newer, self._older = list(newer), list(older)
