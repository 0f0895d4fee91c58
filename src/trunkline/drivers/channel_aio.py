"""A connection that carries messages, in asyncio, for the switchboard server and its clients.

Straight over a non-blocking socket and `loop.add_reader` rather than an asyncio transport: twenty thousand
idle connections must cost little, so there is one receive buffer for all of them, no task and no future for
any. What a turn of the loop produces for one connection goes out in one write, at the end of that turn.

With TLS it is an `ssl.SSLSocket`, whose handshake is over (`handshakes_aio`). In TLS 1.3 reading may have to write (a
key update is answered), so what raised "want" is simply done again when the socket is ready for it.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from trunkline.drivers.servers_tls import WAITS, why_lost
from trunkline.errors import RemoteError
from trunkline.names import Address
from trunkline.wire.codec import PREAMBLE, Inbound, encode_into
from trunkline.wire.messages import AnyMessage

RECEIVE_SIZE: Final = 64 * 1024
"""Most bytes that are read of one connection before the others have their turn: 150 requests or so."""

CLIENT_OUTPUT: Final = 256 * 1024
"""Most bytes that may wait for a client to read them; then it is dropped."""

MATE_OUTPUT: Final = 16 * 1024 * 1024
"""The same for a server of the mesh, which is sent all our entries at once when it joins."""

PAUSE_OUTPUT: Final = 64 * 1024
"""A client that lets so much wait is not read from either, until it has caught up: it pays for its own questions.

Servers go on reading each other, and clients their server: two sides that each wait for the other to read would wait
for ever.
"""

LINGER: Final = 1.0
"""Seconds for which a connection that we close may take to read our last words and to close as well."""

MAX_LINGERING: Final = 256
"""Most connections that are waited for like that."""


class Owner(Protocol):
    """Who is told what happens on a channel. Nothing is told any more once it was closed."""

    def messages_received(self, channel: "Channel", messages: list[AnyMessage]) -> None: ...

    def channel_broken(self, channel: "Channel", error: RemoteError) -> None:
        """The other side broke the rules; whoever owns the channel closes it."""

    def channel_lost(self, channel: "Channel", reason: str) -> None:
        """The connection is gone, and so is the channel."""


class Pump:
    """What all channels of one owner share: the receive buffer, and the write at the end of a turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.room = memoryview(bytearray(RECEIVE_SIZE))
        self.lingering: set[Channel] = set()
        self._drained: asyncio.Future[None] | None = None
        self.told = False
        """Whether something was told while flushing: more may be scheduled then, and the loop must go round."""
        self._full: list[Channel] = []
        self._scheduled = False
        # A selector of ours calls before it waits; any other loop goes round once more for a callback.
        self._hooks: list[Callable[[], bool]] | None = getattr(getattr(loop, "selector", None), "before_wait", None)
        if self._hooks is not None:
            self._hooks.append(self._before_wait)

    def mark(self, channel: "Channel") -> None:
        """This channel has something to write; call `flush` or `flush_later` before the turn ends."""
        self._full.append(channel)

    def flush_later(self) -> None:
        """Write what waits at the end of this turn."""
        if self._full and self._hooks is None and not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what waits, now."""
        self._scheduled = False
        while self._full:
            full, self._full = self._full, []
            for channel in full:
                channel.flush()

    def _before_wait(self) -> bool:
        if not self._full:
            return False
        self.told = False
        self.flush()
        return self.told

    def forget(self, channel: "Channel") -> None:
        """This channel lingers no more."""
        self.lingering.discard(channel)
        if not self.lingering and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def drained(self) -> None:
        """Wait for the connections that linger: LINGER at most."""
        if self.lingering:
            self._drained = self.loop.create_future()
            await self._drained

    def close(self) -> None:
        """Flush, and hook into the loop no more."""
        self.flush()
        for channel in tuple(self.lingering):
            channel.abort()
        if self._hooks is not None and self._before_wait in self._hooks:
            self._hooks.remove(self._before_wait)


class Channel:
    """One connection: messages in and out, a bounded buffer for those that wait to go out."""

    __slots__ = (
        "_closing",
        "_fd",
        "_inbound",
        "_out",
        "_owner",
        "_paused",
        "_pump",
        "_timer",
        "_writing",
        "conn",
        "limit",
        "remote",
        "sock",
    )

    def __init__(self, pump: Pump, owner: Owner, sock: socket.socket, *, conn: int, remote: str, limit: int) -> None:
        """Take over ``sock``, connected and not blocking. ``limit`` bounds what may wait, in bytes."""
        self.sock = sock
        self.conn = conn
        self.remote = remote
        self.limit = limit
        self._pump = pump
        self._owner = owner
        self._fd = sock.fileno()
        self._inbound = Inbound()
        self._out = bytearray(PREAMBLE)  # goes out with the first message: one packet less
        self._writing = False
        self._paused = False
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        pump.loop.add_reader(self._fd, self._readable)
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            pump.loop.call_soon(self._read_on)  # it came with the handshake: the socket itself need not turn readable

    @property
    def closed(self) -> bool:
        """Whether it was closed by either side; messages to it are swallowed."""
        return self._closing

    def send(self, message: AnyMessage) -> None:
        """Send a message when the pump is flushed."""
        if self._closing:
            return
        out = self._out
        if len(out) <= len(PREAMBLE) and not self._writing:
            self._pump.mark(self)
        encode_into(message, out)
        if len(out) > PAUSE_OUTPUT:
            self._crowded()

    def flush(self) -> None:
        """Write what waits, as far as the kernel takes it."""
        if self._writing or not self._out or self._fd < 0:
            return
        self._write()
        if self._out and self._fd >= 0:
            self._writing = True
            self._pump.loop.add_writer(self._fd, self._writable)

    def close(self) -> None:
        """Close once everything is out, and tell the owner nothing more."""
        if self._closing:
            return
        self._closing = True
        self.flush()
        if self._fd < 0:
            return
        if len(self._pump.lingering) >= MAX_LINGERING:
            self._free()
            return
        # Closing with something unread would reset the connection, and our last words might be lost with it.
        self._pump.lingering.add(self)
        self._timer = self._pump.loop.call_later(LINGER, self._free)
        if not self._writing:
            self._half_close()
        self._pump.loop.add_reader(self._fd, self._drain)

    def leave(self) -> None:
        """Write what waits, as far as the kernel takes it, and close at once."""
        self.flush()
        if self._fd >= 0 and isinstance(self.sock, ssl.SSLSocket):
            self._say_goodbye(self.sock)
        self.abort()

    def abort(self) -> None:
        """Close at once, and tell the owner nothing more."""
        self._closing = True
        self._free()

    def _readable(self) -> None:
        try:
            size = self.sock.recv_into(self._pump.room)
        except WAITS as wait:
            if isinstance(wait, ssl.SSLWantWriteError) and not self._writing:
                self._writing = True
                self._pump.loop.add_writer(self._fd, self._writable)
            return
        except OSError as error:
            self._lose(reason(error))
            return
        if not size:
            self._lose("closed by the other side")
            return
        try:
            messages = self._inbound.receive_data(self._pump.room[:size])
        except RemoteError as error:
            self._pump.told = True
            self._owner.channel_broken(self, error)
            return
        if messages:
            self._owner.messages_received(self, messages)
        if self._fd >= 0 and not self._closing and isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
            self._pump.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        """Read what libssl has taken from the kernel already."""
        if self._fd >= 0 and not self._closing and not self._paused:
            self._readable()

    def _crowded(self) -> None:
        self.flush()
        if len(self._out) <= PAUSE_OUTPUT or self._closing:
            return
        if len(self._out) > self.limit:
            self._lose(f"it does not read: {len(self._out)} bytes wait for it, and the limit is {self.limit}")
        elif self.limit <= CLIENT_OUTPUT and not self._paused:
            self._paused = True
            self._pump.loop.remove_reader(self._fd)

    def _writable(self) -> None:
        self._write()
        if self._out or self._fd < 0:
            return
        self._writing = False
        self._pump.loop.remove_writer(self._fd)
        if self._closing:
            self._half_close()
            return
        if self._paused:
            self._paused = False
            self._pump.loop.add_reader(self._fd, self._readable)
        if isinstance(self.sock, ssl.SSLSocket):
            self._read_on()

    def _write(self) -> None:
        out = self._out
        while out:
            try:
                size = self.sock.send(out)
            except WAITS:
                return
            except OSError as error:
                self._lose(reason(error))
                return
            if size == len(out):
                out.clear()
                return
            del out[:size]
            if not isinstance(self.sock, ssl.SSLSocket):
                return  # the kernel took what it could; libssl takes a record at a time

    def _half_close(self) -> None:
        if isinstance(self.sock, ssl.SSLSocket):
            self._say_goodbye(self.sock)
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)  # what comes from here on is read below TLS, and counts no more

    @staticmethod
    def _say_goodbye(tls: ssl.SSLSocket) -> None:
        with contextlib.suppress(OSError, ValueError):
            tls.unwrap()  # sends "close notify", and would wait for theirs

    def _drain(self) -> None:
        try:
            more = socket.socket.recv_into(self.sock, self._pump.room)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            more = 0
        if not more:
            self._free()

    def _lose(self, why: str) -> None:
        silently = self._closing
        self._pump.told = True
        self.abort()
        if not silently:
            self._owner.channel_lost(self, why)

    def _free(self) -> None:
        if self._fd < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._pump.forget(self)
        self._pump.loop.remove_reader(self._fd)
        self._pump.loop.remove_writer(self._fd)
        self._fd = -1
        self._out.clear()
        self.sock.close()


def reason(error: BaseException) -> str:
    """Return why a socket failed, in the system's words and without the number."""
    if isinstance(error, ssl.SSLError):
        return why_lost(error)
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


def shown(address: Sequence[Any] | str) -> str:
    """Return a socket's address as people write it."""
    return address if isinstance(address, str) else str(Address(str(address[0]), int(address[1])))
