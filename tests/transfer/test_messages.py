"""The codec: every message there and back, and nothing but messages or RemoteErrors out of any bytes."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline import errors
from trunkline.transfer import messages as m

DIGEST = bytes(range(32))
ENTRY = m.Entry("a/ü", m.Kind.FILE, 7, 0o644, -1)
SAMPLES = [
    m.Offer([ENTRY]),
    m.OfferEnd(1, 7),
    m.Ready(),
    m.Want(0, 3, DIGEST),
    m.Whole(0, DIGEST),
    m.Same(0),
    m.Differs(0),
    m.Start(0, 3),
    m.Run(0, 3, 4),
    m.Sum(0, DIGEST),
    m.Spoiled(0, "gone"),
    m.Settled(0, m.Verdict.KEPT),
    m.Complete(),
    m.Done(),
    m.Alive(),
    m.Stop(5, "no"),
]


def test_there_is_a_sample_of_every_message():
    assert {type(sample) for sample in SAMPLES} == set(m.Message.__args__)


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_round_trip(message):
    frame = m.encode(message)
    assert m.frame_size(frame[:4]) == len(frame) - 4
    assert m.decode(frame[4:]) == message


@pytest.mark.parametrize(
    "body",
    [
        [4, 0, 0, DIGEST[:-1]],
        [4, 0, -1, DIGEST],
        [4, 0, m.MAX_FILE + 1, DIGEST],
        [4, m.MAX_ENTRIES, 0, DIGEST],
        [4, 0, 0, DIGEST, 0],
        [4, 0],
        [9, 0, 0, 0],
        [9, 0, 0, m.MAX_RUN + 1],
        [1, []],
        [1, [["x", 2, 0, 0, 0]]],
        [1, [["x", 0, 0, 0o4755, 0]]],
        [1, [["x", 0, 0, 0o644, 1 << 63]]],
        [16, 0, "x" * (m.MAX_TEXT + 1)],
        [12, 0, 9, ""],
        {},
        [],
        "x",
        None,
    ],
)
def test_fields_out_of_their_limits_are_malformed(body):
    with pytest.raises(errors.MalformedMessage):
        m.decode(msgspec.msgpack.encode(body))


def test_unknown_number_is_named():
    with pytest.raises(errors.UnknownMessage, match="17"):
        m.decode(msgspec.msgpack.encode([17, "whatever"]))


def test_deep_nesting_is_malformed_not_a_recursion_error():
    with pytest.raises(errors.RemoteError):
        m.decode(b"\x91" * m.MAX_FRAME)


def test_frame_size_says_size_and_limit():
    with pytest.raises(errors.FrameTooLarge, match=rf"{m.MAX_FRAME + 1}.*{m.MAX_FRAME}"):
        m.frame_size((m.MAX_FRAME + 1).to_bytes(4, "big"))
    assert m.frame_size(m.MAX_FRAME.to_bytes(4, "big")) == m.MAX_FRAME


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_remote_error(body):
    try:
        message = m.decode(body)
    except errors.RemoteError:
        return
    assert m.decode(m.encode(message)[4:]) == message


@given(st.sampled_from(SAMPLES), st.data())
def test_mutated_messages_are_messages_or_remote_errors(message, data):
    body = bytearray(m.encode(message)[4:])
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(errors.RemoteError):
        m.decode(bytes(body))


def test_offers_are_cut_to_fit_their_frames():
    entries = [m.Entry("x" * 250 + f"/{n}", m.Kind.FILE, 1, 0o644, 0) for n in range(1000)]
    entries.append(m.Entry("/".join(["é" * 127] * 16), m.Kind.FILE, 1, 0o644, 0))
    offers = m.split_offer(entries)
    assert [entry for offer in offers for entry in offer.entries] == entries
    assert 1 < len(offers) < 10
    for offer in offers:
        m.encode(offer)
    assert m.split_offer([]) == []


def test_printable_hides_escapes():
    assert m.printable("a\x1b[31m\u202eb") == "a\ufffd[31m\ufffdb"
    assert len(m.printable("x" * 1000)) == m.MAX_TEXT
