"""Rules of the authority, its replicas and its readers that are broken on purpose, and what notices."""

import contextlib
from typing import Any, Final

import msgspec

from trunkline.authority.directory import Directory
from trunkline.authority.events import Save, Send
from trunkline.authority.heads import read_head
from trunkline.authority.ledger import Ledger
from trunkline.authority.messages import AskHead, Get, Head, HeadIs
from trunkline.authority.registrar import Registrar
from trunkline.authority.replica import Replica
from trunkline.authority.statements import Signed
from trunkline.authority.store import Batch
from trunkline.authority.trust import Trust
from trunkline.errors import BadProof
from trunkline.sim.realmcast import Cast


class BrokenRealm(msgspec.Struct, frozen=True):
    """One broken rule, and where it shows."""

    rule: str
    invariant: str
    world: str
    directory: type[Directory] = Directory
    replica: type[Replica] = Replica
    trust: type[Trust] = Trust

    def cast(self) -> Cast:
        return Cast(self.directory, self.replica, self.trust)


# ---- the authority -----------------------------------------------------------------------------------------------


class _AnswersFirst(Directory):
    """Answers when the save is under way."""

    def step(self, event: Any, now: float) -> Any:
        effects = super().step(event, now)
        effects.extend(self._promised)
        self._promised = ()
        return effects


class _ShowsUnsaved(Directory):
    """Signs a head anew and shows it without saving it: what the first version did."""

    def _work(self) -> None:
        if self._is_overdue():
            self._sign()
            self._is_kept = True
        super()._work()


class _AnswersMeanwhile(Directory):
    """Answers questions while a save is under way, with what is not on disk yet."""

    def _save(self, batch: Batch) -> None:
        super()._save(batch)
        for conn, request in tuple(self._queue):
            if isinstance(request, AskHead | Get):
                self.out.append(Send(conn, self._answer(request)))
                self._queue.remove((conn, request))


class _ForgetsSerials(Directory):
    """Hands out certificates without saving that it did."""

    def _save(self, batch: Batch) -> None:
        super()._save(batch)
        self.out[-1] = Save(msgspec.structs.replace(batch, issued=()))


class _NeverSaysItTwice(Ledger):
    """Does not know a statement again."""

    def find(self, signed: Signed, user: str) -> int | None:
        return None


class _RefusesRepeats(Directory):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ledger.__class__ = _NeverSaysItTwice


class _Unmapped(Ledger):
    """Appends a statement to the log, and does not bring it into the map."""

    def close(self) -> Any:
        changed = tuple(self._changed.values())
        self._changed.clear()
        entries, _, nodes = super().close()
        return entries, changed, nodes


class _ForgetsMap(Directory):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ledger.__class__ = _Unmapped


class _Unrevoking(Registrar):
    def revoke(self, user: str, signing: bytes | None, wall: int) -> None:
        pass


class _KeepsCertificates(Directory):
    """Does not revoke what was issued to a key that was changed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._registrar.__class__ = _Unrevoking


# ---- a replica ---------------------------------------------------------------------------------------------------


class _ShowsAtOnce(Replica):
    """Shows a head before it has its statements."""

    def _take_head(self, given: HeadIs) -> None:
        head = self._check(given)
        super()._take_head(given)
        self._become(given, head)

    def _answer(self, request: Any) -> Any:
        size = self._ledger.size
        head = self._head
        if head is not None and head.size > size:
            self._head = msgspec.structs.replace(head, size=size)
        try:
            return super()._answer(request)
        finally:
            self._head = head


class _Trusting(Replica):
    """Does not compare what it computed with what the authority signed."""

    def _check_same(self, given: HeadIs, head: Head, gathered: tuple[Signed, ...]) -> None:
        pass


# ---- a reader ----------------------------------------------------------------------------------------------------


class _Forgetful(Trust):
    """Takes any head that is signed, older ones too."""

    def _check_follows(self, seen: Any, proof: Any, *, first_hand: bool) -> None:
        pass


class _Patient(Trust):
    """Does not mind how old a head is."""

    def check_found(self, answer: Any, user: str, wall: float, *, first_hand: bool = False) -> Any:
        return super().check_found(answer, user, min(wall, self._seen_at(answer)), first_hand=first_hand)

    def _seen_at(self, answer: Any) -> float:
        return float(read_head(answer.head).time)


class _Credulous(Trust):
    """Believes what a record is said to be, without its proofs."""

    def check_found(self, answer: Any, user: str, wall: float, *, first_hand: bool = False) -> Any:
        seen = self._open(answer.head, wall)
        self._check_follows(seen, answer.consistency, first_hand=first_hand)
        self._accept(seen)
        return answer.record


class _Uncounting(Trust):
    """Takes a head whose revoked serials are not those that it was signed for."""

    def update_head(self, answer: HeadIs, wall: float, *, first_hand: bool = False) -> None:
        with contextlib.suppress(BadProof):
            super().update_head(answer, wall, first_hand=first_hand)


class _Suspicious(Trust):
    """Takes every head that is not newer for a fork."""

    def _check_follows(self, seen: Any, proof: Any, *, first_hand: bool) -> None:
        if self.head is not None and seen.head.time < self.head.time:
            raise BadProof("it is older than ours")
        super()._check_follows(seen, proof, first_hand=first_hand)


BROKEN_REALMS: Final[dict[str, BrokenRealm]] = {
    "answers-first": BrokenRealm("an authority answers before it has saved", "R1", "realm", directory=_AnswersFirst),
    "forgets-serials": BrokenRealm(
        "a certificate is issued and its serial is not saved", "R1", "realm", directory=_ForgetsSerials
    ),
    "shows-unsaved": BrokenRealm(
        "an authority shows a head that it has signed anew and not saved", "R3", "realm", directory=_ShowsUnsaved
    ),
    "answers-meanwhile": BrokenRealm(
        "an authority answers questions out of a batch that is not saved yet",
        "R3",
        "realm",
        directory=_AnswersMeanwhile,
    ),
    "refuses-repeats": BrokenRealm(
        "an authority does not know a statement again whose answer was lost", "R5", "realm", directory=_RefusesRepeats
    ),
    "keeps-certificates": BrokenRealm(
        "a change does not revoke the old key's certificates", "R6", "realm", directory=_KeepsCertificates
    ),
    "forgets-map": BrokenRealm(
        "an authority does not bring its statements into the map", "R2", "realm", directory=_ForgetsMap
    ),
    "shows-at-once": BrokenRealm(
        "a replica shows a head before it has the statements", "R3", "replica-behind", replica=_ShowsAtOnce
    ),
    "trusting": BrokenRealm("a replica does not verify what it was given", "R9", "replica-altered", replica=_Trusting),
    "credulous": BrokenRealm("a reader believes a record without its proofs", "R4", "replica-lying", trust=_Credulous),
    "uncounting": BrokenRealm(
        "a reader takes revoked serials that are not those of the head", "R6", "replica-lying", trust=_Uncounting
    ),
    "forgetful": BrokenRealm("a reader can be rolled back", "R7", "replica-behind", trust=_Forgetful),
    "suspicious": BrokenRealm(
        "a reader accuses a replica that is only behind", "R3", "replica-behind", trust=_Suspicious
    ),
    "patient": BrokenRealm("a reader believes heads of any age", "R8", "replica-cut", trust=_Patient),
}
"""Short name -> rule."""
