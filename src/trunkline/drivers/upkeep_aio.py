"""Keeps memberships fresh while an asyncio program does other things, or nothing at all."""

import asyncio
from typing import Final, Protocol

from trunkline.drivers.clock import now

SOONEST: Final = 0.25
"""Seconds until it looks again, though something is due: that is being asked for, in another thread."""

LATEST: Final = 30.0
"""Seconds until it looks again in any case: what is asked for in another thread changes when the next is due."""


class Member(Protocol):
    """The part of `trunkline.drivers.membership.Membership` that is used here."""

    def next_deadline(self) -> float | None: ...

    def tick(self) -> None: ...


class Upkeep:
    """Calls each member when something of it is due. Nothing here waits.

    Args:
        loop: the running loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._members: set[Member] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, member: Member) -> None:
        """See to this one from now on. Adding it twice does nothing."""
        if member not in self._members:
            self._members.add(member)
            self._look()

    def close(self) -> None:
        """See to nobody any more."""
        self._members.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        for member in self._members:
            member.tick()
        due = min((when for member in self._members if (when := member.next_deadline()) is not None), default=None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = self._loop.call_later(min(max(due - now(), SOONEST), LATEST), self._look)
