"""Signed heads: made by the authority, read by everybody (docs/spec/authority.md section 5)."""

from collections.abc import Iterable
from hashlib import sha256
from typing import Final

import msgspec

from trunkline.authority.certificates import Anchor
from trunkline.authority.issuing import Issuer
from trunkline.authority.messages import Head, SignedHead
from trunkline.errors import BadSignature

CONTEXT: Final = b"trunkline head v1\0"
_decoder: Final = msgspec.msgpack.Decoder(Head)


def revoked_digest(serials: Iterable[bytes]) -> bytes:
    """Return the hash of revoked serials, whatever their order."""
    return sha256(b"".join(sorted(serials))).digest()


def sign_head(head: Head, issuer: Issuer) -> SignedHead:
    """Sign a head with the authority's key."""
    body = msgspec.msgpack.encode(head)
    return SignedHead(body, issuer.sign(CONTEXT + body))


def read_head(signed: SignedHead) -> Head:
    """Return what a head says, not verified yet.

    Raises:
        BadSignature: it is no head.
    """
    try:
        return _decoder.decode(signed.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadSignature(f"what was signed is no head: {error}") from None


def check_head(signed: SignedHead, authority: Anchor) -> None:
    """Check that ``authority`` signed it.

    Raises:
        BadSignature: it did not.
    """
    authority.check(CONTEXT + signed.body, signed.signature, "the head")
