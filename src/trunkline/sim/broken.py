"""Deliberately broken rules."""


BROKEN: dict[str, object] = {}
