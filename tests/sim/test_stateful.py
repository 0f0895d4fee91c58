"""Anything in any order, chosen by Hypothesis, in one world; the same invariants as everywhere."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trunkline.sim import faults
from trunkline.sim.engine import Memo
from trunkline.sim.explore import at_rest, clean, start
from trunkline.sim.invariants import check_returns, unmet
from trunkline.sim.world import World, settle
from trunkline.sim.worlds import ClientSpec, Spec, Want

pytestmark = pytest.mark.slow


SPEC = Spec(
    name="stateful",
    about="3 servers, 4 clients that want each other in several ways, and posts",
    servers=3,
    clients=(
        ClientSpec((0, 1, 2), (Want("a", "b"), Want("a", "p"))),
        ClientSpec((1, 2, 0), (Want("b", "a"), Want("b", "a", within=2.0))),
        ClientSpec((2, 0, 1), (Want("p", backlog=1), Want("a", "b"))),
        ClientSpec((0, 2, 1), (Want("b", "a", datagram=True), Want("c", "p"), Want("a", "b", datagram=True))),
    ),
    faults=3,
    kinds=("crash", "lose", "early"),
    restart=True,
)


class Anything(RuleBasedStateMachine):
    """Steps, faults and cancellations; then peace, in which everybody who can must meet."""

    def __init__(self) -> None:
        super().__init__()
        self.world: World = start(SPEC, Memo(SPEC))

    @rule(choice=st.integers(0, 1 << 16), count=st.integers(1, 20))
    def go_on(self, choice: int, count: int) -> None:
        for _ in range(count):
            steps = self.world.steps()
            if not steps:
                if self.world.next_deadline() is None:
                    return
                steps = [("jump",)]
            self.world.apply(steps[choice % len(steps)])
            choice //= 2

    @precondition(lambda self: faults.possible(self.world))
    @rule(choice=st.integers(0, 1 << 16))
    def fail(self, choice: int) -> None:
        possible = faults.possible(self.world)
        servers_up = sum(self.world.is_up(site) for site in range(SPEC.servers))
        chosen = possible[choice % len(possible)]
        if chosen[0] == "crash" and chosen[1] < SPEC.servers and servers_up == 1:
            return  # one lives at all times, as S3 asks
        self.world.apply(chosen)

    @precondition(lambda self: self.world.waiting())
    @rule(choice=st.integers(0, 1 << 16))
    def cancel(self, choice: int) -> None:
        waiting = self.world.waiting()
        request = waiting[choice % len(waiting)]
        self.world.apply(("cancel", request.site, request.place))

    @invariant()
    def nobody_returns_twice(self) -> None:
        """S1 and S2 are checked by the world itself as things happen; here only that it looks sound."""
        returned = [fact[1] for fact in self.world.facts if fact[0] == "returned" and self.world.request(fact[1]).you]
        assert len(returned) == len(set(returned))

    def teardown(self) -> None:
        world = self.world
        world.left = 0
        world.calm_since = world.now
        settle(world, world.now + 60)
        assert not unmet(world), [(str(one), str(other)) for one, other in unmet(world)]
        check_returns(world)
        clean(world)
        assert at_rest(world)


Anything.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestAnything = Anything.TestCase
