"""What the commands about realms and keys have in common: whose home, which directory, asking a person."""

import contextlib
import datetime as dt
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trunkline.cli.common import Common
from trunkline.errors import ConfigError

if TYPE_CHECKING:
    from trunkline.authority.requests import Sign
    from trunkline.authority.statements import Record
    from trunkline.drivers.authority_home import AuthorityHome
    from trunkline.drivers.directory_client import DirectoryClient
    from trunkline.drivers.keys import UserKey
    from trunkline.drivers.realm_home import RealmHome
    from trunkline.names import Secret

AdminDir = Annotated[
    Path | None,
    typer.Option("--admin-dir", metavar="DIR", help="Where the administrator's root key is, a stick perhaps."),
]
AuthorityAt = Annotated[
    str | None,
    typer.Option("--authority", metavar="H:P,...", help="Whom to ask, instead of those in realm.toml."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")]


def realm_home(common: Common) -> "RealmHome":
    """Return the home whose realm is meant."""
    from trunkline.drivers.realm_home import RealmHome

    return RealmHome(common.home)


def admin_home(common: Common, admin_dir: Path | None) -> "AuthorityHome":
    """Return where the administrator's key is, or would be."""
    from trunkline.drivers.authority_home import AuthorityHome

    return AuthorityHome(realm_home(common).path, admin_dir)


@contextlib.contextmanager
def directory(common: Common, authority: str | None = None) -> "Iterator[DirectoryClient]":
    """Give the directory of this home's realm: everything that it answers is verified, and the last head is kept.

    Raises:
        ConfigError: this home is in no realm.
    """
    from trunkline.authority.trust import Trust
    from trunkline.drivers.authority_client import DEFAULT_PORT
    from trunkline.drivers.membership import Membership
    from trunkline.names import Address

    home = realm_home(common)
    settings = home.settings()
    addresses = settings.addresses()
    if authority is not None:
        addresses = tuple(Address.parse(text, DEFAULT_PORT) for text in authority.split(",") if text.strip())
    trust = Trust(settings.realm, home.root(), settings.trust_settings(), home.load_state(), home.load_evidence())
    with Membership(trust, addresses=addresses, home=home) as membership:
        yield membership.directory


def default_user(common: Common, user: str | None) -> str:
    """Return ``user``, or who this home's processes are.

    Raises:
        ConfigError: neither is said.
        InvalidUser: it can't be a user's name.
    """
    from trunkline.users import check_user

    home = realm_home(common)
    chosen = user or (home.settings().user if home.has_realm else "")
    if not chosen:
        raise ConfigError("say which user: this home has no default one (`user` in realm.toml)")
    return check_user(chosen)


def login_name() -> str:
    """Return the name under which this person is logged in, as a user name; "me" if that can't be one."""
    import getpass

    from trunkline.errors import InvalidUser
    from trunkline.users import check_user

    try:
        return check_user(getpass.getuser())
    except (OSError, KeyError, InvalidUser):
        return "me"


def load_key(common: Common, user: str) -> "UserKey":
    """Read the keys of ``user``; ask for the passphrase if they are under one and nothing else says it.

    Raises:
        ConfigError: they are missing, others can read them, or the passphrase is wrong.
    """
    home = realm_home(common)
    return home.load_key(user, passphrase_for(home.key_path(user)))


def root_signer(common: Common, admin_dir: Path | None) -> "Sign":
    """Return what signs as the administrator of this home's realm.

    Raises:
        ConfigError: the root's key is not there, or is another realm's.
    """
    from trunkline.authority.certificates import fingerprint_text
    from trunkline.authority.requests import root_signer as signer

    admin = admin_home(common, admin_dir)
    if not (admin.admin / "root.key").exists():
        raise ConfigError(
            f"the administrator's key is not in {admin.admin}: name its folder with --admin-dir, "
            "or run this where it is"
        )
    home = realm_home(common)
    if home.has_realm and fingerprint_text(admin.admin_root().key_id) != home.settings().root:
        raise ConfigError(f"the key in {admin.admin} is of another realm than {home.settings().realm!r}")
    return signer(admin.root_key(passphrase_for(admin.admin / "root.key")))


def passphrase_for(path: Path) -> "Secret | None":
    """Return the passphrase of a key file: TRUNKLINE_PASSPHRASE, or what a person types; None if it has none."""
    from trunkline.names import Secret

    text = os.environ.get("TRUNKLINE_PASSPHRASE", "")
    if not text:
        try:
            sealed = b"ENCRYPTED" in path.read_bytes()[:4096]
        except OSError:
            return None  # whoever opens it says what is wrong
        if not sealed or not sys.stdin.isatty():
            return None
        text = typer.prompt(f"Passphrase of {path}", hide_input=True, err=True)
    return Secret(text.encode())


def new_passphrase(wanted: bool) -> "Secret | None":
    """Return the passphrase for a new key file, typed twice.

    Raises:
        ConfigError: nobody is there to type it.
    """
    from trunkline.names import Secret

    if not wanted:
        return None  # TRUNKLINE_PASSPHRASE, if it is set, is used where the file is written
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to type a passphrase at: set TRUNKLINE_PASSPHRASE instead")
    return Secret(typer.prompt("New passphrase", hide_input=True, confirmation_prompt=True, err=True).encode())


def confirm(question: str, *, yes: bool) -> bool:
    """Ask a person; ``yes`` says it beforehand.

    Raises:
        ConfigError: there is nobody to ask.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} There is no terminal to ask at: say --yes if it is so")
    return typer.confirm(question, err=True)


def record_json(record: "Record") -> dict[str, Any]:
    """Return what a directory's entry says, for programs."""
    from trunkline.authority.certificates import key_text
    from trunkline.authority.statements import STATES

    return {
        "user": record.user,
        "state": STATES[record.state],
        "key": key_text(record.keys.signing),
        "public_key": record.keys.signing.hex(),
        "suite": record.keys.suite,
        "index": record.index,
        "requester": record.requester,
    }


def own_key(common: Common, user: str, *, passphrase: bool) -> "tuple[UserKey, bool]":
    """Return the key of ``user``, made now if there was none, and whether it was made."""
    from trunkline.drivers.keys import UserKey

    home = realm_home(common)
    if home.key_path(user).exists():
        return load_key(common, user), False
    made = UserKey.generate()
    home.save_key(user, made, new_passphrase(passphrase))
    return made, True


def day(seconds: float) -> str:
    """Return a moment as people read it."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
