"""What a client keeps on disk of a realm: nobody rolls it back over a restart (docs/spec/authority.md section 8)."""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from trunkline.authority.messages import MAX_REVOKED, Certificate, Serial, SignedHead
from trunkline.authority.statements import Hash, Signed
from trunkline.errors import TrustError

MAX_STATE: Final = 2 * 1024 * 1024
"""Most bytes of state that are read back."""

MAX_AUTHORITIES: Final = 8
_VERSION: Final = 1


class TrustState(msgspec.Struct, frozen=True, array_like=True):
    """Heads, certificates and Retire statements are signed, and verified again when they are read back."""

    realm: Hash
    head: SignedHead
    listed: SignedHead
    """The head that the revoked serials belong to."""
    revoked: Annotated[tuple[Serial, ...], Meta(max_length=MAX_REVOKED)]
    authorities: Annotated[tuple[Certificate, ...], Meta(max_length=MAX_AUTHORITIES)]
    retired: Annotated[tuple[Signed, ...], Meta(max_length=64)]
    version: int = _VERSION


_decoder: Final = msgspec.msgpack.Decoder(TrustState)
_evidence: Final = msgspec.msgpack.Decoder(tuple[SignedHead, SignedHead])


def encode_state(state: TrustState) -> bytes:
    """Return the bytes to be kept."""
    return msgspec.msgpack.encode(state)


def decode_state(data: bytes, realm: bytes) -> TrustState:
    """Return what `encode_state` was given.

    Raises:
        TrustError: it is something else, or of another realm.
    """
    try:
        state = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TrustError(f"it can't be read: {error}") from None
    if state.version != _VERSION:
        raise TrustError(f"it has the version {state.version}, and this release reads {_VERSION}")
    if state.realm != realm:
        raise TrustError("it is of another realm")
    return state


def encode_evidence(heads: Sequence[SignedHead]) -> bytes:
    """Return the bytes in which two heads are kept that can't both be true."""
    return msgspec.msgpack.encode(heads)


def decode_evidence(data: bytes) -> tuple[SignedHead, ...]:
    """Return what `encode_evidence` was given.

    Raises:
        TrustError: it is something else.
    """
    try:
        return _evidence.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TrustError(f"it can't be read: {error}") from None
