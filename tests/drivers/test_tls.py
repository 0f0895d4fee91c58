"""TLS between members: 1.3 only, both sides of one root, resumed when they know each other."""

import contextlib
import socket
import ssl
import threading

import pytest

from tests.realmkit import Realm
from trunkline.drivers.keys import generate_p256
from trunkline.drivers.tls import (
    MAX_SESSIONS,
    Credential,
    SessionCache,
    client_context,
    load_credential,
    peer_certificate,
    peer_chain,
    server_context,
)
from trunkline.errors import ConfigError


@pytest.fixture(scope="module")
def realm():
    return Realm()


class Pair:
    """Two ends of one connection after their handshakes, or what went wrong with each."""

    def __init__(self, client, server, session=None):
        a, b = socket.socketpair()
        for sock in (a, b):
            sock.settimeout(10)
        self.failures = {}
        thread = threading.Thread(target=self._serve, args=(server, b))
        thread.start()
        try:
            self.client = client.wrap_socket(a, session=session)
            self.client.recv(1)  # a client learns at its first read whether it was refused
        except OSError as error:
            self.failures["client"] = error
            self.client.close() if hasattr(self, "client") else a.close()
        thread.join()

    def _serve(self, context, sock):
        try:
            self.server = context.wrap_socket(sock, server_side=True)
            self.server.sendall(b"x")
        except OSError as error:
            self.failures["server"] = error
            sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in ("client", "server"):
            if hasattr(self, name):
                getattr(self, name).close()


def test_both_sides_prove_themselves(realm):
    ann, ben = realm.credential("ann"), realm.credential("ben")
    with Pair(client_context(realm.root, ann), server_context(realm.root, ben)) as pair:
        assert not pair.failures
        assert pair.client.version() == "TLSv1.3"
        assert peer_certificate(pair.client) == ben.chain[0]
        assert peer_certificate(pair.server) == ann.chain[0]
        assert tuple(peer_chain(pair.client)) == ben.chain[1:]


def test_certificates_in_memory_buffers_too(realm):
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ann, ben = realm.credential("ann"), realm.credential("ben")
    client = client_context(realm.root, ann).wrap_bio(to_client, to_server)
    server = server_context(realm.root, ben).wrap_bio(to_server, to_client, server_side=True)
    for end in (client, server, client, server):
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    assert peer_certificate(client) == ben.chain[0]
    assert tuple(peer_chain(client)) == ben.chain[1:]
    assert tuple(peer_chain(server)) == ann.chain[1:]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2])
def test_nothing_older_is_spoken(realm, version):
    old = client_context(realm.root, realm.credential("ann"))
    old.minimum_version = old.maximum_version = version
    with Pair(old, server_context(realm.root, realm.credential("ben"))) as pair:
        assert "server" in pair.failures
        assert "unsupported protocol" in str(pair.failures["server"]).lower()
    old = server_context(realm.root, realm.credential("ben"))
    old.minimum_version = old.maximum_version = version
    with Pair(client_context(realm.root, realm.credential("ann")), old) as pair:
        assert "client" in pair.failures


@pytest.mark.parametrize(
    ("begin", "end", "text"),
    [(-7200, -3600, "certificate has expired"), (3600, 7200, "certificate is not yet valid")],
)
def test_dates_are_libssls_business_first(realm, begin, end, text):
    bad = realm.credential("ann", not_before=realm.wall + begin, not_after=realm.wall + end)
    with Pair(client_context(realm.root, realm.credential("ben")), server_context(realm.root, bad)) as pair:
        assert text in str(pair.failures["client"])
    with Pair(client_context(realm.root, bad), server_context(realm.root, realm.credential("ben"))) as pair:
        assert text in str(pair.failures["server"])


def test_another_realm_is_refused_by_both_sides(realm):
    other = Realm("other.example")
    foreign = other.credential("ann")
    with Pair(client_context(realm.root, realm.credential("ben")), server_context(other.root, foreign)) as pair:
        assert "unable to get local issuer" in str(pair.failures["client"])
    with Pair(client_context(other.root, foreign), server_context(realm.root, realm.credential("ben"))) as pair:
        assert pair.failures


def test_a_user_signs_nobody(realm):
    """A chain over a user's certificate: libssl sees that it is no authority's."""
    from tests.authority.test_trust import _as_authority
    from trunkline.authority.issuing import DAY, build_request

    eve = realm.credential("eve")
    rogue = _as_authority(eve.chain, eve.key)
    rogue.anchor, rogue.authority = (
        realm.issuer.anchor,
        type(realm.issuer.authority)(
            "lab.example",
            rogue.authority.key_id,
            eve.key.public_key(),
            realm.wall - 100,
            realm.wall + DAY,
            eve.chain[0],
        ),
    )
    key = generate_p256()
    forged = rogue.issue("ann", bytes(32), build_request(key, "ann"), bytes(15) + b"\1", realm.wall, realm.wall + DAY)
    bad = Credential((*forged, *eve.chain[1:]), key)
    with Pair(client_context(realm.root, realm.credential("ben")), server_context(realm.root, bad)) as pair:
        assert isinstance(pair.failures["client"], ssl.SSLCertVerificationError)


def test_a_client_without_a_certificate(realm):
    anonymous = client_context(realm.root, None)
    with Pair(anonymous, server_context(realm.root, realm.credential("ben"))) as pair:
        assert "peer did not return a certificate" in str(pair.failures["server"])
    with Pair(anonymous, server_context(realm.root, realm.credential("ben"), required=False)) as pair:
        assert not pair.failures
        assert peer_certificate(pair.server) is None
        assert tuple(peer_chain(pair.server)) == ()


def test_self_signed_is_refused_even_where_none_is_required(realm):
    other = Realm()
    server = server_context(realm.root, realm.credential("ben"), required=False)
    with Pair(client_context(realm.root, other.credential("ann")), server) as pair:
        assert "server" in pair.failures


class TestSessions:
    def test_are_resumed_with_the_same_context(self, realm):
        client = client_context(realm.root, realm.credential("ann"))
        server = server_context(realm.root, realm.credential("ben"))
        cache = SessionCache()
        assert cache.get(client, "ben", "vault") is None
        with Pair(client, server) as pair:
            assert not pair.client.session_reused
            cache.put(client, "ben", "vault", pair.client.session)
        with Pair(client, server, cache.get(client, "ben", "vault")) as pair:
            assert pair.client.session_reused
            assert pair.server.session_reused
            assert peer_certificate(pair.server) == client_leaf(pair)
            assert peer_certificate(pair.client) is not None
            session = pair.client.session
        cache.forget("ben", "vault")
        assert cache.get(client, "ben", "vault") is None
        cache.put(client, "ben", "vault", session)
        renewed = client_context(realm.root, realm.credential("ann"))
        assert cache.get(renewed, "ben", "vault") is None
        cache.put(renewed, "ben", "vault", None)
        for number in range(MAX_SESSIONS + 5):
            cache.put(renewed, "ben", str(number), session)
        assert cache.get(renewed, "ben", "4") is None
        assert cache.get(renewed, "ben", "5") is session
        assert cache.get(client, "ben", "vault") is None


def client_leaf(pair):
    return pair.server.getpeercert(binary_form=True)


class TestCredentials:
    def test_come_back(self, realm):
        credential = realm.credential("ann")
        again = load_credential(credential.pem())
        assert again.chain == credential.chain
        assert again.pem() == credential.pem()

    def test_hide_their_key(self, realm):
        assert repr(realm.credential("ann")) == "Credential(…)"

    @pytest.mark.parametrize("data", [b"", b"junk"])
    def test_junk(self, data):
        with pytest.raises(ConfigError, match="can't be read"):
            load_credential(data)

    def test_without_certificates_or_for_another_key(self, realm):
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        chain = realm.credential("ann").pem().partition(b"-----BEGIN CERT")
        key = ed25519.Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with pytest.raises(ConfigError, match="not for a P-256 key"):
            load_credential(pem + chain[1] + chain[2])
        assert ec  # of the library that has both
