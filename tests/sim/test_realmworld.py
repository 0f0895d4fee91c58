"""Small realms, explored to the end: every order, and every fault at every point."""

from pathlib import Path

import msgspec
import pytest

from trunkline.sim.catalogue import explore_realm
from trunkline.sim.realmspec import REALMS
from trunkline.sim.replay import replay
from trunkline.sim.report import Recording

RUNS = sorted((Path(__file__).with_name("runs") / "realms").glob("*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("name", REALMS)
def test_every_order_with_a_fault_at_every_point(name: str) -> None:
    report = explore_realm(REALMS[name])
    assert report.ok, f"{report}\n{report.recording}"
    assert report.exhausted, str(report)
    assert report.fault_points_done == report.fault_points > 0


@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.stem)
def test_runs_that_found_a_fault_once(file: Path) -> None:
    """Each was recorded when it failed; the machines have been mended since."""
    lines: list[str] = []
    report = replay(file, write=lines.append)
    assert report.ok, str(report)
    assert lines[0] == "ask-0"
    assert any("HeadIs(4 statements, -100 s) -> reader" in line for line in lines)


def test_the_fault_that_was_found_is_found_again_if_it_comes_back() -> None:
    recording = Recording.load(next(file for file in RUNS if "shown-and-not-saved" in file.name))
    again = replay(msgspec.structs.replace(recording, rule="shows-unsaved"))
    assert again.failure is not None
    assert again.failure.invariant == recording.invariant
