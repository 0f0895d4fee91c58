"""TLS handshakes under way on an event loop, of connections that were accepted and of those that were dialled.

A handshake costs a millisecond of signing and verifying, so only a few are taken a step further in one turn of the
loop: when thousands of clients come at once, those that are connected don't wait for all of them. A handshake has a
deadline, and only so many are under way: who is slow or silent costs little and holds up nobody. The oldest that was
accepted goes when one more comes.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from trunkline.drivers.servers_tls import TLS_RECORD, WAITS, hang_up
from trunkline.errors import TrunklineError

MAX_HALF_OPEN: Final = 1024
"""Most accepted connections whose handshake is not over: half a second's work, or so."""

STEPS: Final = 8
"""Most handshakes that are taken a step further before other connections have their turn."""


class Owner(Protocol):
    """Who is told how handshakes end, by the connections' numbers; nothing is told of those that were given up."""

    def handshake_done(self, conn: int, sock: ssl.SSLSocket, remote: str) -> None:
        """TLS stands; the socket is the owner's now."""

    def plain_arrived(self, conn: int, sock: socket.socket, remote: str) -> None:
        """What was accepted does not speak TLS; the socket is the owner's now, and nothing was read of it."""

    def handshake_failed(self, conn: int, remote: str, error: Exception) -> None:
        """There will be no connection; the socket is closed."""


class _Shake:
    __slots__ = ("conn", "queued", "remote", "sock", "timer", "writing")

    def __init__(self, conn: int, sock: socket.socket, remote: str) -> None:
        self.conn = conn
        self.sock = sock
        self.remote = remote
        self.timer: asyncio.TimerHandle | None = None
        self.queued = False
        self.writing = False


class Handshakes:
    """All handshakes of one owner.

    Args:
        loop: the running loop.
        owner: who is told how they end.
        within: seconds that one may take.
        accept: makes a TLS socket of one that was accepted; may raise TrunklineError or OSError.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        owner: Owner,
        within: float,
        accept: Callable[[socket.socket], ssl.SSLSocket] | None = None,
    ) -> None:
        self._loop = loop
        self._owner = owner
        self._within = within
        self._accept = accept
        self._shakes: dict[int, _Shake] = {}
        self._ready: deque[_Shake] = deque()
        self._scheduled: asyncio.Handle | None = None

    def __len__(self) -> int:
        return len(self._shakes)

    def accepted(self, conn: int, sock: socket.socket, remote: str) -> None:
        """Wait for the first byte of a connection that was accepted: it tells TLS from plain."""
        if len(self._shakes) >= MAX_HALF_OPEN:
            oldest = next((one for one in self._shakes.values() if one.conn < 0), None)
            if oldest is not None:
                self._fail(oldest, TrunklineError(f"more than {MAX_HALF_OPEN} handshakes were under way"))
        shake = self._begin(conn, sock, remote)
        self._loop.add_reader(sock.fileno(), self._first_byte, shake)

    def dialled(self, conn: int, sock: ssl.SSLSocket, remote: str) -> None:
        """Shake hands on a connection that was dialled."""
        self._queue(self._begin(conn, sock, remote))

    def give_up(self, conn: int) -> None:
        """Want this one no longer."""
        shake = self._shakes.get(conn)
        if shake is not None:
            self._end(shake)
            shake.sock.close()

    def close(self) -> None:
        """Give all up."""
        for conn in tuple(self._shakes):
            self.give_up(conn)
        if self._scheduled is not None:
            self._scheduled.cancel()

    def _begin(self, conn: int, sock: socket.socket, remote: str) -> _Shake:
        shake = self._shakes[conn] = _Shake(conn, sock, remote)
        shake.timer = self._loop.call_later(self._within, self._late, shake)
        return shake

    def _first_byte(self, shake: _Shake) -> None:
        assert self._accept is not None, "who accepts says how"
        try:
            start = shake.sock.recv(1, socket.MSG_PEEK)
            if not start:
                raise ConnectionResetError("closed by the other side")
            if start[0] != TLS_RECORD:
                self._end(shake)
                self._owner.plain_arrived(shake.conn, shake.sock, shake.remote)
                return
            shake.sock = self._accept(shake.sock)
        except WAITS:
            return
        except (TrunklineError, OSError, ValueError) as error:
            self._fail(shake, error)
            return
        self._queue(shake)

    def _queue(self, shake: _Shake) -> None:
        """Its turn comes: until then the loop need not say again that it is ready."""
        self._loop.remove_reader(shake.sock.fileno())
        if shake.writing:
            shake.writing = False
            self._loop.remove_writer(shake.sock.fileno())
        shake.queued = True
        self._ready.append(shake)
        if self._scheduled is None:
            self._scheduled = self._loop.call_soon(self._work)

    def _work(self) -> None:
        self._scheduled = None
        for _ in range(min(STEPS, len(self._ready))):
            shake = self._ready.popleft()
            shake.queued = False
            if self._shakes.get(shake.conn) is shake:
                self._step(shake)
        if self._ready and self._scheduled is None:
            self._scheduled = self._loop.call_soon(self._work)

    def _step(self, shake: _Shake) -> None:
        sock = shake.sock
        assert isinstance(sock, ssl.SSLSocket), "it is wrapped before it is queued"
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            self._loop.add_reader(sock.fileno(), self._queue, shake)
        except ssl.SSLWantWriteError:
            shake.writing = True
            self._loop.add_writer(sock.fileno(), self._queue, shake)
        except (OSError, ValueError) as error:
            self._fail(shake, error)
        else:
            self._end(shake)
            self._owner.handshake_done(shake.conn, sock, shake.remote)

    def _late(self, shake: _Shake) -> None:
        self._fail(shake, TrunklineError(f"the TLS handshake was not over within {self._within:g} s"))

    def _fail(self, shake: _Shake, error: Exception) -> None:
        self._end(shake)
        hang_up(shake.sock)
        self._owner.handshake_failed(shake.conn, shake.remote, error)

    def _end(self, shake: _Shake) -> None:
        del self._shakes[shake.conn]
        if shake.timer is not None:
            shake.timer.cancel()
        if not shake.queued and shake.sock.fileno() >= 0:
            self._loop.remove_reader(shake.sock.fileno())
            if shake.writing:
                self._loop.remove_writer(shake.sock.fileno())
