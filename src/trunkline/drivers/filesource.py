"""What there is to send: paths of the user's made into a manifest, with the identity of each file.

The identity is looked at again when a file is opened and when its last byte was read: a file that changes
while it is sent is told of, not sent as a mixture.
"""

import dataclasses
import os
import stat
from collections.abc import Iterable

from trunkline import errors
from trunkline.transfer.manifest import Manifest
from trunkline.transfer.messages import Entry, Kind
from trunkline.transfer.report import FileOutcome, Status


class Refusal(Exception):
    """Why an entry can't be taken, in words for both users."""


Identity = tuple[int, int, int, int, int]


def identity(status: os.stat_result) -> Identity:
    """Return what changes when a file does: device, inode, size, times of content and inode."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """One entry to send, and the file behind it as it was when the list was made."""

    entry: Entry
    path: str
    identity: Identity


def plan(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Source], list[FileOutcome]]:
    """Return what to send, directories before what is in them, and what is left out, with reasons.

    A symbolic link that is named itself is followed; inside a directory none is.

    Raises:
        ConfigError: a path is not there, or nothing is left to send.
        InvalidName: a path's last component is no acceptable name, or two paths have the same one.
        TooMany: a limit of the protocol.
    """
    manifest = Manifest()
    sources: list[Source] = []
    left_out: list[FileOutcome] = []
    for given in paths:
        path = os.path.realpath(given)
        name = os.path.basename(os.path.normpath(os.fspath(given)))  # noqa: PTH119 - text only
        if name in ("", ".", ".."):
            name = os.path.basename(path)  # noqa: PTH119
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError as error:
            raise errors.ConfigError(f"{os.fspath(given)!r} can't be sent: {error.strerror}") from error
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise errors.ConfigError(f"{os.fspath(given)!r} can't be sent: it is no file and no directory")
        _add(manifest, sources, name, path, status)
        if stat.S_ISDIR(status.st_mode):
            _add_tree(manifest, sources, left_out, name, path)
    if not sources:
        raise errors.ConfigError("there is nothing to send: name at least one file")
    return sources, left_out


def _add(manifest: Manifest, sources: list[Source], name: str, path: str, status: os.stat_result) -> None:
    directory = stat.S_ISDIR(status.st_mode)
    entry = Entry(
        name,
        Kind.DIRECTORY if directory else Kind.FILE,
        0 if directory else status.st_size,
        status.st_mode & 0o777,
        status.st_mtime_ns,
    )
    manifest.add(entry)
    sources.append(Source(entry, path, identity(status)))


def _add_tree(manifest: Manifest, sources: list[Source], left_out: list[FileOutcome], top: str, top_path: str) -> None:
    waiting = [(top, top_path)]
    while waiting:
        name, path = waiting.pop()
        try:
            with os.scandir(path) as listing:
                found = sorted(listing, key=lambda item: item.name)
        except OSError as error:
            left_out.append(FileOutcome(name, Status.FAILED, reason=f"can't be listed: {error.strerror}"))
            continue
        for item in found:
            inner = f"{name}/{item.name}"
            try:
                status = item.stat(follow_symlinks=False)
            except OSError:
                continue  # deleted since it was listed: as if it had never been there
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no file and no directory"
                left_out.append(FileOutcome(inner, Status.LEFT_OUT, reason=f"it is {kind}"))
                continue
            try:
                _add(manifest, sources, inner, item.path, status)
            except errors.InvalidName as error:
                shown = inner.encode(errors="backslashreplace").decode()
                left_out.append(FileOutcome(shown, Status.FAILED, reason=str(error)))
                continue
            if stat.S_ISDIR(status.st_mode):
                waiting.append((inner, item.path))


def open_source(source: Source) -> int:
    """Return a descriptor of the file that was planned.

    Raises:
        Refusal: it can't be read, or is not the file that it was.
    """
    try:
        fd = os.open(source.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Refusal(f"the sender can't read it: {error.strerror}") from error
    try:
        check_unchanged(source, fd)
    except Refusal:
        os.close(fd)
        raise
    return fd


def check_unchanged(source: Source, fd: int) -> None:
    """Raise Refusal if the file behind a descriptor is not the one that was planned, or has changed since."""
    if identity(os.fstat(fd)) != source.identity:
        raise Refusal("it changed at the sender since the list was made: send it again when it is at rest")
