"""Users of a realm for tests of secure meetings: keys, certificates and contexts in memory, honest ones and others.

A `Lone` member needs no authority, no home and no disk. It checks what libssl checks, and whose certificate it is; what
a real membership checks beyond that is tested with `trunkline.drivers.membership`.
"""

import asyncio
import os
import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from trunkline.authority import issuing
from trunkline.authority.certificates import Identity, parse_leaf
from trunkline.authority.messages import Head, SignedHead
from trunkline.errors import ForkedHistory, TrustError

HEAD = b"trunkline head v1\0"


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def serial() -> bytes:
    return bytes([os.urandom(1)[0] & 0x7F | 1]) + os.urandom(15)


def pem(*certificates: bytes) -> str:
    return "".join(ssl.DER_cert_to_PEM_cert(each) for each in certificates)


class Lone:
    """A member of a realm who is sure of everything but who the peer is."""

    def __init__(
        self,
        realm: "TinyRealm",
        user: str,
        chain: tuple[bytes, ...],
        key: ec.EllipticCurvePrivateKey,
        head: SignedHead,
    ) -> None:
        self.realm = realm
        self.user = user
        self.sessions = Kept()
        self._head = head
        self.forked = False
        self.seen: list[SignedHead] = []
        self.judge: Callable[[Identity], None] = lambda identity: None
        self._server = self._context(ssl.PROTOCOL_TLS_SERVER, chain, key)
        self._client = self._context(ssl.PROTOCOL_TLS_CLIENT, chain, key)

    def _context(self, kind: int, chain: tuple[bytes, ...], key: ec.EllipticCurvePrivateKey) -> ssl.SSLContext:
        context = ssl.SSLContext(kind)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if kind == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 1
        context.load_verify_locations(cadata=pem(self.realm.root))
        if chain:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "all.pem")
                encoded = key.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
                path.write_text(encoded.decode() + pem(*chain))
                context.load_cert_chain(path)
        return context

    async def ready_async(self) -> None:
        await asyncio.sleep(0)

    def tls_client(self) -> ssl.SSLContext:
        return self._client

    def tls_server(self) -> ssl.SSLContext:
        return self._server

    def identify(self, tls: ssl.SSLSocket | ssl.SSLObject) -> Identity:
        identity = parse_leaf(tls.getpeercert(binary_form=True) or b"")
        if identity.realm != self.realm.name:
            raise TrustError(f"certificate: it is of the realm {identity.realm!r}")
        self.judge(identity)
        return identity

    def head(self) -> SignedHead:
        return self._head

    def compare(self, head: SignedHead) -> None:
        self.seen.append(head)
        if self.forked:
            raise ForkedHistory("heads: the two histories don't fit together")

    def next_deadline(self) -> None:
        return None

    def tick(self) -> None:
        raise AssertionError("nothing is ever due")


class Kept:
    """Sessions, for ever."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], tuple[ssl.SSLContext, ssl.SSLSession]] = {}

    def get(self, context: ssl.SSLContext, user: str, name: str) -> ssl.SSLSession | None:
        found = self.kept.get((user, name))
        return found[1] if found is not None and found[0] is context else None

    def put(self, context: ssl.SSLContext, user: str, name: str, session: ssl.SSLSession | None) -> None:
        if session is not None:
            self.kept[user, name] = context, session

    def forget(self, user: str, name: str) -> None:
        self.kept.pop((user, name), None)


class TinyRealm:
    """A root, an intermediate, and whatever certificates a test asks for."""

    def __init__(self, name: str = "lab.example") -> None:
        self.name = name
        self._identities: dict[str, bytes] = {}
        self.root_key = new_key()
        now = self.now = int(time.time())
        self.root = issuing.build_root(name, self.root_key, serial(), now - 1000, now + 10**8)
        authority = new_key()
        intermediate = issuing.build_intermediate(
            self.root, self.root_key, authority.public_key(), serial(), now - 1000, now + 10**7
        )
        self.issuer = issuing.Issuer(self.root, intermediate, authority)

    def head(self, size: int = 1) -> SignedHead:
        body = msgspec.msgpack.encode(
            Head(self.issuer.fingerprint, size, bytes(32), bytes(32), self.now, bytes(32), self.issuer.key_id)
        )
        return SignedHead(body, self.issuer.sign(HEAD + body))

    def identity_of(self, user: str) -> bytes:
        if user not in self._identities:
            self._identities[user] = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        return self._identities[user]

    def chain(
        self, user: str, key: ec.EllipticCurvePrivateKey, *, not_before: int = -300, not_after: int = 86400
    ) -> tuple[bytes, ...]:
        return self.issuer.certify(
            user, self.identity_of(user), key.public_key(), serial(), self.now + not_before, self.now + not_after
        )

    def signed_by(
        self, issuer: bytes, issuer_key: ec.EllipticCurvePrivateKey, user: str, key: ec.EllipticCurvePrivateKey
    ) -> bytes:
        """Return a certificate for ``user`` that the owner of another leaf has signed."""
        good = x509.load_der_x509_certificate(issuer)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user)]))
            .issuer_name(good.subject)
            .public_key(key.public_key())
            .serial_number(int.from_bytes(serial(), "big"))
            .not_valid_before(good.not_valid_before_utc)
            .not_valid_after(good.not_valid_after_utc)
        )
        own = parse_leaf(self.chain(user, key)[0]).certificate
        for extension in x509.load_der_x509_certificate(own).extensions:
            if not isinstance(extension.value, x509.AuthorityKeyIdentifier):
                builder = builder.add_extension(extension.value, extension.critical)
        known = good.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = builder.add_extension(x509.AuthorityKeyIdentifier(known.digest, None, None), critical=False)
        return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def member(self, user: str, *, not_before: int = -300, not_after: int = 86400) -> Lone:
        key = new_key()
        chain = self.chain(user, key, not_before=not_before, not_after=not_after)
        return Lone(self, user, chain, key, self.head())

    def impostor(self, user: str, chain: tuple[bytes, ...], key: ec.EllipticCurvePrivateKey) -> Lone:
        """Somebody who claims to be ``user`` and has this to show for it."""
        return Lone(self, user, chain, key, self.head())
