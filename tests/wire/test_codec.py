"""Frames: whole or byte by byte, good or bad."""

import struct
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.switchboard.test_server import example
from trunkline.errors import (
    FrameTooLarge,
    MalformedMessage,
    NotTrunkline,
    RemoteError,
    UnknownMessage,
    VersionMismatch,
)
from trunkline.names import Candidate, Candidates
from trunkline.wire.codec import PREAMBLE, Inbound, decode, decode_candidates, encode, encode_candidates
from trunkline.wire.limits import MAX_ALLOW, MAX_AVOID, MAX_FRAME, MAX_NAMES
from trunkline.wire.messages import (
    Alive,
    AnyMessage,
    Explain,
    Meet,
    Member,
    Message,
    NameList,
    Post,
    PostedName,
    Propagated,
    Propose,
    Welcome,
)

KINDS = get_args(AnyMessage)


@pytest.mark.parametrize("kind", KINDS)
def test_every_message_survives(kind: type) -> None:
    message = example(kind)
    assert decode(encode(message)[4:]) == message
    hash(message)


def test_numbers_are_unique() -> None:
    tags = [kind.__struct_config__.tag for kind in KINDS]
    assert len(set(tags)) == len(tags)


@given(st.lists(st.sampled_from(KINDS)), st.lists(st.integers(1, 40)))
def test_any_cutting_gives_the_same_messages(kinds: list[type], cuts: list[int]) -> None:
    messages = [example(kind) for kind in kinds]
    data = PREAMBLE + b"".join(encode(message) for message in messages)
    inbound, got = Inbound(), []
    for size in cuts:
        got += inbound.receive_data(data[:size])
        data = data[size:]
    got += inbound.receive_data(data)
    assert got == messages
    assert inbound.begun


@given(st.binary(max_size=300))
def test_any_bytes_are_messages_or_a_remote_error(data: bytes) -> None:
    try:
        decode(data)
    except RemoteError as error:
        assert str(error)
    for begun in (b"", PREAMBLE):
        inbound = Inbound()
        try:
            inbound.receive_data(begun + data)
        except RemoteError as error:
            assert str(error)


@given(st.sampled_from(KINDS), st.data())
def test_any_change_is_a_message_or_a_remote_error(kind: type, data: st.DataObject) -> None:
    body = bytearray(encode(example(kind))[4:])
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(body))
    except RemoteError as error:
        assert str(error)


def test_another_protocol() -> None:
    with pytest.raises(NotTrunkline, match="GET / HT"):
        Inbound().receive_data(b"GET / HTTP/1.1\r\n")
    with pytest.raises(NotTrunkline):
        Inbound().receive_data(b"X")


def test_another_version_says_which_is_spoken() -> None:
    with pytest.raises(VersionMismatch, match=r"TRUNK/2.*TRUNK/1"):
        Inbound().receive_data(b"TRUNK/2\n")


def test_oversized_frame_is_refused_at_its_header() -> None:
    with pytest.raises(FrameTooLarge, match=f"{MAX_FRAME + 1} bytes.*{MAX_FRAME} bytes"):
        Inbound().receive_data(PREAMBLE + struct.pack("!I", MAX_FRAME + 1))


def test_unknown_number() -> None:
    with pytest.raises(UnknownMessage, match="99"):
        decode(msgspec.msgpack.encode([99, 1]))


@pytest.mark.parametrize(
    "fields",
    [
        [11, b"r" * 15, 1, "a", "b", b""],
        [11, b"r" * 16, -1, "a", "b", b""],
        [11, b"r" * 16, 1, "", "b", b""],
        [11, b"r" * 16, 1, "a", "a", b""],
        [11, b"r" * 16, 1, "a\n", "b", b""],
        [11, b"r" * 16, 1, "a", "b" * 256, b""],
        [11, b"r" * 16, 1, "é" * 128, "b", b""],
        [11, b"r" * 16, 1, "a", "b", b"c" * 1025],
        [11, b"r" * 16, 1, "a", "b"],
        [12, b"r" * 16, 1, "", b""],
        [18, b"x" * 513],
        [42, b"r" * 16, 1, "a", "a", b"", False],
        {"a": 1},
        [],
        11,
    ],
)
def test_fields_out_of_their_limits(fields: object) -> None:
    with pytest.raises(MalformedMessage):
        decode(msgspec.msgpack.encode(fields))


def test_name_that_is_not_utf8() -> None:
    body = msgspec.msgpack.encode([11, b"r" * 16, 1, "aX", "b", b""]).replace(b"aX", b"a\xff")
    with pytest.raises(MalformedMessage):
        decode(body)


def test_deep_nesting_is_no_crash() -> None:
    with pytest.raises(MalformedMessage):
        decode(b"\x91" * 60_000)


def test_later_fields_are_ignored() -> None:
    message = decode(msgspec.msgpack.encode([11, b"r" * 16, 1, "a", "b", b"", False, "", "", [], "news", 7]))
    assert message == Meet(b"r" * 16, 1, "a", "b", b"")
    assert decode(msgspec.msgpack.encode([1, "news"])) == Alive()


def test_the_largest_messages_fit_a_frame() -> None:
    member = Member("i" * 128, (1 << 53) - 1, "a" * 128)
    encode(Welcome("i" * 128, 1, 2.0, (member,) * 64))
    users: dict[str, Any] = {"user": "u" * 255, "peer_user": "p" * 255, "avoid": (b"h" * 16,) * MAX_AVOID}
    encode(Propagated(b"r" * 16, 1, "m" * 255, "y" * 255, b"c" * 1024, False, **users))
    encode(Post(b"r" * 16, 1, "m" * 255, b"c" * 1024, user="u" * 255, allow=("a" * 255,) * MAX_ALLOW))
    posted = PostedName("n" * 255, (1 << 53) - 1, True, True, "u" * 255)
    encode(NameList((1 << 53) - 1, (posted,) * MAX_NAMES, True))


@pytest.mark.parametrize(
    "message",
    [
        Meet(b"r" * 16, 1, "a", "b", b"", user="ann"),
        Meet(b"r" * 16, 1, "a", "b", b"", peer_user="ann"),
        Meet(b"r" * 16, 1, "a", "b", b"", user="a b", peer_user="ann"),
        Explain(1, "a", "b", user="ann"),
        Post(b"r" * 16, 1, "a", b"", allow=("ann",)),
        Post(b"r" * 16, 1, "a", b"", user="ann", allow=("a b",)),
        Propagated(b"r" * 16, 1, "a", "b", b"", False, user="ann"),
        Propagated(b"r" * 16, 1, "a", "", b"", False, allow=("ann",)),
        Propose(b"m" * 8, b"t" * 16, b"r" * 16, 1, b"s" * 16, 1, "a", b"", True, user="ann"),
    ],
    ids=str,
)
def test_users_that_cannot_be(message: Message) -> None:
    with pytest.raises(MalformedMessage, match="user name"):
        decode(encode(message)[4:])


def test_candidates() -> None:
    candidates = Candidates(b"p" * 8, (Candidate("tcp4", "127.0.0.1", 7), Candidate("unix", "@x")))
    assert decode_candidates(encode_candidates(candidates)) == candidates
    with pytest.raises(MalformedMessage):
        decode_candidates(b"\xc1")


def test_what_is_secret_is_not_shown() -> None:
    for kind in KINDS:
        message = example(kind)
        for field in ("token", "secret", "claim"):
            if field in kind.__struct_fields__:
                shown = repr(msgspec.structs.replace(message, **{field: b"hunter2hunter2hu"}))
                assert "hunter2" not in shown
                assert f"{field}=…" in shown
