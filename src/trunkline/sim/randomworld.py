"""Random worlds from a seed: heartbeats on, messages delayed, faults (docs/spec/switchboard.md section 12).

A seed gives a *plan*: who there is, who wants what and when, and which fault strikes when. The plan and the seed give
the run, to the last delay. So a failing plan can be cut down by leaving entries out (`trunkline.sim.replay`).

At `calm` seconds the last fault is over, links are whole again, and one server lives at least. `settle` seconds
later every two requests that match must have met (S3), and returned connections must be sound (S1). Then the clients
go, in three ways, and `leave` seconds later every server's tables must be empty (S4).
"""

import hashlib
import heapq
import time
from collections import defaultdict
from collections.abc import Callable
from random import Random
from typing import Any, Final

from trunkline.sim.engine import Cast, Live
from trunkline.sim.invariants import (
    MACHINE_FAULT,
    Violation,
    check_met,
    check_returns,
    check_tables,
)
from trunkline.sim.narrate import attach
from trunkline.sim.plan import SMALL, Plan, Size, make_plan
from trunkline.sim.report import Failure, Recording, Report
from trunkline.sim.world import Action, World

DIAL_TIMEOUT: Final = 3.0
"""Seconds after which the network gives up a dial that nobody answers."""

SPIN: Final = 2000
"""More ticks of one machine at one instant than this: its timers don't advance."""

EXPECTED: Final = frozenset(
    {"cancelled", "stopped", "crashed", "MeetTimeout", "NoSwitchboard", "Displaced", "NameTaken"}
)
"""How a request may end without a meeting."""


class Run:
    """One random world as it goes."""

    def __init__(self, plan: Plan, cast: Cast | None = None) -> None:
        self.plan = plan
        self.world = World(plan.spec, Live(plan.spec, cast, seed=b"random-%d" % plan.seed))
        self.world.left = 1 << 30
        self.world.news = []
        self.world.touched = []
        self.actions = 0
        self._random = Random(plan.seed + 1)
        self._heap: list[tuple[float, int, str, Any]] = []
        self._order = 0
        self._arrives: dict[int, float] = {}
        """Pipe -> when its last item arrives: order is kept."""
        self._coming: dict[int, int] = defaultdict(int)
        """Pipe -> how many arrivals are scheduled."""
        self._blocked: dict[int, set[int]] = defaultdict(set)
        """Site -> pipes whose bytes it does not read now."""
        self._ticks: dict[int, float] = {}
        self._frozen: set[int] = set()
        self._stalled: set[tuple[int, int]] = set()
        self._held: list[tuple[str, Any]] = []
        """What waits for a site to thaw or a link to heal."""
        self._spins = (0.0, 0)
        self._hash = hashlib.blake2b(digest_size=8)

    @property
    def trace(self) -> str:
        """A hash over every action so far, and when it happened."""
        return self._hash.hexdigest()

    def run(self) -> None:
        """Run to the end.

        Raises:
            Violation: an invariant broke.
        """
        size, world = self.plan.size, self.world
        for entry in self.plan.entries:
            self._schedule(entry.at, "plan", entry.action)
        self._until(size.calm)
        self._calm()
        self._until(size.calm + size.settle)
        check_met(world)
        check_returns(world)
        self._check_ends()
        self._leave()
        self._until(size.calm + size.settle + size.leave)
        check_tables(world)

    def _check_ends(self) -> None:
        for fact in self.world.facts:
            if fact[0] == "over" and fact[2] not in EXPECTED:
                raise Violation("S3", f"{self.world.request(fact[1])} failed with {fact[2]}")

    def _calm(self) -> None:
        for site in sorted(self._frozen):
            self._plan(("thaw", site))
        for one, other in sorted(self._stalled) + sorted(self.world.net.cuts):
            self._plan(("heal", one, other))
        for site in self.plan.last_servers:
            if not self.world.is_up(site):
                self._plan(("begin", site))
        self.world.calm_since = self.world.now
        self.world.left = 0

    def _leave(self) -> None:
        """Take the clients away: some stop in good order, some crash, some vanish without a word (power cut)."""
        for site in range(self.plan.spec.servers, len(self.world.states)):
            if self.world.is_up(site):
                self._plan((("stop", "crash", "freeze")[site % 3], site))

    # ---- the clock -----------------------------------------------------------------------------------------

    def _schedule(self, at: float, kind: str, what: Any) -> None:
        self._order += 1
        heapq.heappush(self._heap, (at, self._order, kind, what))

    def _until(self, end: float) -> None:
        while self._heap and self._heap[0][0] <= end:
            at, _, kind, what = heapq.heappop(self._heap)
            self.world.now = max(self.world.now, at)
            self._turn(kind, what)
        self.world.now = max(self.world.now, end)

    def _turn(self, kind: str, what: Any) -> None:
        world = self.world
        if kind == "plan":
            self._plan(what)
        elif kind == "tick":
            if self._ticks.get(what) is not None and self._ticks[what] <= world.now:
                del self._ticks[what]
                if what in self._frozen:
                    self._held.append((kind, what))
                elif world.is_up(what):
                    deadline = world.engine.deadline(world.states[what])
                    if deadline is not None and deadline <= world.now:
                        self._guard_spin()
                        self._apply(("tick", what))
                    else:
                        world.touched_site(what)
                        self._follow_up()
        else:
            self._arrive(kind, what)

    def _guard_spin(self) -> None:
        at, count = self._spins
        self._spins = (self.world.now, count + 1 if at == self.world.now else 1)
        if self._spins[1] > SPIN:
            raise Violation(MACHINE_FAULT, f"more than {SPIN} ticks at one instant: a timer does not advance")

    def _arrive(self, kind: str, name: int) -> None:
        """An item arrives, or a broken pipe ends."""
        world = self.world
        pipe = world.net.pipes.get(name)
        if kind == "take":
            self._coming[name] -= 1
        if pipe is None:
            self._coming.pop(name, None)
            self._arrives.pop(name, None)
            return
        if pipe.site in self._frozen or self._is_stalled(name):
            self._held.append((kind, name))
            return
        if pipe.reader != 0:
            return
        if kind == "end":
            self._apply(("end", name))
        elif world.can_take(name):
            self._apply(("take", name))
            left = world.net.pipes.get(name)
            if left is not None and left.items and self._coming[name] <= 0:
                self._coming[name] += 1
                self._schedule(world.now, "take", name)
        elif pipe.items:
            self._blocked[pipe.site].add(name)

    def _is_stalled(self, name: int) -> bool:
        if not self._stalled:
            return False
        pipe, mate = self.world.net.pipes.get(name), self.world.net.pipes.get(name ^ 1)
        if pipe is None or mate is None:
            return False
        return (min(pipe.site, mate.site), max(pipe.site, mate.site)) in self._stalled

    # ---- what happens --------------------------------------------------------------------------------------

    def _plan(self, action: Action) -> None:
        """Do a line of the plan, if it can be done now: other lines may have come in between."""
        world = self.world
        kind = action[0]
        match kind:
            case "freeze":
                self._frozen.add(action[1])
            case "thaw":
                self._frozen.discard(action[1])
                self._release()
            case "stall":
                self._stalled.add((min(action[1:]), max(action[1:])))
            case "heal":
                self._stalled.discard((min(action[1:]), max(action[1:])))
                self._apply(action)
                self._release()
            case "lose-any":
                names = sorted(n for n, p in world.net.pipes.items() if not p.broken and n ^ 1 in world.net.pipes)
                if names:
                    self._apply(("lose", names[action[1] % len(names)]))
            case "begin":
                if not world.is_up(action[1]):
                    self._apply(action)
            case "cancel":
                rids = {r.rid for r in world.waiting() if r.site == action[1] and r.place == action[2]}
                if rids and action[1] not in self._frozen:
                    self._apply(action)
            case "stop":
                if world.is_up(action[1]) and action[1] not in self._frozen:
                    self._apply(action)
            case "crash":
                if world.is_up(action[1]):
                    self._frozen.discard(action[1])
                    self._apply(action)
            case _:
                self._apply(action)

    def _release(self) -> None:
        held, self._held = self._held, []
        for kind, what in held:
            if kind == "tick":
                self.world.touched_site(what)
            else:
                if kind == "take":
                    self._coming[what] += 1
                self._schedule(self.world.now, kind, what)
        self._follow_up()

    def _apply(self, action: Action) -> None:
        self.actions += 1
        self._hash.update(repr((self.world.now, action)).encode())
        self.world.apply(action)
        self._follow_up()

    def _follow_up(self) -> None:
        """Schedule what the last action brought about."""
        world = self.world
        assert world.news is not None
        assert world.touched is not None
        news, world.news = world.news, []
        touched, world.touched = world.touched, []
        for name in news:
            pipe = world.net.pipes.get(name)
            if pipe is None:
                continue
            if pipe.broken:
                self._schedule(world.now + self._delay(), "end", name)
            while self._coming[name] < len(pipe.items):
                at = max(self._arrives.get(name, 0.0), world.now + self._delay())
                if self._is_stalled(name) and len(pipe.items) == 1 and pipe.items[0] == 0 and name % 2:
                    at = world.now + DIAL_TIMEOUT
                    world.net.break_pipe(name)
                    self._schedule(at, "end", name)
                    break
                self._arrives[name] = at
                self._coming[name] += 1
                self._schedule(at, "take", name)
        for site in dict.fromkeys(touched):
            if not world.is_up(site):
                self._ticks.pop(site, None)
                continue
            for name in sorted(self._blocked.pop(site, ())):
                self._coming[name] += 1
                self._schedule(world.now, "take", name)
            deadline = world.engine.deadline(world.states[site])
            if deadline is None:
                self._ticks.pop(site, None)
            elif self._ticks.get(site) != deadline:
                self._ticks[site] = deadline
                self._schedule(max(deadline, world.now), "tick", site)

    def _delay(self) -> float:
        drawn = self._random.random()
        if drawn < 0.9:
            return self._random.uniform(0.0001, 0.01)
        if drawn < 0.995:
            return self._random.uniform(0.01, 0.3)
        return self._random.uniform(0.3, 2.0)


def run_plan(plan: Plan, cast: Cast | None = None, write: Callable[[str], None] | None = None) -> Report:
    """Run a plan; a failure is in the report. ``write`` gets a line for each thing that happens in it."""
    began = time.monotonic()
    run = Run(plan, cast)
    if write is not None:
        attach(run.world, write)
    failure = recording = None
    try:
        run.run()
    except Violation as violation:
        failure = Failure(violation.invariant, violation.text, run.actions)
        recording = Recording(invariant=violation.invariant, text=violation.text, plan=plan)
    meets = sum(1 for fact in run.world.facts if fact[0] == "returned")
    return Report(
        world=plan.spec.name,
        about=plan.spec.about,
        ok=failure is None,
        states=0,
        transitions=run.actions,
        depth=run.actions,
        seconds=time.monotonic() - began,
        exhausted=False,
        trace=run.trace,
        notes=(f"{meets} returns, {len(plan.entries)} planned events, {run.world.now:.0f} s of its own time",),
        failure=failure,
        recording=recording,
    )


def run_random(seed: int, size: Size = SMALL, cast: Cast | None = None) -> Report:
    """Run the random world of a seed."""
    return run_plan(make_plan(seed, size), cast)
