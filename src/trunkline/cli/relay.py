"""What `expose` and `reach` have in common: two connections joined, with a line of the log for each step."""

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket

_log: Final = logging.getLogger("trunkline")


async def relay(who: str, inner: "socket.socket", outer: "socket.socket", *, to: str) -> None:
    """Join two connections until both directions have ended; owns both, and raises nothing but cancellation.

    Args:
        who: names this connection in the log.
        inner: the connection to a program on this host.
        outer: the connection that a meeting made.
        to: where it leads, for the log.
    """
    from trunkline.drivers.splice import join

    _log.info("%s: connected to %s", who, to)
    try:
        joined = await join(inner, outer)
    except OSError as error:  # no descriptors left for the pipes
        _log.error("%s: closed: %s", who, error)
        return
    ended = f"broke ({joined.error.strerror or joined.error})" if joined.error else "closed"
    _log.info("%s: %s, %d bytes out, %d bytes in", who, ended, joined.a_to_b, joined.b_to_a)
