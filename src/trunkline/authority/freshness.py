"""How old a head may be, how far clocks may differ (docs/spec/authority.md section 8, steps 3, 8 and 9)."""

from typing import Final, Literal

import msgspec

from trunkline.authority.certificates import Anchor, Identity
from trunkline.errors import StaleHead, TrustError

SKEW: Final = 60
"""Seconds by which clocks in a realm may differ (8.3, 8.8)."""

MAX_STALENESS: Final = 300
"""Seconds that a head is good for (8.9)."""

GRACE: Final = 3600
"""Seconds beyond max_staleness for which `grace` goes on (8.9)."""


class TrustSettings(msgspec.Struct, frozen=True):
    """How fresh is fresh enough (8.9)."""

    max_staleness: int = MAX_STALENESS
    """Seconds that a head is good for."""
    when_stale: Literal["grace", "strict"] = "grace"
    """`strict` refuses what is older; `grace` warns and goes on for `grace` seconds more."""
    grace: int = GRACE
    skew: int = SKEW
    """Seconds by which our clock may differ from others'."""


def check_age(time: int, wall: float, settings: TrustSettings, realm: str) -> None:
    """Check that a head signed at ``time`` is good enough at ``wall``, both in seconds since 1970.

    Raises:
        StaleHead: it is older than the policy allows, or in the future.
    """
    age = wall - time
    limit = settings.max_staleness + (settings.grace if settings.when_stale == "grace" else 0)
    if age < -settings.skew:
        raise StaleHead(f"the newest head of {realm!r} is {-age:.0f} s in the future: this machine's clock is behind")
    if age > limit:
        raise StaleHead(
            f"the newest head of {realm!r} that is known is {age:.0f} s old, and the limit is {limit} s "
            f"(max_staleness {settings.max_staleness}, {settings.when_stale}): what was revoked since is not known; "
            "an authority must be reached"
        )


def check_dates(what: str, dated: Anchor | Identity, wall: float, settings: TrustSettings) -> None:
    """Check that a certificate is in its dates, give or take the skew.

    Raises:
        TrustError: it is not valid yet, or no longer.
    """
    if wall < dated.not_before - settings.skew:
        raise TrustError(f"{what} is not valid yet: it begins in {dated.not_before - wall:.0f} s; is a clock wrong?")
    if wall > dated.not_after + settings.skew:
        raise TrustError(f"{what} expired {wall - dated.not_after:.0f} s ago")
