"""Every order of events in a small realm, with a fault at every point (docs/spec/authority.md section 10).

The search is that of `trunkline.sim.explore`, made small: no time passes but a replica's polls, so every order can be
tried. When nothing else can happen, the replica polls until it is at rest.
"""

import time
from typing import Final

from trunkline.errors import TrunklineError
from trunkline.sim.invariants import MACHINE_FAULT, Violation
from trunkline.sim.realmcast import Cast
from trunkline.sim.realmworld import REPLICA, Action, RealmSpec, RealmWorld, Stage
from trunkline.sim.report import Failure, Report

SETTLING: Final = 200
"""Steps within which a realm comes to rest when faults are over."""

REALMS: Final = {
    spec.name: spec
    for spec in (
        RealmSpec(
            "realm",
            "an authority, a writer with five requests, a reader with two questions, time that passes once",
            questions=2,
            waits=1,
            faults=1,
        ),
        RealmSpec(
            "realm-replica",
            "the same with a replica that polls once meanwhile, and a reader that asks either",
            replica=True,
            questions=1,
            polls=1,
            faults=1,
        ),
    )
}


def explore_realm(
    spec: RealmSpec, *, cast: Cast | None = None, max_states: int = 200_000, seconds: float = 60.0
) -> Report:
    """Explore a realm. Never raises for a failure: it is in the report."""
    began = time.monotonic()
    stage = Stage(cast or Cast())
    seen: set[int] = set()
    stack: list[tuple[RealmWorld, int, tuple[Action, ...]]] = [(RealmWorld(spec, stage), 0, ())]
    transitions = deepest = ends = 0
    points = 0
    failure: Failure | None = None
    path: tuple[Action, ...] = ()
    try:
        while stack and len(seen) < max_states and time.monotonic() - began < seconds:
            world, depth, path = stack.pop()
            deepest = max(deepest, depth)
            steps = world.steps()
            if not steps:
                ends += 1
                settle(world)
                world.check_end()
            wrong = world.faults()
            for action in (*steps, *wrong):
                child = world.copy()
                path_there = (*path, action)
                path = path_there
                _apply(child, action)
                path = path_there[:-1]
                transitions += 1
                mark = hash(child.key())
                if mark not in seen:
                    seen.add(mark)
                    points += action in wrong
                    stack.append((child, depth + 1, path_there))
    except Violation as violation:
        failure = Failure(violation.invariant, f"{violation.text}; after {_shown(path)}", len(path))
    about = f"{spec.about}; {spec.faults} fault(s): {', '.join(spec.kinds)}" if spec.faults else spec.about
    return Report(
        world=spec.name,
        about=about,
        ok=failure is None,
        states=len(seen),
        transitions=transitions,
        depth=deepest,
        seconds=time.monotonic() - began,
        exhausted=failure is None and not stack,
        ends=ends,
        fault_points=points,
        fault_points_done=points if not stack else 0,
        failure=failure,
    )


def settle(world: RealmWorld) -> None:
    """Let a world that is at rest go on until its replica has nothing more to fetch."""
    if not world.spec.replica:
        return
    world.left = 0
    for _ in range(SETTLING):
        steps = world.steps()
        if not steps:
            if world.disks[REPLICA].size() == world.disks[0].size():
                return
            world.polls = 1
            steps = world.steps()
            if not steps:
                return
        _apply(world, steps[0])


def _apply(world: RealmWorld, action: Action) -> None:
    try:
        world.apply(action)
    except TrunklineError as error:
        raise Violation(MACHINE_FAULT, f"{action} raised {error!r}") from error


def _shown(path: tuple[Action, ...]) -> str:
    return " ".join("-".join(map(str, action)) for action in path)
