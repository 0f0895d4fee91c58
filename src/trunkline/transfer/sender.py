"""The side that has the files: a machine for one connection (docs/spec/transfer.md sections 5 and 7)."""

from collections.abc import Sequence
from typing import ClassVar

from . import messages
from .lifecycle import Role
from .link import TransferLink
from .manifest import Manifest
from .messages import Entry


class Sender(TransferLink):
    """Offers a manifest and serves what the receiver wants of it.

    Events: Ready, Want, Whole, Settled, Complete. A new connection needs a new machine; what was settled on
    an earlier one need not be offered again.
    """

    role: ClassVar[Role] = Role.SENDER

    def __init__(self, entries: Sequence[Entry], now: float) -> None:
        """Queue the preamble and the whole offer.

        Raises:
            LocalError: an entry that no receiver would take.
        """
        super().__init__(Manifest(), now)
        for offer in messages.split_offer(list(entries)):
            self._say(offer)
        self._say(messages.OfferEnd(len(entries), self.course.manifest.size))

    def send_same(self, index: int) -> None:
        """Answer Whole: ours has the same hash."""
        self._say(messages.Same(index))

    def send_differs(self, index: int) -> None:
        """Answer Whole: ours has another hash."""
        self._say(messages.Differs(index))

    def send_start(self, index: int, offset: int) -> None:
        """Answer Want: the file comes from `offset`, which is the one wanted, or 0."""
        self._say(messages.Start(index, offset))

    def send_run(self, index: int, length: int) -> None:
        """Announce the next `length` bytes of the file, at most MAX_RUN; then they are due (`raw_due`)."""
        self._say(messages.Run(index, self.course.position, length))

    def send_sum(self, index: int, sha256: bytes) -> None:
        """End the file with the hash of the whole of it."""
        self._say(messages.Sum(index, sha256))

    def send_spoiled(self, index: int, reason: str) -> None:
        """Give a file up: it can't be read, or changed."""
        self._say(messages.Spoiled(index, reason[: messages.MAX_TEXT]))

    def send_done(self) -> None:
        """Answer Complete; the connection can close afterwards."""
        self._say(messages.Done())
