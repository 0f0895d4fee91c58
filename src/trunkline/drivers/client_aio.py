"""The client side of the switchboard in asyncio: runs one `Client` machine on one event loop."""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import ssl
import weakref
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Final, Protocol, assert_never

from trunkline.drivers.accept_aio import Acceptor
from trunkline.drivers.channel_aio import MATE_OUTPUT, Channel, Pump
from trunkline.drivers.clock import now
from trunkline.drivers.dials_aio import Dials
from trunkline.drivers.handshakes_aio import Handshakes
from trunkline.drivers.peers_aio import PeerSockets
from trunkline.drivers.runner_aio import Runner
from trunkline.drivers.servers_tls import RealmMember, check_server, dialled, why_failed
from trunkline.drivers.servers_tls import hang_up as hang_up_raw
from trunkline.drivers.sockets import Connection, Listeners, hang_up
from trunkline.errors import ClosedError, RemoteError, TrunklineError, TrustError
from trunkline.names import Address
from trunkline.switchboard.client import Client
from trunkline.switchboard.config import ClientConfig
from trunkline.switchboard.events import (
    Answered,
    Asked,
    Cancelled,
    CandidatesChanged,
    ClientEffect,
    ClientEvent,
    Close,
    Delivered,
    Dial,
    Failed,
    Log,
    Lost,
    MeetWanted,
    Noticed,
    Opened,
    PeerBind,
    PeerClose,
    PeerDial,
    PeerSend,
    PostStands,
    PostWanted,
    Received,
    Remember,
    Send,
    Stop,
    Tick,
)
from trunkline.wire.codec import encode_candidates
from trunkline.wire.limits import MAX_TEXT
from trunkline.wire.messages import AnyMessage, Goodbye

if TYPE_CHECKING:
    from trunkline.drivers.rechecks_aio import Rechecks

CALM: Final = 2
"""Up to so many requests under way, each step writes at once: the loop would go round once more to write later. With
more, there is something to gather."""

ADDRESSES_FRESH: Final = 10.0
"""Seconds for which this host's addresses are taken to be what they were."""

_log: Final = logging.getLogger("trunkline")


class Sink(Protocol):
    """Who asked for a request and gets what comes of it."""

    lasting: bool
    """Whether more may come after the first connection: a post."""

    def delivered(self, conn: Connection, met: Delivered) -> None:
        """A meeting is made; the sink owns the connection now. ``met`` is what the machine says of it."""

    def failed(self, error: Exception) -> None:
        """The request is over."""

    def stands(self, generation: int) -> None:
        """A server has taken the post."""


class AsyncClient:
    """One client machine with its sockets, on the running event loop.

    It opens nothing before it is needed, and stays connected between meetings. It closes when `close` is called or
    when the loop shuts its async generators down, as `asyncio.run` does at its end.

    Args:
        config: the machine's settings.
        remember: called with the servers to look for at the next start.
        addresses: offered to peers on other hosts instead of what the kernel says.
        noticed: called with each broadcast, if ``config`` asks for them.
        member: the realm that the servers have to be of; None if they are plain.
    """

    def __init__(
        self,
        config: ClientConfig,
        *,
        remember: Callable[[tuple[Address, ...]], None],
        addresses: tuple[str, ...] | None = None,
        noticed: Callable[[bytes], None] | None = None,
        member: RealmMember | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.closed = False
        self.at_close: Final[list[Callable[[], None]]] = []
        """Called when it is closed, by whomever."""
        self._remember = remember
        self._addresses = addresses
        self._noticed = noticed
        self._machine = Client(config, seed=secrets.token_bytes(32), now=now())
        self._pump = Pump(self.loop)
        self._runner: Runner[ClientEvent, ClientEffect] = Runner(
            self.loop, self._machine, carry_out=self._carry_out, settle=self._settle, tick=Tick()
        )
        self._peers = PeerSockets(self.loop, self._machine, self._runner.step)
        self._listeners: Listeners | None = None
        self._acceptor: Acceptor | None = None
        self._channels: dict[int, Channel] = {}
        ready = None if member is None else member.ready_async
        self._dials = Dials(self.loop, config.dial_timeout, opened=self._dialled, failed=self._lost, before=ready)
        self._member = member
        self._handshakes = Handshakes(self.loop, self, config.dial_timeout)
        self._rechecks: Rechecks | None = None
        self._sinks: dict[bytes, Sink] = {}
        self._questions: dict[int, asyncio.Future[AnyMessage]] = {}
        self._query = 0
        self._stream_at = self._datagram_at = b""
        self._looked_at = 0.0
        self._keeper = self._keep()
        # Started by hand, up to its yield, so that the loop knows it and closes it at the end.
        with contextlib.suppress(StopIteration):
            self._keeper.asend(None).send(None)
        _everyone.add(self)
        if config.notices:
            self._runner.step(Tick())  # it looks for a server at once

    # ---- what callers ask for -------------------------------------------------------------------------------

    def meet(
        self,
        sink: Sink,
        me: str,
        you: str,
        *,
        seconds: float | None,
        datagram: bool = False,
        user: str = "",
        peer_user: str = "",
        avoid: tuple[bytes, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> bytes:
        """Want a meeting, with ``user`` a secure one; return the request's id. See `MeetWanted`."""
        at = self._where(datagram=datagram)
        deadline = None if seconds is None else now() + seconds
        rid = self._new(sink)
        self._runner.step(MeetWanted(rid, me, you, at, deadline, datagram, user, peer_user, avoid, notes))
        return rid

    def post(self, sink: Sink, wanted: Callable[[bytes, bytes], PostWanted], *, datagram: bool) -> bytes:
        """Want a post; ``wanted`` makes the event from the request's id and our candidates. Return the id."""
        at = self._where(datagram=datagram)
        rid = self._new(sink)
        self._runner.step(wanted(rid, at))
        return rid

    def cancel(self, rid: bytes) -> None:
        """Want it no longer. Nothing happens if it is over already."""
        if self._sinks.pop(rid, None) is not None and not self.closed:
            self._runner.step(Cancelled(rid))

    def tell(self, event: ClientEvent) -> None:
        """Feed an event that nothing comes back from."""
        if not self.closed:
            self._runner.step(event)

    async def ask(self, question: Callable[[int], AnyMessage], seconds: float | None) -> AnyMessage:
        """Ask a server; ``question`` makes the message from the number given to it.

        Raises:
            NoSwitchboard: there is none.
            TrunklineError: what else kept it from being answered.
        """
        self.check_open()
        self._query += 1
        query = self._query
        answer: asyncio.Future[AnyMessage] = self.loop.create_future()
        self._questions[query] = answer
        try:
            self._runner.step(Asked(question(query), None if seconds is None else now() + seconds))
            return await answer
        finally:
            self._questions.pop(query, None)

    def close(self) -> None:
        """Withdraw what is wanted, say goodbye, close everything. Closing twice does nothing."""
        if self.closed:
            return
        self._runner.stop()
        self._runner.step(Stop())
        self.closed = True
        self._dials.close()
        self._handshakes.close()
        if self._rechecks is not None:
            self._rechecks.close()
        self._pump.close()
        for channel in self._channels.values():
            channel.abort()
        self._channels.clear()
        self._peers.close_all()
        if self._acceptor is not None:
            self._acceptor.close()
        self._fail_all()
        for call in self.at_close:
            call()

    def abandon(self) -> None:
        """Close the descriptors in the child of a fork: everything else belongs to the parent."""
        self.closed = True
        for channel in self._channels.values():
            channel.sock.close()
        self._peers.abandon()
        if self._listeners is not None:
            self._listeners.close()

    async def _keep(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self.close()

    def _new(self, sink: Sink) -> bytes:
        self.check_open()
        rid = os.urandom(16)
        self._sinks[rid] = sink
        return rid

    def check_open(self) -> None:
        """Raise ClosedError if it is closed."""
        if self.closed:
            raise ClosedError("this client was closed, or its event loop was")

    def _fail_all(self) -> None:
        error = ClosedError("the client was closed while this call waited")
        sinks, self._sinks = self._sinks, {}
        for sink in sinks.values():
            sink.failed(error)
        for answer in self._questions.values():
            if not answer.done():
                answer.set_exception(error)

    def _where(self, *, datagram: bool) -> bytes:
        """Return our encoded candidates; listen first if we don't yet, and look at our addresses now and then."""
        self.check_open()
        if self._listeners is None:
            self._listeners = Listeners.open()
            self._acceptor = Acceptor(self.loop, self._listeners.sockets, self._peers.accepted)
        if now() - self._looked_at > ADDRESSES_FRESH or not self._stream_at:
            self._look_around()
        return self._datagram_at if datagram else self._stream_at

    def _look_around(self) -> None:
        """See where we can be dialled now, and tell the machine if that has changed."""
        if self._listeners is None:
            return
        self._looked_at = now()
        before = self._stream_at, self._datagram_at
        self._stream_at, self._datagram_at = (
            encode_candidates(self._listeners.candidates(datagram=datagrams, addresses=self._addresses))
            for datagrams in (False, True)
        )
        if before[0] and before != (self._stream_at, self._datagram_at):
            self._runner.step(CandidatesChanged(self._stream_at))
            self._runner.step(CandidatesChanged(self._datagram_at, datagram=True))

    # ---- the machine's effects ------------------------------------------------------------------------------

    def _settle(self) -> None:
        if len(self._sinks) <= CALM:
            self._pump.flush()
        else:
            self._pump.flush_later()

    def _carry_out(self, effect: ClientEffect) -> None:
        match effect:
            case Send():
                channel = self._channels.get(effect.conn)
                if channel is not None:
                    if _log.isEnabledFor(logging.DEBUG):
                        _log.debug("> %d %r", effect.conn, effect.message)
                    channel.send(effect.message)
            case PeerSend():
                self._peers.send(effect)
            case PeerDial():
                _log.debug("= %d dial peer %s", effect.conn, effect.candidate)
                self._peers.dial(effect)
            case Delivered():
                self._deliver(effect)
            case PeerClose():
                self._peers.close(effect.conn)
            case PeerBind():
                self._peers.bind(effect)
            case Failed():
                _log.debug("= failed: %s", effect.error)
                sink = self._sinks.pop(effect.rid, None)
                if sink is not None:
                    sink.failed(effect.error)
            case PostStands():
                sink = self._sinks.get(effect.rid)
                if sink is not None:
                    sink.stands(effect.generation)
            case Answered():
                self._answer(effect)
            case Dial():
                _log.debug("= %d dial %s", effect.conn, effect.address)
                self._dials.dial(effect.conn, effect.address)
            case Close():
                _log.debug("> %d close: %s", effect.conn, effect.reason)
                self._close(effect.conn)
            case Noticed():
                if self._noticed is not None:
                    self._noticed(effect.payload)
            case Remember():
                self._remember(effect.servers)
            case Log():
                _log.info("%s: %s", effect.what, effect.about)
            case _:
                assert_never(effect)

    def _deliver(self, effect: Delivered) -> None:
        connection = self._peers.take(effect.conn, effect.peer, secure=bool(effect.claimed))
        if connection is None:
            # It was lost in this very step. The match counts as made (S1), so the caller reads EOF.
            connection = Connection.adopt(_ended(), effect.peer)
        _log.debug("= delivered: %r", effect.peer)
        sink = self._sinks.get(effect.rid)
        if sink is None:
            hang_up(connection)
            return
        if not sink.lasting:
            del self._sinks[effect.rid]
        sink.delivered(connection, effect)

    def _answer(self, effect: Answered) -> None:
        answer = self._questions.get(effect.query)
        if answer is None or answer.done():
            return
        if isinstance(effect.answer, Exception):
            answer.set_exception(effect.answer)
        else:
            answer.set_result(effect.answer)

    def _close(self, conn: int) -> None:
        self._dials.give_up(conn)
        self._handshakes.give_up(conn)
        channel = self._channels.pop(conn, None)
        if channel is not None:
            channel.leave()

    def _dialled(self, conn: int, sock: socket.socket, address: Address) -> None:
        if self._member is None:
            self._open(conn, sock, str(address))
            return
        try:
            tls = dialled(self._member, sock)
        except (OSError, TrunklineError) as error:
            sock.close()
            self.handshake_failed(conn, str(address), error)
            return
        self._handshakes.dialled(conn, tls, str(address))

    def _open(self, conn: int, sock: socket.socket, remote: str) -> None:
        self._channels[conn] = Channel(self._pump, self, sock, conn=conn, remote=remote, limit=MATE_OUTPUT)
        _log.debug("< %d opened: %s", conn, remote)
        self._look_around()  # a server that is reached anew is reached from another network, perhaps
        self._runner.step(Opened(conn, remote))

    def handshake_done(self, conn: int, sock: ssl.SSLSocket, remote: str) -> None:
        """For `Handshakes`."""
        assert self._member is not None, "without a realm there are no handshakes"
        try:
            server = check_server(self._member, sock)
        except TrustError as error:
            hang_up_raw(sock)
            self._lost(conn, str(error))
            return
        if self._rechecks is None:
            from trunkline.drivers.rechecks_aio import Rechecks  # only who has a realm loads what judges certificates

            self._rechecks = Rechecks(self.loop, self._member, self._channels, self._unmask)
        self._rechecks.watch(conn, server.not_after)
        self._open(conn, sock, remote)

    def handshake_failed(self, conn: int, remote: str, error: Exception) -> None:
        """For `Handshakes`."""
        assert self._member is not None, "without a realm there are no handshakes"
        self._lost(conn, why_failed(error, self._member.realm))

    def plain_arrived(self, conn: int, sock: socket.socket, remote: str) -> None:
        """For `Handshakes`: nothing is accepted here."""
        raise AssertionError("a client accepts no server")

    def _unmask(self, channel: Channel, error: TrustError) -> None:
        """For `Rechecks`: the server is not to be believed any more."""
        _log.warning("leaving the server %s: %s", channel.remote, error)
        self._close(channel.conn)
        self._lost(channel.conn, str(error))

    def _lost(self, conn: int, why: str) -> None:
        _log.debug("< %d lost: %s", conn, why)
        self._runner.step(Lost(conn, why))

    # ---- what happens on the connections to servers ---------------------------------------------------------

    def messages_received(self, channel: Channel, messages: list[AnyMessage]) -> None:
        """For `Channel`."""
        debug = _log.isEnabledFor(logging.DEBUG)
        for message in messages:
            if channel.closed:
                return
            if debug:
                _log.debug("< %d %r", channel.conn, message)
            self._runner.step(Received(channel.conn, message))

    def channel_broken(self, channel: Channel, error: RemoteError) -> None:
        """For `Channel`."""
        _log.warning("the server %s breaks the protocol: %s", channel.remote, error)
        channel.send(Goodbye(error.code, str(error)[:MAX_TEXT]))
        self._close(channel.conn)
        self._runner.step(Lost(channel.conn, str(error)))

    def channel_lost(self, channel: Channel, reason: str) -> None:
        """For `Channel`."""
        self._channels.pop(channel.conn, None)
        self._lost(channel.conn, reason)


_everyone: Final[weakref.WeakSet[AsyncClient]] = weakref.WeakSet()


def _ended() -> socket.socket:
    ours, theirs = socket.socketpair()
    theirs.close()
    ours.setblocking(False)
    return ours


def _after_fork() -> None:
    for client in list(_everyone):
        client.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
