"""Frames of the authority: whole and in pieces, and every way of being wrong."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.authority.codec import answers, decode_answer, encode, frame_size, requests
from trunkline.authority.messages import MAX_ANSWER, MAX_REQUEST, PREAMBLE, AskRoot, Denied, Get, List
from trunkline.errors import FrameTooLarge, MalformedMessage, NotTrunkline, RemoteError, VersionMismatch

SAID = (AskRoot(1), Get(2, "ann", 7), List(3, "ops/", "ops/a", 2))
STREAM = PREAMBLE + b"".join(map(encode, SAID))


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_messages_come_out_whole_however_the_bytes_come_in(cuts: list[int]) -> None:
    inbound = requests()
    got = []
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, stop in itertools.pairwise(edges):
        inbound.receive_data(STREAM[start:stop])
        while (message := inbound.next_message()) is not None:
            got.append(message)
    assert tuple(got) == SAID
    assert inbound.waiting == 0


def test_the_preamble_is_looked_at_as_it_comes() -> None:
    for start, error in ((b"GET / HTTP", NotTrunkline), (b"TRUNKA/2\n", VersionMismatch), (b"TRUNK/1\n", NotTrunkline)):
        inbound = requests()
        inbound.receive_data(start)
        with pytest.raises(error):
            inbound.next_message()


def test_a_frame_above_the_limit_is_refused_by_its_length_alone() -> None:
    for inbound, limit in ((requests(), MAX_REQUEST), (answers(), MAX_ANSWER)):
        inbound.receive_data(PREAMBLE + (limit + 1).to_bytes(4, "big"))
        with pytest.raises(FrameTooLarge):
            inbound.next_message()
    with pytest.raises(FrameTooLarge):
        frame_size((MAX_ANSWER + 1).to_bytes(4, "big"))


def test_an_answer_is_no_request() -> None:
    inbound = requests()
    inbound.receive_data(PREAMBLE + encode(Denied(1, 36, "no")))
    with pytest.raises(MalformedMessage):
        inbound.next_message()


def test_an_answer_can_be_read_exactly() -> None:
    frame = encode(Denied(1, 36, "no"))
    assert frame_size(frame[:4]) == len(frame) - 4
    assert decode_answer(frame[4:]) == Denied(1, 36, "no")
    with pytest.raises(MalformedMessage):
        decode_answer(b"\xc1")


@given(st.binary(max_size=200))
def test_garbage_is_a_message_or_an_error_of_the_other_side(data: bytes) -> None:
    inbound = requests()
    inbound.receive_data(PREAMBLE + data)
    with contextlib.suppress(RemoteError):
        while inbound.next_message() is not None:
            pass
