"""Frames and their contents (docs/spec/wire.md sections 1 and 2).

A connection begins with the preamble, eight bytes each way, and goes on with frames: a length of four bytes, big
endian, and a body of that length, one MessagePack message. Nothing here knows a socket.
"""

import struct
from typing import Final

import msgspec

from trunkline.errors import (
    FrameTooLarge,
    InvalidName,
    InvalidUser,
    MalformedMessage,
    NotTrunkline,
    UnknownMessage,
    VersionMismatch,
)
from trunkline.names import Candidates, check_name, check_pair
from trunkline.users import check_pattern, check_user
from trunkline.wire.limits import MAX_FRAME
from trunkline.wire.messages import AnyMessage, Explain, Meet, Message, Post, Propagated, Propose

MAGIC: Final = b"TRUNK/"
VERSION: Final = b"1"
PREAMBLE: Final = MAGIC + VERSION + b"\n"
"""The first bytes of either side: who we are and which version we speak, readable in any capture."""

_LENGTH: Final = struct.Struct("!I")
_ROOM: Final = bytes(_LENGTH.size)
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(AnyMessage)
_candidates: Final = msgspec.msgpack.Decoder(Candidates)


def encode(message: Message) -> bytes:
    """Return the frame of ``message``: length and body."""
    frame = bytearray()
    encode_into(message, frame)
    return bytes(frame)


def encode_into(message: Message, buffer: bytearray) -> None:
    """Append the frame of ``message`` to ``buffer``: many messages then go out in one write."""
    start = len(buffer) + 4
    buffer += _ROOM
    _encoder.encode_into(message, buffer, -1)
    size = len(buffer) - start
    assert size <= MAX_FRAME, f"{type(message).__name__} has {size} bytes: its fields' limits don't add up"
    _LENGTH.pack_into(buffer, start - 4, size)


def decode(body: bytes | memoryview) -> AnyMessage:
    """Return the message in a frame's body.

    Raises:
        UnknownMessage: the number is none of this version's.
        MalformedMessage: the body is no message, or a field is out of its limits.
    """
    try:
        message: AnyMessage = _decoder.decode(body)
    except msgspec.ValidationError as error:
        _raise_if_unknown(body)
        raise MalformedMessage(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(str(error)) from None
    _check_names(message)
    return message


def _check_names(message: AnyMessage) -> None:
    try:
        match message:
            case Meet() | Explain():
                check_pair(message.me, message.you)
                _check_users(message.user, message.peer_user)
            case Post():
                check_name(message.name)
                _check_offer(message.user, message.allow)
            case Propagated():
                check_name(message.me)
                if message.you:
                    check_pair(message.me, message.you)
                    _check_users(message.user, message.peer_user)
                else:
                    _check_offer(message.user, message.allow)
            case Propose():
                _check_users(message.user, message.peer_user)
            case _:
                pass
    except (InvalidName, InvalidUser) as error:
        raise MalformedMessage(str(error)) from None


def _check_users(user: str, peer_user: str) -> None:
    if not user and not peer_user:
        return
    check_user(user)  # half a pair is none: '' is refused here
    check_user(peer_user)


def _check_offer(user: str, allow: tuple[str, ...]) -> None:
    if not user and not allow:
        return
    check_user(user)
    for pattern in allow:
        check_pattern(pattern)


def _raise_if_unknown(body: bytes | memoryview) -> None:
    try:
        fields = msgspec.msgpack.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, TypeError):
        return
    known = {kind.__struct_config__.tag for kind in AnyMessage.__args__}
    if isinstance(fields, list) and fields:
        tag = fields[0]
        if not isinstance(tag, int):  # it may be anything, also what no set can hold
            raise UnknownMessage(str(tag)[:40])
        if tag not in known:
            raise UnknownMessage(tag)


class Inbound:
    """The receiving half of a connection: bytes in, messages out.

    It holds at most one frame that is not yet whole, so its memory is bounded by MAX_FRAME.
    """

    __slots__ = ("_begun", "_buffer")

    def __init__(self) -> None:
        self._buffer = b""
        self._begun = False

    @property
    def begun(self) -> bool:
        """Whether the preamble has come."""
        return self._begun

    def receive_data(self, data: bytes | memoryview) -> list[AnyMessage]:
        """Take the next bytes and return the messages that they complete.

        Raises:
            NotTrunkline, VersionMismatch: the preamble is wrong.
            FrameTooLarge: a frame announces more than MAX_FRAME; its body is not waited for.
            UnknownMessage, MalformedMessage: see `decode`. The messages before it in ``data`` are lost: the
                connection is over.
        """
        if self._buffer:
            data = self._buffer + bytes(data)
        at = 0
        if not self._begun:
            if not self._take_preamble(bytes(data[: len(PREAMBLE)])):
                self._buffer = bytes(data)
                return []
            at = len(PREAMBLE)
        messages: list[AnyMessage] = []
        end = len(data)
        while end - at >= 4:
            (size,) = _LENGTH.unpack_from(data, at)
            if size > MAX_FRAME:
                raise FrameTooLarge(size, MAX_FRAME)
            stop = at + 4 + size
            if stop > end:
                break
            messages.append(decode(data[at + 4 : stop]))
            at = stop
        self._buffer = bytes(data[at:]) if at < end else b""
        return messages

    def _take_preamble(self, start: bytes) -> bool:
        if start == PREAMBLE:
            self._begun = True
            return True
        known = MAGIC[: len(start)]
        if not start.startswith(known):
            raise NotTrunkline(start)
        if len(start) < len(PREAMBLE):
            return False
        theirs = start[:-1].decode("ascii", "replace") if start.endswith(b"\n") else repr(start)
        raise VersionMismatch(theirs, PREAMBLE[:-1].decode())


def encode_candidates(candidates: Candidates) -> bytes:
    """Return the form in which a server passes candidates on."""
    return _encoder.encode(candidates)


def decode_candidates(blob: bytes) -> Candidates:
    """Return what `encode_candidates` was given.

    Raises:
        MalformedMessage: it is something else.
    """
    try:
        return _candidates.decode(blob)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedMessage(f"candidates: {error}") from None
