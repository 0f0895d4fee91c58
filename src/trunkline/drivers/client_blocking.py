"""The blocking driver: one client machine per configuration, turned in the threads of its callers.

What callers want and what they are given is booked here; which thread does the work is the affair of
`trunkline.drivers.crew`, under whose lock everything happens.
"""

import atexit
import functools
import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

from trunkline.drivers import interrupts
from trunkline.drivers.clock import now as clock
from trunkline.drivers.crew import Arrival, Crew, Waiter
from trunkline.drivers.offers import Offer, Patterns
from trunkline.drivers.proofs_blocking import Span
from trunkline.drivers.reactor import Outcome, Reactor
from trunkline.drivers.secure_datagram import SecureDatagramSocket
from trunkline.drivers.secure_sockets import (
    Member,
    SecureConnection,
    SecureHandshake,
    ends_the_call,
    user_of,
)
from trunkline.drivers.servers_tls import RealmMember
from trunkline.drivers.sockets import Connection, Listeners
from trunkline.errors import ClosedError, MeetTimeout, TrunklineError
from trunkline.meeting.confirmation import Meeting
from trunkline.meeting.handshake import Role
from trunkline.names import Address, Secret
from trunkline.switchboard.config import ClientConfig
from trunkline.switchboard.events import (
    Accepted,
    Announced,
    Answered,
    Asked,
    Cancelled,
    CandidatesChanged,
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

_log: Final = logging.getLogger("trunkline")


class BlockingClient:
    """Meets, posts and questions of any number of threads.

    Args:
        configure: returns the machine's settings, the addresses to offer to peers on other hosts instead of what
            the kernel says, and the realm of the servers, None if they are plain; called each time that the machine
            starts.
        remember: called with the servers to look for at the next start.
    """

    def __init__(
        self,
        configure: Callable[[], tuple[ClientConfig, tuple[str, ...] | None, RealmMember | None]],
        remember: Callable[[tuple[Address, ...]], None],
    ) -> None:
        self._configure = configure
        self._remember = remember
        self._start_afresh()
        _everyone.add(self)

    def _start_afresh(self) -> None:
        self._crew = Crew(lambda error: self._fail_all(error, keep=True))
        self._stream_at = self._datagram_at = b""
        self._meets: dict[bytes, Waiter] = {}
        self._offers: dict[bytes, Offer] = {}
        self._questions: dict[int, Waiter] = {}
        self._pauses: set[Waiter] = set()
        self._query = 0
        self.span = Span()
        """Until the next `close`, for calls that take several steps."""

    # ---- what callers ask for ----------------------------------------------------------------------------------

    def meet(self, me: str, you: str, timeout: float | None, *, datagram: bool = False) -> Connection:
        """Return the connection to the process that meets us.

        Raises:
            MeetTimeout, NoSwitchboard, InvalidName, TooMany: see `trunkline.meet`.
        """
        deadline = None if timeout is None else clock() + timeout
        return self.meet_once(me, you, timeout, deadline, datagram=datagram)[0]

    def pause(self, seconds: float, deadline: float | None) -> None:
        """Wait, and do meanwhile what there is to do for others; no longer than until `close`."""
        with self._crew.turn:
            if self._crew.reactor is None:
                return
            end = clock() + seconds
            waiter = Waiter()
            self._pauses.add(waiter)
            try:
                self._crew.wait(waiter, end if deadline is None else min(end, deadline))
            finally:
                self._pauses.discard(waiter)

    def meet_once(
        self,
        me: str,
        you: str,
        timeout: float | None,
        deadline: float | None,
        *,
        meanwhile: Callable[[], None] | None = None,
        span: Span | None = None,
        **more: Any,
    ) -> tuple[Connection, Delivered]:
        """Return what one request came to: the connection, and what the machine said of it.

        Args:
            timeout: what the caller gave, for the error to say.
            deadline: when it ends, by the drivers' clock.
            meanwhile: is called once the request is on its way, and waits for nothing.
            span: of a call that began earlier; it does not begin anew after a `close`.
            more: further fields of `MeetWanted`.

        Raises:
            MeetTimeout, NoSwitchboard, InvalidName, TooMany, ClosedError: see `trunkline.meet`.
        """
        rid = os.urandom(16)
        waiter = Waiter()
        try:
            with self._crew.turn:
                if span is not None:
                    span.check()
                self._open()
                self._meets[rid] = waiter
                at = self._datagram_at if more.get("datagram") else self._stream_at
                try:
                    self._crew.feed(MeetWanted(rid, me, you, at, deadline, **more))
                    if meanwhile is not None:
                        meanwhile()
                    self._crew.wait(waiter, None)
                except BaseException:
                    if self._meets.pop(rid, None) is not None:
                        self._crew.tell(Cancelled(rid))
                    raise
        except BaseException:
            if waiter.conn is not None:
                waiter.conn.close()  # made, but interrupted on the way out: the peer reads EOF
            raise
        if waiter.error is not None:
            if isinstance(waiter.error, MeetTimeout) and timeout is not None:
                waiter.error.seconds = timeout  # as it was asked for; the machine knows only the moment
            raise waiter.error
        assert isinstance(waiter.conn, Connection), "a meet that is done has a connection or an error"
        assert isinstance(waiter.value, Delivered), "which comes with this"
        return waiter.conn, waiter.value

    def post(
        self,
        name: str,
        *,
        unique: bool,
        secret: Secret | None,
        backlog: int,
        datagram: bool = False,
        member: Member | None = None,
        allow: Patterns = (),
    ) -> Offer:
        """Return a post that stands; with ``member`` a secure one.

        Raises:
            NoSwitchboard, NameTaken, InvalidName, TooMany: see `trunkline.post`.
        """
        rid = os.urandom(16)
        user = "" if member is None else user_of(member)
        offer = Offer(rid, name, secret, member, allow, datagram=datagram)
        standing = offer.standing
        assert standing is not None, "it was just made"
        try:
            with self._crew.turn:
                self._open()
                self._offers[rid] = offer
                if member is not None and self._crew.reactor is not None:
                    self._crew.reactor.proofs.keep_fresh(rid, member)
                at = self._datagram_at if datagram else self._stream_at
                wanted = PostWanted(rid, name, at, datagram, unique, secret, backlog, user=user, allow=allow)
                self._crew.feed(wanted)
                self._crew.wait(standing, None)
        except BaseException:
            self.close_post(offer)
            raise
        if offer.error is not None:
            raise offer.error
        return offer

    def accept(self, offer: Offer, timeout: float | None) -> Connection | SecureConnection:
        """Return the next connection of ``offer``.

        Raises:
            MeetTimeout: nobody came within ``timeout`` seconds.
            ForkedHistory, StaleHead: on a secure post, nobody can be believed as things are.
            Displaced, NoSwitchboard, ClosedError: the post is over.
        """
        waiter = Waiter()
        try:
            with self._crew.turn:
                if offer.ready:
                    self._take(offer, waiter)
                elif offer.error is not None:
                    waiter.error = offer.error
                else:
                    offer.acceptors.append(waiter)
                    try:
                        self._crew.wait(waiter, None if timeout is None else clock() + timeout)
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
            raise MeetTimeout(offer.name, "", timeout or 0.0, offer.notes)
        return waiter.conn

    def accept_datagram(self, offer: Offer, timeout: float | None) -> SecureDatagramSocket:
        """Do what `accept` does on a secure post of datagrams."""
        conn = self.accept(offer, timeout)
        assert isinstance(conn, SecureConnection), "the post is secure"
        return conn.datagrams()

    def _take(self, offer: Offer, waiter: Waiter) -> None:
        arrival, told = offer.ready.popleft()
        waiter.give(arrival)
        if not offer.ready and offer.bell >= 0 and offer.error is None:
            os.eventfd_read(offer.bell)
        if not told and offer.error is None:
            self._crew.tell(Accepted(offer.rid))

    def _put_back(self, offer: Offer, conn: Connection | SecureConnection) -> None:
        # Its owner was interrupted on the way out, and may accept again.
        with self._crew.turn:
            offer.ready.appendleft((conn, True))
            if offer.bell >= 0 and len(offer.ready) == 1:
                os.eventfd_write(offer.bell, 1)

    def bell(self, offer: Offer) -> int:
        """Return the descriptor that is readable while `accept` would return at once."""
        with self._crew.turn:
            if offer.bell < 0:
                if offer.error is not None:
                    raise offer.error
                waiting = 1 if offer.ready else 0
                offer.bell = os.eventfd(waiting, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            return offer.bell

    def close_post(self, offer: Offer) -> None:
        """Take the post back; connections that nobody accepted are closed."""
        with self._crew.turn:
            if self._offers.pop(offer.rid, None) is not None:
                if offer.member is not None and self._crew.reactor is not None:
                    self._crew.reactor.proofs.drop(offer.rid)
                self._crew.tell(Cancelled(offer.rid))
            self._end_offer(offer, ClosedError(f"the post {offer.name!r} is closed"))

    def ask(self, question: Callable[[int], AnyMessage], timeout: float | None) -> AnyMessage:
        """Ask a server and return its answer; ``question`` makes the message from the number given to it.

        Raises:
            NoSwitchboard: there is none.
            TrunklineError: what else kept it from being answered.
        """
        waiter = Waiter()
        with self._crew.turn:
            self._open()
            self._query += 1
            query = self._query
            self._questions[query] = waiter
            try:
                deadline = None if timeout is None else clock() + timeout
                self._crew.feed(Asked(question(query), deadline))
                self._crew.wait(waiter, None)
            finally:
                self._questions.pop(query, None)
        if waiter.error is not None:
            raise waiter.error
        return waiter.value  # type: ignore[return-value]

    def announce(self, payload: bytes) -> None:
        """Broadcast a notice; nothing is said about who got it."""
        with self._crew.turn:
            self._open()
            self._crew.tell(Announced(payload))

    def close(self) -> None:
        """Withdraw everything, close everything, and let whoever waits know. A later call starts afresh."""
        with self._crew.turn:
            span, self.span = self.span, Span()
            span.end()
            try:
                helper = self._crew.dismiss()
            finally:
                self._fail_all(ClosedError("the switchboard was closed meanwhile"), keep=False)
        if helper is not None and helper is not threading.current_thread():
            helper.join()

    # ---- results; called by the reactor, under the lock -----------------------------------------------------------

    def _outcome(self, effect: Outcome, conn: Connection | None) -> None:
        match effect:
            case Delivered():
                assert conn is not None, "the reactor gives the connection with it"
                self._delivered(effect, conn)
            case Failed():
                self._failed(effect.rid, effect.error)
            case PostStands():
                offer = self._offers.get(effect.rid)
                if offer is not None:
                    offer.generation = effect.generation
                    if offer.standing is not None:
                        self._crew.finish(offer.standing)
                        offer.standing = None
            case Answered():
                waiter = self._questions.pop(effect.query, None)
                if waiter is not None:
                    if isinstance(effect.answer, Exception):
                        waiter.error = effect.answer
                    else:
                        waiter.value = effect.answer
                    self._crew.finish(waiter)
            case Remember():
                self._remember(effect.servers)
            case Log():
                _log.info("= %s %s", effect.what, effect.about)
            case _:
                pass  # Noticed: this face asks for none

    def _delivered(self, effect: Delivered, conn: Connection) -> None:
        waiter = self._meets.pop(effect.rid, None)
        if waiter is not None:
            waiter.conn = conn
            waiter.value = effect
            self._crew.finish(waiter)
            return
        offer = self._offers.get(effect.rid)
        if offer is None:
            conn.close()
        elif offer.member is None:
            self._arrived(offer, conn)
        else:
            self._prove(offer, offer.member, effect, conn)

    def _arrived(self, offer: Offer, arrival: Arrival) -> None:
        """Give somebody who accepts what came to a post, or keep it for who does next."""
        if offer.acceptors:
            waiter = offer.acceptors.popleft()
            waiter.give(arrival)
            self._crew.finish(waiter)
            self._crew.report(Accepted(offer.rid), waiter)
        else:
            offer.ready.append((arrival, False))
            if offer.bell >= 0 and len(offer.ready) == 1:
                os.eventfd_write(offer.bell, 1)

    def _prove(self, offer: Offer, member: Member, effect: Delivered, conn: Connection) -> None:
        assert self._crew.reactor is not None, "it has just had an outcome"
        match = bytes.fromhex(effect.peer.match)
        meeting = Meeting(Role.PASSIVE, match, offer.name, effect.peer.name, user_of(member), "")
        try:
            handshake = SecureHandshake(meeting, member, allow=offer.allow, now=clock())
        except TrunklineError as error:
            conn.close()
            self._arrived(offer, error)  # it is our side that can't go on
            return
        done = functools.partial(self._proved, offer, effect)
        self._crew.reactor.proofs.begin(offer.rid, handshake, conn, done)

    def _proved(self, offer: Offer, effect: Delivered, outcome: SecureConnection | TrunklineError) -> None:
        if isinstance(outcome, SecureConnection) or ends_the_call(outcome):
            self._arrived(offer, outcome)
            return
        _log.info("= impostor %s at %s: %s", effect.peer.name, offer.name, outcome)
        who = f"{effect.peer.name!r}, who is said to be {effect.claimed!r}, could not prove it"
        offer.notes.append(f"{who} ({outcome})")
        assert self._crew.reactor is not None, "it is the reactor that says this"
        self._crew.reactor.events.append(Accepted(offer.rid))  # that is, settled: there is room for another

    def _failed(self, rid: bytes, error: Exception) -> None:
        waiter = self._meets.pop(rid, None)
        if waiter is not None:
            waiter.error = error
            self._crew.finish(waiter)
        offer = self._offers.pop(rid, None)
        if offer is not None:
            if offer.member is not None and self._crew.reactor is not None:
                self._crew.reactor.proofs.drop(rid)
            self._end_offer(offer, error, keep=True)

    def _end_offer(self, offer: Offer, error: Exception, *, keep: bool = False) -> None:
        if offer.error is None:
            offer.error = error
        if offer.standing is not None:
            self._crew.finish(offer.standing)
            offer.standing = None
        while offer.acceptors:
            waiter = offer.acceptors.popleft()
            waiter.error = error
            self._crew.finish(waiter)
        if keep:
            if offer.bell >= 0 and not offer.ready:
                os.eventfd_write(offer.bell, 1)  # so that whoever selects on it comes and hears of the end
            return
        offer.close_ready()
        if offer.bell >= 0:
            os.close(offer.bell)
            offer.bell = -1

    def _fail_all(self, error: Exception, *, keep: bool) -> None:
        for waiter in [*self._meets.values(), *self._questions.values(), *self._pauses]:
            if not waiter.done:
                waiter.error = error
                self._crew.finish(waiter)
        self._meets.clear()
        self._questions.clear()
        for offer in list(self._offers.values()):
            self._end_offer(offer, error, keep=keep)
        self._offers.clear()

    # ---- the machine's life --------------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._crew.reactor is not None:
            return
        config, addresses, member = self._configure()
        listeners = Listeners.open()
        self._look_around(listeners, addresses)
        self._crew.reactor = Reactor(
            config, listeners, self._outcome, functools.partial(self._look_around, listeners, addresses), member
        )

    def _look_around(self, listeners: Listeners, addresses: tuple[str, ...] | None) -> list[CandidatesChanged]:
        """See where we can be dialled now; return what the machine is to be told of it."""
        before = self._stream_at, self._datagram_at
        self._stream_at, self._datagram_at = (
            encode_candidates(listeners.candidates(datagram=datagrams, addresses=addresses))
            for datagrams in (False, True)
        )
        if before == (self._stream_at, self._datagram_at):
            return []
        return [CandidatesChanged(self._stream_at), CandidatesChanged(self._datagram_at, datagram=True)]

    def forked(self) -> None:
        """Forget everything, in the child of a fork."""
        crew, offers = self._crew, list(self._offers.values())
        self._start_afresh()
        crew.forked()
        for offer in offers:
            self._end_offer(offer, ClosedError(f"the post {offer.name!r} is the parent process's"))


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
