"""X.509 for realms: what the certificates hold, and how they are read (docs/spec/authority.md section 7).

    root (the administrator's)  ->  intermediate (an authority's)  ->  leaf (one user, one day)

All keys in certificates are P-256 and all signatures ECDSA with SHA-256. Key identifiers are the whole SHA-256 of the
SubjectPublicKeyInfo (RFC 7093 section 2, method 4), so that a leaf says which key signed it. Leaves are SPIFFE
X.509-SVIDs. Times are seconds since 1970. `trunkline.authority.issuing` makes what is read here.
"""

import base64
import hashlib
import re
from typing import Final, TypeVar

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from trunkline.authority.messages import SERIAL_SIZE
from trunkline.authority.statements import HASH_SIZE
from trunkline.errors import BadSignature, InvalidRealm, TrustError
from trunkline.users import check_realm, parse_spiffe_id

USER_KEY: Final = x509.ObjectIdentifier("2.25.134635260539879807440702233637357812438")
"""The extension that holds the user's Ed25519 key as an OCTET STRING: the directory's identity of the leaf's owner."""

OCTETS: Final = bytes((4, HASH_SIZE))
"""How DER begins an OCTET STRING of 32 bytes."""

REALM_URI: Final = "spiffe://"
"""Goes before the realm's name in the certificates of roots and intermediates."""

UNREADABLE: Final = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for DER that is none, or none of ours."""

_SPKI: Final = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
_FINGERPRINT: Final = re.compile(r"[a-z2-7]{52}")
_E = TypeVar("_E", bound=x509.ExtensionType)


# ---- fingerprints ----------------------------------------------------------------------------------------------


def key_id(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the SHA-256 of the key's SubjectPublicKeyInfo: a root's is its realm's fingerprint."""
    return hashlib.sha256(key.public_bytes(*_SPKI)).digest()


def fingerprint_text(fingerprint: bytes) -> str:
    """Return a fingerprint as people pass it on: 52 characters of base32 (RFC 4648), lower case, no padding."""
    return base64.b32encode(fingerprint).decode().rstrip("=").lower()


def parse_fingerprint(text: str) -> bytes:
    """Return the 32 bytes of what `fingerprint_text` returned; blanks and capitals are forgiven.

    Raises:
        InvalidRealm: it is something else.
    """
    plain = "".join(text.split()).lower()
    if _FINGERPRINT.fullmatch(plain):
        found = base64.b32decode(plain.upper() + "====")
        if fingerprint_text(found) == plain:  # the last character has bits to spare
            return found
    raise InvalidRealm(text, "a realm's fingerprint has 52 of the characters a-z and 2-7")


def key_text(signing: bytes) -> str:
    """Return how people compare a user's Ed25519 key: half of its SHA-256 in base32, after what it is."""
    half = hashlib.sha256(signing).digest()[:16]
    return "ed25519:" + base64.b32encode(half).decode().rstrip("=").lower()


def issue_bytes(realm: bytes, user: str, time: int, request: bytes) -> bytes:
    """Return what a user's key signs in an Issue message.

    Args:
        realm: the root's fingerprint.
        time: seconds since 1970.
        request: PKCS#10, DER.
    """
    return b"trunkline issue v1\0" + msgspec.msgpack.encode([realm, user, time, request])


# ---- read ------------------------------------------------------------------------------------------------------


class Anchor(msgspec.Struct, frozen=True):
    """A certificate authority: a realm's root, or one of its intermediates."""

    realm: str
    key_id: bytes
    """The SHA-256 of its SubjectPublicKeyInfo."""
    key: ec.EllipticCurvePublicKey
    not_before: int
    not_after: int
    certificate: bytes
    """DER."""

    def check(self, data: bytes, signature: bytes, what: str) -> None:
        """Check that this key signed ``data``.

        Raises:
            BadSignature: it did not; the text begins with ``what``.
        """
        try:
            self.key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise BadSignature(f"{what} is not signed by the key {self.key_id.hex()[:16]}") from None


class Identity(msgspec.Struct, frozen=True):
    """What a leaf says about its owner. Only `trunkline.authority.trust.Trust.check_leaf` makes it worth believing."""

    realm: str
    user: str
    public_key: bytes
    """The user's Ed25519 key, 32 bytes."""
    serial: bytes
    not_before: int
    not_after: int
    authority: bytes
    """The key id of the intermediate that is said to have signed it."""
    key_id: bytes
    """That of the TLS key which the leaf is for."""
    certificate: bytes
    """The leaf, DER."""


def parse_root(certificate: bytes) -> Anchor:
    """Return what a realm's root says.

    Raises:
        TrustError: it is no realm's root certificate, or not signed by itself.
    """
    parsed, anchor = _parse_ca(certificate, "the realm's root certificate", path=1)
    _check_issued(parsed, anchor, anchor, "the realm's root certificate")
    return anchor


def parse_intermediate(certificate: bytes, root: Anchor) -> Anchor:
    """Return what an authority's certificate says, once it is certain that ``root`` signed it.

    Raises:
        TrustError: it is no authority's, or of another realm.
        BadSignature: the root did not sign it.
    """
    what = "the authority's certificate"
    parsed, anchor = _parse_ca(certificate, what, path=0)
    if anchor.realm != root.realm:
        raise TrustError(f"{what} is of the realm {anchor.realm!r}, not of {root.realm!r}")
    _check_issued(parsed, anchor, root, what)
    return anchor


def parse_leaf(certificate: bytes) -> Identity:
    """Return what a leaf says about its owner, in no way believed yet.

    Raises:
        TrustError: it is not the certificate of a realm's user.
    """
    what = "the peer's certificate"
    parsed = _load(certificate, what)
    key = _p256(parsed, what)
    constraints, usage = _extension(parsed, x509.BasicConstraints, what), _extension(parsed, x509.KeyUsage, what)
    if constraints.ca or usage.key_cert_sign or not usage.digital_signature:
        raise TrustError(f"{what} is not a user's: it may sign other certificates, or may not sign at all")
    realm, user = parse_spiffe_id(_uri(parsed, what))
    held = _extension(parsed, x509.UnrecognizedExtension, what, USER_KEY).value
    if len(held) != len(OCTETS) + HASH_SIZE or not held.startswith(OCTETS):
        raise TrustError(f"{what} holds no Ed25519 key of its user")
    return Identity(
        realm,
        user,
        held[len(OCTETS) :],
        _serial(parsed, what),
        *_dates(parsed),
        authority=_issuer_id(parsed, what),
        key_id=key_id(key),
        certificate=certificate,
    )


def check_issued(leaf: Identity, authority: Anchor) -> None:
    """Check that ``authority`` signed ``leaf``.

    Raises:
        BadSignature: it did not.
    """
    parsed = _load(leaf.certificate, "the peer's certificate")
    authority.check(parsed.tbs_certificate_bytes, parsed.signature, "the peer's certificate")


# ---- the parts --------------------------------------------------------------------------------------------------


def _parse_ca(certificate: bytes, what: str, *, path: int) -> tuple[x509.Certificate, Anchor]:
    parsed = _load(certificate, what)
    key = _p256(parsed, what)
    constraints, usage = _extension(parsed, x509.BasicConstraints, what), _extension(parsed, x509.KeyUsage, what)
    if not constraints.ca or constraints.path_length != path or not usage.key_cert_sign:
        raise TrustError(f"{what} may not sign certificates at that place in the chain")
    realm = _uri(parsed, what).removeprefix(REALM_URI)
    try:
        check_realm(realm)
    except InvalidRealm as error:
        raise TrustError(f"{what} names no realm: {error}") from error
    not_before, not_after = _dates(parsed)
    return parsed, Anchor(realm, key_id(key), key, not_before, not_after, certificate)


def _check_issued(parsed: x509.Certificate, anchor: Anchor, issuer: Anchor, what: str) -> None:
    if _issuer_id(parsed, what) != issuer.key_id:
        raise BadSignature(f"{what} of {anchor.realm!r} says that another key signed it")
    issuer.check(parsed.tbs_certificate_bytes, parsed.signature, what)


def _load(certificate: bytes, what: str) -> x509.Certificate:
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        # Reading all that can be malformed now, lest it raises something else later.
        _ = (parsed.version, parsed.extensions, parsed.serial_number, parsed.signature_hash_algorithm)
        _ = (parsed.not_valid_before_utc, parsed.not_valid_after_utc)
    except UNREADABLE as error:
        raise TrustError(f"{what} can't be read: {error}") from None
    if not isinstance(parsed.signature_hash_algorithm, hashes.SHA256):
        raise TrustError(f"{what} is not signed with SHA-256")
    return parsed


def _p256(parsed: x509.Certificate, what: str) -> ec.EllipticCurvePublicKey:
    try:
        key = parsed.public_key()
    except UNREADABLE as error:
        raise TrustError(f"{what} holds a key that can't be read: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TrustError(f"{what} is for a key that is not P-256")
    return key


def _extension(parsed: x509.Certificate, kind: type[_E], what: str, oid: x509.ObjectIdentifier | None = None) -> _E:
    try:
        value = parsed.extensions.get_extension_for_oid(oid or kind.oid).value
    except x509.ExtensionNotFound:
        raise TrustError(f"{what} lacks the extension {(oid or kind.oid).dotted_string}") from None
    assert isinstance(value, kind), "the library has a class for each that is asked for"
    return value


def _uri(parsed: x509.Certificate, what: str) -> str:
    names = list(_extension(parsed, x509.SubjectAlternativeName, what))
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise TrustError(f"{what} has {len(names)} names; a realm's have one, a spiffe:// URI")
    return names[0].value


def _issuer_id(parsed: x509.Certificate, what: str) -> bytes:
    found = _extension(parsed, x509.AuthorityKeyIdentifier, what).key_identifier
    if found is None or len(found) != HASH_SIZE:
        raise TrustError(f"{what} does not say which key signed it")
    return found


def _serial(parsed: x509.Certificate, what: str) -> bytes:
    try:
        return parsed.serial_number.to_bytes(SERIAL_SIZE, "big")
    except OverflowError:
        raise TrustError(f"{what} has a serial number that is negative or longer than {SERIAL_SIZE} bytes") from None


def _dates(parsed: x509.Certificate) -> tuple[int, int]:
    return int(parsed.not_valid_before_utc.timestamp()), int(parsed.not_valid_after_utc.timestamp())
