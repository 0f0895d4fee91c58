"""Dialling switchboard servers in asyncio: from an address, or a name, to a connected socket or the reason why not."""

import asyncio
import errno
import functools
import os
import socket
import time
from collections.abc import Awaitable, Callable

from trunkline.drivers.channel_aio import reason
from trunkline.names import Address


class Dials:
    """Connections that are being made.

    Args:
        loop: the running loop.
        within: seconds that one may take.
        opened: told the number, the socket and the address of each that is made.
        failed: told the number of each that is not, and why; not of those that were given up.
        before: waited for before each, within the same time.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        within: float,
        *,
        opened: Callable[[int, socket.socket, Address], None],
        failed: Callable[[int, str], None],
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._before = before
        self._loop = loop
        self._within = within
        self._opened = opened
        self._failed = failed
        self.tasks: dict[int, asyncio.Task[socket.socket]] = {}

    def dial(self, conn: int, address: Address) -> None:
        """Begin to connect."""
        task = self._loop.create_task(self._connect(address))
        self.tasks[conn] = task
        # A callback and not the end of the task: whoever cancels all tasks, as asyncio.run does, may cancel it before
        # it has begun.
        task.add_done_callback(functools.partial(self._done, conn, address))

    async def _connect(self, address: Address) -> socket.socket:
        if self._before is None:
            return await connect(self._loop, address, self._within)
        async with asyncio.timeout(self._within):
            await self._before()
        return await connect(self._loop, address, self._within)

    def give_up(self, conn: int) -> None:
        """Want this one no longer."""
        task = self.tasks.pop(conn, None)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """Give all up."""
        for conn in tuple(self.tasks):
            self.give_up(conn)

    def _done(self, conn: int, address: Address, task: asyncio.Task[socket.socket]) -> None:
        wanted = self.tasks.pop(conn, None) is not None
        if task.cancelled():
            if wanted:
                self._failed(conn, "the dial was cancelled")
            return
        error = task.exception()
        if error is None:
            if wanted:
                self._opened(conn, task.result(), address)
            else:
                task.result().close()  # given up in the very turn in which it was made
        elif wanted:
            self._failed(conn, reason(error))


async def connect(loop: asyncio.AbstractEventLoop, address: Address, within: float) -> socket.socket:
    """Return a connected socket that doesn't block. Each address of a name has its share of the time.

    Args:
        loop: the running loop.
        address: a literal, or a name for the resolver.
        within: how many seconds everything may take.

    Raises:
        OSError: none of the addresses answered; the text is the last one's reason.
    """
    end = time.monotonic() + within
    try:
        async with asyncio.timeout(within):
            found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise OSError(errno.ETIMEDOUT, f"the resolver did not answer within {within:g} s") from None
    failure = OSError(errno.EADDRNOTAVAIL, "the resolver knows no address")
    for left, (family, kind, proto, _, target) in zip(range(len(found), 0, -1), found, strict=True):
        sock = socket.socket(family, kind, proto)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout((end - time.monotonic()) / left):
                await loop.sock_connect(sock, target)
        except TimeoutError:
            sock.close()
            failure = OSError(errno.ETIMEDOUT, f"no answer within {within:g} s")
        except OSError as error:
            sock.close()
            # asyncio puts the address in the place of the reason
            failure = OSError(error.errno, os.strerror(error.errno)) if error.errno else error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure
