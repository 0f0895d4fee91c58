"""The directory as callers use it: look up, insert, approve, change, delete; answers are verified before use."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from trunkline.authority import requests
from trunkline.authority.certificates import Anchor, Identity, parse_intermediate
from trunkline.authority.link import denial
from trunkline.authority.merkle import statement_hash
from trunkline.authority.messages import (
    Answer,
    AskHead,
    Denied,
    Found,
    Get,
    HeadIs,
    History,
    Issued,
    List,
    Listing,
    Request,
    Statements,
    Stored,
    Submit,
)
from trunkline.authority.requests import Sign
from trunkline.authority.rules import RETIRED_USER, read_statement
from trunkline.authority.statements import DELETED, Record, Signed
from trunkline.authority.trust import Trust
from trunkline.drivers.authority_client import TIMEOUT, AuthorityClient
from trunkline.drivers.keys import UserKey
from trunkline.errors import BadProof, NameTaken, NotAllowed, StaleHead
from trunkline.names import Address
from trunkline.users import check_user

Answers = Sequence[tuple[Request, Answer]]

_ROUNDS: Final = 5
"""How often a question is put again because its answer was out of date when it came."""

_A = TypeVar("_A", bound=Answer)
_T = TypeVar("_T")


class DirectoryClient:
    """The directory of one realm. Thread-safe; each call waits for the network, ``timeout`` seconds at most.

    All calls raise NoAuthority if no authority or replica can be reached, TrustError if what it says does not hold, and
    InvalidUser for what can't be a user's name.

    Args:
        trust: what is believed, and learns from each answer.
        addresses: where authorities and replicas are.
        wall: the wall clock, in seconds since 1970.
        learnt: called after each answer that was taken in, so that what is believed can be kept on disk.
        lock: guards ``trust``.
    """

    def __init__(
        self,
        trust: Trust,
        addresses: Sequence[Address],
        wall: Callable[[], float],
        *,
        learnt: Callable[[], None] = lambda: None,
        lock: contextlib.AbstractContextManager[object] | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self._trust = trust
        self._wall = wall
        self._learnt = learnt
        self._lock = lock or threading.RLock()
        self.timeout: Final = timeout
        self._client: Final = AuthorityClient(trust.root.certificate, addresses, self._verify)
        self._root: Final = trust.root

    @property
    def realm(self) -> bytes:
        """The root's fingerprint."""
        return self._root.key_id

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where authorities and replicas are."""
        return self._client.addresses

    def close(self) -> None:
        """Break off what is being asked."""
        self._client.close()

    # ---- what is there -----------------------------------------------------------------------------------------

    def get_key(self, user: str, requester: str = "", timeout: float | None = None) -> Record | None:
        """Return the entry of ``user``, with the proof checked; None if it is proven that nobody has that name.

        Args:
            requester: who wants to know; goes into the authority's log.
        """
        check_user(user)

        def take(answers: Answers, first_hand: bool) -> Record | None:
            found = _only(Found, answers)
            with self._lock:
                self._check_current(answers[0][0])
                if not self._trust.knows(found.head):
                    raise _Outrun(refresh=True)
                return self._trust.check_found(found, user, self._wall(), first_hand=first_hand)

        return self._ask(lambda: [Get(0, user, self._trust.size, requester)], take, timeout)

    def existing(self, user: str, timeout: float | None = None) -> Record:
        """Return the entry of ``user``, who must be there.

        Raises:
            NotAllowed: nobody has that name, or it was deleted.
        """
        record = self.get_key(user, timeout=timeout)
        if record is None or record.state == DELETED:
            why = "is not in the directory" if record is None else "was deleted from the directory"
            raise NotAllowed(f"{user!r} {why}; `trunkline key list` shows who is there")
        return record

    def list_keys(self, prefix: str = "", state: int = 0, timeout: float | None = None) -> Iterator[Record]:
        """Yield entries in order of names, as the authority lists them: `get_key` proves each, if that matters.

        Args:
            prefix: the user of that name and those below it; empty for all.
            state: only those in this state; 0 for all.
        """
        after, more = "", True
        while more:
            question: list[Request] = [List(0, prefix, after, state)]
            page = self._ask(lambda: question, lambda answers, _: _only(Listing, answers), timeout)  # noqa: B023
            yield from page.records
            more = page.more and bool(page.records)
            after = page.records[-1].user if page.records else after

    def history(self, user: str, timeout: float | None = None) -> list[tuple[int, Signed]]:
        """Return every statement about ``user`` with its place in the log; each goes on from the one before.

        Raises:
            BadProof: one is left out.
        """
        check_user(user)
        found: list[tuple[int, Signed]] = []
        more = True
        while more:
            question: list[Request] = [History(0, user, found[-1][0] + 1 if found else 0)]
            page = self._ask(lambda: question, lambda answers, _: _only(Statements, answers), timeout)  # noqa: B023
            for index, signed in page.statements:
                before = statement_hash(found[-1][1]) if found else bytes(32)
                statement = read_statement(signed)
                if statement.user != user or statement.previous != before:
                    raise BadProof(f"the history of {user!r} has a gap before statement {index}")
                found.append((index, signed))
            more = page.more and bool(page.statements)
        return found

    # ---- what is said ------------------------------------------------------------------------------------------

    def insert_key(self, user: str, key: UserKey, requester: str = "", timeout: float | None = None) -> int:
        """Insert a user with this key; tentative until the administrator approves it. Return its place in the log.

        Raises:
            NameTaken: somebody has that name.
        """
        record = self.get_key(user, timeout=timeout)
        if record is not None and record.state != DELETED:
            if record.keys == key.public:
                return record.index  # it was said before, and the answer was lost
            raise NameTaken(user, "its key can be changed by who has it: `trunkline key change`")
        return self.submit(
            requests.insert(self.realm, user, key.public, key.sign, record=record, requester=requester), timeout
        )

    def approve_key(self, record: Record, root: Sign, timeout: float | None = None) -> int:
        """Approve the key in ``record``, which a person has compared; ``root`` signs with the administrator's key."""
        return self.submit(requests.approve(self.realm, record, root), timeout)

    def change_key(self, user: str, old: UserKey, new: UserKey, timeout: float | None = None) -> int:
        """Put ``new`` in the place of ``old``. Certificates that were issued for the old one are revoked."""
        record = self.existing(user, timeout)
        if record.keys == new.public:
            return record.index
        return self.submit(requests.change(self.realm, record, new.public, old.sign, new.sign), timeout)

    def delete_key(self, user: str, sign: Sign, reason: str = "", timeout: float | None = None) -> int:
        """Delete the entry of ``user``; ``sign`` is its key's or the administrator's. Its certificates are revoked."""
        return self.submit(requests.delete(self.realm, self.existing(user, timeout), sign, reason), timeout)

    def authorities(self) -> list[Anchor]:
        """Return the authorities' keys that are believed: certified by the root, and not retired. Asks nobody."""
        with self._lock:
            return [parse_intermediate(each, self._root) for each in self._trust.authorities()]

    def retire_key(self, authority: bytes, root: Sign, timeout: float | None = None) -> int:
        """Have the authority's key with the id ``authority`` believed no more. ``root`` is the administrator's key."""
        record = self.get_key(RETIRED_USER, timeout=timeout)
        return self.submit(requests.retire(self.realm, record, authority, root), timeout)

    def submit(self, signed: Signed, timeout: float | None = None) -> int:
        """Have a statement appended to the log, and return its place there. To do so again changes nothing.

        Raises:
            DeniedError: the authority refuses it, and says why.
        """
        user = read_statement(signed).user
        return self._ask(lambda: [Submit(0, signed)], lambda answers, _: _only(Stored, answers, user).index, timeout)

    # ---- for memberships ---------------------------------------------------------------------------------------

    def refresh(self, timeout: float | None = None) -> int:
        """Fetch the newest head and what is revoked, and connect the heads that peers have shown with it.

        Returns:
            when that head was signed, in seconds since 1970.
        """

        def make() -> list[Request]:
            return [AskHead(0, self._trust.size), *(AskHead(0, size) for size, _ in self._trust.pending)]

        def take(answers: Answers, first_hand: bool) -> int:
            head = _only(HeadIs, answers[:1])
            with self._lock:
                self._check_current(answers[0][0])
                wall = self._wall()
                pending = dict(self._trust.pending)
                self._trust.update_head(head, wall, first_hand=first_hand)
                for asked, answer in answers[1:]:
                    assert isinstance(asked, AskHead)
                    if isinstance(answer, HeadIs) and asked.size in pending:
                        self._trust.connect(pending[asked.size], answer, wall, first_hand=first_hand)
                return self._trust.refreshed

        return self._ask(make, take, timeout)

    def issue(self, user: str, key: UserKey, request: bytes, timeout: float | None = None) -> tuple[bytes, ...]:
        """Have a TLS key certified, and return leaf and intermediate, DER, not verified yet.

        Args:
            request: PKCS#10, DER.

        Raises:
            NotAllowed: the user's key is not approved.
        """

        def make() -> list[Request]:
            return [requests.issue(self.realm, user, int(self._wall()), request, key.sign)]

        return self._ask(make, lambda answers, _: _only(Issued, answers, user).chain, timeout)

    # ---- inside ------------------------------------------------------------------------------------------------

    def _ask(self, make: Callable[[], list[Request]], take: Callable[[Answers, bool], _T], timeout: float | None) -> _T:
        within = self.timeout if timeout is None else timeout
        for _ in range(_ROUNDS):
            with self._lock:
                asked = make()
            try:
                return self._client.ask(asked, take, within)
            except _Outrun as outrun:
                if outrun.refresh:
                    self.refresh(timeout)
            finally:
                self._learnt()  # of a fork too, and of what the root has signed
        raise StaleHead("other threads learnt of newer heads each time that an answer came: ask again")

    def _check_current(self, asked: Request) -> None:
        """Ask again if another thread has learnt of a newer head meanwhile: the proof would not fit that."""
        if isinstance(asked, AskHead | Get) and asked.size != self._trust.size:
            raise _Outrun

    def _verify(self, certificate: bytes, chain: Sequence[bytes]) -> Identity:
        with self._lock:
            return self._trust.check_certificate(certificate, self._wall(), chain)


class _Outrun(Exception):
    """The answer is to a question that is out of date, or needs what only a refresh brings."""

    def __init__(self, *, refresh: bool = False) -> None:
        super().__init__()
        self.refresh = refresh


def _only(kind: type[_A], answers: Answers, user: str = "") -> _A:
    """Return the answer to the first question.

    Raises:
        TrunklineError: what the authority has refused it with.
    """
    _, answer = answers[0]
    if isinstance(answer, Denied):
        raise denial(answer, user)
    assert isinstance(answer, kind), "the link has checked that"
    return answer
