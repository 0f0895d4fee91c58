"""Finding a switchboard server: which addresses to try, when, what to remember (docs/spec/switchboard.md section 11).

A scan goes through the list once: the last good one first, the one just lost last, each a stagger behind the one
before, the next at once when one fails. The first that says Welcome ends the scan. A scan in which all failed is told
to the owner, who decides whether to go on; the pause before the next scan grows from 0.1 s to 2 s, jittered.

The list grows as servers report their mates, and is remembered by the owner.
"""

from collections.abc import Iterable
from enum import IntEnum
from math import inf
from typing import Any, Final

from trunkline.names import Address, Draw

MAX_SERVERS: Final = 128
"""Most addresses that are kept: twice the largest mesh."""

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0


class Scan(IntEnum):
    """What the finder does at the moment."""

    IDLE = 1
    PAUSING = 2
    """It begins a scan when the pause is over."""
    SCANNING = 3


class Finder:
    """The list of servers, and the scan through it.

    After each call ask `due` until it returns None and dial what it returns, then look at `exhausted`.
    """

    __slots__ = (
        "_draw",
        "_failures",
        "_last",
        "_next_at",
        "_pauses",
        "_pending",
        "_queue",
        "_stagger",
        "scan",
        "servers",
    )

    def __init__(self, servers: Iterable[Address], draw: Draw, *, stagger: float) -> None:
        self._draw = draw
        self._stagger = stagger
        self.servers: tuple[Address, ...] = tuple(dict.fromkeys(servers))[:MAX_SERVERS]
        """Best first: the last good one, then the rest."""
        self.scan = Scan.IDLE
        self._queue: tuple[Address, ...] = ()
        self._pending: tuple[Address, ...] = ()
        self._failures: tuple[tuple[str, str], ...] = ()
        self._last: Address | None = None
        self._next_at = inf
        self._pauses = 0

    @property
    def exhausted(self) -> bool:
        """Whether the scan went through the list in vain. The owner then calls `retry` or `stop`."""
        return self.scan is Scan.SCANNING and not self._queue and not self._pending

    @property
    def tried(self) -> tuple[tuple[str, str], ...]:
        """What the last or present scan tried, with the reasons: (address, why it failed)."""
        return self._failures + tuple((str(address), "no answer yet") for address in self._pending)

    def seek(self, now: float, pause: float = 0.0) -> None:
        """See to it that a scan is under way, or begins within ``pause`` seconds."""
        if self.scan is Scan.IDLE or (self.scan is Scan.PAUSING and now + pause < self._next_at):
            self._pause(now, pause)

    def retry(self, now: float) -> None:
        """After a scan in vain: scan again, after a pause that grows each time."""
        assert self.exhausted, "only a scan that is over is followed by another"
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._pauses, 10))
        self._pauses += 1
        self._pause(now, pause * (0.5 + self._draw.fraction() / 2))

    def stop(self) -> None:
        """Nobody needs a server: begin nothing more. The owner closes what it dialled."""
        self.scan = Scan.IDLE
        self._queue = self._pending = ()
        self._next_at = inf

    def due(self, now: float) -> Address | None:
        """Return the address to dial now, if one is due."""
        if now < self._next_at:
            return None
        if self.scan is Scan.PAUSING:
            self._begin(now)
        if not self._queue:
            self._next_at = inf
            return None
        address, *rest = self._queue
        self._queue = tuple(rest)
        self._pending += (address,)
        self._next_at = now + self._stagger if rest else inf
        return address

    def failed(self, address: Address, why: str, now: float) -> None:
        """Say that a dial of this scan failed: the next is due at once."""
        if address in self._pending:
            self._pending = tuple(other for other in self._pending if other != address)
            self._failures += ((str(address), why),)
            if self._queue:
                self._next_at = now

    def found(self, address: Address) -> bool:
        """Say that this one answered. Return whether `servers` changed, so that it is to be remembered."""
        self.stop()
        self._pauses = 0
        self._failures = ()
        before = self.servers
        self.servers = (address, *(other for other in before if other != address))[:MAX_SERVERS]
        return self.servers != before

    def lost(self, address: Address) -> None:
        """Say that the server which had been found is lost: the next scan tries it last."""
        self._last = address

    def learn(self, addresses: Iterable[Address]) -> bool:
        """Add servers that were heard of. Return whether `servers` changed."""
        before = self.servers
        self.servers = tuple(dict.fromkeys((*before, *addresses)))[:MAX_SERVERS]
        return self.servers != before

    def next_deadline(self) -> float | None:
        """Return when `due` has something."""
        return None if self._next_at == inf else self._next_at

    def _pause(self, now: float, pause: float) -> None:
        self.scan = Scan.PAUSING
        self._queue = self._pending = ()
        self._next_at = now + pause

    def _begin(self, now: float) -> None:
        last = self._last
        self._last = None
        self.scan = Scan.SCANNING
        self._queue = self.servers
        if last in self._queue:
            self._queue = (*(address for address in self._queue if address != last), last)
        self._failures = ()
        self._next_at = now

    def snapshot(self) -> tuple[Any, ...]:
        """Return the whole state."""
        return (
            self.servers,
            int(self.scan),
            self._queue,
            self._pending,
            self._failures,
            self._last,
            self._next_at,
            self._pauses,
        )

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Become what `snapshot` was taken of."""
        (
            self.servers,
            scan,
            self._queue,
            self._pending,
            self._failures,
            self._last,
            self._next_at,
            self._pauses,
        ) = snapshot
        self.scan = Scan(scan)
