"""A failing run is kept, runs again exactly, and can be cut down."""

from pathlib import Path

import pytest

from trunkline.sim.broken import BROKEN
from trunkline.sim.explore import explore
from trunkline.sim.plan import make_plan
from trunkline.sim.randomworld import run_plan
from trunkline.sim.replay import replay, shrink
from trunkline.sim.report import Recording

RUNS = sorted(Path(__file__).with_name("runs").glob("*.json"))


@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.stem)
def test_runs_that_found_a_fault_once(file: Path) -> None:
    """Each was recorded when it failed; the machines have been mended since."""
    report = replay(file)
    assert report.ok, str(report)


def test_a_recording_survives_its_file(tmp_path: Path) -> None:
    broken = BROKEN["keeps-reserved"]
    report = explore(broken.world, cast=broken.cast, faults=broken.faults, kinds=broken.kinds)
    assert report.recording is not None
    report.recording.save(tmp_path / "run.json")
    again, once_more = (replay(tmp_path / "run.json", broken.cast) for _ in range(2))
    assert again.failure is not None
    assert again.failure.text == report.recording.text
    assert again.trace == once_more.trace


def test_a_run_is_cut_down() -> None:
    broken = BROKEN["keeps-reserved"]
    report = explore(broken.world, cast=broken.cast, faults=broken.faults, kinds=broken.kinds)
    assert report.recording is not None
    less = shrink(report.recording, broken.cast)
    assert len(less.actions) < len(report.recording.actions) / 2
    again = replay(less, broken.cast)
    assert again.failure is not None
    assert again.failure.invariant == "S3"


def test_a_plan_is_cut_down(tmp_path: Path) -> None:
    broken = BROKEN["silent-removal"]
    plan = next(plan for plan in map(make_plan, range(50)) if not run_plan(plan, broken.cast).ok)
    report = run_plan(plan, broken.cast)
    assert report.recording is not None
    less = shrink(report.recording, broken.cast, seconds=5)
    assert less.plan is not None
    assert len(less.plan.entries) <= len(plan.entries)
    less.save(tmp_path / "plan.json")
    assert Recording.load(tmp_path / "plan.json") == less
    assert not replay(less, broken.cast).ok


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_replay_can_be_read(path: Path) -> None:
    lines: list[str] = []
    silent = replay(path)
    told = replay(path, write=lines.append)
    assert told.trace == silent.trace
    assert any("server0 << Received" in line and "Propose(" in line for line in lines)
    assert any(">> Send" in line and "Matched(" in line for line in lines)
    assert not any("token=" in line for line in lines)
