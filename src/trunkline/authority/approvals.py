"""Statements in a file, carried by hand to the administrator's key and back (docs/spec/authority.md section 11).

    trunkline statements 1
    realm FINGERPRINT
    # insert of ops/ann, key ed25519:qg6yy2hrxbgu3rmvkqp7l2n2wm, asked for by the help desk
    statement BASE64

Lines that begin with ``#`` are for people, and nothing is believed of them. A statement is the MessagePack of
a `Signed`. What goes out are the latest statements about entries that are tentative; what comes back are approvals.
"""

import base64
import binascii
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec.structs import replace

from trunkline.authority.certificates import Anchor, fingerprint_text, key_text, parse_fingerprint
from trunkline.authority.merkle import statement_hash
from trunkline.authority.rules import judge, read_statement
from trunkline.authority.statements import (
    DELETED,
    NOTHING,
    TENTATIVE,
    AnyStatement,
    Approve,
    Change,
    Delete,
    Insert,
    Record,
    Retire,
    Signed,
)
from trunkline.errors import BadSignature, ConfigError, DeniedError, InvalidRealm, InvalidUser, NotAllowed, TrustError

MAX_FILE: Final = 8 * 1024 * 1024
"""Largest file in bytes that is read."""

MAX_STATEMENTS: Final = 1024
"""Most statements in one file: what a person can look at."""

_FIRST: Final = "trunkline statements 1"
_decoder: Final = msgspec.msgpack.Decoder(Signed)


def encode_file(realm: bytes, statements: Iterable[Signed]) -> str:
    """Return the text of a file.

    Args:
        realm: the root's fingerprint.

    Raises:
        BadSignature: something is no statement.
    """
    lines = [_FIRST, f"realm {fingerprint_text(realm)}"]
    for signed in statements:
        lines.append(f"# {_describe(read_statement(signed))}")
        lines.append(f"statement {base64.b64encode(msgspec.msgpack.encode(signed)).decode()}")
    return "\n".join(lines) + "\n"


def decode_file(text: str, realm: bytes) -> list[Signed]:
    """Return the statements in a file; each is in good form, and none is verified yet.

    Raises:
        ConfigError: the text is none of ours, or damaged; it says the line.
        TrustError: it is of another realm.
    """
    if len(text) > MAX_FILE:
        raise ConfigError(f"the file is larger than {MAX_FILE} bytes: that is no file of statements")
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    kept = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not kept or kept[0][1] != _FIRST:
        raise ConfigError(f"this is no file of statements: it does not begin with {_FIRST!r}")
    if len(kept) < 2 or not kept[1][1].startswith("realm "):
        raise ConfigError("the file of statements does not say its realm in its second line")
    try:
        theirs = parse_fingerprint(kept[1][1].removeprefix("realm "))
    except InvalidRealm as error:
        raise ConfigError(f"line {kept[1][0]}: {error}") from None
    if theirs != realm:
        raise TrustError(f"the statements are for the realm {fingerprint_text(theirs)}, not {fingerprint_text(realm)}")
    if len(kept) - 2 > MAX_STATEMENTS:
        raise ConfigError(f"the file has {len(kept) - 2} statements, and the limit is {MAX_STATEMENTS}")
    return [_statement(number, line) for number, line in kept[2:]]


def check_pending(signed: Signed, root: Anchor) -> Record:
    """Return the tentative entry that a statement asks an approval for, once its signatures are checked.

    Args:
        root: the realm's.

    Raises:
        BadSignature: who signed it may not say it.
        NotAllowed: it makes no entry tentative, or breaks another rule.
    """
    statement = read_statement(signed)
    if not isinstance(statement, Insert | Change):
        raise NotAllowed(f"{_describe(statement)}: that is nothing to approve")
    before: Record | None = None
    if statement.previous != NOTHING:
        # What was there before is not in the file. If it was otherwise, the approval fits no entry, and is refused.
        before = Record(statement.user, DELETED, statement.keys, 0, statement.previous)
        if isinstance(statement, Change):
            before = replace(before, state=TENTATIVE, keys=replace(statement.keys, signing=statement.signing))
    leaf = statement_hash(signed)
    try:
        return judge(signed, statement, before, index=0, leaf=leaf, realm=root.key_id, root=root.key).record
    except DeniedError as error:
        raise NotAllowed(f"{_describe(statement)}: {error}") from error


def _statement(number: int, line: str) -> Signed:
    word, _, rest = line.partition(" ")
    if word != "statement":
        raise ConfigError(f"line {number}: {word[:40]!r} is no word of files of statements")
    try:
        signed = _decoder.decode(base64.b64decode(rest, validate=True))
        read_statement(signed)
    except (binascii.Error, ValueError, msgspec.DecodeError, BadSignature, InvalidUser) as error:
        raise ConfigError(f"line {number}: the statement is damaged: {error}") from None
    return signed


def _describe(statement: AnyStatement) -> str:
    user = statement.user
    match statement:
        case Insert():
            asked = f", asked for by {statement.requester!r}" if statement.requester else ""
            return f"insert of {user}, key {key_text(statement.keys.signing)}{asked}"
        case Approve():
            return f"approval of {user}, key {key_text(statement.signing)}"
        case Change():
            return f"change of {user}, new key {key_text(statement.keys.signing)}"
        case Delete():
            return f"deletion of {user}, key {key_text(statement.signing)}"
        case Retire():
            return f"retirement of the authority's key {statement.authority.hex()[:16]}"
