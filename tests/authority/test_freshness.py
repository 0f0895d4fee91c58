"""How old is too old, to the second."""

import pytest

from tests.authority.kit import ISSUER, WALL
from trunkline.authority.freshness import TrustSettings, check_age, check_dates
from trunkline.errors import StaleHead, TrustError


@pytest.mark.parametrize(
    ("settings", "oldest"),
    [(TrustSettings(), 3900), (TrustSettings(10, "strict"), 10), (TrustSettings(10, grace=5), 15)],
)
def test_heads_have_an_age(settings, oldest):
    for age in (-60, 0, oldest):
        check_age(WALL, WALL + age, settings, "lab")
    with pytest.raises(StaleHead, match=f"'lab' that is known is {oldest + 1} s old, and the limit is {oldest} s"):
        check_age(WALL, WALL + oldest + 1, settings, "lab")
    with pytest.raises(StaleHead, match="61 s in the future"):
        check_age(WALL, WALL - 61, settings, "lab")


def test_certificates_have_dates():
    settings, authority = TrustSettings(skew=5), ISSUER.authority
    for wall in (authority.not_before - 5, authority.not_after + 5):
        check_dates("it", authority, wall, settings)
    with pytest.raises(TrustError, match="it is not valid yet: it begins in 6 s"):
        check_dates("it", authority, authority.not_before - 6, settings)
    with pytest.raises(TrustError, match="it expired 6 s ago"):
        check_dates("it", authority, authority.not_after + 6, settings)
