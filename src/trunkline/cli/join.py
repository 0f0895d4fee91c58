"""``trunkline join``: into a realm that somebody else has."""

from typing import TYPE_CHECKING, Annotated

import typer

from trunkline.cli.common import Common
from trunkline.cli.key import approval_hint
from trunkline.cli.realm import login_name, own_key, realm_home

if TYPE_CHECKING:
    from trunkline.authority.invitation import Invitation
    from trunkline.authority.pairing import Offer
    from trunkline.authority.statements import Record, Signed
    from trunkline.drivers.keys import UserKey


def join(
    ctx: typer.Context,
    where: Annotated[
        str,
        typer.Argument(
            metavar="LINE",
            help="What `trunkline invite` printed; with --code, the inviter's HOST:PORT.",
            show_default=False,
        ),
    ],
    code: Annotated[str | None, typer.Option(metavar="WORD-WORD-WORD", help="The code that you were told.")] = None,
    user: Annotated[
        str | None, typer.Option(metavar="USER", help="Who to be there [default: your login name].")
    ] = None,
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Ask for a passphrase for the new key.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Leave the realm that this home is in; its files are kept as *.old.")
    ] = False,
) -> None:
    """Join a realm that somebody else has.

    This home then believes its root and knows its servers, and a key of yours is entered in its directory. An
    administrator of the realm then approves the key, unless the one with the code does so at once.

    \b
    Examples:
      trunkline join trunkline:lab.example/…/… --user ben
      trunkline join --code river-candle-otter 192.0.2.7
    """
    common: Common = ctx.obj
    common.start_logs()
    if code is not None:
        _join_by_code(common, where, code, user, passphrase=passphrase, force=force)
    else:
        _join_by_line(common, where, user, passphrase=passphrase, force=force)


def _join_by_line(common: Common, line: str, user: str | None, *, passphrase: bool, force: bool) -> None:
    from trunkline.authority.certificates import key_text
    from trunkline.authority.invitation import parse_invitation
    from trunkline.authority.statements import APPROVED
    from trunkline.cli.realm import directory
    from trunkline.errors import NoAuthority

    invitation = parse_invitation(line)
    _check_free(common, invitation, force=force)
    root = _fetch_root(invitation)
    who = _who(common, user)
    _settle(common, invitation, root, who, force=force)
    key, made = own_key(common, who, passphrase=passphrase)
    fingerprint = key_text(key.public.signing)
    common.tell(f"joined {invitation.realm}; {who}'s key is{'' if made else ', as before,'}\n  {fingerprint}")
    try:
        with directory(common) as keys:
            keys.insert_key(who, key)
            record = keys.existing(who)
    except NoAuthority as error:
        common.say(f"the key is not entered yet: {error}\nenter it later with `trunkline key insert {who}`")
        return
    if record.state == APPROVED:
        common.say("it is approved: `trunkline meet` and the others are secure from here on")
    else:
        common.say(approval_hint(who, fingerprint))


def _fetch_root(invitation: "Invitation") -> bytes:
    """Return the root, from the first authority that has it; its fingerprint is compared there."""
    from trunkline.drivers.authority_client import fetch_root
    from trunkline.errors import NoAuthority

    tried: list[tuple[str, str]] = []
    for address in invitation.authorities:
        try:
            return fetch_root(address, invitation.fingerprint).root
        except NoAuthority as error:
            tried += error.tried
    raise NoAuthority(tried)


def _join_by_code(common: Common, where: str, code: str, user: str | None, *, passphrase: bool, force: bool) -> None:
    from trunkline.authority.invitation import parse_invitation
    from trunkline.authority.pairing import APPROVED, REFUSED
    from trunkline.drivers.pairing import DEFAULT_PORT, join_by_code
    from trunkline.drivers.words import parse_code
    from trunkline.errors import ConfigError, NotAllowed
    from trunkline.names import Address

    words, address = parse_code(code), Address.parse(where, DEFAULT_PORT)

    def answer(offer: "Offer") -> "Signed":
        invitation = parse_invitation(offer.invitation)
        if user is not None and offer.user and user != offer.user:
            raise ConfigError(f"you are invited as {offer.user!r}, and said --user {user}")
        who = offer.user or _who(common, user)
        _check_free(common, invitation, force=force)
        _settle(common, invitation, offer.root, who, force=force)
        key, _ = own_key(common, who, passphrase=passphrase)
        return _insert(common, invitation, who, key)

    outcome = join_by_code(words, address, answer)
    if outcome.result == REFUSED:
        raise NotAllowed(f"the inviter could not enter your key: {outcome.text}")
    common.tell(outcome.text)
    if outcome.result == APPROVED:
        common.say("`trunkline meet` and the others are secure from here on")


def _insert(common: Common, invitation: "Invitation", who: str, key: "UserKey") -> "Signed":
    """Return our Insert, which goes on from an entry of that name that was deleted, if one is known."""
    from trunkline.authority.certificates import key_text
    from trunkline.authority.requests import insert
    from trunkline.cli.realm import directory
    from trunkline.errors import NoAuthority

    common.say(f"{invitation.realm} invites {who}; your key is\n  {key_text(key.public.signing)}")
    record: Record | None = None
    try:
        with directory(common) as keys:
            record = keys.get_key(who)
    except NoAuthority:
        pass  # the inviter reaches it, and says so if there was one
    return insert(invitation.fingerprint, who, key.public, key.sign, record=record)


def _who(common: Common, user: str | None) -> str:
    from trunkline.users import check_user

    home = realm_home(common)
    known = home.settings().user if home.has_realm else ""
    return check_user(user or known or login_name())


def _check_free(common: Common, invitation: "Invitation", *, force: bool) -> None:
    """Refuse, before anything is asked or written, to take this home out of another realm."""
    from trunkline.authority.certificates import fingerprint_text
    from trunkline.errors import ConfigError

    home = realm_home(common)
    if force or not home.has_realm:
        return
    settings = home.settings()
    if settings.root != fingerprint_text(invitation.fingerprint):
        raise ConfigError(
            f"{home.path} is in the realm {settings.realm!r} already: use another --home for {invitation.realm!r}, "
            "or leave the old realm with --force"
        )


def _settle(common: Common, invitation: "Invitation", root: bytes, who: str, *, force: bool) -> None:
    """Write down the realm and its servers."""
    import msgspec

    from trunkline.authority.certificates import fingerprint_text
    from trunkline.drivers.home import Home
    from trunkline.drivers.realm_home import RealmSettings

    home = realm_home(common)
    fingerprint = fingerprint_text(invitation.fingerprint)
    authorities = tuple(map(str, invitation.authorities))
    settings = RealmSettings(invitation.realm, fingerprint, authorities, who)
    if home.has_realm:
        before = home.settings()
        if before.root == fingerprint:  # what a person has set stays
            settings = msgspec.structs.replace(
                before, authorities=tuple(dict.fromkeys((*authorities, *before.authorities))), user=who
            )
        elif force:
            _put_aside(common)
    home.join(root, settings)
    kept = Home(common.home)
    kept.remember((*invitation.switchboards, *kept.remembered()))


def _put_aside(common: Common) -> None:
    """Keep the files of the realm that is left, under other names; keys stay where they are."""
    import shutil

    home = realm_home(common)
    for name in ("realm.toml", "root.pem", "state"):
        path = home.path / name
        if path.exists():
            old = path.with_name(f"{name}.old")
            if old.is_dir():
                shutil.rmtree(old)
            path.replace(old)
