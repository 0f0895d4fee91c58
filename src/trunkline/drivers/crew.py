"""Which thread turns the machine: leader, followers and helper of the blocking driver.

Leader and followers: of the threads that wait for something, one leads. It sleeps on the sockets, feeds the machine,
and hands out results until its own is there; then it wakes a follower to lead on. A follower sleeps on a lock of its
own, until its result is there or it must lead. With one thread there is nobody to wake and nothing to hand over.

The helper: while nobody waits, the machine must go on (heartbeats, renewals, the handshakes of a post whose owner
computes), so one thread watches, but stays out of the way of callers who come and go. It naps while they are active,
watches the sockets itself once they have been quiet for GRACE, and sleeps for good while a leader waits. It ends when
nothing is open.

One lock, `Crew.turn`, guards everything here, in the reactor, and in the books of `client_blocking`. All methods are
called under it. It is never held while waiting.
"""

import logging
import threading
from _thread import LockType, allocate_lock
from collections.abc import Callable
from typing import Final

from trunkline.drivers.clock import now as clock
from trunkline.drivers.interrupts import Turn
from trunkline.drivers.pollers import Ready
from trunkline.drivers.reactor import Reactor
from trunkline.drivers.secure_sockets import SecureConnection
from trunkline.drivers.sockets import Connection
from trunkline.errors import ClosedError, LocalError, TrunklineError
from trunkline.switchboard.events import ClientEvent

GRACE: Final = 0.02
"""Seconds without a caller after which the helper watches the sockets. Shorter, and it competes with callers who are
about to come back; longer, and a client waits longer for a post whose owner computes."""

_NEVER: Final = float("inf")
_log: Final = logging.getLogger("trunkline")


Arrival = Connection | SecureConnection | TrunklineError
"""What `accept` returns, or raises once: that the authority can't be believed, say."""


class Waiter:
    """One thread that waits for one thing."""

    __slots__ = ("conn", "done", "error", "gate", "value")

    def __init__(self) -> None:
        self.done = False
        self.gate: LockType | None = None
        self.conn: Connection | SecureConnection | None = None
        self.value: object = None
        self.error: Exception | None = None

    def give(self, arrival: Arrival) -> None:
        """Say what the thread is to return, or to raise."""
        if isinstance(arrival, TrunklineError):
            self.error = arrival
        else:
            self.conn = arrival

    def wake(self) -> None:
        """Let the thread look again, if it sleeps."""
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.release()


class Crew:
    """The threads around one reactor.

    Args:
        cut_off: called with the error when a turn of the machine failed: nothing that was wanted will come.
    """

    def __init__(self, cut_off: Callable[[ClosedError], None]) -> None:
        self.turn = Turn()
        self.reactor: Reactor | None = None
        """What is turned; None while nothing is open."""
        self._cut_off = cut_off
        self._leader: Waiter | None = None
        self._leader_sleeps = False
        self._followers: dict[Waiter, None] = {}
        self._owed: list[ClientEvent] = []
        self._wake_at = 0.0
        self._turns = 0
        self._helper: threading.Thread | None = None
        self._nap = allocate_lock()
        self._nap.acquire()
        self._helper_sleeps = False
        self._watching = False

    # ---- what the books need -----------------------------------------------------------------------------------

    def wait(self, waiter: Waiter, deadline: float | None) -> None:
        """Wait until ``waiter`` is done or ``deadline`` has come. Another thread may do what there is to do."""
        try:
            while not waiter.done:
                if self._leader is None:
                    self._lead(waiter, deadline)
                    return
                if deadline is not None and clock() >= deadline:
                    return
                self._follow(waiter, deadline)
        finally:
            if self._leader is None:
                self._pass_on()

    def feed(self, event: ClientEvent) -> None:
        """Feed an event of a caller who is about to wait."""
        assert self.reactor is not None, "the caller has opened it"
        self._guard(self.reactor.step, event)

    def tell(self, event: ClientEvent) -> None:
        """Feed an event that nobody waits for."""
        reactor = self.reactor
        if reactor is not None:
            self._guard(reactor.step, event)
            self._mind_deadline()
            if self._leader is None:
                self._pass_on()

    def finish(self, waiter: Waiter) -> None:
        """Say that what ``waiter`` waits for is there."""
        waiter.done = True
        waiter.wake()
        if waiter is self._leader and self._leader_sleeps and self.reactor is not None:
            self.reactor.pollers.ring()  # another thread has done this

    def report(self, event: ClientEvent, waiter: Waiter) -> None:
        """Feed what follows from an outcome, from inside of it; if ``waiter`` leads, when somebody waits again.

        The leader is about to return to somebody who waits for it: the books can be kept later.
        """
        assert self.reactor is not None, "it has just had an outcome"
        (self._owed if waiter is self._leader else self.reactor.events).append(event)

    def dismiss(self) -> threading.Thread | None:
        """Let the reactor go, and return the helper, which is about to end."""
        reactor, self.reactor = self.reactor, None
        self._owed.clear()
        if reactor is not None:
            try:
                reactor.say_goodbye()
            finally:
                reactor.abandon()
        helper = self._helper
        self._wake_helper()
        return helper

    def forked(self) -> None:
        """In the child of a fork: the sockets are the parent's, and its threads are not here."""
        if self.reactor is not None:
            self.reactor.pollers.forked()
            self.reactor.abandon()

    # ---- leader and followers ------------------------------------------------------------------------------------

    def _lead(self, waiter: Waiter, deadline: float | None) -> None:
        self._leader = waiter
        self._turns += 1
        try:
            while not waiter.done:
                reactor = self.reactor
                assert reactor is not None, "when it goes, every waiter is done"
                if self._owed:
                    self._guard(self._pay, reactor)
                now = clock()
                due = reactor.next_deadline()
                if due is not None and due <= now:
                    self._guard(reactor.tick, now)
                    continue
                if deadline is not None:
                    if deadline <= now:
                        return
                    due = deadline if due is None else min(due, deadline)
                self._wake_at = _NEVER if due is None else due
                self._leader_sleeps = True
                try:
                    ready = self._sleep(reactor, reactor.pollers.wait, None if due is None else due - now)
                finally:
                    self._leader_sleeps = False
                if ready:
                    self._guard(reactor.handle, ready)
        finally:
            self._leader = None

    def _sleep(self, reactor: Reactor, wait: Callable[[float | None], Ready], timeout: float | None) -> Ready | None:
        """Wait without the lock. Return None if the reactor was closed meanwhile."""
        turn = self.turn
        reactor.pollers.enter()
        try:
            turn.open()
            ready = wait(timeout)
        finally:
            turn.shut()
            reactor.pollers.leave()
        return ready if self.reactor is reactor else None

    def _follow(self, waiter: Waiter, deadline: float | None) -> None:
        gate = waiter.gate = allocate_lock()
        gate.acquire()
        self._followers[waiter] = None
        if self.reactor is not None:
            self._mind_deadline()
        try:
            self.turn.open()
            gate.acquire(True, -1 if deadline is None else max(0.0, deadline - clock()))
        finally:
            self.turn.shut()
            waiter.gate = None
            self._followers.pop(waiter, None)

    def _pass_on(self) -> None:
        """With no leader: wake a follower, or see to it that the helper takes over."""
        if self._followers:
            # The one that came last: its stack is the warmest.
            follower, _ = self._followers.popitem()
            follower.wake()
        elif self._helper is None:
            if self.reactor is not None:
                self._helper = threading.Thread(target=self._help, name="trunkline-helper", daemon=True)
                try:
                    self._helper.start()
                except RuntimeError:  # the interpreter ends, and closes us soon
                    self._helper = None
        elif self._helper_sleeps:
            self._wake_helper()

    def _mind_deadline(self) -> None:
        """Wake whoever sleeps on the sockets if something is due before it wakes by itself."""
        reactor = self.reactor
        if reactor is not None and (self._leader is not None or self._watching):
            due = reactor.next_deadline()
            if due is not None and due < self._wake_at:
                self._wake_at = due
                reactor.pollers.ring()

    def _pay(self, reactor: Reactor) -> None:
        reactor.events.extend(self._owed)
        self._owed.clear()
        reactor.run()

    def _guard(self, action: Callable[..., None], argument: object) -> None:
        """Run a step of the machine. Whatever escapes from it leaves it in no state to go on from.

        That is a fault of ours, or what the program's own signal handler raised. The links are cut, which takes this
        process's requests off every server's table, and the next call starts afresh.
        """
        try:
            action(argument)
        except LocalError:
            raise  # the caller's mistake: nothing has changed
        except BaseException as error:
            reactor, self.reactor = self.reactor, None
            if reactor is not None:
                reactor.abandon()
            end = ClosedError(f"the switchboard was cut off in the middle of its work by {error!r}")
            end.__cause__ = error
            self._owed.clear()
            self._cut_off(end)
            raise

    # ---- the helper ------------------------------------------------------------------------------------------------

    def _help(self) -> None:
        seen = -1
        while True:
            with self.turn:
                reactor = self.reactor
                if reactor is None or not reactor.busy:
                    self._helper = None
                    return
                active, seen = self._turns != seen, self._turns
                nap: float | None = GRACE
                if not active and self._leader is None:
                    try:
                        self._watch(reactor)
                    except Exception:  # noqa: BLE001 - logged
                        # Those who wait have been told; this thread has nobody else to tell.
                        _log.exception("the switchboard was cut off")
                    continue
                if not active:
                    nap = None
                    self._helper_sleeps = True
            self._nap.acquire(True, -1 if nap is None else nap)

    def _watch(self, reactor: Reactor) -> None:
        if self._owed:
            self._guard(self._pay, reactor)
        now = clock()
        due = reactor.next_deadline()
        if due is None or due > now:
            self._watching = True
            self._wake_at = _NEVER if due is None else due
            reactor.pollers.keep_all()
            try:
                ready = self._sleep(reactor, reactor.pollers.wait_aside, None if due is None else due - now)
            finally:
                self._watching = False
            if self._leader is not None:
                return  # the sockets are its affair
            if ready:
                self._guard(reactor.handle, ready)
        elif due is not None:
            self._guard(reactor.tick, now)

    def _wake_helper(self) -> None:
        self._turns += 1  # the caller may be back at once: nap first
        self._helper_sleeps = False
        if self._nap.locked():
            self._nap.release()
