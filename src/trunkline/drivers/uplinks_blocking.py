"""The blocking driver's connections to servers: dialled, read into messages, written once for each turn.

Nothing here waits, and nothing calls the machine: what happened is appended to ``events``.
"""

import contextlib
import os
import socket
import threading
from collections import deque
from typing import Final

from trunkline.drivers.clock import now as clock
from trunkline.drivers.pollers import BROKEN, IN, OUT, Pollers
from trunkline.drivers.sockets import be_prompt
from trunkline.errors import RemoteError
from trunkline.switchboard.events import ClientEvent, Close, Dial, Lost, Opened, Received, Send
from trunkline.wire.codec import PREAMBLE, Inbound, encode, encode_into
from trunkline.wire.limits import MAX_TEXT
from trunkline.wire.messages import Goodbye

CHUNK: Final = 16 * 1024
"""Most bytes taken from a server in one read."""

MAX_UNSENT: Final = 4 * 1024 * 1024
"""Most bytes that wait for a server which doesn't read; then the connection is given up."""

_Addresses = list[tuple[int, tuple[str, int]]]


class _Uplink:
    __slots__ = ("addresses", "conn", "deadline", "inbound", "mask", "out", "remote", "sock")

    def __init__(self, conn: int, remote: str, deadline: float) -> None:
        self.conn = conn
        self.remote = remote
        self.deadline: float | None = deadline
        """Until it is connected."""
        self.addresses: _Addresses = []
        """Still to be tried."""
        self.sock: socket.socket | None = None
        self.mask = 0
        self.inbound = Inbound()
        self.out = bytearray(PREAMBLE)


class Uplinks:
    """All connections to servers, by number."""

    def __init__(self, pollers: Pollers, events: deque[ClientEvent], dial_timeout: float) -> None:
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
            except BlockingIOError:
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

    def next_deadline(self) -> float | None:
        """Return when `give_up` is due."""
        return min((link.deadline for link in self.dialling.values() if link.deadline is not None), default=None)

    def give_up(self, now: float) -> None:
        """End the attempts that took too long."""
        for link in [*self.dialling.values()]:
            if link.deadline is not None and link.deadline <= now:
                self._lose(link, f"no answer within {self._dial_timeout:g} s")

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
            self._opened(link)
            return
        self._lose(link, why)

    def _opened(self, link: _Uplink) -> None:
        assert link.sock is not None, "it has just been connected"
        del self.dialling[link.conn]
        link.deadline = None
        if link.mask:
            self._pollers.change(link.sock.fileno(), IN)
        else:
            self._pollers.add(link.sock.fileno(), IN, lambda mask: self._ready(link, mask))
        link.mask = IN
        self.unsent.append(link)
        self._events.append(Opened(link.conn, link.remote))

    def _ready(self, link: _Uplink, mask: int) -> None:
        sock = link.sock
        assert sock is not None, "its handler goes when the socket goes"
        if link.deadline is not None:
            self._connected(link, sock, mask)
            return
        if mask & OUT:
            self.unsent.append(link)
        if not mask & ~OUT:
            return
        try:
            data = sock.recv(CHUNK)
        except BlockingIOError:
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
            self._shut(link)
            self._connect_next(link, os.strerror(error))
        else:
            self._opened(link)

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
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
