"""Sockets between peers: what a meeting hands out, and how they are listened for and dialled.

Nothing here waits: both drivers, blocking and asyncio, use these.
"""

import contextlib
import errno
import secrets
import socket
import sys
from typing import Final, Self

from trunkline.drivers.addresses import candidates
from trunkline.errors import InvalidAddress
from trunkline.names import Candidate, Candidates, Peer

BACKLOG: Final = 4096
"""Connections that the kernel keeps for us until we accept them; it cuts this down to its own limit."""

MAX_UNREAD: Final = 64 * 1024
"""Most bytes that are read for nothing before a connection is closed."""

_TRIES: Final = 16
_NOBODY: Final = Peer("")

SocketAddress = tuple[str, int] | str


class Connection(socket.socket):
    """A connected socket that knows who is at the other end.

    A real `socket.socket` with one attribute more. Nagle's algorithm is off (TCP_NODELAY), keepalive is on.
    """

    __slots__ = ("peer",)

    peer: Peer
    """Who is at the other end: name, user, path, match id."""

    def __init__(
        self,
        family: int = -1,
        type: int = -1,  # noqa: A002 - the parameter's name in socket.socket
        proto: int = -1,
        fileno: int | None = None,
        *,
        peer: Peer = _NOBODY,
    ) -> None:
        super().__init__(family, type, proto, fileno)
        self.peer = peer

    @classmethod
    def adopt(cls, sock: socket.socket, peer: Peer) -> Self:
        """Take over the descriptor and the time-out of ``sock``, which is closed to its holder then."""
        timeout = sock.gettimeout()
        conn = cls(sock.family, sock.type, sock.proto, sock.detach(), peer=peer)
        conn.settimeout(timeout)
        return conn

    def dup(self) -> Self:
        """Return a second socket object for the same connection, with the same peer."""
        twin = super().dup()
        twin.peer = self.peer
        return twin

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {self.peer.name!r} ({self.peer.path}) {super().__repr__()}>"


class Carrier(Connection):
    """The stream of a secure datagram meeting: it has the pair's UDP socket with it until the keys are exchanged."""

    __slots__ = ("udp",)

    udp: socket.socket
    """Bound and connected; closed with the stream."""

    def close(self) -> None:
        """Close both."""
        self.udp.close()
        super().close()


def hand_out(stream: socket.socket, udp: socket.socket, peer: Peer, *, secure: bool) -> Connection:
    """Return what a datagram meeting hands out: the UDP socket, or of a secure one the stream that carries it."""
    if secure:
        carrier = Carrier.adopt(stream, peer)
        carrier.udp = udp
        return carrier
    stream.close()
    return Connection.adopt(udp, peer)


class Listeners:
    """The sockets on which peers dial this process: TCP on all interfaces and, on Linux, a Unix one."""

    def __init__(self, sockets: tuple[socket.socket, ...], port: int, unix_path: str | None) -> None:
        self.sockets = sockets
        self.port = port
        self.unix_path = unix_path

    @classmethod
    def open(cls) -> Self:
        """Listen. The sockets don't block.

        Raises:
            OSError: not even IPv4 can be listened on.
        """
        tcp = _listen_tcp()
        unix = _listen_unix()
        path = None
        if unix is not None:
            path = "@" + unix.getsockname()[1:].decode()
            tcp.append(unix)
        return cls(tuple(tcp), tcp[0].getsockname()[1], path)

    def candidates(self, *, datagram: bool = False, addresses: tuple[str, ...] | None = None) -> Candidates:
        """Return where these listeners can be dialled; for a datagram meeting by IP only.

        Args:
            datagram: the meeting is to end with a pair of UDP sockets.
            addresses: offer these hosts instead of what the kernel says.
        """
        v6 = any(sock.family == socket.AF_INET6 for sock in self.sockets)
        return candidates(self.port, None if datagram else self.unix_path, v6=v6, addresses=addresses)

    def close(self) -> None:
        """Stop listening."""
        for sock in self.sockets:
            sock.close()


def _listen_tcp() -> list[socket.socket]:
    # Two sockets with one port rather than a dual-stack one: users see IPv4 peers with IPv4 addresses.
    for attempt in range(_TRIES):
        v4 = _listener(socket.AF_INET, "0.0.0.0", 0)  # noqa: S104 - the token guards it
        try:
            v6 = _listener(socket.AF_INET6, "::", v4.getsockname()[1])
        except OSError as error:
            if error.errno == errno.EADDRINUSE and attempt < _TRIES - 1:
                v4.close()
                continue
            return [v4]  # no IPv6 here
        return [v4, v6]
    raise AssertionError("the last attempt returns")


def _listener(family: int, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        be_prompt(sock)  # accepted sockets inherit it on Linux
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _listen_unix() -> socket.socket | None:
    if not sys.platform.startswith("linux"):
        return None  # without the abstract name space a crash would leave files behind
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(f"\0trunkline-{secrets.token_hex(8)}")
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        return None
    return sock


def dialling_socket(candidate: Candidate) -> tuple[Connection, SocketAddress]:
    """Return a socket that doesn't block, and the address to connect it to.

    Raises:
        InvalidAddress: a kind that this version or this system doesn't know, or a host that is not literal.
        OSError: no socket of that family can be had.
    """
    host = candidate.host
    address: SocketAddress = (host, candidate.port)
    match candidate.kind:
        case "unix" if sys.platform.startswith("linux"):
            # A path in the file system would let a peer point us at any service of this host.
            if not host.startswith("@"):
                raise InvalidAddress(str(candidate), "only abstract Unix sockets (@…) are dialled")
            family, address = socket.AF_UNIX, "\0" + host[1:]
        case "tcp4":
            family = socket.AF_INET
        case "tcp6":
            family = socket.AF_INET6
        case _:
            raise InvalidAddress(str(candidate), f"this side does not know the kind {candidate.kind[:16]!r}")
    if isinstance(address, tuple):
        if not 0 < candidate.port < 1 << 16:
            raise InvalidAddress(str(candidate), "the port is a number from 1 to 65535")
        # A name would make connect() ask the resolver, and wait for it.
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            raise InvalidAddress(str(candidate), "a candidate's host is a literal address") from None
    sock = Connection(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock, address


def accept(listener: socket.socket, family: int) -> Connection:
    """Return the next connection of ``listener``, which is of ``family``; it blocks.

    Raises:
        OSError: there is none, or no descriptor is left.
    """
    # What socket.accept does, but for the class of the result: to adopt it would cost as much again.
    fd, _ = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - see above
    return Connection(family, socket.SOCK_STREAM, listener.proto, fd)


KEEPALIVE: Final = (
    ("TCP_KEEPIDLE", 15),
    ("TCP_KEEPINTVL", 5),
    ("TCP_KEEPCNT", 3),
)
"""The kernel asks after a silent peer after 15 s, then every 5 s; who misses three questions is gone."""


def be_prompt(sock: socket.socket) -> None:
    """Send small writes at once, and find out in half a minute that the peer's host is gone.

    What follows the commit must not wait for its acknowledgement. And a passive side that has said Ready may set no
    timer of its own (S1): without the kernel's questions it would wait for ever for a host that lost its power.
    """
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE:
            option = getattr(socket, name, None)  # not every system has them
            if option is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)


def hang_up(sock: socket.socket) -> None:
    """Close a connection at once, so that its other end reads EOF.

    With something unread in it (the peer's commit, or what it sent to somebody who never accepted), the other end
    would read "connection reset" instead.
    """
    with contextlib.suppress(OSError):
        sock.setblocking(False)
        sock.recv(MAX_UNREAD)
    sock.close()


def bind_udp(stream: socket.socket) -> socket.socket:
    """Return a UDP socket, not blocking, that is bound to the local address of ``stream``.

    Raises:
        OSError: ``stream`` is no TCP connection, or no socket can be had.
    """
    if stream.family not in (socket.AF_INET, socket.AF_INET6):
        raise OSError(errno.EAFNOSUPPORT, "a datagram meeting needs an IP connection")
    udp = socket.socket(stream.family, socket.SOCK_DGRAM)
    try:
        udp.setblocking(False)
        local = stream.getsockname()
        udp.bind((local[0], 0, *local[2:]))
    except OSError:
        udp.close()
        raise
    return udp


def connect_udp(udp: socket.socket, stream: socket.socket, port: int) -> None:
    """Connect ``udp`` to the host at the other end of ``stream``, at ``port``.

    Raises:
        OSError: the stream is gone, or the port can't be.
    """
    remote = stream.getpeername()
    udp.connect((remote[0], port, *remote[2:]))
