"""Rules that are broken on purpose are noticed, by the invariant that they name."""

import pytest

from trunkline.sim.broken import BROKEN
from trunkline.sim.explore import explore
from trunkline.sim.replay import replay

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", BROKEN)
def test_it_is_caught(name: str) -> None:
    broken = BROKEN[name]
    report = explore(broken.world, cast=broken.cast, faults=broken.faults, kinds=broken.kinds)
    assert report.failure is not None, f"nobody noticed that {broken.rule}"
    assert report.failure.invariant == broken.invariant, str(report.failure)
    assert report.recording is not None
    again = replay(report.recording, broken.cast)
    assert again.failure is not None
    assert again.failure.invariant == broken.invariant


def test_every_invariant_has_one() -> None:
    assert {broken.invariant for broken in BROKEN.values()} == {"S1", "S2", "S3", "S4", "S5"}
