"""All worlds that are explored, of whatever kind, by name."""

from typing import Any, Final

import msgspec

from trunkline.sim.explore import explore
from trunkline.sim.realmbroken import BROKEN_REALMS
from trunkline.sim.realmcast import Cast
from trunkline.sim.realmspec import REALMS, RealmSpec
from trunkline.sim.realmstage import Stage
from trunkline.sim.realmworld import RealmWorld
from trunkline.sim.report import Recording, Report
from trunkline.sim.securebroken import BROKEN_CONFIRMATIONS
from trunkline.sim.securespec import SECURE, SecureSpec
from trunkline.sim.secureworld import SecureWorld
from trunkline.sim.small import SmallWorld, search
from trunkline.sim.worlds import WORLDS

ABOUT: Final = {
    **{name: spec.about for name, spec in WORLDS.items()},
    **{name: spec.about for name, spec in REALMS.items()},
    **{name: spec.about for name, spec in SECURE.items()},
}
"""The name of every world that is explored, and what it is."""

MAX_STATES: Final = 1_000_000
SECONDS: Final = 600.0
"""Bounds of a small world, unless others are given; docs/measurements/exploration.md says how far from them each is."""


def explore_any(
    name: str,
    *,
    deep: bool = False,
    faults: int | None = None,
    seed: int = 0,
    slack: int | None = None,
    restart: bool | None = None,
) -> Report:
    """Explore the world of that name.

    ``slack`` and ``restart`` are for worlds of switchboards; in a realm whoever crashed always comes back, and all
    orders are tried. ``faults`` says nothing to a world of a secure meeting: there one thing breaks, or everybody lies.
    """
    limits: dict[str, Any] = {"max_states": 1 << 62, "seconds": 1e9} if deep else {}
    if name in REALMS:
        realm = REALMS[name]
        return explore_realm(
            msgspec.structs.replace(realm, faults=realm.faults if faults is None else faults), seed=seed, **limits
        )
    if name in SECURE:
        return explore_secure(SECURE[name], seed=seed, **limits)
    return explore(name, deep=deep, faults=faults, seed=seed, slack=slack, restart=restart)


def explore_realm(
    spec: RealmSpec, *, rule: str = "", seed: int = 0, max_states: int = MAX_STATES, seconds: float = SECONDS
) -> Report:
    """Explore a realm, perhaps with a rule of `BROKEN_REALMS` broken."""
    about = (
        f"{spec.about}; {spec.faults} fault(s): {', '.join(spec.kinds)}" if spec.faults else f"{spec.about}; no fault"
    )
    recording = Recording(invariant="", rule=rule, realm=spec)
    return search(lambda: begin(recording), recording, about, seed=seed, max_states=max_states, seconds=seconds)


def explore_secure(
    spec: SecureSpec, *, rule: str = "", seed: int = 0, max_states: int = MAX_STATES, seconds: float = SECONDS
) -> Report:
    """Explore a world of a secure meeting, perhaps with a rule of `BROKEN_CONFIRMATIONS` broken."""
    recording = Recording(invariant="", rule=rule, secure=spec)
    return search(lambda: begin(recording), recording, spec.about, seed=seed, max_states=max_states, seconds=seconds)


def begin(recording: Recording) -> SmallWorld:
    """Return the small world of a recording at its start."""
    if recording.realm is not None:
        cast = BROKEN_REALMS[recording.rule].cast() if recording.rule else Cast()
        return RealmWorld(recording.realm, Stage(cast))
    assert recording.secure is not None, "a small world is recorded by its spec"
    if recording.rule:
        return SecureWorld(recording.secure, BROKEN_CONFIRMATIONS[recording.rule].machine)
    return SecureWorld(recording.secure)
