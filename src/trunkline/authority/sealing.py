"""What is encrypted for a user outside any connection: the blob and its checks (docs/spec/sealing.md sections 1 to 6).

A blob is a header that says who sealed it for whom, the sender's signature, and what HPKE (RFC 9180) made of the data.
The sender signs the header and all of HPKE's output; HPKE's key depends on the header in turn. So who takes a blob and
signs it anew under their own name has something that nobody can open.

Pure: HPKE draws a key of its own for each blob, so the one call that does is in `trunkline.drivers.sealing`. Opening
needs no randomness and is here, step by step; every step raises `DecryptError`, which names it.
"""

import hashlib
from collections.abc import Callable
from struct import Struct
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from trunkline.authority.statements import (
    APPROVED,
    HASH_SIZE,
    STATES,
    X25519,
    X25519_MLKEM768,
    PublicKeys,
    Record,
)
from trunkline.errors import BadSignature, ConfigError, DecryptError, InvalidUser, NotAllowed, TrustError
from trunkline.users import MAX_USER, check_user

MAX_CLEAR: Final = 64 * 1024 * 1024
"""Most bytes that are encrypted at once. All of it is in memory, as often as four times; for more, send a file."""

SIGNATURE_SIZE: Final = 64
TAG_SIZE: Final = 16
ENCAPSULATIONS: Final = {X25519: 32, X25519_MLKEM768: 1120}
"""How long HPKE's encapsulated key is, by suite."""

PREFIX: Final = b"TRUNKE/"
VERSION: Final = b"1\n"
_FIXED: Final = Struct(f"!{len(PREFIX)}s{len(VERSION)}sB{HASH_SIZE}s{HASH_SIZE}s{HASH_SIZE}s")
MAX_HEADER: Final = _FIXED.size + 2 * (1 + MAX_USER)
MAX_BLOB: Final = MAX_HEADER + SIGNATURE_SIZE + max(ENCAPSULATIONS.values()) + MAX_CLEAR + TAG_SIZE
"""Longest blob that is looked at."""

_SIGNED: Final = b"trunkline sealed v1\0"
_INFO: Final = b"trunkline hpke v1\0"
_KEY_ID: Final = b"trunkline encryption key v1\0"

SUITES: Final = {
    X25519: hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM),
    X25519_MLKEM768: hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM),
}
_MLKEM_SIZE: Final = 1184
_X25519_SIZE: Final = 32

Bytes = bytes | bytearray | memoryview
PublicKey = X25519PublicKey | hpke.MLKEM768X25519PublicKey
PrivateKey = X25519PrivateKey | hpke.MLKEM768X25519PrivateKey


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """A blob taken apart, in no way believed yet."""

    suite: int
    realm: bytes
    """The fingerprint of the realm's root."""
    sender: str
    sender_key: bytes
    """The Ed25519 key that is said to have signed it."""
    recipient: str
    recipient_key: bytes
    """`key_id` of the key for which it was sealed."""
    header: bytes
    """All of the above as it stands in the blob."""
    signature: bytes
    sealed: memoryview
    """HPKE's encapsulated key, ciphertext and tag."""


# ---- keys ------------------------------------------------------------------------------------------------------


def key_id(keys: PublicKeys) -> bytes:
    """Return the id of an encryption key, 32 bytes: blobs name their recipient's by it (spec section 2)."""
    return hashlib.sha256(_KEY_ID + bytes((keys.suite,)) + keys.encryption).digest()


def encryption_key(keys: PublicKeys) -> PublicKey:
    """Return the HPKE public key that ``keys`` serialises (spec section 6).

    Raises:
        TrustError: the suite is unknown, or the bytes are no key of it.
        ConfigError: this installation's OpenSSL lacks ML-KEM.
    """
    sizes = {X25519: _X25519_SIZE, X25519_MLKEM768: _MLKEM_SIZE + _X25519_SIZE}
    if keys.suite not in sizes:
        raise TrustError(f"encryption suite {keys.suite} is unknown to this version: install a newer one")
    if len(keys.encryption) != sizes[keys.suite]:
        raise TrustError(f"a key of suite {keys.suite} has {sizes[keys.suite]} bytes, not {len(keys.encryption)}")
    try:
        if keys.suite == X25519:
            return X25519PublicKey.from_public_bytes(keys.encryption)
        return hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(keys.encryption[:_MLKEM_SIZE]),
            X25519PublicKey.from_public_bytes(keys.encryption[_MLKEM_SIZE:]),
        )
    except UnsupportedAlgorithm as error:
        raise ConfigError(f"suite {keys.suite} needs ML-KEM, which this OpenSSL lacks: {error}") from error
    except ValueError as error:
        raise TrustError(f"the bytes are no key of suite {keys.suite}: {error}") from error


# ---- sealing ---------------------------------------------------------------------------------------------------


def check_clear(data: Bytes) -> None:
    """Check that ``data`` is not too long to be encrypted at once.

    Raises:
        ValueError: with the limit.
    """
    size = memoryview(data).nbytes
    if size > MAX_CLEAR:
        raise ValueError(f"{size} bytes exceed the limit of {MAX_CLEAR} bytes for encrypt(): send it as a file")


def check_recipient(to: str, record: Record | None) -> Record:
    """Return the directory's entry for ``to`` if something may be encrypted for it.

    Raises:
        NotAllowed: there is none, or it is not approved.
    """
    if record is None:
        raise NotAllowed(f"nothing is encrypted for {to!r}: the directory has no such user")
    if record.user != to or record.state != APPROVED:
        state = STATES.get(record.state, str(record.state))
        raise NotAllowed(f"nothing is encrypted for {to!r}: its entry is {state}, not approved")
    return record


def build_header(realm: bytes, sender: str, sender_key: bytes, recipient: Record) -> bytes:
    """Return the header of a blob from ``sender``, whose Ed25519 key is ``sender_key``, for ``recipient``.

    Raises:
        InvalidUser: a name can't be a user's.
    """
    names = [check_user(name).encode("ascii") for name in (sender, recipient.user)]
    fixed = _FIXED.pack(PREFIX, VERSION, recipient.keys.suite, realm, sender_key, key_id(recipient.keys))
    return fixed + b"".join(bytes((len(name),)) + name for name in names)


def info(header: bytes) -> bytes:
    """Return HPKE's ``info`` for a blob with that header."""
    return _INFO + header


def finish(header: bytes, sealed: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """Return the blob.

    Args:
        header: what `build_header` returned.
        sealed: HPKE's output under ``info(header)``.
        sign: signs bytes with the sender's Ed25519 key.
    """
    return b"".join((header, sign(_signed(header, sealed)), sealed))


def _signed(header: bytes, sealed: Bytes) -> bytes:
    # The digest in place of the bytes: Ed25519 runs SHA-512 over its message twice.
    return _SIGNED + header + hashlib.sha256(sealed).digest()


# ---- opening ---------------------------------------------------------------------------------------------------


def parse(blob: Bytes) -> Envelope:
    """Take a blob apart: steps 1 and 2 of spec section 4.

    Raises:
        DecryptError: it is too long, too short, no blob, or of a version or suite that is unknown here.
    """
    view = memoryview(blob).cast("B")
    if view.nbytes > MAX_BLOB:
        raise DecryptError(f"step 1, form: {view.nbytes} bytes exceed the limit of {MAX_BLOB} bytes")
    if bytes(view[: len(PREFIX)]) != PREFIX:
        raise DecryptError("step 1, form: this is nothing that encrypt() returned")
    if view.nbytes < _FIXED.size:
        raise DecryptError(f"step 1, form: it breaks off after {view.nbytes} bytes")
    _, version, suite, realm, sender_key, recipient_key = _FIXED.unpack_from(view)
    if version != VERSION:
        raise DecryptError(f"step 1, form: it is of version {version!r}, this side knows {VERSION!r}")
    if suite not in SUITES:
        raise DecryptError(f"step 2, suite: encryption suite {suite} is unknown to this version: install a newer one")
    sender, at = _name(view, _FIXED.size)
    recipient, at = _name(view, at)
    sealed = view[at + SIGNATURE_SIZE :]
    least = ENCAPSULATIONS[suite] + TAG_SIZE
    if sealed.nbytes < least:
        raise DecryptError(f"step 1, form: it breaks off: {sealed.nbytes} bytes are left for what is {least} or more")
    signature = bytes(view[at : at + SIGNATURE_SIZE])
    header = bytes(view[:at])
    return Envelope(suite, realm, sender, sender_key, recipient, recipient_key, header, signature, sealed)


def _name(view: memoryview, at: int) -> tuple[str, int]:
    end = at + 1 + (view[at] if at < view.nbytes else 0)
    try:
        return check_user(str(view[at + 1 : end], "ascii")), end
    except (InvalidUser, UnicodeDecodeError) as error:
        raise DecryptError(f"step 1, form: it names no user where one is due: {error}") from None


def check_addressee(envelope: Envelope, realm: bytes, user: str, keys: PublicKeys) -> None:
    """Check that a blob is for ``user`` of ``realm``, whose keys are ``keys``: steps 3 and 4 of spec section 4.

    Raises:
        DecryptError: it is for another realm, another user, or another key.
    """
    if envelope.realm != realm:
        raise DecryptError("step 3, realm: it was sealed in another realm")
    if envelope.recipient != user:
        raise DecryptError(f"step 4, recipient: it is for {envelope.recipient!r}, and this is {user!r}")
    if envelope.suite != keys.suite or envelope.recipient_key != key_id(keys):
        raise DecryptError(
            f"step 4, recipient: it is for a key of {user!r} that is not the one here: "
            "the key was changed since; ask the sender to encrypt it again"
        )


def check_sender(envelope: Envelope, record: Record | None) -> None:
    """Check a blob's sender against the directory's entry: step 5 of spec section 4.

    Only the sender's present key counts (spec section 5).

    Raises:
        DecryptError: there is no such user, it is not approved, or has another key now.
    """
    sender = envelope.sender
    if record is None or record.user != sender:
        raise DecryptError(f"step 5, sender: the directory has no user {sender!r}")
    if record.state != APPROVED:
        state = STATES.get(record.state, str(record.state))
        raise DecryptError(f"step 5, sender: the entry of {sender!r} is {state}, not approved")
    if record.keys.signing != envelope.sender_key:
        raise DecryptError(
            f"step 5, sender: the key that it names is not that of {sender!r} now: "
            "the sender has changed its key since; ask for it to be encrypted again"
        )


def check_signature(envelope: Envelope) -> None:
    """Check that the key that a blob names signed all of it: step 6 of spec section 4.

    Raises:
        BadSignature: it did not.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(envelope.sender_key)
        key.verify(envelope.signature, _signed(envelope.header, envelope.sealed))
    except (InvalidSignature, ValueError):
        raise BadSignature(f"{envelope.sender!r} did not sign this blob as it is here") from None


def unseal(envelope: Envelope, sender: Record | None, private: PrivateKey) -> bytes:
    """Return the clear text: steps 5 to 7 of spec section 4, after `check_addressee`.

    Args:
        envelope: what `parse` returned.
        sender: the directory's entry for ``envelope.sender``.
        private: the recipient's secret key.

    Raises:
        DecryptError: the sender is not in order, did not sign it, or it can't be opened with this key.
    """
    check_sender(envelope, sender)
    try:
        check_signature(envelope)
    except BadSignature as error:
        raise DecryptError(f"step 6, signature: {error}: it was altered, or somebody else made it") from error
    try:
        return SUITES[envelope.suite].decrypt(envelope.sealed, private, info(envelope.header))
    except (InvalidTag, ValueError):
        raise DecryptError("step 7, opening: the sender's signature is good, but this key does not open it") from None
