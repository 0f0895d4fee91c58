"""A program under test: its output as it comes, its signals, and its certain end."""

import contextlib
import ctypes
import os
import re
import select
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import IO, Any, Self

GRACE = 5.0  # seconds that a program gets between SIGTERM and SIGKILL when its test is over
TAIL = 40  # lines of output that a failure shows
PR_SET_PDEATHSIG = 1  # of prctl(2), which Python has not


_libc = ctypes.CDLL(None)


def die_with_us() -> None:
    """Ask the kernel to kill this process when the thread that started it ends; for preexec_fn.

    It covers the run that is itself killed, and so can't end what it started. It has to be in place before
    the program runs: a wrapping command such as setpriv could be frozen before it got to it.
    """
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A running program. Leaving its context ends it and whatever it left in its process group.

    Output goes line by line into memory as it is written, so the program never blocks on a full pipe.
    All times are in seconds from the call.
    """

    def __init__(self, argv: Sequence[str | os.PathLike[str]], **options: Any) -> None:
        self.name = os.path.basename(os.fspath(argv[0]))  # noqa: PTH119
        options = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        } | options
        # A session of its own: the whole group can be ended, and no signal of the terminal reaches it.
        self._popen: subprocess.Popen[Any] = subprocess.Popen(
            argv,
            start_new_session=True,
            preexec_fn=die_with_us,  # noqa: PLW1509 (one system call: nothing that another thread could hold)
            **options,
        )
        self.pid = self._popen.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._lines: list[tuple[str, str]] = []
        self._passed = 0  # lines that wait_for_line has gone past
        self._output_ended = False
        self._changed = threading.Condition()
        self._closing = os.eventfd(0, os.EFD_CLOEXEC)
        self._closed = False
        self._pump = threading.Thread(target=self._read, name=f"output of {self.name}", daemon=True)
        self._pump.start()

    @property
    def stdin(self) -> IO[bytes]:
        """The program's input, if it was started with stdin=subprocess.PIPE."""
        stream: IO[bytes] | None = self._popen.stdin
        assert stream is not None, "start it with stdin=subprocess.PIPE"
        return stream

    @property
    def stdout(self) -> str:
        return self._text("stdout")

    @property
    def stderr(self) -> str:
        return self._text("stderr")

    @property
    def returncode(self) -> int | None:
        """Exit status; minus the signal's number if one ended it; None while it runs."""
        return self._popen.returncode if self._closed else self._status()

    def wait_for_line(self, pattern: str, deadline: float = 10.0) -> re.Match[str]:
        """Return the match in the first line, of either output, that an earlier call has not gone past.

        Raises TimeoutError, or AssertionError if the program's output ended first; both show the output.
        """
        wanted = re.compile(pattern)
        limit = time.monotonic() + deadline
        with self._changed:
            while True:
                while self._passed < len(self._lines):
                    _, line = self._lines[self._passed]
                    self._passed += 1
                    if match := wanted.search(line):
                        return match
                if self._output_ended:
                    raise AssertionError(self._story(f"ended without a line like {pattern!r}"))
                if not self._changed.wait(limit - time.monotonic()):
                    raise TimeoutError(self._story(f"wrote no line like {pattern!r} in {deadline} s"))

    def wait_until(self, condition: Callable[[str], bool], deadline: float = 10.0) -> None:
        """Wait until ``condition`` holds of all that was written so far, to either output.

        Raises TimeoutError, or AssertionError if the program's output ended first; both show the output.
        """
        limit = time.monotonic() + deadline
        with self._changed:
            while not condition("".join(f"{line}\n" for _, line in self._lines)):
                if self._output_ended:
                    raise AssertionError(self._story("ended before what was waited for"))
                if not self._changed.wait(limit - time.monotonic()):
                    raise TimeoutError(self._story(f"did not come to what was waited for in {deadline} s"))

    def wait(self, deadline: float = 10.0) -> int:
        """Wait for the end and for the last of the output; return the exit status. Raises TimeoutError."""
        if not self._has_ended(deadline):
            raise TimeoutError(self._story(f"still runs after {deadline} s"))
        # What it wrote before it ended is in the pipe by now; a child that holds the pipe must not hold us.
        self._pump.join(1.0)
        status = self.returncode
        assert status is not None, "it has ended"
        return status

    def kill(self) -> None:
        """SIGKILL, and wait for the end: the process dies as in a crash. What it started lives on."""
        self._signal(signal.SIGKILL)
        self.wait()

    def freeze(self) -> None:
        """SIGSTOP, and wait until it took effect."""
        self._signal(signal.SIGSTOP)
        flags = os.WSTOPPED | os.WEXITED | os.WNOWAIT
        state = os.waitid(os.P_PIDFD, self._pidfd, flags)
        assert state is not None, "waitid blocks"
        if state.si_code != os.CLD_STOPPED:
            raise AssertionError(self._story("ended before it could be frozen"))

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def stop(self, deadline: float = 10.0) -> int:
        """SIGTERM, and wait for the end; return the exit status. Raises TimeoutError, and kills it then."""
        self.ask_to_end()
        try:
            return self.wait(deadline)
        except TimeoutError:
            self.kill()
            raise

    def ask_to_end(self) -> None:
        """SIGTERM, without waiting. A frozen program is thawed, or it would never read the signal."""
        self.thaw()
        self._signal(signal.SIGTERM)

    def close(self) -> None:
        """End the program and its process group, by its own id; nothing is left after this."""
        if self._closed:
            return
        if not self._has_ended(0.0):
            self.ask_to_end()
            self._has_ended(GRACE)
        # The program itself, ended or not, is not reaped yet: so its id, and its group's, can't be another's.
        os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        os.eventfd_write(self._closing, 1)
        self._pump.join()
        self._closed = True
        for stream in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # input that nobody was left to read
                    stream.close()
        os.close(self._pidfd)
        os.close(self._closing)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if isinstance(error, Exception):
            error.add_note(self._story("had written"))

    def _signal(self, number: signal.Signals) -> None:
        if not self._closed:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _has_ended(self, within: float) -> bool:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return self._closed or bool(poll.poll(max(0.0, within) * 1000))

    def _status(self) -> int | None:
        state = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if state is None:
            return None
        return state.si_status if state.si_code == os.CLD_EXITED else -state.si_status

    def _read(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._closing, selectors.EVENT_READ)
        rest = {"stdout": b"", "stderr": b""}
        for name, stream in (("stdout", self._popen.stdout), ("stderr", self._popen.stderr)):
            if stream is not None:
                selector.register(stream, selectors.EVENT_READ, name)
        with selector:
            while len(selector.get_map()) > 1:
                # Output before the wish to close: what came before the end is kept.
                ready = [key for key, _ in selector.select() if key.data is not None]
                if not ready:
                    break
                for key in ready:
                    data = os.read(key.fd, 65536)
                    if data:
                        *lines, rest[key.data] = (rest[key.data] + data).split(b"\n")
                    else:
                        selector.unregister(key.fileobj)
                        lines = [rest.pop(key.data)] if rest[key.data] else []
                    self._add(key.data, lines)
        with self._changed:
            self._output_ended = True
            self._changed.notify_all()

    def _add(self, stream: str, lines: list[bytes]) -> None:
        with self._changed:
            self._lines += [(stream, line.decode(errors="replace").removesuffix("\r")) for line in lines]
            self._changed.notify_all()

    def _text(self, stream: str) -> str:
        with self._changed:
            return "".join(f"{line}\n" for name, line in self._lines if name == stream)

    def _story(self, what: str) -> str:
        status = self.returncode
        state = "runs" if status is None else f"ended with {status}"
        # No lock: callers hold it or not, and a list's slice is one step.
        lines = "\n".join(f"  {stream}: {line}" for stream, line in self._lines[-TAIL:])
        return f"{self.name} (process {self.pid}, {state}) {what}; its last lines:\n{lines or '  (none)'}"
