"""A transfer machine on a stream socket: feed, drain, transmit, wait (docs/spec/transfer.md section 6).

The socket is put into non-blocking mode for the time being, because both sides may speak at once: a
sender that only wrote, while its receiver only wrote, would stand still for ever.
"""

import contextlib
import errno
import os
import select
import socket
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from trunkline import errors
from trunkline.transfer.link import Event, TransferLink

from .clock import now

CHUNK = 1024 * 1024
"""Bytes read from socket or disk at once: measured flat from 256 KiB to 4 MiB."""
OUTBOX_LIMIT = 256 * 1024
"""Bytes of frames and small files that may wait for the socket before this side waits too."""
LINGER = 2.0
"""Seconds in which a peer may read our last word, when we end the connection with a Stop."""


class Digest(Protocol):
    """What hashlib returns, as far as it is used here."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take more bytes."""

    def digest(self) -> bytes:
        """Return the hash so far."""

    def copy(self) -> "Digest":
        """Return an independent copy."""


class FileWire:
    """Use as a context manager: it puts the socket's time-out back."""

    def __init__(self, sock: socket.socket, machine: TransferLink, timeout: float | None) -> None:
        """`timeout` is for the whole transfer, in seconds; None waits as long as the peer lives."""
        self._sock = sock
        self._machine = machine
        self._timeout = timeout
        self._deadline = None if timeout is None else now() + timeout
        self._old_timeout = sock.gettimeout()
        self._buffer = memoryview(bytearray(CHUNK))
        self._outbox = bytearray()
        self._spare = memoryview(bytearray(CHUNK))
        self._sendfile = not isinstance(sock, ssl.SSLSocket)

    def __enter__(self) -> Self:
        self._sock.setblocking(False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # closed under us: its owner knows
            if isinstance(error, errors.TrunklineError):
                self._say_goodbye()
            self._sock.settimeout(self._old_timeout)

    def next_event(self) -> Event | None:
        """Return what the peer said next, waiting for it; None when the conversation has ended.

        Raises:
            RemoteError: the peer broke the rules; it was told.
            TransferFailed: the connection broke, the peer stopped, or the time is up.
        """
        while True:
            event = self._machine.next_event()
            if event is not None or self._machine.over:
                return event
            self._write()
            if not self._read():
                self._wait()

    def flush(self) -> None:
        """Send all that is queued."""
        while self._write():
            self._wait(writing=True)

    def hear(self) -> None:
        """Take in what the peer said, without waiting: between runs, so that a Stop ends them."""
        self._read()

    def hash_range(self, fd: int, start: int, end: int, digest: Digest, on_chunk: Callable[[int], None]) -> None:
        """Hash a file's bytes while keeping the link alive; `on_chunk` is told each position reached.

        Raises:
            OSError: the file can't be read, or is shorter than `end`.
        """
        while start < end:
            size = os.preadv(fd, [self._spare[: min(CHUNK, end - start)]], start)
            if size == 0:
                raise OSError(errno.EIO, "it became shorter")
            digest.update(self._spare[:size])
            start += size
            self.breathe()
            on_chunk(start)

    def breathe(self) -> None:
        """Keep the link alive amid work on the disk; call it about once per CHUNK."""
        self._write()
        if self._poll(0.0) & select.POLLIN:
            self._machine.peer_is_there(now())
        self._tick()

    def send_run(self, fd: int, offset: int, digest: Digest) -> int:
        """Send the raw bytes that are due, from a file's `offset` on, hashing them.

        Returns the number of bytes that the file had: if it shrank, fewer than were due, and zeros were sent.
        """
        machine = self._machine
        end = offset + machine.raw_due
        if machine.raw_due <= CHUNK // 16:  # a small file: one write for its frames and bytes, no sendfile
            try:
                data = os.pread(fd, machine.raw_due, offset)
            except OSError:
                data = b""
            digest.update(data)
            machine.send_raw(data + bytes(machine.raw_due - len(data)))
            if self._queue() > OUTBOX_LIMIT:
                self.flush()
            return len(data)
        self.flush()
        position = offset
        while position < end:
            view = self._spare[: min(CHUNK, end - position)]
            try:
                size = os.preadv(fd, [view], position)
            except OSError:  # a failing disk; what was announced has to follow nevertheless
                size = 0
            if size == 0:
                self._send_bytes(memoryview(bytes(machine.raw_due)))
                break
            digest.update(view[:size])
            if not (self._sendfile and self._send_file(fd, position, size)):
                self._send_bytes(view[:size])
            position += size
        return position - offset

    def _send_file(self, fd: int, offset: int, size: int) -> bool:
        """Let the kernel move bytes; return False if it can't do that here, and nothing was moved."""
        end = offset + size
        while offset < end:
            try:
                sent = os.sendfile(self._sock.fileno(), fd, offset, end - offset)
            except BlockingIOError:
                self._wait(writing=True)
                continue
            except (ConnectionError, TimeoutError) as error:
                raise self._broken(error) from error
            except OSError as error:
                if offset == end - size:
                    self._sendfile = False  # a file system without it; EINVAL and the like
                    return False
                raise self._broken(error) from error
            if sent == 0:  # it shrank since it was hashed: the hash won't fit, and the caller finds the change
                self._send_bytes(memoryview(bytes(end - offset)))
                return True
            self._machine.raw_sent(sent, now())
            offset += sent
        return True

    def _send_bytes(self, data: memoryview) -> None:
        while data:
            sent = self._send(data)
            if not sent:
                self._wait(writing=True)
                continue
            self._machine.raw_sent(sent, now())
            data = data[sent:]

    def _queue(self) -> int:
        self._outbox += self._machine.data_to_send()
        return len(self._outbox)

    def _write(self) -> bool:
        """Send what the socket takes; return whether something is left."""
        while self._queue():
            sent = self._send(self._outbox)
            if not sent:
                return True
            del self._outbox[:sent]
        return False

    def _send(self, data: bytearray | memoryview) -> int:
        try:
            return self._sock.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return 0
        except OSError as error:
            raise self._broken(error) from error

    def _read(self) -> bool:
        """Read once, if there is something; return whether there was."""
        try:
            size = self._sock.recv_into(self._buffer)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except ssl.SSLEOFError:
            size = 0
        except OSError as error:
            with contextlib.suppress(errors.TransferFailed):
                self._machine.receive_eof(now())
                return True  # reset by a peer that had all it needed
            raise self._broken(error) from error
        if size == 0:
            self._machine.receive_eof(now())
        else:
            self._machine.receive_data(self._buffer[:size], now())
        stop = self._machine.stopped_by_peer
        if stop is not None:
            raise errors.TransferFailed(
                f"the other side ended the transfer: {stop.reason or 'no reason given'}",
                again=stop.code == errors.SilentPeer.code,
            )
        return True

    def _wait(self, *, writing: bool = False) -> None:
        """Wait until the socket can be used or a deadline comes; while writing, also hear the peer."""
        until = self._machine.next_deadline()
        if self._deadline is not None:
            until = self._deadline if until is None else min(until, self._deadline)
        seconds = None if until is None else max(0.0, until - now())
        ready = self._poll(seconds, writing=writing or bool(self._outbox))
        if writing and ready & ~select.POLLOUT:
            self._read()
        self._tick()

    def _poll(self, seconds: float | None, *, writing: bool = False) -> int:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | (select.POLLOUT if writing else 0))
        ready = poll.poll(None if seconds is None else seconds * 1000 + 1)
        return ready[0][1] if ready else 0

    def _tick(self) -> None:
        moment = now()
        if self._deadline is not None and moment >= self._deadline:
            raise errors.TransferFailed(
                f"the transfer was not complete within {self._timeout:g} s; "
                "what has arrived is kept: run the same command again, with more time"
            )
        try:
            self._machine.handle_timer(moment)
        except errors.SilentPeer as error:
            raise errors.TransferFailed(
                f"{error} from the other side; what has arrived is kept: run the same command again",
                again=True,
            ) from error

    def _broken(self, error: OSError) -> errors.TransferFailed:
        return errors.TransferFailed(
            f"the connection broke ({error.strerror or error}); what has arrived is kept: run the same command again",
            again=True,
        )

    def _say_goodbye(self) -> None:
        """Send a queued Stop, and give the peer a moment: closing with bytes unread would discard it."""
        if self._machine.stopped_by_peer is not None or not self._queue() or self._machine.raw_due:
            return
        until = now() + LINGER
        with contextlib.suppress(errors.TrunklineError, OSError):
            self._write()
            if self._outbox or isinstance(self._sock, ssl.SSLSocket):
                return
            self._sock.shutdown(socket.SHUT_WR)
            while now() < until and self._poll(until - now()):
                if not self._sock.recv_into(self._buffer):
                    return
