"""Replays the whole log of a directory and checks everything that can be checked (docs/spec/authority.md section 9).

Nothing of what the directory says about itself is used but its statements, in their order, and its signed head: the
rules are applied to each statement again, and both Merkle roots are computed again, on a scratch store that is thrown
away. So a log of any length takes little memory; a statement takes about as long as its signatures.
"""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from trunkline.authority.certificates import Anchor, parse_intermediate, parse_root
from trunkline.authority.heads import check_head, read_head
from trunkline.authority.ledger import Ledger
from trunkline.authority.messages import AskHead, Fetch, HeadIs, SignedHead, Statements
from trunkline.authority.rules import read_statement
from trunkline.authority.statements import STATES, AnyStatement, Retire, Signed
from trunkline.authority.store import Batch
from trunkline.drivers.disk import Store, open_store
from trunkline.drivers.upstream_aio import Upstream
from trunkline.errors import BadProof, BadSignature, MalformedMessage, Revoked, TrunklineError, TrustError

BATCH: Final = 1024
"""Statements that are replayed together."""


class Report(msgspec.Struct, frozen=True):
    """What was found to be in order."""

    realm: str
    fingerprint: bytes
    size: int
    """Statements replayed."""
    kinds: dict[str, int]
    """How many of each kind."""
    users: dict[str, int]
    """How many users in each state."""
    time: int
    """When the head was signed, in seconds since 1970."""
    records: int = 0
    """Records of a store that were compared with what its log comes to."""


class Audit:
    """Takes a log from its beginning.

    Args:
        root: the realm's root certificate, DER.
        progress: told now and then how many statements were replayed.

    Raises:
        TrustError: it is no root.
    """

    def __init__(self, root: bytes, progress: Callable[[int], None] = lambda _: None) -> None:
        self._root: Anchor = parse_root(root)
        self._progress = progress
        self._folder = tempfile.TemporaryDirectory(prefix="trunkline-audit-")
        self._store: Store = open_store(Path(self._folder.name) / "replay.sqlite", self._root.key_id, create=True)
        self._ledger = Ledger(self._store, self._root.key_id, self._root.key)
        self._kinds: dict[str, int] = {}
        self._retired: set[bytes] = set()

    def __enter__(self) -> "Audit":
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()
        self._folder.cleanup()

    @property
    def size(self) -> int:
        """Statements replayed so far."""
        return self._ledger.size

    def take(self, statements: Iterable[tuple[int, Signed]]) -> None:
        """Replay the next statements.

        Raises:
            TrustError: one of them may not stand where it stands; the text says which, and why.
        """
        read: list[tuple[Signed, AnyStatement]] = []
        for index, signed in statements:
            if index != self._ledger.size + len(read):
                raise BadProof(f"statement {self._ledger.size + len(read)} is missing: {index} comes next")
            try:
                read.append((signed, read_statement(signed)))
            except TrunklineError as error:
                raise BadSignature(f"statement {index} can't be read: {error}") from error
        self._ledger.prepare([statement.user for _, statement in read])
        for signed, statement in read:
            try:
                self._ledger.append(signed, self._ledger.judge(signed, statement))
            except TrunklineError as error:
                raise BadSignature(f"statement {self._ledger.size} breaks the rules: {error}") from error
            kind = type(statement).__name__.lower()
            self._kinds[kind] = self._kinds.get(kind, 0) + 1
            if isinstance(statement, Retire):
                self._retired.add(statement.authority)
        entries, records, nodes = self._ledger.close()
        self._store.apply(Batch(None, entries, records, nodes))
        self._ledger.saved()
        self._progress(self._ledger.size)

    def check(self, signed: SignedHead, authorities: Iterable[bytes]) -> Report:
        """Check a head against what was replayed.

        Args:
            authorities: certificates of intermediates, DER.

        Raises:
            TrustError: with the step that failed.
        """
        head = read_head(signed)
        known = {each.key_id: each for each in (parse_intermediate(one, self._root) for one in authorities)}
        signer = known.get(head.authority)
        if signer is None:
            raise BadSignature(f"the head is signed by the key {head.authority.hex()[:16]}, which has no certificate")
        check_head(signed, signer)
        if head.realm != self._root.key_id:
            raise TrustError("the head is of another realm")
        if head.authority in self._retired:
            raise Revoked(f"the head is signed by the key {head.authority.hex()[:16]}, which was retired")
        if head.size != self._ledger.size:
            raise BadProof(f"the head is of {head.size} statements, and the log has {self._ledger.size}")
        if head.log != self._ledger.log_root():
            raise BadProof("the log's Merkle root is not the one in the head: a statement was altered, or moved")
        if head.map != self._ledger.map_root():
            raise BadProof("the map's root is not the one in the head: a record says what the log does not")
        users = {name: count for state, name in STATES.items() if (count := self._store.count(state))}
        return Report(self._root.realm, head.realm, head.size, self._kinds, users, head.time)

    def compare(self, store: Store) -> int:
        """Compare the records of a store with what its log comes to; return how many there are.

        Raises:
            BadProof: one says something else, or is missing.
        """
        same, after = 0, ""
        while page := store.users("", after, 0, BATCH):
            mine = self._store.records([record.user for record in page])
            for record in page:
                replayed = mine.get(record.user)
                if record.index < self.size and record != replayed:
                    raise BadProof(f"the record of {record.user!r} says what the log does not")
                same += replayed is not None  # the others came to it while we looked
            after = page[-1].user
        if same != (wanted := sum(map(self._store.count, STATES))):
            raise BadProof(f"{wanted - same} records are missing")
        return same


def audit_store(store: Store, authorities: Iterable[bytes], audit: Audit) -> Report:
    """Replay a store's log up to its last head, and compare its records too.

    Raises:
        TrustError: with the step that failed.
        StoreFailed: it can't be read.
    """
    signed = store.head()
    if signed is None:
        raise TrustError("the store has no head: nothing was ever written to it")
    size = read_head(signed).size
    while audit.size < size and (page := store.statements(audit.size, min(BATCH, size - audit.size))):
        audit.take(page)
    report = audit.check(signed, authorities)
    return msgspec.structs.replace(report, records=audit.compare(store))


async def audit_remote(upstream: Upstream, audit: Audit) -> Report:
    """Fetch an authority's or a replica's log up to its present head, and replay it.

    Raises:
        TrustError: with the step that failed.
        NoAuthority: it can't be reached.
    """
    answer = await upstream.ask(AskHead(0))
    if not isinstance(answer, HeadIs):
        raise MalformedMessage(f"asked for the head, it said {type(answer).__name__}")
    size = read_head(answer.head).size
    while audit.size < size:
        page = await upstream.ask(Fetch(0, audit.size))
        if not isinstance(page, Statements):
            raise MalformedMessage(f"asked for statements, it said {type(page).__name__}")
        if not page.statements:
            break
        audit.take(page.statements[: size - audit.size])
    return audit.check(answer.head, answer.authorities)
