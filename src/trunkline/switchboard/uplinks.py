"""A client's connections to switchboard servers (docs/spec/switchboard.md sections 10 and 11).

There is one main server, found by scanning; requests are lodged there, questions and broadcasts go there. When it can't
see all its mates it says so (Elsewhere), and extra connections are held to those too. A main server that is lost is
replaced by an extra that is up, else by a new scan.

This part answers: which server connections are there, are they alive, which is the main one? What is lodged with them
is the client's affair.
"""

from enum import IntEnum
from typing import Any, Final

from trunkline.errors import (
    InvalidAddress,
    LinkClosed,
    MalformedMessage,
    RemoteError,
    SilentPeer,
)
from trunkline.names import Address
from trunkline.switchboard.context import Context, Timer
from trunkline.switchboard.events import Close, Dial, Log, Remember, Send
from trunkline.switchboard.finder import Finder, Scan
from trunkline.wire.limits import MAX_TEXT
from trunkline.wire.messages import Alive, ClientMessage, Elsewhere, Goodbye, Hello, Member, Welcome

SILENCE: Final = 3
"""Heartbeats without a word after which a server is held for lost."""

HEARTBEATS: Final = (0.01, 3600.0)
"""The least and the greatest heartbeat that a server may ask for, in seconds."""

RETRY_ELSEWHERE: Final = 2.0
"""Seconds after which an extra server that could not be reached is tried again, on average."""

_FINDER: Final = (Timer.FINDER, 0)
_ELSEWHERE: Final = (Timer.ELSEWHERE, 0)


class Phase(IntEnum):
    """How far a server connection is."""

    DIALLING = 1
    GREETING = 2
    """It is open, and Hello is sent."""
    UP = 3
    """Welcome has come."""


class Uplink:
    """One connection to a server."""

    __slots__ = ("address", "conn", "detours", "extra", "heard", "heartbeat", "phase", "sent", "server")

    def __init__(self, conn: int, address: Address, *, extra: bool) -> None:
        self.conn = conn
        self.address = address
        self.phase = Phase.DIALLING
        self.server = ""
        """What the server calls itself; empty until Welcome."""
        self.extra = extra
        """Dialled because of Elsewhere, not by the finder."""
        self.detours: dict[Address, str] = {}
        """The members that this server told us to lodge with too, address and id. It says so once, so it is kept for
        the time when this may be the main server."""
        self.heartbeat = 0.0
        self.heard = 0.0
        self.sent = 0.0


class Down:
    """A connection that was up is lost; or (None) a scan failed, and the finder waits for its owner's word."""

    __slots__ = ("uplink",)

    def __init__(self, uplink: Uplink | None) -> None:
        self.uplink = uplink


class Uplinks:
    """All of a client's server connections."""

    __slots__ = ("_ctx", "finder", "links", "main", "up")

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self.finder = Finder(ctx.config.servers, ctx.draw, stagger=ctx.config.probe_stagger)
        self.links: dict[int, Uplink] = {}
        self.up: dict[int, Uplink] = {}
        """Those that can be used; if there is any, ``main`` is one of them."""
        self.main: Uplink | None = None

    @property
    def elsewhere(self) -> dict[Address, str]:
        """The members that the main server told us to lodge with too: address and id."""
        return {} if self.main is None else self.main.detours

    # ---- sending and closing -----------------------------------------------------------------------------------

    def send(self, uplink: Uplink, message: ClientMessage | Alive | Goodbye, now: float) -> None:
        """Send one message."""
        uplink.sent = now
        self._ctx.out.append(Send(uplink.conn, message))

    def refuse(self, uplink: Uplink, error: RemoteError, now: float) -> Down | None:
        """Close a connection whose server broke the rules, telling it so."""
        self.send(uplink, Goodbye(error.code, str(error)[:MAX_TEXT]), now)
        return self.drop(uplink, error, now)

    def drop(self, uplink: Uplink, why: Exception, now: float) -> Down | None:
        """Close a connection from our side; for everything else it is as if it were lost."""
        self._ctx.out.append(Close(uplink.conn, str(why)))
        return self.lost(uplink.conn, str(why), now)

    def close_all(self) -> None:
        """Close everything, for good."""
        self.finder.stop()
        self.main = None
        for uplink in list(self.links.values()):
            self._forget(uplink)
            self._ctx.out.append(Close(uplink.conn, "the client is closed"))
        self._ctx.timers.clear(_FINDER)
        self._ctx.timers.clear(_ELSEWHERE)

    # ---- the life of a connection ------------------------------------------------------------------------------

    def ensure(self, now: float, pause: float = 0.0) -> Down | None:
        """See to it that a server is looked for, unless there is one."""
        if self.main is not None:
            return None
        self.finder.seek(now, pause)
        return self.pump(now)

    def pump(self, now: float) -> Down | None:
        """Dial what the finder has due."""
        finder = self.finder
        while (address := finder.due(now)) is not None:
            self._dial(address, now, extra=False)
        when = finder.next_deadline()
        if when is None:
            self._ctx.timers.clear(_FINDER)
        else:
            self._ctx.timers.set(_FINDER, when)
        return Down(None) if finder.exhausted else None

    def opened(self, uplink: Uplink, now: float) -> None:
        """A dial succeeded: greet."""
        uplink.phase = Phase.GREETING
        config = self._ctx.config
        self.send(uplink, Hello(config.software, config.notices), now)

    def welcome(self, uplink: Uplink, message: Welcome, now: float) -> Uplink | Down | None:
        """The server greets back. Return it if it is now up."""
        least, most = HEARTBEATS
        if not least <= message.heartbeat <= most:  # a NaN is refused here too
            return self.refuse(uplink, MalformedMessage(f"heartbeat of {message.heartbeat} s"), now)
        twin = next((other for other in self.up.values() if other.server == message.server), None)
        if twin is not None:
            # Two ways to one server would lodge an attempt there twice.
            self._discard(uplink, "another connection to this server is up")
            return None
        uplink.phase = Phase.UP
        uplink.server = message.server
        uplink.heartbeat = message.heartbeat
        uplink.heard = now
        self.up[uplink.conn] = uplink
        self._ctx.timers.set((Timer.UPLINK, uplink.conn), now + uplink.heartbeat)
        if self.main is None:
            self._make_main(uplink)
        self.learn(message.members)
        return uplink

    def lost(self, conn: int, reason: str, now: float) -> Down | None:
        """A connection is gone. Return what the client must see to."""
        uplink = self.links.get(conn)
        if uplink is None:
            return None  # we closed it ourselves, at the same moment
        self._forget(uplink)
        if uplink.phase is not Phase.UP:
            if uplink.extra:
                self._retry_elsewhere(now)
                return None
            self.finder.failed(uplink.address, reason, now)
            return self.pump(now)
        self._ctx.out.append(Log("server lost", f"{uplink.address}: {reason}"))
        if uplink is self.main:
            self.main = None
            self.finder.lost(uplink.address)
            if self.up:
                self._make_main(next(iter(self.up.values())))
                self.reach_elsewhere(now)
        else:
            self._retry_elsewhere(now)
        return Down(uplink)

    def timer(self, conn: int, now: float) -> Down | None:
        """A connection's timer: bound the greeting, keep the heartbeat."""
        uplink = self.links[conn]
        if uplink.phase is not Phase.UP:
            error = LinkClosed(f"no answer within {self._ctx.config.dial_timeout:g} s")
            return self.drop(uplink, error, now)
        silent_at = uplink.heard + SILENCE * uplink.heartbeat
        if now >= silent_at:
            return self.refuse(uplink, SilentPeer(SILENCE * uplink.heartbeat), now)
        if now >= uplink.sent + uplink.heartbeat:
            self.send(uplink, Alive(), now)
        self._ctx.timers.set((Timer.UPLINK, conn), min(uplink.sent + uplink.heartbeat, silent_at))
        return None

    # ---- the list, and the members elsewhere -------------------------------------------------------------------

    def learn(self, members: tuple[Member, ...]) -> None:
        """Add servers that were heard of to the list."""
        if self.finder.learn(self._addresses(members)):
            self._ctx.out.append(Remember(self.finder.servers))

    def lodge_elsewhere(self, uplink: Uplink, message: Elsewhere, now: float) -> None:
        """Hold connections to these as well, as long as this is the main server and until it says otherwise."""
        uplink.detours = self._addresses(message.members)
        if uplink is self.main:
            self.reach_elsewhere(now)

    def reach_elsewhere(self, now: float) -> None:
        """Dial those members elsewhere to which there is no connection."""
        known = {uplink.server for uplink in self.up.values()}
        dialled = {uplink.address for uplink in self.links.values()}
        for address, server in self.elsewhere.items():
            if server not in known and address not in dialled:
                self._dial(address, now, extra=True)

    def tidy(self, uplink: Uplink) -> None:
        """Close an extra connection on which nothing is lodged, if it isn't wanted any more."""
        wanted = uplink.address in self.elsewhere or uplink.server in self.elsewhere.values()
        if uplink is not self.main and not wanted:
            self._discard(uplink, "not needed any more")

    # ---- inside ------------------------------------------------------------------------------------------------

    def _addresses(self, members: tuple[Member, ...]) -> dict[Address, str]:
        found: dict[Address, str] = {}
        for member in members:
            try:
                address = Address.parse(member.address)
            except InvalidAddress as error:
                self._ctx.out.append(Log("member left out", str(error)))
                continue
            found[address] = member.id
        return found

    def _dial(self, address: Address, now: float, *, extra: bool) -> None:
        conn = self._ctx.new_conn()
        self.links[conn] = Uplink(conn, address, extra=extra)
        self._ctx.timers.set((Timer.UPLINK, conn), now + self._ctx.config.dial_timeout)
        self._ctx.out.append(Dial(conn, address))

    def _make_main(self, uplink: Uplink) -> None:
        self.main = uplink
        for other in list(self.links.values()):
            if other.phase is not Phase.UP and not other.extra:
                self._discard(other, "another server answered first")
        if self.finder.found(uplink.address):
            self._ctx.out.append(Remember(self.finder.servers))
        self._ctx.timers.clear(_FINDER)
        self._ctx.out.append(Log("server found", str(uplink.address)))
        assert self.finder.scan is Scan.IDLE, "a scan ends when a server is found"

    def _discard(self, uplink: Uplink, why: str) -> None:
        self._forget(uplink)
        self._ctx.out.append(Close(uplink.conn, why))

    def _forget(self, uplink: Uplink) -> None:
        del self.links[uplink.conn]
        self.up.pop(uplink.conn, None)
        self._ctx.timers.clear((Timer.UPLINK, uplink.conn))

    def _retry_elsewhere(self, now: float) -> None:
        if self.elsewhere:
            self._ctx.timers.set(_ELSEWHERE, now + RETRY_ELSEWHERE * (0.5 + self._ctx.draw.fraction()))

    def snapshot(self) -> tuple[Any, ...]:
        """Return the whole state."""
        links = tuple(
            (
                (uplink.conn, uplink.address, uplink.extra),
                (int(uplink.phase), uplink.server, uplink.heartbeat, uplink.heard, uplink.sent),
                tuple(uplink.detours.items()),
            )
            for uplink in self.links.values()
        )
        main = 0 if self.main is None else self.main.conn
        return (self.finder.snapshot(), links, tuple(self.up), main)

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Become what `snapshot` was taken of."""
        finder, links, up, main = snapshot
        self.finder.restore(finder)
        self.links = {}
        for (conn, address, extra), (phase, server, heartbeat, heard, sent), detours in links:
            uplink = self.links[conn] = Uplink(conn, address, extra=extra)
            uplink.phase = Phase(phase)
            uplink.server = server
            uplink.heartbeat = heartbeat
            uplink.heard = heard
            uplink.sent = sent
            uplink.detours = dict(detours)
        self.up = {conn: self.links[conn] for conn in up}
        self.main = self.links.get(main)
