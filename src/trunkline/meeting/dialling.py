"""Which candidates of a peer to dial, and when (docs/spec/switchboard.md section 6).

After RFC 8305: one attempt after the other, each a stagger behind the last, the next at once when one fails. The RFC
stops when a connection stands; we go on until the peer has said Ready, since an address may belong to somebody else on
this network than on the peer's.
"""

from collections.abc import Sequence
from math import inf
from typing import Any, Final

from trunkline.names import Candidate, Candidates

MAX_DIALS: Final = 16
"""Most candidates of one peer that are tried; MAX_CANDIDATES bytes hold hardly more."""

_KINDS: Final = frozenset({"tcp4", "tcp6", "unix"})
_LOCAL_FIRST: Final = {"unix": 0, "tcp4": 1, "tcp6": 1}


def is_local(candidate: Candidate) -> bool:
    """Whether this candidate means something on its own network stack only."""
    host = candidate.host
    return candidate.kind == "unix" or host.startswith("127.") or host == "::1"


def order(candidates: Candidates, place: bytes) -> tuple[Candidate, ...]:
    """Return those worth dialling from ``place``, best first.

    From the same place: Unix sockets, then loopback, then the rest as the peer gave them. From elsewhere the first two
    are dropped: they would reach a stranger. Kinds that this version doesn't know are dropped too.
    """
    local: list[Candidate] = []
    others: list[Candidate] = []
    for candidate in candidates.at:
        if candidate.kind in _KINDS:
            (local if is_local(candidate) else others).append(candidate)
    if local and candidates.place == place:
        local.sort(key=lambda candidate: _LOCAL_FIRST[candidate.kind])
        others[:0] = local
    return tuple(others[:MAX_DIALS])


class Dialling:
    """One round of dialling a peer. The owner opens and closes; this says what and when.

    While `is_due`, `dial`; then tell whether it `opened` or `failed`. When it is `over`, `errors` says why.
    """

    __slots__ = ("_live", "_next_at", "_queue", "_stagger", "_timeout", "errors")

    def __init__(self, queue: Sequence[Candidate], now: float, *, stagger: float, timeout: float) -> None:
        self._queue = tuple(queue)
        self._next_at = now
        self._stagger = stagger
        self._timeout = timeout
        self._live: dict[int, tuple[Candidate, float]] = {}
        self.errors: list[tuple[Candidate, str]] = []

    @property
    def over(self) -> bool:
        """Whether every candidate has failed."""
        return not self._queue and not self._live

    def is_due(self, now: float) -> bool:
        """Whether the next candidate is to be dialled now."""
        return now >= self._next_at and bool(self._queue)

    def dial(self, conn: int, now: float) -> Candidate:
        """Return the next candidate, which the owner dials as ``conn``."""
        candidate = self._queue[0]
        self._live[conn] = (candidate, now + self._timeout)
        self._queue = self._queue[1:]
        self._next_at = now + self._stagger
        return candidate

    def opened(self, conn: int) -> None:
        """Say that ``conn`` stands; it may take its time from here on."""
        self._live[conn] = (self._live[conn][0], inf)

    def failed(self, conn: int, reason: str, now: float) -> None:
        """Say that ``conn`` failed, before or after it stood: the next is due at once."""
        candidate, _ = self._live.pop(conn)
        self.errors.append((candidate, reason))
        self._next_at = now

    def expired(self, now: float) -> list[int]:
        """Return the connections that took too long to open; the owner closes each and tells `failed`."""
        return [conn for conn, (_, end) in self._live.items() if now >= end]

    def next_deadline(self) -> float | None:
        """Return when one `is_due`, or has `expired`."""
        soonest = self._next_at if self._queue else inf
        for _, end in self._live.values():
            if end < soonest:  # noqa: PLR1730  (min() takes longer, and this is on every meeting's way)
                soonest = end
        return None if soonest == inf else soonest

    def snapshot(self) -> tuple[object, ...]:
        """Return the whole state."""
        live = tuple((conn, *entry) for conn, entry in self._live.items())
        return (self._queue, self._next_at, self._stagger, self._timeout, live, tuple(self.errors))

    @classmethod
    def restored(cls, snapshot: Any) -> "Dialling":
        """Return what `snapshot` was taken of."""
        queue, next_at, stagger, timeout, live, errors = snapshot
        self = cls(queue, next_at, stagger=stagger, timeout=timeout)
        self._live = {conn: (candidate, end) for conn, candidate, end in live}
        self.errors = list(errors)
        return self
