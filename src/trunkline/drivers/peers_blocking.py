"""The blocking driver's connections to peers, until they are somebody's: accepted or dialled, read as far as the
machine wants and not a byte further, written, handed over.

Nothing here waits, and nothing but accepting calls the machine: what happened is appended to ``events``.
"""

import errno
import functools
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from trunkline.drivers.clock import now as clock
from trunkline.drivers.pollers import BROKEN, HANGUP, IN, OUT, Pollers
from trunkline.drivers.sockets import (
    Connection,
    Listeners,
    accept,
    be_prompt,
    bind_udp,
    connect_udp,
    dialling_socket,
    hand_out,
    hang_up,
)
from trunkline.drivers.uplinks_blocking import reason
from trunkline.errors import InvalidAddress
from trunkline.names import Peer
from trunkline.switchboard.events import (
    ClientEvent,
    Delivered,
    PeerBind,
    PeerBound,
    PeerClose,
    PeerData,
    PeerDial,
    PeerDialled,
    PeerLost,
    PeerOpened,
    PeerSend,
)

ACCEPT_PAUSE: Final = 0.1
"""Seconds for which nobody is accepted after the system ran out of descriptors or memory."""

_OUT_OF_ROOM: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class _Peer:
    __slots__ = ("conn", "datagram", "deadline", "local", "mask", "sock", "udp")

    def __init__(self, conn: int, sock: Connection) -> None:
        self.conn = conn
        self.sock = sock
        self.mask = 0
        """What the pollers look for; 0 while they don't."""
        self.deadline: float | None = None
        """While it is being connected."""
        self.datagram = False
        self.local = False
        self.udp: socket.socket | None = None


class Peers:
    """All connections to peers, by number, and the listeners.

    Args:
        pollers: where sockets are waited for.
        listeners: where we are dialled; closed with the rest.
        events: what happened.
        run: feeds the machine with ``events`` and carries the effects out.
        bytes_wanted: the machine's.
        dial_timeout: seconds that an attempt to connect may take.
    """

    def __init__(
        self,
        pollers: Pollers,
        listeners: Listeners,
        events: deque[ClientEvent],
        run: Callable[[], None],
        bytes_wanted: Callable[[int], int],
        dial_timeout: float,
    ) -> None:
        self._pollers = pollers
        self._listeners = listeners
        self._events = events
        self._run = run
        self._bytes_wanted = bytes_wanted
        self._dial_timeout = dial_timeout
        self._peers: dict[int, _Peer] = {}
        self.timed: set[int | None] = set()
        """What has a deadline: connections that are being made, and None for the pause in accepting."""
        self.touched: dict[int, _Peer] = {}
        """Those that `settle` has to look at."""
        self._last = 0
        self._accept_again: float | None = None
        for sock in listeners.sockets:
            pollers.add(sock.fileno(), IN, functools.partial(self._accept, sock, int(sock.family)))

    def __len__(self) -> int:
        return len(self._peers)

    # ---- effects -----------------------------------------------------------------------------------------------

    def dial(self, effect: PeerDial) -> None:
        """Connect to a candidate; PeerOpened or PeerLost follows."""
        conn = effect.conn
        try:
            sock, address = dialling_socket(effect.candidate)
        except (OSError, InvalidAddress) as error:
            self._events.append(PeerLost(conn, reason(error)))
            return
        peer = _Peer(conn, sock)
        peer.datagram = effect.datagram
        peer.local = effect.candidate.kind == "unix"
        self._peers[conn] = peer
        try:
            sock.connect(address)
        except BlockingIOError as error:
            if error.errno == errno.EAGAIN:  # a Unix listener with a full backlog, which can't be waited for
                self._lose(peer, "its backlog is full")
                return
            peer.deadline = clock() + self._dial_timeout
            self.timed.add(conn)
            self._look(peer, OUT)
        except OSError as error:
            self._lose(peer, reason(error))
        else:
            self._opened(peer)

    def send(self, effect: PeerSend) -> None:
        """Send bytes: so few, on a connection so young, that the kernel takes them all or the peer is gone."""
        peer = self._peers.get(effect.conn)
        if peer is None:
            return
        self.touched[peer.conn] = peer
        try:
            sent = peer.sock.send(effect.data, socket.MSG_DONTWAIT)
        except OSError as error:
            self._lose(peer, reason(error))
            return
        if sent != len(effect.data):
            self._lose(peer, "it takes no bytes")

    def bind(self, effect: PeerBind) -> None:
        """Connect the UDP socket of a datagram meeting; PeerBound is fed before anything else."""
        peer = self._peers.get(effect.conn)
        if peer is None:
            return
        try:
            if peer.udp is None:
                peer.udp = bind_udp(peer.sock)
            connect_udp(peer.udp, peer.sock, effect.udp_port)
            port = peer.udp.getsockname()[1]
        except OSError as error:
            self._lose(peer, reason(error))
            return
        self.touched[peer.conn] = peer
        self._events.appendleft(PeerBound(peer.conn, port))

    def close(self, effect: PeerClose) -> None:
        """Close a connection at once."""
        peer = self._peers.get(effect.conn)
        if peer is not None:
            self._drop(peer)

    def hand_over(self, effect: Delivered) -> Connection:
        """Return the connection of a meeting that is made, of a secure datagram meeting a `Carrier`; it blocks."""
        peer = self._peers.get(effect.conn)
        if peer is None:
            return _dead_end(effect.peer)  # lost while the commit was sent: its user reads EOF (S1)
        self._forget(peer)
        if peer.udp is None:
            conn = peer.sock
            conn.peer = effect.peer
        else:
            conn = hand_out(peer.sock, peer.udp, effect.peer, secure=bool(effect.claimed))
        conn.setblocking(True)
        return conn

    def settle(self) -> None:
        """After a turn: look for what the machine wants from those that were concerned."""
        touched, self.touched = self.touched, {}
        for conn, peer in touched.items():
            if conn in self._peers:
                self._look(peer, IN if self._bytes_wanted(conn) else HANGUP)

    # ---- time --------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Return when `handle_timer` is due."""
        due = [self._accept_again if conn is None else self._peers[conn].deadline for conn in self.timed]
        return min((when for when in due if when is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """End the attempts that took too long, accept again after a pause."""
        for peer in [self._peers[conn] for conn in self.timed if conn is not None]:
            if peer.deadline is not None and peer.deadline <= now:
                self._lose(peer, f"no answer within {self._dial_timeout:g} s")
        if self._accept_again is not None and self._accept_again <= now:
            self._accept_again = None
            self.timed.discard(None)
            for sock in self._listeners.sockets:
                self._pollers.change(sock.fileno(), IN)

    # ---- what happens on the sockets ----------------------------------------------------------------------------

    def _accept(self, listener: socket.socket, family: int, _: int) -> None:
        # One at a time: if more wait, the pollers say so again.
        try:
            sock = accept(listener, family)
        except OSError as error:
            if error.errno in _OUT_OF_ROOM:
                # The listener stays readable: without a pause the leader would spin.
                self._accept_again = clock() + ACCEPT_PAUSE
                self.timed.add(None)
                for paused in self._listeners.sockets:
                    self._pollers.change(paused.fileno(), 0)
            return
        self._last -= 1
        peer = self._peers[self._last] = _Peer(self._last, sock)
        self._events.append(PeerDialled(peer.conn))
        self._run()
        if peer.conn not in self._peers:
            return
        # Whoever dials speaks at once: most often its bytes are here, and looking for them is saved.
        self._read(peer, IN)
        self.touched[peer.conn] = peer

    def _opened(self, peer: _Peer) -> None:
        peer.deadline = None
        port = 0
        try:
            if not peer.local:
                be_prompt(peer.sock)
            if peer.datagram:
                peer.udp = bind_udp(peer.sock)
                port = peer.udp.getsockname()[1]
        except OSError as error:
            self._lose(peer, reason(error))
            return
        self._events.append(PeerOpened(peer.conn, port))

    def _ready(self, peer: _Peer, mask: int) -> None:
        if peer.deadline is None:
            self._read(peer, mask)
        elif mask & (OUT | BROKEN):  # else meant for an earlier socket with this descriptor
            self.timed.discard(peer.conn)
            error = peer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._lose(peer, os.strerror(error))
            else:
                self._opened(peer)

    def _read(self, peer: _Peer, mask: int) -> None:
        wanted = self._bytes_wanted(peer.conn)
        if not wanted:
            if mask & ~IN:
                self._lose(peer, "the peer hung up")
            return
        try:
            data = peer.sock.recv(wanted, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(peer, reason(error))
            return
        if data:
            self.touched[peer.conn] = peer
            self._events.append(PeerData(peer.conn, data))
        else:
            self._lose(peer, "the peer closed the connection")

    def _look(self, peer: _Peer, mask: int) -> None:
        if mask == peer.mask:
            return
        if peer.mask:
            self._pollers.change(peer.sock.fileno(), mask)
        else:
            self._pollers.add(peer.sock.fileno(), mask, lambda mask: self._ready(peer, mask), brief=True)
        peer.mask = mask

    # ---- the end -----------------------------------------------------------------------------------------------

    def _lose(self, peer: _Peer, why: str) -> None:
        self._drop(peer)
        self._events.append(PeerLost(peer.conn, why))

    def _drop(self, peer: _Peer) -> None:
        self._forget(peer)
        hang_up(peer.sock)
        if peer.udp is not None:
            peer.udp.close()

    def _forget(self, peer: _Peer) -> None:
        del self._peers[peer.conn]
        self.timed.discard(peer.conn)
        if peer.mask:
            self._pollers.remove(peer.sock.fileno())

    def hang_up(self) -> None:
        """Close every connection, so that the other end reads EOF whatever it has sent."""
        for peer in tuple(self._peers.values()):
            self._drop(peer)

    def abandon(self) -> None:
        """Close every descriptor and tell nobody."""
        for peer in self._peers.values():
            peer.sock.close()
            if peer.udp is not None:
                peer.udp.close()
        self._peers.clear()
        self._listeners.close()


def _dead_end(peer: Peer) -> Connection:
    ours, theirs = socket.socketpair()
    theirs.close()
    return Connection.adopt(ours, peer)
