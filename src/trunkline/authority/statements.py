"""What is said about users' keys, and signed: the entries of the authority's log (docs/spec/authority.md section 2).

A statement says its realm (the root's fingerprint), so that it means nothing elsewhere; and ``previous``, the leaf hash
of the statement before it about the same user, so that it can be said once only: replayed later, it fits no more.

    statement   signed by
    Insert      the new key itself; the entry is tentative until it is approved
    Approve     the administrator (the realm's root key)
    Change      the key that is there and the new key
    Delete      the key that is there, or the administrator
    Retire      the administrator: an intermediate key of the authority is no longer to be believed
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

HASH_SIZE: Final = 32
MAX_STATEMENT: Final = 16 * 1024
"""Largest signed statement in bytes: two hybrid public keys and their signatures take less than 4 KiB."""

Hash = Annotated[bytes, Meta(min_length=HASH_SIZE, max_length=HASH_SIZE)]
UserName = Annotated[str, Meta(min_length=1, max_length=255)]
SigningKey = Annotated[bytes, Meta(min_length=32, max_length=32)]

NOTHING: Final = bytes(HASH_SIZE)
"""``previous`` of the first statement about a user."""

X25519: Final = 1
X25519_MLKEM768: Final = 2
"""Encryption suites: HPKE's KEM with X25519 alone, and together with ML-KEM-768."""


class PublicKeys(msgspec.Struct, frozen=True, array_like=True):
    """A user's public keys."""

    signing: SigningKey
    """Ed25519: the identity."""
    suite: Annotated[int, Meta(ge=0, le=255)]
    """`X25519` or `X25519_MLKEM768`."""
    encryption: Annotated[bytes, Meta(max_length=2048)]
    """The HPKE public key, as the suite serialises it."""


class Statement(msgspec.Struct, frozen=True, array_like=True):
    """The base of all statements."""

    realm: Hash
    """The root's fingerprint."""
    user: UserName
    previous: Hash


class Insert(Statement, frozen=True, tag=1):
    """``user`` is to have ``keys``; ``requester`` is who asked for it (the paper's *requestername*), for people."""

    keys: PublicKeys
    requester: Annotated[str, Meta(max_length=255)] = ""


class Approve(Statement, frozen=True, tag=2):
    """The administrator has made sure that ``signing`` is the key of ``user`` (the paper's *markOK*)."""

    signing: SigningKey


class Change(Statement, frozen=True, tag=3):
    """``keys`` take the place of the key ``signing``."""

    signing: SigningKey
    keys: PublicKeys


class Delete(Statement, frozen=True, tag=4):
    """The entry of ``user``, whose key is ``signing``, is no more."""

    signing: SigningKey
    reason: Annotated[str, Meta(max_length=255)] = ""


class Retire(Statement, frozen=True, tag=5):
    """The intermediate whose key id is ``authority`` is no longer to be believed; ``user`` is ``authority/retired``.

    Heads and certificates that it signed are refused from then on, whatever their dates say.
    """

    authority: Hash


AnyStatement = Insert | Approve | Change | Delete | Retire


class Signed(msgspec.Struct, frozen=True, array_like=True):
    """A statement as it was signed, byte for byte: a leaf of the log."""

    body: Annotated[bytes, Meta(max_length=MAX_STATEMENT)]
    """The MessagePack of a statement."""
    signature: Annotated[bytes, Meta(max_length=128)]
    """By who says it: Ed25519 for a user's key, ECDSA P-256 with SHA-256 (DER) for the administrator's."""
    second: Annotated[bytes, Meta(max_length=128)] = b""
    """For Change: the new key's."""


TENTATIVE: Final = 1
APPROVED: Final = 2
DELETED: Final = 3
STATES: Final = {TENTATIVE: "tentative", APPROVED: "approved", DELETED: "deleted"}


class Record(msgspec.Struct, frozen=True, array_like=True):
    """The current entry of one user, as the log's statements about it have it. Its hash is in the directory's map."""

    user: UserName
    state: int
    keys: PublicKeys
    index: int
    """Where the latest statement about this user stands in the log."""
    latest: Hash
    """That statement's leaf hash: ``previous`` of the next."""
    requester: str = ""
    approval: int = -1
    """Where the administrator's approval stands in the log; -1 while tentative. A Change leaves it as it is."""
