"""The search of small worlds of any kind: every order of everything, with a fault at every point.

It is that of `trunkline.sim.explore` without slack, and keeps seen states in the same way. Nothing is left out and no
order is preferred: what is the same either way is noticed because the states are. A world that ends is asked to
finish, which checks it once more.
"""

import time
from collections.abc import Callable, Hashable
from random import Random
from typing import Any, Protocol, Self

from trunkline.errors import TrunklineError
from trunkline.sim.explore import Path, actions_of
from trunkline.sim.invariants import MACHINE_FAULT, Violation
from trunkline.sim.report import Failure, Recording, Report

Action = tuple[Any, ...]


class SmallWorld(Protocol):
    """A state of a world."""

    def copy(self) -> Self: ...
    def key(self) -> Hashable: ...
    def steps(self) -> list[Action]: ...
    def faults(self) -> list[Action]: ...
    def apply(self, action: Action) -> None: ...
    def finish(self) -> None: ...
    def describe(self) -> str: ...


def search(
    begin: Callable[[], SmallWorld], recording: Recording, about: str, *, seed: int, max_states: int, seconds: float
) -> Report:
    """Explore a world. Never raises for a failure: it is in the report, and in the recording that is made of it.

    Args:
        begin: makes the world at its start.
        recording: of the world, without a run.
        seed: of the order in which it is searched; 0 for the usual one.
    """
    began = time.monotonic()
    random = Random(seed) if seed else None
    seen: set[int] = set()
    stack: list[tuple[SmallWorld, int, Path]] = []
    transitions = deepest = ends = points = 0
    failure: Failure | None = None
    path: Path = None
    try:
        world = begin()
        seen.add(hash(world.key()))
        stack.append((world, 0, None))
        while stack and len(seen) < max_states and time.monotonic() - began < seconds:
            world, depth, path = stack.pop()
            deepest = max(deepest, depth)
            steps, wrong = world.steps(), world.faults()
            if not steps:
                ends += 1
                do(world.copy().finish)
            actions = [(action, False) for action in steps] + [(action, True) for action in wrong]
            if random is not None:
                random.shuffle(actions)
            before = path
            for action, is_fault in actions:
                child = world.copy()
                path = (before, action)
                do(child.apply, action)
                transitions += 1
                mark = hash(child.key())
                if mark not in seen:
                    seen.add(mark)
                    points += is_fault
                    stack.append((child, depth + 1, path))
    except Violation as violation:
        actions_done = actions_of(path)
        failure = Failure(violation.invariant, violation.text, len(actions_done))
        values = {name: getattr(recording, name) for name in ("rule", "realm", "secure")}
        recording = Recording(invariant=failure.invariant, text=failure.text, actions=actions_done, **values)
    exhausted = failure is None and not stack
    spec = recording.realm or recording.secure
    assert spec is not None, "a small world is recorded by its spec"
    return Report(
        world=spec.name,
        about=about,
        ok=failure is None,
        states=len(seen),
        transitions=transitions,
        depth=deepest,
        seconds=time.monotonic() - began,
        exhausted=exhausted,
        ends=ends,
        fault_points=points,
        fault_points_done=points if exhausted else 0,
        failure=failure,
        recording=recording if failure is not None else None,
    )


def run(
    world: SmallWorld,
    actions: tuple[Action, ...],
    done: list[Action],
    most: int,
    write: Callable[[str], None] | None = None,
) -> None:
    """Do those of some actions that are possible, then what a world does by itself, to its end.

    Args:
        done: takes the actions that were done.
        write: gets a line for each.

    Raises:
        Violation: an invariant broke.
    """

    def follow(action: Action) -> None:
        done.append(action)
        if write is not None:
            write("-".join(map(str, action)))
        do(world.apply, action)
        if write is not None:
            write(f"{'':9} {world.describe()}")

    for action in map(tuple, actions):
        if action in world.steps() or action in world.faults():
            follow(action)
    for _ in range(most):
        steps = world.steps()
        if not steps:
            do(world.finish)
            return
        follow(steps[0])
    raise Violation(MACHINE_FAULT, f"the run goes on for more than {most} actions")


def do(what: Callable[..., None], *about: Any) -> None:
    """Call something; whatever it raises and should not is a violation too."""
    try:
        what(*about)
    except TrunklineError as error:
        raise Violation(MACHINE_FAULT, f"{about} raised {error!r}") from error
