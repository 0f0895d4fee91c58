"""A world with its own clock and network, in which the pure machines run (docs/spec/switchboard.md section 12).

`explore` tries every order of deliveries in a small world, with a fault at every point; `explore_any` does in a realm
or a secure meeting too; `run_random` runs a large one from a seed; `replay` runs a recording again; `count_messages`
counts what a connection costs.
"""

from trunkline.sim.broken import BROKEN, BrokenRule
from trunkline.sim.budget import count_messages
from trunkline.sim.catalogue import ABOUT, explore_any
from trunkline.sim.explore import explore, explore_many
from trunkline.sim.plan import LARGE, SMALL, Size
from trunkline.sim.randomworld import run_random
from trunkline.sim.replay import replay, shrink
from trunkline.sim.report import Failure, Recording, Report
from trunkline.sim.worlds import WORLDS, Spec

__all__ = [
    "ABOUT",
    "BROKEN",
    "LARGE",
    "SMALL",
    "WORLDS",
    "BrokenRule",
    "Failure",
    "Recording",
    "Report",
    "Size",
    "Spec",
    "count_messages",
    "explore",
    "explore_any",
    "explore_many",
    "replay",
    "run_random",
    "shrink",
]
