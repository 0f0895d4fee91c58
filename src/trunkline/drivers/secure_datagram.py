"""The socket of a secure datagram meeting: UDP, with every datagram sealed (docs/spec/sealing.md sections 8 and 9).

`trunkline.meeting.datagrams` seals and opens; `trunkline.drivers.datagram_keys` brings the session.
"""

import errno
import math
import os
import select
import socket
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from trunkline.drivers.clock import now as clock
from trunkline.errors import ClosedError, DecryptError
from trunkline.meeting.datagram_keys import Session
from trunkline.meeting.datagrams import MAX_DATA, Drop, Opener, Sealer
from trunkline.names import Peer

_READ: Final = 65_536
DROPS_AT_ONCE: Final = 64
"""Most datagrams that one `recv` which may not wait drops before it says that nothing is there."""


class SecureDatagramSocket:
    """A connected UDP socket whose datagrams only the peer can make and read.

    It has the methods of `socket.socket` that suit it, so ``loop.sock_recv`` and ``loop.sock_sendall`` of asyncio take
    it while it doesn't block. Datagrams may be lost and overtake each other, but none comes twice; what is not the
    peer's is dropped and counted in `dropped`. Threads may share it; after a fork it is the parent's alone.

    Args:
        sock: connected to the peer; it is taken over, with its time-out.
        session: what `trunkline.drivers.datagram_keys` exchanged.
        peer: who is at the other end, proven.
    """

    def __init__(self, sock: socket.socket, session: Session, peer: Peer) -> None:
        self.peer: Final = peer
        self._timeout = sock.gettimeout()
        sock.setblocking(False)
        self._sock = sock
        self._sealer = Sealer(session)
        self._opener = Opener(session)
        self._lock = threading.Lock()
        self._process = os.getpid()

    # ---- data --------------------------------------------------------------------------------------------------

    def send(self, data: bytes | bytearray | memoryview, flags: int = 0) -> int:
        """Send one datagram; return how many bytes of ``data`` went out, which is all.

        Raises:
            ValueError: ``data`` has more than 65,483 bytes.
            TimeoutError, BlockingIOError: the kernel took nothing in time.
            OSError: as a plain socket, for instance when nothing listens at the other end any more.
            LocalError: all sequence numbers are used up.
            ClosedError: it is closed, or of the parent process.
        """
        self._check()
        with self._lock:
            datagram = self._sealer.seal(data)
        deadline = self._deadline()
        while True:
            try:
                self._sock.send(datagram, flags)
            except BlockingIOError:
                self._wait(select.POLLOUT, deadline)
            else:
                return memoryview(data).nbytes

    def recv(self, size: int = MAX_DATA, flags: int = 0) -> bytes:
        """Return the next datagram that the peer sealed, cut after ``size`` bytes.

        Raises:
            TimeoutError, BlockingIOError: none came in time; what was dropped counts for nothing.
            OSError: as a plain socket, for instance when nothing listens at the other end any more.
            TrustError: so many were forged that the key is given up.
            ClosedError: it is closed, or of the parent process.
        """
        self._check()
        deadline = self._deadline()
        tries = 0
        while True:
            try:
                datagram = self._sock.recv(_READ, flags)
                with self._lock:
                    return self._opener.open(datagram)[:size]
            except DecryptError:
                tries += 1
                # Whoever floods us must not keep us from what else the caller has to do.
                if deadline is not None and tries % DROPS_AT_ONCE == 0:
                    self._check_time(deadline)
            except BlockingIOError:
                self._wait(select.POLLIN, deadline)

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many datagrams were dropped, by reason: `trunkline.meeting.datagrams.Drop`."""
        with self._lock:
            return {reason.value: self._opener.dropped[reason] for reason in Drop}

    # ---- as a socket -------------------------------------------------------------------------------------------

    def settimeout(self, seconds: float | None) -> None:
        """Set how long `send` and `recv` may wait: None for ever, 0 not at all."""
        if seconds is not None and not seconds >= 0:
            raise ValueError("a time-out is 0 or more seconds, or None")
        self._timeout = seconds

    def gettimeout(self) -> float | None:
        """Return what `settimeout` set."""
        return self._timeout

    def setblocking(self, flag: bool) -> None:
        """Do ``settimeout(None)`` or ``settimeout(0)``."""
        self._timeout = None if flag else 0.0

    def getblocking(self) -> bool:
        """Say whether `send` and `recv` may wait."""
        return self._timeout != 0

    def fileno(self) -> int:
        """Return the descriptor, to be waited for only; -1 when closed. Readable does not mean that `recv` has one."""
        return self._sock.fileno()

    def getsockname(self) -> Any:
        """Return our own address."""
        return self._sock.getsockname()

    def getpeername(self) -> Any:
        """Return the peer's address."""
        return self._sock.getpeername()

    def close(self) -> None:
        """Close it. Closing twice does nothing."""
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> str:
        raise TypeError("a SecureDatagramSocket can't be pickled: it is secret")

    def __repr__(self) -> str:
        return f"<SecureDatagramSocket to {self.peer.name!r} of {self.peer.user!r} ({self.peer.path})>"

    # ---- inside ------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._sock.fileno() < 0:
            raise ClosedError("the secure datagram socket is closed")
        if os.getpid() != self._process:
            # Both processes would seal under the same numbers, which gives the clear text away.
            raise ClosedError("a secure datagram socket can't be used after a fork: meet again in the child")

    def _deadline(self) -> float | None:
        return None if self._timeout is None else clock() + self._timeout

    def _check_time(self, deadline: float) -> None:
        if self._timeout == 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if clock() >= deadline:
            raise TimeoutError("timed out")

    def _wait(self, mask: int, deadline: float | None) -> None:
        if deadline is None:
            left = None
        else:
            self._check_time(deadline)
            left = max(1, math.ceil((deadline - clock()) * 1000))
        poll = select.poll()
        poll.register(self._sock.fileno(), mask)
        poll.poll(left)
