"""The line that brings another machine into a realm."""

import contextlib
import hashlib
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.authority.certificates import fingerprint_text
from trunkline.authority.invitation import MAX_SERVERS, Invitation, parse_invitation
from trunkline.errors import ConfigError, InvalidAddress, InvalidRealm, TrunklineError
from trunkline.names import Address

ROOT = hashlib.sha256(b"root").digest()
FULL = Invitation(
    "lab.example",
    ROOT,
    (Address("192.0.2.7", 7117), Address("2001:db8::7", 9000)),
    (Address("keys.lab.example", 7118),),
)


def test_a_line_is_read_as_it_was_written() -> None:
    line = str(FULL)
    assert line == (
        f"trunkline:lab.example/{fingerprint_text(ROOT)}/192.0.2.7:7117,+2001:db8::7+:9000/keys.lab.example:7118"
    )
    assert parse_invitation(f"  {line}\n") == FULL.check()


def test_no_shell_changes_it() -> None:
    line = str(FULL)
    assert shlex.split(line) == [line]
    assert not set(line) & set("[]*?{}~!#&;|<>()$`\"'\\ ")


def test_ports_may_be_left_out() -> None:
    found = parse_invitation(f"trunkline:lab/{fingerprint_text(ROOT).upper()}/a,b:1/+::1+")
    assert found.switchboards == (Address("a", 7117), Address("b", 1))
    assert found.authorities == (Address("::1", 7118),)


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        ("http://example", ConfigError, "begins with 'trunkline:'"),
        ("", ConfigError, "begins with"),
        ("trunkline:lab", ConfigError, "has 1 parts between its slashes, and should have 4"),
        (f"trunkline:lab/{fingerprint_text(ROOT)}/a/b/c", ConfigError, "has 5 parts"),
        (f"trunkline:Lab!/{fingerprint_text(ROOT)}/a/b", InvalidRealm, "Lab!"),
        (f"trunkline:lab/{fingerprint_text(ROOT)[:-1]}/a/b", InvalidRealm, "52 of the characters.*copied as a whole"),
        (f"trunkline:lab/{fingerprint_text(ROOT)}//b", ConfigError, "names no switchboard server"),
        (f"trunkline:lab/{fingerprint_text(ROOT)}/a/", ConfigError, "names no authority"),
        (f"trunkline:lab/{fingerprint_text(ROOT)}/{'a,' * 17}/b", ConfigError, "17 addresses.*1 to 16"),
        (f"trunkline:lab/{fingerprint_text(ROOT)}/a:99999/b", InvalidAddress, "0 to 65535"),
        (f"trunkline:lab/{fingerprint_text(ROOT)}/a:0/b", InvalidAddress, "an invitation has addresses as"),
        (f"trunkline:lab/{fingerprint_text(ROOT)}/a;b/b", InvalidAddress, "an invitation has addresses as"),
        (f"trunkline:lab/{fingerprint_text(ROOT)}/+::1/b", InvalidAddress, r"\[address\]:port"),
        ("trunkline:" + "a" * 5000, ConfigError, "at most 4096 characters, and this has 5010"),
    ],
)
def test_says_what_is_wrong(line: str, error: type[TrunklineError], says: str) -> None:
    with pytest.raises(error, match=says):
        parse_invitation(line)


def test_what_could_not_be_read_again_is_not_written() -> None:
    with pytest.raises(ConfigError, match="names no authority"):
        Invitation("lab", ROOT, (Address("a", 1),), ()).check()
    with pytest.raises(ConfigError, match="names 17 addresses"):
        Invitation("lab", ROOT, (Address("a", 1),) * (MAX_SERVERS + 1), (Address("a", 1),)).check()
    with pytest.raises(InvalidAddress, match="don't go into an invitation"):
        Invitation("lab", ROOT, (Address("a;rm", 1),), (Address("a", 1),)).check()
    with pytest.raises(InvalidRealm):
        Invitation("Lab", ROOT, (Address("a", 1),), (Address("a", 1),)).check()


@given(st.text("trunkline:/,+[]0a.%-é \n", max_size=120).map(lambda text: f"trunkline:{text}"))
def test_whatever_is_pasted_gives_an_invitation_or_one_of_our_errors(line: str) -> None:
    with contextlib.suppress(TrunklineError):
        parse_invitation(line)
