"""Many deadlines, one next deadline: a heap that forgets lazily.

A key has at most one time. Setting it again leaves the old entry in the heap, to be passed over when it comes up; when
such leftovers outnumber what is live, the heap is built anew. So setting, clearing and asking are cheap, and memory is
bounded by the number of live keys.
"""

from heapq import heapify, heappop, heappush
from typing import Any, Final

TimerKey = tuple[int, Any]
"""(kind, what): keys of one kind have ``what`` of one type, so that equal times still have an order."""

_SLACK: Final = 64


class Timers:
    """Times by key."""

    __slots__ = ("_heap", "_live")

    def __init__(self) -> None:
        self._live: dict[TimerKey, float] = {}
        self._heap: list[tuple[float, TimerKey]] = []

    def __len__(self) -> int:
        return len(self._live)

    def set(self, key: TimerKey, when: float) -> None:
        """Let ``key`` come due at ``when``, and not at the time set before."""
        self._live[key] = when
        heappush(self._heap, (when, key))
        if len(self._heap) > 2 * len(self._live) + _SLACK:
            self._heap = [(when, key) for key, when in self._live.items()]
            heapify(self._heap)

    def clear(self, key: TimerKey) -> None:
        """Let ``key`` not come due, if it was to."""
        self._live.pop(key, None)

    def is_set(self, key: TimerKey) -> bool:
        """Whether ``key`` is to come due."""
        return key in self._live

    def next(self) -> float | None:
        """Return the earliest time that is set."""
        heap = self._heap
        live = self._live
        while heap:
            when, key = heap[0]
            if live.get(key) == when:
                return when
            heappop(heap)
        return None

    def pop_due(self, now: float) -> TimerKey | None:
        """Take the earliest key that is due, if one is: it is no longer set."""
        when = self.next()
        if when is None or when > now:
            return None
        _, key = heappop(self._heap)
        del self._live[key]
        return key

    def snapshot(self) -> tuple[tuple[float, TimerKey], ...]:
        """Return what is set, in the order in which it comes due."""
        return tuple(sorted((when, key) for key, when in self._live.items()))

    def restore(self, snapshot: tuple[tuple[float, TimerKey], ...]) -> None:
        """Become what `snapshot` was taken of."""
        self._live = {key: when for when, key in snapshot}
        self._heap = list(snapshot)  # sorted, so it is a heap
