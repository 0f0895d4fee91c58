"""The log, the map and the records together: statements are judged and appended, proofs are made.

What is appended is held here until it is saved. One batch is made at a time; nothing else is asked meanwhile.
"""

from collections.abc import Collection, Hashable
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from trunkline.authority.mapping import map_key, record_hash
from trunkline.authority.merkle import consistency_ranges, statement_hash
from trunkline.authority.messages import MapProof
from trunkline.authority.nodes import Nodes
from trunkline.authority.pages import Map, page_keys
from trunkline.authority.rules import Outcome, judge
from trunkline.authority.statements import AnyStatement, Record, Signed
from trunkline.authority.store import Entry, Reader
from trunkline.authority.tiles import Tiles, edge_keys

_UPPER_DEPTH: Final = 12
"""Pages of the map down to this depth are kept apart from those below: see `trunkline.authority.nodes.MAX_UPPER`."""

_UPPER_LEVEL: Final = 1
"""Of the log likewise: a million statements have 4368 tiles from this level on."""

MAX_CONSISTENCY: Final = 1024
"""Most consistency proofs that are kept, of up to 2 KiB each."""


MAX_STANDINGS: Final = 1024
"""Most users whose record and proofs are kept, 5 KiB each: those that were looked up last."""


class Standing(NamedTuple):
    """All that there is to be told about one user, until the next statement is appended."""

    record: Record | None
    statement: Signed | None
    """The latest about the user."""
    proof: MapProof
    inclusion: tuple[bytes, ...]


class Ledger:
    """Everything that statements amount to.

    Args:
        realm: the root's fingerprint.
        root: the administrator's key.
    """

    def __init__(self, reader: Reader, realm: bytes, root: ec.EllipticCurvePublicKey) -> None:
        self._reader = reader
        self._realm = realm
        self._root = root
        self._tile_nodes = Nodes(reader, lambda name: name[1] >= _UPPER_LEVEL)
        self._page_nodes = Nodes(reader, lambda name: name[1] <= _UPPER_DEPTH)
        size = reader.size()
        self._read(edge_keys(size), ())
        self._tiles = Tiles(self._tile_nodes, size)
        self._map = Map(self._page_nodes)
        self._consistency: dict[int, tuple[bytes, ...]] = {}
        self._standings: dict[str, Standing] = {}
        """The one that was asked for last is the last."""
        self._known: dict[str, Record | None] = {}
        """Of the batch that is being made: the users that it may concern."""
        self._entries: list[Entry] = []
        self._changed: dict[str, Record] = {}

    @property
    def size(self) -> int:
        """Statements in the log."""
        return self._tiles.size

    def log_root(self) -> bytes:
        """Return the Merkle tree hash of the log."""
        return self._tiles.root()

    def map_root(self) -> bytes:
        """Return the root of the map; of a batch, after `close`."""
        return self._map.root()

    # ---- append -----------------------------------------------------------------------------------------------

    def prepare(self, users: Collection[str]) -> None:
        """Read all that a batch about ``users`` needs, in two queries."""
        wanted = [user for user in set(users) if user not in self._known]
        found = self._reader.records(wanted)
        self._known.update((user, found.get(user)) for user in wanted)
        self._read((), page_keys([map_key(user) for user in wanted], self.size))

    def record(self, user: str) -> Record | None:
        """Return the record of one of the users of `prepare`, as the batch leaves it so far."""
        return self._known[user]

    def judge(self, signed: Signed, statement: AnyStatement) -> Outcome:
        """Return what would come of a statement about one of the users of `prepare`.

        Raises:
            NotAllowed, NameTaken, BadSignature: see `trunkline.authority.rules.judge`.
        """
        return judge(
            signed,
            statement,
            self._known[statement.user],
            index=self.size,
            leaf=statement_hash(signed),
            realm=self._realm,
            root=self._root,
        )

    def append(self, signed: Signed, outcome: Outcome) -> None:
        """Append a statement that was judged just now."""
        record = outcome.record
        assert record.index == self.size, "something was appended since"
        self._tiles.append(record.latest)
        self._consistency.clear()
        self._standings.clear()
        self._entries.append(Entry(record.index, record.latest, record.user, signed))
        self._known[record.user] = self._changed[record.user] = record

    def find(self, signed: Signed, user: str) -> int | None:
        """Return where this very statement stands in the log; None if it does not."""
        leaf = statement_hash(signed)
        for entry in self._entries:
            if entry.leaf == leaf:
                return entry.index
        return self._reader.find(user, leaf)

    def close(self) -> tuple[tuple[Entry, ...], tuple[Record, ...], tuple[tuple[bytes, bytes], ...]]:
        """End the batch: bring the map up to date and return entries, records and nodes to be saved."""
        self._map.update({map_key(user): record_hash(record) for user, record in self._changed.items()})
        nodes = (*self._tile_nodes.changes(), *self._page_nodes.changes())
        entries, records = tuple(self._entries), tuple(self._changed.values())
        self._entries.clear()
        self._changed.clear()
        self._known.clear()
        return entries, records, nodes

    def saved(self) -> None:
        """What `close` returned is on disk."""
        self._tile_nodes.saved()
        self._page_nodes.saved()

    # ---- prove ------------------------------------------------------------------------------------------------

    def look_up(self, user: str) -> Standing:
        """Return the record of a user and its proofs, with two queries at most."""
        found = self._standings.pop(user, None)
        if found is None:
            latest = self._reader.latest(user)
            record, statement = (None, None) if latest is None else latest
            proof, inclusion = self._prove(user, None if record is None else record.index)
            found = Standing(record, statement, proof, inclusion)
            while len(self._standings) >= MAX_STANDINGS:
                del self._standings[next(iter(self._standings))]
        self._standings[user] = found
        return found

    def _prove(self, user: str, index: int | None) -> tuple[MapProof, tuple[bytes, ...]]:
        key = map_key(user)
        pages = self._map.names(key, self.size)
        if index is None:
            self._read((), pages)
            return self._map.prove(key)[1], ()
        way = self._tiles.way(index)
        self._read(self._tiles.way_names(way), pages)
        return self._map.prove(key)[1], self._tiles.inclusion(index, way)

    def consistency(self, since: int) -> tuple[bytes, ...]:
        """Return the proof that the log goes on from its first ``since`` statements; none if it never had so many.

        Most askers have seen one of few heads, so these proofs are kept until the log grows.
        """
        found = self._consistency.get(since)
        if found is None:
            ranges = consistency_ranges(since, self.size) if since <= self.size else []
            self._read(self._tiles.names(ranges), ())
            found = self._tiles.hashes(ranges)
            if len(self._consistency) >= MAX_CONSISTENCY:
                self._consistency.clear()
            self._consistency[since] = found
        return found

    def _read(self, tiles: Collection[bytes], pages: Collection[bytes]) -> None:
        missing = {*self._tile_nodes.missing(tiles), *self._page_nodes.missing(pages)}
        if missing:
            for name, value in self._reader.nodes(missing).items():
                (self._tile_nodes if name in tiles else self._page_nodes).offer(name, value)

    # ---- the simulator ----------------------------------------------------------------------------------------

    def snapshot(self) -> Hashable:
        """Return the state between two steps."""
        return (
            self._tiles.snapshot(),
            tuple(sorted(self._tile_nodes.changes())),
            tuple(sorted(self._page_nodes.changes())),
        )

    def restore(self, snapshot: Any) -> None:
        """Become what was snapshot; the store is put back by others."""
        tiles, tile_changes, page_changes = snapshot
        self._consistency.clear()
        self._standings.clear()
        self._tiles.restore(tiles)
        self._tile_nodes.restore(tile_changes)
        self._page_nodes.restore(page_changes)
        self._map.forget()
