"""Copy one byte stream from one file descriptor to another, driven by an asyncio loop. No threads.

A ``Flow`` is one direction. ``splice.py`` makes two of them into a joined pair of sockets, ``stdio.py``
joins a socket with a terminal, files or a child process.

Theory. Each turn reads once and writes at once what was read; a flow never reads while bytes wait for the
destination, so that back pressure reaches the sender and memory stays bounded. Small traffic goes through
one scratch buffer that all flows of a loop share: a read and a write, nothing else. A read that fills the
buffer shows a bulky stream; it goes on by ``splice`` through a pipe, which moves references to pages instead
of copying bytes. A pipe is lent by the loop's bounded pool and goes back as soon as it is empty: an idle
flow, or one that keeps pace, holds no descriptor. When the pool is empty or the kernel can't splice these
two descriptors, the buffer serves instead.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import select
import weakref
from collections.abc import Callable
from enum import Enum

# What one read may take by the buffer. Also the most that a blocked flow keeps in memory. socat uses 8 KiB,
# nginx 2 x 8 KiB, HAProxy 16 KiB; a larger buffer was no faster here, splicing was.
SCRATCH_BYTES = 64 * 1024
# The pipe's size. The kernel counts slots (one per page), and a slot may hold more than a page.
PIPE_BYTES = 1024 * 1024
# Linux lets all processes of an unprivileged user hold 64 MiB of pipes (pipe-user-pages-soft) before it
# shrinks them; 16 leaves room for other processes. A pipe is in use only while a bulky stream waits for its
# destination.
MAX_PIPES = 16
# A spliced read below this shows that the stream is no longer bulky.
BULK_FLOOR = 16 * 1024
# What one turn may move before other flows of the loop have theirs.
TURN_BYTES = 1024 * 1024

_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", None)
CAN_SPLICE = hasattr(os, "splice")
_SPLICE_FLAGS = (os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK) if CAN_SPLICE else 0


_pools: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Pool]" = weakref.WeakKeyDictionary()


class Side(Enum):
    """Which end of a flow failed."""

    SOURCE = "source"
    DESTINATION = "destination"


class Pool:
    """What the flows of one loop share: the scratch buffer, the pipes, and the watch for broken sockets.

    It exists while somebody holds it (``hold`` and ``release``): a loop without flows has no descriptor of
    ours open.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._holders = 0
        self._free: list[tuple[int, int]] = []
        self._lent = 0
        self._watch: select.epoll | None = None
        self._watched: dict[int, tuple[Callable[[], None], Callable[[], None] | None]] = {}

    @classmethod
    def hold(cls, loop: asyncio.AbstractEventLoop) -> "Pool":
        """Return the loop's pool. You must call ``release`` once for each call."""
        pool = _pools.get(loop)
        if pool is None:
            pool = _pools[loop] = cls(loop)
        pool._holders += 1
        return pool

    def release(self) -> None:
        self._holders -= 1
        if self._holders:
            return
        assert not self._lent, "flows give their pipe back before they let go of the pool"
        assert not self._watched, "sockets are unwatched before their owner lets go of the pool"
        del _pools[self.loop]
        for pipe in self._free:
            _close_pipe(pipe)
        self._free.clear()
        if self._watch is not None:
            self.loop.remove_reader(self._watch.fileno())
            self._watch.close()

    def lend(self) -> tuple[int, int] | None:
        """Return an empty non-blocking pipe (read end, write end), or None when the limit is reached."""
        if self._free:
            self._lent += 1
            return self._free.pop()
        if self._lent >= MAX_PIPES:
            return None
        try:
            pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # out of descriptors: the buffer serves
            return None
        if _F_SETPIPE_SZ is not None:
            # Refused by a lower pipe-max-size, or when the user's share is spent: the default size works too.
            with contextlib.suppress(OSError):
                fcntl.fcntl(pipe[1], _F_SETPIPE_SZ, PIPE_BYTES)
        self._lent += 1
        return pipe

    def give_back(self, pipe: tuple[int, int], *, empty: bool) -> None:
        self._lent -= 1
        if empty:
            self._free.append(pipe)
        else:
            _close_pipe(pipe)

    def watch(self, fd: int, broken: Callable[[], None], hung_up: Callable[[], None] | None = None) -> None:
        """Call ``broken`` when the socket fails, even while nobody reads from it or writes to it.

        And ``hung_up`` when both directions are at their end: of a Unix socket the kernel says so as soon as the
        peer has closed it, of a TCP one only after we have shut our side too.

        A loop reports errors only on what it watches for reading or writing, and a flow that waits for its
        destination, or has read to the end, watches its source for neither. One epoll of our own, asked for
        no event, reports errors alone. Where there is no epoll the error shows at the next read or write.
        """
        if not hasattr(select, "epoll"):
            return
        if self._watch is None:
            self._watch = select.epoll()
            self.loop.add_reader(self._watch.fileno(), self._report)
        # Edge triggered: a socket that both sides have shut reports a hang-up for as long as it stays open.
        self._watch.register(fd, select.EPOLLET)
        self._watched[fd] = broken, hung_up

    def unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            assert self._watch is not None, "watch() made it"
            self._watch.unregister(fd)

    def _report(self) -> None:
        assert self._watch is not None, "it is what called us"
        for fd, events in self._watch.poll(0):
            broken, hung_up = self._watched.get(fd, (None, None))
            if events & select.EPOLLERR and broken is not None:
                broken()
            elif events & select.EPOLLHUP and hung_up is not None:
                hung_up()


def _close_pipe(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    os.close(pipe[1])


class Flow:
    """One direction: everything that ``source`` yields goes to ``destination``, until end of file or an
    error.

    Both are non-blocking descriptors of sockets, pipes or terminals, or regular files; the flow closes
    neither. ``ended`` is called once, from the loop: ``failed_side`` and ``error`` are then set, or both
    None at end of file. ``moved`` counts the bytes that the destination took. You must call ``close`` on
    every way out.
    """

    __slots__ = (
        "_ended",
        "_held",
        "_in_pipe",
        "_pipe",
        "_pool",
        "_soon",
        "active_at",
        "bulk",
        "destination",
        "error",
        "failed_side",
        "moved",
        "open",
        "reading",
        "source",
        "source_broken",
        "spliceable",
        "steady",
    )

    def __init__(self, pool: Pool, source: int, destination: int, ended: Callable[["Flow"], None]) -> None:
        self._pool = pool
        self.source = source
        self.destination = destination
        self._ended = ended
        self._held: memoryview | None = None  # read, not yet written
        self._pipe: tuple[int, int] | None = None
        self._in_pipe = 0  # bytes
        self._soon: asyncio.Handle | None = None
        self.moved = 0
        self.error: OSError | None = None
        self.failed_side: Side | None = None
        self.open = True
        self.reading = False
        self.source_broken = False  # set by the owner: fail rather than wait for the destination
        self.bulk = False
        self.spliceable = CAN_SPLICE
        self.steady = False  # always readable, and refused by epoll: a regular file, /dev/null
        self.active_at = pool.loop.time()  # when bytes last moved

    def start(self) -> None:
        self._resume()

    def close(self) -> None:
        """Stop copying; bytes that wait are dropped. Nothing happens the second time."""
        if not self.open:
            return
        self.open = False
        self._pause()
        self._pool.loop.remove_writer(self.destination)
        self._held = None
        self._return_pipe()

    def _return_pipe(self) -> None:
        if self._pipe is not None:
            self._pool.give_back(self._pipe, empty=self._in_pipe == 0)
            self._pipe = None

    def _resume(self) -> None:
        self.reading = True
        if not self.steady:
            try:
                self._pool.loop.add_reader(self.source, self._turn)
            except PermissionError:
                self.steady = True
        if self.steady:
            self._soon = self._pool.loop.call_soon(self._turn)

    def _pause(self) -> None:
        self.reading = False
        if not self.steady:
            self._pool.loop.remove_reader(self.source)
        elif self._soon is not None:
            self._soon.cancel()
            self._soon = None

    def _turn(self) -> None:
        """The source is readable: move what there is, within this turn's share."""
        left = TURN_BYTES
        while left > 0:
            try:
                count = self._read()
            except BlockingIOError:
                break
            except OSError as error:
                self._end(Side.SOURCE, error)
                return
            if count == 0:
                self._end(None, None)
                return
            if not self._write():
                if self.open:
                    self._wait_for_destination()
                return
            left -= count
            # A read that did not fill the buffer has emptied the source: asking again would be a call for
            # nothing.
            if not self.bulk:
                break
        self.active_at = self._pool.loop.time()
        self._return_pipe()
        if self.steady:
            self._soon = self._pool.loop.call_soon(self._turn)

    def _wait_for_destination(self) -> None:
        self.active_at = self._pool.loop.time()
        self._pause()
        if self.source_broken:
            self._end(Side.SOURCE, ConnectionResetError("the connection was reset"))
        else:
            self._pool.loop.add_writer(self.destination, self._writable)

    def _writable(self) -> None:
        if self._write():
            self.active_at = self._pool.loop.time()
            self._pool.loop.remove_writer(self.destination)
            self._return_pipe()
            self._resume()

    def _read(self) -> int:
        """Read once, into the pipe or the buffer; 0 is end of file. Nothing may be waiting."""
        if self.bulk and self.spliceable:
            if self._pipe is None:
                self._pipe = self._pool.lend()
            if self._pipe is not None:
                try:
                    count = os.splice(self.source, self._pipe[1], PIPE_BYTES, flags=_SPLICE_FLAGS)
                except OSError as error:
                    # Any other error is the source's own, and reported once: a second read would see end of
                    # file.
                    if error.errno != errno.EINVAL:
                        raise
                    self.spliceable = False  # this kind of source can't be spliced
                else:
                    self._in_pipe = count
                    self.bulk = count >= BULK_FLOOR
                    return count
        scratch = self._pool.scratch
        count = os.readv(self.source, (scratch,))
        self._held = scratch[:count]
        self.bulk = count == SCRATCH_BYTES
        return count

    def _write(self) -> bool:
        """Write what waits. False when the destination takes no more now, or failed and ended the flow."""
        try:
            while self._in_pipe:
                assert self._pipe is not None, "the bytes are in it"
                count = os.splice(self._pipe[0], self.destination, self._in_pipe, flags=_SPLICE_FLAGS)
                self._in_pipe -= count
                self.moved += count
            if self._held is not None:
                count = os.write(self.destination, self._held)
                self.moved += count
                if count < len(self._held):
                    self._keep(self._held[count:])
                    return False
                self._held = None
        except BlockingIOError:
            if self._held is not None:
                self._keep(self._held)
            return False
        except OSError as error:
            if self._in_pipe and error.errno == errno.EINVAL:
                return self._leave_pipe()
            self._end(Side.DESTINATION, error)
            return False
        return True

    def _keep(self, rest: memoryview) -> None:
        """Keep unwritten bytes across turns: the scratch buffer belongs to whoever has the turn."""
        if rest.obj is self._pool.scratch.obj:
            rest = memoryview(bytes(rest))
        self._held = rest

    def _leave_pipe(self) -> bool:
        """This destination can't be spliced to (a file opened for appending): use the buffer from here on."""
        assert self._pipe is not None, "the bytes are in it"
        self.spliceable = False
        parts = []
        while self._in_pipe:
            parts.append(os.read(self._pipe[0], self._in_pipe))
            self._in_pipe -= len(parts[-1])
        self._held = memoryview(b"".join(parts))
        return self._write()

    def _end(self, side: Side | None, error: OSError | None) -> None:
        if self.open:
            self.failed_side, self.error = side, error
            self.close()
            self._ended(self)
