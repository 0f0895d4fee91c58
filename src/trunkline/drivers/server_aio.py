"""The switchboard server in asyncio: runs one `Server` machine (docs/spec/switchboard.md).

The order is always the same: an event goes in, the effects are carried out, the timer is set to the next deadline.
What they wrote goes out at the end of the loop's turn.
"""

import asyncio
import contextlib
import errno
import logging
import secrets
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, Self, assert_never

import msgspec

from trunkline.drivers.addresses import local_addresses
from trunkline.drivers.channel_aio import (
    CLIENT_OUTPUT,
    MATE_OUTPUT,
    Channel,
    Pump,
    connect,
    reason,
    shown,
)
from trunkline.drivers.clock import epoch, now
from trunkline.errors import ConfigError, RemoteError
from trunkline.names import Address
from trunkline.switchboard.config import ServerConfig
from trunkline.switchboard.events import (
    Close,
    Dial,
    Log,
    Lost,
    Opened,
    Received,
    Send,
    ServerEffect,
    ServerEvent,
    Stop,
    Tick,
)
from trunkline.switchboard.server import Server
from trunkline.wire.limits import MAX_TEXT
from trunkline.wire.messages import AnyMessage, Goodbye, MateHello, MateWelcome

BACKLOG: Final = 4096
"""Connections that the kernel keeps until they are accepted: a thousand clients may come at once when a mate dies."""

ACCEPTS: Final = 64
"""Most connections that are accepted before the others have their turn."""

NO_DESCRIPTORS: Final = 0.5
"""Seconds without accepting when the process has no file descriptor left, or the kernel no memory."""

DIAL_TIMEOUT: Final = 3.0
"""Seconds after which a mate that does not answer is given up for this time."""

_OUT_OF_RESOURCES: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_ANYWHERE: Final = frozenset(("", "0.0.0.0", "::"))  # noqa: S104 - recognised, not bound to here
_log: Final = logging.getLogger("trunkline")


class SwitchboardServer:
    """A switchboard server on the running event loop.

    ``async with SwitchboardServer(config) as server`` serves until the block is left, `serve_forever` until it is
    told to stop.

    Args:
        config: the machine's settings. An empty ``id`` becomes the advertised address. If the port of ``address``
            is 0, the one that is listened on is advertised; if its host stands for all interfaces, one address of
            this host.
        listen: where to listen; by default at ``config.address``. Port 0 lets the system choose.
    """

    def __init__(self, config: ServerConfig, *, listen: Sequence[Address] = ()) -> None:
        self.config = config
        self._listen = tuple(listen) or (config.address,)
        self._listeners: list[socket.socket] = []
        self._channels: dict[int, Channel] = {}
        self._dials: dict[int, asyncio.Task[None]] = {}
        self._last = 0
        self._events: deque[ServerEvent] = deque()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._resting: dict[socket.socket, asyncio.TimerHandle] = {}
        self._stopped: asyncio.Event | None = None

    @property
    def address(self) -> Address:
        """Where clients and other servers reach this one."""
        return self.config.address

    @property
    def bound(self) -> tuple[Address, ...]:
        """Where it listens."""
        return tuple(Address(*sock.getsockname()[:2]) for sock in self._listeners)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, and join the mesh.

        Raises:
            ConfigError: an address can't be listened on.
        """
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        try:
            for address in self._listen:
                await self._bind(address)
        except BaseException:
            self._close_listeners()
            raise
        self.config = self._completed()
        self._pump = Pump(self._loop)
        self._machine = Server(
            self.config,
            seed=secrets.token_bytes(32),
            incarnation=int(time.time() * 1000),
            epoch=epoch(),
            now=now(),
        )
        for sock in self._listeners:
            self._loop.add_reader(sock.fileno(), self._accept, sock)
        _log.info("switchboard %s listens on %s", self.config.id, ", ".join(map(str, self.bound)))
        self._step(Tick())

    async def serve_forever(self) -> None:
        """Serve until `stop` is called or, on the main thread, SIGTERM or SIGINT comes; then leave in good order."""
        if self._stopped is None:
            await self.start()
        assert self._stopped is not None
        stopped = self._stopped
        caught: list[signal.Signals] = []
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                with contextlib.suppress(NotImplementedError):  # no such thing on this platform's loop
                    self._loop.add_signal_handler(number, stopped.set)
                    caught.append(number)
        try:
            await stopped.wait()
        finally:
            for number in caught:
                self._loop.remove_signal_handler(number)
            await self.stop()

    async def stop(self) -> None:
        """Say goodbye to everybody, close everything. Safe to call twice."""
        if self._stopped is None or not self._listeners:
            return
        self._stopped.set()
        self._close_listeners()
        self._step(Stop())
        for task in tuple(self._dials.values()):
            task.cancel()
        await asyncio.gather(*self._dials.values(), return_exceptions=True)
        for channel in tuple(self._channels.values()):
            channel.close()
        self._channels.clear()
        self._pump.flush()
        await self._pump.drained()
        self._pump.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        _log.info("switchboard %s has stopped", self.config.id)

    # ---- listening ------------------------------------------------------------------------------------------

    async def _bind(self, address: Address) -> None:
        try:
            found = await self._loop.getaddrinfo(
                address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, kind, proto, _, target in dict.fromkeys(found):
                sock = socket.socket(family, kind, proto)
                self._listeners.append(sock)
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by what it accepts
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(target)
                sock.listen(BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"{address} can't be listened on: {reason(error)}; choose another with --listen HOST:PORT"
            ) from error

    def _completed(self) -> ServerConfig:
        host, port = self.config.address.host, self.config.address.port
        bound = self.bound[0]
        if host in _ANYWHERE:
            host = bound.host if bound.host not in _ANYWHERE else next(iter(local_addresses()), "127.0.0.1")
        address = Address(host, port or bound.port)
        return msgspec.structs.replace(self.config, address=address, id=self.config.id or str(address))

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS):
            try:
                sock, remote = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(listener, error)
                return
            sock.setblocking(False)
            self._last -= 1
            self._open(sock, self._last, shown(remote), CLIENT_OUTPUT)

    def _rest(self, listener: socket.socket, error: OSError) -> None:
        # The listener stays readable: without a pause the loop would spin until a descriptor is free.
        if error.errno not in _OUT_OF_RESOURCES:
            _log.warning("accept failed: %s", reason(error))
            return
        _log.warning("no connection can be accepted for %g s: %s", NO_DESCRIPTORS, reason(error))
        self._loop.remove_reader(listener.fileno())
        self._resting[listener] = self._loop.call_later(NO_DESCRIPTORS, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        del self._resting[listener]
        self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _close_listeners(self) -> None:
        for handle in self._resting.values():
            handle.cancel()
        self._resting.clear()
        for sock in self._listeners:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._listeners.clear()

    # ---- the machine ----------------------------------------------------------------------------------------

    def _step(self, event: ServerEvent) -> None:
        # What an effect brings about (a connection lost while writing) waits until the other effects are done.
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                event = self._events.popleft()
                for effect in self._machine.step(event, now()):
                    self._carry_out(effect)
        finally:
            self._busy = False
        self._set_timer()

    def _carry_out(self, effect: ServerEffect) -> None:
        match effect:
            case Send():
                channel = self._channels.get(effect.conn)
                if channel is not None:
                    if _log.isEnabledFor(logging.DEBUG):
                        _log.debug("> %d %r", effect.conn, effect.message)
                    channel.send(effect.message)
            case Close():
                _log.debug("> %d close: %s", effect.conn, effect.reason)
                self._close(effect.conn)
            case Dial():
                _log.debug("= %d dial %s", effect.conn, effect.address)
                self._dials[effect.conn] = self._loop.create_task(self._dial(effect.conn, effect.address))
            case Log():
                _log.info("%s %s", effect.what, effect.about)
            case _:
                assert_never(effect)

    def _set_timer(self) -> None:
        # A timer that is set too early does no harm: it looks again. So it is seldom set anew.
        deadline = self._machine.next_deadline()
        if deadline is None or not self._listeners:
            return
        delay = max(0.0, deadline - now())
        if self._timer is not None:
            if self._timer.when() <= self._loop.time() + delay:
                return
            self._timer.cancel()
        self._timer = self._loop.call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        deadline = self._machine.next_deadline()
        if deadline is not None and deadline <= now():
            self._step(Tick())
        else:
            self._set_timer()

    # ---- connections ----------------------------------------------------------------------------------------

    def _open(self, sock: socket.socket, conn: int, remote: str, limit: int) -> None:
        channel = Channel(self._pump, self, sock, conn=conn, remote=remote, limit=limit)
        self._channels[conn] = channel
        _log.debug("< %d opened, %s", conn, remote)
        self._step(Opened(conn, remote))

    async def _dial(self, conn: int, address: Address) -> None:
        try:
            sock = await connect(self._loop, address, DIAL_TIMEOUT)
        except OSError as error:
            del self._dials[conn]
            _log.debug("< %d not opened: %s", conn, reason(error))
            self._step(Lost(conn, reason(error)))
            return
        except asyncio.CancelledError:
            self._dials.pop(conn, None)
            raise
        del self._dials[conn]
        self._open(sock, conn, str(address), MATE_OUTPUT)

    def _close(self, conn: int) -> None:
        channel = self._channels.pop(conn, None)
        if channel is not None:
            channel.close()
            return
        dial = self._dials.pop(conn, None)
        if dial is not None:
            dial.cancel()

    def messages_received(self, channel: Channel, messages: list[AnyMessage]) -> None:
        """For `Channel`."""
        debug = _log.isEnabledFor(logging.DEBUG)
        for message in messages:
            if channel.closed:
                return
            if debug:
                _log.debug("< %d %r", channel.conn, message)
            if isinstance(message, MateHello | MateWelcome):
                channel.limit = MATE_OUTPUT
            try:
                self._step(Received(channel.conn, message))
            except Exception:
                # A fault of ours that one connection's message brings out must not end the others.
                _log.exception("the message %r of %s was not understood", message, channel.remote)
                self.channel_broken(channel, RemoteError("internal error"))
                return

    def channel_broken(self, channel: Channel, error: RemoteError) -> None:
        """For `Channel`."""
        _log.info("closing the connection from %s: %s", channel.remote, error)
        channel.send(Goodbye(error.code, str(error)[:MAX_TEXT]))
        self._channels.pop(channel.conn, None)
        channel.close()
        self._step(Lost(channel.conn, str(error)))

    def channel_lost(self, channel: Channel, reason: str) -> None:
        """For `Channel`."""
        self._channels.pop(channel.conn, None)
        _log.debug("< %d lost: %s", channel.conn, reason)
        self._step(Lost(channel.conn, reason))
