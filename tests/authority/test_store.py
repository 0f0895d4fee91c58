"""What every store does, shown of the one in memory: the SQL store's tests run the same (`check_store`)."""

from collections.abc import Callable

import pytest

from trunkline.authority.messages import SignedHead
from trunkline.authority.statements import APPROVED, TENTATIVE, PublicKeys, Record, Signed
from trunkline.authority.store import Batch, Entry, IssuedCertificate, MemoryStore, Reader, Revocation


def said(number: int) -> Signed:
    return Signed(b"statement %d" % number, b"signature")


def entry(index: int, user: str) -> Entry:
    return Entry(index, b"leaf %27d" % index, user, said(index))


def record(user: str, index: int, state: int = TENTATIVE) -> Record:
    return Record(user, state, PublicKeys(bytes(32), 1, b"e" * 32), index, b"leaf %27d" % index, "the desk", index)


def certificate(number: int, user: str, not_after: int) -> IssuedCertificate:
    return IssuedCertificate(bytes([number]) * 16, user, b"k" * 32, b"s" * 32, not_after, b"a" * 32, b"DER")


def check_store(store: Reader, apply: Callable[[Batch], None]) -> None:
    """Check an empty store: everything that is written can be read, and nothing else."""
    assert (store.head(), store.size(), store.upstream()) == (None, 0, b"")
    assert (store.records(["ann"]), store.latest("ann"), store.nodes([b"n1"])) == ({}, None, {})
    assert (store.statements(0, 9), store.history("ann", 0, 9), store.find("ann", bytes(32))) == ([], [], None)
    assert (store.users("", "", 0, 9), store.issued("ann", 0), store.revoked(0)) == ([], [], [])

    heads = [SignedHead(b"head %d" % number, b"signature") for number in range(2)]
    users = ["ann", "ops", "ops-x", "ops/ann", "ops/ben", "ann"]
    entries = tuple(entry(index, user) for index, user in enumerate(users))
    apply(
        Batch(
            heads[0],
            entries,
            tuple(record(user, users.index(user)) for user in sorted(set(users))),
            ((b"n1", b"one"), (b"n2", b"two")),
            (certificate(1, "ann", 100), certificate(2, "ann", 200), certificate(3, "ops", 100)),
            (Revocation(b"r" * 16, 100), Revocation(b"q" * 16, 200)),
            upstream=b"told",
        )
    )
    assert (store.head(), store.size(), store.upstream()) == (heads[0], 6, b"told")
    assert store.records(["ann", "zoe", "ops/ann"]) == {"ann": record("ann", 0), "ops/ann": record("ops/ann", 3)}
    assert store.statements(1, 2) == [(1, said(1)), (2, said(2))]
    assert store.statements(5, 9) == [(5, said(5))]
    assert store.history("ann", 0, 9) == [(0, said(0)), (5, said(5))]
    assert store.history("ann", 1, 9) == [(5, said(5))]
    assert store.history("ann", 0, 1) == [(0, said(0))]
    assert store.find("ann", entries[5].leaf) == 5
    assert store.find("ops", entries[5].leaf) is None
    assert store.nodes([b"n1", b"none"]) == {b"n1": b"one"}
    assert [each.serial[0] for each in store.issued("ann", 0)] == [1, 2]
    assert [each.serial[0] for each in store.issued("ann", 100)] == [2]
    assert sorted(store.revoked(0)) == [Revocation(b"q" * 16, 200), Revocation(b"r" * 16, 100)]
    assert store.revoked(100) == [Revocation(b"q" * 16, 200)]
    check_listing(store)

    apply(
        Batch(
            heads[1],
            (entry(6, "ann"),),
            (record("ann", 6, APPROVED),),
            ((b"n2", b"more"), (b"n3", b"three")),
            (certificate(4, "ann", 50),),
            (Revocation(b"p" * 16, 60),),
            expired=100,
        )
    )
    assert (store.head(), store.size(), store.upstream()) == (heads[1], 7, b"told")
    assert store.latest("ann") == (record("ann", 6, APPROVED), said(6))
    assert store.nodes([b"n1", b"n2", b"n3"]) == {b"n1": b"one", b"n2": b"more", b"n3": b"three"}
    assert [each.serial[0] for each in store.issued("ann", 0)] == [2, 4]  # written after the expired went
    assert store.issued("ops", 0) == []
    assert sorted(store.revoked(0)) == [Revocation(b"p" * 16, 60), Revocation(b"q" * 16, 200)]
    assert [each.user for each in store.users("", "", APPROVED, 9)] == ["ann"]


def check_listing(store: Reader) -> None:
    def names(*arguments) -> list[str]:
        return [each.user for each in store.users(*arguments)]

    assert names("", "", 0, 9) == ["ann", "ops", "ops-x", "ops/ann", "ops/ben"]
    assert names("ops", "", 0, 9) == ["ops", "ops/ann", "ops/ben"]
    assert names("ops", "ops", 0, 9) == ["ops/ann", "ops/ben"]
    assert names("ops", "", 0, 2) == ["ops", "ops/ann"]
    assert names("", "ops-x", 0, 9) == ["ops/ann", "ops/ben"]
    assert names("", "", APPROVED, 9) == []
    assert names("op", "", 0, 9) == []


def test_what_is_written_can_be_read():
    store = MemoryStore()
    check_store(store, store.apply)


def test_a_log_with_a_gap_is_not_written():
    with pytest.raises(AssertionError, match="no gaps"):
        MemoryStore().apply(Batch(entries=(entry(1, "ann"),)))


def test_a_copy_lives_a_life_of_its_own():
    store = MemoryStore()
    store.apply(Batch(SignedHead(b"head", b""), (entry(0, "ann"),), (record("ann", 0),), upstream=b"told"))
    copy = store.copy()
    store.apply(Batch(entries=(entry(1, "ann"), entry(2, "ben")), records=(record("ann", 1), record("ben", 2))))
    assert (copy.size(), copy.latest("ann"), copy.latest("ben")) == (1, (record("ann", 0), said(0)), None)
    assert (copy.head(), copy.upstream()) == (store.head(), b"told")
    assert [each.user for each in copy.users("", "", 0, 9)] == ["ann"]
