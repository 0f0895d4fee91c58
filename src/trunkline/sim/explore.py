"""Every order of deliveries in a small world, with a fault at every point (docs/spec/switchboard.md section 12).

The first paper's authors killed the server before and after every message, by hand. Here a run may be hit by a fault
in every state that it can be in without one: a crash, a broken connection, a cut link; what the fault leaves under way
may arrive or not, and after it again every order of deliveries is tried.

Rules of the search:

- A state is what all machines would do next: their snapshots, what is under way on each connection, the clock, and the
  facts that the invariants speak of. A state that was seen is not explored again. Seen states are kept as 64-bit
  hashes, so of n states one is taken for another with a probability of about n*n / 2**65: for ten million states,
  three in a million.
- Time stands still while anything can happen, and then moves to the next deadline. A network that is slower than a
  timer is the fault "early".
- A run ends at rest when no two requests wait that match. There the invariants that speak of rest are checked, then
  the clients are taken away, and the tables of the servers must become empty.
- Where all orders after a fault are too many, they are bounded by *slack*: the number of times that a run may do
  something else than its first possible step (delay-bounded scheduling, after Emmi, Qadeer and Rakamaric, 2011). What
  arrives of a broken pipe is free, and so is a restart at once or at rest. With slack 0 this is the paper's test: a
  fault at every point of every order, and what follows in one order. A report says so.
- Runs without a fault come first. The states that follow on a fault are collected, and then explored one by one, each
  to its end, in an order drawn from the seed: a search that is bounded has then sampled fault points evenly.
"""

import multiprocessing
import time
from collections.abc import Iterable
from random import Random
from typing import Any

import msgspec

from trunkline.sim import faults
from trunkline.sim.engine import Cast, Memo
from trunkline.sim.invariants import (
    Violation,
    check_budget,
    check_met,
    check_returns,
    check_tables,
    unmet,
)
from trunkline.sim.report import Failure, Recording, Report
from trunkline.sim.world import Action, World, settle
from trunkline.sim.worlds import WORLDS, Spec

Path = tuple[Any, ...] | None
"""A run, as (the run before, its last action); None is the start."""

FORMING = 3.0
"""Seconds that servers have for finding each other before the clients of a formed world start."""

CLEANING = 6.0
"""Seconds after the end of the clients within which every table must be empty (S4)."""


def start(spec: Spec, engine: Memo) -> World:
    """Return a world at its start: servers up (and joined, if the spec says so), clients calling."""
    world = World(spec, engine)
    for site in range(spec.servers):
        world.begin(site)
    if spec.formed:
        settle(world, FORMING)
        world.now = max(world.now, FORMING)
    for site in range(spec.servers, len(world.states)):
        world.begin(site)
    world.calm_since = world.now
    world.count = 0
    world.left = spec.faults
    return world


def at_rest(world: World) -> bool:
    """Check a world in which nothing is under way; say whether the run ends here.

    Raises:
        Violation: S1, S3, S4 or S5.
    """
    if unmet(world) and any(world.is_up(site) for site in range(world.spec.servers)):
        if world.now - world.calm_since > world.spec.settle:
            check_met(world)
        return world.next_deadline() is None and _check_stuck(world)
    check_met(world)
    check_returns(world)
    if world.spec.counting:
        check_budget(world, world.spec.budget)
    clean(world)
    return True


def _check_stuck(world: World) -> bool:
    check_met(world)
    return True


def clean(world: World) -> None:
    """Take the clients away, by halves: some stop in good order, some crash; then every table must be empty.

    Raises:
        Violation: S4.
    """
    world = world.copy()
    world.left = 0
    for site in range(world.spec.servers, len(world.states)):
        if world.is_up(site):
            world.apply(("stop" if site % 2 else "crash", site))
    settle(world, world.now + CLEANING)
    check_tables(world)


class Search:
    """One exploration."""

    def __init__(self, spec: Spec, cast: Cast | None = None, seed: int = 0, slack: int | None = None) -> None:
        self.spec = spec
        self.slack = slack
        self.engine = Memo(spec, cast)
        self.seen: set[int] = set()
        self.transitions = 0
        self.depth = 0
        self.ends = 0
        self.most_counted = 0
        """Most messages that one run took, in a world that counts them."""
        self.failed: tuple[Action, ...] = ()
        """The run that failed."""
        self.points = 0
        self.points_done = 0
        self.later: list[tuple[World, Path, int]] = []
        self._random = Random(seed)
        self._stack: list[tuple[World, Path, int]] = []
        self._path: Path = None

    def run(self, max_states: int, seconds: float) -> tuple[bool, Failure | None]:
        """Explore; return whether everything was seen, and the first failure."""
        end = time.monotonic() + seconds
        self._path = None
        try:
            world = start(self.spec, self.engine)
            if self.spec.cuts:
                world.slack = self.slack  # the fault is there from the start
            self.seen.add(hash(world.key()))
            self._stack.append((world, None, 0))
            while True:
                turn = 0
                while self._stack:
                    self._expand(*self._stack.pop())
                    turn += 1
                    if len(self.seen) >= max_states or (turn % 64 == 0 and time.monotonic() > end):
                        return False, None
                if self.later and not self.points_done:
                    self._random.shuffle(self.later)
                if not self.later:
                    return True, None
                self.points_done += 1
                self._stack.append(self.later.pop())
        except Violation as violation:
            self.failed = actions_of(self._path)
            return False, Failure(violation.invariant, violation.text, len(self.failed))

    def _expand(self, world: World, path: Path, depth: int) -> None:
        self._path = path
        steps = _eager(world, world.steps()) if self.spec.eager else world.steps()
        wrong = faults.possible(world)
        self.depth = max(self.depth, depth)
        if not steps:
            if at_rest(world):
                self.ends += 1
                self.most_counted = max(self.most_counted, world.count)
            elif world.next_deadline() is not None:
                steps = [("jump",)]
        for action in steps:
            cost = 0 if world.slack is None or _is_first(action, steps[0]) else 1
            self._follow(world, action, path, depth, cost)
        for action in wrong:
            if action[0] in faults.COUNTED:
                self._follow(world, action, path, depth, 0, is_fault=True)
            else:
                is_at_once = path is not None and path[1][0] in faults.COUNTED
                is_free = world.slack is None or is_at_once or not steps or steps[0][0] == "jump"
                self._follow(world, action, path, depth, 0 if is_free else 1)

    def _follow(
        self, world: World, action: Action, path: Path, depth: int, cost: int, *, is_fault: bool = False
    ) -> None:
        if world.slack is not None and cost > world.slack:
            return
        child = world.copy()
        self._path = (path, action)
        child.apply(action)
        if is_fault:
            child.slack = self.slack
        elif cost and child.slack is not None:
            child.slack -= cost
        self.transitions += 1
        mark = hash(child.key())
        if mark in self.seen:
            return
        self.seen.add(mark)
        if is_fault:
            self.points += 1
            self.later.append((child, self._path, depth + 1))
        else:
            self._stack.append((child, self._path, depth + 1))


def _eager(world: World, steps: list[Action]) -> list[Action]:
    """Return only a heartbeat's arrival if there is one, and only the first of several timers."""
    for step in steps:
        if step[0] == "take":
            item = world.net.pipes[step[1]].items[0]
            if world.engine.is_heartbeat(item):
                return [step]
    if steps and all(step[0] == "tick" for step in steps):
        return steps[:1]
    return steps


def _is_first(action: Action, first: Action) -> bool:
    """Say whether an action is what a run does by itself, or decides what arrives of the same broken pipe."""
    return action == first or (action[0] in ("take", "end") and first[0] in ("take", "end") and action[1] == first[1])


def actions_of(path: Path) -> tuple[Action, ...]:
    """Return a run as a list."""
    actions: list[Action] = []
    while path is not None:
        path, action = path
        actions.append(action)
    return tuple(reversed(actions))


def explore(
    world: str | Spec,
    *,
    faults: int | None = None,
    max_states: int | None = None,
    seconds: float | None = None,
    deep: bool = False,
    restart: bool | None = None,
    kinds: tuple[str, ...] | None = None,
    slack: int | None = None,
    cast: Cast | None = None,
    seed: int = 0,
) -> Report:
    """Explore a world (a name in `WORLDS`, or a spec of your own).

    ``slack`` bounds the orders after a fault (None: all of them). ``deep`` lifts the bounds on states and seconds that
    are not given, and unless told otherwise lets one fault happen and servers come back, with the slack that the spec
    says. Never raises for a failure: it is in the report.
    """
    spec = WORLDS[world] if isinstance(world, str) else world
    if deep and faults is None and not spec.counting:
        faults, restart = 1, restart is not False and "crash" in spec.kinds
        slack = spec.deep_slack if slack is None else slack
    changes: dict[str, Any] = {"faults": faults, "restart": restart, "kinds": kinds}
    spec = msgspec.structs.replace(spec, **{k: v for k, v in changes.items() if v is not None})
    search = Search(spec, cast, seed, slack)
    began = time.monotonic()
    most = max_states if max_states is not None else (1 << 62 if deep else 200_000)
    limit = seconds if seconds is not None else (1e9 if deep else 30.0)
    exhausted, failure = search.run(most, limit)
    recording = None
    if failure is not None:
        recording = Recording(invariant=failure.invariant, text=failure.text, spec=spec, actions=search.failed)
    extra = f"; {spec.faults} fault(s): {', '.join(spec.kinds)}" if spec.faults else "; no fault"
    extra += ", restart" if spec.restart else ""
    is_bounded = slack is not None and (spec.faults or spec.cuts)
    notes = [f"orders after a fault are bounded: slack {slack}"] if is_bounded else []
    notes += ["heartbeats arrive at once"] if spec.eager else []
    return Report(
        world=spec.name,
        about=spec.about + extra,
        ok=failure is None,
        states=len(search.seen),
        transitions=search.transitions,
        depth=search.depth,
        seconds=time.monotonic() - began,
        exhausted=exhausted,
        ends=search.ends,
        fault_points=search.points,
        fault_points_done=search.points_done,
        notes=tuple(notes),
        failure=failure,
        recording=recording,
    )


def _explore_named(job: tuple[str, dict[str, Any]]) -> Report:
    return explore(job[0], **job[1])


def explore_many(names: Iterable[str], processes: int = 2, **options: Any) -> list[Report]:
    """Explore several worlds, each in one of a few processes; reports come in the order of the names."""
    jobs = [(name, options) for name in names]
    if processes < 2 or len(jobs) < 2:
        return [_explore_named(job) for job in jobs]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return pool.map(_explore_named, jobs, chunksize=1)
