"""Signed heads: one signature says what the whole directory is (docs/spec/authority.md section 5)."""

from collections.abc import Iterable
from hashlib import sha256
from typing import Final, Protocol

import msgspec

from trunkline.authority.certificates import Anchor
from trunkline.authority.merkle import statement_hash
from trunkline.authority.messages import Head, SignedHead
from trunkline.authority.statements import Signed
from trunkline.errors import BadSignature

CONTEXT: Final = b"trunkline head v1\0"
_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(Head)


class Signer(Protocol):
    """An authority's intermediate key, which only a driver holds (`trunkline.authority.issuing.Issuer` is one)."""

    def sign(self, data: bytes) -> bytes:
        """Return the ECDSA P-256 signature with SHA-256 (DER), the same each time (RFC 6979)."""


def revoked_digest(serials: Iterable[bytes], retired: Iterable[Signed] = ()) -> bytes:
    """Return the hash of all that is no longer to be believed: nobody can leave any of it out.

    Args:
        serials: of certificates that are revoked, in whatever order; 16 bytes each.
        retired: every Retire statement, in the order of the log.
    """
    ordered = sorted(serials)
    leaves = [statement_hash(each) for each in retired]
    return sha256(b"".join((len(ordered).to_bytes(4, "big"), *ordered, *leaves))).digest()


def sign_head(head: Head, signer: Signer) -> SignedHead:
    """Sign a head with the authority's key."""
    body = _encode(head)
    return SignedHead(body, signer.sign(CONTEXT + body))


def read_head(signed: SignedHead) -> Head:
    """Return what a head says, not verified yet: ``authority`` names the key to check it with.

    Raises:
        BadSignature: it is no head, or not in the one form in which heads are signed.
    """
    try:
        head = _decoder.decode(signed.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadSignature(f"what was signed is no head: {error}") from None
    if _encode(head) != signed.body:
        raise BadSignature("what was signed is a head, but not in the one form that heads have")
    return head


def check_head(signed: SignedHead, authority: Anchor) -> None:
    """Check that ``authority`` signed it.

    Raises:
        BadSignature: it did not.
    """
    authority.check(CONTEXT + signed.body, signed.signature, "the head")
