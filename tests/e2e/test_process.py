"""The kit's processes: waiting for lines, signals, and the end."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.process import Process

pytestmark = pytest.mark.e2e


def python(code: str) -> Process:
    return Process([sys.executable, "-u", "-c", code])


def state(pid: int) -> str:
    """Return the kernel's letter for a process: T is stopped, Z is ended; gone is none."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "gone"


def test_a_line_is_found_once_and_in_order() -> None:
    with python("print('a 1'); print('b'); print('a 2'); import sys; print('a 3', file=sys.stderr)") as process:
        assert process.wait_for_line(r"a (\d)").group(1) == "1"
        assert process.wait_for_line(r"a (\d)").group(1) in "23"  # the two outputs may come in either order
        assert process.wait_for_line(r"a (\d)").group(1) in "23"
        assert process.wait() == 0
        assert process.stdout == "a 1\nb\na 2\n"
        assert process.stderr == "a 3\n"


def test_waiting_for_a_line_ends_with_the_output_and_shows_it() -> None:
    with (
        python("print('no such luck', end='')") as process,
        pytest.raises(AssertionError, match=r"ended without a line like 'wanted'.*\n.*no such luck"),
    ):
        process.wait_for_line("wanted")


def test_waiting_for_a_line_ends_at_its_deadline() -> None:
    with (
        Process(["cat"], stdin=subprocess.PIPE) as process,
        pytest.raises(TimeoutError, match="wrote no line like 'wanted' in 0"),
    ):
        process.wait_for_line("wanted", deadline=0.0)


def test_a_condition_is_asked_of_all_that_was_written() -> None:
    with python("import sys, time; print('one'); print('two', file=sys.stderr); time.sleep(60)") as process:
        process.wait_until(lambda said: "one" in said and "two" in said)
        process.wait_until(lambda said: said.count("o") == 2)
        with pytest.raises(TimeoutError, match="did not come to what was waited for"):
            process.wait_until(lambda said: "three" in said, deadline=0.0)
        assert process.wait_for_line("one"), "lines are not gone past"


def test_a_condition_that_never_comes_ends_with_the_output() -> None:
    with python("print('one')") as process, pytest.raises(AssertionError, match="ended before what was waited for"):
        process.wait_until(lambda said: "two" in said)


def test_a_crash_is_seen_as_one() -> None:
    with python("print('up'); import time; time.sleep(1000)") as process:
        process.wait_for_line("up")
        assert process.returncode is None
        process.kill()
        assert process.returncode == -signal.SIGKILL
    assert process.returncode == -signal.SIGKILL


def test_frozen_and_thawed_again_and_again() -> None:
    with Process(["cat"], stdin=subprocess.PIPE) as process:
        for word in (b"one", b"two", b"three"):
            process.freeze()
            assert state(process.pid) == "T"
            process.stdin.write(word + b"\n")
            process.stdin.flush()
            process.thaw()
            process.wait_for_line(word.decode())


def test_stop_thaws_what_is_frozen() -> None:
    with python("""
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("up")
signal.pause()
""") as process:
        process.wait_for_line("up")
        process.freeze()
        assert process.stop() == 7


def test_stop_says_if_a_program_does_not_heed_it_and_kills_it() -> None:
    with Process(["sh", "-c", "trap '' TERM; echo up; cat"], stdin=subprocess.PIPE) as process:
        process.wait_for_line("up")
        with pytest.raises(TimeoutError, match="still runs"):
            process.stop(deadline=0.0)
        assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("end", [Process.close, Process.kill, Process.freeze])
def test_nothing_of_its_group_is_left(end: Callable[[Process], object]) -> None:
    with Process(["sh", "-c", "sleep 1000 & echo $!; wait"]) as process:
        child = int(process.wait_for_line(r"^(\d+)$").group(1))
        watch = os.pidfd_open(child)
        end(process)
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    assert poll.poll(), "the child has ended: this waits for it, since nobody but the kernel knows when"
    os.close(watch)
    assert state(process.pid) == "gone"


def test_a_failing_test_sees_the_output() -> None:
    with pytest.raises(ValueError, match="oh") as caught, python("print('the reason')") as process:
        process.wait()
        raise ValueError("oh")
    assert re.search("stdout: the reason", caught.value.__notes__[0])


def test_no_such_program() -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        Process(["no-such-program"])
