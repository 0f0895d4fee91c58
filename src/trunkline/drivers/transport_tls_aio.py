"""An asyncio transport over an `ssl.SSLSocket` whose handshake is done.

asyncio's own TLS makes its handshake itself, through two memory buffers: it can't resume a session, nothing can be
said on the connection before its user has it, and it holds 256 KiB for each connection. Here the handshake is made
elsewhere, on the socket, and this carries what comes after it. libssl reads and writes the descriptor itself.

To its user it behaves as asyncio's own (tests/drivers/test_transport_tls_aio.py runs one battery over both), but for
these, where TLS allows better:

- Closing sends what waits and close_notify, and is done then; asyncio waits up to 30 s for the peer's.
- An end without close_notify, which anybody on the way can forge, is a `ConnectionResetError` if the socket was made
  with ``suppress_ragged_eofs=False``; asyncio takes it for the end of the stream.

As there, one direction can't be ended alone: Python's `ssl` has no call for it.
"""

import asyncio
import asyncio.trsock
import contextlib
import errno
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final

RECORD: Final = 16 * 1024
"""Most bytes of one TLS record (RFC 8446 section 5.1): libssl returns at most one at a time."""

BURST: Final = 16
"""Most records that one connection reads before others have their turn."""

PIECE: Final = BURST * RECORD
"""Most bytes that libssl is given at a time: it takes all of them, or wants the same ones again."""

PIECES: Final = 4
"""Most of these that one connection writes before others have their turn."""

LONG: Final = 4 * 1024
"""After a record of so many bytes the next is likely there already, so it is read without asking the loop."""

HIGH_WATER: Final = 64 * 1024
"""Bytes that may wait to be written before the protocol is asked to pause; asyncio's own default."""

LINGER: Final = 1.0
"""Seconds for which a peer that still sends when we close may take to see our end and to close as well."""


class TlsTransport(asyncio.Transport):
    """Carries one TLS connection from here on, and owns it.

    Args:
        loop: the running loop; any that has `add_reader`.
        sock: handshaken, not blocking.
        protocol: is told at once that it is connected.
        extra: more for `get_extra_info`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: ssl.SSLSocket,
        protocol: asyncio.BaseProtocol,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._about = extra or {}
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._read: Callable[..., Any] = sock.read  # what recv and recv_into call, after looking at their arguments
        self._out = bytearray()
        self._high = HIGH_WATER
        self._low = HIGH_WATER // 4
        self._paused = False
        self._protocol_paused = False
        self._closing = False
        self._lost = False
        self._watched_in: Callable[[], None] | None = None
        self._watched_out: Callable[[], None] | None = None
        # libssl may have to write in order to read, and the other way round: to answer a key update (section 4.6.3).
        self._read_wants_out = False
        self._write_wants_in = False
        self._again: asyncio.Handle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self.set_protocol(protocol)
        try:
            protocol.connection_made(self)
        except BaseException:
            self._lost = True
            sock.close()
            raise
        self._watch()
        if sock.pending():
            self._read_again()

    # ---- about it -------------------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what asyncio's TLS transport says under this name, or what ``extra`` has."""
        found = self._about.get(name)
        if found is not None:
            return found
        asked = self._ASKED.get(name)
        if asked is None:
            return default
        try:
            return asked(self._sock)
        except (OSError, ValueError):
            return default  # it is closed

    _ASKED: Final[dict[str, Callable[[ssl.SSLSocket], Any]]] = {
        "socket": asyncio.trsock.TransportSocket,
        "sockname": socket.socket.getsockname,
        "peername": socket.socket.getpeername,
        "ssl_object": lambda sock: sock,
        "sslcontext": lambda sock: sock.context,
        "peercert": ssl.SSLSocket.getpeercert,
        "cipher": ssl.SSLSocket.cipher,
        "compression": ssl.SSLSocket.compression,
    }

    def is_closing(self) -> bool:
        """Say whether it is closed, or will be."""
        return self._closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Tell another protocol from now on."""
        self._protocol = protocol
        self._receive = self._fill if isinstance(protocol, asyncio.BufferedProtocol) else self._deliver

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return who is told."""
        return self._protocol

    def __repr__(self) -> str:
        state = "closed" if self._lost else "closing" if self._closing else "open"
        return f"<{type(self).__name__} {state} fd={self._fd} waiting={len(self._out)}>"

    # ---- reading --------------------------------------------------------------------------------------------

    def is_reading(self) -> bool:
        """Say whether it would tell of data."""
        return not self._closing and not self._paused

    def pause_reading(self) -> None:
        """Tell of no more data for now. Doing it twice does nothing."""
        if not self._closing:
            self._paused = True
            self._watch()

    def resume_reading(self) -> None:
        """Tell of data again."""
        if self._closing or not self._paused:
            return
        self._paused = False
        self._watch()
        if self._sock.pending():
            self._read_again()  # libssl holds it: the descriptor will not say so

    def _read_again(self) -> None:
        if self._again is None:
            self._again = self._loop.call_soon(self._readable)

    def _readable(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._write_wants_in:
            self._writable()
        if self._closing or self._paused:
            return
        try:
            self._receive()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLWantWriteError:
            self._read_wants_out = True
            self._watch()
        except OSError as error:
            self._fail(error)
        else:
            if self._watched_in is not None and self._sock.pending():
                self._read_again()

    def _deliver(self) -> None:
        for _ in range(BURST):
            data = self._read(RECORD)
            if not data:
                self._ended()
                return
            self._tell(self._protocol.data_received, data)  # type: ignore[attr-defined]
            if self._closing or self._paused or (len(data) < LONG and not self._sock.pending()):
                return  # most likely that was all that there is: the loop says if not

    def _fill(self) -> None:
        room = self._tell(self._protocol.get_buffer, -1)  # type: ignore[attr-defined]
        if room is None:
            return  # it failed, and we are closed
        if not len(room):
            self._give_up(RuntimeError("get_buffer() returned an empty buffer"), "get_buffer() failed")
            return
        size, ended = 0, False
        with memoryview(room)[: BURST * RECORD] as view:
            while size < len(view):
                try:
                    got = self._read(len(view) - size, view[size:])
                except ssl.SSLWantReadError:
                    if not size:
                        raise
                    break
                except OSError:
                    if not size:
                        raise
                    self._read_again()  # which finds the same
                    break
                size += got
                ended = not got
                if got < LONG and not self._sock.pending():
                    break
        # The buffer is its owner's again, who may well shrink it.
        if size:
            self._tell(self._protocol.buffer_updated, size)  # type: ignore[attr-defined]
        if ended:
            self._ended()

    def _ended(self) -> None:
        # As in asyncio, over TLS it is the end of both directions, whatever the protocol would like.
        self._tell(self._protocol.eof_received)  # type: ignore[attr-defined]
        self.close()

    def _tell(self, told: Callable[..., Any], *args: Any) -> Any:
        try:
            return told(*args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a protocol raises ends its connection, as in asyncio
            self._give_up(error, f"{told.__name__}() failed")
            return None

    # ---- writing --------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``, now or as soon as it can be. After `close` it is lost."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data is bytes, bytearray or memoryview, not {type(data).__name__}")
        if self._closing or not data:
            return
        if self._out or self._write_wants_in:
            self._out += data
        else:
            view = memoryview(data).cast("B")
            sent = self._send(view)
            if self._lost or sent == len(view):
                return
            self._out += view[sent:]
            self._watch()
        if len(self._out) > self._high and not self._protocol_paused:
            self._protocol_paused = True
            self._tell_pause(self._protocol.pause_writing)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send all of them, in as few records as they fit."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """Say False: see the module's text."""
        return False

    def write_eof(self) -> None:
        """Raise NotImplementedError, as asyncio's own."""
        raise NotImplementedError("one direction of a TLS connection can't be ended alone: close it")

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set from how many waiting bytes on the protocol is to pause, and at how many it goes on.

        Raises:
            ValueError: not 0 <= low <= high.
        """
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not 0 <= low <= high:
            raise ValueError(f"high ({high}) must be at least low ({low}), and low at least 0")
        self._high, self._low = high, low

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return low and high, in bytes."""
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait."""
        return len(self._out)

    def _send(self, view: memoryview) -> int:
        # Return how much libssl took. What it once refused must be offered again, at the same place (SSL_write(3)).
        sent = 0
        self._write_wants_in = False
        try:
            for _ in range(PIECES):
                sent += self._sock.send(view[sent : sent + PIECE])
                if sent == len(view):
                    break
        except ssl.SSLWantReadError:
            self._write_wants_in = True
        except ssl.SSLWantWriteError:
            pass
        except OSError as error:
            self._fail(error)
        return sent

    def _writable(self) -> None:
        if self._read_wants_out:
            self._read_wants_out = False
            self._readable()
        if self._out and not self._lost:
            sent = self._send(memoryview(self._out))
            if not self._lost:
                del self._out[:sent]
        if self._lost:
            return
        if self._protocol_paused and len(self._out) <= self._low:
            self._protocol_paused = False
            self._tell_pause(self._protocol.resume_writing)
        if self._closing and not self._out:
            self._say_goodbye()
        else:
            self._watch()

    def _tell_pause(self, told: Callable[[], None]) -> None:
        try:
            told()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - as in asyncio, this does no harm to the connection
            self._report(error, f"{told.__name__}() failed")

    # ---- the end --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close once everything is out. No more data is told."""
        if self._closing:
            return
        self._closing = True
        if self._out:
            self._watch()
        else:
            self._say_goodbye()

    def abort(self) -> None:
        """Close at once. What waits is lost, and the peer gets no close_notify."""
        self._end(None)

    def _say_goodbye(self) -> None:
        try:
            self._sock.unwrap()  # sends close_notify, and looks once for the peer's
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLWantWriteError:
            self._watch_out(self._say_goodbye)
            return
        except ssl.SSLError as error:
            if error.reason == "APPLICATION_DATA_AFTER_CLOSE_NOTIFY":
                self._stay_a_little()
                return
        except (OSError, ValueError):
            pass  # the peer is gone, and everything was out
        self._end(None)

    def _stay_a_little(self) -> None:
        # The peer still sends. Closed with something unread, the kernel resets the connection, and our last words
        # might be lost with it: so end our direction, and read its bytes for nothing until it has seen that.
        self._watch_out(None)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        self._linger = self._loop.call_later(LINGER, self._end, None)
        self._watch_in(self._drain)

    def _drain(self) -> None:
        try:
            more = bool(self._sock.recv(RECORD * BURST))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            more = False
        if not more:
            self._end(None)

    def _fail(self, error: OSError) -> None:
        if isinstance(error, ssl.SSLEOFError):
            # A reset is that, too: until Python 3.12.8, `ssl` loses the system's reason.
            reset = ConnectionResetError(errno.ECONNRESET, "the peer hung up without close_notify")
            reset.__cause__ = error
            error = reset
        self._end(error)

    def _give_up(self, error: BaseException, what: str) -> None:
        self._report(error, what)
        self._end(error)

    def _report(self, error: BaseException, what: str) -> None:
        context = {"message": what, "exception": error, "transport": self, "protocol": self._protocol}
        self._loop.call_exception_handler(context)

    def _end(self, error: BaseException | None) -> None:
        if self._lost:
            return
        self._closing = self._lost = True
        for timer in (self._again, self._linger):
            if timer is not None:
                timer.cancel()
        self._watch_in(None)
        self._watch_out(None)
        self._loop.call_soon(self._gone, error)

    def _gone(self, error: BaseException | None) -> None:
        # In a later turn, as in asyncio: whoever closes is not called back in the middle of that.
        self._out = bytearray()
        try:
            self._protocol.connection_lost(error if error is None or isinstance(error, Exception) else None)
        finally:
            self._sock.close()

    # ---- what the loop looks for ----------------------------------------------------------------------------

    def _watch(self) -> None:
        reads = self._write_wants_in or not (self._paused or self._closing)
        writes = self._read_wants_out or (bool(self._out) and not self._write_wants_in)
        self._watch_in(self._readable if reads else None)
        self._watch_out(self._writable if writes else None)

    def _watch_in(self, call: Callable[[], None] | None) -> None:
        if call == self._watched_in:
            return
        self._watched_in = call
        if call is None:
            self._loop.remove_reader(self._fd)
        else:
            self._loop.add_reader(self._fd, call)

    def _watch_out(self, call: Callable[[], None] | None) -> None:
        if call == self._watched_out:
            return
        self._watched_out = call
        if call is None:
            self._loop.remove_writer(self._fd)
        else:
            self._loop.add_writer(self._fd, call)
