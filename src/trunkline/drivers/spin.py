"""When to poll for a moment before blocking, because that has been paying off.

Waking a sleeping process costs more than any Python we run. Who polls for some tens of microseconds before it blocks
is often awake when the next message comes. But polling spends CPU that somebody else may need, so it has to be
earned. The rules, and why:

1. *The waits themselves are the evidence.* The length of every wait is known, also of those that blocked, so
   we know without trying whether polling would have paid. There are no probes: an idle process does not poll
   at all. This is how KVM decides about polling before it halts a virtual CPU (Linux,
   Documentation/virt/kvm/halt-polling.rst).
2. *A saturating counter, as in a branch predictor,* predicts the next wait: short waits raise it, a long one
   halves it. A server that falls idle polls in vain twice, then blocks at once until short waits have come
   again.
3. *Yield between polls.* Somebody else may wait for our core: often the very process that we wait for.
   `sched_yield` lets it run at once; on a core with nobody else it only costs its own system call.
4. *If the core was taken for long, stop.* Then all cores are busy. A process that sleeps is favoured when it
   wakes; one that polls has spent its share, and takes the core from those that work. So polling pauses, and
   each pause is longer than the last unless polling has paid its way in between.
5. *One core: never.* Whoever we wait for can't run while we poll.

``docs/measurements/selector.md`` has the figures, and what was tried instead. Two use this: the selector of asyncio
loops (`trunkline.drivers.selector`), and the blocking driver (`trunkline.drivers.pollers`).
"""

import math
import os
import time
from collections.abc import Callable
from typing import Final

from trunkline.errors import ConfigError

DEFAULT_SPIN: Final = 100e-6
"""Seconds of polling before blocking. More finds little more; less misses the pauses inside a burst."""

MAX_SPIN: Final = 1e-3
"""Greatest accepted spin, in seconds. Beyond it sleeping costs less than polling, whatever the machine."""

SPIN_VARIABLE: Final = "TRUNKLINE_SPIN"
"""Environment variable with the spin in microseconds; 0 turns polling off."""

WAKE_ALLOWANCE: Final = 150e-6
"""Seconds by which a wait that blocked looks longer than it was: the wake-up itself, cores asleep."""

STOLEN: Final = 500e-6
"""Seconds between two polls after which somebody else evidently has the core."""

FIRST_PAUSE: Final = 10e-3
PAUSE_GROWTH: Final = 4
LAST_PAUSE: Final = 5.0
"""Seconds without polling after the core was taken: the first pause, its growth each time, the last."""

FINDS_PER_THEFT: Final = 1000
"""Successful polls that make up for losing the core once: each wins some 10 microseconds, a theft costs a
time slice of some milliseconds. After so many the next pause is the first one again."""

CREDIT_MAX: Final = 8
CREDIT_TO_SPIN: Final = 3
"""At most two polls in vain after the last short wait: 8, 4, 2."""

# Absent on some systems; a sleep of nothing is the nearest thing.
give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))
"""Let others have the core, if any of them waits for it."""


class SpinPolicy:
    """Decides whether to poll before a wait. It reads no clock: times come in, in seconds.

    For each wait call `budget`. If it was 0, tell `blocked` afterwards; else poll, and tell `found`, `missed`
    or `stolen`.
    """

    __slots__ = ("_credit", "_finds", "_pause", "_paused_until", "short", "spin")

    def __init__(self, spin: float, cores: int) -> None:
        self.spin = spin if cores > 1 else 0.0
        self.short = spin + WAKE_ALLOWANCE
        self._credit = 0
        self._finds = 0
        self._pause = FIRST_PAUSE
        self._paused_until = -math.inf

    def budget(self, now: float) -> float:
        """How many seconds to poll before blocking, 0 for not at all."""
        if self._credit < CREDIT_TO_SPIN or now < self._paused_until:
            return 0.0
        return self.spin

    def found(self) -> None:
        """Polling found something. It counts twice, being surer than the guess from a wait that blocked."""
        self._credit = min(self._credit + 2, CREDIT_MAX)
        self._finds += 1

    def missed(self) -> None:
        """Polling found nothing in its time."""
        self._credit //= 2

    def stolen(self, now: float) -> None:
        """The core was taken by somebody else while we polled."""
        if self._finds >= FINDS_PER_THEFT:
            self._pause = FIRST_PAUSE
        self._finds = 0
        self._paused_until = now + self._pause
        self._pause = min(self._pause * PAUSE_GROWTH, LAST_PAUSE)

    def blocked(self, seconds: float) -> None:
        """A wait without polling took so long; would polling have paid?"""
        if seconds <= self.short:
            self._credit = min(self._credit + 1, CREDIT_MAX)
        else:
            self._credit //= 2


def spin_setting(text: str | None) -> float:
    """The spin in seconds that `SPIN_VARIABLE` asks for; None is the default.

    Raises:
        ConfigError: not a number of microseconds from 0 to `MAX_SPIN`.
    """
    if text is None or not text.strip():
        return DEFAULT_SPIN
    try:
        spin = float(text) * 1e-6
    except ValueError:
        spin = math.nan
    if not 0 <= spin <= MAX_SPIN:
        raise ConfigError(
            f"{SPIN_VARIABLE} is {text!r}: set it to microseconds from 0 (never poll) to {MAX_SPIN * 1e6:.0f}"
        )
    return spin


def available_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
