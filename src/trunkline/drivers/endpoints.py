"""Where local services are, and how they are dialled and offered: ``tcp:HOST:PORT`` and ``unix:PATH``."""

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

import msgspec

from trunkline.drivers.accept_aio import Acceptor
from trunkline.drivers.channel_aio import reason
from trunkline.drivers.dials_aio import connect
from trunkline.errors import ConfigError, InvalidAddress, ServiceUnreachable
from trunkline.names import Address

BACKLOG: Final = 1024
"""Connections that the kernel keeps until they are accepted."""

DIAL_TIMEOUT: Final = 5.0
"""Seconds within which a local service has to take a connection."""

FIRST_PAUSE: Final = 0.001
LAST_PAUSE: Final = 0.05
"""Seconds between attempts at a Unix socket whose queue is full: the first, and the longest."""


class Endpoint(msgspec.Struct, frozen=True):
    """A TCP address or the path of a Unix socket; one of the two is set."""

    address: Address | None = None
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``tcp:HOST:PORT`` or ``unix:PATH``; what has no such beginning is taken for HOST:PORT.

        Raises:
            InvalidAddress: with the reason.
        """
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path or "\0" in path or len(os.fsencode(path)) > 107:
                raise InvalidAddress(text, "the path of a Unix socket has 1 to 107 bytes")
            return cls(path=path)
        try:
            return cls(Address.parse(text.removeprefix("tcp:"), default_port=None))
        except InvalidAddress as error:
            raise InvalidAddress(text, f"{error.reason}, as in tcp:127.0.0.1:8000 or unix:/run/web.sock") from None

    def __str__(self) -> str:
        return f"tcp:{self.address}" if self.address else f"unix:{self.path}"


async def dial(endpoint: Endpoint) -> socket.socket:
    """Return a connected socket that doesn't block.

    Raises:
        ServiceUnreachable: nobody answers there.
    """
    try:
        if endpoint.address is not None:
            return await connect(asyncio.get_running_loop(), endpoint.address, DIAL_TIMEOUT)
        return await _connect_unix(endpoint.path)
    except OSError as error:
        raise ServiceUnreachable(f"the service at {endpoint} does not answer: {reason(error)}") from error


async def _connect_unix(path: str) -> socket.socket:
    # Not the loop's sock_connect: of a Unix socket whose queue is full the kernel says EAGAIN, which means "again"
    # here, and not "under way" as asyncio takes it.
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        pause, ends = FIRST_PAUSE, asyncio.get_running_loop().time() + DIAL_TIMEOUT
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:
                if asyncio.get_running_loop().time() >= ends:
                    raise OSError(errno.ETIMEDOUT, f"too busy to accept within {DIAL_TIMEOUT:g} s") from None
                await asyncio.sleep(pause)
                pause = min(2 * pause, LAST_PAUSE)
            else:
                return sock
    except BaseException:
        sock.close()
        raise


class Listening:
    """Listens at an endpoint on the running loop, until it is closed.

    Args:
        endpoint: where; port 0 lets the system choose. The Unix socket that a dead process left is replaced.
        accepted: called with each new connection, which doesn't block.

    Raises:
        ConfigError: it can't be listened on.
    """

    def __init__(self, endpoint: Endpoint, accepted: Callable[[socket.socket], None]) -> None:
        loop = asyncio.get_running_loop()
        self._inode: tuple[int, int] | None = None
        try:
            listeners = _listen_tcp(endpoint.address) if endpoint.address else [_listen_unix(endpoint.path)]
        except OSError as error:
            raise ConfigError(f"{endpoint} can't be listened on: {reason(error)}") from error
        self.bound = endpoint
        if endpoint.address is not None:
            self.bound = Endpoint(Address(*listeners[0].getsockname()[:2]))
        else:
            self._inode = _identity(endpoint.path)
        self._acceptor = Acceptor(loop, listeners, lambda sock, _: accepted(sock))

    def close(self) -> None:
        """Stop listening, and remove our Unix socket."""
        self._acceptor.close()
        if self._inode is not None and _identity(self.bound.path) == self._inode:
            Path(self.bound.path).unlink(missing_ok=True)


def _listen_tcp(address: Address) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    port = address.port
    try:
        for family, kind, proto, _, target in dict.fromkeys(
            socket.getaddrinfo(address.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        ):
            sock = socket.socket(family, kind, proto)
            listeners.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # A name with addresses of both kinds gets one port, the one that the first of them was given.
            sock.bind((target[0], port or target[1], *target[2:]))
            sock.listen(BACKLOG)
            port = sock.getsockname()[1]
    except OSError:
        for sock in listeners:
            sock.close()
        raise
    return listeners


def _listen_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_dead(path):
                raise
            Path(path).unlink()
            sock.bind(path)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _is_dead(path: str) -> bool:
    """Return whether it is a socket that nobody listens on any more."""
    if not stat.S_ISSOCK(Path(path).lstat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
