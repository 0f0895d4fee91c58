"""One `Client` machine and its sockets, for whoever has the thread to turn it (docs/spec/switchboard.md section 1).

Rule 1: everything here but `wait` is called under the lock of the owner (`trunkline.drivers.client_blocking`); `wait`
is called by one thread at a time, the leader, without it.

Rule 2: nothing here blocks but `wait`.

Rule 3: two pollers, one inside the other. What lives long (links to servers, listeners) is in an epoll set. A socket
to a peer lives for two round trips, so telling the kernel of it and taking it back would cost as much as its use: it
goes into the list that `poll` takes instead, and the epoll set is the first entry of that list. The leader alone
reads the list; what others open while it sleeps goes into the epoll set, which the kernel lets them change.
"""

import contextlib
import errno
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from trunkline.drivers.clock import now as clock
from trunkline.drivers.sockets import (
    Connection,
    Listeners,
    be_prompt,
    bind_udp,
    connect_udp,
    dialling_socket,
)
from trunkline.errors import InvalidAddress, RemoteError
from trunkline.names import Peer
from trunkline.switchboard.client import Client
from trunkline.switchboard.config import ClientConfig
from trunkline.switchboard.events import (
    Answered,
    ClientEffect,
    ClientEvent,
    Close,
    Delivered,
    Dial,
    Failed,
    Log,
    Lost,
    Noticed,
    Opened,
    PeerBind,
    PeerBound,
    PeerClose,
    PeerData,
    PeerDial,
    PeerDialled,
    PeerLost,
    PeerOpened,
    PeerSend,
    PostStands,
    Received,
    Remember,
    Send,
    Stop,
    Tick,
)
from trunkline.wire.codec import PREAMBLE, Inbound, encode, encode_into
from trunkline.wire.messages import Goodbye

CHUNK: Final = 16 * 1024
"""Most bytes taken from a server in one read."""

MAX_UNSENT: Final = 4 * 1024 * 1024
"""Most bytes that wait for a server which doesn't read; then the link is given up."""

ACCEPT_PAUSE: Final = 0.1
"""Seconds for which nobody is accepted after the system ran out of descriptors or memory."""

_OUT_OF_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_HANGUP: Final = select.EPOLLRDHUP
"""poll and epoll have the same numbers for these on Linux."""

Outcome = Delivered | Failed | PostStands | Answered | Noticed | Remember | Log
Ready = list[tuple[int, int]]


class _Link:
    """A connection to a server."""

    __slots__ = ("addresses", "conn", "deadline", "fd", "inbound", "mask", "out", "remote", "sock")

    def __init__(self, conn: int, remote: str, deadline: float) -> None:
        self.conn = conn
        self.remote = remote
        self.deadline: float | None = deadline
        self.addresses: list[tuple[int, tuple[str, int]]] = []
        self.sock: socket.socket | None = None
        self.fd = -1
        self.mask = 0
        self.inbound = Inbound()
        self.out = bytearray(PREAMBLE)


class _Peer:
    """A connection to a peer that is not yet anybody's."""

    __slots__ = ("conn", "datagram", "deadline", "fd", "fresh", "mask", "sock", "udp")

    def __init__(self, conn: int, sock: socket.socket) -> None:
        self.conn = conn
        self.sock = sock
        self.fd = sock.fileno()
        self.mask = 0
        self.fresh = True
        self.deadline: float | None = None  # while it is being connected
        self.datagram = False
        self.udp: socket.socket | None = None


class Pump:
    """Turns readiness into events and effects into system calls.

    Args:
        config: settings of the machine.
        listeners: where peers dial us; closed with the pump.
        outcome: called with what callers wait for; with `Delivered` comes the connection.
    """

    def __init__(
        self,
        config: ClientConfig,
        listeners: Listeners,
        outcome: Callable[[Outcome, Connection | None], None],
    ) -> None:
        self.leading = False
        """Whether a thread is inside `wait`; set by the owner."""
        self._outcome = outcome
        self._dial_timeout = config.dial_timeout
        self._machine = Client(config, seed=os.urandom(32), now=clock())
        self._events: deque[ClientEvent] = deque()
        self._links: dict[int, _Link] = {}
        self._unsent: list[_Link] = []
        self._peers: dict[int, _Peer] = {}
        self._dialling: dict[int, _Link | _Peer] = {}
        self._touched: dict[int, _Peer] = {}
        self._inbound_id = 0
        self._resolved: deque[tuple[_Link, list[tuple[int, tuple[str, int]]], str]] = deque()
        self._accept_again: float | None = None
        self._listeners = listeners
        self._epoll = select.epoll()
        self._epoll_fd = self._epoll.fileno()
        self._poll = select.poll()
        self._poll.register(self._epoll_fd, _IN)
        self._fresh: dict[int, _Peer] = {}
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._bell, _IN)
        self._at: dict[int, _Link | _Peer | socket.socket] = {}
        for sock in listeners.sockets:
            self._at[sock.fileno()] = sock
            self._epoll.register(sock.fileno(), _IN)
        self._carry: dict[type, Callable[..., None]] = {
            Send: self._send,
            PeerDial: self._peer_dial,
            PeerSend: self._peer_send,
            Delivered: self._delivered,
            PeerClose: self._peer_close,
            PeerBind: self._peer_bind,
            Dial: self._dial,
            Close: self._close_link,
        }

    # ---- the machine -------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether anything is open that needs heartbeats or timers."""
        return bool(self._links or self._peers) or self._machine.next_deadline() is not None

    def step(self, event: ClientEvent) -> None:
        """Feed one event and what follows from it, then write what there is to write."""
        events = self._events
        events.append(event)
        now = clock()
        step = self._machine.step
        while True:
            while events:
                for effect in step(events.popleft(), now):
                    self._carry_out(effect)
            if self._unsent:
                self._flush()
            if self._touched:
                self._watch_touched()
            if not events:
                return

    def later(self, event: ClientEvent) -> None:
        """Feed ``event`` when the effects at hand are carried out; for use inside ``outcome``."""
        self._events.append(event)

    def _carry_out(self, effect: ClientEffect) -> None:
        carry = self._carry.get(type(effect))
        if carry is not None:
            carry(effect)
        else:
            self._outcome(effect, None)  # type: ignore[arg-type]  # the table has all the others

    def next_deadline(self) -> float | None:
        """Return when `tick` is due."""
        due = self._machine.next_deadline()
        if self._dialling:
            first = min(entry.deadline for entry in self._dialling.values() if entry.deadline is not None)
            due = first if due is None else min(due, first)
        if self._accept_again is not None:
            due = self._accept_again if due is None else min(due, self._accept_again)
        return due

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self._dialling:
            late = [e for e in self._dialling.values() if e.deadline is not None and e.deadline <= now]
            for entry in late:
                self._give_up(entry, f"no answer within {self._dial_timeout:g} s")
        if self._accept_again is not None and self._accept_again <= now:
            self._accept_again = None
            for sock in self._listeners.sockets:
                self._epoll.modify(sock.fileno(), _IN)
        self.step(Tick())

    # ---- waiting -----------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None) -> Ready:
        """Return what is ready, after ``timeout`` seconds at the latest. The only call that blocks."""
        if self._fresh:
            return self._poll.poll(None if timeout is None else timeout * 1000)
        return self._epoll.poll(timeout, 64)

    def wait_aside(self, timeout: float | None) -> Ready:
        """Do `wait` for the helper thread: `adopt_fresh` came before, so the epoll set has everything."""
        return self._epoll.poll(timeout, 64)

    def adopt_fresh(self) -> None:
        """Move the short-lived sockets into the epoll set, since no leader reads the list for now."""
        for peer in self._fresh.values():
            self._poll.unregister(peer.fd)
            peer.fresh = False
            self._epoll.register(peer.fd, peer.mask)
        self._fresh.clear()

    def ring(self) -> None:
        """Make whoever waits return: the deadline that it knows is no longer the first."""
        os.eventfd_write(self._bell, 1)

    def handle(self, ready: Ready) -> None:
        """Do the reading and writing that `wait` found possible."""
        for fd, mask in ready:
            if fd == self._epoll_fd:
                self.handle(self._epoll.poll(0, 64))
                continue
            entry = self._at.get(fd)
            if isinstance(entry, _Peer):
                self._peer_ready(entry, mask)
            elif isinstance(entry, _Link):
                self._link_ready(entry, mask)
            elif entry is not None:
                self._accept(entry)
            elif fd == self._bell:
                os.eventfd_read(self._bell)
                while self._resolved:
                    self._connect_resolved(*self._resolved.popleft())

    # ---- servers -----------------------------------------------------------------------------------------------

    def _dial(self, effect: Dial) -> None:
        address = effect.address
        link = _Link(effect.conn, str(address), clock() + self._dial_timeout)
        self._links[link.conn] = self._dialling[link.conn] = link
        try:
            addresses = _resolve(address.host, address.port, socket.AI_NUMERICHOST)
        except OSError:
            # A name: the resolver may take its time, and it can't be told to be quick.
            threading.Thread(
                target=self._ask_resolver,
                args=(link, address.host, address.port),
                name="trunkline-resolver",
                daemon=True,
            ).start()
        else:
            self._connect_resolved(link, addresses, "")

    def _ask_resolver(self, link: _Link, host: str, port: int) -> None:
        found: list[tuple[int, tuple[str, int]]] = []
        why = ""
        try:
            found = _resolve(host, port, 0)
        except (OSError, UnicodeError) as error:
            why = f"{host} is not known: {error}"
        self._resolved.append((link, found, why))
        with contextlib.suppress(OSError):  # the pump may be closed by now
            self.ring()

    def _connect_resolved(self, link: _Link, addresses: list[tuple[int, tuple[str, int]]], why: str) -> None:
        if self._links.get(link.conn) is not link:
            return  # closed or given up meanwhile
        link.addresses = addresses
        self._connect_next(link, why)

    def _connect_next(self, link: _Link, why: str) -> None:
        while link.addresses:
            family, address = link.addresses.pop(0)
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                why = _reason(error)
                continue
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                be_prompt(sock)
            link.sock, link.fd = sock, sock.fileno()
            self._at[link.fd] = link
            try:
                sock.connect(address)
            except BlockingIOError:
                link.mask = _OUT
                self._epoll.register(link.fd, _OUT)
                return
            except OSError as error:
                why = _reason(error)
                self._shut_link(link)
                continue
            self._link_opened(link)
            return
        self._drop_link(link)
        self._events.append(Lost(link.conn, why))

    def _link_opened(self, link: _Link) -> None:
        del self._dialling[link.conn]
        link.deadline = None
        if link.mask:
            self._epoll.modify(link.fd, _IN)
        else:
            self._epoll.register(link.fd, _IN)
        link.mask = _IN
        self._unsent.append(link)
        self._events.append(Opened(link.conn, link.remote))

    def _link_ready(self, link: _Link, mask: int) -> None:
        sock = link.sock
        assert sock is not None, "it is in the table of descriptors"
        if link.deadline is not None:  # its connect() is over
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._shut_link(link)
                self._connect_next(link, os.strerror(error))
            else:
                self._link_opened(link)
            self._step_pending()
            return
        if mask & ~_OUT:
            try:
                data = sock.recv(CHUNK)
            except BlockingIOError:
                return
            except OSError as error:
                self._lose_link(link, _reason(error))
                return
            if not data:
                self._lose_link(link, "the server closed the connection")
                return
            try:
                messages = link.inbound.receive_data(data)
            except RemoteError as error:
                self._say_goodbye(link, error)
                self._lose_link(link, str(error))
                return
            conn = link.conn
            for message in messages:
                self._events.append(Received(conn, message))
        if mask & _OUT and link.out:
            self._unsent.append(link)
        self._step_pending()

    def _step_pending(self) -> None:
        if self._events:
            self.step(self._events.popleft())
        elif self._unsent:
            self._flush()

    def _send(self, effect: Send) -> None:
        link = self._links.get(effect.conn)
        if link is not None:
            if len(link.out) <= MAX_UNSENT:
                encode_into(effect.message, link.out)
            self._unsent.append(link)

    def _flush(self) -> None:
        links, self._unsent = self._unsent, []
        for link in links:
            out = link.out
            if not out or link.deadline is not None or link.sock is None:
                continue  # sent with an earlier message of this turn, or not yet connected, or gone
            try:
                sent = link.sock.send(out)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._drop_link(link)
                self._events.append(Lost(link.conn, _reason(error)))
                continue
            if sent == len(out):
                out.clear()
            else:
                del out[:sent]
                if len(out) > MAX_UNSENT:
                    self._drop_link(link)
                    self._events.append(Lost(link.conn, f"the server left {len(out)} bytes unread"))
                    continue
            mask = _IN | _OUT if out else _IN
            if mask != link.mask:
                link.mask = mask
                self._epoll.modify(link.fd, mask)

    def _say_goodbye(self, link: _Link, error: RemoteError) -> None:
        assert link.sock is not None, "it sent something"
        with contextlib.suppress(OSError):
            link.sock.send(bytes(link.out) + encode(Goodbye(error.code, str(error)[:200])))

    def _lose_link(self, link: _Link, reason: str) -> None:
        self._drop_link(link)
        self.step(Lost(link.conn, reason))

    def _close_link(self, effect: Close) -> None:
        link = self._links.get(effect.conn)
        if link is not None:
            if link.out:
                self._unsent.append(link)
                self._flush()
            self._drop_link(link)

    def _drop_link(self, link: _Link) -> None:
        self._links.pop(link.conn, None)
        self._dialling.pop(link.conn, None)
        self._shut_link(link)

    def _shut_link(self, link: _Link) -> None:
        if link.sock is not None:
            del self._at[link.fd]
            if link.mask:
                self._epoll.unregister(link.fd)
                link.mask = 0
            link.sock.close()
            link.sock = None

    # ---- peers -------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in _OUT_OF_ROOM:
                self._accept_again = clock() + ACCEPT_PAUSE
                for sock in self._listeners.sockets:
                    self._epoll.modify(sock.fileno(), 0)
            return
        self._inbound_id -= 1
        peer = _Peer(self._inbound_id, sock)
        self._peers[peer.conn] = self._at[peer.fd] = peer
        self.step(PeerDialled(peer.conn))
        if peer.conn in self._peers:
            self._peer_read(peer)  # whoever dials speaks at once: most often its bytes are here
            if peer.conn in self._peers and not peer.mask:
                self._watch(peer)

    def _peer_dial(self, effect: PeerDial) -> None:
        conn = effect.conn
        try:
            sock, address = dialling_socket(effect.candidate)
        except (OSError, InvalidAddress) as error:
            self._events.append(PeerLost(conn, _reason(error)))
            return
        peer = _Peer(conn, sock)
        peer.datagram = effect.datagram
        self._peers[conn] = self._at[peer.fd] = peer
        try:
            sock.connect(address)
        except BlockingIOError as error:
            if (
                error.errno == errno.EAGAIN
            ):  # of a Unix listener whose backlog is full; it can't be waited for
                self._lose_peer(peer, "its backlog is full")
                return
            peer.deadline = clock() + self._dial_timeout
            self._dialling[conn] = peer
            self._set_mask(peer, _OUT)
        except OSError as error:
            self._lose_peer(peer, _reason(error))
        else:
            self._peer_opened(peer)

    def _peer_opened(self, peer: _Peer) -> None:
        peer.deadline = None
        try:
            be_prompt(peer.sock)
            if peer.datagram:
                peer.udp = bind_udp(peer.sock)
        except OSError as error:
            self._lose_peer(peer, _reason(error))
            return
        port = peer.udp.getsockname()[1] if peer.udp is not None else 0
        self._events.append(PeerOpened(peer.conn, port))

    def _peer_ready(self, peer: _Peer, mask: int) -> None:
        if peer.deadline is not None:  # its connect() is over
            self._dialling.pop(peer.conn, None)
            error = peer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._lose_peer(peer, os.strerror(error))
            else:
                self._peer_opened(peer)
            self._step_pending()
        else:
            self._peer_read(peer, hung_up=bool(mask & ~_IN))

    def _peer_read(self, peer: _Peer, *, hung_up: bool = False) -> None:
        wanted = self._machine.bytes_wanted(peer.conn)
        if not wanted:
            if hung_up:
                self._lose_peer(peer, "the peer hung up")
                self._step_pending()
            return
        try:
            data = peer.sock.recv(wanted, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose_peer(peer, _reason(error))
            self._step_pending()
            return
        if data:
            self._touched[peer.conn] = peer
            self.step(PeerData(peer.conn, data))
        else:
            self._lose_peer(peer, "the peer closed the connection")
            self._step_pending()

    def _peer_send(self, effect: PeerSend) -> None:
        peer = self._peers.get(effect.conn)
        if peer is None:
            return
        data = effect.data
        self._touched[peer.conn] = peer
        try:
            if peer.sock.send(data, socket.MSG_DONTWAIT) == len(data):
                return
            why = "it takes no bytes"
        except OSError as error:
            why = _reason(error)
        self._lose_peer(peer, why)

    def _peer_bind(self, effect: PeerBind) -> None:
        peer = self._peers.get(effect.conn)
        if peer is None:
            return
        try:
            if peer.udp is None:
                peer.udp = bind_udp(peer.sock)
            connect_udp(peer.udp, peer.sock, effect.udp_port)
        except (OSError, OverflowError) as error:
            self._lose_peer(peer, _reason(error))
            return
        self._touched[peer.conn] = peer
        # Ahead of everything else: the machine waits for it before any later effect on this connection.
        self._events.appendleft(PeerBound(peer.conn, peer.udp.getsockname()[1]))

    def _watch_touched(self) -> None:
        touched, self._touched = self._touched, {}
        for peer in touched.values():
            if peer.conn in self._peers:
                self._watch(peer)

    def _watch(self, peer: _Peer) -> None:
        self._set_mask(peer, _IN if self._machine.bytes_wanted(peer.conn) else _HANGUP)

    def _set_mask(self, peer: _Peer, mask: int) -> None:
        if mask == peer.mask:
            return
        if not peer.mask:
            peer.fresh = not self.leading
            if not peer.fresh:
                self._epoll.register(peer.fd, mask)
        elif not peer.fresh:
            self._epoll.modify(peer.fd, mask)
        if peer.fresh:
            self._fresh[peer.fd] = peer
            self._poll.register(peer.fd, mask)
        peer.mask = mask

    def _forget_peer(self, peer: _Peer) -> None:
        del self._peers[peer.conn]
        self._dialling.pop(peer.conn, None)
        del self._at[peer.fd]
        if not peer.mask:
            return
        if peer.fresh:
            del self._fresh[peer.fd]
            self._poll.unregister(peer.fd)
        else:
            self._epoll.unregister(peer.fd)
        peer.mask = 0

    def _lose_peer(self, peer: _Peer, reason: str) -> None:
        self._drop_peer(peer)
        self._events.append(PeerLost(peer.conn, reason))

    def _peer_close(self, effect: PeerClose) -> None:
        peer = self._peers.get(effect.conn)
        if peer is not None:
            self._drop_peer(peer)

    def _drop_peer(self, peer: _Peer) -> None:
        self._forget_peer(peer)
        peer.sock.close()
        if peer.udp is not None:
            peer.udp.close()

    def _give_up(self, entry: _Link | _Peer, reason: str) -> None:
        if isinstance(entry, _Peer):
            self._lose_peer(entry, reason)
        else:
            self._drop_link(entry)
            self._events.append(Lost(entry.conn, reason))

    def _delivered(self, effect: Delivered) -> None:
        peer = self._peers.get(effect.conn)
        if peer is None:
            # The commit could not be sent: the peer is gone, and the caller reads EOF from what it gets (S1).
            self._outcome(effect, _dead_end(effect.peer))
            return
        self._forget_peer(peer)
        if peer.udp is None:
            conn = Connection.adopt(peer.sock, effect.peer)
        else:
            conn = Connection.adopt(peer.udp, effect.peer)
            peer.sock.close()
        conn.settimeout(None)
        self._outcome(effect, conn)

    # ---- the end -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave in good order: say goodbye, close everything."""
        self.step(Stop())
        self.abandon()

    def abandon(self) -> None:
        """Close every descriptor and tell nobody: after a fork in the child, or when all is lost.

        The epoll set is closed, not emptied: after a fork it is still the parent's.
        """
        self._epoll.close()
        os.close(self._bell)
        for link in list(self._links.values()):
            if link.sock is not None:
                link.sock.close()
        for peer in list(self._peers.values()):
            peer.sock.close()
            if peer.udp is not None:
                peer.udp.close()
        self._listeners.close()
        self._links.clear()
        self._peers.clear()


def _resolve(host: str, port: int, flags: int) -> list[tuple[int, tuple[str, int]]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)


def _dead_end(peer: Peer) -> Connection:
    ours, theirs = socket.socketpair()
    theirs.close()
    return Connection.adopt(ours, peer)
