"""The world, with a client of forty lines: what moves it, and what it refuses."""

import pytest

from tests.sim.fakes import FakeClient
from trunkline.sim.engine import Cast, Live, Memo
from trunkline.sim.explore import explore, start
from trunkline.sim.invariants import Violation, check_returns, unmet
from trunkline.sim.world import World, make_rid, settle
from trunkline.sim.worlds import WORLDS, ClientSpec, Spec, Want

FAKE = Cast(client=FakeClient)


def test_two_fakes_meet_in_every_order() -> None:
    report = explore("a", cast=FAKE)
    assert report.ok, str(report)
    assert report.exhausted
    assert report.ends


def test_both_engines_make_the_same_run() -> None:
    facts = []
    for engine in (Live(WORLDS["a"], FAKE), Memo(WORLDS["a"], FAKE)):
        world = World(WORLDS["a"], engine)
        for site in range(4):
            world.begin(site)
        run = settle(world, 5.0)
        check_returns(world)
        facts.append((world.facts, run))
    assert facts[0] == facts[1]
    assert sum(1 for fact in facts[0][0] if fact[0] == "returned") == 2


def test_time_stands_still_while_anything_can_happen() -> None:
    world = start(WORLDS["a"], Memo(WORLDS["a"], FAKE))
    before = world.now
    while steps := world.steps():
        assert all(step[0] != "jump" for step in steps)
        world.apply(steps[-1])
        assert world.now == before


def test_actions_that_are_not_possible_are_refused() -> None:
    world = start(WORLDS["a"], Memo(WORLDS["a"], FAKE))
    for action in (("take", 999), ("end", world.steps()[0][1]), ("begin", 0), ("nonsense",)):
        with pytest.raises((KeyError, AssertionError)):
            world.copy().apply(action)


def test_a_request_id_says_whose_it_is() -> None:
    world = World(WORLDS["c-both"], Memo(WORLDS["c-both"], FAKE))
    request = world.request(make_rid(3, 2, 1))
    assert (request.site, request.incarnation, request.place) == (3, 2, 1)
    assert str(request) == "meet(a, b) of client 3 (start 2)"


def test_who_fits_whom() -> None:
    wants = (Want("a", "b"), Want("b", "a"), Want("p"), Want("x", "p"), Want("b", "a", datagram=True), Want("a"))
    spec = Spec(name="x", about="x", servers=1, clients=(ClientSpec((0,), wants),))
    world = World(spec, Memo(spec, FAKE))
    requests = [world.request(make_rid(1, 1, place)) for place in range(len(wants))]
    fits = {(i, j) for i, one in enumerate(requests) for j, other in enumerate(requests) if one.fits(other)}
    assert fits == {(0, 1), (1, 0), (2, 3), (3, 2), (1, 5), (5, 1)}


def test_a_machine_that_raises_is_a_violation() -> None:
    class Raises(FakeClient):
        def step(self, event: object, now: float) -> list[object]:  # type: ignore[override]
            raise ZeroDivisionError

    with pytest.raises(Violation, match="Raises raised"):
        start(WORLDS["a"], Memo(WORLDS["a"], Cast(client=Raises)))


def test_a_client_that_restarts_makes_new_requests() -> None:
    world = start(WORLDS["a"], Memo(WORLDS["a"], FAKE))
    assert len(unmet(world)) == 1
    world.left = 1
    world.apply(("crash", 2))
    assert not unmet(world)
    world.apply(("begin", 2))
    settle(world, world.now + 1)
    assert not unmet(world)
