"""``trunkline key``: users' keys and the realm's directory of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from trunkline.cli.common import Common, columns
from trunkline.cli.realm import (
    AdminDir,
    AuthorityAt,
    Yes,
    admin_home,
    confirm,
    default_user,
    directory,
    load_key,
    login_name,
    new_passphrase,
    passphrase_for,
    realm_home,
    record_json,
    root_signer,
)
from trunkline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trunkline.authority.certificates import Anchor
    from trunkline.authority.statements import Record, Signed

MAX_FILE: Final = 8 * 1024 * 1024
"""Most bytes that are read of a file of statements."""

User = Annotated[
    str | None, typer.Argument(metavar="USER", help="Whose; by default this home's user.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Write statements there, to be carried by hand.")]

key = typer.Typer(
    name="key",
    help="Keys of users: make, enter, approve, look up, change, delete.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@key.command()
def new(
    ctx: typer.Context,
    user: User = None,
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Ask for a passphrase to keep it under.")] = False,
) -> None:
    """Make a key for USER.

    It is in a file of this home that nobody else can read.

    \b
    Examples:
      trunkline key new ann
    """
    from trunkline.authority.certificates import key_text
    from trunkline.drivers.keys import UserKey
    from trunkline.users import check_user

    common: Common = ctx.obj
    home = realm_home(common)
    default = home.settings().user if home.has_realm else ""
    who = check_user(user or default or login_name())
    if home.key_path(who).exists():
        raise ConfigError(
            f"{who!r} has a key already ({home.key_path(who)}): `trunkline key change {who}` puts another in its place"
        )
    made = UserKey.generate()
    path = home.save_key(who, made, new_passphrase(passphrase))
    common.tell(f"{who}  {key_text(made.public.signing)}")
    common.say(f"the key is in {path}; have it entered in the directory with `trunkline key insert {who}`")


@key.command()
def insert(
    ctx: typer.Context,
    user: User = None,
    out: Out = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Submit the statements of a file, as approvals from a stick.")
    ] = None,
    requester: Annotated[str, typer.Option(metavar="TEXT", help="Who asks for it; the administrator reads it.")] = "",
    authority: AuthorityAt = None,
) -> None:
    """Have the key of USER entered in the directory. An administrator has yet to approve it.

    \b
    Examples:
      trunkline key insert ann
      trunkline key insert ann --out ann.txt        without a network; elsewhere: key insert --file ann.txt
      trunkline key insert --file approved          what came back from the administrator's machine
    """
    from trunkline.authority.certificates import key_text, parse_fingerprint
    from trunkline.authority.requests import insert as insert_statement

    common: Common = ctx.obj
    if file is not None:
        if user is not None or out is not None:
            raise ConfigError("--file says what to submit: leave USER and --out out")
        _submit_file(common, file, authority)
        return
    who = default_user(common, user)
    made = load_key(common, who)
    fingerprint = key_text(made.public.signing)
    if out is not None:
        realm = parse_fingerprint(realm_home(common).settings().root)
        _write_file(out, realm, [insert_statement(realm, who, made.public, made.sign, requester=requester)])
        common.say(f"wrote {out}: submit it with `trunkline key insert --file {out}`")
    else:
        with directory(common, authority) as asked:
            asked.insert_key(who, made, requester)
            record = asked.existing(who)
        common.tell(f"{who}  {fingerprint}  {record_json(record)['state']}")
        common.say(approval_hint(who, fingerprint))


def approval_hint(user: str, fingerprint: str) -> str:
    """Return what to do so that a key gets approved."""
    return (
        f"the administrator approves it with `trunkline key approve {user}`, and is to see this key there:\n"
        f"  {fingerprint}\nread it to them over the telephone, or whatever way you trust"
    )


@key.command()
def approve(
    ctx: typer.Context,
    users: Annotated[list[str] | None, typer.Argument(metavar="USER", help="Whose keys.", show_default=False)] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Approve what is in this file, without a network.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="With --file: write the approvals there.")] = None,
    admin_dir: AdminDir = None,
    yes: Yes = False,
    authority: AuthorityAt = None,
) -> None:
    """Say, as the administrator, that these keys are those users'.

    It shows each key. Compare it with what the user reads to you: all trust in that user rests on it.

    \b
    Examples:
      trunkline key approve ann
      trunkline key approve ann --admin-dir /media/stick
      trunkline key approve --file pending --out approved --admin-dir /media/stick
    """
    from trunkline.authority.statements import APPROVED

    common: Common = ctx.obj
    if (file is None) != (out is None):
        raise ConfigError("--file and --out go together: what is asked for, and where the approvals go")
    if file is not None and out is not None:
        if users:
            raise ConfigError("--file says whose keys: leave USER out")
        _approve_file(common, file, out, admin_dir, yes=yes)
        return
    if not users:
        raise ConfigError("say whose key; `trunkline key list --state tentative` shows who waits")
    root = root_signer(common, admin_dir)
    with directory(common, authority) as asked:
        for user in users:
            record = asked.existing(user)
            if record.state == APPROVED:
                common.say(f"{user} is approved already")
            elif confirm(_question(record), yes=yes):
                asked.approve_key(record, root)
                common.tell(f"{user} is approved")
            else:
                common.say(f"{user} is left as it is; `trunkline key delete {user}` removes the entry")


def _question(record: "Record") -> str:
    from trunkline.authority.certificates import key_text

    asked_for = f", asked for by {record.requester!r}" if record.requester else ""
    return f"{record.user}{asked_for}:\n  {key_text(record.keys.signing)}\nIs that the key of {record.user}?"


@key.command()
def get(
    ctx: typer.Context,
    user: User = None,
    history: Annotated[bool, typer.Option("--history", help="Every statement about this user.")] = False,
    as_json: AsJson = False,
    authority: AuthorityAt = None,
) -> None:
    """Show what the directory says of USER. The proof is checked: not even the authority could say anything else.

    \b
    Examples:
      trunkline key get ann
      trunkline key get ann --history
    """
    from trunkline.authority.certificates import key_text
    from trunkline.authority.statements import STATES
    from trunkline.errors import NotAllowed

    common: Common = ctx.obj
    who = default_user(common, user)
    with directory(common, authority) as asked:
        record = asked.get_key(who)
        said = [_statement_json(index, signed) for index, signed in asked.history(who)] if history else []
    if as_json:
        entry = None if record is None else record_json(record)
        common.tell_json({"user": who, "entry": entry, "proven": True} | ({"history": said} if history else {}))
        return
    if record is None:
        raise NotAllowed(f"nobody has the name {who!r}; that is proven")
    common.tell(f"{record.user}  {key_text(record.keys.signing)}  {STATES[record.state]}")
    for each in said:
        common.tell(f"  {each['index']}  {each['what']:7}  {each['key']}  {each['text']}".rstrip())
    common.say("proven: the directory's map and log, under the signed head")


def _statement_json(index: int, signed: "Signed") -> dict[str, Any]:
    from trunkline.authority.certificates import key_text
    from trunkline.authority.rules import read_statement
    from trunkline.authority.statements import Approve, Change, Delete, Insert

    statement = read_statement(signed)
    what, key_of, text = type(statement).__name__.lower(), b"", ""
    match statement:
        case Insert():
            key_of, text = statement.keys.signing, statement.requester
        case Change():
            key_of = statement.keys.signing
        case Approve():
            key_of = statement.signing
        case Delete():
            key_of, text = statement.signing, statement.reason
    return {"index": index, "what": what, "key": key_text(key_of) if key_of else "", "text": text}


@key.command()
def change(
    ctx: typer.Context,
    user: User = None,
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Ask for a passphrase for the new key.")] = False,
    authority: AuthorityAt = None,
) -> None:
    """Put a new key in the place of the one that USER has here. The old one signs that it is so.

    Certificates of the old key are revoked. Running programs have to be started anew.

    \b
    Examples:
      trunkline key change ann
    """
    from trunkline.authority.certificates import key_text
    from trunkline.drivers.keys import UserKey

    common: Common = ctx.obj
    who = default_user(common, user)
    home = realm_home(common)
    path = home.key_path(who)
    old = load_key(common, who)
    draft = path.with_name(f"{path.name}.new")
    if draft.exists():
        common.say(f"going on with the change that was interrupted ({draft})")
        replacement = UserKey.load(draft, passphrase_for(draft))
    else:
        replacement = UserKey.generate()
        replacement.save(draft, new_passphrase(passphrase) or home.passphrase())
    with directory(common, authority) as asked:
        record = asked.existing(who)
        # An earlier call may have been cut off anywhere; the directory knows how far it came.
        if record.keys not in (old.public, replacement.public):
            raise ConfigError(f"the directory has another key for {who!r} than {path}: has somebody else changed it?")
        asked.change_key(who, old, replacement)
    kept = path.with_name(f"{path.name}.old")
    _put_in_place(path, draft, kept)
    common.tell(f"{who}  {key_text(replacement.public.signing)}")
    common.say(
        f"the old key is kept as {kept}: it still opens what was encrypted for it; "
        "remove it when that is no longer needed"
    )


def _put_in_place(path: Path, draft: Path, kept: Path) -> None:
    import contextlib
    import os

    with contextlib.suppress(FileNotFoundError):
        kept.unlink()
    os.link(path, kept)  # so that at every moment there is a key under the name
    draft.replace(path)


@key.command()
def delete(
    ctx: typer.Context,
    user: User = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; goes into the log.")] = "",
    admin_dir: AdminDir = None,
    yes: Yes = False,
    authority: AuthorityAt = None,
) -> None:
    """Take USER out of the directory.

    What was certified for that key is revoked. It is signed with the key of USER if that is here, otherwise with the
    administrator's.

    \b
    Examples:
      trunkline key delete ben --reason stolen
    """
    common: Common = ctx.obj
    who = default_user(common, user)
    home = realm_home(common)
    if admin_dir is not None or not home.key_path(who).exists():
        sign = root_signer(common, admin_dir)
    else:
        sign = load_key(common, who).sign
    with directory(common, authority) as asked:
        asked.existing(who)
        question = f"Take {who} out of the directory? Its certificates will be refused from the next head on."
        if not confirm(question, yes=yes):
            common.say(f"{who} is left as it is")
            return
        asked.delete_key(who, sign, reason)
    common.tell(f"{who} is deleted")


@key.command(name="list")
def list_(
    ctx: typer.Context,
    prefix: Annotated[
        str, typer.Argument(metavar="PREFIX", help="That user and those below it.", show_default=False)
    ] = "",
    state: Annotated[
        str, typer.Option(metavar="STATE", help="Only those that are tentative, approved or deleted.")
    ] = "",
    out: Out = None,
    as_json: AsJson = False,
    authority: AuthorityAt = None,
) -> None:
    """List who is in the directory. `key get` proves each entry; that a list is complete can't be proven.

    \b
    Examples:
      trunkline key list --state tentative
      trunkline key list --state tentative --out pending       for `key approve --file pending`
    """
    from trunkline.authority.statements import STATES

    common: Common = ctx.obj
    numbers = {text: number for number, text in STATES.items()}
    if state and state not in numbers:
        raise ConfigError(f"{state!r} is no state: say {', '.join(numbers)}")
    with directory(common, authority) as asked:
        records = list(asked.list_keys(prefix, numbers.get(state, 0)))
        latest = [_latest(asked.history(record.user)) for record in records] if out is not None else []
        realm = asked.realm
    if out is not None:
        _write_file(out, realm, latest)
    if as_json:
        common.tell_json([record_json(record) for record in records])
    elif records:
        rows = [(r.user, record_json(r)["key"], STATES[r.state], r.requester) for r in records]
        common.tell(columns(("USER", "KEY", "STATE", "ASKED FOR BY"), rows))
    else:
        common.say(f"nobody is {state}" if state else "nobody is in the directory")


def _latest(history: "Sequence[tuple[int, Signed]]") -> "Signed":
    return history[-1][1]


# ---- files that are carried by hand ------------------------------------------------------------------------------


def _read_file(file: Path, realm: bytes) -> "list[Signed]":
    from trunkline.authority.approvals import decode_file

    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {(error.strerror or str(error)).lower()}") from error
    try:
        return decode_file(data.decode(), realm)
    except (UnicodeDecodeError, ConfigError) as error:
        raise ConfigError(f"{file} can't be used: {error}") from None


def _write_file(file: Path, realm: bytes, statements: "Sequence[Signed]") -> None:
    from trunkline.authority.approvals import encode_file

    try:
        file.write_text(encode_file(realm, statements))
    except OSError as error:
        raise ConfigError(f"{file} can't be written: {(error.strerror or str(error)).lower()}") from error


_CALLED: Final = {
    "Insert": "the key",
    "Approve": "the approval",
    "Change": "the change",
    "Delete": "the deletion",
    "Retire": "the retirement",
}


def _submit_file(common: Common, file: Path, authority: str | None) -> None:
    from trunkline.authority.rules import read_statement

    with directory(common, authority) as asked:
        for signed in _read_file(file, asked.realm):
            statement = read_statement(signed)
            index = asked.submit(signed)
            what = _CALLED[type(statement).__name__]
            common.tell(f"{what} of {statement.user} is in the log, at {index}")


def _approve_file(common: Common, file: Path, out: Path, admin_dir: Path | None, *, yes: bool) -> None:
    """Approve without a network: what is believed is the root beside the administrator's key, and nothing else."""
    from trunkline.authority.approvals import check_pending
    from trunkline.authority.requests import approve as approve_statement

    admin = admin_home(common, admin_dir)
    anchor: Anchor = admin.admin_root()
    signer = root_signer(common, admin_dir)
    approvals = []
    for signed in _read_file(file, anchor.key_id):
        record = check_pending(signed, anchor)
        if confirm(_question(record), yes=yes):
            approvals.append(approve_statement(anchor.key_id, record, signer))
        else:
            common.say(f"{record.user} is left out")
    _write_file(out, anchor.key_id, approvals)
    common.tell(f"{len(approvals)} approved, in {out}; bring it back: trunkline key insert --file {out}")
