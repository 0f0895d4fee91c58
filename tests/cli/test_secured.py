"""What --user, --peer-user, --allow and --plain come to."""

from pathlib import Path

import pytest

from tests.realmkit import Realm
from trunkline.cli.common import Common
from trunkline.cli.secured import Security, security, shown
from trunkline.errors import ConfigError, InvalidUser
from trunkline.names import Peer


@pytest.fixture
def plain(tmp_path: Path) -> Common:
    return Common(home=str(tmp_path / "plain"))


@pytest.fixture
def member(tmp_path: Path) -> Common:
    Realm().home(tmp_path / "ann", "ann")
    return Common(home=str(tmp_path / "ann"))


def test_a_home_in_no_realm_meets_plainly(plain: Common) -> None:
    assert security(plain, user=None, plain=False) == Security()
    with pytest.raises(ConfigError, match="belongs to no realm"):
        security(plain, user=None, plain=False, peer_user="ben")


def test_a_home_in_a_realm_is_secure_unless_told_not_to_be(member: Common) -> None:
    assert security(member, user=None, plain=False) == Security("ann", ("ann",))
    assert security(member, user=None, plain=False, peer_user="ben") == Security("ann", ("ben",))
    assert security(member, user="ops/a", plain=False) == Security("ops/a", ("ops/a",))
    assert security(member, user=None, plain=False, allow=["ben", "ops/*"]) == Security("ann", ("ben", "ops/*"))
    assert security(member, user=None, plain=True) == Security()


def test_contradictions_are_said(member: Common) -> None:
    with pytest.raises(ConfigError, match="leave --user and --allow out"):
        security(member, user="ann", plain=True, allow=["ben"])
    with pytest.raises(InvalidUser):
        security(member, user=None, plain=False, peer_user="b*")


def test_a_home_without_a_user_has_to_be_told_one(tmp_path: Path) -> None:
    Realm().home(tmp_path / "nobody")
    nobody = Common(home=str(tmp_path / "nobody"))
    assert security(nobody, user=None, plain=False) == Security()
    with pytest.raises(ConfigError, match="--peer-user needs to know who we are"):
        security(nobody, user=None, plain=False, peer_user="ben")


def test_who_came() -> None:
    assert shown(Peer("bob")) == "'bob'"
    assert shown(Peer("bob", "ben")) == "'bob' of ben"
