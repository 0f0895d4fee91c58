"""Turns a machine of the Server shape in asyncio: events in, effects carried out, one timer."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from trunkline.drivers.clock import now

EventT = TypeVar("EventT")
EventT_contra = TypeVar("EventT_contra", contravariant=True)
EffectT = TypeVar("EffectT")
EffectT_co = TypeVar("EffectT_co", covariant=True)


class Machine(Protocol[EventT_contra, EffectT_co]):
    """The Server shape."""

    def step(self, event: EventT_contra, now: float) -> Sequence[EffectT_co]: ...

    def next_deadline(self) -> float | None: ...


class Runner(Generic[EventT, EffectT]):
    """Feeds one machine and minds its clock.

    Args:
        loop: the running loop.
        machine: what is run.
        carry_out: carries one effect out. What that brings about is fed by `step` as well, and waits its turn.
        settle: called when everything is carried out: writes what is to be written.
        tick: the event that says that a deadline has come.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        machine: Machine[EventT, EffectT],
        *,
        carry_out: Callable[[EffectT], None],
        settle: Callable[[], None],
        tick: EventT,
    ) -> None:
        self._loop = loop
        self._machine = machine
        self._carry_out = carry_out
        self._settle = settle
        self._tick = tick
        self._events: deque[EventT] = deque()
        self._busy = False
        self._stopped = False
        self._timer: asyncio.TimerHandle | None = None
        self._set_for = math.inf
        """The deadline, by the machine's clock, that the timer was set for."""

    def step(self, event: EventT) -> None:
        """Feed an event. If one is being dealt with, this one comes after it."""
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                for effect in self._machine.step(self._events.popleft(), now()):
                    self._carry_out(effect)
        finally:
            self._busy = False
        self._settle()
        self._set_timer()

    def stop(self) -> None:
        """Set no more timers."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        # One that goes off too early does no harm: it looks again. So it is set anew only to make it earlier.
        deadline = self._machine.next_deadline()
        if deadline is None or deadline >= self._set_for or self._stopped:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._set_for = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - now()), self._look)

    def _look(self) -> None:
        self._timer = None
        self._set_for = math.inf
        deadline = self._machine.next_deadline()
        if deadline is not None and deadline <= now():
            self.step(self._tick)
        else:
            self._set_timer()
