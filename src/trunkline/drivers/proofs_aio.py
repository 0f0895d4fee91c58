"""Secure handshakes in asyncio: each goes on when its socket is ready, so nobody slow or hostile holds up others."""

import asyncio
from collections.abc import Callable

from trunkline.drivers.clock import now
from trunkline.drivers.secure_sockets import SecureConnection, SecureHandshake, Want
from trunkline.drivers.sockets import Connection, hang_up
from trunkline.errors import TrunklineError

Outcome = SecureConnection | TrunklineError


class Proof:
    """One handshake under way; nobody needs to hold on to it.

    Args:
        loop: the running loop.
        handshake: which has not begun.
        done: is called once, unless this is cancelled first: with the connection, which doesn't block, or with why
            there is none; then it is closed. It may be called before `begin` returns.
    """

    __slots__ = ("_conn", "_done", "_fd", "_handshake", "_loop", "_timer", "_watched")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, handshake: SecureHandshake, done: Callable[[Outcome], None]
    ) -> None:
        self._loop = loop
        self._handshake = handshake
        self._done = done
        self._conn: Connection | SecureConnection | None = None
        """TLS begins when the peer says hello."""
        self._fd = -1
        self._timer: asyncio.TimerHandle | None = None
        self._watched = Want.NOTHING

    def begin(self, sock: Connection) -> None:
        """Take ``sock`` over, connected and not blocking."""
        self._conn = sock
        self._fd = sock.fileno()
        self._step()  # on one host the peer's first message is often here
        if self._conn is not None:
            self._timer = self._loop.call_later(max(0.0, self._handshake.deadline - now()), self._expired)

    def cancel(self) -> None:
        """Close the connection, if this is not done; nobody is told."""
        conn = self._release()
        if isinstance(conn, SecureConnection):
            conn.hang_up()
        elif conn is not None:
            hang_up(conn)

    def _step(self) -> None:
        conn = self._conn
        assert conn is not None, "who steps is not released"
        try:
            if not isinstance(conn, SecureConnection):
                if not self._handshake.can_begin(conn):
                    self._watch(Want.READ)
                    return
                self._watch(Want.NOTHING)  # it may be closed by this
                conn = self._conn = self._handshake.over_socket(conn)
            want = self._handshake.step(now())
        except TrunklineError as error:
            self._fail(error)
            return
        if want is not Want.NOTHING:
            self._watch(want)
            return
        self._release()
        conn.peer = self._handshake.peer
        self._done(conn)

    def _expired(self) -> None:
        try:
            self._handshake.expire(now())
        except TrunklineError as error:
            self._fail(error)

    def _fail(self, error: TrunklineError) -> None:
        self.cancel()
        self._done(error)

    def _watch(self, want: Want) -> None:
        if want is self._watched:
            return
        if self._watched is Want.READ:
            self._loop.remove_reader(self._fd)
        elif self._watched is Want.WRITE:
            self._loop.remove_writer(self._fd)
        self._watched = want
        if want is Want.READ:
            self._loop.add_reader(self._fd, self._step)
        elif want is Want.WRITE:
            self._loop.add_writer(self._fd, self._step)

    def _release(self) -> Connection | SecureConnection | None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._watch(Want.NOTHING)
        conn, self._conn = self._conn, None
        return conn
