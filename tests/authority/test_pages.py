"""The stored map against one that is built anew from its contents each time."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.authority.test_mapping import keys, maps, naive_proof, naive_root
from trunkline.authority import mapping
from trunkline.authority.nodes import Nodes
from trunkline.authority.pages import Map, Page, page_key, page_keys, read_leaf, read_node
from trunkline.authority.store import MAX_NODE, Batch, MemoryStore


def make_map(store: MemoryStore) -> tuple[Map, Nodes]:
    nodes = Nodes(store, lambda name: name[1] <= 4)
    return Map(nodes), nodes


def save(store: MemoryStore, nodes: Nodes) -> None:
    store.apply(Batch(nodes=tuple(nodes.changes())))
    nodes.saved()


@given(st.lists(maps, max_size=4), keys)
def test_whatever_was_put_in_first_the_root_and_the_proofs_are_those_of_the_contents(rounds, other):
    store = MemoryStore()
    stored, nodes = make_map(store)
    leaves: dict[bytes, bytes] = {}
    for changes in rounds:
        leaves.update(changes)
        assert stored.update(changes) == naive_root(leaves) == stored.root()
        save(store, nodes)
        stored, nodes = make_map(store)  # from the store alone
        assert stored.root() == naive_root(leaves)
    for key in [*leaves, other]:
        assert stored.prove(key) == (leaves.get(key), naive_proof(leaves, key))


def test_pages_that_are_changed_in_place_and_kept_tops_give_the_proofs_of_the_contents():
    stored, _ = make_map(MemoryStore())
    # Full pages above, and below the same twelve bits deep ways with some empty slots.
    leaves = {sha256(b"%d" % number).digest(): bytes(32) for number in range(150)}
    leaves |= {b"\xab\xc0" + sha256(b"%d" % number).digest()[2:]: bytes(32) for number in range(12)}
    for value in (b"v" * 32, b"w" * 32):
        for key in [*leaves][::13]:
            leaves[key] = value
            assert stored.update(leaves) == naive_root(leaves)
        for _ in range(2):
            for key in [*leaves][-30:]:
                assert stored.prove(key) == (leaves[key], naive_proof(leaves, key))


@given(maps)
def test_one_at_a_time_or_all_at_once_makes_the_same_pages(leaves):
    one, many = MemoryStore(), MemoryStore()
    stored, nodes = make_map(one)
    stored.update(leaves)
    save(one, nodes)
    stored, nodes = make_map(many)
    for key, value in reversed(leaves.items()):
        stored.update({key: value})
        save(many, nodes)
    assert one._nodes == many._nodes


def test_a_page_comes_back_from_the_store_as_it_was():
    page = Page()
    page.put_leaf(0, (b"k" * 32, b"v" * 32))
    page.put_subtree(7, b"s" * 32)
    page.put_leaf(15, (b"l" * 32, b"w" * 32))
    page.refold((0, 7, 15))
    data = page.encode()
    again = Page(data)
    assert (again.leaves, again.encode()) == (page.leaves, data)
    assert [again.is_subtree(slot) for slot in (0, 7, 8)] == [False, True, False]
    assert [read_node(data, number) for number in range(1, 32)] == [page.node(number) for number in range(1, 32)]
    assert read_leaf(data, 15) == (b"l" * 32, b"w" * 32)
    with pytest.raises(AssertionError, match="was altered"):
        Page(data[:-1])


def test_the_largest_page_is_within_what_a_node_may_be():
    page = Page()
    for slot in range(16):
        page.put_leaf(slot, (bytes([slot]) * 32, bytes(32)))
    page.refold(range(16))
    assert len(page.encode()) == 1538 <= MAX_NODE


def test_pages_are_named_by_depth_and_prefix():
    key = bytes.fromhex("abcdef") + bytes(29)
    assert page_key(0, key) == b"m\x00"
    assert page_key(4, key) == b"m\x04\xa0"
    assert page_key(8, key) == b"m\x08\xab"
    assert page_key(12, key) == b"m\x0c\xab\xc0"
    assert page_key(252, b"\xff" * 32) == b"m\xfc" + b"\xff" * 31 + b"\xf0"
    assert page_keys([key], 300) == [page_key(depth, key) for depth in (0, 4, 8)]


def test_keys_that_differ_in_the_last_bit_alone_are_told_apart():
    store = MemoryStore()
    stored, nodes = make_map(store)
    leaves = {bytes(32): b"a" * 32, bytes(31) + b"\1": b"b" * 32}
    assert stored.update(leaves) == naive_root(leaves)
    save(store, nodes)
    assert len(store._nodes) == 64
    value, proof = stored.prove(bytes(32))
    assert (value, len(proof.siblings)) == (b"a" * 32, 256)
    mapping.verify(bytes(32), value, proof, stored.root())


def test_a_thousand_users_in_batches():
    store = MemoryStore()
    stored, nodes = make_map(store)
    leaves = {sha256(b"%d" % number).digest(): sha256(b"v%d" % number).digest() for number in range(1000)}
    items = list(leaves.items())
    for start in range(0, 1000, 90):
        stored.update(dict(items[start : start + 90]))
        save(store, nodes)
    assert stored.root() == naive_root(leaves)
    assert stored.update({}) == stored.root()
    for key in items[::97]:
        value, proof = stored.prove(key[0])
        mapping.verify(key[0], value, proof, stored.root())
