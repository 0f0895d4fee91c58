"""The switchboard server in asyncio: runs one `Server` machine (docs/spec/switchboard.md).

Every event and effect is a line of the log at level DEBUG: ``<`` came in, ``>`` goes out, ``=`` is done here.
"""

import asyncio
import logging
import secrets
import signal
import socket
import ssl
import time
from collections.abc import Sequence
from typing import Any, Final, Self, assert_never

import msgspec

from trunkline.drivers.accept_aio import Acceptor, listen
from trunkline.drivers.addresses import local_addresses
from trunkline.drivers.channel_aio import CLIENT_OUTPUT, MATE_OUTPUT, Channel, Pump, shown
from trunkline.drivers.clock import epoch, now
from trunkline.drivers.dials_aio import Dials
from trunkline.drivers.handshakes_aio import Handshakes
from trunkline.drivers.rechecks_aio import Rechecks
from trunkline.drivers.runner_aio import Runner
from trunkline.drivers.servers_tls import RealmMember, accepted, check_client, check_server, dialled, why_failed
from trunkline.drivers.signals_aio import until_told
from trunkline.errors import ConfigError, NotAllowed, RemoteError, TrunklineError, TrustError
from trunkline.names import Address
from trunkline.switchboard.config import ServerConfig
from trunkline.switchboard.events import (
    Close,
    Dial,
    Halt,
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
from trunkline.switchboard.policy import SERVICE
from trunkline.switchboard.server import Server
from trunkline.wire.limits import MAX_TEXT
from trunkline.wire.messages import AnyMessage, Goodbye, MateHello, MateWelcome, ServerStatus

ACCEPTS: Final = 64
"""Most connections that one listener accepts before others have their turn."""

DIAL_TIMEOUT: Final = 3.0
"""Seconds after which a mate that does not answer is given up for this time."""

HANDSHAKE_TIMEOUT: Final = 5.0
"""Seconds that a client has for TLS, from its connect on."""

_ANYWHERE: Final = frozenset(("", "0.0.0.0", "::"))  # noqa: S104 - recognised, not bound to here
_log: Final = logging.getLogger("trunkline")


class SwitchboardServer:
    """A switchboard server on the running event loop.

    ``async with SwitchboardServer(config) as server`` serves until the block is left; `serve_forever` serves until
    the process is told to stop.

    Args:
        config: the machine's settings. An empty ``id`` becomes the advertised address. If the port of ``address``
            is 0, the one that is listened on is advertised; if its host stands for all interfaces, one address
            of this host is.
        listen: where to listen; by default at ``config.address``. Port 0 lets the system choose.
        member: the realm that this server belongs to, under a user ``switchboard/NAME``. With one it speaks TLS, proves
            itself to clients and other servers, and knows theirs; ``config.policy`` says who may do what.

    Raises:
        ConfigError: the member and the policy are of different realms, or the member is no server.
    """

    def __init__(
        self, config: ServerConfig, *, listen: Sequence[Address] = (), member: RealmMember | None = None
    ) -> None:
        _check_member(config, member)
        self.config = config
        self._member = member
        self._listen = tuple(listen) or (config.address,)
        self._channels: dict[int, Channel] = {}
        self._last = 0
        self._bound: tuple[Address, ...] = ()
        self._running = False
        self._failure: TrunklineError | None = None
        self._told_to_stop = asyncio.Event()

    @property
    def address(self) -> Address:
        """Where clients and other servers reach this one."""
        return self.config.address

    @property
    def bound(self) -> tuple[Address, ...]:
        """Where it listens."""
        return self._bound

    def status(self) -> ServerStatus:
        """Return how it is, as clients that ask are told; it has to be started."""
        return self._machine.status(now())

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
        loop = self._loop = asyncio.get_running_loop()
        listeners: list[socket.socket] = []
        try:
            for address in self._listen:
                listeners += await listen(loop, address)
        except BaseException:
            for sock in listeners:
                sock.close()
            raise
        self._bound = tuple(Address(*sock.getsockname()[:2]) for sock in listeners)
        self.config = _completed(self.config, self._bound[0])
        self._pump = Pump(loop)
        machine = self._machine = Server(
            self.config,
            seed=secrets.token_bytes(32),
            # It grows with each start; and two servers that start in one millisecond are still told apart.
            incarnation=int(time.time() * 1000) << 12 | secrets.randbits(12),
            epoch=epoch(),
            now=now(),
        )
        self._runner: Runner[ServerEvent, ServerEffect] = Runner(
            loop, machine, carry_out=self._carry_out, settle=self._pump.flush_later, tick=Tick()
        )
        self._dials = Dials(loop, DIAL_TIMEOUT, opened=self._dialled, failed=self._lost)
        self._handshakes = Handshakes(loop, self, HANDSHAKE_TIMEOUT, self._wrapped)
        member = self._member
        self._rechecks = None if member is None else Rechecks(loop, member, self._channels, self._unmask)
        self._acceptor = Acceptor(loop, listeners, self._accepted, at_once=ACCEPTS)
        self._running = True
        secured = f" as {self._member.user} of {self._member.realm}" if self._member is not None else ", not secured"
        _log.info("switchboard %s listens on %s%s", self.config.id, ", ".join(map(str, self._bound)), secured)
        self._runner.step(Tick())

    async def serve_forever(self, signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT)) -> None:
        """Serve until `stop` is called or, on the main thread, one of the signals comes; leave in good order.

        Raises:
            ConfigError: an address can't be listened on.
            NameTaken: another server of the mesh has this one's id.
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
        """Say goodbye to everybody and close everything. Stopping twice does nothing."""
        self._told_to_stop.set()
        if not self._running:
            return
        self._running = False
        self._acceptor.close()
        if self._rechecks is not None:
            self._rechecks.close()
        self._runner.stop()
        self._runner.step(Stop())
        self._dials.close()
        self._handshakes.close()
        for conn in tuple(self._channels):
            self._close(conn)
        await self._pump.drained()
        self._pump.close()
        _log.info("switchboard %s has stopped", self.config.id)

    # ---- the machine's effects ------------------------------------------------------------------------------

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
                self._dials.dial(effect.conn, effect.address)
            case Log():
                _log.info("%s: %s", effect.what, effect.about)
            case Halt():
                _log.error("this server can't go on: %s", effect.error)
                self._failure = effect.error
                self._told_to_stop.set()
            case _:
                assert_never(effect)

    def _close(self, conn: int) -> None:
        self._dials.give_up(conn)
        self._handshakes.give_up(conn)
        channel = self._channels.pop(conn, None)
        if channel is not None:
            channel.close()

    # ---- what happens on connections ------------------------------------------------------------------------

    def _accepted(self, sock: socket.socket, remote: Any) -> None:
        self._last -= 1
        if self._member is None:
            self._open(sock, self._last, shown(remote), CLIENT_OUTPUT)
        else:
            self._handshakes.accepted(self._last, sock, shown(remote))

    def _dialled(self, conn: int, sock: socket.socket, address: Address) -> None:
        if self._member is None:
            self._open(sock, conn, str(address), MATE_OUTPUT)
            return
        try:
            tls = dialled(self._member, sock)
        except (OSError, TrunklineError) as error:
            sock.close()
            self.handshake_failed(conn, str(address), error)
            return
        self._handshakes.dialled(conn, tls, str(address))

    def _open(self, sock: socket.socket, conn: int, remote: str, limit: int, user: str = "") -> None:
        self._channels[conn] = Channel(self._pump, self, sock, conn=conn, remote=remote, limit=limit)
        _log.debug("< %d opened: %s %s", conn, remote, user)
        self._runner.step(Opened(conn, remote, user))

    # ---- TLS ------------------------------------------------------------------------------------------------

    def _wrapped(self, sock: socket.socket) -> ssl.SSLSocket:
        assert self._member is not None, "without a realm nobody is asked for TLS"
        return accepted(self._member, sock, require_user=self.config.policy.require_user)

    def handshake_done(self, conn: int, sock: ssl.SSLSocket, remote: str) -> None:
        """For `Handshakes`."""
        assert self._member is not None, "without a realm there are no handshakes"
        limit = MATE_OUTPUT if conn > 0 else CLIENT_OUTPUT
        try:
            who = check_server(self._member, sock) if conn > 0 else check_client(self._member, sock)
        except TrustError as error:
            self._turn_away(sock, conn, remote, error)
            if conn > 0:
                self._lost(conn, str(error))
            return
        self._open(sock, conn, remote, limit, who.user if who is not None else "")
        if who is not None and self._rechecks is not None:
            self._rechecks.watch(conn, who.not_after)

    def plain_arrived(self, conn: int, sock: socket.socket, remote: str) -> None:
        """For `Handshakes`."""
        if self.config.policy.plain:
            self._open(sock, conn, remote, CLIENT_OUTPUT)
            return
        policy = self.config.policy
        said = f"this server speaks TLS only, for the realm {policy.realm!r}: join it with `trunkline join`"
        self._turn_away(sock, conn, remote, NotAllowed(said))

    def handshake_failed(self, conn: int, remote: str, error: Exception) -> None:
        """For `Handshakes`."""
        why = why_failed(error, self.config.policy.realm)
        if conn > 0:
            self._lost(conn, why)
        else:
            _log.info("refused the connection from %s: %s", remote, why)

    def _turn_away(self, sock: socket.socket, conn: int, remote: str, error: NotAllowed | TrustError) -> None:
        """Close a connection that the machine never hears of, in words that the other side can read."""
        _log.info("refused the connection %s %s: %s", "to" if conn > 0 else "from", remote, error)
        channel = Channel(self._pump, self, sock, conn=conn, remote=remote, limit=CLIENT_OUTPUT)
        channel.send(Goodbye(error.code, str(error)[:MAX_TEXT]))
        channel.close()

    def _unmask(self, channel: Channel, error: TrustError) -> None:
        """For `Rechecks`: what was proven on this connection holds no more."""
        _log.info("closing the connection of %s: %s", channel.remote, error)
        channel.send(Goodbye(error.code, str(error)[:MAX_TEXT]))
        self._close(channel.conn)
        self._lost(channel.conn, str(error))

    # ---- channels -------------------------------------------------------------------------------------------

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
                self._runner.step(Received(channel.conn, message))
            except Exception:  # noqa: BLE001 - its traceback is logged
                # A fault of ours that one connection's message brings out must not end the others.
                _log.exception("a message of %s could not be dealt with: %r", channel.remote, message)
                self.channel_broken(channel, RemoteError("this server failed on that message"))
                return

    def channel_broken(self, channel: Channel, error: RemoteError) -> None:
        """For `Channel`."""
        _log.info("closing the connection from %s: %s", channel.remote, error)
        channel.send(Goodbye(error.code, str(error)[:MAX_TEXT]))
        self._close(channel.conn)
        self._runner.step(Lost(channel.conn, str(error)))

    def channel_lost(self, channel: Channel, reason: str) -> None:
        """For `Channel`."""
        self._channels.pop(channel.conn, None)
        self._lost(channel.conn, reason)

    def _lost(self, conn: int, why: str) -> None:
        _log.debug("< %d lost: %s", conn, why)
        self._runner.step(Lost(conn, why))


def _check_member(config: ServerConfig, member: RealmMember | None) -> None:
    realm = config.policy.realm
    if member is None and realm:
        raise ConfigError(f"the policy is for a server of the realm {realm!r}, and this one has no certificate")
    if member is not None and member.realm != realm:
        raise ConfigError(f"the policy is for the realm {realm!r}, and this server belongs to {member.realm!r}")
    if member is not None and not (member.user or "").startswith(SERVICE):
        raise ConfigError(f"a server runs under a user {SERVICE}NAME, and {member.user!r} is none")


def _completed(config: ServerConfig, bound: Address) -> ServerConfig:
    host = config.address.host
    if host in _ANYWHERE:
        host = bound.host if bound.host not in _ANYWHERE else next(iter(local_addresses()), "127.0.0.1")
    address = Address(host, config.address.port or bound.port)
    return msgspec.structs.replace(config, address=address, id=config.id or str(address))
