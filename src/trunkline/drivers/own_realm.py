"""A realm of this machine's own, made at the first `trunkline up` and used by every later one.

Each step leaves files, and looks first whether they are there: killed anywhere, the next start goes on.
"""

import platform
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from trunkline.authority.certificates import fingerprint_text, parse_root
from trunkline.authority.requests import root_signer
from trunkline.authority.statements import APPROVED, DELETED
from trunkline.authority.trust import Trust
from trunkline.drivers.authority_home import Authority, AuthorityHome, Settings
from trunkline.drivers.directory_client import DirectoryClient
from trunkline.drivers.disk import Store, open_store
from trunkline.drivers.keys import UserKey
from trunkline.drivers.membership import Membership
from trunkline.drivers.realm_home import RealmHome, RealmSettings
from trunkline.errors import ConfigError, NotAllowed
from trunkline.names import Address, Secret

_OTHERS: Final = re.compile(r"[^a-z0-9._-]+")


def host_name() -> str:
    """Return what this machine is called, as part of names of realms and servers."""
    return _OTHERS.sub("-", platform.node().lower()).strip("._-")[:63] or "home"


class OwnRealm:
    """The realm in one home folder, with its authority, the administrator's key and a user.

    Args:
        path: TRUNKLINE_HOME.
        passphrase: of the administrator's key and the user's, if they are under one.
    """

    def __init__(self, path: Path, passphrase: Secret | None = None) -> None:
        self.home = RealmHome(path)
        self.authority = AuthorityHome(path)
        self._passphrase = passphrase or self.home.passphrase()
        self.server_user = f"switchboard/{host_name()}"
        """Under whom the switchboard proves itself."""

    @property
    def exists(self) -> bool:
        """Whether it was made."""
        return self.home.has_realm and (self.authority.folder / "intermediate.pem").exists()

    @property
    def is_elsewhere(self) -> bool:
        """Whether this home is in a realm whose authority is on another machine."""
        return self.home.has_realm and not (self.authority.folder / "intermediate.pem").exists()

    def make(self, realm: str, user: str) -> None:
        """Make what is missing: root, authority, store, realm.toml, the keys of the user and of the switchboard.

        Raises:
            ConfigError: something can't be written, or is of another realm.
        """
        wall = time.time()
        files = self.authority
        if not (files.folder / "intermediate.pem").exists():  # afterwards the root may be kept elsewhere
            if not (files.admin / "root.pem").exists():
                files.create_root(realm, wall, self._passphrase)
            root = files.admin_root()
            request = files.make_request(Settings())
            files.install(files.sign_request(request, wall, self._passphrase), wall, root.certificate)
        self._store(create=True).close()
        if not self.home.has_realm:
            root = parse_root(files.root())
            self.home.join(root.certificate, RealmSettings(root.realm, fingerprint_text(root.key_id), user=user))
        for each in (self.user, self.server_user):
            if not self.home.key_path(each).exists():
                self.home.save_key(each, UserKey.generate(), self._passphrase)

    @property
    def user(self) -> str:
        """Who this home's processes are."""
        return self.home.settings().user

    def load(self) -> Authority:
        """Return the authority, to be served."""
        return self.authority.load()

    def open_store(self) -> Store:
        """Open the authority's store."""
        return self._store(create=False)

    def _store(self, *, create: bool) -> Store:
        loaded = self.authority.load()
        where = loaded.settings.store or self.authority.store
        return open_store(where, loaded.issuer.fingerprint, create=create)

    def found_at(self, addresses: Sequence[Address]) -> None:
        """Write down where the authority is, as it listens now; what else realm.toml says stays."""
        settings = self.home.settings()
        at = tuple(dict.fromkeys((*map(str, addresses), *settings.authorities)))
        if at != settings.authorities:
            self.home.join(self.home.root(), msgspec.structs.replace(settings, authorities=at))

    def enter_keys(self) -> None:
        """Have the keys of the user and the switchboard in the directory, approved. The authority has to listen.

        Raises:
            NotAllowed: a key has to be approved, and the administrator's key is not here; or another has the name.
            TrunklineError: the authority can't be asked.
        """
        settings = self.home.settings()
        trust = Trust(settings.realm, self.home.root(), settings.trust_settings(), self.home.load_state())
        with Membership(trust, addresses=settings.addresses(), home=self.home) as membership:
            for user in (self.user, self.server_user):
                self._enter(membership.directory, user)

    def _enter(self, directory: DirectoryClient, user: str) -> None:
        record = directory.get_key(user)
        key = self.home.load_key(user, self._passphrase)
        if record is None:
            directory.insert_key(user, key)
            record = directory.existing(user)
        if record.state == DELETED or record.keys != key.public:
            raise NotAllowed(
                f"the key of {user!r} here is not the one in the directory: `trunkline key get {user}` shows that one"
            )
        if record.state != APPROVED:
            if not (self.authority.admin / "root.key").exists():
                raise ConfigError(
                    f"the key of {user!r} is not approved, and the administrator's key is not in "
                    f"{self.authority.admin}: run `trunkline key approve {user} --admin-dir DIR`"
                )
            directory.approve_key(record, root_signer(self.authority.root_key(self._passphrase)))
