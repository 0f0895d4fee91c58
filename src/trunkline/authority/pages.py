"""The map as it is stored: pages of four levels (docs/spec/authority.md section 10).

A page stands at a depth that is a multiple of four, for every subtree there that has two leaves or more; the root's
stands also when there are fewer. It has sixteen slots, one for each subtree four levels below: empty, a lone leaf, or
another page's subtree. A million users need five or six pages on any way down, each a row of at most 1.5 KiB, where
single nodes would be more than twenty.

Nodes of a page are numbered like a heap's: 1 is the top, 16 to 31 are the slots. Stored is, in this order:

    32 bytes    for each number what stands there: 255 for two leaves or more, 254 for none, else the slot of the one
    2 bytes     which slots are lone leaves, the lowest bit for slot 0
    32 bytes    for each node with two leaves or more: its hash
    64 bytes    for each lone leaf, in order of slots: key and value

All hashes that a proof may need are there, so that it costs some slices, and not the hashing of a page.
"""

from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from trunkline.authority.mapping import EMPTY, inner_node, leaf_node
from trunkline.authority.messages import MapProof
from trunkline.authority.nodes import Nodes
from trunkline.authority.statements import HASH_SIZE

LEVELS: Final = 4
SLOTS: Final = 1 << LEVELS
TOP: Final = 12
"""Depth down to which the siblings are kept together, three pages of them: 4096 ways, 4 MB at most."""

_MANY: Final = 255
_NONE: Final = 254
_NODES: Final = 2 * SLOTS + 2
"""Where the hashes begin."""

_CROWDED: Final = bytes([_NONE]) + bytes([_MANY]) * (2 * SLOTS - 1)
"""How a page begins that has only slots with two leaves or more: all of the upper ones of a big map."""

_FIRST: Final = _NODES - HASH_SIZE
"""Where the hash of node 0 would be in such a page."""

Leaf = tuple[bytes, bytes]
"""Key and value."""


def read_node(data: bytes | bytearray, number: int) -> bytes:
    """Return the hash of a node of a stored page."""
    lone = data[number]
    if lone == _MANY:
        at = _NODES + HASH_SIZE * data.count(_MANY, 1, number)
        return bytes(data[at : at + HASH_SIZE])
    return EMPTY if lone == _NONE else leaf_node(*read_leaf(data, lone))


def read_leaf(data: bytes | bytearray, slot: int) -> Leaf:
    """Return a lone leaf of a stored page."""
    at = _leaf_at(data, slot)
    return bytes(data[at : at + HASH_SIZE]), bytes(data[at + HASH_SIZE : at + 2 * HASH_SIZE])


def _leaf_at(data: bytes | bytearray, slot: int) -> int:
    before = (int.from_bytes(data[2 * SLOTS : _NODES], "big") & ((1 << slot) - 1)).bit_count()
    return _NODES + HASH_SIZE * (data.count(_MANY, 1, 2 * SLOTS) + 2 * before)


def _is_there(page: bytes, slot: int, group: list[Leaf]) -> bool:
    """Say whether these changes leave a stored page as it is but for hashes and a value: most of them do."""
    lone = page[SLOTS + slot]
    return lone == _MANY or (lone == slot and len(group) == 1 and read_leaf(page, slot)[0] == group[0][0])


def _rehash(page: bytearray, slots: Iterable[int]) -> None:
    """Compute all nodes above ``slots`` that are there."""
    row = {(SLOTS + slot) >> 1 for slot in slots}
    crowded = page.startswith(_CROWDED)
    while row:
        for number in row:
            if crowded:  # `inner_node` written out: both children stand side by side
                at = _FIRST + HASH_SIZE * number
                below = at + HASH_SIZE * number
                page[at : at + HASH_SIZE] = sha256(b"\3" + page[below : below + 2 * HASH_SIZE]).digest()
            elif page[number] == _MANY:
                at = _NODES + HASH_SIZE * page.count(_MANY, 1, number)
                page[at : at + HASH_SIZE] = inner_node(read_node(page, 2 * number), read_node(page, 2 * number + 1))
        row = {number >> 1 for number in row if number > 1}


class Page:
    """A page that is to be changed.

    Args:
        data: as it is stored; None for a new one, which is empty.
    """

    __slots__ = ("_lone", "_nodes", "leaves")

    def __init__(self, data: bytes | None = None) -> None:
        self.leaves: dict[int, Leaf] = {}
        """The lone leaves, by slot."""
        if data is None:
            self._lone = bytearray([_NONE] * 2 * SLOTS)
            self._nodes: dict[int, bytes] = {}
            return
        self._lone = bytearray(data[: 2 * SLOTS])
        numbers = [number for number in range(1, 2 * SLOTS) if data[number] == _MANY]
        stop = _NODES + HASH_SIZE * len(numbers)
        self._nodes = {
            number: data[at : at + HASH_SIZE]
            for number, at in zip(numbers, range(_NODES, stop, HASH_SIZE), strict=True)
        }
        for slot in range(SLOTS):
            if data[SLOTS + slot] == slot:
                self.leaves[slot] = data[stop : stop + HASH_SIZE], data[stop + HASH_SIZE : stop + 2 * HASH_SIZE]
                stop += 2 * HASH_SIZE
        assert stop == len(data), "a stored page has another length than it says: the store was altered by others"

    def node(self, number: int) -> bytes:
        """Return the hash of a node."""
        lone = self._lone[number]
        if lone == _MANY:
            return self._nodes[number]
        return EMPTY if lone == _NONE else leaf_node(*self.leaves[lone])

    def is_subtree(self, slot: int) -> bool:
        """Return whether another page stands below this slot."""
        return self._lone[SLOTS + slot] == _MANY

    def put_leaf(self, slot: int, leaf: Leaf) -> None:
        """Make a slot a lone leaf; `refold` is due."""
        assert not self.is_subtree(slot), "the map never loses a leaf"
        self.leaves[slot] = leaf
        self._lone[SLOTS + slot] = slot

    def put_subtree(self, slot: int, node: bytes) -> None:
        """Make a slot the subtree with this hash; `refold` is due."""
        self.leaves.pop(slot, None)
        self._lone[SLOTS + slot] = _MANY
        self._nodes[SLOTS + slot] = node

    def refold(self, slots: Iterable[int]) -> None:
        """Compute all nodes above ``slots``."""
        row = {(SLOTS + slot) >> 1 for slot in slots}
        while row:
            for number in row:
                self._fold(number)
            row = {number >> 1 for number in row if number > 1}

    def _fold(self, number: int) -> None:
        left, right = self._lone[2 * number], self._lone[2 * number + 1]
        if right == _NONE and left != _MANY:
            self._lone[number] = left
        elif left == _NONE and right != _MANY:
            self._lone[number] = right
        else:
            self._lone[number] = _MANY
            self._nodes[number] = inner_node(self.node(2 * number), self.node(2 * number + 1))

    def encode(self) -> bytes:
        """Return the page as it is stored."""
        mask = 0
        for slot in self.leaves:
            mask |= 1 << slot
        parts = [bytes(self._lone), mask.to_bytes(2, "big")]
        parts.extend(self._nodes[number] for number in sorted(self._nodes))
        for slot in sorted(self.leaves):
            parts.extend(self.leaves[slot])
        return b"".join(parts)


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

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._tops: dict[int, tuple[bytes, ...]] = {}
        """The upper parts of proofs, by the key's first `TOP` bits, until the map changes."""

    def names(self, key: bytes, size: int) -> list[bytes]:
        """Return the names of the pages that `prove` reads, most likely, in a map of ``size`` users."""
        start = TOP if _top(key) in self._tops else 0
        return [page_key(depth, key) for depth in range(start, size.bit_length() + 1, LEVELS)]

    def forget(self) -> None:
        """The nodes were put back to what they were before."""
        self._tops.clear()

    def root(self) -> bytes:
        """Return the root's hash."""
        page = self._nodes.get(page_key(0, b""))
        return EMPTY if page is None else read_node(page, 1)

    def update(self, changes: dict[bytes, bytes]) -> bytes:
        """Give every key its value and return the new root; reads and writes each page once."""
        if not changes:
            return self.root()
        self._tops.clear()
        return self._update(0, list(changes.items()))

    def _update(self, depth: int, changes: list[Leaf], *, new: bool = False) -> bytes:
        name = page_key(depth, changes[0][0])
        found = None if new else self._nodes.get(name)
        assert found is not None or new or depth == 0, "a page is missing: the store was altered by others"
        groups: dict[int, list[Leaf]] = {}
        for leaf in changes:
            groups.setdefault(_slot(leaf[0], depth), []).append(leaf)
        if found is not None and all(_is_there(found, slot, group) for slot, group in groups.items()):
            patched = bytearray(found)
            for slot, group in groups.items():
                if found[SLOTS + slot] == _MANY:
                    at = _NODES + HASH_SIZE * found.count(_MANY, 1, SLOTS + slot)
                    patched[at : at + HASH_SIZE] = self._update(depth + LEVELS, group)
                else:
                    at = _leaf_at(found, slot) + HASH_SIZE
                    patched[at : at + HASH_SIZE] = group[0][1]
            _rehash(patched, groups)
            self._nodes.put(name, bytes(patched))
            return read_node(patched, 1)
        page = Page(found)
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
        self._nodes.put(name, page.encode())
        return page.node(1)

    def prove(self, key: bytes) -> tuple[bytes | None, MapProof]:
        """Return the value of ``key``, None if it has none, and the proof of that."""
        top = self._tops.get(_top(key), ())
        siblings: list[bytes] = []
        depth = len(top)
        while True:
            if depth == TOP and not top:
                siblings.reverse()
                top = self._tops[_top(key)] = tuple(siblings)
                siblings = []
            page = self._nodes.get(page_key(depth, key))
            if page is None:
                assert depth == 0, "a page is missing: the store was altered by others"
                return None, MapProof(())
            slot = SLOTS + _slot(key, depth)
            if page.startswith(_CROWDED):
                for number in (slot >> 3 ^ 1, slot >> 2 ^ 1, slot >> 1 ^ 1, slot ^ 1):
                    at = _FIRST + HASH_SIZE * number
                    siblings.append(page[at : at + HASH_SIZE])
                depth += LEVELS
                continue
            number = 1
            for shift in (3, 2, 1, 0, None):
                lone = page[number]
                if lone == _NONE:
                    siblings.reverse()
                    return None, MapProof((*siblings, *top))
                if lone != _MANY:
                    siblings.reverse()
                    return _ended(key, read_leaf(page, lone), (*siblings, *top))
                if shift is not None:
                    number = slot >> shift
                    other = number ^ 1
                    if page[other] == _MANY:  # as read_node does; most are such, and a look-up needs some twenty
                        at = _NODES + HASH_SIZE * page.count(_MANY, 1, other)
                        siblings.append(page[at : at + HASH_SIZE])
                    else:
                        siblings.append(read_node(page, other))
            depth += LEVELS


def _slot(key: bytes, depth: int) -> int:
    byte = key[depth >> 3]
    return byte & 15 if depth & 4 else byte >> 4


def _top(key: bytes) -> int:
    return key[0] << 4 | key[1] >> 4


def _ended(key: bytes, leaf: Leaf, way: tuple[bytes, ...]) -> tuple[bytes | None, MapProof]:
    return (leaf[1], MapProof(way)) if leaf[0] == key else (None, MapProof(way, *leaf))
