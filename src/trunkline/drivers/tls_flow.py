"""Flows to and from TLS sockets: as ``flow.py``, with libssl where that has the kernel.

A record at a time is read and written (RFC 8446 section 5.1); nothing is spliced, as each byte is to be sealed or
opened. Everything else is as for plain descriptors: one scratch buffer for all flows of a loop, back pressure, and each
direction ends by itself.

Ending one direction. TLS 1.3 has half-closed connections (section 6.1), and libssl too; Python's ``ssl`` calls
SSL_shutdown twice in one go, and the second call reads, which fails for good if the peer has sent anything. So libssl
is given another descriptor for the moment in which it writes its close_notify, from which nothing can be read; what it
wrote there goes out on the connection.
"""

import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Callable
from typing import Final

from trunkline.drivers.flow import SCRATCH_BYTES, Flow, Pool, Side

RECORD_BYTES: Final = 16 * 1024
"""Most bytes of clear text in one record; the scratch buffer takes several, so that none is left behind in libssl."""

KEY_UPDATE_PAUSE: Final = 0.05
"""Seconds until a read is tried again for which libssl has first to write, and can't. That is when the peer asks for
new keys (section 4.6.3) and does not read: seldom, and not worth a registration of its own."""

_ALERTS: Final = 4096
"""More bytes than libssl has to say at the end: a close_notify, and perhaps the answer to a key update."""

assert SCRATCH_BYTES >= RECORD_BYTES, "or a record would be left in libssl, and nobody told of it"


def flow_between(
    pool: Pool, source: int | socket.socket, destination: int | socket.socket, ended: Callable[[Flow], None]
) -> Flow:
    """Return the flow for these two ends: sockets, with TLS or without, or descriptors."""
    if isinstance(source, ssl.SSLSocket) or isinstance(destination, ssl.SSLSocket):
        return TlsFlow(pool, source, destination, ended)
    return Flow(pool, _descriptor(source), _descriptor(destination), ended)


def end_writing(sock: socket.socket) -> None:
    """Shut down writing on the transport; on a TLS socket its flow has said the end already.

    Raises:
        OSError: the connection is gone.
    """
    socket.socket.shutdown(sock, socket.SHUT_WR)  # SSLSocket's own would forget its keys, and we are still reading


class TlsFlow(Flow):
    """One direction with TLS at one end or at both; otherwise as a `Flow`.

    At the source's end of file it sends close_notify, and has ended when that is out. A source that ends without one
    was cut off, which is an error.
    """

    __slots__ = ("_last_words", "_more", "_tls_in", "_tls_out")

    def __init__(
        self, pool: Pool, source: int | socket.socket, destination: int | socket.socket, ended: Callable[[Flow], None]
    ) -> None:
        super().__init__(pool, _descriptor(source), _descriptor(destination), ended)
        self._tls_in = source if isinstance(source, ssl.SSLSocket) else None
        self._tls_out = destination if isinstance(destination, ssl.SSLSocket) else None
        self._last_words: bytes | None = None
        self._more = (
            self._tls_in is not None and self._tls_in.pending() > 0
        )  # in libssl, below which nothing is to read
        self.spliceable = False
        if self._tls_in is not None:
            self._tls_in.suppress_ragged_eofs = False  # type: ignore[attr-defined]  # public, but not in the stubs

    def _resume(self) -> None:
        super()._resume()
        if self._more:
            self._pool.loop.call_soon(self._look)

    def _look(self) -> None:
        if self.open and self.reading:
            self._turn()

    def _look_again(self) -> None:
        if self.open and not self.reading:
            self._resume()

    def _read(self) -> int:
        if self._tls_in is None:
            return super()._read()
        try:
            return self._read_records(self._tls_in)
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        except ssl.SSLWantWriteError:
            self._pause()
            self._pool.loop.call_later(KEY_UPDATE_PAUSE, self._look_again)
            raise BlockingIOError from None
        except ssl.SSLZeroReturnError:
            return 0
        except ssl.SSLError as error:
            raise said(error) from error

    def _read_records(self, source: ssl.SSLSocket) -> int:
        # As many records as the buffer takes whole: one write for all of them, and nothing is left behind in libssl.
        scratch, filled = self._pool.scratch, 0
        while filled <= SCRATCH_BYTES - RECORD_BYTES:
            try:
                count = source.recv_into(scratch[filled:])
            except ssl.SSLWantReadError:
                if not filled:
                    raise
                break
            except OSError:
                if not filled:
                    raise
                count = 0
            if filled and not count:
                self._more = True  # an end, which shows again at the next read; the descriptor tells of it no more
                self._pool.loop.call_soon(self._look)
            filled += count
            if count < RECORD_BYTES:
                break
        self._held = scratch[:filled]
        self.bulk = filled > RECORD_BYTES  # the next is likely there
        return filled

    def _write(self) -> bool:
        if self._tls_out is None:
            return super()._write()
        if self._last_words is not None:
            return self._say_last_words()
        held = self._held
        assert held is not None, "there is something to write"
        try:
            while held:
                count = self._tls_out.send(held)
                self.moved += count
                held = held[count:]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            self._keep(held)
            return False
        except ssl.SSLError as error:
            self._end(Side.DESTINATION, said(error))
            return False
        except OSError as error:
            self._end(Side.DESTINATION, error)
            return False
        self._held = None
        return True

    def _end(self, side: Side | None, error: OSError | None) -> None:
        if self.open and side is None and self._tls_out is not None and self._last_words is None:
            self._pause()
            try:
                self._last_words = close_notify(self._tls_out)
            except OSError as problem:
                super()._end(Side.DESTINATION, problem)
                return
            if not self._say_last_words():
                if self.open:
                    self._pool.loop.add_writer(self.destination, self._say_last_words)
                return
        else:
            super()._end(side, error)

    def _say_last_words(self) -> bool:
        assert self._last_words is not None, "this is the end"
        assert self._tls_out is not None, "only TLS has last words"
        try:
            while self._last_words:
                count = socket.socket.send(self._tls_out, self._last_words)
                self._last_words = self._last_words[count:]
        except BlockingIOError:
            return False
        except OSError as error:
            super()._end(Side.DESTINATION, error)
            return False
        super()._end(None, None)
        return True


def close_notify(sock: ssl.SSLSocket) -> bytes:
    """Return what has to be sent, below TLS, so that the peer reads the end of our stream; reading goes on.

    Nothing may wait in libssl to be written, and the socket must not block.

    Raises:
        OSError: there are no descriptors left, or the connection's keys are gone.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        descriptor = sock.fileno()
        kept = os.dup(descriptor)
        try:
            os.dup2(ours.fileno(), descriptor, inheritable=False)
            with contextlib.suppress(ssl.SSLWantReadError):  # it waits for the peer's, of which we read later
                sock.unwrap()
        finally:
            os.dup2(kept, descriptor, inheritable=False)
            os.close(kept)
        return theirs.recv(_ALERTS)


def said(error: ssl.SSLError) -> OSError:
    """Return what went wrong with a stream that stood, in words for people."""
    if isinstance(error, ssl.SSLEOFError):
        return ConnectionResetError(errno.ECONNRESET, "the connection was cut off: its end was not said")
    reason = (getattr(error, "reason", "") or str(error)).replace("_", " ").lower()
    return OSError(errno.EPROTO, f"TLS: {reason}")


def _descriptor(end: int | socket.socket) -> int:
    return end if isinstance(end, int) else end.fileno()
