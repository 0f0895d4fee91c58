"""The log's tree as it is stored: tiles of four levels (docs/spec/authority.md section 10).

Tile ``(t, i)`` holds the hashes of up to sixteen complete subtrees of level ``4 t``, from place ``16 i`` on. What was
complete once stays as it is, so a tile only ever grows. Once it is full, the hashes of the three levels above follow:
a proof costs some slices then.
"""

from collections.abc import Hashable, Iterable
from typing import Any, Final

from trunkline.authority.merkle import (
    EMPTY_ROOT,
    Subtree,
    complete_subtrees,
    fold,
    inclusion_ranges,
    node_hash,
)
from trunkline.authority.nodes import Nodes
from trunkline.authority.statements import HASH_SIZE

Ranges = Iterable[tuple[int, int]]

Way = tuple[list[tuple[bytes, int]], list[tuple[int, int]], tuple[bytes, ...]]
"""The full tiles above a leaf with the place in each; the ranges of leaves whose hashes follow in the proof; and what
of it is known already."""

LEVELS: Final = 4
WIDTH: Final = 1 << LEVELS
FULL: Final = 30 * HASH_SIZE
"""Bytes of a full tile: 16, 8, 4 and 2 hashes."""

TOP: Final = 8
"""Level from which on the upper parts of proofs are kept, one for 256 leaves."""

MAX_TOPS: Final = 8192
"""Most of those: 8 MB, for a log of two million statements."""

KEPT: Final = 256
"""Hashes of at least so many leaves are kept once they were computed: few, and every proof needs some."""

MAX_KNOWN: Final = 16 * 1024
"""Most hashes that are kept so. In a log of two million statements there are that many of at least 256."""


_SIBLINGS: Final = tuple(
    tuple((2 * WIDTH - (2 * WIDTH >> row) + (place >> row ^ 1)) * HASH_SIZE for row in range(LEVELS))
    for place in range(WIDTH)
)
"""Where the siblings stand in a full tile that prove each of its places."""


def tile_key(level: int, index: int) -> bytes:
    """Return the name in the store of the tile that holds hashes of subtrees of ``4 * level``."""
    return b"l%c%b" % (level, index.to_bytes(8, "big"))


def edge_keys(size: int) -> list[bytes]:
    """Return the names of the tiles that hold the last subtrees of a log of ``size``: all that is needed to append."""
    keys: list[bytes] = []
    level = 0
    while size >> (LEVELS * level):
        count = size >> (LEVELS * level)
        if count % WIDTH:
            keys.append(tile_key(level, count // WIDTH))
        level += 1
    return keys


class Tiles:
    """The stored log's tree."""

    def __init__(self, nodes: Nodes, size: int) -> None:
        self._nodes = nodes
        self.size = size
        """Leaves in it."""
        self._known: dict[tuple[int, int], bytes] = {}
        """Hashes of ranges of leaves. What was appended since does not change them."""
        self._tops: dict[int, tuple[bytes, ...]] = {}
        """The upper parts of proofs, by the leaf's number over 256, until the log grows."""
        self._peaks = [self._subtree(each) for each in complete_subtrees(0, size)]

    def append(self, leaf: bytes) -> None:
        """Add a leaf hash."""
        self._tops.clear()
        level, place, node = 0, self.size, leaf
        while True:
            if level % LEVELS == 0:
                self._store(level // LEVELS, place, node)
            if not place & 1:
                break
            node = node_hash(self._peaks.pop(), node)
            level += 1
            place >>= 1
        self._peaks.append(node)
        self.size += 1

    def root(self) -> bytes:
        """Return the Merkle tree hash of all leaves."""
        return fold(self._peaks) if self._peaks else EMPTY_ROOT

    def way(self, index: int) -> Way:
        """Return where a proof that leaf ``index`` is in the log is to be found."""
        top = self._tops.get(index >> TOP)
        if top is not None:
            first = tile_key(0, index >> LEVELS), index % WIDTH
            return [first, (tile_key(1, index >> TOP), (index >> LEVELS) % WIDTH)], [], top
        tiles: list[tuple[bytes, int]] = []
        place, full = index, self.size >> LEVELS
        while place >> LEVELS < full:
            tiles.append((tile_key(len(tiles), place >> LEVELS), place % WIDTH))
            place >>= LEVELS
            full >>= LEVELS
        return tiles, inclusion_ranges(index, self.size, 1 << LEVELS * len(tiles)), ()

    def way_names(self, way: Way) -> list[bytes]:
        """Return the names of the tiles that `inclusion` reads."""
        tiles, rest, _ = way
        return [name for name, _ in tiles] + self.names(rest)

    def inclusion(self, index: int, way: Way) -> tuple[bytes, ...]:
        """Return the proof that leaf ``index`` is in the log, whose `way` was asked for just now."""
        tiles, rest, top = way
        proof: list[bytes] = []
        for name, place in tiles:
            tile = self._nodes.get(name)
            assert tile is not None, "a tile is missing: the store was altered by others"
            assert len(tile) == FULL, "a tile is cut: the store was altered by others"
            for at in _SIBLINGS[place]:
                proof.append(tile[at : at + HASH_SIZE])
        if top:
            return (*proof, *top)
        proof.extend(self.hashes(rest))
        if len(tiles) >= TOP // LEVELS:
            if len(self._tops) >= MAX_TOPS:
                self._tops.clear()
            self._tops[index >> TOP] = tuple(proof[TOP:])
        return tuple(proof)

    def names(self, ranges: Ranges) -> list[bytes]:
        """Return the names of the tiles that `hashes` reads."""
        missing = [each for each in ranges if each not in self._known]
        return list({_tile_of(subtree) for each in missing for subtree in _subtrees(*each)})

    def hashes(self, ranges: Ranges) -> tuple[bytes, ...]:
        """Return the hashes of ranges of leaves, nodes of the tree: a proof (see `trunkline.authority.merkle`)."""
        return tuple([self._known.get(each) or self._range(*each) for each in ranges])

    def snapshot(self) -> Hashable:
        """Return the state without the nodes."""
        return self.size, tuple(self._peaks)

    def restore(self, snapshot: Any) -> None:
        """Become what was snapshot."""
        self.size, peaks = snapshot
        self._peaks = list(peaks)
        self._known.clear()
        self._tops.clear()

    def _store(self, level: int, place: int, node: bytes) -> None:
        name = tile_key(level, place // WIDTH)
        tile = b"" if place % WIDTH == 0 else self._nodes.get(name)
        assert tile is not None, "a tile is missing: the store was altered by others"
        assert len(tile) == place % WIDTH * HASH_SIZE, "a tile has another length than the log: the store was altered"
        tile += node
        self._nodes.put(name, _with_inner(tile) if len(tile) == HASH_SIZE << LEVELS else tile)

    def _range(self, start: int, stop: int) -> bytes:
        """Return the hash of the leaves from ``start`` up to ``stop``, a node of the tree."""
        found = fold([self._subtree(each) for each in _subtrees(start, stop)])
        if stop - start >= KEPT or stop == self.size:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[start, stop] = found
        return found

    def _subtree(self, subtree: Subtree) -> bytes:
        level, place = subtree
        above = level % LEVELS
        first = place << above
        tile = self._nodes.get(tile_key(level // LEVELS, first // WIDTH))
        assert tile is not None, "a tile is missing: the store was altered by others"
        if len(tile) == FULL:
            row = (2 * WIDTH - (2 * WIDTH >> above) + place % (WIDTH >> above)) * HASH_SIZE
            return tile[row : row + HASH_SIZE]
        start = first % WIDTH * HASH_SIZE
        stop = start + (HASH_SIZE << above)
        assert len(tile) >= stop, "a tile is cut: the store was altered by others"
        hashes = [tile[at : at + HASH_SIZE] for at in range(start, stop, HASH_SIZE)]
        while len(hashes) > 1:
            hashes = _above(hashes)
        return hashes[0]


def _with_inner(tile: bytes) -> bytes:
    """Return a tile that has become full, with the three rows above its hashes."""
    row = [tile[at : at + HASH_SIZE] for at in range(0, len(tile), HASH_SIZE)]
    rows = [tile]
    while len(row) > 2:
        row = _above(row)
        rows.extend(row)
    return b"".join(rows)


def _above(hashes: list[bytes]) -> list[bytes]:
    return [node_hash(hashes[at], hashes[at + 1]) for at in range(0, len(hashes), 2)]


def _tile_of(subtree: Subtree) -> bytes:
    level, place = subtree
    return tile_key(level // LEVELS, (place << level % LEVELS) // WIDTH)


def _subtrees(start: int, stop: int) -> list[Subtree]:
    size = stop - start
    if size & (size - 1) == 0 and start & (size - 1) == 0:  # most are complete
        level = size.bit_length() - 1
        return [(level, start >> level)]
    return complete_subtrees(start, stop)
