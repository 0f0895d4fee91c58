"""What was verified before and is not verified again: statements, and nodes of the map and the log of one head.

A node that has led to a signed root once is as good as that root: the next proof need not go beyond it, and whatever
it says beyond is not looked at. So the second look-up under one head costs some ten hashes less in either tree.
"""

from collections import OrderedDict
from typing import Final

from trunkline.authority.merkle import Subtree
from trunkline.authority.messages import Head

MAX_STATEMENTS: Final = 1024
"""Most statements that are known to be in order: each says how a record came about, whatever the head."""

MAX_SUBTREES: Final = 8192
"""Most subtrees of the log that are known: those of a log of two million statements."""


class Verified:
    """What one client has verified; see above."""

    def __init__(self) -> None:
        self._statements: OrderedDict[bytes, bytes] = OrderedDict()
        self._roots: tuple[int, bytes, bytes] | None = None
        self.map: Final[dict[int, bytes]] = {}
        """For `mapping.verify`."""
        self.log: Final[dict[Subtree, bytes]] = {}
        """For `merkle.verify_inclusion`."""

    def under(self, head: Head) -> None:
        """What is verified from now on is so under this head: forget the nodes of another."""
        roots = (head.size, head.log, head.map)
        if roots != self._roots:
            self._roots = roots
            self.map.clear()
            self.log.clear()
        elif len(self.log) > MAX_SUBTREES:
            self.log.clear()

    def rests(self, latest: bytes, value: bytes) -> bool:
        """Say whether it was verified that the statement with this leaf hash makes the record with this hash."""
        return self._statements.get(latest) == value

    def keep(self, latest: bytes, value: bytes) -> None:
        """Remember that."""
        self._statements[latest] = value
        if len(self._statements) > MAX_STATEMENTS:
            self._statements.popitem(last=False)

    def forget_statements(self) -> None:
        """Verify every statement again, as if each were met for the first time."""
        self._statements.clear()

    def forget_nodes(self) -> None:
        """Verify every proof up to the roots again."""
        self._roots = None
