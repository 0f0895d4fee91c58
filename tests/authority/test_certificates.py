"""Certificates as they are read; the vectors of `test_issuing` show that other software reads them too."""

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tests.authority.kit import ADMIN, ISSUER, WALL, Administrator, Person, p256
from trunkline.authority import certificates
from trunkline.authority.certificates import (
    fingerprint_text,
    issue_bytes,
    key_id,
    key_text,
    parse_fingerprint,
    parse_intermediate,
    parse_leaf,
    parse_root,
)
from trunkline.authority.issuing import DAY
from trunkline.errors import BadSignature, InvalidRealm, TrustError

ANN = Person("ann")
KEY = p256(7)


def leaf(user="ann"):
    return ISSUER.certify(user, ANN.signing, KEY.public_key(), bytes(15) + b"\7", WALL - 300, WALL + DAY)


def altered(certificate, *, key=None, drop=(), add=(), serial=None, hash_=None, signer=None, subject_key=None):
    """Return the certificate with some extensions gone and others in their place, signed by ISSUER's key."""
    old = x509.load_der_x509_certificate(certificate)
    builder = (
        x509.CertificateBuilder()
        .issuer_name(old.issuer)
        .subject_name(old.subject)
        .public_key(subject_key or old.public_key())
        .serial_number(serial or old.serial_number)
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(old.not_valid_after_utc)
    )
    for extension in old.extensions:
        if extension.oid not in [each.oid for each in (*drop, *add)]:
            builder = builder.add_extension(extension.value, extension.critical)
    for extension in add:
        builder = builder.add_extension(extension, critical=False)
    made = builder.sign(signer or p256(1001), hash_ or hashes.SHA256())
    return made.public_bytes(serialization.Encoding.DER)


USAGE = dict.fromkeys(
    [
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    ],
    False,
)  # fmt: skip


class TestFingerprints:
    def test_there_and_back(self):
        text = fingerprint_text(ADMIN.realm)
        assert len(text) == 52
        assert text == text.lower()
        assert parse_fingerprint(text) == ADMIN.realm
        assert parse_fingerprint(f" {text[:26].upper()} {text[26:]}\n") == ADMIN.realm

    @pytest.mark.parametrize("text", ["", "abc", "1" * 52, "a" * 51, "a" * 53, "a" * 51 + "b", "ä" * 52])
    def test_of_something_else(self, text):
        with pytest.raises(InvalidRealm, match="a realm's fingerprint has 52"):
            parse_fingerprint(text)

    def test_are_of_the_public_key(self):
        assert key_id(ADMIN.key.public_key()) == ADMIN.realm
        assert parse_root(Administrator(1).root).key_id != ADMIN.realm

    def test_of_users_keys_are_short(self):
        assert key_text(ANN.signing).startswith("ed25519:")
        assert len(key_text(ANN.signing)) == 8 + 26
        assert key_text(ANN.signing) != key_text(Person("ben").signing)


def test_wishes_have_a_context_of_their_own():
    assert issue_bytes(ADMIN.realm, "ann", WALL, b"x").startswith(b"trunkline issue v1\0")


class TestRoots:
    def test_say_who_they_are(self):
        anchor = parse_root(ADMIN.root)
        assert anchor.realm == "lab.example"
        assert anchor.certificate == ADMIN.root
        assert (anchor.not_before, anchor.not_after) == (WALL - DAY, WALL + 3650 * DAY)

    def test_only_what_may_sign_authorities(self):
        for certificate in (leaf()[0], ISSUER.authority.certificate):
            with pytest.raises(TrustError, match="may not sign certificates at that place"):
                parse_root(certificate)

    def test_signed_by_themselves(self):
        with pytest.raises(BadSignature, match="the realm's root certificate is not signed by the key"):
            parse_root(altered(ADMIN.root, signer=p256(3)))

    @pytest.mark.parametrize("data", [b"", b"junk", ADMIN.root[:-1], ADMIN.root + b"x"])
    def test_junk(self, data):
        with pytest.raises(TrustError, match="can't be read"):
            parse_root(data)

    def test_without_a_realm(self):
        name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://Not A Realm")])
        with pytest.raises(TrustError, match="names no realm"):
            parse_root(altered(ADMIN.root, add=[name], signer=ADMIN.key))


class TestIntermediates:
    def test_are_signed_by_their_root(self):
        assert parse_intermediate(ISSUER.authority.certificate, ADMIN.anchor).key_id == ISSUER.key_id

    def test_of_another_root(self):
        with pytest.raises(BadSignature, match="says that another key signed it"):
            parse_intermediate(ISSUER.authority.certificate, Administrator(1).anchor)

    def test_that_say_the_root_signed_them(self):
        with pytest.raises(BadSignature, match="is not signed by the key"):
            parse_intermediate(altered(ISSUER.authority.certificate, signer=p256(3)), ADMIN.anchor)

    def test_of_another_realm(self):
        name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://other")])
        with pytest.raises(TrustError, match="of the realm 'other', not of 'lab.example'"):
            parse_intermediate(altered(ISSUER.authority.certificate, add=[name], signer=ADMIN.key), ADMIN.anchor)


class TestLeaves:
    def test_say_whose_they_are(self):
        identity = parse_leaf(leaf("ops/ann")[0])
        assert (identity.realm, identity.user, identity.public_key) == ("lab.example", "ops/ann", ANN.signing)
        assert identity.serial == bytes(15) + b"\7"
        assert identity.authority == ISSUER.key_id
        assert identity.key_id == key_id(KEY.public_key())
        assert (identity.not_before, identity.not_after) == (WALL - 300, WALL + DAY)
        certificates.check_issued(identity, ISSUER.authority)

    def test_of_services(self):
        assert parse_leaf(leaf("switchboard/a1")[0]).user == "switchboard/a1"

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"add": [x509.BasicConstraints(ca=True, path_length=None)]}, "may sign other certificates"),
            ({"add": [x509.KeyUsage(**{**USAGE, "digital_signature": True, "key_cert_sign": True})]}, "may sign"),
            ({"add": [x509.KeyUsage(**{**USAGE, "key_agreement": True})]}, "may not sign at all"),
            ({"drop": [x509.BasicConstraints]}, "lacks the extension 2.5.29.19"),
            ({"drop": [x509.AuthorityKeyIdentifier]}, "lacks the extension 2.5.29.35"),
            ({"drop": [x509.SubjectAlternativeName]}, "lacks the extension 2.5.29.17"),
            ({"add": [x509.AuthorityKeyIdentifier(b"short", None, None)]}, "does not say which key signed it"),
            ({"add": [x509.SubjectAlternativeName([x509.DNSName("ann")])]}, "has 1 names; a realm's have one"),
            ({"add": [x509.SubjectAlternativeName([x509.DNSName("a"), x509.DNSName("b")])]}, "has 2 names"),
            ({"add": [x509.UnrecognizedExtension(certificates.USER_KEY, bytes(34))]}, "holds no Ed25519 key"),
            ({"add": [x509.UnrecognizedExtension(certificates.USER_KEY, b"\4\x20")]}, "holds no Ed25519 key"),
            ({"serial": 1 << 130}, "longer than 16 bytes"),
            ({"hash_": hashes.SHA512()}, "not signed with SHA-256"),
            ({"subject_key": ed25519.Ed25519PrivateKey.generate().public_key()}, "a key that is not P-256"),
            ({"subject_key": ec.generate_private_key(ec.SECP384R1()).public_key()}, "a key that is not P-256"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_that_are_not(self, change, text):
        with pytest.raises(TrustError, match=text):
            parse_leaf(altered(leaf()[0], **change))

    @pytest.mark.parametrize(
        "uri", ["https://lab.example/user/ann", "spiffe://lab.example/user/", "spiffe://lab.example"]
    )
    def test_that_name_nobody(self, uri):
        name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        with pytest.raises(TrustError, match="which is no user of any realm"):
            parse_leaf(altered(leaf()[0], add=[name]))

    def test_without_a_users_key(self):
        class Gone:
            oid = certificates.USER_KEY

        with pytest.raises(TrustError, match="lacks the extension 2.25"):
            parse_leaf(altered(leaf()[0], drop=[Gone]))

    def test_every_cut_and_flip_is_refused_or_says_so(self):
        good, certificate = parse_leaf(leaf()[0]), leaf()[0]
        for place in range(len(certificate)):
            with pytest.raises(TrustError):
                parse_leaf(certificate[:place])
            damaged = bytearray(certificate)
            damaged[place] ^= 0x55
            with pytest.raises(TrustError):  # what still parses is not what was signed
                certificates.check_issued(parse_leaf(bytes(damaged)), ISSUER.authority)
        certificates.check_issued(good, ISSUER.authority)


def test_dates_are_whole_seconds_of_utc():
    assert parse_root(ADMIN.root).not_before == int(datetime(2027, 1, 14, 8, tzinfo=UTC).timestamp())
