"""A machine that follows an authority, answers everything but writes, and can't lie (docs/spec/authority.md section 9).

It shows the heads that the authority signed, word for word, and only those whose log and map it has computed itself
from the statements, each judged by the rules. So it finds out if the authority breaks them, and whoever asks the
replica finds out if the replica does.
"""

from collections.abc import Hashable
from typing import Any, Final

import msgspec

from trunkline.authority.answers import Question, Shown, answer, denied
from trunkline.authority.certificates import Anchor, parse_intermediate, parse_root
from trunkline.authority.events import (
    Accuse,
    Answered,
    Ask,
    DirectoryConfig,
    Failed,
    Log,
    Received,
    ReplicaEffect,
    ReplicaEvent,
    Save,
    Saved,
    Send,
    Tick,
)
from trunkline.authority.heads import check_head, read_head, revoked_digest
from trunkline.authority.ledger import Ledger
from trunkline.authority.merkle import verify_consistency
from trunkline.authority.messages import (
    Answer,
    AskHead,
    AskRoot,
    Denied,
    Fetch,
    Head,
    HeadIs,
    Issue,
    Request,
    RootIs,
    SignedHead,
    Statements,
    Submit,
)
from trunkline.authority.proofs import check_retired
from trunkline.authority.rules import RETIRED_USER, read_statement
from trunkline.authority.statements import AnyStatement, Signed
from trunkline.authority.store import Batch, Reader
from trunkline.errors import (
    BadProof,
    BadSignature,
    DeniedError,
    ForkedHistory,
    InvalidUser,
    NotWritable,
    Revoked,
    StaleHead,
    TrunklineError,
    TrustError,
)

MAX_GATHERED: Final = 4096
"""Most statements that are fetched before they are saved. A replica that is further behind shows nothing meanwhile."""

MAX_GATHERED_BYTES: Final = 8 * 1024 * 1024

MAX_PAUSE: Final = 30.0
"""Longest pause in seconds between two tries to reach the upstream."""

_AT_ONCE: Final = 512
"""Users whose records and pages are read in one query."""

_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(HeadIs)


class Replica:
    """A replica, of the Server shape. Its first effect is on `Tick`, which is due at once.

    Args:
        config: its settings.
        reader: what is on disk.
        now: the time, in seconds, by a clock that never goes back.

    Raises:
        TrustError: ``config.root`` is no root, or what is on disk is another realm's or was altered.
    """

    def __init__(self, config: DirectoryConfig, *, reader: Reader, now: float) -> None:
        self.config = config
        self._reader = reader
        self._anchor = parse_root(config.root)
        self._root = RootIs(0, self._anchor.realm, config.root, ())
        self._ledger = self._from_disk()
        self._authorities: dict[bytes, Anchor] = {}
        """By their certificates."""
        self._upstream: HeadIs | None = None
        """What was shown last: the newest head that we have everything for."""
        self._head: Head | None = None
        if reader.upstream():
            self._upstream = _decoder.decode(reader.upstream())
            self._head = self._check(self._upstream)
            if self._head.size == self._ledger.size:
                self._check_same(self._upstream, self._head, ())
        self._target: HeadIs | None = None
        """The head that statements are fetched for."""
        self._gathered: list[Signed] = []
        self._bytes = 0
        self._asking = False
        self._saving = False
        self._accused = False
        self._failures = 0
        self._due = now
        self._queue: list[tuple[int, Request]] = []
        self._now = now
        self.out: list[ReplicaEffect] = []

    # ---- the Server shape -------------------------------------------------------------------------------------

    def step(self, event: ReplicaEvent, now: float) -> list[ReplicaEffect]:
        """Take one event and return what is to be done, in order."""
        self._now = now
        self.out = []
        match event:
            case Received():
                self._queue.extend(event.requests)
            case Tick():
                due = self.next_deadline()
                if due is not None and now >= due:
                    self._ask(AskHead(0, self._ledger.size))
            case Answered():
                self._asking = False
                self._take(event.answer)
            case Failed():
                self._asking = False
                self._fail(event.error)
            case Saved():
                self._ledger.saved()
                self._saving = False
                if self._target is not None:
                    self._go_on(self._target)
        if not self._saving:
            self.out.extend(Send(conn, self._answer(request)) for conn, request in self._queue)
            self._queue = []
        return self.out

    def next_deadline(self) -> float | None:
        """Return when `Tick` is due; None while an answer is waited for, and for good once the upstream is accused."""
        return None if self._asking or self._accused or self._saving else self._due

    # ---- what others ask --------------------------------------------------------------------------------------

    def _answer(self, request: Request) -> Answer:
        if isinstance(request, Submit | Issue):
            where = f": ask {self.config.writer}" if self.config.writer else ""
            return denied(request.query, NotWritable(f"this replica of {self._anchor.realm!r} only answers{where}"))
        shown = self._upstream
        if shown is None or self._head is None or self._head.size != self._ledger.size:
            if isinstance(request, AskRoot):
                return RootIs(request.query, self._root.realm, self._root.root, ())
            size = self._ledger.size
            return denied(
                request.query, StaleHead(f"this replica is catching up, and has {size} statements: ask another")
            )
        told = Shown(shown.head, self._head.size, shown.revoked, shown.authorities, shown.retired)
        question: Question = request
        return answer(question, told, self._ledger, self._reader, self._root)

    # ---- what the upstream answers ----------------------------------------------------------------------------

    def _take(self, given: Answer) -> None:
        try:
            match given:
                case HeadIs():
                    self._take_head(given)
                case Statements() if self._target is not None:
                    self._take_statements(given, self._target)
                case Denied():
                    self._fail(DeniedError(given.text))
                case _:
                    self._fail(TrunklineError(f"the upstream answered {type(given).__name__}, which was not asked"))
        except TrustError as error:
            self._accuse(error, given)

    def _take_head(self, given: HeadIs) -> None:
        head = self._check(given)
        self._failures = 0
        if self._gathered:
            self._advance(given, head)
        elif head.size < self._ledger.size:
            self._check_behind(given, head)
            self._pause(self.config.poll)
        elif head.size == self._ledger.size:
            self._show(given, head)
        else:
            self._check_follows(self._ledger.size, given, head)
            self._target = given
            self._go_on(given)

    def _check_follows(self, size: int, given: HeadIs, head: Head) -> None:
        """Check that the log of a head goes on from the first ``size`` statements, which are those of the ledger."""
        try:
            verify_consistency(size, head.size, self._ledger.log_root(), head.log, given.consistency)
        except BadProof as error:
            raise ForkedHistory(str(error), self._evidence(given.head)) from error

    def _check_behind(self, given: HeadIs, head: Head) -> None:
        """A head of fewer statements than we have: is the upstream only slower than we are, or was it put back?"""
        if self._head is not None and head.size < self._head.size and head.time > self._head.time:
            raise ForkedHistory(
                f"the authority signed a head of {head.size} statements after one of {self._head.size}: "
                "its log was put back",
                self._evidence(given.head),
            )
        self.out.append(Log("upstream is behind", f"{head.size} statements, we have {self._ledger.size}"))

    def _show(self, given: HeadIs, head: Head) -> None:
        """Show a head of exactly what we have, unless it is none that is newer."""
        self._check_same(given, head, ())
        self._pause(self.config.poll)
        if self._head is None or head.size > self._head.size or head.time > self._head.time:
            self._become(given, head)
            self._save(Batch(given.head, upstream=_encode(self._upstream)))

    def _check_same(self, given: HeadIs, head: Head, gathered: tuple[Signed, ...]) -> None:
        """Check that a head is of what is in the ledger, and comes with all retirements.

        Args:
            gathered: statements in the ledger that are not on disk yet.
        """
        if (head.log, head.map) != (self._ledger.log_root(), self._ledger.map_root()):
            raise ForkedHistory(
                f"the head of {head.size} statements is not of the statements that were given for it",
                self._evidence(given.head),
            )
        retired = tuple(signed for _, signed in self._reader.history(RETIRED_USER, 0, len(given.retired) + 1))
        retired += tuple(each for each in gathered if read_statement(each).user == RETIRED_USER)
        if retired != given.retired:
            raise BadProof("the retired keys that are told with the head are not those of the log")

    def _take_statements(self, given: Statements, target: HeadIs) -> None:
        size = read_head(target.head).size
        at = self._ledger.size + len(self._gathered)
        for index, signed in given.statements:
            if at == size or len(self._gathered) == MAX_GATHERED:
                break
            if index != at:
                raise BadProof(f"asked for statement {at} of the log, the upstream gave {index}")
            self._gathered.append(signed)
            self._bytes += len(signed.body)
            at += 1
        if given.statements:
            self._go_on(target)
        else:
            self._fail(TrunklineError(f"the upstream has a head of {size} statements, and does not give number {at}"))

    def _go_on(self, target: HeadIs) -> None:
        """Fetch on; once everything is there, or as much as is held at a time, make it ours."""
        head = read_head(target.head)
        at = self._ledger.size + len(self._gathered)
        if at == head.size:
            self._advance(target, head)
        elif len(self._gathered) >= MAX_GATHERED or self._bytes >= MAX_GATHERED_BYTES:
            self._ask(AskHead(0, at))  # the proof from there shows whether these are the log's
        else:
            self._ask(Fetch(0, at))

    def _advance(self, given: HeadIs, head: Head) -> None:
        """Judge what was gathered, compare it with a signed head, and save it."""
        before, after = self._ledger.size, self._ledger.size + len(self._gathered)
        if head.size < after:
            self._fail(TrunklineError(f"the upstream now has {head.size} statements, and has given {after}"))
            return
        try:
            read = [(signed, _read(signed)) for signed in self._gathered]
            for start in range(0, len(read), _AT_ONCE):
                self._ledger.prepare([statement.user for _, statement in read[start : start + _AT_ONCE]])
            for signed, statement in read:
                self._judge(signed, statement)
            entries, records, nodes = self._ledger.close()
            if head.size == after:
                self._check_same(given, head, tuple(self._gathered))
            else:
                self._check_follows(after, given, head)
        except TrustError:
            self._ledger = self._from_disk()
            raise
        self._gathered, self._bytes = [], 0
        self.out.append(Log("took", f"statements {before} to {after - 1}"))
        if head.size == after:
            self._target = None
            self._pause(self.config.poll)
            self._become(given, head)
            self._save(Batch(given.head, entries, records, nodes, upstream=_encode(self._upstream)))
        else:
            self._target = given
            self._save(Batch(None, entries, records, nodes))

    def _judge(self, signed: Signed, statement: AnyStatement) -> None:
        try:
            self._ledger.append(signed, self._ledger.judge(signed, statement))
        except (DeniedError, BadSignature) as error:
            raise ForkedHistory(
                f"statement {self._ledger.size} of the log breaks the rules: {error}", (_encode(signed),)
            ) from error

    def _check(self, given: HeadIs) -> Head:
        """Return what a head says, once it is certain that this realm's authority signed it, and the serials with it.

        Raises:
            TrustError: it did not.
        """
        for certificate in given.authorities:
            if certificate not in self._authorities:
                self._authorities[certificate] = parse_intermediate(certificate, self._anchor)
        retired = {check_retired(each, self._anchor) for each in given.retired}
        head = read_head(given.head)
        if head.realm != self._anchor.key_id:
            raise TrustError(f"the head is of another realm than {self._anchor.realm!r}")
        anchors = [self._authorities[each] for each in given.authorities]
        signer = next((each for each in anchors if each.key_id == head.authority), None)
        if signer is None:
            raise BadSignature(f"the head is signed by {head.authority.hex()[:16]}, whose certificate is not with it")
        if signer.key_id in retired:
            raise Revoked(f"the head is signed by {head.authority.hex()[:16]}, a key that was retired")
        check_head(given.head, signer)
        if revoked_digest(given.revoked, given.retired) != head.revoked:
            raise BadProof("the revoked serials or the retired keys are not those that the head was signed for")
        self._authorities = {each: self._authorities[each] for each in given.authorities}
        return head

    # ---- the rest ---------------------------------------------------------------------------------------------

    def _from_disk(self) -> Ledger:
        return Ledger(self._reader, self._anchor.key_id, self._anchor.key)

    def _become(self, given: HeadIs, head: Head) -> None:
        self._upstream, self._head = msgspec.structs.replace(given, query=0, consistency=()), head

    def _ask(self, request: AskHead | Fetch) -> None:
        self.out.append(Ask(request))
        self._asking = True

    def _save(self, batch: Batch) -> None:
        self.out.append(Save(batch))
        self._saving = True

    def _pause(self, seconds: float) -> None:
        self._due = self._now + seconds

    def _fail(self, error: TrunklineError) -> None:
        """Begin anew at the next poll, later each time."""
        if not self._failures:
            self.out.append(Log("upstream does not answer", str(error)))
        self._drop()
        self._pause(min(MAX_PAUSE, self.config.poll * (1 << min(self._failures, 16))))
        self._failures += 1

    def _accuse(self, error: TrustError, given: Answer) -> None:
        """What was said can't be true: keep it for people, show the last good head on, and ask no more."""
        self._drop()
        self._accused = True
        evidence = error.evidence if isinstance(error, ForkedHistory) else (_encode(given),)
        self.out.append(Accuse(error, evidence))
        self.out.append(Log("the upstream is not to be believed", str(error)))

    def _evidence(self, head: SignedHead) -> tuple[bytes, ...]:
        """Return two signed heads that can't both be true: ours, if we show one, and this."""
        heads = (head,) if self._upstream is None else (self._upstream.head, head)
        return tuple(_encode(each) for each in heads)

    def _drop(self) -> None:
        self._target, self._gathered, self._bytes = None, [], 0

    # ---- the simulator ----------------------------------------------------------------------------------------

    def snapshot(self) -> Hashable:
        """Return the whole state beyond what is on disk, equal for equal states."""
        return (
            self._ledger.snapshot(),
            self._upstream,
            self._head,
            self._target,
            tuple(self._gathered),
            self._asking,
            self._saving,
            self._accused,
            self._failures,
            self._due,
            tuple(self._queue),
        )

    def restore(self, snapshot: Any) -> None:
        """Become what was snapshot; the same must be on disk as then."""
        (
            ledger,
            self._upstream,
            self._head,
            self._target,
            gathered,
            self._asking,
            self._saving,
            self._accused,
            self._failures,
            self._due,
            queue,
        ) = snapshot
        self._ledger.restore(ledger)
        self._gathered, self._queue = list(gathered), list(queue)
        self._bytes = sum(len(each.body) for each in self._gathered)


def _read(signed: Signed) -> AnyStatement:
    try:
        return read_statement(signed)
    except (BadSignature, InvalidUser) as error:
        raise ForkedHistory(f"the log holds what is no statement: {error}", (_encode(signed),)) from error
