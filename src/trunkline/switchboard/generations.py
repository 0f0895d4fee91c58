"""Generations of unique names: each hold of a name has a greater one than the hold before (docs/spec/switchboard.md
section 7).

By the wall clock, in seconds, so that they go on growing when all servers have started anew; and remembered for a while
after the last holder is gone, so that they grow even if clocks differ a little.
"""

from typing import Any, Final

from trunkline.switchboard.entries import Key

MAX_AHEAD: Final = 60
"""Most seconds by which the generation that a client says it held may be ahead of our wall clock: it is not proved."""

MAX_GENERATION: Final = (1 << 53) - 1
"""What a message can carry."""

MAX_REMEMBERED: Final = 10_000
"""Most unique names whose last generation is remembered after their holders are gone."""


class Generations:
    """What the next holder of a name gets.

    Args:
        epoch: the wall clock, in seconds, at ``now`` = 0.
        memory: seconds for which a name is remembered after its last holder is gone.
    """

    __slots__ = ("_epoch", "_last", "_memory")

    def __init__(self, *, epoch: float, memory: float) -> None:
        self._epoch = epoch
        self._memory = memory
        self._last: dict[Key, tuple[int, float]] = {}
        """Name -> its last generation, and until when to remember it."""

    def __len__(self) -> int:
        return len(self._last)

    def next(self, key: Key, now: float, *, held: int = 0, taken_over: int = 0) -> int:
        """Return the generation of a new hold.

        ``held`` is what a client says that it held before, when it lodges its post anew; ``taken_over`` is the
        generation of the hold that it ends, which it may.
        """
        wall = max(int(self._epoch + now), 0)
        held = min(held, wall + MAX_AHEAD)
        last, _ = self._last.get(key, (0, 0.0))
        return min(max(held, last if held else last + 1, wall, taken_over + 1), MAX_GENERATION)

    def remember(self, key: Key, generation: int, now: float) -> None:
        """The holder of this generation is gone."""
        if len(self._last) >= MAX_REMEMBERED:
            del self._last[min(self._last, key=lambda key: self._last[key][1])]
        self._last[key] = (generation, now + self._memory)

    def forget(self, now: float) -> None:
        """Drop what was remembered for long enough."""
        for key in [key for key, (_, until) in self._last.items() if until <= now]:
            del self._last[key]

    def snapshot(self) -> tuple[Any, ...]:
        """Return the whole state."""
        return tuple(sorted(self._last.items()))

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Become what was snapshot."""
        self._last = dict(snapshot)
