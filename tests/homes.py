"""Homes on disk of members of one realm, for tests of faces: as after a first run, and with no authority to ask."""

import ssl
from pathlib import Path

from tests.realmkit import Realm
from trunkline.authority.certificates import fingerprint_text
from trunkline.drivers.realm_home import RealmHome

REALM = Realm()


def home(folder: Path, *users: str, certified: bool = True, default: str = "") -> Path:
    """Make a home of these users, with their certificates and a head just seen."""
    here = RealmHome(folder, {})
    folder.mkdir(exist_ok=True)
    Path(folder, "root.pem").write_text(ssl.DER_cert_to_PEM_cert(REALM.root))
    root = fingerprint_text(REALM.issuer.fingerprint)
    Path(folder, "realm.toml").write_text(f"realm = '{REALM.name}'\nroot = '{root}'\nuser = '{default}'\n")
    state = REALM.trust().state()
    assert state is not None
    here.keep_state(state)
    for user in users:
        here.save_key(user, REALM.key(user))
        if certified:
            here.keep_credential(user, REALM.credential(user))
    return folder
