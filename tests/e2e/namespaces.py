"""Network namespaces that are held by a file descriptor and by nothing else.

`ip netns add` leaves a name and a mount behind when its maker is killed. A namespace that only a descriptor
holds is removed by the kernel together with its interfaces as soon as its last holder ends, however it ends:
so a killed run leaves nothing that could stand in the way of the next one, and runs in parallel cannot clash.
"""

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator

CLONE_NEWNET = 0x40000000

# Python has os.unshare and os.setns from 3.12 on; the C library serves 3.11 as well.
_libc = ctypes.CDLL(None, use_errno=True)


def _call(function: str, *args: int) -> None:
    if getattr(_libc, function)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def _own_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def new_namespace() -> int:
    """Make an empty network namespace; return a descriptor of it, for the caller to close.

    Raises OSError (PermissionError without CAP_SYS_ADMIN).
    """
    made: list[int | OSError] = []

    def make() -> None:
        try:
            _call("unshare", CLONE_NEWNET)
            made.append(_own_namespace())
        except OSError as error:
            made.append(error)

    # Namespaces belong to threads: this one leaves for the new namespace and ends there.
    thread = threading.Thread(target=make, name="new-namespace")
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


@contextlib.contextmanager
def entered(namespace: int) -> Iterator[None]:
    """Put the calling thread into the namespace: sockets, processes and threads made meanwhile belong to it.

    A socket stays where it was made, also when it is used after the block. Other threads are not moved; so
    do not await inside the block unless all that runs meanwhile should be in the namespace too.
    """
    before = _own_namespace()
    try:
        _call("setns", namespace, CLONE_NEWNET)
        try:
            yield
        finally:
            _call("setns", before, CLONE_NEWNET)
    finally:
        os.close(before)
