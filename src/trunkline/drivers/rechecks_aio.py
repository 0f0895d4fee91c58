"""Looking again at who is connected: certificates end and are revoked, and connections to servers last for weeks.

Each connection is looked at when its certificate ends; all of them when the realm's head says that something was
revoked, and now and then in any case. A look costs a parse and a signature, so they are spread: nobody waits for them.
The membership's own clockwork is wound here too: renewing our certificate, fetching heads.
"""

import asyncio
import heapq
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Final

from trunkline.authority.heads import read_head
from trunkline.drivers.channel_aio import Channel
from trunkline.drivers.clock import now
from trunkline.drivers.servers_tls import RealmMember
from trunkline.errors import StaleHead, TrustError

EVERY: Final = 1800.0
"""Seconds between two looks at everybody, if nothing was revoked: an authority may have been retired."""

AT_ONCE: Final = 16
"""Connections that are looked at before others have their turn: five milliseconds or so."""

WIND: Final = 1.0
"""Seconds between two looks at the membership's deadline, at the head, and at what has ended."""

AGAIN: Final = 15.0
"""Seconds until the next look at a certificate that has ended and is believed still: clocks may differ a little."""


class Rechecks:
    """The rechecks of one server's connections, or of one client's.

    Args:
        loop: the running loop.
        member: who judges.
        channels: the connections, by number; those without TLS are left alone.
        failed: told of each that is not to be believed any more.
        wall: the wall clock, in seconds since 1970.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        member: RealmMember,
        channels: Mapping[int, Channel],
        failed: Callable[[Channel, TrustError], None],
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._loop = loop
        self._member = member
        self._channels = channels
        self._failed = failed
        self._wall = wall
        self._ends: list[tuple[float, int]] = []
        """A heap: when to look at which connection. Those that are closed meanwhile stay until their time comes."""
        self._revoked = self._what_is_revoked()
        self._due = loop.time() + EVERY
        self._left: list[int] = []
        self._working: asyncio.Handle | None = None
        self._timer = loop.call_later(WIND, self._wind)

    def close(self) -> None:
        """Look no more."""
        self._timer.cancel()
        self._left.clear()

    def watch(self, conn: int, ends: float) -> None:
        """Look at this connection when its certificate ends, by the wall clock."""
        heapq.heappush(self._ends, (ends, conn))

    def look(self) -> None:
        """Do what is due: nothing, mostly."""
        deadline = self._member.next_deadline()
        if deadline is not None and deadline <= now():
            self._member.tick()
        revoked = self._what_is_revoked()
        if revoked != self._revoked or self._loop.time() >= self._due:
            self._revoked = revoked
            self._due = self._loop.time() + EVERY
            self._look_at(list(self._channels))
        ended = []
        while self._ends and self._ends[0][0] <= self._wall():
            ended.append(heapq.heappop(self._ends)[1])
        for conn in ended:
            if conn in self._channels:
                self.watch(conn, self._wall() + AGAIN)
        self._look_at(ended)

    def _wind(self) -> None:
        self._timer = self._loop.call_later(WIND, self._wind)
        self.look()

    def _what_is_revoked(self) -> bytes:
        try:
            return read_head(self._member.head()).revoked
        except StaleHead:
            return b""

    def _look_at(self, conns: list[int]) -> None:
        self._left += conns
        if self._left and self._working is None:
            self._working = self._loop.call_soon(self._work)

    def _work(self) -> None:
        self._working = None
        some, self._left = self._left[:AT_ONCE], self._left[AT_ONCE:]
        for conn in some:
            channel = self._channels.get(conn)
            if channel is not None and isinstance(channel.sock, ssl.SSLSocket):
                self._judge(channel, channel.sock)
        self._look_at([])

    def _judge(self, channel: Channel, sock: ssl.SSLSocket) -> None:
        if not sock.getpeercert(binary_form=True):
            return  # a client that proved no user: there is nothing to look at
        try:
            self._member.identify(sock)
        except StaleHead:
            pass  # no news is no revocation: whoever comes now is refused for it, these were judged before
        except TrustError as error:
            self._failed(channel, error)
