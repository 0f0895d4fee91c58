"""Keeps a membership's head and certificate up to date, in a thread that lives while there is something to ask.

`trunkline.authority.keeper.Keeper` decides what is due and when; here it is done. The thread is a daemon, and every
question in it has a deadline. Who waits for it sleeps on `Renewals.changed`, or leaves a callback there.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, assert_never

from trunkline.authority.keeper import (
    CertificateCame,
    Failed,
    FetchHead,
    HeadCame,
    Hurry,
    Keeper,
    KeeperEvent,
    Renew,
    Tick,
    Warn,
)
from trunkline.drivers.clock import now as clock
from trunkline.errors import ClosedError, TrunklineError

CLOSING: Final = 2.0
"""Seconds that closing waits for the thread, whose connection is shut by then; only a resolver can take longer."""

SHARED: Final = 1.0
"""Seconds for which an attempt that has begun is that of whoever comes to wait for it. One that began earlier may have
been doomed since: by a machine that slept, or a network that was not there."""

_log: Final = logging.getLogger("trunkline")


class Renewals:
    """Runs the tasks of one keeper.

    Args:
        keeper: decides.
        fetch_head: does it, and returns what came of it; raises TrunklineError.
        renew: likewise.
    """

    def __init__(
        self, keeper: Keeper, fetch_head: Callable[[], HeadCame], renew: Callable[[], CertificateCame]
    ) -> None:
        self._keeper = keeper
        self._fetch_head = fetch_head
        self._renew = renew
        self.changed: Final = threading.Condition()
        """Notified after each task."""
        self._callbacks: set[Callable[[], None]] = set()
        self._jobs: deque[FetchHead | Renew] = deque()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._closed = False
        self.attempts: Final = {FetchHead: 0, Renew: 0}
        """How many of each are over."""
        self.began: Final[dict[type[FetchHead | Renew], float]] = {}
        """When the one that is under way began, by the drivers' clock."""
        self.failures: Final[dict[type[FetchHead | Renew], TrunklineError | None]] = {FetchHead: None, Renew: None}
        """What the last one of each failed with; None if it did not."""
        self.due = clock()
        """When `step` with `Tick` has something to do, by the drivers' clock; read without the lock."""

    def step(self, event: KeeperEvent) -> None:
        """Tell the keeper, and start what it wants done. Returns at once."""
        with self.changed:
            if self._closed:
                return
            for effect in self._keeper.step(event, clock()):
                match effect:
                    case Warn():
                        _log.warning("%s", effect.text)
                    case FetchHead() | Renew():
                        self._jobs.append(effect)
                    case _:
                        assert_never(effect)
            deadline = self._keeper.next_deadline()
            self.due = float("inf") if deadline is None else deadline
            if self._jobs and self._thread is None:
                self._thread = threading.Thread(target=self._work, name="trunkline-renewals", daemon=True)
                self._thread.start()

    def tick(self) -> None:
        """Start what is due. Costs nothing if that is nothing."""
        if clock() >= self.due:
            self.step(Tick())

    def hurry(self, *, head: bool = False, certificate: bool = False) -> None:
        """Ask sooner than is due: somebody waits."""
        self.step(Hurry(head, certificate))

    def listen(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after each task, in the thread of the tasks, until `unlisten`."""
        with self.changed:
            self._callbacks.add(callback)

    def unlisten(self, callback: Callable[[], None]) -> None:
        """Undo `listen`."""
        with self.changed:
            self._callbacks.discard(callback)

    def close(self) -> None:
        """Start nothing more, and wait for the thread. What it waits for must have been shut before."""
        with self.changed:
            self._closed = True
            self._jobs.clear()
            thread = self._thread
            self._tell()
        if thread is not None and thread is not threading.current_thread() and os.getpid() == self._process:
            thread.join(CLOSING)

    def _tell(self) -> None:
        self.changed.notify_all()
        for callback in tuple(self._callbacks):
            callback()

    def _work(self) -> None:
        while True:
            with self.changed:
                if self._closed or not self._jobs:
                    self._thread = None
                    return
                job = self._jobs.popleft()
                self.began[type(job)] = clock()
            came: KeeperEvent
            failure: TrunklineError | None = None
            try:
                came = self._fetch_head() if isinstance(job, FetchHead) else self._renew()
            except TrunklineError as error:
                failure, came = error, Failed(isinstance(job, Renew), str(error))
            except Exception as error:  # noqa: BLE001 - a mistake of ours; who waits is told all the same
                _log.exception("the membership can't be kept up to date")
                failure = ClosedError(f"the membership can't be kept up to date: {type(error).__name__}: {error}")
                came = Failed(isinstance(job, Renew), str(failure))
            with self.changed:
                del self.began[type(job)]
                self.attempts[type(job)] += 1
                self.failures[type(job)] = failure
                self.step(came)
                self._tell()


class Since:
    """Which tasks have ended since somebody began to wait, but for those that had long begun by then."""

    def __init__(self, renewals: Renewals) -> None:
        self._renewals = renewals
        with renewals.changed:
            self._before = dict(renewals.attempts)
            for kind, began in renewals.began.items():
                self._before[kind] += clock() - began > SHARED

    def over(self, kind: type[FetchHead | Renew]) -> bool:
        """Say whether one of that kind has."""
        return self._renewals.attempts[kind] > self._before[kind]
