"""The codec: any bytes become messages or a RemoteError, however they are cut up."""

import contextlib

from fuzz.grammar import ALL, Draws, Pools
from trunkline.errors import MalformedMessage, RemoteError
from trunkline.wire.codec import PREAMBLE, Inbound, decode, decode_candidates, encode
from trunkline.wire.limits import MAX_FRAME
from trunkline.wire.messages import Message

MAX_LEN = 1024


def fuzz_one(data: bytes) -> None:
    """Run one input."""
    draws = Draws(data)
    match draws.below(4):
        case 0:
            stream = draws.bytes(MAX_LEN)
        case 1:
            stream = PREAMBLE + draws.bytes(MAX_LEN)
        case 2:
            stream = PREAMBLE + _frame(b"\x93" + draws.bytes(MAX_LEN))
            _check_candidates(stream[len(PREAMBLE) + 5 :])
        case _:
            stream = PREAMBLE + _messages(draws)
    _check_cuts(stream)


def _messages(draws: Draws) -> bytes:
    pools = Pools()
    stream = bytearray()
    while draws.left and len(stream) < 4096:
        frame = bytearray(encode(pools.message(draws, ALL)))
        if draws.below(4) == 3:
            frame[draws.below(min(len(frame), 256))] = draws.byte()
        stream += frame
    return bytes(stream)


def _frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def _check_cuts(stream: bytes) -> None:
    whole, error = _decoded([stream])
    piecewise, other_error = _decoded([stream[at : at + 1] for at in range(len(stream))])
    assert type(error) is type(other_error), (error, other_error)
    if error is None:
        # By repr: a NaN isn't equal to itself.
        assert repr(whole) == repr(piecewise)
    for message in piecewise:
        assert repr(decode(encode(message)[4:])) == repr(message)


def _decoded(pieces: list[bytes]) -> tuple[list[Message], RemoteError | None]:
    inbound = Inbound()
    messages: list[Message] = []
    for piece in pieces:
        try:
            messages += inbound.receive_data(piece)
        except RemoteError as error:
            str(error)
            return messages, error
        assert len(inbound._buffer) < MAX_FRAME + 4
    return messages, None


def _check_candidates(blob: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        decode_candidates(blob)
