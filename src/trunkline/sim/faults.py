"""What may go wrong in a world, as actions:

    ("crash", site)       a machine dies with all its connections; a client's callers die with it
    ("restart", site)     a server that crashed starts again, with the next incarnation, knowing nothing
    ("lose", pipe)        a connection breaks: see `trunkline.sim.network` for what may get lost
    ("cut", a, b)         the link between two sites is cut: what goes over it breaks, and dials fail
    ("heal", a, b)        it is whole again
    ("early",)            time moves to the next deadline although messages are under way: the network is slow

Nothing is lost inside a connection that lives; the operating system's TCP sees to that.
"""

from itertools import combinations
from typing import TYPE_CHECKING, Any

from trunkline.sim.network import MACHINE

if TYPE_CHECKING:
    from trunkline.sim.world import World

COUNTED = frozenset(("crash", "lose", "cut", "early"))
"""Faults that use up a world's number of them; a restart and a healing follow from one."""


def possible(world: "World") -> list[tuple[Any, ...]]:
    """Return the faults that may happen here, by what the world's spec allows and has left."""
    found: list[tuple[Any, ...]] = []
    spec = world.spec
    if spec.restart:
        found += [
            ("restart", site) for site in range(spec.servers) if not world.is_up(site) and world.incarnations[site] == 1
        ]
    if world.left <= 0:
        return found
    if "crash" in spec.kinds:
        found += [("crash", site) for site in range(len(world.states)) if world.is_up(site)]
    if "lose" in spec.kinds:
        for name in sorted(world.net.pipes):
            pipe = world.net.pipes[name]
            mate = world.net.pipes.get(name ^ 1)
            if pipe.broken or pipe.reader != MACHINE:
                continue
            if name % 2 == 0 or mate is None or mate.reader != MACHINE:
                found.append(("lose", name))
    if "cut" in spec.kinds:
        for one, other in combinations(range(spec.servers), 2):
            if not world.net.is_cut(one, other):
                found.append(("cut", one, other))
    if "early" in spec.kinds and world.next_deadline() is not None and world.steps():
        found.append(("early",))
    return found


def apply(world: "World", action: tuple[Any, ...]) -> None:
    """Let a fault happen.

    Raises:
        KeyError, AssertionError: it can't happen here.
    """
    if action[0] in COUNTED:
        world.left -= 1
        world.calm_since = world.now
    match action[0]:
        case "crash":
            site = action[1]
            assert world.is_up(site), f"site {site} is down already"
            world.note_gone(site)
            world.tell_news(world.net.crash(site))
            world.states[site] = None
        case "restart":
            world.calm_since = world.now
            world.begin(action[1])
        case "lose":
            pipe = world.net.pipes[action[1]]
            assert not pipe.broken, "it is broken already"
            if pipe.peer:
                world.add_fact(("lost", action[1] // 2))
            world.tell_news(world.net.lose(action[1]))
        case "cut":
            world.tell_news(world.net.cut(action[1], action[2]))
        case "heal":
            world.calm_since = world.now
            world.net.heal(action[1], action[2])
        case "early":
            deadline = world.next_deadline()
            assert deadline is not None, "no deadline to jump to"
            world.now = max(world.now, deadline)
        case _:
            raise AssertionError(f"unknown action {action}")
