"""The small worlds, explored: every order without a fault, and with a fault at every point as far as time allows.

The deep runs (`trunkline simulate --deep`) lift the bounds.
"""

import pytest

from trunkline.sim.explore import explore, explore_many
from trunkline.sim.report import Report

pytestmark = pytest.mark.slow


def check(report: Report, *, exhausted: bool = True) -> None:
    assert report.ok, f"{report}\n{report.recording}"
    assert report.exhausted is exhausted, str(report)


@pytest.mark.parametrize(
    "world", ["one", "a", "a-same", "a-forming", "b", "c", "c-low", "c-both", "e", "users", "users-post"]
)
def test_every_order_without_a_fault(world: str) -> None:
    check(explore(world))


def test_every_order_with_a_fault_at_every_point_of_one_server() -> None:
    report = explore("one", faults=1, restart=True)
    check(report)
    assert report.fault_points_done == report.fault_points > 300


@pytest.mark.parametrize(("world", "slack"), [("a", 1), ("a-same", 1), ("a-forming", 0), ("b", 0)], ids=str)
def test_a_fault_at_every_point(world: str, slack: int) -> None:
    """The paper's own test (its section 4): crash, loss and restart before and after every message."""
    check(explore(world, faults=1, restart=True, slack=slack, seconds=100))


def test_slow_networks() -> None:
    check(explore("a", faults=1, kinds=("early",), slack=1))


def test_a_link_that_is_cut_from_the_start() -> None:
    check(explore("d", slack=2))


def test_a_link_that_is_cut_at_any_time() -> None:
    check(explore("d-cutting", faults=1, slack=0))


@pytest.mark.parametrize(("world", "most"), [("c", 105_000), ("e", 50_000)])
def test_some_fault_points_of_the_larger_worlds(world: str, most: int) -> None:
    report = explore(world, faults=1, restart=True, slack=0, max_states=most, seconds=100)
    check(report, exhausted=False)
    assert report.fault_points_done > 100


def test_the_reports_of_two_processes_are_those_of_one() -> None:
    names = ["one", "a"]
    counts = [[(r.states, r.transitions, r.ends) for r in explore_many(names, n)] for n in (1, 2)]
    assert counts[0] == counts[1]


def test_a_report_says_what_was_not_seen() -> None:
    report = explore("b", max_states=100)
    assert "not exhaustive" in str(report)
    assert b'"exhausted":false' in report.to_json()
    assert "exhaustive" in str(explore("one"))
    assert "slack 0" in str(explore("one", faults=1, slack=0))
