"""The cache of nodes: what is read once, what is pushed out, what is kept until it is saved."""

import pytest

from trunkline.authority import nodes as module
from trunkline.authority.nodes import Nodes
from trunkline.authority.store import Batch, MemoryStore


class Counting(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.read: list[bytes] = []

    def nodes(self, keys):
        self.read.extend(keys)
        return super().nodes(keys)


@pytest.fixture
def store() -> Counting:
    store = Counting()
    store.apply(
        Batch(nodes=tuple((b"%s%d" % (part, number), b"%d" % number) for part in (b"u", b"l") for number in range(9)))
    )
    return store


@pytest.fixture
def nodes(store, monkeypatch) -> Nodes:
    monkeypatch.setattr(module, "MAX_UPPER", 3)
    monkeypatch.setattr(module, "MAX_LOWER", 2)
    return Nodes(store, lambda name: name.startswith(b"u"))


def test_a_node_is_read_once(store, nodes):
    assert [nodes.get(b"u5"), nodes.get(b"u5"), nodes.get(b"none")] == [b"5", b"5", None]
    assert store.read == [b"u5", b"none"]


def test_what_was_used_last_stays_and_the_lower_part_pushes_out_nothing_of_the_upper(store, nodes):
    for name in (b"u0", b"u1", b"u2", b"u0", b"u3", b"l1", b"l2", b"l3", b"l4"):
        nodes.get(name)
    names = [b"u0", b"u1", b"u2", b"u3", b"l3", b"l4", b"l1"]
    assert nodes.missing(names) == [b"u1", b"l1"]


def test_what_is_offered_need_not_be_read(store, nodes):
    nodes.offer(b"u7", b"7")
    assert nodes.get(b"u7") == b"7"
    assert store.read == []


def test_changes_are_kept_however_many_until_they_are_saved(store, nodes):
    for number in range(9):
        nodes.put(b"l%d" % number, b"%d" % (number + 100))
    assert nodes.missing([b"l0"]) == []
    assert nodes.get(b"l0") == b"100"
    assert nodes.changes()[0] == (b"l0", b"100")
    store.apply(Batch(nodes=tuple(nodes.changes())))
    nodes.saved()
    assert nodes.changes() == []
    assert nodes.missing([b"l%d" % number for number in range(9)]) == [b"l%d" % number for number in range(7)]
    assert nodes.get(b"l0") == b"100"


def test_restored_it_holds_changes_and_nothing_else(nodes):
    nodes.get(b"u1")
    nodes.put(b"u2", b"22")
    changes = nodes.changes()
    nodes.saved()
    nodes.restore(changes)
    assert nodes.missing([b"u1", b"u2"]) == [b"u1"]
    assert nodes.changes() == changes
