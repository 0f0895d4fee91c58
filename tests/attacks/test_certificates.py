"""Certificates that are no good, shown to a real member in a secure meeting: refused, for a stated reason.

The attacker has whatever certificate a test gives, and its key. Libssl refuses what it can see in the handshake; what
only the realm's head tells, our own reading of the certificate does.
"""

import socket
from collections.abc import Callable, Iterator

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.attacks.test_secure_meetings import Side, fails, meeting, play
from tests.leaks import no_leaks
from tests.realmkit import Realm
from trunkline.authority.certificates import parse_leaf
from trunkline.drivers.keys import generate_p256
from trunkline.drivers.membership import Membership
from trunkline.drivers.tls import Credential, client_context, server_context
from trunkline.errors import Revoked, TrunklineError, TrustError
from trunkline.meeting.handshake import Role
from trunkline.names import Peer


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with no_leaks():
        yield


@pytest.fixture(scope="module")
def realm() -> Realm:
    return Realm()


class Forger(Membership):
    """Somebody who says to be ``ben``, has this to show for it, and believes everybody."""

    def __init__(self, realm: Realm, shown: Credential) -> None:
        super().__init__(realm.trust(), "ben", realm.key("ben"), credential=realm.credential("ben"))
        self._ours = {"client": client_context(realm.root, shown), "server": server_context(realm.root, shown)}

    def tls_client(self):  # type: ignore[no-untyped-def]
        return self._ours["client"]

    def tls_server(self, *, required: bool = True):  # type: ignore[no-untyped-def]
        return self._ours["server"]


def forged(like: bytes, issuer: x509.Name, by: ec.EllipticCurvePrivateKey, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a certificate that says what ``like`` does, for another key, signed by whoever."""
    good = x509.load_der_x509_certificate(like)
    builder = x509.CertificateBuilder(
        issuer, good.subject, key.public_key(), good.serial_number, good.not_valid_before_utc, good.not_valid_after_utc
    )
    for extension in good.extensions:
        value = extension.value
        if isinstance(value, x509.AuthorityKeyIdentifier):
            value = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key())
        elif isinstance(value, x509.SubjectKeyIdentifier):
            value = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(value, extension.critical)
    return builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def self_signed(realm: Realm) -> Credential:
    good, key = realm.credential("ben"), generate_p256()
    name = x509.load_der_x509_certificate(good.chain[0]).subject
    return Credential((forged(good.chain[0], name, key, key), *good.chain[1:]), key)


def signed_by_a_user(realm: Realm) -> Credential:
    eve, good, key = realm.credential("eve"), realm.credential("ben"), generate_p256()
    name = x509.load_der_x509_certificate(eve.chain[0]).subject
    return Credential((forged(good.chain[0], name, eve.key, key), *eve.chain), key)


BAD: dict[str, tuple[Callable[[Realm], Credential], str]] = {
    "expired": (
        lambda realm: realm.credential("ben", not_before=realm.wall - 900, not_after=realm.wall - 600),
        "certificate has expired",
    ),
    "not yet valid": (
        lambda realm: realm.credential("ben", not_before=realm.wall + 600, not_after=realm.wall + 900),
        "certificate is not yet valid",
    ),
    "another realm": (lambda _: Realm("other.example").credential("ben"), "unable to get local issuer"),
    "another root of that name": (lambda realm: Realm(realm.name).credential("ben"), "unable to get local issuer"),
    "self-signed": (self_signed, "self-signed certificate"),
    "signed by a user": (signed_by_a_user, "unable to get local issuer"),
}


@pytest.mark.parametrize("role", list(Role), ids=["ann is dialled", "ann dials"])
@pytest.mark.parametrize("bad", BAD)
def test_a_certificate_that_is_no_good_is_refused_for_a_stated_reason(realm: Realm, bad: str, role: Role) -> None:
    make, reason = BAD[bad]
    at_ann, at_ben = met(realm.membership("ann"), Forger(realm, make(realm)), role)
    fails(at_ann, TrustError, "certificate", reason)
    assert isinstance(at_ben, TrunklineError)


@pytest.mark.parametrize("role", list(Role), ids=["ann is dialled", "ann dials"])
def test_a_certificate_that_was_revoked(realm: Realm, role: Role) -> None:
    shown = realm.credential("ben")
    ann, forger = realm.membership("ann"), Forger(realm, shown)
    assert all(isinstance(each, Peer) for each in met(ann, forger, role)), "it is good so far"
    serial = parse_leaf(shown.chain[0]).serial
    told = realm.head_is(realm.signed_head(time=realm.wall + 1, revoked=[serial]))
    ann._trust.update_head(msgspec.structs.replace(told, revoked=(serial,)), realm.wall + 1)
    at_ann, at_ben = met(ann, forger, role)
    fails(at_ann, Revoked, "the certificate of 'ben' was revoked")
    assert isinstance(at_ben, TrunklineError)


def met(ann: Membership, other: Membership, role: Role) -> tuple[Peer | TrunklineError | None, ...]:
    near, far = socket.socketpair()
    theirs = Role.PASSIVE if role is Role.ACTIVE else Role.ACTIVE
    outcomes = play(
        Side(near, ann, meeting(role, "alice", "bob", "ann", "ben")),  # type: ignore[arg-type]
        Side(far, other, meeting(theirs, "bob", "alice", "ben", "ann")),  # type: ignore[arg-type]
    )
    return tuple(outcomes)
