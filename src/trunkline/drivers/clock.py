"""The drivers' clock: seconds that go on while a laptop sleeps, and never jump."""

import time
from typing import Final

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", None)


def now() -> float:
    """Return seconds since some fixed moment: since boot on Linux, sleep included."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


def epoch() -> float:
    """Return what is added to `now` to get the seconds since 1970 that the wall clock shows at present."""
    return time.time() - now()
