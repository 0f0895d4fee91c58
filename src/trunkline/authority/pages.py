"""The map as it is stored: pages of four levels (docs/spec/authority.md section 5).

A page stands at a depth that is a multiple of four, for every subtree there that has two leaves or more; the root's
stands also when there are fewer. It has sixteen slots, one for each subtree four levels below: empty, a lone leaf, or
the hash of another page's subtree. A million users need five or six pages on any way down, each a row of about half a
kilobyte, where single nodes would be more than twenty.
"""

from collections.abc import Iterable
from typing import Final

from trunkline.authority.mapping import EMPTY, inner_node, leaf_node
from trunkline.authority.messages import MapProof
from trunkline.authority.nodes import Nodes
from trunkline.authority.statements import HASH_SIZE

LEVELS: Final = 4
SLOTS: Final = 1 << LEVELS
_MANY: Final = 255
_NONE: Final = 254
"""What stands in `Page.lone` for a subtree with two leaves or more, and for one without."""

_MASKS: Final = 4
"""Bytes at the beginning of a stored page: which slots are leaves, which are subtrees."""

Leaf = tuple[bytes, bytes]
"""Key and value."""


class Page:
    """Four levels of the map. Nodes are numbered like a heap's: 1 is the top, 16 to 31 are the slots."""

    __slots__ = ("leaves", "lone", "nodes")

    def __init__(self) -> None:
        self.nodes = bytearray(HASH_SIZE * SLOTS * 2)
        """The hashes of all nodes, in order; the first is unused."""
        self.leaves: dict[int, Leaf] = {}
        """Of the slots that are lone leaves, by number from 0."""
        self.lone = bytearray([_NONE] * SLOTS * 2)
        """For each node that is a subtree with one leaf: the slot where that is; for others see above."""

    def node(self, number: int) -> bytes:
        """Return the hash of a node."""
        return bytes(self.nodes[number * HASH_SIZE : (number + 1) * HASH_SIZE])

    def is_subtree(self, slot: int) -> bool:
        """Return whether another page stands below this slot."""
        return self.lone[SLOTS + slot] == _MANY

    def copy(self) -> "Page":
        other = Page.__new__(Page)
        other.nodes, other.leaves, other.lone = self.nodes[:], dict(self.leaves), self.lone[:]
        return other

    def put_leaf(self, slot: int, leaf: Leaf) -> None:
        """Make a slot a lone leaf; `refold` is due."""
        self.leaves[slot] = leaf
        self._set(SLOTS + slot, leaf_node(*leaf), slot)

    def put_subtree(self, slot: int, node: bytes) -> None:
        """Make a slot the subtree with this hash; `refold` is due."""
        self.leaves.pop(slot, None)
        self._set(SLOTS + slot, node, _MANY)

    def refold(self, slots: Iterable[int]) -> None:
        """Compute all nodes above ``slots``."""
        row = {(SLOTS + slot) >> 1 for slot in slots}
        while row:
            for number in row:
                self._fold(number)
            row = {number >> 1 for number in row if number > 1}

    def _fold(self, number: int) -> None:
        left, right = self.lone[2 * number], self.lone[2 * number + 1]
        if right == _NONE and left != _MANY:
            self._set(number, self.node(2 * number), left)
        elif left == _NONE and right != _MANY:
            self._set(number, self.node(2 * number + 1), right)
        else:
            self._set(number, inner_node(self.node(2 * number), self.node(2 * number + 1)), _MANY)

    def _set(self, number: int, node: bytes, lone: int) -> None:
        self.nodes[number * HASH_SIZE : (number + 1) * HASH_SIZE] = node
        self.lone[number] = lone

    def encode(self) -> bytes:
        """Return the page as it is stored: two masks of slots, then leaves and hashes in order of slots."""
        leaves = subtrees = 0
        parts: list[bytes] = []
        for slot in range(SLOTS):
            if slot in self.leaves:
                leaves |= 1 << slot
                parts.extend(self.leaves[slot])
            elif self.is_subtree(slot):
                subtrees |= 1 << slot
                parts.append(self.node(SLOTS + slot))
        return leaves.to_bytes(2, "big") + subtrees.to_bytes(2, "big") + b"".join(parts)


def decode_page(data: bytes) -> Page:
    """Return the page that `Page.encode` made."""
    page = Page()
    leaves, subtrees = int.from_bytes(data[:2], "big"), int.from_bytes(data[2:_MASKS], "big")
    at = _MASKS
    for slot in range(SLOTS):
        if leaves >> slot & 1:
            page.put_leaf(slot, (data[at : at + HASH_SIZE], data[at + HASH_SIZE : at + 2 * HASH_SIZE]))
            at += 2 * HASH_SIZE
        elif subtrees >> slot & 1:
            page.put_subtree(slot, data[at : at + HASH_SIZE])
            at += HASH_SIZE
    assert at == len(data), "a stored page has another length than its masks say"
    page.refold(range(SLOTS))
    return page


def page_key(depth: int, key: bytes) -> bytes:
    """Return the name in the store of the page at ``depth`` on the way of ``key``."""
    prefix = bytearray(key[: (depth + 7) >> 3])
    if depth & 7:
        prefix[-1] &= 0xF0
    return b"m%c%b" % (depth, bytes(prefix))


def page_keys(keys: Iterable[bytes], size: int) -> list[bytes]:
    """Return the names of the pages that the ways of ``keys`` go through, most likely, in a map of ``size`` users."""
    return [page_key(depth, key) for key in keys for depth in range(0, size.bit_length() + 1, LEVELS)]


class Map:
    """The stored map."""

    def __init__(self, nodes: Nodes[Page]) -> None:
        self._nodes = nodes

    def root(self) -> bytes:
        """Return the root's hash."""
        page = self._nodes.get(page_key(0, b""))
        return EMPTY if page is None else page.node(1)

    def update(self, changes: dict[bytes, bytes]) -> bytes:
        """Give every key its value and return the new root; reads and writes each page once."""
        return self._update(0, list(changes.items())) if changes else self.root()

    def _update(self, depth: int, changes: list[Leaf], *, new: bool = False) -> bytes:
        name = page_key(depth, changes[0][0])
        found = None if new else self._nodes.get(name)
        page = Page() if found is None else found.copy()
        assert found is not None or new or depth == 0, "a page is missing: the store was altered by others"
        groups: dict[int, list[Leaf]] = {}
        for leaf in changes:
            groups.setdefault(_slot(leaf[0], depth), []).append(leaf)
        for slot, group in groups.items():
            if page.is_subtree(slot):
                page.put_subtree(slot, self._update(depth + LEVELS, group))
                continue
            there = page.leaves.get(slot)
            if there is not None and all(there[0] != key for key, _ in group):
                group.append(there)
            if len(group) == 1:
                page.put_leaf(slot, group[0])
            else:
                page.put_subtree(slot, self._update(depth + LEVELS, group, new=True))
        page.refold(groups)
        self._nodes.put(name, page)
        return page.node(1)

    def prove(self, key: bytes) -> tuple[bytes | None, MapProof]:
        """Return the value of ``key``, None if it has none, and the proof of that."""
        siblings: list[bytes] = []
        depth = 0
        while True:
            page = self._nodes.get(page_key(depth, key))
            if page is None:
                assert depth == 0, "a page is missing: the store was altered by others"
                return None, MapProof(())
            slot = SLOTS + _slot(key, depth)
            for shift in range(LEVELS, -1, -1):
                number = slot >> shift
                lone = page.lone[number]
                if lone == _NONE:
                    return None, MapProof(tuple(reversed(siblings)))
                if lone != _MANY:
                    return _ended(key, page.leaves[lone], siblings)
                if shift:
                    siblings.append(page.node(slot >> (shift - 1) ^ 1))
            depth += LEVELS


def _slot(key: bytes, depth: int) -> int:
    byte = key[depth >> 3]
    return byte & 15 if depth & 4 else byte >> 4


def _ended(key: bytes, leaf: Leaf, siblings: list[bytes]) -> tuple[bytes | None, MapProof]:
    way = tuple(reversed(siblings))
    return (leaf[1], MapProof(way)) if leaf[0] == key else (None, MapProof(way, *leaf))
