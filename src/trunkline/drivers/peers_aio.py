"""The connections between one client and its peers, in asyncio, until they are delivered.

Raw sockets: at most the bytes that the machine wants are read, so none of the user's stream is taken. Each step is
tried at once and the loop asked only if it can't be done yet: on one host a dial is open, and its answer often
there, before the loop could say so.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Final, Protocol

from trunkline.drivers.channel_aio import reason
from trunkline.drivers.sockets import Connection, be_prompt, bind_udp, connect_udp, dialling_socket, hand_out, hang_up
from trunkline.errors import InvalidAddress
from trunkline.names import Peer
from trunkline.switchboard.events import (
    ClientEvent,
    PeerBind,
    PeerBound,
    PeerData,
    PeerDial,
    PeerDialled,
    PeerLost,
    PeerOpened,
    PeerSend,
)

_NOBODY: Final = Peer("")


class Wants(Protocol):
    """The part of the client's machine that is asked here."""

    def bytes_wanted(self, conn: int) -> int: ...


class _Peer:
    __slots__ = ("conn", "datagram", "reading", "sock", "udp")

    def __init__(self, conn: int, sock: socket.socket, *, datagram: bool) -> None:
        self.conn = conn
        self.sock = sock
        self.datagram = datagram
        self.udp: socket.socket | None = None
        self.reading = False


class PeerSockets:
    """All peer connections of one client.

    Args:
        loop: the running loop.
        machine: says how many bytes it wants of each.
        feed: takes the events.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, machine: Wants, feed: Callable[[ClientEvent], None]) -> None:
        self._loop = loop
        self._machine = machine
        self._feed = feed
        self._open: dict[int, _Peer] = {}
        self._last = 0

    def accepted(self, sock: socket.socket, remote: object) -> None:
        """Take over a connection that came in."""
        self._last -= 1
        peer = self._open[self._last] = _Peer(self._last, sock, datagram=False)
        self._feed(PeerDialled(peer.conn))
        if peer.conn in self._open:
            self._readable(peer)  # whoever dials speaks at once

    def dial(self, effect: PeerDial) -> None:
        """Carry out a dial."""
        try:
            sock, address = dialling_socket(effect.candidate)
        except (InvalidAddress, OSError) as error:
            self._feed(PeerLost(effect.conn, reason(error)))
            return
        peer = self._open[effect.conn] = _Peer(effect.conn, sock, datagram=effect.datagram)
        try:
            be_prompt(sock)
            sock.connect(address)
        except (BlockingIOError, InterruptedError) as error:
            if isinstance(address, str):  # for a Unix socket it means: the listener's queue is full
                self._lose(peer, reason(error))
            elif not _is_connected(sock):
                self._loop.add_writer(sock.fileno(), self._connected, peer)
            else:
                self._opened(peer)
        except OSError as error:
            self._lose(peer, reason(error))
        else:
            self._opened(peer)

    def send(self, effect: PeerSend) -> None:
        """Carry out a send: a few bytes on a fresh connection, so the kernel takes all of them or it is broken."""
        peer = self._open.get(effect.conn)
        if peer is None:
            return
        try:
            whole = peer.sock.send(effect.data) == len(effect.data)
        except OSError as error:
            self._lose(peer, reason(error))
            return
        if not whole:
            self._lose(peer, "the connection takes no data")
        elif self._machine.bytes_wanted(peer.conn):
            self._listen(peer)

    def bind(self, effect: PeerBind) -> None:
        """Carry out the pairing of the UDP sockets."""
        peer = self._open.get(effect.conn)
        if peer is None:
            return
        try:
            if peer.udp is None:
                peer.udp = bind_udp(peer.sock)
            connect_udp(peer.udp, peer.sock, effect.udp_port)
        except (OSError, OverflowError) as error:
            self._lose(peer, reason(error))
            return
        self._feed(PeerBound(peer.conn, peer.udp.getsockname()[1]))

    def close(self, conn: int) -> None:
        """Carry out a close."""
        peer = self._open.pop(conn, None)
        if peer is not None:
            self._release(peer)
            hang_up(peer.sock)
            if peer.udp is not None:
                peer.udp.close()

    def take(self, conn: int, who: Peer = _NOBODY, *, secure: bool = False) -> Connection | None:
        """Hand a connection over: of a datagram meeting the UDP socket, or the `Carrier`. None if it is gone."""
        peer = self._open.pop(conn, None)
        if peer is None:
            return None
        self._release(peer)
        if peer.udp is None:
            return Connection.adopt(peer.sock, who)
        return hand_out(peer.sock, peer.udp, who, secure=secure)

    def close_all(self) -> None:
        """Close everything that was not handed over."""
        for conn in tuple(self._open):
            self.close(conn)

    def abandon(self) -> None:
        """Close the descriptors only: the loop's selector belongs to the parent process."""
        for peer in self._open.values():
            peer.sock.close()
            if peer.udp is not None:
                peer.udp.close()
        self._open.clear()

    # ---- inside ---------------------------------------------------------------------------------------------

    def _connected(self, peer: _Peer) -> None:
        self._loop.remove_writer(peer.sock.fileno())
        failure = peer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure:
            self._lose(peer, os.strerror(failure).lower())
        else:
            self._opened(peer)

    def _opened(self, peer: _Peer) -> None:
        port = 0
        if peer.datagram:
            try:
                peer.udp = bind_udp(peer.sock)
                port = peer.udp.getsockname()[1]
            except OSError as error:
                self._lose(peer, reason(error))
                return
        self._feed(PeerOpened(peer.conn, port))

    def _readable(self, peer: _Peer) -> None:
        wanted = self._machine.bytes_wanted(peer.conn)
        if wanted:
            try:
                data = peer.sock.recv(wanted)
            except (BlockingIOError, InterruptedError):
                self._listen(peer)
                return
            except OSError as error:
                self._lose(peer, reason(error))
                return
            if not data:
                self._lose(peer, "closed by the peer")
                return
            self._feed(PeerData(peer.conn, data))
        if self._open.get(peer.conn) is peer:
            if self._machine.bytes_wanted(peer.conn):
                self._listen(peer)
            elif peer.reading:
                # Not our bytes, or not yet: the loop would only spin on them.
                peer.reading = False
                self._loop.remove_reader(peer.sock.fileno())

    def _listen(self, peer: _Peer) -> None:
        if not peer.reading:
            peer.reading = True
            self._loop.add_reader(peer.sock.fileno(), self._readable, peer)

    def _lose(self, peer: _Peer, why: str) -> None:
        self.close(peer.conn)
        self._feed(PeerLost(peer.conn, why))

    def _release(self, peer: _Peer) -> None:
        descriptor = peer.sock.fileno()
        if peer.reading:
            peer.reading = False
            self._loop.remove_reader(descriptor)
        self._loop.remove_writer(descriptor)


def _is_connected(sock: socket.socket) -> bool:
    # Over loopback the handshake is done before connect() returns, although it says "in progress".
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
