from pathlib import Path

import pytest

from tests.homes import home
from trunkline.drivers.members import Members
from trunkline.errors import ClosedError, ConfigError


def test_one_for_each_user(tmp_path: Path) -> None:
    members = Members(home(tmp_path, "ann", "ben", default="ann"))
    ann = members.get()
    assert ann.user == "ann"
    assert members.get("ann") is members.get(None) is ann
    ben = members.get("ben")
    assert ben.user == "ben"
    members.close()
    for closed in (ann, ben):
        with pytest.raises(ClosedError):
            closed.ready()
    assert members.get("ann") is not ann
    assert members.get() is members.get("ann")
    members.close()


def test_a_user_without_a_key(tmp_path: Path) -> None:
    members = Members(home(tmp_path, "ann"))
    with pytest.raises(ConfigError):
        members.get("ben")
    assert members.get().user is None  # it only verifies others
    members.close()
