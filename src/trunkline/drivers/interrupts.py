"""A lock under which Ctrl-C waits: what it guards is never left half done.

Python raises KeyboardInterrupt between any two steps of the main thread. That is right while a call waits, and wrong
in the middle of a turn of the machine, whose state would then fit nothing. So while the main thread is inside a
`Turn`, SIGINT has a handler of ours, which only takes a note; `Turn.open` is the window in which it raises at once.
Trio keeps interrupts out of its inner workings in the same way. A program that has a handler of its own keeps it.
"""

import _signal  # type: ignore[import-not-found]  # the functions without the conversion to enums, which costs 40 microseconds a pair
import signal
import threading
from _thread import allocate_lock, get_ident
from types import FrameType, TracebackType
from typing import Final


class _Shield:
    """The main thread's; nobody else reads or writes it."""

    __slots__ = ("closed", "owner", "struck")

    def __init__(self) -> None:
        self.owner = 0
        """The main thread's number while our handler is installed."""
        self.closed = False
        """Whether an interrupt must wait."""
        self.struck = False
        """Whether one does."""


_shield: Final = _Shield()
_SIGINT: Final = int(signal.SIGINT)
_default: Final = signal.default_int_handler


def _interrupted(_: int, __: FrameType | None) -> None:
    if not _shield.closed:
        raise KeyboardInterrupt
    _shield.struck = True


class Turn:
    """``with turn:`` takes the lock. Leaving raises KeyboardInterrupt if one has come meanwhile."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = allocate_lock()

    def __enter__(self) -> None:
        me = get_ident()
        if me == threading.main_thread().ident and _signal.getsignal(_SIGINT) is _default:
            _shield.struck = False
            _shield.closed = True
            _signal.signal(_SIGINT, _interrupted)
            _shield.owner = me
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        if _shield.owner == get_ident():
            _shield.owner = 0
            _signal.signal(_SIGINT, _default)
            if _shield.struck and kind is not KeyboardInterrupt:
                raise KeyboardInterrupt

    def open(self) -> None:
        """Release the lock, in order to wait. `shut` must follow, whatever happens.

        Raises:
            KeyboardInterrupt: one has come since the lock was taken.
        """
        self._lock.release()
        if _shield.owner == get_ident():
            _shield.closed = False
            if _shield.struck:
                _shield.struck = False
                raise KeyboardInterrupt

    def shut(self) -> None:
        """Take the lock again after `open`."""
        if _shield.owner == get_ident():
            _shield.closed = True
        interrupt: BaseException | None = None
        while True:
            try:
                self._lock.acquire()
                break
            except BaseException as error:  # noqa: BLE001 - another signal's; raised below
                interrupt = error
        if interrupt is not None:
            raise interrupt


def forked() -> None:
    """In the child of a fork, undo what another thread's turn has installed: that thread is not here."""
    if _shield.owner:
        _shield.owner = 0
        _signal.signal(_SIGINT, _default)
