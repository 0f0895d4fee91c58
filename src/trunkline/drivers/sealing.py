"""`encrypt` and `decrypt` for a member of a realm: the directory's look-up, HPKE's randomness, and nothing more.

The checks and the format are in `trunkline.authority.sealing` (docs/spec/sealing.md sections 1 to 6). The look-up may
wait for the network.
"""

from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

from trunkline.authority import sealing
from trunkline.authority.sealing import Bytes
from trunkline.authority.statements import X25519, PublicKeys, Record
from trunkline.errors import ConfigError, TrustError
from trunkline.users import check_user


class Keys(Protocol):
    """The part of `trunkline.drivers.keys.UserKey` that is used here."""

    @property
    def public(self) -> PublicKeys: ...
    @property
    def x25519(self) -> X25519PrivateKey: ...
    @property
    def mlkem768(self) -> MLKEM768PrivateKey | None: ...
    def sign(self, data: bytes) -> bytes: ...


class Member(Protocol):
    """The part of `trunkline.drivers.membership.Membership` that is used here."""

    @property
    def fingerprint(self) -> bytes: ...
    @property
    def user(self) -> str | None: ...
    @property
    def key(self) -> Keys: ...
    def get(self, user: str) -> Record | None: ...


def encrypt(member: Member, data: Bytes, *, to: str) -> bytes:
    """Return ``data`` sealed by ``member`` for the user ``to``, who alone can open it.

    Args:
        member: who we are.
        data: at most 64 MiB.
        to: a user of the same realm, approved.

    Raises:
        ValueError: ``data`` exceeds the limit.
        NotAllowed: ``to`` is not in the directory, or not approved.
        ConfigError: ``member`` has no user, or this installation lacks what the recipient's suite needs.
        TrustError: what the directory says can't be believed.
        NoAuthority: the directory can't be reached.
    """
    user, keys = _who(member)
    sealing.check_clear(data)
    record = sealing.check_recipient(to, member.get(check_user(to)))
    public = sealing.encryption_key(record.keys)
    header = sealing.build_header(member.fingerprint, user, keys.public.signing, record)
    try:
        sealed = sealing.SUITES[record.keys.suite].encrypt(data, public, sealing.info(header))
    except ValueError as error:  # a key of low order: what is sealed for it would be open to anybody
        raise TrustError(f"nothing can be encrypted for the key of {to!r}: {error}") from error
    return sealing.finish(header, sealed, keys.sign)


def decrypt(member: Member, blob: Bytes) -> tuple[bytes, str]:
    """Return what was sealed for ``member``, and the user who sealed it: proven, and approved now.

    Args:
        member: who we are.
        blob: what `encrypt` returned.

    Raises:
        DecryptError: it was altered, is for another, or its sender is not in order; the text names the step.
        ConfigError: ``member`` has no user.
        TrustError: what the directory says can't be believed.
        NoAuthority: the directory can't be reached.
    """
    user, keys = _who(member)
    envelope = sealing.parse(blob)
    sealing.check_addressee(envelope, member.fingerprint, user, keys.public)
    clear = sealing.unseal(envelope, member.get(envelope.sender), private_key(keys))
    return clear, envelope.sender


def _who(member: Member) -> tuple[str, Keys]:
    if member.user is None:
        raise ConfigError("encrypt() and decrypt() need a user with a key: make one with `trunkline key new`")
    return member.user, member.key


def private_key(keys: Keys) -> sealing.PrivateKey:
    """Return the secret HPKE key, as the library takes it."""
    if keys.public.suite == X25519:
        return keys.x25519
    assert keys.mlkem768 is not None, "the public half says that there is one"
    return MLKEM768X25519PrivateKey(keys.mlkem768, keys.x25519)
