"""Random worlds: no invariant breaks, and a seed gives the same run to the last delay."""

import pytest

from trunkline.sim.plan import LARGE, SMALL
from trunkline.sim.randomworld import run_random

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_small_worlds(first: int) -> None:
    for seed in range(first, first + 20):
        report = run_random(seed)
        assert report.ok, f"{report}\n{report.recording}"


@pytest.mark.parametrize("seed", [1, 5, 38])
def test_large_worlds(seed: int) -> None:
    report = run_random(seed, LARGE)
    assert report.ok, str(report)


@pytest.mark.parametrize("seed", [976, 1800])
def test_seeds_that_found_a_fault_once(seed: int) -> None:
    """976 and 1800: clients that waited for ever for a post which had been full (S3)."""
    assert run_random(seed).ok


def test_a_seed_gives_the_same_run() -> None:
    one, other = run_random(7, SMALL), run_random(7, SMALL)
    assert one.trace == other.trace
    assert one.transitions == other.transitions
    assert run_random(8, SMALL).trace != one.trace
