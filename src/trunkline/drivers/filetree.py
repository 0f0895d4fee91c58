"""The directory into which files are received, and which nothing received can leave.

It is opened once, and everything goes from descriptor to descriptor, never through a symbolic link: a
link planted inside, even amid the transfer, is refused, not followed (docs/spec/transfer.md section 8).
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
from types import TracebackType
from typing import Self

from trunkline import errors
from trunkline.transfer.messages import Entry
from trunkline.transfer.names import part_name

from .filesource import Refusal

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RENAME_NOREPLACE = 1


class Tree:
    """The directory into which files are received."""

    def __init__(self, into: str | os.PathLike[str]) -> None:
        """Raise ConfigError if it can't be opened."""
        self.path = os.fspath(into)
        try:
            self._root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise errors.ConfigError(
                f"files can't be received into {self.path!r}: {error.strerror}; name a directory that exists"
            ) from error
        self._parent: tuple[str, int] = ("", self._root)
        self._made: dict[str, Entry] = {}
        self._touched: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptors back; what was received stays."""
        self._drop_parent()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1
            self._parent = ("", -1)

    def free_bytes(self) -> int:
        """Return how much an ordinary user can still write here."""
        status = os.fstatvfs(self._root)
        return status.f_bavail * status.f_frsize

    def make_directory(self, entry: Entry) -> bool:
        """Make one directory of the manifest; return False if it was there.

        Raises:
            Refusal: something else is in its place, or it may not be written.
        """
        parent, name = self._place(entry.name, make=True)
        try:
            os.mkdir(name, entry.mode | 0o700, dir_fd=parent)  # ours to write until finish()
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise Refusal("something that is no directory is in its place: move it away") from None
            return False
        except OSError as error:
            raise Refusal(f"the directory can't be made: {error.strerror}") from error
        self._made[entry.name] = entry
        return True

    def status(self, name: str) -> os.stat_result | None:
        """Return what is under a name (links not followed), or None; nothing is made.

        Raises:
            Refusal: the way there leads through something that is no directory.
        """
        try:
            parent, last = self._place(name, make=False)
            return os.stat(last, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Refusal(f"its place can't be looked at: {error.strerror}") from error

    def part_size(self, name: str) -> int:
        """Return how many bytes of an unfinished file are here already."""
        directory, _, last = name.rpartition("/")
        status = self.status(f"{directory}/{part_name(last)}" if directory else part_name(last))
        return status.st_size if status is not None and stat.S_ISREG(status.st_mode) else 0

    def open_file(self, name: str) -> int:
        """Return a descriptor for reading a file that is here; Refusal if it can't be read."""
        parent, last = self._place(name, make=False)
        try:
            return os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent)
        except OSError as error:
            raise Refusal(f"a file of this name is here and can't be read: {error.strerror}") from error

    def open_part(self, entry: Entry) -> int:
        """Return a locked descriptor of the unfinished file, made if it is not there.

        What is there is used only if it is a plain file of ours with one name: it might have been planted.

        Raises:
            Refusal: it can't be made or written, or another transfer is at it.
        """
        parent, last = self._place(entry.name, make=True)
        part = part_name(last)
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            for _ in range(3):
                try:
                    return self._checked_part(os.open(part, flags, dir_fd=parent), parent, part, entry)
                except FileNotFoundError:
                    pass
                with contextlib.suppress(FileExistsError):
                    # The final mode, so that the kernel applies the umask; ours to write meanwhile.
                    fd = os.open(part, flags | os.O_CREAT | os.O_EXCL, entry.mode | 0o600, dir_fd=parent)
                    return self._checked_part(fd, parent, part, entry)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise Refusal(f"{part!r} is no plain file: remove it") from error
            raise Refusal(f"it can't be written: {error.strerror}") from error
        raise Refusal(f"{part!r} comes and goes: another transfer of the same name is at work")

    def _checked_part(self, fd: int, parent: int, part: str, entry: Entry) -> int:
        """Return `fd`, or raise FileNotFoundError after removing a part that can't be continued."""
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refusal("another transfer is receiving it just now: wait for that one to end") from None
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                raise Refusal(f"{part!r} is no plain file of yours: remove it")  # noqa: TRY301
            if status.st_nlink == 1 and status.st_size <= entry.size:
                return fd
            # A second name: linked to its place just before a crash, and writing on would alter that file.
            if status.st_nlink:
                os.unlink(part, dir_fd=parent)
            raise FileNotFoundError(part)  # noqa: TRY301
        except BaseException:
            os.close(fd)
            raise

    def remove_part(self, name: str) -> None:
        """Remove what is left of an unfinished file, if anything."""
        with contextlib.suppress(OSError, Refusal):
            parent, last = self._place(name, make=False)
            os.unlink(part_name(last), dir_fd=parent)

    def finish_part(self, fd: int, entry: Entry, *, overwrite: bool) -> None:
        """Flush a whole file and give it its name, in one step that can't replace another unasked.

        Raises:
            Refusal: a file of this name is there by now; the part stays.
            OSError: the disk failed.
        """
        os.fchmod(fd, os.fstat(fd).st_mode & entry.mode & 0o777)
        os.utime(fd, ns=(entry.mtime, entry.mtime))
        os.fsync(fd)
        parent, last = self._place(entry.name, make=True)
        part = part_name(last)
        try:
            if overwrite:
                os.replace(part, last, src_dir_fd=parent, dst_dir_fd=parent)
            else:
                _place_new(part, last, parent)
        except (FileExistsError, IsADirectoryError) as error:
            raise Refusal("a file of this name appeared here meanwhile") from error
        self._touched.add(entry.name.rpartition("/")[0])

    def finish(self) -> None:
        """Give new directories their modes and times, innermost first, and flush what they list."""
        for name in sorted(self._touched | set(self._made), key=lambda name: -name.count("/")):
            with contextlib.suppress(Refusal, FileNotFoundError):  # moved away by its user meanwhile
                fd = self._directory(name, make=False)
                entry = self._made.get(name)
                if entry is not None:
                    os.fchmod(fd, os.fstat(fd).st_mode & entry.mode & 0o777)
                    os.utime(fd, ns=(entry.mtime, entry.mtime))
                os.fsync(fd)
        if self._made or self._touched:
            os.fsync(self._root)
        self._made.clear()
        self._touched.clear()

    def _place(self, name: str, *, make: bool) -> tuple[int, str]:
        directory, _, last = name.rpartition("/")
        return self._directory(directory, make=make), last

    def _directory(self, name: str, *, make: bool) -> int:
        """Return a descriptor of a directory inside, which stays ours; the last one used is kept open."""
        if self._parent[0] == name:
            return self._parent[1]
        self._drop_parent()
        fd = self._root
        try:
            for component in name.split("/") if name else ():
                inner = self._step(fd, component, make=make)
                if fd != self._root:
                    os.close(fd)
                fd = inner
        except BaseException:
            if fd != self._root:
                os.close(fd)
            raise
        self._parent = (name, fd)
        return fd

    def _step(self, fd: int, component: str, *, make: bool) -> int:
        try:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(component, dir_fd=fd)
            return os.open(component, _DIRECTORY, dir_fd=fd)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise Refusal(f"{component!r} on its way is a symbolic link or no directory") from error
            if error.errno == errno.ENOENT and not make:
                raise
            raise Refusal(f"the directory {component!r} can't be used: {error.strerror}") from error

    def _drop_parent(self) -> None:
        if self._parent[1] != self._root:
            os.close(self._parent[1])
        self._parent = ("", self._root)


def _place_new(part: str, name: str, parent: int) -> None:
    """Rename without replacing. A hard link does it, except on file systems that have none, such as FAT."""
    try:
        os.link(part, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError as error:
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "renameat2"):
            raise Refusal(f"this file system can't rename without overwriting: {error.strerror}") from error
        if libc.renameat2(parent, os.fsencode(part), parent, os.fsencode(name), _RENAME_NOREPLACE):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code)) from error
    else:
        os.unlink(part, dir_fd=parent)
