"""Certificates made: a realm's root, the authority's intermediates, users' leaves (docs/spec/authority.md section 7).

Keys, serials and times come from the caller. All signatures are ECDSA with SHA-256, made deterministically (RFC 6979):
the same input gives the same certificate, and none depends on the quality of randomness.
"""

from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trunkline.authority.certificates import (
    OCTETS,
    REALM_URI,
    UNREADABLE,
    USER_KEY,
    key_id,
    parse_intermediate,
    parse_root,
)
from trunkline.authority.messages import SERIAL_SIZE
from trunkline.authority.statements import HASH_SIZE
from trunkline.errors import BadSignature, TrustError
from trunkline.users import check_realm, check_user, spiffe_id

DAY: Final = 86_400
ROOT_LIFETIME: Final = 20 * 365 * DAY
"""Seconds that a root lives by default: its loss ends the realm, so it outlives machines."""

INTERMEDIATE_LIFETIME: Final = 366 * DAY
LEAF_LIFETIME: Final = DAY
BACKDATED: Final = 300
"""Seconds by which a leaf is valid before it was asked for: clocks of peers may be behind."""


def build_root(realm: str, key: ec.EllipticCurvePrivateKey, serial: bytes, not_before: int, not_after: int) -> bytes:
    """Return a realm's self-signed root certificate, DER.

    Raises:
        InvalidRealm: the name can't be a realm's.
    """
    public = key.public_key()
    name = _ca_name(check_realm(realm), "root")
    return _ca(realm, name, name, public, key_id(public), serial, not_before, not_after, path=1, signer=key)


def build_intermediate(
    root: bytes,
    root_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePublicKey,
    serial: bytes,
    not_before: int,
    not_after: int,
) -> bytes:
    """Return the certificate of an authority's ``key``, DER: it may sign leaves, and no further authorities.

    Raises:
        TrustError: ``root`` is no realm's root, or not that of ``root_key``.
    """
    anchor = parse_root(root)
    if anchor.key_id != key_id(root_key.public_key()):
        raise TrustError(f"this is not the key of the root of {anchor.realm!r}")
    issuer, subject = _ca_name(anchor.realm, "root"), _ca_name(anchor.realm, "authority")
    return _ca(
        anchor.realm, issuer, subject, key, anchor.key_id, serial, not_before, not_after, path=0, signer=root_key
    )


def build_request(key: ec.EllipticCurvePrivateKey, user: str) -> bytes:
    """Return a PKCS#10 request, DER, for a leaf of ``user``; the authority takes nothing from it but the key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_common_name(user))
    return builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True).public_bytes(serialization.Encoding.DER)


def check_request(request: bytes) -> ec.EllipticCurvePublicKey:
    """Return the key that a PKCS#10 request wants certified.

    Raises:
        BadSignature: it is none, or not signed by that key, or the key is not P-256.
    """
    try:
        parsed = x509.load_der_x509_csr(request)
        key = parsed.public_key()
        signed = parsed.is_signature_valid
    except UNREADABLE as error:
        raise BadSignature(f"the certificate request can't be read: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadSignature("the certificate request is for a key that is not P-256")
    if not signed:
        raise BadSignature("the certificate request is not signed by the key that it is for")
    return key


class Issuer:
    """An authority's intermediate: signs heads and leaves.

    Raises:
        TrustError: ``intermediate`` is not certified by ``root``, or not for ``key``.
    """

    def __init__(self, root: bytes, intermediate: bytes, key: ec.EllipticCurvePrivateKey) -> None:
        self.anchor = parse_root(root)
        self.authority = parse_intermediate(intermediate, self.anchor)
        self._key = key
        if key_id(key.public_key()) != self.authority.key_id:
            raise TrustError("the authority's key is not the one that its certificate is for")

    @property
    def realm(self) -> str:
        """The realm's name."""
        return self.anchor.realm

    @property
    def fingerprint(self) -> bytes:
        """The realm's fingerprint."""
        return self.anchor.key_id

    @property
    def key_id(self) -> bytes:
        """What heads name as their authority, and leaves as their issuer."""
        return self.authority.key_id

    def __repr__(self) -> str:
        return f"Issuer({self.realm!r}, {self.key_id.hex()[:16]})"

    def __reduce__(self) -> str:
        raise TypeError("an Issuer can't be pickled: it holds a secret key")

    def sign(self, data: bytes) -> bytes:
        """Return the ECDSA signature (DER) over ``data``, which begins with the context that it is for."""
        return self._key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))

    def issue(
        self, user: str, signing: bytes, request: bytes, serial: bytes, not_before: int, not_after: int
    ) -> tuple[bytes, ...]:
        """Return the leaf for ``user``, whose Ed25519 key is ``signing``, and the intermediate, DER.

        Args:
            serial: 16 bytes, the first below 128, not all zero.

        Raises:
            BadSignature: the request is not in order.
            InvalidUser: no such name can be.
        """
        return self.certify(user, signing, check_request(request), serial, not_before, not_after)

    def certify(
        self,
        user: str,
        signing: bytes,
        key: ec.EllipticCurvePublicKey,
        serial: bytes,
        not_before: int,
        not_after: int,
    ) -> tuple[bytes, ...]:
        """Do what `issue` does for a key that is known to be the user's (an authority's own, for one)."""
        check_user(user)
        if len(signing) != HASH_SIZE:
            raise BadSignature(f"an Ed25519 key has {HASH_SIZE} bytes, this one {len(signing)}")
        issuer = _ca_name(self.realm, "authority")
        end = min(not_after, self.authority.not_after)
        builder = _builder(issuer, _common_name(user), key, self.key_id, serial, not_before, end)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(ca=False), critical=True)
        both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(both, critical=False)
        uri = x509.UniformResourceIdentifier(spiffe_id(self.realm, user))
        builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        builder = builder.add_extension(x509.UnrecognizedExtension(USER_KEY, OCTETS + signing), critical=False)
        return _signed(builder, self._key), self.authority.certificate


def _ca_name(realm: str, kind: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, realm), x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, kind)]
    )


def _common_name(user: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user[:64])])  # X.520's limit; the whole is in the URI


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,  # an authority signs heads too
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _ca(
    realm: str,
    issuer: x509.Name,
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_id: bytes,
    serial: bytes,
    not_before: int,
    not_after: int,
    *,
    path: int,
    signer: ec.EllipticCurvePrivateKey,
) -> bytes:
    builder = _builder(issuer, subject, key, issuer_id, serial, not_before, not_after)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path), critical=True)
    builder = builder.add_extension(_usage(ca=True), critical=True)
    uri = x509.UniformResourceIdentifier(REALM_URI + realm)
    return _signed(builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False), signer)


def _builder(
    issuer: x509.Name,
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_id: bytes,
    serial: bytes,
    not_before: int,
    not_after: int,
) -> x509.CertificateBuilder:
    assert len(serial) == SERIAL_SIZE, "serials have one size"
    builder = x509.CertificateBuilder().issuer_name(issuer).subject_name(subject).public_key(key)
    builder = builder.serial_number(int.from_bytes(serial, "big"))
    builder = builder.not_valid_before(datetime.fromtimestamp(not_before, UTC))
    builder = builder.not_valid_after(datetime.fromtimestamp(not_after, UTC))
    builder = builder.add_extension(x509.SubjectKeyIdentifier(key_id(key)), critical=False)
    return builder.add_extension(x509.AuthorityKeyIdentifier(issuer_id, None, None), critical=False)


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> bytes:
    signed = builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    return signed.public_bytes(serialization.Encoding.DER)
