"""The blocking driver's connections to servers: dialled, read into messages, written once for each turn.

Nothing here waits, and nothing calls the machine: what happened is appended to ``events``.

With a realm every connection speaks TLS, and counts as opened only when the server has proved to be one of the realm's.
"""

import contextlib
import os
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from trunkline.drivers.clock import now as clock
from trunkline.drivers.pollers import BROKEN, IN, OUT, Pollers
from trunkline.drivers.servers_tls import WAITS, RealmMember, check_server, dialled, why_failed, why_lost
from trunkline.drivers.sockets import be_prompt
from trunkline.errors import RemoteError, StaleHead, TrunklineError, TrustError
from trunkline.switchboard.events import ClientEvent, Close, Dial, Lost, Opened, Received, Send
from trunkline.wire.codec import PREAMBLE, Inbound, encode, encode_into
from trunkline.wire.limits import MAX_TEXT
from trunkline.wire.messages import Goodbye

CHUNK: Final = 16 * 1024
"""Most bytes taken from a server in one read."""

MAX_UNSENT: Final = 4 * 1024 * 1024
"""Most bytes that wait for a server which doesn't read; then the connection is given up."""

AUDIT: Final = 60.0
"""Seconds between two looks at whether the certificates of connected servers still hold."""

_Addresses = list[tuple[int, tuple[str, int]]]


class _Uplink:
    __slots__ = ("addresses", "conn", "deadline", "inbound", "mask", "out", "remote", "sock")

    def __init__(self, conn: int, remote: str, deadline: float) -> None:
        self.conn = conn
        self.remote = remote
        self.deadline: float | None = deadline
        """Until it is connected, and TLS stands."""
        self.addresses: _Addresses = []
        """Still to be tried."""
        self.sock: socket.socket | None = None
        self.mask = 0
        self.inbound = Inbound()
        self.out = bytearray(PREAMBLE)


class Uplinks:
    """All connections to servers, by number.

    Args:
        pollers: where sockets are waited for.
        events: what happened.
        dial_timeout: seconds that an attempt to connect may take.
        look_around: returns events to be fed before a server is `Opened`.
        member: the realm that the servers have to be of; None for plain connections.
    """

    def __init__(
        self,
        pollers: Pollers,
        events: deque[ClientEvent],
        dial_timeout: float,
        look_around: Callable[[], Iterable[ClientEvent]] = tuple,
        member: RealmMember | None = None,
    ) -> None:
        self._member = member
        self._audit_due = clock() + AUDIT
        self._look_around = look_around
        self._pollers = pollers
        self._events = events
        self._dial_timeout = dial_timeout
        self._links: dict[int, _Uplink] = {}
        self.dialling: dict[int, _Uplink] = {}
        """Those that are being connected: they alone have deadlines."""
        self.unsent: list[_Uplink] = []
        """Those that `flush` has to look at."""
        self.resolved: deque[tuple[_Uplink, _Addresses, str]] = deque()
        """What the resolver found, for `take_resolved`."""

    def __len__(self) -> int:
        return len(self._links)

    # ---- effects -----------------------------------------------------------------------------------------------

    def dial(self, effect: Dial) -> None:
        """Connect to a server; Opened or Lost follows."""
        host, port = effect.address.host, effect.address.port
        link = _Uplink(effect.conn, str(effect.address), clock() + self._dial_timeout)
        self._links[link.conn] = self.dialling[link.conn] = link
        try:
            addresses = _resolve(host, port, socket.AI_NUMERICHOST)
        except OSError:
            # It is a name. The resolver may take its time, and can't be told to be quick.
            threading.Thread(
                target=self._ask_resolver, args=(link, host, port), name="trunkline-resolver", daemon=True
            ).start()
        else:
            link.addresses = addresses
            self._connect_next(link, "")

    def send(self, effect: Send) -> None:
        """Put a message in line; `flush` sends it."""
        link = self._links.get(effect.conn)
        if link is not None:
            encode_into(effect.message, link.out)
            self.unsent.append(link)

    def close(self, effect: Close) -> None:
        """Close a connection; what was sent before goes out first."""
        link = self._links.get(effect.conn)
        if link is not None:
            self.flush()
            if isinstance(link.sock, ssl.SSLSocket) and link.deadline is None:
                with contextlib.suppress(OSError, ValueError):
                    link.sock.unwrap()  # sends "close notify", and would wait for theirs
            self._drop(link)

    def flush(self) -> None:
        """Write what is in line, as far as the kernel takes it."""
        links, self.unsent = self.unsent, []
        for link in links:
            out = link.out
            if not out or link.deadline is not None or link.sock is None:
                continue  # written with an earlier message of this turn, or not yet connected, or gone
            try:
                sent = link.sock.send(out)
                while sent < len(out) and isinstance(link.sock, ssl.SSLSocket):  # it takes a record at a time
                    del out[:sent]
                    sent = 0
                    sent = link.sock.send(out)
            except WAITS:
                sent = 0
            except OSError as error:
                self._lose(link, reason(error))
                continue
            if sent == len(out):
                out.clear()
            else:
                del out[:sent]
            if len(out) > MAX_UNSENT:
                self._lose(link, f"the server left {len(out)} bytes unread")
                continue
            mask = IN | OUT if out else IN
            if mask != link.mask:
                link.mask = mask
                self._pollers.change(link.sock.fileno(), mask)

    # ---- time --------------------------------------------------------------------------------------------------

    @property
    def timed(self) -> bool:
        """Whether anything has a deadline."""
        return bool(self.dialling or (self._member is not None and self._links))

    def next_deadline(self) -> float | None:
        """Return when `handle_timer` is due."""
        due = [link.deadline for link in self.dialling.values() if link.deadline is not None]
        if self._member is not None and self._links:
            renewal = self._member.next_deadline()
            due += [self._audit_due] if renewal is None else [self._audit_due, renewal]
        return min(due, default=None)

    def handle_timer(self, now: float) -> None:
        """End the attempts that took too long; see whether the servers that are connected are to be believed still."""
        for link in [*self.dialling.values()]:
            if link.deadline is not None and link.deadline <= now:
                self._lose(link, f"no answer within {self._dial_timeout:g} s")
        if self._member is None or not self._links:
            return
        renewal = self._member.next_deadline()
        if renewal is not None and renewal <= now:
            self._member.tick()
        if self._audit_due <= now:
            self._audit_due = now + AUDIT
            for link in [*self._links.values()]:
                self._audit(self._member, link)

    def _audit(self, member: RealmMember, link: _Uplink) -> None:
        if link.deadline is not None or not isinstance(link.sock, ssl.SSLSocket):
            return
        try:
            check_server(member, link.sock)
        except StaleHead:
            pass  # no news is no revocation
        except TrustError as error:
            self._lose(link, str(error))

    # ---- what happens on the sockets ----------------------------------------------------------------------------

    def take_resolved(self) -> None:
        """Go on with the names that the resolver has answered; it rings the pollers' bell when it has."""
        while self.resolved:
            link, addresses, why = self.resolved.popleft()
            if self._links.get(link.conn) is link:  # else closed or given up meanwhile
                link.addresses = addresses
                self._connect_next(link, why)

    def _ask_resolver(self, link: _Uplink, host: str, port: int) -> None:
        addresses: _Addresses = []
        why = ""
        try:
            addresses = _resolve(host, port, 0)
        except (OSError, UnicodeError) as error:
            why = f"the host name is not known: {error}"
        self.resolved.append((link, addresses, why))
        with contextlib.suppress(OSError):  # closed meanwhile
            self._pollers.ring()

    def _connect_next(self, link: _Uplink, why: str) -> None:
        while link.addresses:
            family, address = link.addresses.pop(0)
            try:
                link.sock = sock = socket.socket(family, socket.SOCK_STREAM)
                sock.setblocking(False)
                be_prompt(sock)
                sock.connect(address)
            except BlockingIOError:
                link.mask = OUT
                self._pollers.add(sock.fileno(), OUT, lambda mask: self._ready(link, mask))
                return
            except OSError as error:
                why = reason(error)
                self._shut(link)
                continue
            self._greet(link, sock)
            return
        self._lose(link, why)

    def _greet(self, link: _Uplink, sock: socket.socket) -> None:
        """It is connected: begin with TLS, if the servers are to prove who they are."""
        if self._member is None:
            self._opened(link)
            return
        try:
            link.sock = dialled(self._member, sock)
        except (OSError, TrunklineError) as error:
            self._next(link, why_failed(error, self._member.realm))
        else:
            self._shake_hands(self._member, link, link.sock)

    def _shake_hands(self, member: RealmMember, link: _Uplink, tls: ssl.SSLSocket) -> None:
        try:
            tls.do_handshake()
            check_server(member, tls)
        except ssl.SSLWantReadError:
            self._watch(link, IN)
        except ssl.SSLWantWriteError:
            self._watch(link, OUT)
        except (OSError, ValueError, TrunklineError) as error:
            self._next(link, why_failed(error, member.realm))
        else:
            self._opened(link)
            if tls.pending():
                self._take(link, tls)

    def _next(self, link: _Uplink, why: str) -> None:
        self._shut(link)
        self._connect_next(link, why)

    def _watch(self, link: _Uplink, mask: int) -> None:
        assert link.sock is not None, "it is connected"
        if not link.mask:
            self._pollers.add(link.sock.fileno(), mask, lambda mask: self._ready(link, mask))
        elif mask != link.mask:
            self._pollers.change(link.sock.fileno(), mask)
        link.mask = mask

    def _opened(self, link: _Uplink) -> None:
        del self.dialling[link.conn]
        link.deadline = None
        self._watch(link, IN)
        self.unsent.append(link)
        # A server that is reached anew is reached from another network, perhaps: a laptop was carried there.
        self._events.extend(self._look_around())
        self._events.append(Opened(link.conn, link.remote))

    def _ready(self, link: _Uplink, mask: int) -> None:
        sock = link.sock
        assert sock is not None, "its handler goes when the socket goes"
        if link.deadline is not None:
            if isinstance(sock, ssl.SSLSocket):
                assert self._member is not None, "who has no realm has no TLS"
                self._shake_hands(self._member, link, sock)
            else:
                self._connected(link, sock, mask)
            return
        if mask & OUT:
            self.unsent.append(link)
        if mask & ~OUT:
            self._take(link, sock)
            while link.sock is sock and isinstance(sock, ssl.SSLSocket) and sock.pending():
                self._take(link, sock)  # libssl has it already: the socket itself need not turn readable

    def _take(self, link: _Uplink, sock: socket.socket) -> None:
        try:
            data = sock.recv(CHUNK)
        except WAITS:
            return
        except OSError as error:
            self._lose(link, reason(error))
            return
        if not data:
            self._lose(link, "the server closed the connection")
            return
        try:
            messages = link.inbound.receive_data(data)
        except RemoteError as error:
            with contextlib.suppress(OSError):
                sock.send(bytes(link.out) + encode(Goodbye(error.code, str(error)[:MAX_TEXT])))
            self._lose(link, str(error))
            return
        for message in messages:
            self._events.append(Received(link.conn, message))

    def _connected(self, link: _Uplink, sock: socket.socket, mask: int) -> None:
        if not mask & (OUT | BROKEN):
            return  # meant for an earlier socket with this descriptor
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._next(link, os.strerror(error))
        else:
            self._greet(link, sock)

    # ---- the end -----------------------------------------------------------------------------------------------

    def _lose(self, link: _Uplink, why: str) -> None:
        self._drop(link)
        self._events.append(Lost(link.conn, why))

    def _drop(self, link: _Uplink) -> None:
        self._links.pop(link.conn, None)
        self.dialling.pop(link.conn, None)
        self._shut(link)

    def _shut(self, link: _Uplink) -> None:
        if link.sock is not None:
            self._pollers.remove(link.sock.fileno())
            link.sock.close()
            link.sock = None
            link.mask = 0

    def abandon(self) -> None:
        """Close every descriptor and tell nobody."""
        for link in self._links.values():
            if link.sock is not None:
                link.sock.close()
        self._links.clear()


def _resolve(host: str, port: int, flags: int) -> _Addresses:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]


def reason(error: Exception) -> str:
    """Return an error's text for people, without its number."""
    if isinstance(error, ssl.SSLError):
        return why_lost(error)
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
