"""Who may say what about a user, and what comes of it: one table, and the check of a statement against it.

The authority, its replicas and auditors all go by this file, so that each can tell whether another broke the rules.
Whoever makes a statement for signing does too: `statement_bytes` is what is signed.
"""

import enum
from typing import Final, NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from trunkline.authority.statements import (
    APPROVED,
    DELETED,
    NOTHING,
    STATES,
    TENTATIVE,
    X25519,
    X25519_MLKEM768,
    AnyStatement,
    Approve,
    Change,
    Delete,
    Insert,
    PublicKeys,
    Record,
    Retire,
    Signed,
    Statement,
)
from trunkline.errors import BadSignature, NameTaken, NotAllowed
from trunkline.users import check_user

FREE: Final = 0
"""The state of a name that nobody ever had."""

RETIRED_USER: Final = "authority/retired"
"""The user whose history is that of retired intermediates. It has a record, so that the map says which was the last."""

KEY_SIZES: Final = {X25519: 32, X25519_MLKEM768: 1216}
"""Bytes of an encryption key, by suite (RFC 9180; draft-connolly-cfrg-xwing-kem: 1184 of ML-KEM-768, 32 of X25519)."""

_CONTEXT: Final = b"trunkline statement v1\0"
_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final[msgspec.msgpack.Decoder[AnyStatement]] = msgspec.msgpack.Decoder(AnyStatement)


class By(enum.Enum):
    """Whose signatures a statement needs."""

    ITSELF = "the new key itself"
    ROOT = "the realm's administrator"
    BOTH = "the key that is there and, as the second, the new key"
    KEY_OR_ROOT = "the key that is there, or the realm's administrator"


class Rule(NamedTuple):
    """One row of the table."""

    by: By
    states: frozenset[int]
    """In which states of the entry it may be said."""
    state: int | None
    """The state afterwards; None: as before."""


_ALIVE: Final = frozenset({TENTATIVE, APPROVED})

RULES: Final[dict[type[Statement], Rule]] = {
    Insert: Rule(By.ITSELF, frozenset({FREE, DELETED}), TENTATIVE),
    Approve: Rule(By.ROOT, frozenset({TENTATIVE}), APPROVED),
    Change: Rule(By.BOTH, _ALIVE, None),
    Delete: Rule(By.KEY_OR_ROOT, _ALIVE, DELETED),
    Retire: Rule(By.ROOT, frozenset({FREE, DELETED}), DELETED),
}
"""Who may say what, when. The record of `RETIRED_USER`, which only Retire concerns, counts as deleted."""


class Outcome(NamedTuple):
    """What comes of a statement that was accepted."""

    statement: AnyStatement
    record: Record
    """The entry from now on."""
    lost: bytes | None
    """The user's Ed25519 key that is no longer to be believed: certificates issued to it are revoked."""


def statement_bytes(body: bytes) -> bytes:
    """Return what is signed of a statement's body."""
    return _CONTEXT + body


def encode_statement(statement: AnyStatement) -> bytes:
    """Return the body of a statement."""
    return _encode(statement)


def read_statement(signed: Signed) -> AnyStatement:
    """Return what is said, in no way believed yet.

    Raises:
        BadSignature: the body is no statement, or not in the one form that a statement is signed in.
        InvalidUser: nobody can have that name.
    """
    try:
        statement = _decoder.decode(signed.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadSignature(f"what should be a statement is none: {error}") from None
    if _encode(statement) != signed.body:
        raise BadSignature("a statement is not in the one form that statements have")
    check_user(statement.user)
    return statement


def judge(
    signed: Signed,
    statement: AnyStatement,
    record: Record | None,
    *,
    index: int,
    leaf: bytes,
    realm: bytes,
    root: ec.EllipticCurvePublicKey,
) -> Outcome:
    """Check a statement against the rules and return what comes of it.

    Args:
        signed: the statement as it came.
        statement: what `read_statement` read from it.
        record: the entry of its user as it is; None if there never was one.
        index: where it is to stand in the log.
        leaf: its leaf hash.
        realm: the root's fingerprint.
        root: the administrator's key.

    Raises:
        NotAllowed: not in this state, not about this user, or said before another statement was.
        NameTaken: somebody has the name that is to be inserted.
        BadSignature: who signed it may not say it.
    """
    rule = RULES[type(statement)]
    _check_place(statement, record, rule, realm)
    _check_keys(statement, record)
    _check_signatures(signed, statement, record, rule.by, root)
    return _outcome(statement, record, rule, index, leaf)


def _check_place(statement: AnyStatement, record: Record | None, rule: Rule, realm: bytes) -> None:
    user, kind = statement.user, type(statement).__name__
    if statement.realm != realm:
        raise NotAllowed(f"{kind} of {user!r} was signed for another realm ({statement.realm.hex()[:16]})")
    if isinstance(statement, Retire) != (user == RETIRED_USER):
        raise NotAllowed(f"{kind} can't be said about {user!r}: that name stands for retired keys of authorities")
    state = FREE if record is None else record.state
    if state not in rule.states:
        if isinstance(statement, Insert):
            raise NameTaken(user, f"its entry is {STATES[state]}; `trunkline key change` needs the key that is there")
        there = f"is {STATES[state]}" if state in STATES else "is not in the directory"
        raise NotAllowed(f"{kind} can't be said about {user!r}, who {there}")
    latest = NOTHING if record is None else record.latest
    if statement.previous != latest:
        raise NotAllowed(
            f"{kind} of {user!r} goes on from the statement {statement.previous.hex()[:16]}, and the latest one is "
            f"{latest.hex()[:16]}: look the entry up again and sign anew"
        )


def _check_keys(statement: AnyStatement, record: Record | None) -> None:
    if isinstance(statement, Insert | Change):
        size = KEY_SIZES.get(statement.keys.suite)
        if size != len(statement.keys.encryption):
            raise NotAllowed(
                f"the encryption key of {statement.user!r} has {len(statement.keys.encryption)} bytes and the suite "
                f"{statement.keys.suite}; there are {KEY_SIZES} (suite: bytes)"
            )
    if isinstance(statement, Approve | Change | Delete):
        assert record is not None
        if statement.signing != record.keys.signing:
            raise NotAllowed(f"the key of {statement.user!r} is not the one that {type(statement).__name__} names")


def _check_signatures(
    signed: Signed, statement: AnyStatement, record: Record | None, by: By, root: ec.EllipticCurvePublicKey
) -> None:
    data = statement_bytes(signed.body)
    if signed.second and by is not By.BOTH:
        raise BadSignature(f"{type(statement).__name__} has a second signature, which means nothing")
    try:
        match by:
            case By.ITSELF:
                assert isinstance(statement, Insert)
                _verify_user(statement.keys.signing, signed.signature, data)
            case By.BOTH:
                assert isinstance(statement, Change)
                _verify_user(statement.signing, signed.signature, data)
                # Without this somebody could claim another's key for his own name.
                _verify_user(statement.keys.signing, signed.second, data)
            case By.ROOT:
                _verify_root(root, signed.signature, data)
            case By.KEY_OR_ROOT:
                assert record is not None
                try:
                    _verify_user(record.keys.signing, signed.signature, data)
                except InvalidSignature:
                    _verify_root(root, signed.signature, data)
    except InvalidSignature:
        raise BadSignature(f"{type(statement).__name__} of {statement.user!r} is not signed by {by.value}") from None


def _verify_user(key: bytes, signature: bytes, data: bytes) -> None:
    Ed25519PublicKey.from_public_bytes(key).verify(signature, data)


def _verify_root(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> None:
    key.verify(signature, data, ec.ECDSA(hashes.SHA256()))


def _outcome(statement: AnyStatement, record: Record | None, rule: Rule, index: int, leaf: bytes) -> Outcome:
    if isinstance(statement, Insert):
        made = Record(statement.user, TENTATIVE, statement.keys, index, leaf, statement.requester)
        return Outcome(statement, made, None)
    if isinstance(statement, Retire):
        keys = PublicKeys(statement.authority, 0, b"")
        return Outcome(statement, Record(statement.user, DELETED, keys, index, leaf), None)
    assert record is not None
    keys = statement.keys if isinstance(statement, Change) else record.keys
    after = Record(
        record.user,
        record.state if rule.state is None else rule.state,
        keys,
        index,
        leaf,
        record.requester,
        index if isinstance(statement, Approve) else record.approval,
    )
    lost = record.keys.signing if isinstance(statement, Delete) or keys.signing != record.keys.signing else None
    return Outcome(statement, after, lost)
