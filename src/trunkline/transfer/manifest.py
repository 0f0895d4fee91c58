"""The list of what is offered, checked as it grows (docs/spec/transfer.md section 4).

Both sides keep it: the sender while it plans, so that its user hears of a bad name; the receiver as it grows.
"""

from trunkline import errors

from . import messages, names
from .messages import Entry, Kind


class Manifest:
    """Entries in the order of the offer, within limits and without conflicts among themselves."""

    def __init__(self, *, max_file: int = messages.MAX_FILE, max_total: int = messages.MAX_TOTAL) -> None:
        """`max_file` and `max_total` are in bytes."""
        self.entries: list[Entry] = []
        self.size = 0
        """Bytes of all files together."""
        self._max_file = max_file
        self._max_total = max_total
        self._name_bytes = 0
        self._kinds: dict[str, Kind] = {}
        self._parents: set[str] = set()

    def add(self, entry: Entry) -> None:
        """Take one more entry; if it raises, nothing has changed.

        Raises:
            InvalidName: the name is not acceptable, or clashes with an earlier one.
            TooMany: a limit is reached.
        """
        components = names.check_name(entry.name)
        if entry.name in self._kinds:
            raise errors.InvalidName(entry.name, "it is offered twice")
        parents = ["/".join(components[:depth]) for depth in range(1, len(components))]
        if any(self._kinds.get(parent) is Kind.FILE for parent in parents):
            raise errors.InvalidName(entry.name, "it lies under a name that is offered as a file")
        if entry.kind is Kind.FILE and entry.name in self._parents:
            raise errors.InvalidName(entry.name, "it is a file, and other names lie under it")
        name_bytes = self._name_bytes + len(entry.name.encode())
        size = entry.size if entry.kind is Kind.FILE else 0
        if len(self.entries) >= messages.MAX_ENTRIES:
            raise errors.TooMany("files in one transfer", messages.MAX_ENTRIES)
        if name_bytes > messages.MAX_MANIFEST:
            raise errors.TooMany("bytes of file names in one transfer", messages.MAX_MANIFEST)
        if size > self._max_file:
            raise errors.TooMany(f"bytes in {entry.name!r} ({size})", self._max_file)
        if self.size + size > self._max_total:
            raise errors.TooMany("bytes in one transfer", self._max_total)
        self._name_bytes = name_bytes
        self._kinds[entry.name] = entry.kind
        self._parents.update(parents)
        self.entries.append(entry)
        self.size += size
