"""Join two connected stream sockets: what one yields goes to the other, both ways.

Rules.

1. End of file on one side becomes a shut-down of writing on the other; the other direction goes on.
2. An error on one side ends both at once. The other side is closed with a reset (SO_LINGER 0), not with a
   clean end of file, so that a truncated stream is seen to be one. A Unix socket has no reset: its peer
   reads end of file, or ECONNRESET if it had sent something that was not read.
3. Being cancelled, and being idle for too long, count as errors on both sides.
4. A TLS socket is read and written through TLS. Its end of file is the peer's close_notify; a connection that ends
   without one was cut off, and that is an error. What went wrong inside TLS is told to the other side as an error too.
"""

import asyncio
import contextlib
import errno
import functools
import os
import socket
import struct
from dataclasses import dataclass

from trunkline.drivers.flow import Flow, Pool
from trunkline.drivers.tls_flow import end_writing, flow_between
from trunkline.errors import LocalError

# The kernel lets a TCP socket's buffers grow with the stream but not a Unix socket's; at its default of 208
# KiB two hops cost a third more CPU (docs/measurements/stream.md). The kernel lowers this to
# net.core.wmem_max.
UNIX_SEND_BUFFER_BYTES = 512 * 1024

_LINGER_ZERO = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Joined:
    """How a joined pair ended: the bytes that each side took from the other, and the first error."""

    a_to_b: int
    b_to_a: int
    error: OSError | None


async def join(a: socket.socket, b: socket.socket, *, idle_timeout: float | None = None) -> Joined:
    """Copy both ways between two connected stream sockets until both directions have ended.

    Takes both sockets over from its first step on (a task cancelled before that never had them): they are
    non-blocking from here on and closed on every way out. TCP_NODELAY is set, as the sender has already
    decided what belongs together.

    Args:
        idle_timeout: seconds without a byte moved either way after which the pair ends with a TimeoutError
            as its error. None waits for ever.

    Raises:
        LocalError: both are the same.
    """
    try:
        _check(a, b)
        prepare(a)
        prepare(b)
        pair = _Pair(a, b)
    except BaseException:
        a.close()
        b.close()
        raise
    try:
        return await pair.run(idle_timeout)
    finally:
        pair.close()


def _check(a: socket.socket, b: socket.socket) -> None:
    if a is b:
        raise LocalError("a socket can't be joined with itself")


def prepare(sock: socket.socket) -> None:
    """Make a socket ready for a flow."""
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_SEND_BUFFER_BYTES)


def close_abruptly(sock: socket.socket) -> None:
    """Close so that the peer sees a reset rather than an end of file, where the socket's kind has one."""
    with contextlib.suppress(OSError):  # already reset: there is nobody left to tell
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    sock.close()


def pending_error(sock: socket.socket) -> OSError:
    """Return the error that made epoll report the socket as broken."""
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ECONNRESET
    return OSError(code, os.strerror(code))


class _Pair:
    __slots__ = ("_clean", "_done", "_error", "_flows", "_loop", "_pool", "_sockets", "_timer")

    def __init__(self, a: socket.socket, b: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = (a, b)
        self._clean = False
        self._error: OSError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._pool = Pool.hold(self._loop)
        self._flows = (
            flow_between(self._pool, a, b, self._ended),
            flow_between(self._pool, b, a, self._ended),
        )

    async def run(self, idle_timeout: float | None) -> Joined:
        for sock, flow in zip(self._sockets, self._flows, strict=True):
            self._pool.watch(sock.fileno(), functools.partial(self._broken, sock, flow))
            flow.start()
        if idle_timeout is not None:
            self._check_idle(idle_timeout)
        await self._done
        return Joined(self._flows[0].moved, self._flows[1].moved, self._error)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for flow in self._flows:
            flow.close()
            self._pool.unwatch(flow.source)
        for sock in self._sockets:  # only now: a closed descriptor's number may be another's at once
            if self._clean:
                sock.close()
            else:
                close_abruptly(sock)
        self._pool.release()

    def _ended(self, flow: Flow) -> None:
        if self._done.done():
            return  # cancelled: close() comes next
        if flow.error is not None:
            self._fail(flow.error)
            return
        index = self._flows.index(flow)
        if flow.source_broken:  # the end of file came first, the reset right behind it
            self._fail(pending_error(self._sockets[index]))
            return
        destination = self._sockets[1 - index]
        try:
            end_writing(destination)
        except OSError as error:
            self._fail(error)
            return
        if not any(each.open for each in self._flows):
            self._clean = True
            self._done.set_result(None)

    def _broken(self, sock: socket.socket, flow: Flow) -> None:
        if flow.open and flow.reading:
            flow.source_broken = True  # it reads what came before, and then the error
        else:
            self._fail(pending_error(sock))

    def _fail(self, error: OSError) -> None:
        if self._done.done():
            return  # it has ended already: what comes now changes nothing
        self._error = error
        for flow in self._flows:
            flow.close()
        self._done.set_result(None)

    def _check_idle(self, idle_timeout: float) -> None:
        # One timer for the pair, moved when it fires: a chunk costs reading the clock, not a timer.
        ends = max(flow.active_at for flow in self._flows) + idle_timeout
        if ends <= self._loop.time():
            self._fail(TimeoutError(errno.ETIMEDOUT, f"no byte moved for {idle_timeout:g} s"))
        else:
            self._timer = self._loop.call_at(ends, self._check_idle, idle_timeout)
