"""asyncio streams over a connection that a meeting made."""

import asyncio
import ssl
import threading
from typing import Any

from trunkline.drivers.sockets import Connection
from trunkline.drivers.transport_tls_aio import TlsTransport
from trunkline.names import Peer

LIMIT = 64 * 1024
"""Most bytes that a reader buffers before the sender has to wait; asyncio's own default."""

ROOM = 64 * 1024
"""Most bytes of a TLS connection that are read at a time. Of 128 KiB, each copy would be in memory mapped afresh."""


class MeetingWriter(asyncio.StreamWriter):
    """A `asyncio.StreamWriter` whose extra info has one entry more: ``peer``."""

    peer: Peer

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what `asyncio.StreamWriter` says, or the `trunkline.Peer` for ``"peer"``."""
        return self.peer if name == "peer" else super().get_extra_info(name, default)


class _Protocol(asyncio.StreamReaderProtocol):
    """Holds on to its reader, which asyncio's own does for servers only.

    A task that serves a connection which it accepted is often held by nothing but what it waits for: the reader.
    """

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self.reader = reader


class _TlsProtocol(_Protocol, asyncio.BufferedProtocol):
    """Takes several records at a time, and copies them once less: each would wake the reader otherwise.

    Until they are copied, they lie in a buffer that all connections of a thread share.
    """

    def get_buffer(self, sizehint: int) -> memoryview:
        return _shared.room

    def buffer_updated(self, nbytes: int) -> None:
        self.reader.feed_data(_shared.room[:nbytes])


class _Shared(threading.local):
    def __init__(self) -> None:
        self.room = memoryview(bytearray(ROOM))


_shared = _Shared()


def streams_at_once(conn: Connection) -> tuple[asyncio.StreamReader, MeetingWriter] | None:
    """Return streams over ``conn``, which they own from then on; None if this loop can't without waiting.

    `asyncio.open_connection` waits for two turns of the loop before it returns. asyncio's own loops can make the
    transport at once; others need `streams`.
    """
    loop = asyncio.get_running_loop()
    make = getattr(loop, "_make_socket_transport", None)
    if make is None:
        return None
    reader = asyncio.StreamReader(LIMIT, loop)
    protocol = _Protocol(reader, loop)
    return reader, _writer(make(conn, protocol), protocol, reader, conn.peer)


async def streams(conn: Connection) -> tuple[asyncio.StreamReader, MeetingWriter]:
    """Return streams over ``conn``, which they own from then on."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(LIMIT, loop)
    protocol = _Protocol(reader, loop)
    try:
        transport, _ = await loop.create_connection(lambda: protocol, sock=conn)
    except BaseException:
        conn.close()
        raise
    return reader, _writer(transport, protocol, reader, conn.peer)


def tls_streams(conn: ssl.SSLSocket, peer: Peer) -> tuple[asyncio.StreamReader, MeetingWriter]:
    """Return streams over ``conn``, handshaken and not blocking, which they own from then on. Any loop can do it."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(LIMIT, loop)
    protocol = _TlsProtocol(reader, loop)
    return reader, _writer(TlsTransport(loop, conn, protocol), protocol, reader, peer)


def _writer(
    transport: asyncio.WriteTransport,
    protocol: asyncio.StreamReaderProtocol,
    reader: asyncio.StreamReader,
    peer: Peer,
) -> MeetingWriter:
    writer = MeetingWriter(transport, protocol, reader, asyncio.get_running_loop())
    writer.peer = peer
    return writer
