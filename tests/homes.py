"""Homes on disk of members of one realm, for tests of faces: as after a first run, and with no authority to ask."""

from pathlib import Path

from tests.realmkit import Realm

REALM = Realm()


def home(folder: Path, *users: str, certified: bool = True, default: str = "") -> Path:
    """Make a home of these users, with their certificates and a head just seen."""
    here = REALM.home(folder, default, key=False)
    state = REALM.trust().state()
    assert state is not None
    here.keep_state(state)
    for user in users:
        here.save_key(user, REALM.key(user))
        if certified:
            here.keep_credential(user, REALM.credential(user))
    return folder
