"""Listening and accepting in asyncio, for servers and for peers."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from trunkline.drivers.channel_aio import reason
from trunkline.errors import ConfigError
from trunkline.names import Address

BACKLOG: Final = 4096
"""Connections that the kernel keeps until they are accepted: all clients of a mate that dies come at once."""

REST: Final = 0.5
"""Seconds without accepting when the process has no descriptor left, or the kernel no memory."""

_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_log: Final = logging.getLogger("trunkline")


class Acceptor:
    """Accepts on some listeners, and closes them in the end.

    Args:
        loop: the running loop.
        listeners: sockets that listen and don't block.
        accepted: called with each new socket, not blocking, and its remote address.
        at_once: how many are accepted before other connections have their turn. With 1 no system call is wasted
            on finding that there is no other.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listeners: Sequence[socket.socket],
        accepted: Callable[[socket.socket, Any], None],
        *,
        at_once: int = 1,
    ) -> None:
        self._loop = loop
        self._listeners = tuple(listeners)
        self._accepted = accepted
        self._at_once = at_once
        self._resting: dict[socket.socket, asyncio.TimerHandle] = {}
        for sock in self._listeners:
            loop.add_reader(sock.fileno(), self._accept, sock)

    def close(self) -> None:
        """Stop listening."""
        for handle in self._resting.values():
            handle.cancel()
        self._resting.clear()
        for sock in self._listeners:
            if sock.fileno() >= 0:
                self._loop.remove_reader(sock.fileno())
                sock.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(self._at_once):
            try:
                sock, remote = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._failed(listener, error)
                return
            sock.setblocking(False)
            self._accepted(sock, remote)
            if listener.fileno() < 0:
                return  # closed by what that brought about

    def _failed(self, listener: socket.socket, error: OSError) -> None:
        if error.errno not in _EXHAUSTED:
            _log.debug("accept: %s", reason(error))  # that one went away again
            return
        # The listener stays readable: without a rest the loop would spin until a descriptor is free.
        _log.warning("no connection is accepted for %g s: %s", REST, reason(error))
        self._loop.remove_reader(listener.fileno())
        self._resting[listener] = self._loop.call_later(REST, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        del self._resting[listener]
        self._loop.add_reader(listener.fileno(), self._accept, listener)


async def listen(loop: asyncio.AbstractEventLoop, address: Address) -> list[socket.socket]:
    """Return sockets that listen at an address, one for each family that its host stands for.

    Raises:
        ConfigError: it can't be listened on.
    """
    listeners: list[socket.socket] = []
    try:
        found = await loop.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, proto, _, target in dict.fromkeys(found):
            sock = socket.socket(family, kind, proto)
            listeners.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what it accepts inherits it
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(target)
            sock.listen(BACKLOG)
    except OSError as error:
        for sock in listeners:
            sock.close()
        raise ConfigError(
            f"{address} can't be listened on ({reason(error)}): choose another with --listen HOST:PORT"
        ) from error
    return listeners
