"""The stored log's tree against RFC 6962 as `test_merkle` has it word for word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.authority.test_merkle import make_leaves, mth, path, proof
from trunkline.authority import tiles as module
from trunkline.authority.merkle import consistency_ranges, verify_consistency, verify_inclusion
from trunkline.authority.nodes import Nodes
from trunkline.authority.store import Batch, MemoryStore
from trunkline.authority.tiles import Tiles, edge_keys, tile_key


def make(store: MemoryStore, size: int = 0) -> tuple[Tiles, Nodes]:
    nodes = Nodes(store, lambda name: name[1] > 0)
    return Tiles(nodes, size), nodes


def save(store: MemoryStore, nodes: Nodes) -> None:
    store.apply(Batch(nodes=tuple(nodes.changes())))
    nodes.saved()


def test_every_size_has_the_root_and_proofs_of_the_rfc_also_after_a_new_start():
    leaves = make_leaves(70)
    store = MemoryStore()
    tiles, nodes = make(store)
    assert tiles.root() == mth([])
    for size in range(1, 71):
        tiles.append(leaves[size - 1])
        assert (tiles.size, tiles.root()) == (size, mth(leaves[:size]))
        if size % 7 == 0:
            save(store, nodes)
            tiles, nodes = make(store, size)
            assert tiles.root() == mth(leaves[:size])
        for index in {0, size // 3, size - 1}:
            assert list(tiles.inclusion(index, tiles.way(index))) == path(index, leaves[:size])
        for first in {0, size // 2, size - 1}:
            assert list(tiles.hashes(consistency_ranges(first, tiles.size))) == (
                proof(first, leaves[:size]) if 0 < first < size else []
            )


@given(st.integers(1, 5000), st.data())
def test_proofs_of_greater_logs_are_accepted(size, data):
    leaves, store = LEAVES[:size], MemoryStore()
    tiles, nodes = make(store)
    first = data.draw(st.integers(1, size))
    roots = []
    for at, leaf in enumerate(leaves, start=1):
        tiles.append(leaf)
        if at in (first, size):
            roots.append(tiles.root())
    save(store, nodes)
    tiles, nodes = make(store, size)
    index = data.draw(st.integers(0, size - 1))
    verify_inclusion(leaves[index], index, size, tiles.inclusion(index, tiles.way(index)), tiles.root())
    verify_consistency(first, size, roots[0], tiles.root(), tiles.hashes(consistency_ranges(first, tiles.size)))


LEAVES = make_leaves(5000)


def test_the_names_that_proofs_say_they_need_are_all_that_they_read():
    store = MemoryStore()
    tiles, nodes = make(store)
    for leaf in LEAVES:
        tiles.append(leaf)
    save(store, nodes)
    read: list[bytes] = []

    class Watching(MemoryStore):
        def nodes(self, keys):
            read.extend(keys)
            return store.nodes(keys)

    for index, first in ((0, 1), (4999, 4998), (2048, 4096), (777, 3333)):
        tiles, nodes = make(Watching(), 5000)
        nodes.restore(())
        wanted = {*tiles.way_names(tiles.way(index)), *tiles.names(consistency_ranges(first, 5000))}
        read.clear()
        tiles.inclusion(index, tiles.way(index))
        tiles.hashes(consistency_ranges(first, tiles.size))
        assert set(read) == wanted


def test_to_start_needs_the_tiles_at_the_edge_and_no_more():
    assert edge_keys(0) == []
    assert edge_keys(16) == [tile_key(1, 0)]
    assert edge_keys(0x123) == [tile_key(0, 0x12), tile_key(1, 1), tile_key(2, 0)]
    store = MemoryStore()
    tiles, nodes = make(store)
    for leaf in LEAVES[:0x123]:
        tiles.append(leaf)
    save(store, nodes)
    edge = MemoryStore()
    edge.apply(Batch(nodes=tuple(store.nodes(edge_keys(0x123)).items())))
    again, _ = make(edge, 0x123)
    again.append(LEAVES[0x123])
    assert again.root() == mth(LEAVES[:0x124])


def test_a_tile_that_is_missing_or_cut_is_noticed():
    store = MemoryStore()
    tiles, nodes = make(store)
    for leaf in LEAVES[:20]:
        tiles.append(leaf)
    save(store, nodes)
    with pytest.raises(AssertionError, match="was altered"):
        make(MemoryStore(), 20)
    store.apply(Batch(nodes=((tile_key(0, 1), LEAVES[16]),)))
    with pytest.raises(AssertionError, match="was altered"):
        make(store, 20)


def test_what_is_kept_of_hashes_is_bounded_and_changes_no_proof(monkeypatch):
    monkeypatch.setattr(module, "MAX_KNOWN", 3)
    monkeypatch.setattr(module, "KEPT", 2)
    tiles, _ = make(MemoryStore())
    for leaf in LEAVES[:45]:
        tiles.append(leaf)
    for index in range(45):
        assert list(tiles.inclusion(index, tiles.way(index))) == path(index, LEAVES[:45])
        assert len(tiles._known) <= 3


def test_restored_it_goes_on_from_there():
    store = MemoryStore()
    tiles, nodes = make(store)
    tiles.append(LEAVES[0])
    snapshot, changes = tiles.snapshot(), nodes.changes()
    tiles.append(LEAVES[1])
    tiles.restore(snapshot)
    nodes.restore(changes)
    tiles.append(LEAVES[2])
    assert tiles.root() == mth([LEAVES[0], LEAVES[2]])
