"""Log, map and records together: how often the store is read, and what a batch consists of."""

from tests.authority.kit import ADMIN, Person, approve, insert, leaf
from trunkline.authority.ledger import Ledger
from trunkline.authority.mapping import map_key, record_hash, verify
from trunkline.authority.merkle import verify_consistency, verify_inclusion
from trunkline.authority.rules import read_statement
from trunkline.authority.store import Batch, MemoryStore


class Counting(MemoryStore):
    """Counts queries, and how many nodes each asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def records(self, users):
        self.asked.append(0)
        return super().records(users)

    def nodes(self, keys):
        self.asked.append(len(keys))
        return super().nodes(keys)


def make(store: MemoryStore) -> Ledger:
    return Ledger(store, ADMIN.realm, ADMIN.anchor.key)


def append(ledger: Ledger, store: MemoryStore, *statements) -> Batch:
    read = [(signed, read_statement(signed)) for signed in statements]
    ledger.prepare([statement.user for _, statement in read])
    for signed, statement in read:
        ledger.append(signed, ledger.judge(signed, statement))
    entries, records, nodes = ledger.close()
    batch = Batch(None, entries, records, nodes)
    store.apply(batch)
    ledger.saved()
    return batch


PEOPLE = [Person(f"user{number}") for number in range(200)]


def test_a_batch_has_each_record_and_node_once_however_often_it_changed():
    store = MemoryStore()
    first = insert(PEOPLE[0])
    batch = append(make(store), store, first, insert(PEOPLE[1]), approve(PEOPLE[0], leaf(first)))
    assert [entry.index for entry in batch.entries] == [0, 1, 2]
    assert [(record.user, record.index) for record in batch.records] == [("user0", 2), ("user1", 1)]
    names = [name for name, _ in batch.nodes]
    assert len(names) == len(set(names))


def test_proofs_are_those_of_what_is_saved_and_cost_two_queries_when_nothing_is_known():
    store = Counting()
    ledger = make(store)
    append(ledger, store, *map(insert, PEOPLE[:150]))
    old = ledger.size, ledger.log_root()
    append(ledger, store, *map(insert, PEOPLE[150:]))
    for cold in (True, False):
        for index in (0, 77, 149, 199):
            if cold:
                ledger = make(store)
            store.asked.clear()
            record = store._records[f"user{index}"]
            found = ledger.look_up(record.user)
            since = ledger.consistency(old[0])
            assert len(store.asked) <= 2
            assert (found.record, found.statement) == store.latest(record.user)
            in_map, in_log = found.proof, found.inclusion
            verify(map_key(record.user), record_hash(record), in_map, ledger.map_root())
            verify_inclusion(record.latest, index, 200, in_log, ledger.log_root())
            verify_consistency(old[0], 200, old[1], ledger.log_root(), since)
            assert since == ledger.consistency(old[0])


def test_consistency_proofs_are_kept_until_the_log_grows_and_so_many(monkeypatch):
    monkeypatch.setattr("trunkline.authority.ledger.MAX_CONSISTENCY", 3)
    store = MemoryStore()
    ledger = make(store)
    append(ledger, store, *map(insert, PEOPLE[:20]))
    first = [ledger.consistency(size) for size in range(20)]
    assert [ledger.consistency(size) for size in range(20)] == first
    append(ledger, store, insert(PEOPLE[20]))
    assert ledger.consistency(7) != first[7]


def test_a_start_and_a_batch_cost_few_queries():
    store = Counting()
    append(make(store), store, *map(insert, PEOPLE[:150]))
    store.asked.clear()
    ledger = make(store)
    assert ledger.log_root()
    assert len(store.asked) == 1
    store.asked.clear()
    append(ledger, store, *map(insert, PEOPLE[150:]))
    assert len(store.asked) == 2


def test_nobody_is_proven_to_be_absent_from_an_empty_directory():
    ledger = make(MemoryStore())
    found = ledger.look_up("ann")
    verify(map_key("ann"), None, found.proof, ledger.map_root())
    assert (found.record, found.statement, found.inclusion, ledger.consistency(5)) == (None, None, (), ())


def test_what_was_looked_up_is_kept_until_the_log_grows_and_so_much_of_it(monkeypatch):
    monkeypatch.setattr("trunkline.authority.ledger.MAX_STANDINGS", 2)
    store = Counting()
    ledger = make(store)
    first = [insert(person) for person in PEOPLE[:40]]
    append(ledger, store, *first)
    kept = ledger.look_up("user0")
    ledger.look_up("user1")
    assert ledger.look_up("user0") is kept
    ledger.look_up("user2")  # in the place of user1
    assert ledger.look_up("user0") is kept
    assert len(ledger._standings) == 2
    append(ledger, store, approve(PEOPLE[0], leaf(first[0])))
    found = ledger.look_up("user0")
    assert found.record.index == 40
    verify(map_key("user0"), record_hash(found.record), found.proof, ledger.map_root())
    verify_inclusion(found.record.latest, 40, 41, found.inclusion, ledger.log_root())


def test_a_statement_is_found_on_disk_and_in_the_batch():
    store = MemoryStore()
    ledger = make(store)
    append(ledger, store, insert(PEOPLE[0]))
    ledger.prepare(["user1"])
    signed = insert(PEOPLE[1])
    ledger.append(signed, ledger.judge(signed, read_statement(signed)))
    assert ledger.record("user1").index == 1
    assert [ledger.find(insert(person), person.name) for person in PEOPLE[:3]] == [0, 1, None]
