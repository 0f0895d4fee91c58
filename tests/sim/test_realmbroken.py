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


def test_every_invariant_has_one() -> None:
    assert {each.invariant for each in BROKEN_REALMS.values()} == {f"R{number}" for number in range(1, 10)}
