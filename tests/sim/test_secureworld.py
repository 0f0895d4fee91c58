"""The confirmation of a secure meeting, explored to the end, with honest ends, eve and a switchboard that lies."""

from pathlib import Path

import pytest

from trunkline.sim.catalogue import explore_secure
from trunkline.sim.replay import replay, shrink
from trunkline.sim.securebroken import BROKEN_CONFIRMATIONS
from trunkline.sim.securespec import SECURE


@pytest.mark.parametrize("name", SECURE)
def test_every_order_and_every_lie(name: str) -> None:
    report = explore_secure(SECURE[name])
    assert report.ok, f"{report}\n{report.recording}"
    assert report.exhausted, str(report)


@pytest.mark.parametrize("name", BROKEN_CONFIRMATIONS)
def test_a_broken_rule_is_caught(name: str, tmp_path: Path) -> None:
    broken = BROKEN_CONFIRMATIONS[name]
    report = explore_secure(SECURE[broken.world], rule=name)
    assert report.failure is not None, f"nobody noticed that {broken.rule}"
    assert report.failure.invariant == "S6", str(report.failure)
    assert report.recording is not None
    report.recording.save(tmp_path / "run.json")
    again = replay(tmp_path / "run.json")
    assert again.failure is not None
    assert again.failure.text == report.failure.text


@pytest.mark.parametrize("name", [name for name in SECURE if name != "secure-misled"])
def test_whom_the_peer_means_says_nothing_that_an_ideal_tls_does_not_say(name: str) -> None:
    """An honest peer means whom its TLS has proved, and that is us; eve is believed only by who wants her.

    So this comparison is for the day that TLS names the wrong user: then it is all that there is.
    """
    assert explore_secure(SECURE[name], rule="without-peer-user").ok


def test_a_run_is_cut_down_and_can_be_read() -> None:
    report = explore_secure(SECURE["secure-pair"], rule="hasty")
    assert report.recording is not None
    less = shrink(report.recording)
    assert len(less.actions) <= len(report.recording.actions)
    lines: list[str] = []
    again = replay(less, write=lines.append)
    assert again.failure is not None
    assert lines[0] == "begin-0"
    assert "left: expecting" in lines[1]


def test_a_seed_changes_the_order_and_not_what_is_found() -> None:
    usual, other = (explore_secure(SECURE["secure-pair"], seed=seed) for seed in (0, 7))
    assert (usual.states, usual.transitions, usual.ends) == (other.states, other.transitions, other.ends)


def test_a_bound_is_said() -> None:
    report = explore_secure(SECURE["secure-pair"], max_states=10)
    assert report.ok
    assert not report.exhausted
