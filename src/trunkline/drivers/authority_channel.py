"""One client's TLS connection to an authority, in asyncio (docs/spec/authority.md section 6).

An `ssl.SSLSocket` straight over a non-blocking socket, as channel_aio has plain ones: no task, no future and no
transport for any client. Who is slow pays for it: each wait has a deadline, and each buffer a limit, all of them below.
"""

import asyncio
import contextlib
import socket
import ssl
from typing import Final, Protocol

from trunkline.authority.codec import Inbound, requests
from trunkline.authority.messages import PREAMBLE, Request
from trunkline.drivers.channel_aio import reason
from trunkline.drivers.clock import now

RECEIVE_SIZE: Final = 16 * 1024
"""Bytes of one read: the largest TLS record, so that libssl keeps nothing back that the loop doesn't know of."""

SEND_SIZE: Final = 16 * 1024
"""Bytes of one write: one TLS record."""

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds from the connect to the last byte of the preamble."""

MESSAGE_TIMEOUT: Final = 10.0
"""Seconds from a message's first byte to its last."""

IDLE_TIMEOUT: Final = 300.0
"""Seconds without a question; a client that has one later connects again."""

OUTPUT_TIMEOUT: Final = 20.0
"""Seconds for which an answer may wait with the client reading nothing of it."""

PAUSE_OUTPUT: Final = 64 * 1024
"""A client that lets so many bytes wait is not listened to until it has read them. So this and one answer is the most
that waits for it."""

MAX_UNANSWERED: Final = 64
"""Most requests of one client that are dealt with together; its next one is read when they are answered."""

LINGER: Final = 1.0
"""Seconds for which a connection that we close may take to read our last words and to close as well."""

_WAITS: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError, InterruptedError)


class Owner(Protocol):
    """Who is told what happens on a channel."""

    def requests_arrived(self, channel: "Channel") -> None:
        """Take what `Channel.next_request` gives, then call `Channel.settle`."""

    def channel_lost(self, channel: "Channel", why: str) -> None:
        """The connection is gone, and so is the channel."""


class Channel:
    """A connection that was accepted.

    Args:
        loop: the running loop.
        owner: who is told.
        context: a server's.
        sock: connected and not blocking; it is the channel's from here on.
        conn: its number.
        remote: who that is, for the log.
        room: where all channels read into: at least `RECEIVE_SIZE` bytes.

    Raises:
        OSError: the client is gone already.
    """

    __slots__ = (
        "_closing",
        "_fd",
        "_inbound",
        "_loop",
        "_out",
        "_owner",
        "_partial",
        "_reading",
        "_ready",
        "_room",
        "_sock",
        "_writing",
        "conn",
        "deadline",
        "remote",
        "unanswered",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        owner: Owner,
        context: ssl.SSLContext,
        sock: socket.socket,
        *,
        conn: int,
        remote: str,
        room: memoryview,
    ) -> None:
        self._sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._loop = loop
        self._owner = owner
        self._fd = self._sock.fileno()
        self._inbound: Inbound[Request] = requests()
        self._room = room
        self._out = bytearray(PREAMBLE)
        self._ready = False  # the TLS handshake is over
        self._partial = True  # the deadline is for the rest of something; the handshake and the preamble to begin with
        self._reading = True
        self._writing = False
        self._closing = False
        self.conn = conn
        self.remote = remote
        self.deadline = now() + HANDSHAKE_TIMEOUT
        """When the client is given up, by the drivers' clock; the owner looks now and then."""
        self.unanswered = 0
        """Requests of this client that are being dealt with: the owner counts."""
        loop.add_reader(self._fd, self._handshake)

    @property
    def closed(self) -> bool:
        """Whether nothing is sent any more."""
        return self._closing

    @property
    def idle(self) -> bool:
        """Whether it has nothing to say and nothing to hear."""
        return not (self._partial or self._out or self.unanswered)

    @property
    def is_new(self) -> bool:
        """Whether the TLS handshake is under way still: there is nobody to speak of yet."""
        return not self._ready

    @property
    def crowded(self) -> bool:
        """Whether it has asked so much that it is not listened to."""
        return len(self._out) > PAUSE_OUTPUT or self.unanswered >= MAX_UNANSWERED

    @property
    def output(self) -> int:
        """Bytes that wait for it to read them."""
        return len(self._out)

    @property
    def hungry(self) -> bool:
        """Whether `next_request` may have more, though nothing new has come."""
        return self._inbound.begun and self._inbound.waiting > 0 and not self._closing and not self.crowded

    def next_request(self) -> Request | None:
        """Return the next request; None if there is none, or if the client has to read its answers first.

        Raises:
            RemoteError: it breaks the protocol; close the channel.
        """
        if self._closing or self.crowded:
            return None
        return self._inbound.next_message()

    def send(self, frame: bytes) -> None:
        """Have a frame go out at the next `settle`."""
        if not self._closing:
            self._out += frame

    def settle(self) -> None:
        """Write what waits as far as the kernel takes it; read on, or not; say how long the client may take."""
        if self._out and not self._writing:
            self._write()
        if self._closing:
            return
        if self.crowded == self._reading:
            self._reading = not self._reading
            if self._reading:
                self._loop.add_reader(self._fd, self._readable)
            else:
                self._loop.remove_reader(self._fd)
        if self._out or not self._inbound.begun:
            return  # the deadline is the output's, or still the handshake's
        partial = self._inbound.waiting > 0
        if not partial:
            self.deadline = now() + IDLE_TIMEOUT
        elif not self._partial:
            self.deadline = now() + MESSAGE_TIMEOUT  # from the first byte on, however slowly the others come
        self._partial = partial

    def close(self, *, linger: bool = False) -> None:
        """Close, and tell the owner nothing more.

        Args:
            linger: let our last words be read. Closing with something unread would reset the connection, and they
                might be lost with it.
        """
        if self._fd < 0:
            return
        if linger and not self._closing and self._ready:
            self._write()
            if self._fd >= 0:
                self._closing = True
                self.deadline = now() + LINGER
                with contextlib.suppress(OSError, ValueError):
                    self._sock.unwrap()  # sends "close notify", and would wait for theirs
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_WR)
                self._loop.remove_writer(self._fd)
                self._loop.add_reader(self._fd, self._drain)
            return
        self._closing = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._fd = -1
        self._out.clear()
        self._sock.close()

    def _handshake(self) -> None:
        try:
            self._sock.do_handshake()
        except ssl.SSLWantWriteError:
            self._loop.add_writer(self._fd, self._handshake)
            return
        except _WAITS:
            return
        except (OSError, ValueError) as error:
            self._lose(f"TLS: {reason(error)}")
            return
        self._ready = True
        self._loop.remove_writer(self._fd)
        self._loop.add_reader(self._fd, self._readable)
        self._readable()  # what came with the last flight is libssl's already

    def _readable(self) -> None:
        try:
            size = self._sock.recv_into(self._room, RECEIVE_SIZE)
        except _WAITS:
            return
        except (OSError, ValueError) as error:
            self._lose(reason(error))
            return
        if not size:
            self._lose("closed by the client")
            return
        assert not self._sock.pending(), "a record is read whole"
        self._inbound.receive_data(self._room[:size])
        self._owner.requests_arrived(self)

    def _write(self) -> None:
        out = self._out
        while out:
            try:
                # After a wait libssl wants the same bytes again, and has them: what was appended came behind them.
                with memoryview(out) as view, view[:SEND_SIZE] as some:
                    size = self._sock.send(some)
            except _WAITS:
                if not self._writing:
                    self._writing = True
                    self.deadline = now() + OUTPUT_TIMEOUT
                    self._loop.add_writer(self._fd, self._writable)
                return
            except (OSError, ValueError) as error:
                self._lose(reason(error))
                return
            del out[:size]
            if self._writing:
                self.deadline = now() + OUTPUT_TIMEOUT
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)
            self._partial = False

    def _writable(self) -> None:
        self._write()
        if not self._closing and not self.crowded:
            self._owner.requests_arrived(self)  # some may have come whole before the client was paused

    def _drain(self) -> None:
        # Below TLS: its words count no more.
        try:
            more = socket.socket.recv_into(self._sock, self._room)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            more = 0
        if not more:
            self.close()
            self._owner.channel_lost(self, "closed")

    def _lose(self, why: str) -> None:
        self.close()
        self._owner.channel_lost(self, why)
