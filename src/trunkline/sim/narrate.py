"""A run as a playbook: who was told what, and what it did, one line each."""

from collections.abc import Callable
from typing import Any

import msgspec

from trunkline.sim.world import World

SKIPPED = frozenset(("candidates", "token", "secret", "claim", "software", "remote", "udp_port"))
"""Fields that say nothing to a reader."""


def show(value: Any) -> str:
    """Return an event, effect or message in few characters. Requests are shown as ``client.start.place``."""
    if isinstance(value, msgspec.Struct):
        fields = [
            f"{name}={show(item)}"
            for name in value.__struct_fields__
            if name not in SKIPPED and (item := getattr(value, name)) not in (None, False, "", b"", ())
        ]
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, bytes):
        if len(value) == 16:
            return f"{value[0]}.{value[1]}.{value[2]}"
        return value.hex()[:6] if len(value) == 8 else str(value[:8])
    if isinstance(value, tuple):
        return "[" + ", ".join(show(item) for item in value) + "]"
    return str(value)


def attach(world: World, write: Callable[[str], None]) -> None:
    """Let ``write`` have a line for each step that the machines of this world make from now on."""

    def on_step(machine: Any, event: Any, effects: Any) -> None:
        config = machine.config if hasattr(machine, "config") else None
        name = getattr(config, "id", "")
        if not name:
            name = next((f"client{i}" for i, state in enumerate(world.states) if state is machine), "client")
        quiet = type(getattr(event, "message", event)).__name__ in ("Alive", "MateAlive", "Tick")
        lines = [show(effect) for effect in effects if type(effect).__name__ not in ("Log", "Remember")]
        if not (quiet and not lines):
            write(f"{world.now:9.3f} {name} << {show(event)}")
        for line in lines:
            write(f"{'':9} {name} >> {line}")

    world.engine.on_step = on_step
