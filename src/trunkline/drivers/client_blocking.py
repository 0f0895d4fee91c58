"""The blocking driver: one client machine per configuration, turned in the threads of its callers.

Leader and followers: of the threads that wait for something, one leads. It sleeps on the sockets, feeds the machine,
and hands out results until its own is there; then it wakes a follower to lead on. A follower sleeps on a lock of its
own, until its result is there or it must lead. With one thread there is nobody to wake and nothing to hand over.

The helper: while nobody waits, the machine must go on (heartbeats, renewals, the handshakes of a post whose owner
computes), so one thread watches, but stays out of the way of callers who come and go. It naps while they are active,
watches the sockets itself once they have been quiet for GRACE, and sleeps for good while a leader waits. It
ends when nothing is open.

One lock guards everything. It is never held while waiting.
"""

import atexit
import logging
import os
import threading
import weakref
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable
from typing import Final

from trunkline.drivers import interrupts
from trunkline.drivers.clock import now as clock
from trunkline.drivers.interrupts import Turn
from trunkline.drivers.pollers import Ready
from trunkline.drivers.reactor import Outcome, Reactor
from trunkline.drivers.sockets import Connection, Listeners
from trunkline.errors import ClosedError, LocalError, MeetTimeout
from trunkline.names import Address, Secret
from trunkline.switchboard.config import ClientConfig
from trunkline.switchboard.events import (
    Accepted,
    Announced,
    Answered,
    Asked,
    Cancelled,
    ClientEvent,
    Delivered,
    Failed,
    Log,
    MeetWanted,
    PostStands,
    PostWanted,
    Remember,
)
from trunkline.wire.codec import encode_candidates
from trunkline.wire.messages import AnyMessage

GRACE: Final = 0.02
"""Seconds without a caller after which the helper watches the sockets. Shorter, and it competes with callers who are
about to come back; longer, and a client waits longer for a post whose owner computes."""

_log: Final = logging.getLogger("trunkline")


class Waiter:
    """One thread that waits for one thing."""

    __slots__ = ("conn", "done", "error", "gate", "value")

    def __init__(self) -> None:
        self.done = False
        self.gate: LockType | None = None
        self.conn: Connection | None = None
        self.value: object = None
        self.error: Exception | None = None

    def wake(self) -> None:
        """Let the thread look again, if it sleeps."""
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.release()


class Offer:
    """A post as the driver keeps it: what was delivered, and who waits for it."""

    __slots__ = ("acceptors", "bell", "error", "generation", "name", "ready", "rid", "secret", "standing")

    def __init__(self, rid: bytes, name: str, secret: Secret | None) -> None:
        self.rid = rid
        self.name = name
        self.secret = secret
        self.generation = 0
        self.standing: Waiter | None = Waiter()
        self.ready: deque[tuple[Connection, bool]] = deque()
        """Connections that nobody has taken yet, and whether the machine was told that they are taken."""
        self.acceptors: deque[Waiter] = deque()
        self.error: Exception | None = None
        self.bell = -1


class BlockingClient:
    """Meets, posts and questions of any number of threads.

    Args:
        configure: returns the machine's settings, and the addresses to offer to peers on other hosts instead of what
            the kernel says; called each time that the machine starts.
        remember: called with the servers to look for at the next start.
    """

    def __init__(
        self,
        configure: Callable[[], tuple[ClientConfig, tuple[str, ...] | None]],
        remember: Callable[[tuple[Address, ...]], None],
    ) -> None:
        self._configure = configure
        self._remember = remember
        self._start_afresh()
        _everyone.add(self)

    def _start_afresh(self) -> None:
        self._turn = Turn()
        self._reactor: Reactor | None = None
        self._stream_at = self._datagram_at = b""
        self._meets: dict[bytes, Waiter] = {}
        self._offers: dict[bytes, Offer] = {}
        self._questions: dict[int, Waiter] = {}
        self._query = 0
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

    # ---- what callers ask for ----------------------------------------------------------------------------------

    def meet(self, me: str, you: str, timeout: float | None, *, datagram: bool = False) -> Connection:
        """Return the connection to the process that meets us.

        Raises:
            MeetTimeout, NoSwitchboard, InvalidName, TooMany: see `trunkline.meet`.
        """
        rid = os.urandom(16)
        waiter = Waiter()
        try:
            with self._turn:
                reactor = self._reactor or self._open()
                self._meets[rid] = waiter
                at = self._datagram_at if datagram else self._stream_at
                deadline = None if timeout is None else clock() + timeout
                try:
                    self._guard(reactor.step, MeetWanted(rid, me, you, at, deadline, datagram))
                    self._wait(waiter, None)
                except BaseException:
                    if self._meets.pop(rid, None) is not None:
                        self._tell(Cancelled(rid))
                    raise
        except BaseException:
            if waiter.conn is not None:
                waiter.conn.close()  # made, but interrupted on the way out: the peer reads EOF
            raise
        if waiter.error is not None:
            if isinstance(waiter.error, MeetTimeout) and timeout is not None:
                waiter.error.seconds = timeout  # as it was asked for; the machine knows only the moment
            raise waiter.error
        assert waiter.conn is not None, "a meet that is done has a connection or an error"
        return waiter.conn

    def post(self, name: str, *, unique: bool, secret: Secret | None, backlog: int, datagram: bool = False) -> Offer:
        """Return a post that stands.

        Raises:
            NoSwitchboard, NameTaken, InvalidName, TooMany: see `trunkline.post`.
        """
        rid = os.urandom(16)
        offer = Offer(rid, name, secret)
        standing = offer.standing
        assert standing is not None, "it was just made"
        try:
            with self._turn:
                reactor = self._reactor or self._open()
                self._offers[rid] = offer
                at = self._datagram_at if datagram else self._stream_at
                self._guard(reactor.step, PostWanted(rid, name, at, datagram, unique, secret, backlog))
                self._wait(standing, None)
        except BaseException:
            self.close_post(offer)
            raise
        if offer.error is not None:
            raise offer.error
        return offer

    def accept(self, offer: Offer, timeout: float | None) -> Connection:
        """Return the next connection of ``offer``.

        Raises:
            MeetTimeout: nobody came within ``timeout`` seconds.
            Displaced, NoSwitchboard, ClosedError: the post is over.
        """
        waiter = Waiter()
        try:
            with self._turn:
                if offer.ready:
                    self._take(offer, waiter)
                elif offer.error is not None:
                    waiter.error = offer.error
                else:
                    offer.acceptors.append(waiter)
                    try:
                        self._wait(waiter, None if timeout is None else clock() + timeout)
                    finally:
                        if not waiter.done:
                            offer.acceptors.remove(waiter)
        except BaseException:
            if waiter.conn is not None:
                self._put_back(offer, waiter.conn)
            raise
        if waiter.error is not None:
            raise waiter.error
        if waiter.conn is None:
            raise MeetTimeout(offer.name, "", timeout or 0.0)
        return waiter.conn

    def _take(self, offer: Offer, waiter: Waiter) -> None:
        waiter.conn, told = offer.ready.popleft()
        if not offer.ready and offer.bell >= 0 and offer.error is None:
            os.eventfd_read(offer.bell)
        if not told and offer.error is None:
            self._tell(Accepted(offer.rid))

    def _put_back(self, offer: Offer, conn: Connection) -> None:
        # Its owner was interrupted on the way out, and may accept again.
        with self._turn:
            offer.ready.appendleft((conn, True))
            if offer.bell >= 0 and len(offer.ready) == 1:
                os.eventfd_write(offer.bell, 1)

    def bell(self, offer: Offer) -> int:
        """Return the descriptor that is readable while `accept` would return at once."""
        with self._turn:
            if offer.bell < 0:
                if offer.error is not None:
                    raise offer.error
                waiting = 1 if offer.ready else 0
                offer.bell = os.eventfd(waiting, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            return offer.bell

    def close_post(self, offer: Offer) -> None:
        """Take the post back; connections that nobody accepted are closed."""
        with self._turn:
            if self._offers.pop(offer.rid, None) is not None:
                self._tell(Cancelled(offer.rid))
            self._end_offer(offer, ClosedError(f"the post {offer.name!r} is closed"))

    def ask(self, question: Callable[[int], AnyMessage], timeout: float | None) -> AnyMessage:
        """Ask a server and return its answer; ``question`` makes the message from the number given to it.

        Raises:
            NoSwitchboard: there is none.
            TrunklineError: what else kept it from being answered.
        """
        waiter = Waiter()
        with self._turn:
            reactor = self._reactor or self._open()
            self._query += 1
            query = self._query
            self._questions[query] = waiter
            try:
                deadline = None if timeout is None else clock() + timeout
                self._guard(reactor.step, Asked(question(query), deadline))
                self._wait(waiter, None)
            finally:
                self._questions.pop(query, None)
        if waiter.error is not None:
            raise waiter.error
        return waiter.value  # type: ignore[return-value]

    def announce(self, payload: bytes) -> None:
        """Broadcast a notice; nothing is said about who got it."""
        with self._turn:
            if self._reactor is None:
                self._open()
            self._tell(Announced(payload))

    def close(self) -> None:
        """Withdraw everything, close everything, and let whoever waits know. A later call starts afresh."""
        with self._turn:
            reactor, self._reactor = self._reactor, None
            if reactor is not None:
                end = ClosedError("the switchboard was closed meanwhile")
                try:
                    reactor.say_goodbye()
                finally:
                    reactor.abandon()
                    self._fail_all(end, keep=False)
            helper = self._helper
            self._wake_helper()
        if helper is not None and helper is not threading.current_thread():
            helper.join()

    # ---- leader and followers; the lock is held ----------------------------------------------------------------

    def _wait(self, waiter: Waiter, deadline: float | None) -> None:
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

    def _lead(self, waiter: Waiter, deadline: float | None) -> None:
        self._leader = waiter
        self._turns += 1
        try:
            while not waiter.done:
                reactor = self._reactor
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
        turn = self._turn
        reactor.pollers.enter()
        try:
            turn.open()
            ready = wait(timeout)
        finally:
            turn.shut()
            reactor.pollers.leave()
        return ready if self._reactor is reactor else None

    def _pay(self, reactor: Reactor) -> None:
        reactor.events.extend(self._owed)
        self._owed.clear()
        reactor.run()

    def _follow(self, waiter: Waiter, deadline: float | None) -> None:
        gate = waiter.gate = allocate_lock()
        gate.acquire()
        self._followers[waiter] = None
        if self._reactor is not None:
            self._mind_deadline()
        try:
            self._turn.open()
            gate.acquire(True, -1 if deadline is None else max(0.0, deadline - clock()))
        finally:
            self._turn.shut()
            waiter.gate = None
            self._followers.pop(waiter, None)

    def _pass_on(self) -> None:
        """With no leader: wake a follower, or see to it that the helper takes over."""
        if self._followers:
            # The one that came last: its stack is the warmest.
            follower, _ = self._followers.popitem()
            follower.wake()
        elif self._helper is None:
            if self._reactor is not None:
                self._helper = threading.Thread(target=self._help, name="trunkline-helper", daemon=True)
                try:
                    self._helper.start()
                except RuntimeError:  # the interpreter ends, and closes us soon
                    self._helper = None
        elif self._helper_sleeps:
            self._wake_helper()

    def _tell(self, event: ClientEvent) -> None:
        """Feed an event that nobody waits for."""
        reactor = self._reactor
        if reactor is not None:
            self._guard(reactor.step, event)
            self._mind_deadline()
            if self._leader is None:
                self._pass_on()

    def _mind_deadline(self) -> None:
        """Wake whoever sleeps on the sockets if something is due before it wakes by itself."""
        reactor = self._reactor
        if reactor is not None and (self._leader is not None or self._watching):
            due = reactor.next_deadline()
            if due is not None and due < self._wake_at:
                self._wake_at = due
                reactor.pollers.ring()

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
            reactor, self._reactor = self._reactor, None
            if reactor is not None:
                reactor.abandon()
            end = ClosedError(f"the switchboard was cut off in the middle of its work by {error!r}")
            end.__cause__ = error
            self._fail_all(end, keep=True)
            raise

    # ---- results; called by the reactor, under the lock -------------------------------------------------------------

    def _outcome(self, effect: Outcome, conn: Connection | None) -> None:
        match effect:
            case Delivered():
                assert conn is not None, "the reactor gives the connection with it"
                self._delivered(effect.rid, conn)
            case Failed():
                self._failed(effect.rid, effect.error)
            case PostStands():
                offer = self._offers.get(effect.rid)
                if offer is not None:
                    offer.generation = effect.generation
                    if offer.standing is not None:
                        self._finish(offer.standing)
                        offer.standing = None
            case Answered():
                waiter = self._questions.pop(effect.query, None)
                if waiter is not None:
                    if isinstance(effect.answer, Exception):
                        waiter.error = effect.answer
                    else:
                        waiter.value = effect.answer
                    self._finish(waiter)
            case Remember():
                self._remember(effect.servers)
            case Log():
                _log.info("= %s %s", effect.what, effect.about)
            case _:
                pass  # Noticed: this face asks for none

    def _delivered(self, rid: bytes, conn: Connection) -> None:
        waiter = self._meets.pop(rid, None)
        if waiter is not None:
            waiter.conn = conn
            self._finish(waiter)
            return
        offer = self._offers.get(rid)
        if offer is None:
            conn.close()
        elif offer.acceptors:
            waiter = offer.acceptors.popleft()
            waiter.conn = conn
            self._finish(waiter)
            assert self._reactor is not None, "it has just delivered"
            # Its owner is about to return to a client that waits: the books can be kept by whoever waits next.
            (self._owed if waiter is self._leader else self._reactor.events).append(Accepted(rid))
        else:
            offer.ready.append((conn, False))
            if offer.bell >= 0 and len(offer.ready) == 1:
                os.eventfd_write(offer.bell, 1)

    def _failed(self, rid: bytes, error: Exception) -> None:
        waiter = self._meets.pop(rid, None)
        if waiter is not None:
            waiter.error = error
            self._finish(waiter)
        offer = self._offers.pop(rid, None)
        if offer is not None:
            self._end_offer(offer, error, keep=True)

    def _end_offer(self, offer: Offer, error: Exception, *, keep: bool = False) -> None:
        if offer.error is None:
            offer.error = error
        if offer.standing is not None:
            self._finish(offer.standing)
            offer.standing = None
        while offer.acceptors:
            waiter = offer.acceptors.popleft()
            waiter.error = error
            self._finish(waiter)
        if keep:
            if offer.bell >= 0 and not offer.ready:
                os.eventfd_write(offer.bell, 1)  # so that whoever selects on it comes and hears of the end
            return
        while offer.ready:
            offer.ready.popleft()[0].close()
        if offer.bell >= 0:
            os.close(offer.bell)
            offer.bell = -1

    def _fail_all(self, error: Exception, *, keep: bool) -> None:
        for waiter in [*self._meets.values(), *self._questions.values()]:
            if not waiter.done:
                waiter.error = error
                self._finish(waiter)
        self._meets.clear()
        self._questions.clear()
        self._owed.clear()
        for offer in list(self._offers.values()):
            self._end_offer(offer, error, keep=keep)
        self._offers.clear()

    def _finish(self, waiter: Waiter) -> None:
        waiter.done = True
        waiter.wake()
        if waiter is self._leader and self._leader_sleeps and self._reactor is not None:
            self._reactor.pollers.ring()  # another thread has done this

    # ---- the machine's life --------------------------------------------------------------------------------------

    def _open(self) -> Reactor:
        config, addresses = self._configure()
        listeners = Listeners.open()
        self._stream_at = encode_candidates(listeners.candidates(addresses=addresses))
        self._datagram_at = encode_candidates(listeners.candidates(datagram=True, addresses=addresses))
        self._reactor = Reactor(config, listeners, self._outcome)
        return self._reactor

    # ---- the helper ------------------------------------------------------------------------------------------------

    def _help(self) -> None:
        seen = -1
        while True:
            with self._turn:
                reactor = self._reactor
                if reactor is None or not reactor.busy:
                    self._helper = None
                    return
                active, seen = self._turns != seen, self._turns
                nap: float | None = GRACE
                if not active and self._leader is None:
                    self._watch(reactor)
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

    def forked(self) -> None:
        """Forget everything, in the child of a fork: the sockets are the parent's, and its threads are not here."""
        reactor = self._reactor
        offers = list(self._offers.values())
        self._start_afresh()
        if reactor is not None:
            reactor.pollers.forked()
            reactor.abandon()
        for offer in offers:
            self._end_offer(offer, ClosedError(f"the post {offer.name!r} is the parent process's"))


_NEVER: Final = float("inf")
_everyone: Final[weakref.WeakSet[BlockingClient]] = weakref.WeakSet()


def _after_fork() -> None:
    interrupts.forked()
    for client in list(_everyone):
        client.forked()


def _at_exit() -> None:
    for client in list(_everyone):
        client.close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
