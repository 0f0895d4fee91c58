"""Sending and taking files over a connected stream socket: the face for commands and programs.

`Sending` and `Taking` outlive a connection: when run() raises TransferFailed with ``again`` true, meet
again under the same names and call run() with the new socket. The functions are for one connection.
"""

import os
import socket
from collections.abc import Iterable

from trunkline.transfer import messages
from trunkline.transfer.report import FileOutcome, OnProgress, Outcome, Phase, Progress, Status

from .filesend import Sending
from .filetake import Taking

__all__ = [
    "FileOutcome",
    "OnProgress",
    "Outcome",
    "Phase",
    "Progress",
    "Sending",
    "Status",
    "Taking",
    "send_files",
    "take_files",
]


def send_files(
    sock: socket.socket,
    paths: Iterable[str | os.PathLike[str]],
    on_progress: OnProgress | None = None,
    *,
    timeout: float | None = None,
) -> Outcome:
    """Send files and directories over one connection; see `Sending`."""
    return Sending(paths).run(sock, on_progress=on_progress, timeout=timeout)


def take_files(
    sock: socket.socket,
    into: str | os.PathLike[str],
    on_progress: OnProgress | None = None,
    *,
    overwrite: bool = False,
    max_file: int = messages.MAX_FILE,
    max_total: int = messages.MAX_TOTAL,
    timeout: float | None = None,
) -> Outcome:
    """Receive files over one connection into a directory; see `Taking`."""
    with Taking(into, overwrite=overwrite, max_file=max_file, max_total=max_total) as taking:
        return taking.run(sock, on_progress=on_progress, timeout=timeout)
