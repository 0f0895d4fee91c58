"""A listener that never answers: what a dial meets at a machine that is switched off, without leaving loopback."""

import contextlib
import socket
from collections.abc import Iterator

from trunkline.names import Address


@contextlib.contextmanager
def deaf_listener() -> Iterator[Address]:
    """A listener whose queue is full: a dial is never answered."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(listener.getsockname())
        yield Address(*listener.getsockname())
