"""Statements and wishes, put together and signed (docs/spec/authority.md sections 2 and 7).

Keys are lent as functions that sign: a user's is `UserKey.sign`, the administrator's `root_signer` of theirs.
"""

from collections.abc import Callable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from trunkline.authority.certificates import issue_bytes
from trunkline.authority.messages import Issue
from trunkline.authority.rules import RETIRED_USER, encode_statement, statement_bytes
from trunkline.authority.statements import (
    NOTHING,
    AnyStatement,
    Approve,
    Change,
    Delete,
    Insert,
    PublicKeys,
    Record,
    Retire,
    Signed,
)

Sign = Callable[[bytes], bytes]
"""Returns the signature over bytes that begin with their context."""


def root_signer(key: ec.EllipticCurvePrivateKey) -> Sign:
    """Return what signs with the administrator's key: ECDSA with SHA-256 (DER), deterministic (RFC 6979)."""
    return lambda data: key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))


def insert(
    realm: bytes, user: str, keys: PublicKeys, sign: Sign, *, record: Record | None = None, requester: str = ""
) -> Signed:
    """Say that ``user`` is to have ``keys``; tentative until it is approved.

    Args:
        realm: the root's fingerprint.
        sign: the new key's.
        record: of who had the name and was deleted; None if nobody had it.
        requester: who asked for it, for the administrator to read.
    """
    return _signed(Insert(realm, user, _latest(record), keys, requester), sign)


def approve(realm: bytes, record: Record, sign: Sign) -> Signed:
    """Say that the key in ``record`` is that user's; ``sign`` is the administrator's."""
    return _signed(Approve(realm, record.user, record.latest, record.keys.signing), sign)


def change(realm: bytes, record: Record, keys: PublicKeys, sign: Sign, sign_new: Sign) -> Signed:
    """Say that ``keys`` take the place of those in ``record``; signed by the old key and the new one."""
    return _signed(Change(realm, record.user, record.latest, record.keys.signing, keys), sign, sign_new)


def delete(realm: bytes, record: Record, sign: Sign, reason: str = "") -> Signed:
    """Say that the entry is no more; ``sign`` is its key's or the administrator's."""
    return _signed(Delete(realm, record.user, record.latest, record.keys.signing, reason), sign)


def retire(realm: bytes, record: Record | None, authority: bytes, sign: Sign) -> Signed:
    """Say that an intermediate is no longer to be believed.

    Args:
        record: of `RETIRED_USER`; None if none was ever retired.
        authority: its key id.
        sign: the administrator's.
    """
    return _signed(Retire(realm, RETIRED_USER, _latest(record), authority), sign)


def issue(realm: bytes, user: str, time: int, request: bytes, sign: Sign) -> Issue:
    """Ask for a certificate.

    Args:
        time: seconds since 1970.
        request: PKCS#10, DER (`trunkline.authority.issuing.build_request`).
        sign: the user's.
    """
    return Issue(0, user, request, time, sign(issue_bytes(realm, user, time, request)))


def _latest(record: Record | None) -> bytes:
    return NOTHING if record is None else record.latest


def _signed(statement: AnyStatement, sign: Sign, second: Sign | None = None) -> Signed:
    body = encode_statement(statement)
    data = statement_bytes(body)
    return Signed(body, sign(data), b"" if second is None else second(data))
