"""Failing runs as small files that run again exactly, and how they are cut down.

A file is JSON: the world (an explored one's spec with the run's actions, or a random one's plan), the name of the
broken rule that played in it if one did, and what failed. Of an explored run only the choices need to be kept: after
the last of them the run goes on by itself, first possible step first, to its end. So a run is cut down by leaving
actions out, as long as the same invariant breaks.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from trunkline.names import digest
from trunkline.sim.broken import BROKEN
from trunkline.sim.catalogue import begin
from trunkline.sim.engine import Cast, Memo
from trunkline.sim.explore import at_rest, start
from trunkline.sim.invariants import Violation
from trunkline.sim.narrate import attach
from trunkline.sim.plan import Entry
from trunkline.sim.randomworld import run_plan
from trunkline.sim.report import Failure, Recording, Report
from trunkline.sim.small import run
from trunkline.sim.world import Action, World
from trunkline.sim.worlds import Spec

MOST_STEPS: Final = 20_000
"""A run that goes on by itself for more steps than this goes on for ever."""


def replay(
    recording: Recording | Path | str, cast: Cast | None = None, write: Callable[[str], None] | None = None
) -> Report:
    """Run a recording (or the file of one) again, and report what happens now.

    ``write`` gets a line for each thing that a machine is told or does, as in a playbook.
    """
    if not isinstance(recording, Recording):
        recording = Recording.load(Path(recording))
    if recording.realm is not None or recording.secure is not None:
        return _replay_small(recording, write)
    if cast is None and recording.rule:
        cast = BROKEN[recording.rule].cast
    if recording.plan is not None:
        return run_plan(recording.plan, cast, write)
    assert recording.spec is not None, "a recording has a spec or a plan"
    return _replay_actions(recording.spec, recording.actions, cast, write)


def _replay_small(recording: Recording, write: Callable[[str], None] | None) -> Report:
    spec = recording.realm or recording.secure
    assert spec is not None, "a recording has a spec"
    began = time.monotonic()
    done: list[Action] = []
    failure = None
    try:
        run(begin(recording), recording.actions, done, MOST_STEPS, write)
    except Violation as violation:
        failure = Failure(violation.invariant, violation.text, len(done))
    return _report(spec.name, recording.actions, done, began, failure)


def _replay_actions(
    spec: Spec, actions: tuple[Action, ...], cast: Cast | None, write: Callable[[str], None] | None
) -> Report:
    began = time.monotonic()
    done: list[Action] = []
    failure = None
    try:
        world = start(spec, Memo(spec, cast))
        if write is not None:
            attach(world, write)
        for action in actions:
            chosen = tuple(action)
            if _try(world, chosen):
                done.append(chosen)
        _go_on(world, done)
    except Violation as violation:
        failure = Failure(violation.invariant, violation.text, len(done))
    return _report(spec.name, actions, done, began, failure)


def _report(
    world: str, actions: tuple[Action, ...], done: list[Action], began: float, failure: Failure | None
) -> Report:
    return Report(
        world=world,
        about=f"replay of {len(actions)} actions",
        ok=failure is None,
        states=0,
        transitions=len(done),
        depth=len(done),
        seconds=time.monotonic() - began,
        exhausted=False,
        trace=digest(repr(done).encode(), 8).hex(),
        failure=failure,
    )


def _try(world: World, action: Action) -> bool:
    """Do an action if it is possible here."""
    if action[0] == "jump" and world.steps():
        return False
    probe = world.copy()
    try:
        probe.apply(action)
    except (KeyError, AssertionError, IndexError):
        return False
    world.apply(action)
    return True


def _go_on(world: World, done: list[Action]) -> None:
    for _ in range(MOST_STEPS):
        steps = world.steps()
        if steps:
            action = steps[0]
        elif at_rest(world):
            return
        else:
            action = ("jump",)
        world.apply(action)
        done.append(action)
    raise Violation("S3", f"the run goes on for more than {MOST_STEPS} actions")


def shrink(recording: Recording, cast: Cast | None = None, seconds: float = 30.0) -> Recording:
    """Return the recording with as much left out as still breaks the same invariant, within a time."""
    if recording.plan is not None:
        return _shrink_plan(recording, cast, seconds)
    actions = recording.actions

    def fails(chosen: tuple[Action, ...]) -> bool:
        report = replay(msgspec.structs.replace(recording, actions=chosen), cast)
        return report.failure is not None and report.failure.invariant == recording.invariant

    return msgspec.structs.replace(recording, actions=_minimise(actions, fails, seconds))


def _shrink_plan(recording: Recording, cast: Cast | None, seconds: float) -> Recording:
    plan = recording.plan
    assert plan is not None, "asked for a plan's recording"

    def with_entries(entries: tuple[Entry, ...]) -> Recording:
        return msgspec.structs.replace(recording, plan=msgspec.structs.replace(plan, entries=entries))

    def fails(chosen: tuple[Entry, ...]) -> bool:
        report = replay(with_entries(chosen), cast)
        return report.failure is not None and report.failure.invariant == recording.invariant

    return with_entries(_minimise(plan.entries, fails, seconds))


def _minimise(items: tuple[Any, ...], fails: Callable[[tuple[Any, ...]], bool], seconds: float) -> tuple[Any, ...]:
    """Leave out ever smaller runs of items as long as it fails (delta debugging, without the complement step)."""
    end = time.monotonic() + seconds
    kept = items
    if not fails(kept):
        return kept
    size = max(1, len(kept) // 2)
    while size and time.monotonic() < end:
        at = 0
        while at < len(kept) and time.monotonic() < end:
            without = kept[:at] + kept[at + size :]
            if fails(without):
                kept = without
            else:
                at += size
        size //= 2
    return kept
