"""Join a connected socket with this process's standard input and output, or with those of a child process.

The descriptors of a terminal or a pipeline are shared with the shell and with other programs, and O_NONBLOCK
belongs to what is shared. So pipes and terminals are opened a second time through /proc, which gives a
description of our own; where that is refused, the flag is set and put back on every way out.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Sequence

from trunkline.drivers.flow import Flow, Pool, Side
from trunkline.drivers.splice import Joined, close_abruptly, pending_error, prepare
from trunkline.drivers.tls_flow import end_writing, flow_between
from trunkline.errors import ConfigError, LinkClosed

# After a child has ended we take what the peer still sends, or its answer could be lost to the reset that
# closing with unread bytes causes. nginx's lingering_timeout is 5 s.
LINGER_SECONDS = 2.0
# From SIGTERM to SIGKILL for a child that must end.
TERMINATE_SECONDS = 2.0

_LINGER_CHUNK = 64 * 1024
_PTMX = os.makedev(5, 2)


async def join_stdio(sock: socket.socket, *, stdin_fd: int = 0, stdout_fd: int = 1) -> Joined:
    """Send what stdin yields and write what the peer sends to stdout, until both have ended.

    End of file on stdin shuts down writing on the socket, and the peer's output goes on. When nobody reads
    stdout any more, both directions end quietly. Takes the socket over; the two descriptors stay open, in
    the mode they were in.

    Returns:
        ``a_to_b`` counts bytes from stdin that the socket took, ``b_to_a`` bytes that stdout took. ``error``
        is the first error of the socket, or of reading stdin or writing stdout.
    """
    with contextlib.ExitStack() as stack:
        take_over = stack.enter_context(_closing(sock))
        source = stack.enter_context(_non_blocking(stdin_fd, os.O_RDONLY))
        sink = stack.enter_context(_non_blocking(stdout_fd, os.O_WRONLY))
        copy = stack.enter_context(_Copy.running(sock, source, sink, needs_sink=True))
        await copy.sent
        await copy.received
        take_over.clean = copy.error is None
        return Joined(copy.sending.moved, copy.receiving.moved, copy.error)


async def join_process(sock: socket.socket, argv: Sequence[str]) -> int:
    """Run a command with the peer's bytes as its stdin, and send its stdout to the peer. Stderr is inherited.

    Returns when the command has exited and its stdout has been sent. Takes the socket over. When the
    connection breaks or we are cancelled, the command gets SIGTERM, after ``TERMINATE_SECONDS`` SIGKILL, and
    is waited for.

    Returns:
        The exit code; 128 + N after signal N, as shells have it.

    Raises:
        ConfigError: the command can't be run.
        LinkClosed: the connection broke while the command ran.
    """
    with contextlib.ExitStack() as stack:
        take_over = stack.enter_context(_closing(sock))
        child_stdin, sink = _pipe(stack)
        source, child_stdout = _pipe(stack)
        try:
            process = await asyncio.create_subprocess_exec(*argv, stdin=child_stdin.fd, stdout=child_stdout.fd)
        except (OSError, ValueError, IndexError, TypeError) as error:
            raise ConfigError(f"the command {' '.join(argv)!r} can't be run: {error}") from error
        child_stdin.close()
        child_stdout.close()
        os.set_blocking(source.fd, False)
        os.set_blocking(sink.fd, False)
        try:
            # The copying stops before we end a child: the end of its output would look like a clean one.
            with _Copy.running(
                sock, source.fd, sink.fd, sink_ended=sink.close, failed=lambda: _terminate(process)
            ) as copy:
                await copy.sent
                code = await process.wait()
        finally:
            await _reap(process)
        if copy.error is not None:
            raise LinkClosed(f"the connection broke while {argv[0]!r} ran: {copy.error.strerror}") from copy.error
        if not copy.peer_ended:
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(LINGER_SECONDS):
                    await _take_the_rest(sock)
        take_over.clean = True
        return code if code >= 0 else 128 - code


class _Copy:
    """Two flows between a socket and a pair of descriptors, and how they ended."""

    def __init__(
        self,
        sock: socket.socket,
        source: int,
        sink: int,
        *,
        needs_sink: bool,
        sink_ended: Callable[[], None] | None,
        failed: Callable[[], None] | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._sock = sock
        self._needs_sink = needs_sink
        self._sink_ended = sink_ended
        self._failed = failed
        self.error: OSError | None = None
        self.peer_ended = False
        self._hung_up = False
        self._interactive = os.isatty(source)
        self.sent: asyncio.Future[None] = loop.create_future()
        self.received: asyncio.Future[None] = loop.create_future()
        self._pool = Pool.hold(loop)
        self.sending = flow_between(self._pool, source, sock, self._sending_ended)
        self.receiving = flow_between(self._pool, sock, sink, self._receiving_ended)

    @classmethod
    @contextlib.contextmanager
    def running(
        cls,
        sock: socket.socket,
        source: int,
        sink: int,
        *,
        needs_sink: bool = False,
        sink_ended: Callable[[], None] | None = None,
        failed: Callable[[], None] | None = None,
    ) -> Iterator["_Copy"]:
        """Copy while the block runs.

        Args:
            needs_sink: when nobody reads the sink any more, everything ends, not this direction alone.
            sink_ended: called once when nothing more will be written to the sink.
            failed: called once when the socket, the source or the sink failed.
        """
        prepare(sock)
        copy = cls(sock, source, sink, needs_sink=needs_sink, sink_ended=sink_ended, failed=failed)
        try:
            copy._pool.watch(sock.fileno(), copy._broken, copy._peer_hung_up if needs_sink else None)
            copy.receiving.start()
            copy.sending.start()
            yield copy
        finally:
            copy.sending.close()
            copy.receiving.close()
            copy._pool.unwatch(sock.fileno())
            copy._pool.release()

    def _sending_ended(self, flow: Flow) -> None:
        # A terminal that hung up says EIO; there is nothing more to read from it.
        hung_up = flow.failed_side is Side.SOURCE and flow.error is not None and flow.error.errno == errno.EIO
        if flow.error is not None and not hung_up:
            self._fail(flow.error)
            return
        try:
            end_writing(self._sock)
        except OSError as error:
            self._fail(error)
            return
        _set(self.sent)

    def _receiving_ended(self, flow: Flow) -> None:
        if flow.failed_side is Side.DESTINATION and isinstance(flow.error, BrokenPipeError):
            if self._needs_sink:
                self._stop_sending()
        elif flow.error is not None:
            self._fail(flow.error)
            return
        elif flow.source_broken:  # the end of file came first, the reset right behind it
            self._fail(pending_error(self._sock))
            return
        else:
            self.peer_ended = True
            if self._hung_up:
                self._lose_peer()
        self._finish_receiving()

    def _peer_hung_up(self) -> None:
        self._hung_up = True
        if self.peer_ended:
            self._lose_peer()

    def _lose_peer(self) -> None:
        # A peer that is gone takes nothing more, and nobody should have to type to learn it. What a program would
        # still have sent is lost, which is an error; what a person would still have typed is not.
        if self.sent.done():
            return
        if self._interactive:
            self._stop_sending()
        else:
            self._fail(OSError(errno.EPIPE, "the peer hung up before our input had ended"))

    def _stop_sending(self) -> None:
        self.sending.close()
        _set(self.sent)

    def _broken(self) -> None:
        if self.receiving.open and self.receiving.reading:
            self.receiving.source_broken = True  # it reads what came before, and then the error
        else:
            self._fail(pending_error(self._sock))

    def _fail(self, error: OSError) -> None:
        if self.sent.done() and self.received.done():
            return  # it has ended already: what comes now changes nothing
        self.error = error
        self.sending.close()
        self.receiving.close()
        _set(self.sent)
        self._finish_receiving()
        if self._failed is not None:
            self._failed()

    def _finish_receiving(self) -> None:
        if not self.received.done():
            self.received.set_result(None)
            if self._sink_ended is not None:
                self._sink_ended()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class _closing:  # noqa: N801 - a context manager used like contextlib.closing
    """Close the socket at the end: with a reset, unless ``clean`` was set."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.clean = False

    def __enter__(self) -> "_closing":
        return self

    def __exit__(self, *_: object) -> None:
        if self.clean:
            self._sock.close()
        else:
            close_abruptly(self._sock)


class _Descriptor:
    """A descriptor of ours that may be closed early."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


def _pipe(stack: contextlib.ExitStack) -> tuple[_Descriptor, _Descriptor]:
    read_end, write_end = map(_Descriptor, os.pipe())
    stack.callback(read_end.close)
    stack.callback(write_end.close)
    return read_end, write_end


@contextlib.contextmanager
def _non_blocking(fd: int, access: int) -> Iterator[int]:
    """Yield a descriptor of our own for the same file: non-blocking, where blocking is a question at all."""
    info = os.fstat(fd)
    if stat.S_ISREG(info.st_mode):
        own = os.dup(fd)  # keeps the offset, which the shell shares on purpose: (trunkline meet …; cat) < file
        restore = None
    elif (own := _reopen(fd, info, access)) >= 0:
        restore = None
    else:
        own = os.dup(fd)
        restore = fcntl.fcntl(fd, fcntl.F_GETFL)
        os.set_blocking(fd, False)
    try:
        yield own
    finally:
        os.close(own)
        if restore is not None:
            fcntl.fcntl(fd, fcntl.F_SETFL, restore)


def _reopen(fd: int, info: os.stat_result, access: int) -> int:
    """Open a pipe or terminal a second time; -1 where that can't be done, or would give another thing."""
    if sys.platform != "linux":  # elsewhere /dev/fd duplicates, and the flags stay shared
        return -1
    # Opening ptmx, the master's side, makes a new terminal; other devices may keep state in each opening.
    if not (stat.S_ISFIFO(info.st_mode) or (os.isatty(fd) and info.st_rdev != _PTMX)):
        return -1
    try:
        return os.open(f"/proc/self/fd/{fd}", access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # no /proc, another user's terminal, or a pipe that nobody reads
        return -1


async def _take_the_rest(sock: socket.socket) -> None:
    """Read until the peer has ended, for nobody: also of a TLS socket, and then below TLS."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock.fileno(), readable.set)
    try:
        while True:
            readable.clear()
            await readable.wait()
            with contextlib.suppress(BlockingIOError):
                if not socket.socket.recv(sock, _LINGER_CHUNK):
                    return
    finally:
        loop.remove_reader(sock.fileno())


def _terminate(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()


async def _reap(process: asyncio.subprocess.Process) -> None:
    """End the child if it runs, and wait for it, even while we are being cancelled again."""
    if process.returncode is not None:
        return
    _terminate(process)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TERMINATE_SECONDS):
                await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())
