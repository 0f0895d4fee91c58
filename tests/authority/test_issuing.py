"""Certificates as they are made; OpenSSL reads them too."""

import pickle
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tests.authority.kit import ADMIN, ISSUER, REALM, WALL, Administrator, Person, p256
from trunkline.authority.certificates import key_id, parse_leaf
from trunkline.authority.issuing import DAY, Issuer, build_intermediate, build_request, build_root, check_request
from trunkline.errors import BadSignature, InvalidRealm, InvalidUser, TrustError

ANN = Person("ops/ann")
SERIAL = bytes(15) + b"\7"


def issue(user="ops/ann", request=None, end=WALL + DAY, signing=ANN.signing):
    return ISSUER.issue(user, signing, request or build_request(p256(7), user), SERIAL, WALL - 300, end)


def pem(*certificates):
    load = x509.load_der_x509_certificate
    return b"".join(load(each).public_bytes(serialization.Encoding.PEM) for each in certificates)


class TestIssuer:
    def test_makes_the_same_of_the_same(self):
        assert issue() == issue()

    def test_says_what_it_is_and_hides_its_key(self):
        assert repr(ISSUER) == f"Issuer('lab.example', {ISSUER.key_id.hex()[:16]})"
        assert (ISSUER.realm, ISSUER.fingerprint) == (REALM, ADMIN.realm)
        with pytest.raises(TypeError, match="secret"):
            pickle.dumps(ISSUER)

    def test_has_the_key_of_its_certificate(self):
        with pytest.raises(TrustError, match="not the one that its certificate is for"):
            Issuer(ADMIN.root, ISSUER.authority.certificate, p256(3))
        with pytest.raises(BadSignature):
            Issuer(Administrator(1).root, ISSUER.authority.certificate, p256(1001))

    def test_signs_what_its_certificate_verifies(self):
        ISSUER.authority.check(b"context and data", ISSUER.sign(b"context and data"), "that")
        assert ISSUER.sign(b"x") == ISSUER.sign(b"x")
        with pytest.raises(BadSignature, match="that is not signed by"):
            ISSUER.authority.check(b"other data", ISSUER.sign(b"context and data"), "that")

    def test_outlives_no_intermediate(self):
        assert parse_leaf(issue(end=WALL + 999 * DAY)[0]).not_after == WALL + 365 * DAY

    def test_names_who_can_be_named(self):
        with pytest.raises(InvalidUser):
            issue("no such/../name", build_request(p256(7), "x"))
        with pytest.raises(BadSignature, match="32 bytes"):
            issue(signing=b"short")

    def test_a_long_name_is_whole_in_the_uri(self):
        user = "/".join(["x" * 31] * 7)
        assert parse_leaf(issue(user)[0]).user == user


class TestAuthorities:
    def test_are_certified_by_their_root_alone(self):
        with pytest.raises(TrustError, match="not the key of the root"):
            build_intermediate(ADMIN.root, p256(3), p256(4).public_key(), SERIAL, WALL, WALL + DAY)

    def test_roots_are_of_realms(self):
        with pytest.raises(InvalidRealm):
            build_root("Not A Realm", p256(3), SERIAL, WALL, WALL + DAY)


class TestRequests:
    def test_give_the_key_that_signed_them(self):
        assert key_id(check_request(build_request(p256(7), "ann"))) == key_id(p256(7).public_key())

    def test_for_another_kind_of_key(self):
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        for key, hash_ in (
            (ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()),
            (ed25519.Ed25519PrivateKey.generate(), None),
        ):
            made = builder.sign(key, hash_).public_bytes(serialization.Encoding.DER)
            with pytest.raises(BadSignature, match="not P-256"):
                check_request(made)

    def test_altered(self):
        request = bytearray(build_request(p256(7), "ann"))
        request[-1] ^= 1
        with pytest.raises(BadSignature, match="not signed by the key that it is for"):
            check_request(bytes(request))

    @pytest.mark.parametrize("data", [b"", b"junk"])
    def test_junk(self, data):
        with pytest.raises(BadSignature, match="can't be read"):
            check_request(data)


@pytest.mark.requires_program("openssl")
def test_openssl_finds_nothing_to_complain_about(tmp_path):
    """A chain of ours is one of X.509 by the book, for others who use it."""
    chain = issue()
    (tmp_path / "root.pem").write_bytes(pem(ADMIN.root))
    (tmp_path / "chain.pem").write_bytes(pem(*chain))
    for purpose in ("sslserver", "sslclient"):
        done = subprocess.run(
            ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-attime", str(WALL),
             "-CAfile", "root.pem", "-untrusted", "chain.pem", "chain.pem"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    shown = subprocess.run(
        ["openssl", "x509", "-in", "chain.pem", "-noout", "-ext", "subjectAltName"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "URI:spiffe://lab.example/user/ops/ann" in shown
