"""What an authority keeps: how it is read, and what one save writes (docs/spec/authority.md section 10).

The machines of this package read through a `Reader` and write by the effect `Save`, which carries one `Batch`. The SQL
store implements both for real; `MemoryStore` does for tests and the simulator.
"""

import bisect
from collections.abc import Collection
from typing import Final, Protocol

import msgspec

from trunkline.authority.messages import SignedHead
from trunkline.authority.statements import Record, Signed

MAX_NODE: Final = 2048
"""Largest stored node in bytes: a page of the map with 16 leaves takes 1538, a full tile of the log 960."""


class Entry(msgspec.Struct, frozen=True):
    """One statement at its place in the log."""

    index: int
    leaf: bytes
    """Its leaf hash; no two entries have the same."""
    user: str
    signed: Signed


class IssuedCertificate(msgspec.Struct, frozen=True):
    """A leaf that was issued, kept until it expires."""

    serial: bytes
    user: str
    signing: bytes
    """The user's Ed25519 key at that time."""
    subject: bytes
    """The SHA-256 of the certified key's SubjectPublicKeyInfo."""
    not_after: int
    """In seconds since 1970."""
    authority: bytes
    """The key id of the intermediate that signed it."""
    certificate: bytes
    """X.509, DER."""


class Revocation(msgspec.Struct, frozen=True, order=True):
    """The serial of a certificate that is no longer to be believed, kept until the certificate expires."""

    serial: bytes
    not_after: int
    """In seconds since 1970."""


class Batch(msgspec.Struct, frozen=True):
    """What is written together, or not at all: one transaction, on disk before anything is answered."""

    head: SignedHead | None = None
    """Takes the place of the one before."""
    entries: tuple[Entry, ...] = ()
    """Go on from the last entry's index, without gaps."""
    records: tuple[Record, ...] = ()
    """Take the place of the records of the same users. At most one per user."""
    nodes: tuple[tuple[bytes, bytes], ...] = ()
    """Pairs of key and value; they take the place of those with the same keys."""
    issued: tuple[IssuedCertificate, ...] = ()
    revoked: tuple[Revocation, ...] = ()
    expired: int = 0
    """Forget what is issued or revoked with ``not_after`` at or before this (written before the two above)."""
    upstream: bytes = b""
    """Of a replica: the answer of its upstream that it serves; takes the place of the one before unless empty."""


class Reader(Protocol):
    """Reads what was saved. Every read is synchronous and costs at most one query."""

    def head(self) -> SignedHead | None:
        """Return the last head that was saved."""

    def size(self) -> int:
        """Return how many entries there are; takes the same time however many."""

    def upstream(self) -> bytes:
        """Return the last `Batch.upstream` that was not empty; empty if there is none."""

    def records(self, users: Collection[str]) -> dict[str, Record]:
        """Return the records of those of ``users`` (up to 1024) that have one."""

    def latest(self, user: str) -> tuple[Record, Signed] | None:
        """Return the record of ``user`` and the statement at ``record.index``; None if there is none."""

    def statements(self, start: int, limit: int) -> list[tuple[int, Signed]]:
        """Return up to ``limit`` entries from index ``start`` on, in order."""

    def history(self, user: str, start: int, limit: int) -> list[tuple[int, Signed]]:
        """Return up to ``limit`` entries about ``user`` from index ``start`` on, in order."""

    def find(self, user: str, leaf: bytes) -> int | None:
        """Return the index of the entry about ``user`` with this leaf hash. Asked rarely: before a refusal."""

    def nodes(self, keys: Collection[bytes]) -> dict[bytes, bytes]:
        """Return the values of those of ``keys`` (up to 4096, of 2 to 40 bytes each) that have one."""

    def users(self, prefix: str, after: str, state: int, limit: int) -> list[Record]:
        """Return up to ``limit`` records in order of their users' bytes, of users greater than ``after``.

        Args:
            prefix: only the user of that name and those whose names begin with it and ``/``; empty for all.
            state: only those in that state; 0 for all.
        """

    def issued(self, user: str, after: int) -> list[IssuedCertificate]:
        """Return what is issued to ``user`` with ``not_after`` greater than ``after``, in order of issue."""

    def revoked(self, after: int) -> list[Revocation]:
        """Return what is revoked with ``not_after`` greater than ``after``; asked once, at the start."""


class MemoryStore:
    """A store that lives as long as the process."""

    def __init__(self) -> None:
        self._head: SignedHead | None = None
        self._upstream = b""
        self._entries: list[Entry] = []
        self._histories: dict[str, list[int]] = {}
        self._records: dict[str, Record] = {}
        self._names: list[str] = []
        self._nodes: dict[bytes, bytes] = {}
        self._issued: list[IssuedCertificate] = []
        self._revoked: list[Revocation] = []

    def apply(self, batch: Batch) -> None:
        """Write ``batch``."""
        if batch.head is not None:
            self._head = batch.head
        for entry in batch.entries:
            assert entry.index == len(self._entries), "the log has no gaps, and nothing in it is written twice"
            self._entries.append(entry)
            self._histories.setdefault(entry.user, []).append(entry.index)
        for record in batch.records:
            if record.user not in self._records:
                bisect.insort(self._names, record.user)
            self._records[record.user] = record
        self._nodes.update(batch.nodes)
        if batch.expired:
            self._issued = [each for each in self._issued if each.not_after > batch.expired]
            self._revoked = [each for each in self._revoked if each.not_after > batch.expired]
        self._issued.extend(batch.issued)
        self._revoked.extend(batch.revoked)
        self._upstream = batch.upstream or self._upstream

    def copy(self) -> "MemoryStore":
        """Return a store that holds the same: a disk at some moment, to start again from."""
        other = MemoryStore()
        other._head, other._upstream = self._head, self._upstream
        other._entries, other._records = list(self._entries), dict(self._records)
        other._histories = {user: list(indices) for user, indices in self._histories.items()}
        other._names, other._nodes = list(self._names), dict(self._nodes)
        other._issued, other._revoked = list(self._issued), list(self._revoked)
        return other

    def head(self) -> SignedHead | None:
        return self._head

    def size(self) -> int:
        return len(self._entries)

    def upstream(self) -> bytes:
        return self._upstream

    def records(self, users: Collection[str]) -> dict[str, Record]:
        return {user: self._records[user] for user in users if user in self._records}

    def latest(self, user: str) -> tuple[Record, Signed] | None:
        record = self._records.get(user)
        return None if record is None else (record, self._entries[record.index].signed)

    def statements(self, start: int, limit: int) -> list[tuple[int, Signed]]:
        return [(entry.index, entry.signed) for entry in self._entries[start : start + limit]]

    def history(self, user: str, start: int, limit: int) -> list[tuple[int, Signed]]:
        indices = self._histories.get(user, [])
        first = bisect.bisect_left(indices, start)
        return [(index, self._entries[index].signed) for index in indices[first : first + limit]]

    def find(self, user: str, leaf: bytes) -> int | None:
        for index in self._histories.get(user, []):
            if self._entries[index].leaf == leaf:
                return index
        return None

    def nodes(self, keys: Collection[bytes]) -> dict[bytes, bytes]:
        return {key: self._nodes[key] for key in keys if key in self._nodes}

    def users(self, prefix: str, after: str, state: int, limit: int) -> list[Record]:
        found: list[Record] = []
        for name in self._names[bisect.bisect_right(self._names, after) :]:
            if len(found) == limit:
                break
            record = self._records[name]
            if (not prefix or name == prefix or name.startswith(prefix + "/")) and state in (0, record.state):
                found.append(record)
        return found

    def issued(self, user: str, after: int) -> list[IssuedCertificate]:
        return [each for each in self._issued if each.user == user and each.not_after > after]

    def revoked(self, after: int) -> list[Revocation]:
        return [each for each in self._revoked if each.not_after > after]
