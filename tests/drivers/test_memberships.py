from pathlib import Path

import pytest

from tests.realmkit import Realm
from trunkline.drivers.memberships import Memberships
from trunkline.errors import ConfigError


@pytest.fixture(scope="module")
def realm() -> Realm:
    return Realm()


@pytest.fixture
def home(realm: Realm, tmp_path: Path) -> Path:
    return realm.home(tmp_path, "ann").path


def test_each_user_is_opened_once(home):
    ours = Memberships(home)
    ann = ours.get("ann")
    assert ann.user == "ann"
    assert ours.get("ann") is ann
    assert ours.get(None).user == "ann", "the default user of realm.toml"
    with pytest.raises(ConfigError, match="ben"):
        ours.get("ben")
    ours.close()
    again = ours.get("ann")
    assert again is not ann
    ours.close()


def test_those_that_are_given_come_first_and_stay_their_owners(realm, home):
    ben, zoe = realm.membership("ben"), realm.membership("zoe")
    ours = Memberships(home, [ben, zoe])
    assert ours.get(None) is ben
    assert ours.get("zoe") is zoe
    assert ours.known() is ben
    assert ours.get("ann").user == "ann"
    ours.close()
    ben.ready(0)
    ben.close()
    zoe.close()


def test_whether_there_is_a_realm_at_all(home, tmp_path_factory):
    ours = Memberships(home)
    known = ours.known()
    assert known is not None
    assert known.user == "ann"
    ours.close()
    none = Memberships(tmp_path_factory.mktemp("none"))
    assert none.known() is None
    with pytest.raises(ConfigError, match="belongs to no realm"):
        none.get(None)
