"""What a test leaves behind in its process: open file descriptors and child processes."""

import contextlib
import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path

# Kept open for later by those who measure and record the tests, whatever a test does.
KEPT_BY_TOOLS = (".coverage", ".hypothesis", "/dev/null", "/dev/urandom")


PATIENCE = 5.0
"""Seconds within which everything that is closed is gone."""


def descriptors() -> dict[int, str]:
    """Return this process's open descriptors with what they lead to."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 (as ints they are descriptors, not paths)
        with contextlib.suppress(FileNotFoundError):  # the one that listed the directory
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")  # noqa: PTH115
    return found


def children() -> dict[int, str]:
    """Return this process's children, zombies too, with their names."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # "id (name) state parent …", where the name may hold anything, brackets too.
            head, _, tail = status.read_text().rpartition(")")
            if int(tail.split()[1]) == os.getpid():
                found[int(status.parent.name)] = head.partition("(")[2]
    return found


@contextlib.contextmanager
def no_leaks(patience: float = PATIENCE) -> Iterator[None]:
    """Raise AssertionError if the block leaves more descriptors open, or children, than there were.

    A server in another thread closes its side of a connection when it has read the end of ours: it is given
    ``patience``, in seconds.
    """
    before = descriptors()
    old = children()
    yield
    gc.collect()  # what only a cycle holds is not leaked; unclosed sockets warn here, which is an error too
    deadline = time.monotonic() + patience
    while left := _left(before, old):
        if time.monotonic() > deadline:
            raise AssertionError("left behind: " + "; ".join(left))
        time.sleep(0.002)


def _left(before: dict[int, str], old: dict[int, str]) -> list[str]:
    opened = [
        f"descriptor {number}: {target}"
        for number, target in sorted(descriptors().items())
        if before.get(number) != target and not any(part in target for part in KEPT_BY_TOOLS)
    ]
    return opened + [f"process {pid}: {name}" for pid, name in sorted(children().items()) if pid not in old]
