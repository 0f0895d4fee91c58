"""What a run says about itself: for people to read, and as JSON."""

from pathlib import Path
from typing import Any

import msgspec

from trunkline.sim.plan import Plan
from trunkline.sim.realmspec import RealmSpec
from trunkline.sim.securespec import SecureSpec
from trunkline.sim.worlds import Spec


class Failure(msgspec.Struct, frozen=True):
    """A run in which an invariant broke."""

    invariant: str
    text: str
    actions: int
    """How many actions led there."""

    def __str__(self) -> str:
        return f"{self.invariant} broken after {self.actions} actions: {self.text}"


class Recording(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run to be kept: an explored world's spec, of one of three kinds, with the run's actions; or a random world's
    plan."""

    invariant: str
    """What it broke, when it was recorded."""
    text: str = ""
    about: str = ""
    """For people: what was at fault."""
    rule: str = ""
    """The broken rule that played (`trunkline.sim.broken`, `realmbroken`, `securebroken`)."""
    spec: Spec | None = None
    realm: RealmSpec | None = None
    secure: SecureSpec | None = None
    actions: tuple[tuple[Any, ...], ...] = ()
    plan: Plan | None = None

    @classmethod
    def load(cls, file: Path) -> "Recording":
        """Read a file.

        Raises:
            OSError, msgspec.DecodeError: it can't be read, or is no recording.
        """
        return msgspec.json.decode(file.read_bytes(), type=cls)

    def save(self, file: Path) -> None:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The result of exploring a world, or of a random one."""

    world: str
    about: str
    ok: bool
    states: int
    """States that were seen, each counted once; 0 for a random world."""
    transitions: int
    """Actions that were carried out."""
    depth: int
    """Most actions from the start of a run to its end."""
    seconds: float
    exhausted: bool
    """Whether everything was seen: only then is the exploration exhaustive."""
    ends: int = 0
    """Different states in which a run came to rest."""
    fault_points: int = 0
    """Different states that follow directly on a fault."""
    fault_points_done: int = 0
    """How many of these were explored to the end."""
    trace: str = ""
    """A hash over every action of a random run: the same seed gives the same."""
    notes: tuple[str, ...] = ()
    failure: Failure | None = None
    recording: Recording | None = None
    """A failing run, to be saved and replayed."""

    def __str__(self) -> str:
        parts = [f"{self.world}: {self.about}"]
        if self.states:
            rate = self.states / self.seconds if self.seconds else 0.0
            frontier = "frontier exhausted: exhaustive" if self.exhausted else "stopped by a bound: not exhaustive"
            if self.exhausted and self.notes:
                frontier = "frontier exhausted, within the bound below"
            parts.append(
                f"  {self.states:,} states, {self.transitions:,} transitions, depth {self.depth}, "
                f"{self.ends:,} ends, {self.seconds:.1f} s ({rate:,.0f} states/s)"
            )
            if self.fault_points:
                parts.append(f"  {self.fault_points_done:,} of {self.fault_points:,} fault points explored")
            parts.append(f"  {frontier}")
        else:
            parts.append(f"  {self.transitions:,} actions in {self.seconds:.1f} s, trace {self.trace}")
        parts += [f"  {note}" for note in self.notes]
        parts.append("  every invariant held" if self.failure is None else f"  {self.failure}")
        return "\n".join(parts)

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)
