"""The routines of the paper, under its names and with its parameters (its section 2.1).

Where the paper's routines return an error code, these raise. `putserver` and `meetclient` keep one registration for
the process, as the paper's do; for more than one name, or to end a registration, use `trunkline.post`.
"""

import threading
from typing import Final

from trunkline import connect
from trunkline.drivers.sockets import Connection
from trunkline.errors import ClosedError

_lock: Final = threading.Lock()
_registered: connect.Post | None = None


def meet(me: str, you: str) -> Connection:
    """Establish a connection between a process calling itself ``me`` and one calling itself ``you``."""
    return connect.meet(me, you)


def meet_d(me: str, you: str) -> Connection:
    """Do what `meet` does for datagrams: the paper's ``meet-d``."""
    return connect.meet_datagram(me, you)


def putserver(me: str) -> None:
    """Register this process as a server that is willing to accept connections with anyone.

    A second call registers the new name in place of the first.
    """
    global _registered
    new = connect.post(me)
    with _lock:
        old, _registered = _registered, new
    if old is not None:
        old.close()


def meetclient() -> Connection:
    """Establish a connection with a client that has executed ``meet(anything, me)``, after `putserver`.

    Raises:
        ClosedError: `putserver` was not called.
    """
    with _lock:
        registered = _registered
    if registered is None:
        raise ClosedError("meetclient() needs a registration: call putserver(name) first")
    return registered.accept()
