"""Frames between clients and an authority (docs/spec/authority.md section 6): the preamble, then a length of four
bytes, big endian, and a body of that length, one MessagePack message. Both sides use this; nothing here knows a socket.
"""

import struct
from typing import Final, Generic, TypeVar

import msgspec

from trunkline.authority.messages import MAX_ANSWER, MAX_REQUEST, PREAMBLE, Answer, AnyMessage, Request
from trunkline.errors import FrameTooLarge, MalformedMessage, NotTrunkline, VersionMismatch

MAGIC: Final = b"TRUNKA/"
_LENGTH: Final = struct.Struct("!I")
_encoder: Final = msgspec.msgpack.Encoder()
_requests: Final[msgspec.msgpack.Decoder[Request]] = msgspec.msgpack.Decoder(Request)
_answers: Final[msgspec.msgpack.Decoder[Answer]] = msgspec.msgpack.Decoder(Answer)

M = TypeVar("M", bound=AnyMessage)


def encode(message: AnyMessage) -> bytes:
    """Return the frame of a message: length and body."""
    frame = bytearray(4)
    _encoder.encode_into(message, frame, 4)
    size = len(frame) - 4
    assert size <= MAX_ANSWER, f"{type(message).__name__} has {size} bytes: its fields' limits don't add up"
    _LENGTH.pack_into(frame, 0, size)
    return bytes(frame)


class Inbound(Generic[M]):
    """The receiving half of a connection: bytes in, messages out, as many at a time as the reader wants.

    It holds what was received and not yet taken: give it no more while a whole message waits, and its memory is
    bounded by the largest frame and one read.
    """

    __slots__ = ("_at", "_buffer", "_decoder", "_limit", "begun")

    def __init__(self, decoder: "msgspec.msgpack.Decoder[M]", limit: int) -> None:
        self._decoder = decoder
        self._limit = limit
        self._buffer = bytearray()
        self._at = 0
        self.begun = False
        """Whether the preamble has come."""

    @property
    def waiting(self) -> int:
        """Bytes that were received and not taken."""
        return len(self._buffer) - self._at

    def receive_data(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def next_message(self) -> M | None:
        """Return the next message; None if it is not there whole.

        Raises:
            NotTrunkline, VersionMismatch: the preamble is wrong.
            FrameTooLarge: the frame announces more than the limit; its body is not waited for.
            MalformedMessage: the body is no message, or not one that comes from that side.
        """
        buffer, at = self._buffer, self._at
        if not self.begun:
            if not self._take_preamble():
                return None
            at = self._at
        if len(buffer) - at < 4:
            return None
        (size,) = _LENGTH.unpack_from(buffer, at)
        if size > self._limit:
            raise FrameTooLarge(size, self._limit)
        stop = at + 4 + size
        if stop > len(buffer):
            return None
        self._at = stop
        try:
            return self._decoder.decode(bytes(buffer[at + 4 : stop]))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedMessage(str(error)) from None

    def _take_preamble(self) -> bool:
        start = bytes(self._buffer[: len(PREAMBLE)])
        if start == PREAMBLE:
            self.begun = True
            self._at = len(PREAMBLE)
            return True
        if not start.startswith(MAGIC[: len(start)]):
            raise NotTrunkline(start)
        if len(start) < len(PREAMBLE):
            return False
        theirs = start[:-1].decode("ascii", "replace") if start.endswith(b"\n") else repr(start)
        raise VersionMismatch(theirs, PREAMBLE[:-1].decode())


def requests() -> Inbound[Request]:
    """Return the receiving half of an authority."""
    return Inbound(_requests, MAX_REQUEST)


def answers() -> Inbound[Answer]:
    """Return the receiving half of a client."""
    return Inbound(_answers, MAX_ANSWER)


def decode_answer(body: bytes) -> Answer:
    """Return the answer in a frame's body, for who reads exactly that many bytes.

    Raises:
        MalformedMessage: it is none.
    """
    try:
        return _answers.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(str(error)) from None


def frame_size(head: bytes) -> int:
    """Return how long the body is that these four bytes announce.

    Raises:
        FrameTooLarge: longer than any answer.
    """
    (size,) = _LENGTH.unpack(head)
    if size > MAX_ANSWER:
        raise FrameTooLarge(size, MAX_ANSWER)
    return int(size)
