from pathlib import Path

import pytest

from tests.homes import REALM, home
from trunkline.drivers.memberships import Memberships
from trunkline.errors import ClosedError, ConfigError


def test_one_for_each_user(tmp_path: Path) -> None:
    members = Memberships(home(tmp_path, "ann", "ben", default="ann"))
    ann = members.get(None)
    assert ann.user == "ann"
    assert members.get("ann") is members.get(None) is members.known() is ann
    ben = members.get("ben")
    assert ben.user == "ben"
    members.close()
    for closed in (ann, ben):
        with pytest.raises(ClosedError):
            closed.ready()
    again = members.get("ann")
    assert again is not ann
    assert members.get(None) is again
    members.close()


def test_a_user_without_a_key(tmp_path: Path) -> None:
    members = Memberships(home(tmp_path, "ann"))
    with pytest.raises(ConfigError):
        members.get("ben")
    assert members.get(None).user is None  # it only verifies others
    members.close()


def test_no_realm(tmp_path: Path) -> None:
    members = Memberships(tmp_path)
    assert members.known() is None
    with pytest.raises(ConfigError, match="belongs to no realm"):
        members.get(None)
    members.close()


def test_those_that_are_given_stay_their_owners(tmp_path: Path) -> None:
    with REALM.membership("ann") as ann, REALM.membership("ben") as ben:
        members = Memberships(tmp_path, (ann, ben))
        assert members.known() is members.get(None) is members.get("ann") is ann
        assert members.get("ben") is ben
        members.close()
        ann.ready()
