"""Both sides of a file transfer against a liar: RemoteError, and nothing else; within the limits; cuts don't matter."""

import contextlib
from typing import Any, get_args

import msgspec

from fuzz.grammar import Draws
from trunkline.errors import LinkClosed, LocalError, RemoteError
from trunkline.transfer import messages
from trunkline.transfer.lifecycle import EntryState
from trunkline.transfer.link import FileBytes, TransferLink
from trunkline.transfer.messages import Entry, Kind, Message, Verdict
from trunkline.transfer.receiver import Receiver
from trunkline.transfer.sender import Sender

MAX_LEN = 1024

_KINDS: tuple[type, ...] = get_args(Message)
_NAMES = ("a", "a/b", "b", "", "/", "..", "a/../b", "/etc/passwd", "a\0b", "x" * 300, "\u202eevil", "con", "a//b", ".")
_NUMBERS = (0, 1, 2, 3, 5, 64, 1 << 20, (1 << 44) + 1, 1 << 62)
_MAX_FILE, _MAX_TOTAL = 1 << 30, 1 << 31
_FILES = [
    Entry("a", Kind.FILE, 5, 0o644, 0),
    Entry("d", Kind.DIRECTORY, 0, 0o755, 0),
    Entry("d/b", Kind.FILE, 0, 0o600, 1),
]


def fuzz_one(data: bytes) -> None:
    """Run one input."""
    draws = Draws(data)
    receiving = bool(draws.below(2))
    script = _script(draws)
    whole = _Side(receiving)
    cut = _Side(receiving)
    for piece, answer in script:
        whole.hear([piece], Draws(answer))
        cut.hear([piece[at : at + 1] for at in range(len(piece))], Draws(answer))
        assert type(whole.error) is type(cut.error), (whole.error, cut.error)
        if whole.error is not None:
            return
        assert whole.events == cut.events
        assert whole.link.data_to_send() == cut.link.data_to_send()
    whole.end()


def _script(draws: Draws) -> list[tuple[bytes, bytes]]:
    """What the other side says, piece by piece, each with the decisions for what is answered."""
    script: list[tuple[bytes, bytes]] = []
    start = messages.PREAMBLE if draws.below(8) else draws.bytes(8)
    while draws.left:
        if draws.below(8) == 7:
            piece = draws.bytes(draws.below(32))
        else:
            message = _message(draws)
            piece = messages.encode(message)
            if isinstance(message, messages.Run) and message.length < 1024 and draws.below(2):
                piece += b"f" * message.length
        script.append((start + piece, draws.bytes(2)))
        start = b""
    return script


def _message(draws: Draws) -> Any:
    kind = draws.choice(_KINDS)
    return kind(*(_value(draws, msgspec.inspect.type_info(field.type)) for field in _fields(kind)))


def _fields(kind: type) -> tuple[Any, ...]:
    return msgspec.structs.fields(kind)


def _value(draws: Draws, info: Any) -> Any:
    match info:
        case msgspec.inspect.IntType():
            return draws.choice(_NUMBERS)
        case msgspec.inspect.StrType():
            return draws.choice(_NAMES)
        case msgspec.inspect.BytesType():
            return bytes([draws.below(2)]) * 32
        case msgspec.inspect.EnumType(cls=cls):
            return draws.choice(list(cls))
        case msgspec.inspect.ListType(item_type=msgspec.inspect.StructType(cls=cls)):
            return [
                cls(*(_value(draws, msgspec.inspect.type_info(field.type)) for field in _fields(cls)))
                for _ in range(draws.below(4))
            ]
        case _:
            raise AssertionError(info)


class _Side:
    """One side, with a driver that answers as it is told."""

    def __init__(self, receiving: bool) -> None:
        self.link: TransferLink
        self.link = Receiver(0.0, max_file=_MAX_FILE, max_total=_MAX_TOTAL) if receiving else Sender(_FILES, 0.0)
        self.events: list[object] = []
        self.error: RemoteError | None = None

    def hear(self, pieces: list[bytes], answer: Draws) -> None:
        """Take bytes, keep what they meant, and answer."""
        try:
            for piece in pieces:
                self.link.receive_data(piece, 1.0)
        except RemoteError as error:
            str(error)
            self.error = error
            assert self.link.over
            return
        while (event := self.link.next_event()) is not None:
            if isinstance(event, FileBytes):
                self.events += [(event.index, event.offset + at) for at in range(len(event.data))]
            else:
                self.events.append(event)
        course = self.link.course
        assert len(self.link._inbox) < messages.MAX_FRAME + messages.HEADER_BYTES
        assert 0 <= course.in_hand <= messages.MAX_WINDOW
        assert 0 <= course.unsettled <= len(course.manifest.entries)
        assert course.manifest.size <= _MAX_TOTAL
        with contextlib.suppress(LocalError):  # it can't be said now; a driver would know
            self.answer(answer)

    def answer(self, draws: Draws) -> None:
        """Say something."""
        link = self.link
        kind = draws.below(8)
        if isinstance(link, Receiver):
            index = link.next_to_answer() if kind < 6 else draws.below(4)
            if kind == 0:
                link.send_ready()
            elif index is None:
                if link.all_settled():
                    link.send_complete()
            elif kind < 3:
                link.send_want(index, draws.below(2) * 2, bytes(32))
            elif kind < 5:
                link.send_whole(index, bytes(32))
            else:
                state = link.course._states[index] if index < len(link.course._states) else EntryState.OFFERED
                link.send_settled(index, Verdict.KEPT if state is EntryState.SUMMED else draws.choice(list(Verdict)))
        else:
            assert isinstance(link, Sender)
            index = draws.below(3)
            if kind == 0:
                link.send_same(index)
            elif kind == 1:
                link.send_differs(index)
            elif kind < 4:
                link.send_start(index, draws.below(2))
            elif kind == 4:
                link.send_run(index, 1 + draws.below(5))
                link.send_raw(b"r" * link.raw_due)
            elif kind == 5:
                link.send_sum(index, bytes(32))
            elif kind == 6:
                link.send_spoiled(index, "gone")
            else:
                link.send_done()

    def end(self) -> None:
        """Let the connection break, or be silent."""
        try:
            self.link.receive_eof(2.0)
        except LinkClosed:
            assert self.link.over
        assert self.link.next_deadline() is None or not self.link.over
