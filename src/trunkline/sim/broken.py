"""Deliberately broken rules."""

from trunkline.sim.engine import Cast

BROKEN: dict[str, object] = {}
