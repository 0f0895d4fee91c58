"""``trunkline invite``: how somebody else gets into this realm."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from trunkline.cli.common import Common
from trunkline.cli.realm import AdminDir, admin_home, confirm, directory, realm_home, root_signer

if TYPE_CHECKING:
    from trunkline.authority.invitation import Invitation
    from trunkline.authority.pairing import Ask, Outcome
    from trunkline.authority.statements import Insert
    from trunkline.drivers.realm_home import RealmSettings
    from trunkline.names import Address

ONLY_HERE: Final = """\
Only this host reaches {address}. For others: trunkline up --listen 0.0.0.0, and then invite again."""

SPEAK: Final = """\
On the other machine:
  trunkline join --code {code} {address}
The code works once, within {minutes:g} minutes; a wrong guess ends it. Ctrl-C takes it back."""


def invite(
    ctx: typer.Context,
    code: Annotated[
        bool, typer.Option("--code", help="Three words to say, for those who can only speak to each other.")
    ] = False,
    user: Annotated[
        str | None, typer.Option(metavar="USER", help="With --code: who the other is to be; otherwise they choose.")
    ] = None,
    listen: Annotated[str, typer.Option(metavar="H:P", help="With --code: where to wait for them.")] = "0.0.0.0:7119",
    timeout: Annotated[
        float, typer.Option(metavar="S", min=1, max=86400, help="With --code: when it ends unused, in seconds.")
    ] = 600.0,
    approve: Annotated[
        bool, typer.Option("--approve", help="With --code: approve their key without asking; the code vouches for it.")
    ] = False,
    admin_dir: AdminDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the line with which another machine joins this realm.

    The line is no secret, but it has to arrive as it left: whoever could change it could lead them elsewhere.

    \b
    Examples:
      trunkline invite
      trunkline invite --code --user ben        then say the three words to ben
    """
    from trunkline.errors import ConfigError

    common: Common = ctx.obj
    invitation = make_invitation(common)
    if not code:
        if user is not None or approve:
            raise ConfigError("--user and --approve go with --code; without it, they say their name when they join")
        if as_json:
            common.tell_json({"invitation": str(invitation), "realm": invitation.realm})
        else:
            common.tell(f"trunkline join {invitation}")
        _warn_of_loopback(common, invitation)
        return
    _invite_by_code(common, invitation, user, listen, timeout, approve=approve, admin_dir=admin_dir, as_json=as_json)


def make_invitation(common: Common) -> "Invitation":
    """Return the invitation to this home's realm.

    Raises:
        ConfigError: this home is in no realm, or knows no server.
    """
    from trunkline.authority.certificates import parse_fingerprint
    from trunkline.authority.invitation import MAX_SERVERS, Invitation
    from trunkline.drivers.home import Home

    home = realm_home(common)
    settings: RealmSettings = home.settings()
    known = common.servers()
    switchboards = Home(common.home).switchboards(guess=False) if known is None else known
    return Invitation(
        settings.realm,
        parse_fingerprint(settings.root),
        _for_others(switchboards)[:MAX_SERVERS],
        _for_others(settings.addresses())[:MAX_SERVERS],
    ).check()


def _for_others(addresses: "tuple[Address, ...]") -> "tuple[Address, ...]":
    """Leave out what only this host reaches, if there is anything else."""
    return tuple(address for address in addresses if not _is_local(address)) or addresses


def _is_local(address: "Address") -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(address.host.partition("%")[0]).is_loopback
    except ValueError:
        return address.host == "localhost"


def _warn_of_loopback(common: Common, invitation: "Invitation") -> None:
    for address in (invitation.switchboards[0], invitation.authorities[0]):
        if _is_local(address):
            common.say(ONLY_HERE.format(address=address))
            return


def _invite_by_code(
    common: Common,
    invitation: "Invitation",
    user: str | None,
    listen: str,
    timeout: float,
    *,
    approve: bool,
    admin_dir: Path | None,
    as_json: bool,
) -> None:
    from trunkline.authority.pairing import APPROVED, REFUSED, Offer
    from trunkline.drivers.pairing import DEFAULT_PORT, Inviting
    from trunkline.drivers.words import new_code
    from trunkline.errors import ConfigError, NotAllowed
    from trunkline.names import Address
    from trunkline.users import check_user

    home = realm_home(common)
    common.start_logs()
    if user is not None:
        check_user(user)
    can_approve = (admin_home(common, admin_dir).admin / "root.key").exists()
    if approve and not can_approve:
        raise ConfigError("--approve needs the administrator's key: name its folder with --admin-dir")
    offer = Offer(str(invitation), home.root(), user or "")
    words = new_code()
    with Inviting(words, offer, Address.parse(listen, DEFAULT_PORT)) as inviting:
        at = _reachable(inviting.bound)
        text = words.reveal().decode()
        if as_json:
            common.tell_json({"event": "waiting", "code": text, "address": str(at), "seconds": timeout})
        else:
            common.tell(SPEAK.format(code=text, address=at, minutes=timeout / 60))
        outcome = inviting.wait(
            lambda asked: _decide(common, asked, user, admin_dir, approve=approve, can_approve=can_approve), timeout
        )
    if outcome.result == REFUSED:
        raise NotAllowed(f"they were turned away: {outcome.text}")
    if as_json:
        common.tell_json({"event": "joined", "approved": outcome.result == APPROVED, "text": outcome.text})
    else:
        common.tell(outcome.text)


def _reachable(bound: "Address") -> "Address":
    """Return what to say to others: an address of this host, where it listens on all."""
    from trunkline.drivers.addresses import local_addresses
    from trunkline.names import Address

    if bound.host not in ("0.0.0.0", "::"):  # noqa: S104 - compared with, not bound to
        return bound
    version = "::" if ":" in bound.host else "0.0.0.0"  # noqa: S104
    found = [host for host in local_addresses() if (":" in host) == (":" in version)]
    return Address(next((host for host in found if not _is_local(Address(host, 0))), "127.0.0.1"), bound.port)


def _decide(
    common: Common, asked: "Ask", user: str | None, admin_dir: Path | None, *, approve: bool, can_approve: bool
) -> "Outcome":
    """Enter their key, and approve it if a person, or --approve, says so. What is wrong is told to them."""
    from trunkline.authority.certificates import key_text
    from trunkline.authority.pairing import APPROVED, REFUSED, STORED, Outcome
    from trunkline.errors import TrunklineError

    try:
        statement = _checked(common, asked, user)
        who, fingerprint = statement.user, key_text(statement.keys.signing)
        common.say(f"{who} is here, with the key\n  {fingerprint}")
        with directory(common) as keys:
            keys.submit(asked.statement)
            asking = can_approve and (approve or sys.stdin.isatty())
            if asking and confirm(f"Approve {who}?", yes=approve):
                record = keys.existing(who)
                if record.keys == statement.keys:
                    keys.approve_key(record, root_signer(common, admin_dir))
                    return Outcome(APPROVED, f"{who} is entered and approved, with the key {fingerprint}")
    except TrunklineError as error:
        return Outcome(REFUSED, str(error)[:1000])
    return Outcome(STORED, f"{who} is entered; the administrator has to say: trunkline key approve {who}")


def _checked(common: Common, asked: "Ask", user: str | None) -> "Insert":
    from trunkline.authority.approvals import check_pending
    from trunkline.authority.certificates import parse_root
    from trunkline.authority.rules import read_statement
    from trunkline.authority.statements import Insert
    from trunkline.errors import NotAllowed

    statement = read_statement(asked.statement)
    if not isinstance(statement, Insert):
        raise NotAllowed("only a new key can be entered by a code")
    if user is not None and statement.user != user:
        raise NotAllowed(f"this code is for {user!r}, not for {statement.user!r}")
    check_pending(asked.statement, parse_root(realm_home(common).root()))
    return statement
