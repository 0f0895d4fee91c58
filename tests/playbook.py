"""Tests as scripts: ``play >> event << effect << effect >> event …``, failing with a diff of the two.

After each event the machine is replaced by a fresh one that is restored from its snapshot, so every script also tests
that a snapshot holds the whole state. `Log` effects need not be written down.
"""

import difflib
import pprint
from collections.abc import Callable
from typing import Any, Self

from trunkline.switchboard.events import Log, Tick


class Wait:
    """Let time pass; the machine is told of each deadline on the way."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __repr__(self) -> str:
        return f"Wait({self.seconds})"


class Error:
    """Equal to any error of this class whose text has these parts."""

    def __init__(self, kind: type[Exception], *parts: str) -> None:
        self.kind = kind
        self.parts = parts

    def __eq__(self, other: object) -> bool:
        return type(other) is self.kind and all(part in str(other) for part in self.parts)

    def __hash__(self) -> int:
        return hash(self.kind)

    def __repr__(self) -> str:
        return f"Error({self.kind.__name__}, {', '.join(map(repr, self.parts))})"


class Playbook:
    """One script. ``make`` makes a new machine; the fixture that makes this calls `end`."""

    def __init__(self, make: Callable[[], Any], now: float = 0.0) -> None:
        self._make = make
        self.machine = make()
        self.now = now
        self._told: list[str] = []
        self._event = "the beginning"
        self._effects: list[Any] = []
        self._expected: list[Any] = []
        self.logs: list[str] = []

    def __rshift__(self, event: Any) -> Self:
        self.end()
        self._event = f">> {event!r}"
        if isinstance(event, Wait):
            end = self.now + event.seconds
            while (when := self.machine.next_deadline()) is not None and when <= end:
                assert when > self.now or event.seconds == 0, "a deadline that doesn't move on"
                self.now = max(self.now, when)
                self._step(Tick())
                if event.seconds == 0:
                    break
            self.now = end
        else:
            self._step(event)
        return self

    def __lshift__(self, effect: Any) -> Self:
        self._expected.append(effect)
        return self

    def end(self) -> None:
        """Compare what the last event did with the script."""
        expected, effects = self._expected, self._effects
        self._expected, self._effects = [], []
        if expected != effects:
            wanted = [line for effect in expected for line in pprint.pformat(effect, width=110).splitlines()]
            got = [line for effect in effects for line in pprint.pformat(effect, width=110).splitlines()]
            diff = "\n".join(difflib.unified_diff(wanted, got, "the script", "what happened", lineterm="", n=99))
            raise AssertionError("\n".join([*self._told, self._event, diff]))
        self._told += [self._event, *(f"   << {effect!r}" for effect in effects)]

    def _step(self, event: Any) -> None:
        for effect in self.machine.step(event, self.now):
            if isinstance(effect, Log):
                self.logs.append(f"{effect.what}: {effect.about}")
            else:
                self._effects.append(effect)
        snapshot = self.machine.snapshot()
        hash(snapshot)
        self.machine = self._make()
        self.machine.restore(snapshot)
        assert self.machine.snapshot() == snapshot, "a restored machine differs"
