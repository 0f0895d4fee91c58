"""When a member asks for a newer head and for a new certificate (docs/spec/authority.md section 8).

A head is due when a third of `max_staleness` has passed since it was signed, a certificate when two thirds of its life
have, a little earlier or later so that a thousand processes started together don't ask together. After a failure it is
asked again after a pause that grows. ``now`` is a clock that goes on while the machine sleeps: whoever wakes finds all
that is due at the first look.
"""

from dataclasses import dataclass
from typing import Final

from trunkline.authority.freshness import TrustSettings
from trunkline.names import Draw

FIRST_PAUSE: Final = 1.0
"""Seconds after a first failure; each further one doubles them."""

LONGEST_PAUSE: Final = 60.0
SOON: Final = 1.0
"""Least seconds between two questions, whoever is in a hurry."""

RENEW_AT: Final = 2 / 3
"""Of a certificate's life."""

JITTER: Final = 0.1
"""Of the time until something is due."""

_NEVER: Final = float("inf")


# ---- events ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Hurry:
    """Somebody waits for what is missing, or a peer knows more than we do: a pause after a failure is cut short."""

    head: bool = False
    """Whether a newer head is wanted even if none is due."""
    certificate: bool = False


@dataclass(frozen=True, slots=True)
class HeadCame:
    """A head was taken in; ``time``: when it was signed, ``wall``: what our clock shows, in seconds since 1970."""

    time: float
    wall: float


@dataclass(frozen=True, slots=True)
class CertificateCame:
    """A certificate was taken in, or one from disk. All in seconds since 1970."""

    not_before: float
    not_after: float
    wall: float


@dataclass(frozen=True, slots=True)
class Failed:
    """A question was not answered, or not well. ``text``: why."""

    certificate: bool
    text: str


KeeperEvent = Tick | Hurry | HeadCame | CertificateCame | Failed


# ---- effects ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FetchHead:
    """Ask for the head; say `HeadCame` or `Failed`."""


@dataclass(frozen=True, slots=True)
class Renew:
    """Make a new TLS key and have it certified; say `CertificateCame` or `Failed`."""


@dataclass(frozen=True, slots=True)
class Warn:
    """Tell people, once."""

    text: str


KeeperEffect = FetchHead | Renew | Warn


class _Task:
    """One of the two things that are kept up to date."""

    __slots__ = ("asked", "due", "failures", "running", "warned")

    def __init__(self, due: float) -> None:
        self.due = due
        self.asked = -_NEVER
        self.running = False
        self.failures = 0
        self.warned = False


class Keeper:
    """Keeps one member's head and certificate up to date; of the Server shape.

    Args:
        settings: how fresh heads have to be.
        certificate: whether a certificate is wanted at all.
        seed: 16 random bytes, for the jitter.
        now: seconds, by a clock that never goes back.
    """

    def __init__(self, settings: TrustSettings, *, certificate: bool, seed: bytes, now: float) -> None:
        self._settings = settings
        self._draw = Draw(seed)
        self._head = _Task(now)
        self._certificate = _Task(now if certificate else _NEVER)

    def step(self, event: KeeperEvent, now: float) -> list[KeeperEffect]:
        """Take one event and return what is to be done, in order."""
        effects: list[KeeperEffect] = []
        match event:
            case Tick():
                pass
            case Hurry():
                if event.head:
                    self._hurry(self._head, now)
                if event.certificate:
                    self._hurry(self._certificate, now)
            case HeadCame():
                self.know_head(event.time, event.wall, now)
            case CertificateCame():
                life = event.not_after - event.not_before
                self._done(
                    self._certificate, now + self._jittered(event.not_before + life * RENEW_AT - event.wall), now
                )
            case Failed():
                effects += self._failed(event, now)
        # The head first: what a new certificate is checked against is best known by then.
        if self._start(self._head, now):
            effects.append(FetchHead())
        if self._start(self._certificate, now):
            effects.append(Renew())
        return effects

    def know_head(self, time: float, wall: float, now: float) -> None:
        """Take note of a head that is there, as from another run; starts nothing, unlike `step`.

        Args:
            time: when it was signed, in seconds since 1970.
            wall: the time now, likewise.
            now: by the clock of `step`.
        """
        age = max(0.0, wall - time)
        self._done(self._head, now + self._jittered(self._settings.max_staleness / 3 - age), now)

    def next_deadline(self) -> float | None:
        """Return when `Tick` is due; None while everything that is wanted is being asked for."""
        due = (
            min(task.due for task in (self._head, self._certificate) if not task.running)
            if not (self._head.running and self._certificate.running)
            else _NEVER
        )
        return None if due == _NEVER else due

    def _hurry(self, task: _Task, now: float) -> None:
        task.due = min(task.due, max(now, task.asked + SOON))

    def _done(self, task: _Task, due: float, now: float) -> None:
        task.running, task.failures, task.warned = False, 0, False
        task.due = max(due, now + SOON)

    def _failed(self, event: Failed, now: float) -> list[KeeperEffect]:
        task = self._certificate if event.certificate else self._head
        task.running = False
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(task.failures, 10))
        task.due = now + self._jittered(pause)
        task.failures += 1
        if task.warned:
            return []
        task.warned = True
        what = "the certificate could not be renewed" if event.certificate else "no newer head of the realm was had"
        return [Warn(f"{what}, and is asked for again: {event.text}")]

    def _start(self, task: _Task, now: float) -> bool:
        if task.running or now < task.due:
            return False
        task.running, task.asked = True, now
        return True

    def _jittered(self, seconds: float) -> float:
        return max(0.0, seconds) * (1 - JITTER * self._draw.fraction())
