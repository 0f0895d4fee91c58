"""The blocking driver's secure handshakes: one with a caller who waits for it, and those of posts, all at once.

Whoever calls secure_meet has a thread to do its handshake with (`prove`). The handshakes of a post are done by whoever
turns the reactor, like the plain exchange before them: so a post whose owner computes goes on proving, and a client
that is slow, or hostile, keeps nobody waiting (`Proofs`).
"""

import contextlib
import select
import socket
import threading
from collections.abc import Callable
from typing import Final

from trunkline.drivers.clock import now as clock
from trunkline.drivers.pollers import IN, OUT, Pollers
from trunkline.drivers.secure_sockets import Member, Prepared, SecureConnection, SecureHandshake, Want
from trunkline.drivers.sockets import Connection, hang_up
from trunkline.errors import ClosedError, TrunklineError

Outcome = SecureConnection | TrunklineError

_MASK: Final = {Want.READ: IN, Want.WRITE: OUT}


class Span:
    """The time until the client is closed: what callers do with sockets of their own, `close` has to end too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._conns: set[SecureConnection] = set()
        self._over = False

    def check(self) -> None:
        """See that it goes on.

        Raises:
            ClosedError: the client was closed.
        """
        if self._over:
            raise ClosedError("the switchboard was closed meanwhile")

    def end(self) -> None:
        """Wake everybody who is in a handshake: the peer reads EOF, and so do they."""
        with self._lock:
            self._over = True
            for conn in self._conns:
                with contextlib.suppress(OSError):
                    # Below TLS: its state belongs to the thread that is in the handshake.
                    socket.socket.shutdown(conn, socket.SHUT_RDWR)

    def enter(self, conn: SecureConnection) -> None:
        """Have `end` wake whoever waits for ``conn``."""
        with self._lock:
            self.check()
            self._conns.add(conn)

    def leave(self, conn: SecureConnection) -> None:
        """Leave ``conn`` alone from now on: it may be closed, and its descriptor be another's."""
        with self._lock:
            self._conns.discard(conn)


def prove(handshake: SecureHandshake, sock: Connection, span: Span, ahead: Prepared | None = None) -> SecureConnection:
    """Return the connection, which blocks, once the peer has proved who it is. If not, it is closed.

    Args:
        ahead: what was got ready before there was a connection.

    Raises:
        ClosedError: the client was closed before it was done.
        TrunklineError: as `SecureHandshake.step`.
    """
    sock.setblocking(False)
    conn = handshake.over_socket(sock, ahead)
    try:
        span.enter(conn)
        poll: select.poll | None = None
        while (want := handshake.step(clock())) is not Want.NOTHING:
            if poll is None:
                poll = select.poll()
            poll.register(conn, _MASK[want])
            poll.poll(max(handshake.deadline - clock(), 0.0) * 1000)
            if clock() >= handshake.deadline:  # whatever has come: who sends a byte at a time gets no longer
                handshake.expire(clock())
        span.leave(conn)
        span.check()
        conn.setblocking(True)
    except BaseException as error:
        span.leave(conn)
        conn.hang_up()
        if isinstance(error, TrunklineError):
            span.check()  # then it is no fault of the peer's
        raise
    conn.peer = handshake.peer
    return conn


class _Proof:
    __slots__ = ("conn", "done", "fd", "handshake", "mask", "owner")

    def __init__(
        self, owner: bytes, handshake: SecureHandshake, conn: Connection, done: Callable[[Outcome], None]
    ) -> None:
        self.owner = owner
        self.handshake = handshake
        self.conn: Connection | SecureConnection = conn
        """TLS begins when the peer says hello; the descriptor stays the same."""
        self.fd = conn.fileno()
        self.done = done
        self.mask = 0


class Proofs:
    """The handshakes of posts. Nothing here waits; all is called under the lock of the reactor's owner.

    Args:
        pollers: where sockets are waited for.
    """

    def __init__(self, pollers: Pollers) -> None:
        self._pollers = pollers
        self._proofs: dict[int, _Proof] = {}
        """By descriptor; the oldest first, so the first one's deadline is the next."""
        self._members: dict[bytes, Member] = {}
        """Of posts: their certificates and heads are kept fresh while the posts stand."""

    def __len__(self) -> int:
        return len(self._proofs)

    @property
    def timed(self) -> bool:
        """Whether anything here has a deadline."""
        return bool(self._proofs or self._members)

    def begin(
        self, owner: bytes, handshake: SecureHandshake, sock: Connection, done: Callable[[Outcome], None]
    ) -> None:
        """Prove who is at the other end of ``sock``; ``done`` gets the connection, which blocks then, or why not.

        Args:
            owner: the request that it belongs to; see `drop`.
        """
        sock.setblocking(False)
        proof = _Proof(owner, handshake, sock, done)
        self._proofs[proof.fd] = proof
        self._step(proof)  # whoever commits says Hello with it: most often it is here

    def keep_fresh(self, owner: bytes, member: Member) -> None:
        """Have the membership of a post do what is due, until `drop`."""
        self._members[owner] = member

    def drop(self, owner: bytes) -> None:
        """Close the connections of one owner; nobody is told."""
        self._members.pop(owner, None)
        for proof in list(self._proofs.values()):
            if proof.owner == owner:
                self._forget(proof)
                proof.conn.close()

    def next_deadline(self) -> float | None:
        """Return when `handle_timer` is due."""
        due = [when for member in self._members.values() if (when := member.next_deadline()) is not None]
        for proof in self._proofs.values():
            due.append(proof.handshake.deadline)
            break
        return min(due, default=None)

    def handle_timer(self, now: float) -> None:
        """End those that have had their time, and do what is due for members."""
        for member in self._members.values():
            when = member.next_deadline()
            if when is not None and when <= now:
                member.tick()
        for proof in list(self._proofs.values()):
            if proof.handshake.deadline > now:
                return
            try:
                proof.handshake.expire(now)
            except TrunklineError as error:
                self._fail(proof, error)

    def hang_up(self) -> None:
        """Break all of them off, so that their peers read EOF."""
        for proof in self._proofs.values():
            self._look_away(proof)
            _hang_up(proof.conn)
        self._proofs.clear()

    def abandon(self) -> None:
        """Close every descriptor and tell nobody."""
        for proof in self._proofs.values():
            proof.conn.close()
        self._proofs.clear()

    def _step(self, proof: _Proof) -> None:
        handshake, conn = proof.handshake, proof.conn
        try:
            if not isinstance(conn, SecureConnection):
                if not handshake.can_begin(conn):
                    self._look(proof, IN)
                    return
                self._look_away(proof)  # it may be closed by this
                conn = proof.conn = handshake.over_socket(conn)
            want = handshake.step(clock())
        except TrunklineError as error:
            self._fail(proof, error)
            return
        if want is not Want.NOTHING:
            self._look(proof, _MASK[want])
            return
        self._forget(proof)
        conn.setblocking(True)
        conn.peer = proof.handshake.peer
        proof.done(conn)

    def _look(self, proof: _Proof, mask: int) -> None:
        if mask == proof.mask:
            return
        if proof.mask:
            self._pollers.change(proof.fd, mask)
        else:
            self._pollers.add(proof.fd, mask, lambda _: self._step(proof), brief=True)
        proof.mask = mask

    def _fail(self, proof: _Proof, error: TrunklineError) -> None:
        self._forget(proof)
        _hang_up(proof.conn)
        proof.done(error)

    def _forget(self, proof: _Proof) -> None:
        del self._proofs[proof.fd]
        self._look_away(proof)

    def _look_away(self, proof: _Proof) -> None:
        if proof.mask:
            self._pollers.remove(proof.fd)
            proof.mask = 0


def _hang_up(conn: Connection | SecureConnection) -> None:
    if isinstance(conn, SecureConnection):
        conn.hang_up()
    else:
        hang_up(conn)
