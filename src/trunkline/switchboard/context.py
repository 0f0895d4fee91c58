"""What the parts of the client's machine share: settings, timers, randomness, and the effects of the present step."""

from enum import IntEnum
from typing import Any, Final

from trunkline.names import Draw
from trunkline.switchboard.config import ClientConfig
from trunkline.switchboard.events import ClientEffect
from trunkline.switchboard.timers import Timers


class Timer(IntEnum):
    """The kinds of timers; what each is about."""

    FINDER = 1
    """Nothing: there is one."""
    ELSEWHERE = 2
    """Nothing: there is one."""
    UPLINK = 3
    """A server connection: its attempt is given up, or its heartbeat is due."""
    DEADLINE = 4
    """A request (rid): explain, then give up."""
    REQUEST = 5
    """A request (rid): its pause is over, or its patience."""
    SETTLE = 6
    """A post (rid): report what is settled."""
    MATCH = 7
    """A rendezvous (rid + match): dial on, or let it lapse."""
    STRANGER = 8
    """An inbound connection: it was silent or unknown for too long."""
    QUESTION = 9
    """A question (its number): no answer came."""


# On every meeting's way, so as plain numbers: looking a member up on its class takes longer than the rest.
DEADLINE: Final = int(Timer.DEADLINE)
REQUEST: Final = int(Timer.REQUEST)
MATCH: Final = int(Timer.MATCH)


class Context:
    """Handed to each part when it is made. The parts append to ``out`` and never call each other."""

    __slots__ = ("_conns", "config", "draw", "out", "timers")

    def __init__(self, config: ClientConfig, seed: bytes) -> None:
        self.config = config
        self.draw = Draw(seed)
        self.timers = Timers()
        self.out: list[ClientEffect] = []
        """The effects of the step that is being made."""
        self._conns = 0

    def new_conn(self) -> int:
        """Return a number for a connection that is to be opened."""
        self._conns += 1
        return self._conns

    def snapshot(self) -> tuple[Any, ...]:
        """Return the whole state, between two steps."""
        return (self._conns, self.draw.count, self.timers.snapshot())

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Become what `snapshot` was taken of."""
        self._conns, self.draw.count, timers = snapshot
        self.timers.restore(timers)
        self.out = []
