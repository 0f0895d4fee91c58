"""The side that wants the files: a machine for one connection (docs/spec/transfer.md sections 5 and 7)."""

from typing import ClassVar

from . import messages
from .lifecycle import EntryState, LinkState, Role
from .link import TransferLink
from .manifest import Manifest
from .messages import Verdict


class Receiver(TransferLink):
    """Takes an offer and answers for each entry of it, in order, some entries ahead of the bytes.

    Events: OfferEnd (the manifest is in `course.manifest`), Same, Differs, Start, Run, FileBytes, Sum,
    Spoiled, Done.
    """

    role: ClassVar[Role] = Role.RECEIVER

    def __init__(self, now: float, *, max_file: int = messages.MAX_FILE, max_total: int = messages.MAX_TOTAL) -> None:
        """`max_file` and `max_total` are in bytes; an offer beyond them is a MalformedMessage."""
        super().__init__(Manifest(max_file=max_file, max_total=max_total), now)
        self._next = 0

    def next_to_answer(self) -> int | None:
        """Return the entry to answer next; None when the window is full, or all are answered."""
        if self.course.state is not LinkState.SERVING or self._next >= len(self.course.manifest.entries):
            return None
        if self.course.in_hand >= messages.MAX_WINDOW:
            return None
        return self._next

    def all_settled(self) -> bool:
        """Tell whether it is time for send_complete()."""
        return self.course.state is LinkState.SERVING and not self.course.unsettled

    def send_ready(self) -> None:
        """Accept the manifest as a whole."""
        self._say(messages.Ready())

    def send_want(self, index: int, offset: int, sha256: bytes) -> None:
        """Ask for a file from `offset`; `sha256` is that of the bytes before it."""
        self._say(messages.Want(index, offset, sha256))
        self._answered(index)

    def send_whole(self, index: int, sha256: bytes) -> None:
        """Ask whether the file that is here, of the same size, is the same."""
        self._say(messages.Whole(index, sha256))
        self._answered(index)

    def send_settled(self, index: int, verdict: Verdict, reason: str = "") -> None:
        """Be done with an entry. A directory, or a file that is refused, is settled without more ado."""
        self._say(messages.Settled(index, verdict, reason[: messages.MAX_TEXT]))
        self._answered(index)

    def send_complete(self) -> None:
        """Say that all is settled and safe on disk."""
        self._say(messages.Complete())

    def _answered(self, index: int) -> None:
        assert self.course.entry_state(index) is not EntryState.OFFERED, "it was just answered"
        self._next = max(self._next, index + 1)
