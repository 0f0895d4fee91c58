"""What an authority and a replica have in common, in asyncio: clients over TLS, a store, and a machine over it.

Every request that has come when the loop goes round is handed to the machine at once, so that all writes among them
share one transaction: while the disk is waited for, the next ones gather in the kernel's buffers. A save blocks the
loop. It is the shortest way to "saved, then answered", and nobody is answered out of a state that might not last.

When the store fails, nobody is answered: all connections are closed, and machine and store are made anew from what is
on disk, until that works. Only what is there then was acknowledged, or will be.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, Self

import msgspec

from trunkline.authority.codec import encode
from trunkline.authority.events import (
    Effect,
    Event,
    Log,
    Received,
    Save,
    Saved,
    Send,
    Tick,
)
from trunkline.authority.messages import Denied, Issue, Request, Submit
from trunkline.drivers.accept_aio import Acceptor, listen
from trunkline.drivers.authority_channel import RECEIVE_SIZE, Channel
from trunkline.drivers.channel_aio import shown
from trunkline.drivers.clock import epoch, now
from trunkline.drivers.disk import Store
from trunkline.drivers.runner_aio import Runner
from trunkline.drivers.signals_aio import until_told
from trunkline.drivers.tls import Credential, server_context
from trunkline.errors import RemoteError, StoreFailed, TooMany, TrunklineError
from trunkline.names import Address

ACCEPTS: Final = 16
"""Most connections that one listener accepts before others have their turn: each costs a TLS handshake."""

MAX_CLIENTS: Final = 1024
"""Most connections at once; for one more, the one that has been idle longest is closed."""

MAX_OUTPUT: Final = 64 * 1024 * 1024
"""Most bytes of answers that wait for all clients together; then those that most waits for are dropped."""

SWEEP: Final = 1.0
"""Seconds between two looks at who is too slow."""

CLOCK_STEP: Final = 2.0
"""Seconds by which the wall clock may drift from where it was; when it was set by more, the machine is made anew."""

REOPEN: Final = 1.0
"""Seconds after which a store that failed is opened again; doubled each time, up to `MAX_REOPEN`."""

MAX_REOPEN: Final = 30.0

_log: Final = logging.getLogger("trunkline")


class Machine(Protocol):
    """A `Directory` or a `Replica`."""

    def step(self, event: Any, now: float) -> Sequence[Any]: ...

    def next_deadline(self) -> float | None: ...


class Status(msgspec.Struct, frozen=True):
    """How an authority or a replica is, for its operator."""

    uptime: float
    """Seconds."""
    size: int
    """Statements in the log."""
    clients: int
    requests: int
    """Since the start."""
    saves: int
    """Since the start."""
    failures: int
    """How often the store has failed since the start."""


class Server:
    """What an authority and a replica have in common: clients, a store, and a machine that is made from it.

    Args:
        root: the realm's root certificate, DER.
        open_store: opens the store; called again when it has failed.
        listen: where to listen; port 0 lets the system choose.
        max_clients: see `MAX_CLIENTS`.
    """

    kind = "server"

    def __init__(
        self,
        root: bytes,
        open_store: Callable[[], Store],
        *,
        listen: Sequence[Address],
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        self._root = root
        self._open_store = open_store
        self._listen = tuple(listen)
        self._max_clients = max_clients
        self._channels: dict[int, Channel] = {}
        self._last = 0
        self._bound: tuple[Address, ...] = ()
        self._running = False
        self._failure: TrunklineError | None = None
        self._told_to_stop = asyncio.Event()
        self._waiting: list[tuple[int, Request]] = []
        self._touched: dict[int, Channel] = {}
        self._room = memoryview(bytearray(RECEIVE_SIZE))
        self._store: Store | None = None
        self._runner: Runner[Event, Effect] | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._pause = REOPEN
        self._since = now()
        self._requests = self._saves = self._failures = 0

    # ---- what a kind of server adds -------------------------------------------------------------------------

    def _machine(self, store: Store) -> Machine:
        """Make the machine.

        Raises:
            TrunklineError: with these settings and this store there can be none.
        """
        raise NotImplementedError

    def _credential(self) -> Credential | None:
        """Return what to show in TLS from now on, the same one if nothing has changed; None if there is nothing."""
        raise NotImplementedError

    def _carry_out_more(self, effect: Effect) -> None:
        raise AssertionError(f"no machine of this kind has the effect {effect!r}")

    # ---- life -----------------------------------------------------------------------------------------------

    @property
    def bound(self) -> tuple[Address, ...]:
        """Where it listens."""
        return self._bound

    @property
    def address(self) -> Address:
        """The first of those."""
        return self._bound[0]

    def status(self) -> Status:
        """Return how it is."""
        size = 0
        if self._store is not None:
            with contextlib.suppress(StoreFailed):
                size = self._store.size()
        return Status(now() - self._since, size, len(self._channels), self._requests, self._saves, self._failures)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the store and listen.

        Raises:
            ConfigError: an address can't be listened on, or the store can't be used.
            TrunklineError: there can be no machine with these settings and this store.
        """
        loop = self._loop = asyncio.get_running_loop()
        self._since = now()
        listeners: list[socket.socket] = []
        try:
            self._store = self._open_store()
            machine = self._machine(self._store)
            for address in self._listen:
                listeners += await listen(loop, address)
        except BaseException:
            for sock in listeners:
                sock.close()
            self._close_store()
            raise
        self._bound = tuple(Address(*sock.getsockname()[:2]) for sock in listeners)
        self._running = True
        self._tls: ssl.SSLContext | None = None
        self._shown: Credential | None = None
        self._renew()
        self._run(machine)
        self._acceptor = Acceptor(loop, listeners, self._accepted, at_once=ACCEPTS)
        self._later("sweep", SWEEP, self._sweep)
        _log.info("%s listens on %s", self.kind, ", ".join(map(str, self._bound)))

    async def serve_forever(self, signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT)) -> None:
        """Serve until `stop` is called or, on the main thread, one of the signals comes.

        Raises:
            ConfigError: see `start`.
            TrunklineError: it can't go on with what it has found in the store.
        """
        if not self._running:
            await self.start()
        try:
            await until_told(self._told_to_stop, signals)
        finally:
            await self.stop()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Answer what is there, and close everything. Stopping twice does nothing."""
        self._told_to_stop.set()
        if not self._running:
            return
        self._work()
        self._running = False
        self._acceptor.close()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._runner is not None:
            self._runner.stop()
            self._runner = None
        for channel in tuple(self._channels.values()):
            channel.close()
        self._channels.clear()
        self._close_store()
        _log.info("%s has stopped", self.kind)

    def _later(self, what: str, seconds: float, call: Callable[[], None]) -> None:
        self._timers[what] = self._loop.call_later(seconds, call)

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    # ---- the machine ----------------------------------------------------------------------------------------

    def _run(self, machine: Machine) -> None:
        self._runner = Runner(
            self._loop, _Guarded(machine, self._fail), carry_out=self._carry_out, settle=self._settle, tick=Tick()
        )
        self._epoch = epoch()
        self._runner.step(Tick())

    def _make_anew(self, store: Store) -> None:
        try:
            machine = self._machine(store)
        except TrunklineError as error:
            self._fail(error)
            return
        if self._runner is not None:
            self._runner.stop()
        self._run(machine)

    def _step(self, event: Event) -> None:
        if self._runner is not None:
            self._runner.step(event)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Send():
                channel = self._channels.get(effect.conn)
                if channel is not None:
                    if _log.isEnabledFor(logging.DEBUG):
                        _log.debug("> %d %r", effect.conn, effect.answer)
                    channel.unanswered -= 1
                    channel.send(encode(effect.answer))
                    self._touched[effect.conn] = channel
            case Save():
                assert self._store is not None, "a machine has a store"
                try:
                    self._store.apply(effect.batch)
                except StoreFailed as error:
                    self._fail(error)
                    return
                self._saves += 1
                self._step(Saved())
            case Log():
                _log.info("%s%s", effect.what, f": {effect.about}" if effect.about else "")
            case _:
                self._carry_out_more(effect)

    def _fail(self, error: Exception) -> None:
        """Have machine and store made anew: what they hold in memory can't be relied on."""
        if self._runner is None:
            return
        self._failures += 1
        self._runner.stop()
        self._runner = None
        if isinstance(error, StoreFailed):
            _log.error("%s: %s", self.kind, error)
        else:  # a fault of ours that some request brings out must not end the service
            _log.error("%s: a request could not be dealt with", self.kind, exc_info=error)
        # Whoever waits for an answer asks again, here or elsewhere.
        for channel in tuple(self._channels.values()):
            self._forget(channel)
        self._waiting.clear()
        self._touched.clear()
        self._later("reopen", self._pause, self._reopen)

    def _reopen(self) -> None:
        self._close_store()
        try:
            self._store = self._open_store()
            machine = self._machine(self._store)
        except TrunklineError as error:
            _log.error("%s: %s", self.kind, error)
            self._close_store()
            self._pause = min(2 * self._pause, MAX_REOPEN)
            self._later("reopen", self._pause, self._reopen)
            return
        self._pause = REOPEN
        _log.info("%s goes on", self.kind)
        self._run(machine)

    # ---- clients --------------------------------------------------------------------------------------------

    def _accepted(self, sock: socket.socket, remote: Any) -> None:
        if self._runner is None or self._tls is None:
            sock.close()  # it has nothing to say at present: whoever asks tries another
            return
        if len(self._channels) >= self._max_clients and not self._make_room():
            sock.close()
            return
        self._last += 1
        try:
            channel = Channel(self._loop, self, self._tls, sock, conn=self._last, remote=shown(remote), room=self._room)
        except (OSError, ValueError):
            sock.close()  # it went away again
            return
        self._channels[self._last] = channel
        _log.debug("< %d opened: %s", channel.conn, channel.remote)

    def _make_room(self) -> bool:
        channels = self._channels.values()
        # Those who have said nothing yet go after those who have nothing to say, the oldest first: who opens
        # connections and leaves it at that keeps nobody out for long.
        idle = [channel for channel in channels if channel.idle] or [channel for channel in channels if channel.is_new]
        if not idle:
            _log.warning("%s: %s", self.kind, TooMany("connections", self._max_clients))
            return False
        self._forget(min(idle, key=lambda channel: channel.deadline))
        return True

    def requests_arrived(self, channel: Channel) -> None:
        """For `Channel`."""
        began = not self._waiting
        writes = False
        try:
            while (request := channel.next_request()) is not None:
                if _log.isEnabledFor(logging.DEBUG):
                    _log.debug("< %d %r", channel.conn, request)
                channel.unanswered += 1
                self._waiting.append((channel.conn, request))
                writes = writes or isinstance(request, Submit | Issue)
        except RemoteError as error:
            _log.info("closing the connection from %s: %s", channel.remote, error)
            channel.send(encode(Denied(0, error.code, str(error)[:1024])))
            channel.close(linger=True)
        else:
            self._touched[channel.conn] = channel
        if not self._waiting:
            self._settle()
        elif began and writes:
            self._loop.call_soon(self._work)  # after all others that are readable now: they share the save
        elif began:
            self._work()  # questions share nothing, and another turn of the loop takes longer than some answers

    def channel_lost(self, channel: Channel, why: str) -> None:
        """For `Channel`."""
        _log.debug("< %d lost: %s", channel.conn, why)
        self._channels.pop(channel.conn, None)
        self._touched.pop(channel.conn, None)

    def _work(self) -> None:
        requests, self._waiting = tuple(self._waiting), []
        if requests:
            self._requests += len(requests)
            self._step(Received(requests))

    def _settle(self) -> None:
        """Write what waits to go out; take what had to wait for that."""
        while self._touched:
            _, channel = self._touched.popitem()
            channel.settle()
            if channel.hungry:
                self._loop.call_soon(self.requests_arrived, channel)

    def _forget(self, channel: Channel) -> None:
        self._channels.pop(channel.conn, None)
        self._touched.pop(channel.conn, None)
        channel.close()

    def _sweep(self) -> None:
        self._later("sweep", SWEEP, self._sweep)
        self._renew()
        if self._runner is not None and self._store is not None and abs(epoch() - self._epoch) > CLOCK_STEP:
            _log.info("%s: the clock was set", self.kind)
            self._make_anew(self._store)
        at = now()
        for channel in [each for each in self._channels.values() if each.deadline <= at]:
            if not channel.unanswered:
                _log.debug("= %d too slow, or idle: %s", channel.conn, channel.remote)
                self._forget(channel)
        total = sum(channel.output for channel in self._channels.values())
        if total > MAX_OUTPUT:
            for channel in sorted(self._channels.values(), key=lambda each: -each.output):
                total -= channel.output
                _log.info("closing the connection from %s: %d bytes wait for it", channel.remote, channel.output)
                self._forget(channel)
                if total <= MAX_OUTPUT:
                    break

    def _renew(self) -> None:
        credential = self._credential()
        if credential is not None and credential is not self._shown:
            self._shown = credential
            self._tls = server_context(self._root, credential, required=False)
            # No client is asked for a certificate: statements prove themselves. And none comes back soon.
            self._tls.verify_mode = ssl.CERT_NONE
            self._tls.num_tickets = 0


class _Guarded:
    """A machine that fails by saying so: what it raises must not end a timer or a reader of the loop."""

    def __init__(self, machine: Machine, failed: Callable[[Exception], None]) -> None:
        self._machine = machine
        self._failed = failed

    def step(self, event: Event, now: float) -> Sequence[Effect]:
        try:
            return self._machine.step(event, now)
        except Exception as error:  # noqa: BLE001 - it is logged, and the machine is made anew
            self._failed(error)
            return ()

    def next_deadline(self) -> float | None:
        return self._machine.next_deadline()
