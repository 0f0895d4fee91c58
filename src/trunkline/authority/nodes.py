"""A bounded cache of stored nodes: what is used most often is read once, and what was changed is kept until saved."""

from collections.abc import Callable, Collection, Iterable
from typing import Final

from trunkline.authority.store import Reader

MAX_UPPER: Final = 8192
"""Nodes kept of the upper part: a million users have 4369 pages above depth 16, of about 1 KiB each."""

MAX_LOWER: Final = 1024
"""Nodes kept of the lower part, where every user's way is another."""


class Nodes:
    """Nodes as they are stored.

    Args:
        upper: says of a node's name whether it belongs to the upper part: those would otherwise be pushed out by the
            many that are used once.
    """

    def __init__(self, reader: Reader, upper: Callable[[bytes], bool]) -> None:
        self._reader = reader
        self._is_upper = upper
        self._upper: dict[bytes, bytes] = {}
        self._lower: dict[bytes, bytes] = {}
        self._changed: dict[bytes, bytes] = {}

    def missing(self, names: Collection[bytes]) -> list[bytes]:
        """Return those of ``names`` that would have to be read."""
        return [each for each in names if each not in self._changed and each not in self._part(each)]

    def offer(self, name: bytes, value: bytes) -> None:
        """Take a node that was read."""
        self._keep(name, value)

    def get(self, name: bytes) -> bytes | None:
        """Return a node, reading it if need be; None if there is none."""
        found = self._changed.get(name)
        if found is not None:
            return found
        part = self._part(name)
        found = part.pop(name, None)
        if found is not None:
            part[name] = found  # the last of the dict was used last
            return found
        value = self._reader.nodes((name,)).get(name)
        return None if value is None else self._keep(name, value)

    def put(self, name: bytes, node: bytes) -> None:
        """Change a node, or make one; it goes into the next batch."""
        self._changed[name] = node

    def changes(self) -> list[tuple[bytes, bytes]]:
        """Return what was changed since the last `saved`, as it is stored."""
        return list(self._changed.items())

    def saved(self) -> None:
        """What was changed is on disk: from now on it may be forgotten."""
        for name, node in self._changed.items():
            self._keep(name, node)
        self._changed.clear()

    def restore(self, changes: Iterable[tuple[bytes, bytes]]) -> None:
        """Forget everything but these changes, which `changes` returned."""
        self._upper.clear()
        self._lower.clear()
        self._changed = dict(changes)

    def _part(self, name: bytes) -> dict[bytes, bytes]:
        return self._upper if self._is_upper(name) else self._lower

    def _keep(self, name: bytes, node: bytes) -> bytes:
        part, most = (self._upper, MAX_UPPER) if self._is_upper(name) else (self._lower, MAX_LOWER)
        part.pop(name, None)
        while len(part) >= most:
            del part[next(iter(part))]
        part[name] = node
        return node
