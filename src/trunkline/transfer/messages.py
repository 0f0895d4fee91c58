"""What the two sides of a transfer say: catalogue, limits and codec (docs/spec/transfer.md sections 2, 3).

A frame is a big-endian u32 length and a MessagePack array whose first element is the message's number. File
bytes are not in frames: they follow a `Run` raw, so that the kernel can move them.
"""

import enum
import unicodedata
from typing import Annotated

import msgspec

from trunkline import errors

PREAMBLE = b"TRUNKF/1"
HEADER_BYTES = 4

MAX_FRAME = 64 * 1024
"""Bytes in the body of one frame. Only `Offer` comes near it; ssh and HTTP/2 start from 32 and 16 KiB."""
MAX_RUN = 4 * 1024 * 1024
"""Bytes that one `Run` announces: what has to be padded when a file shrinks; other frames wait for it."""
MAX_WINDOW = 32
"""Entries that the receiver has answered and not settled: hides round trips, bounds memory."""
MAX_ENTRIES = 100_000
"""Entries in one transfer."""
MAX_MANIFEST = 32 * 1024 * 1024
"""Bytes of names in one transfer."""
MAX_FILE = 1 << 44
"""Bytes in one file: 16 TiB, ext4's own limit."""
MAX_TOTAL = 1 << 48
"""Bytes in one transfer."""
MAX_TEXT = 500
"""Characters of a reason; longer ones are cut by who says them."""

DIGEST_BYTES = 32

_MAX_TIME = 1 << 62

Index = Annotated[int, msgspec.Meta(ge=0, lt=MAX_ENTRIES)]
Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE)]
Digest = Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]


class Kind(enum.IntEnum):
    """What an entry of the manifest is; nothing else travels (no links, devices, pipes, sockets)."""

    FILE = 0
    DIRECTORY = 1


class Verdict(enum.IntEnum):
    """How the receiver settled an entry."""

    KEPT = 0
    """Arrived whole, checked, on disk under its name."""
    SAME = 1
    """Was there already, with the same hash."""
    REFUSED = 2
    """Not wanted: something else is there, or it may not be written."""
    FAILED = 3
    """Did not arrive whole."""


class Entry(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """One line of the manifest. `mode` holds permission bits only; `mtime` is in nanoseconds since 1970."""

    name: str
    kind: Kind
    size: Size
    mode: Annotated[int, msgspec.Meta(ge=0, le=0o777)]
    mtime: Annotated[int, msgspec.Meta(ge=-_MAX_TIME, le=_MAX_TIME)]


class _Message(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    pass


class Offer(_Message, tag=1, frozen=True):
    """A piece of the manifest; entries are numbered from 0 in the order in which they are offered."""

    entries: Annotated[list[Entry], msgspec.Meta(min_length=1)]


class OfferEnd(_Message, tag=2, frozen=True):
    """The manifest is whole: so many entries, so many bytes."""

    entries: Annotated[int, msgspec.Meta(ge=0, le=MAX_ENTRIES)]
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOTAL)]


class Ready(_Message, tag=3, frozen=True):
    """The receiver has looked at the manifest and at its disk, and begins to answer."""


class Want(_Message, tag=4, frozen=True):
    """Send this file from `offset`; `sha256` is that of the bytes before it, as the receiver has them."""

    index: Index
    offset: Size
    sha256: Digest


class Whole(_Message, tag=5, frozen=True):
    """A file of this name and size is there, with this hash: is it the same?"""

    index: Index
    sha256: Digest


class Same(_Message, tag=6, frozen=True):
    """It is."""

    index: Index


class Differs(_Message, tag=7, frozen=True):
    """It is not; the receiver refuses the file or wants it from 0."""

    index: Index


class Start(_Message, tag=8, frozen=True):
    """The file comes now, from `offset`: the one asked for, or 0 if the receiver's beginning is not ours."""

    index: Index
    offset: Size


class Run(_Message, tag=9, frozen=True):
    """`length` raw bytes of the file, from `offset` on, follow this frame."""

    index: Index
    offset: Size
    length: Annotated[int, msgspec.Meta(ge=1, le=MAX_RUN)]


class Sum(_Message, tag=10, frozen=True):
    """That was all of it, and this is the hash of the whole file."""

    index: Index
    sha256: Digest


class Spoiled(_Message, tag=11, frozen=True):
    """The sender can't send this file, or not to its end; the reason says why."""

    index: Index
    reason: Text


class Settled(_Message, tag=12, frozen=True):
    """The receiver is done with this entry."""

    index: Index
    verdict: Verdict
    reason: Text = ""


class Complete(_Message, tag=13, frozen=True):
    """Every entry is settled, and what was kept will survive a crash of the receiver's machine."""


class Done(_Message, tag=14, frozen=True):
    """The sender knows; the connection can close."""


class Alive(_Message, tag=15, frozen=True):
    """Nothing to say, and still there."""


class Stop(_Message, tag=16, frozen=True):
    """The transfer ends here; `code` is that of an error in trunkline.errors, 0 for any other reason."""

    code: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    reason: Text


Message = (
    Offer
    | OfferEnd
    | Ready
    | Want
    | Whole
    | Same
    | Differs
    | Start
    | Run
    | Sum
    | Spoiled
    | Settled
    | Complete
    | Done
    | Alive
    | Stop
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)
_LAST_TAG = 16


def encode(message: Message) -> bytes:
    """Return the frame of a message, its length included."""
    body = _encoder.encode(message)
    assert len(body) <= MAX_FRAME, "Offer is cut to fit by split_offer; every other message is short"
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def frame_size(header: bytes | bytearray) -> int:
    """Return the length of the body that follows a frame's header.

    Raises:
        FrameTooLarge: before a byte of the body is read.
    """
    size = int.from_bytes(header, "big")
    if size > MAX_FRAME:
        raise errors.FrameTooLarge(size, MAX_FRAME)
    return size


def decode(body: bytes | bytearray) -> Message:
    """Return the message in the body of a frame.

    Raises:
        MalformedMessage: no MessagePack, or a field out of its limits.
        UnknownMessage: an array with a number that this version doesn't know.
    """
    try:
        message: Message = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        tag = _tag(body)
        if tag is not None and not 1 <= tag <= _LAST_TAG:
            raise errors.UnknownMessage(tag) from error
        raise errors.MalformedMessage(str(error)[:200]) from error
    return message


def _tag(body: bytes | bytearray) -> int | None:
    try:
        value = msgspec.msgpack.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return value[0] if isinstance(value, list) and value and type(value[0]) is int else None


def split_offer(entries: list[Entry]) -> list[Offer]:
    """Cut a manifest into pieces that fit their frames."""
    offers: list[Offer] = []
    piece: list[Entry] = []
    size = 0
    for entry in entries:
        cost = len(_encoder.encode(entry))
        if piece and size + cost > MAX_FRAME - 16:  # 16: the array headers and the number
            offers.append(Offer(piece))
            piece, size = [], 0
        piece.append(entry)
        size += cost
    if piece:
        offers.append(Offer(piece))
    return offers


def printable(text: str) -> str:
    """Return a peer's text fit for a terminal: control and direction characters replaced, length limited."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in text[:MAX_TEXT])
