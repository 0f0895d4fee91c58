"""The authority's machine: requests in, saves and answers out (docs/spec/authority.md section 10).

Whatever it answers to a write is on disk before. All writes that are there at once make one save and one head.
"""

from collections.abc import Hashable
from typing import Any, Final

from trunkline.authority.answers import Question, Shown, answer, denied
from trunkline.authority.certificates import parse_intermediate, parse_root
from trunkline.authority.events import (
    DirectoryConfig,
    DirectoryEffect,
    DirectoryEvent,
    Log,
    Received,
    Save,
    Saved,
    Send,
    Tick,
)
from trunkline.authority.heads import read_head, revoked_digest, sign_head
from trunkline.authority.issuing import Issuer
from trunkline.authority.ledger import Ledger
from trunkline.authority.messages import (
    Answer,
    Denied,
    Head,
    Issue,
    Issued,
    Request,
    RootIs,
    Stored,
    Submit,
)
from trunkline.authority.registrar import Registrar
from trunkline.authority.rules import RETIRED_USER, read_statement
from trunkline.authority.statements import AnyStatement, Retire, Signed
from trunkline.authority.store import Batch, Reader
from trunkline.errors import DeniedError, NotAllowed, TooMany, TrunklineError, TrustError
from trunkline.names import Draw
from trunkline.users import check_user

MAX_BATCH: Final = 256
"""Most writes in one save: their signatures take some tens of milliseconds to verify, and reads wait meanwhile."""

MAX_RETIRED: Final = 64
"""Most retired intermediates: they go with every head."""

_POSTPONED: Final = 1.0
"""Seconds until a sweep is tried again that would fall into a save."""

_Result = int | tuple[bytes, ...] | Denied
"""What comes of a write: an index in the log, a chain of certificates, or a refusal."""


class Directory:
    """An authority, of the Server shape.

    Args:
        config: its settings.
        reader: what is on disk.
        issuer: the intermediate that signs: that of ``config.authorities[0]``.
        seed: 16 random bytes or more; serial numbers are drawn from it.
        now: the time, in seconds, by a clock that never goes back.

    Raises:
        NotAllowed: the issuer's key is retired.
        TrustError: a certificate of ``config`` is not of this realm, or what is on disk is of another or was altered.
    """

    def __init__(self, config: DirectoryConfig, *, reader: Reader, issuer: Issuer, seed: bytes, now: float) -> None:
        anchor = parse_root(config.root)
        authorities = [parse_intermediate(each, anchor) for each in config.authorities]
        if not authorities or authorities[0].key_id != issuer.key_id or issuer.fingerprint != anchor.key_id:
            raise TrustError("the first of the authorities' certificates is not that of the key that is to sign")
        self.config = config
        self._reader = reader
        self._issuer = issuer
        self._realm = anchor.key_id
        self._root = RootIs(0, anchor.realm, config.root, config.authorities)
        self._draw = Draw(seed + b"serials")
        self._ledger = Ledger(reader, anchor.key_id, anchor.key)
        self._registrar = Registrar(config, reader, issuer, self._wall(now))
        self._retired = tuple(signed for _, signed in reader.history(RETIRED_USER, 0, MAX_RETIRED))
        for signed in self._retired:
            _check_unretired(read_statement(signed), issuer)
        self._body = self._first_head(self._wall(now))
        self._head = sign_head(self._body, issuer)
        self._is_kept = False
        """Whether the head is on disk, or will be before anything is said of it."""
        self._queue: list[tuple[int, Request]] = []
        self._promised: tuple[Send, ...] = ()
        """What is answered once the save under way is done."""
        self._logs: list[Log] = []
        self._saving = False
        self._sweep_due = now + config.sweep
        self._now = now
        self.out: list[DirectoryEffect] = []

    # ---- the Server shape -------------------------------------------------------------------------------------

    def step(self, event: DirectoryEvent, now: float) -> list[DirectoryEffect]:
        """Take one event and return what is to be done, in order."""
        self._now = now
        self.out = []
        match event:
            case Received():
                self._queue.extend(event.requests)
            case Saved():
                assert self._saving, "nothing was to be saved"
                self._ledger.saved()
                self._saving = False
                self.out.extend(self._promised)
                self._promised = ()
            case Tick():
                self._sweep()
        while self._queue and not self._saving:
            self._work()
        return self.out

    def next_deadline(self) -> float | None:
        """Return when `Tick` is due."""
        return self._sweep_due

    # ---- one round --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Answer the questions at the head of the queue, and make one batch of all writes in it."""
        if self._is_overdue() and not all(isinstance(request, Submit | Issue) for _, request in self._queue):
            # Saved before it is shown: whoever saw it would take us for rolled back if we started again without it
            # and with a clock that is behind.
            self._sign()
            self._save(Batch(self._head))
            return
        writes: list[tuple[int, Submit | Issue]] = []
        later: list[tuple[int, Request]] = []
        for conn, request in self._queue:
            if isinstance(request, Submit | Issue):
                if len(writes) < MAX_BATCH:
                    writes.append((conn, request))
                else:
                    later.append((conn, request))
            elif writes:
                later.append((conn, request))  # who wrote before it is to see that
            else:
                self.out.append(Send(conn, self._answer(request)))
        self._queue = later
        if writes:
            self._write(writes)

    def _answer(self, request: Question) -> Answer:
        shown = Shown(self._head, self._ledger.size, self._registrar.revoked(), self.config.authorities, self._retired)
        return answer(request, shown, self._ledger, self._reader, self._root)

    def _write(self, writes: list[tuple[int, Submit | Issue]]) -> None:
        wall = self._wall(self._now)
        readable: list[tuple[int, Submit | Issue, AnyStatement | None]] = []
        users: list[str] = []
        results: list[tuple[int, int, _Result]] = []
        for conn, request in writes:
            statement = None
            try:
                if isinstance(request, Submit):
                    statement = read_statement(request.statement)
                    users.append(statement.user)
                else:
                    users.append(check_user(request.user))
                readable.append((conn, request, statement))
            except TrunklineError as error:
                results.append((conn, request.query, self._refuse(request, error)))
        self._ledger.prepare(users)
        for conn, request, statement in readable:
            result: _Result
            try:
                if isinstance(request, Issue):
                    result = self._issue(request, wall)
                else:
                    assert statement is not None
                    result = self._submit(request.statement, statement, wall)
            except TrunklineError as error:
                result = self._refuse(request, error)
            results.append((conn, request.query, result))
        self._commit(results)

    def _submit(self, signed: Signed, statement: AnyStatement, wall: int) -> int:
        """Append a statement and return its index; of one that was appended before, that."""
        try:
            outcome = self._ledger.judge(signed, statement)
            _check_unretired(statement, self._issuer)
            if isinstance(statement, Retire) and len(self._retired) >= MAX_RETIRED:
                raise TooMany("retired keys", MAX_RETIRED)
            self._registrar.revoke(statement.user, outcome.lost, wall)
        except DeniedError:
            # Whoever lost the answer says it again: it has been said, and fits no more.
            index = self._ledger.find(signed, statement.user)
            if index is None:
                raise
            return index
        self._ledger.append(signed, outcome)
        if isinstance(statement, Retire):
            self._retired += (signed,)
        self._logs.append(Log(type(statement).__name__.lower(), statement.user))
        return outcome.record.index

    def _issue(self, request: Issue, wall: int) -> tuple[bytes, ...]:
        serial = self._draw.bytes(16)
        record = self._ledger.record(request.user)
        return self._registrar.issue(request, record, bytes([serial[0] & 0x7F or 1]) + serial[1:], wall)

    def _refuse(self, request: Submit | Issue, error: TrunklineError) -> Denied:
        self._logs.append(Log("refused", f"{type(request).__name__}: {error}"))
        return denied(request.query, error)

    def _commit(self, results: list[tuple[int, int, _Result]]) -> None:
        """Save what came of a batch; what is to be answered and logged depends on it, refusals too."""
        entries, records, nodes = self._ledger.close()
        issued, revoked = self._registrar.close()
        if entries:
            self._sign()
        answers = [Send(conn, self._told(query, result)) for conn, query, result in results]
        if entries or issued:
            self._save(Batch(self._head if entries else None, entries, records, nodes, issued, revoked))
            self._promised = tuple(answers)
        else:  # all of it was refused, or had been done before
            self.out.extend(answers)
        self.out.extend(self._logs)
        self._logs.clear()

    def _told(self, query: int, result: _Result) -> Answer:
        match result:
            case int():
                return Stored(query, result, self._head)
            case tuple():
                return Issued(query, result)
            case Denied():
                return result

    def _save(self, batch: Batch) -> None:
        self._is_kept |= batch.head is not None
        self.out.append(Save(batch))
        self._saving = True

    # ---- time and heads ---------------------------------------------------------------------------------------

    def _wall(self, now: float) -> int:
        return int(self.config.epoch + now)

    def _sweep(self) -> None:
        if self._now < self._sweep_due:
            return
        if self._saving:
            self._sweep_due = self._now + _POSTPONED
            return
        self._sweep_due = self._now + self.config.sweep
        expired = self._registrar.sweep(self._wall(self._now))
        self._sign()  # a head fits the revoked serials that are told with it
        self._save(Batch(self._head, expired=expired))

    def _first_head(self, wall: int) -> Head:
        saved = self._reader.head()
        if saved is None:
            if self._ledger.size:
                raise TrustError("what is on disk has statements and no head: it was altered")
            return self._new_head(wall)
        head = read_head(saved)
        if head.realm != self._realm:
            raise TrustError("what is on disk is the directory of another realm")
        if (head.size, head.log, head.map) != (self._ledger.size, self._ledger.log_root(), self._ledger.map_root()):
            raise TrustError("what is on disk does not fit its signed head: it was altered, or put back in part")
        return self._new_head(max(wall, head.time))

    def _is_overdue(self) -> bool:
        return not self._is_kept or self._wall(self._now) - self._body.time > self.config.head_refresh

    def _sign(self) -> None:
        """Sign a head of what there is; its time never goes back, whatever the clock does."""
        self._body = self._new_head(max(self._wall(self._now), self._body.time))
        self._head = sign_head(self._body, self._issuer)

    def _new_head(self, time: int) -> Head:
        return Head(
            self._realm,
            self._ledger.size,
            self._ledger.log_root(),
            self._ledger.map_root(),
            time,
            revoked_digest(self._registrar.revoked(), self._retired),
            self._issuer.key_id,
        )

    # ---- the simulator ----------------------------------------------------------------------------------------

    def snapshot(self) -> Hashable:
        """Return the whole state beyond what is on disk, equal for equal states."""
        return (
            self._ledger.snapshot(),
            self._registrar.snapshot(),
            self._retired,
            self._body,
            self._head,
            self._is_kept,
            tuple(self._queue),
            self._promised,
            self._saving,
            self._sweep_due,
            self._draw.count,
        )

    def restore(self, snapshot: Any) -> None:
        """Become what was snapshot; the same must be on disk as then."""
        (
            ledger,
            registrar,
            self._retired,
            self._body,
            self._head,
            self._is_kept,
            queue,
            self._promised,
            self._saving,
            self._sweep_due,
            self._draw.count,
        ) = snapshot
        self._ledger.restore(ledger)
        self._registrar.restore(registrar)
        self._queue = list(queue)


def _check_unretired(statement: AnyStatement, issuer: Issuer) -> None:
    if isinstance(statement, Retire) and statement.authority == issuer.key_id:
        raise NotAllowed(
            "the key that this authority signs with can't be retired while it does, or is retired: "
            "make a new one with `trunkline authority renew`"
        )
