"""Rules of a realm that are broken on purpose are noticed, by the invariant that they name."""

from pathlib import Path

import pytest

from trunkline.sim.catalogue import explore_realm
from trunkline.sim.realmbroken import BROKEN_REALMS
from trunkline.sim.realmspec import REALMS
from trunkline.sim.replay import replay

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", BROKEN_REALMS)
def test_it_is_caught(name: str, tmp_path: Path) -> None:
    broken = BROKEN_REALMS[name]
    report = explore_realm(REALMS[broken.world], rule=name)
    assert report.failure is not None, f"nobody noticed that {broken.rule}"
    assert report.failure.invariant == broken.invariant, str(report.failure)
    assert report.recording is not None
    report.recording.save(tmp_path / "run.json")
    again = replay(tmp_path / "run.json")
    assert again.failure == report.failure


def test_every_invariant_that_a_rule_could_break_has_one() -> None:
    # R2 and R4 say what R3 and R9 keep from happening: proofs that don't fit are refused before they are believed.
    assert {each.invariant for each in BROKEN_REALMS.values()} == {"R1", "R3", "R5", "R6", "R7", "R8", "R9"}
