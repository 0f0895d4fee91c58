"""Names, addresses, secrets, and the replayable randomness."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import InvalidAddress, InvalidName
from trunkline.names import Address, Candidate, Draw, Secret, check_name, check_pair


@pytest.mark.parametrize("name", ["a", "a/b/c", "Ünïcode", "日本語", "x" * 255, "a b", "nbsp\u00a0"])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        ("x" * 256, "256 bytes"),
        ("é" * 128, "256 bytes"),
        ("a\nb", "control"),
        ("a\0", "control"),
        ("\x7f", "control"),
        ("\x85", "control"),
        ("\ud800", "UTF-8"),
        (7, "int"),
        (b"a", "bytes"),
    ],
)
def test_bad_names_say_why(name: object, why: str) -> None:
    with pytest.raises(InvalidName, match=why) as caught:
        check_name(name)  # type: ignore[arg-type]
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 200


def test_nobody_meets_themselves() -> None:
    with pytest.raises(InvalidName, match="itself"):
        check_pair("a", "a")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost", "localhost", 7117),
        ("h:1", "h", 1),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("[::1]:80", "::1", 80),
        ("[fe80::1%eth0]", "fe80::1%eth0", 7117),
        (" h:9 ", "h", 9),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    address = Address.parse(text)
    assert (address.host, address.port) == (host, port)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize("text", ["", ":1", "h:x", "h:65536", "h:-1", "::1", "[::1", "[::1]x", "a b:1", "h:１"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(InvalidAddress):
        Address.parse(text)


def test_a_port_can_be_required() -> None:
    with pytest.raises(InvalidAddress, match="port is missing"):
        Address.parse("h", None)


def test_candidates_print_as_one_would_write_them() -> None:
    assert str(Candidate("tcp6", "::1", 5)) == "tcp:[::1]:5"
    assert str(Candidate("unix", "/run/x")) == "unix:/run/x"


def test_secrets_do_not_show() -> None:
    secret = Secret(b"hunter2")
    for shown in (repr(secret), str(secret), f"{secret}", "%s" % secret, repr([secret])):
        assert "hunter2" not in shown
    assert secret.reveal() == b"hunter2"
    assert secret == Secret(b"hunter2") != Secret(b"x")
    assert len({secret, Secret(b"hunter2")}) == 1
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        copy.copy(secret)


@given(st.binary(min_size=1), st.integers(0, 20))
def test_what_is_drawn_replays(seed: bytes, skip: int) -> None:
    one = Draw(seed)
    for _ in range(skip):
        one.bytes(8)
    two = Draw(seed, one.count)
    assert one.bytes(24) == two.bytes(24)
    assert 0 <= one.fraction() < 1
