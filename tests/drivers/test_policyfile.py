"""policy.toml: what it may say, and how a mistake in it is told."""

from pathlib import Path

import pytest

from trunkline.drivers.policyfile import MAX_FILE, parse_policy, read_policy
from trunkline.errors import ConfigError
from trunkline.switchboard.policy import MAX_RULES, Policy, Rule

TEXT = b"""
require_user = true

[[allow]]
users = ["ann", "ops/*"]
meet = ["db/", "mail"]
post = ["ops"]

[[allow]]
users = ["*"]
meet = [""]
call = ["guests"]
"""


def test_what_it_says() -> None:
    assert parse_policy(TEXT, "lab") == Policy(
        realm="lab",
        require_user=True,
        rules=(
            Rule(("ann", "ops/*"), meet=("db", "mail"), post=("ops",)),
            Rule(("*",), meet=("",), call=("guests",)),
        ),
    )


def test_none_is_there(tmp_path: Path) -> None:
    assert read_policy(tmp_path, "lab") == Policy(realm="lab")
    assert read_policy(tmp_path, "") == Policy()


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_bytes(TEXT)
    assert len(read_policy(tmp_path, "lab").rules) == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"require = true", "require"),
        (b"not toml", "policy.toml"),
        (b"[[allow]]\nmeet = ['x']", "users"),
        (b"[[allow]]\nusers = []", r"entry 1 names no users"),
        (b"[[allow]]\nusers = ['a']\n[[allow]]\nusers = ['a b']", r"entry 2: .*like ops/ann"),
        (b'[[allow]]\nusers = ["a"]\nmeet = ["a\\u0001"]', "entry 1: .*control character"),
        (b"require_user = true\nplain = true", "exclude each other"),
        (b"[[allow]]\nusers = ['a']\n" * (MAX_RULES + 1), "the limit is 1000"),
        (b"#" * (MAX_FILE + 1), "larger than the limit"),
    ],
    ids=range(9),
)  # fmt: skip
def test_mistakes(tmp_path: Path, text: bytes, why: str) -> None:
    (tmp_path / "policy.toml").write_bytes(text)
    with pytest.raises(ConfigError, match=why):
        read_policy(tmp_path, "lab")


@pytest.mark.parametrize("text", [b"require_user = true", b"[[allow]]\nusers = ['*']"])
def test_rules_about_users_where_none_can_be_proven(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "policy.toml").write_bytes(text)
    with pytest.raises(ConfigError, match="this server has no realm"):
        read_policy(tmp_path, "")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").mkdir()
    with pytest.raises(ConfigError, match="can't be read"):
        read_policy(tmp_path, "lab")
