"""TLS contexts for a realm: 1.3 only, certificates of the realm's root only, the peer's always asked for.

libssl checks the chain and the dates; `trunkline.authority.trust` checks them again and everything else.
"""

import contextlib
import os
import ssl
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from trunkline.errors import ConfigError
from trunkline.names import Secret

MAX_SESSIONS: Final = 256
"""Most TLS sessions that a process keeps for resumption: one for each pair of peer user and peer name."""

TlsPeer = ssl.SSLSocket | ssl.SSLObject
Kind = Literal["client", "server", "optional"]


class Credential(msgspec.Struct, frozen=True):
    """A certificate with its secret key: what a process shows in TLS."""

    chain: tuple[bytes, ...]
    """Leaf and intermediate, DER."""
    key: ec.EllipticCurvePrivateKey

    def __repr__(self) -> str:
        return "Credential(…)"

    def pem(self) -> bytes:
        """Return key and certificates in the form that libssl loads."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key + "".join(ssl.DER_cert_to_PEM_cert(each) for each in self.chain).encode()


def client_context(root: bytes, credential: Credential | None) -> ssl.SSLContext:
    """Return a context for the side that dials; without a credential it only verifies.

    Args:
        root: the realm's root certificate, DER.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # certificates name users, not hosts; `identify` and `expect` check those
    return _prepare(context, root, credential)


def server_context(root: bytes, credential: Credential, *, required: bool = True) -> ssl.SSLContext:
    """Return a context for the side that is dialled.

    Args:
        required: whether a client without a certificate is refused; what it shows is verified in any case.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 1  # each client resumes from its newest one; a second would never be used
    _prepare(context, root, credential)
    if not required:
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


class Contexts:
    """The contexts of one credential, each made at its first use.

    Args:
        root: the realm's root certificate, DER.
        credential: None for who only verifies others, and is dialled by nobody.
    """

    def __init__(self, root: bytes, credential: Credential | None) -> None:
        self._root = root
        self._credential = credential
        self._made: dict[Kind, ssl.SSLContext] = {}

    def get(self, kind: Kind) -> ssl.SSLContext:
        """Return the context for the side that dials, or is dialled; ``optional``: clients may show no certificate."""
        found = self._made.get(kind)
        if found is None:
            if kind == "client":
                found = client_context(self._root, self._credential)
            else:
                assert self._credential is not None, "the caller has checked that"
                found = server_context(self._root, self._credential, required=kind == "server")
            self._made[kind] = found
        return found


def _prepare(context: ssl.SSLContext, root: bytes, credential: Credential | None) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=root)
    if credential is not None:
        # Nearly every peer's certificate is of the authority that issued ours, and who has ours has checked that the
        # root signed that one: libssl need not do it again in each handshake. Whether it was retired since, `identify`
        # looks up.
        context.load_verify_locations(cadata=b"".join(credential.chain[1:]))
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        with _as_file(Secret(credential.pem())) as path:
            context.load_cert_chain(path)
    return context


@contextlib.contextmanager
def _as_file(data: Secret) -> Iterator[str]:
    """Lend ``data`` as a file that nobody else can open: libssl takes a secret key from nowhere else."""
    memory = getattr(os, "memfd_create", None)
    if memory is None:  # pragma: no cover - not Linux
        with tempfile.NamedTemporaryFile() as file:  # 0600
            file.write(data.reveal())
            file.flush()
            yield file.name
        return
    opened = memory("trunkline", os.MFD_CLOEXEC)
    try:
        os.write(opened, data.reveal())
        yield f"/proc/self/fd/{opened}"
    finally:
        os.close(opened)


def peer_certificate(peer: TlsPeer) -> bytes | None:
    """Return the leaf that the peer has shown, DER; None if it showed none."""
    return peer.getpeercert(binary_form=True)


def peer_chain(peer: TlsPeer) -> Iterator[bytes]:
    """Yield the intermediates that the peer sent along, DER; a resumed connection has none.

    Public from Python 3.13 on; what the older ones have is the same function without a promise, so that it may be
    missing: then an authority's new certificate is known only after the next head.
    """
    if peer_certificate(peer) is None:
        return  # Python 3.13 stumbles over that
    inner: Any = peer if hasattr(peer, "get_unverified_chain") else getattr(peer, "_sslobj", None)
    read: Callable[[], list[Any] | None] = getattr(inner, "get_unverified_chain", lambda: None)
    for each in (read() or [])[1:4]:
        yield each if isinstance(each, bytes) else ssl.PEM_cert_to_DER_cert(each.public_bytes())


class SessionCache:
    """The last TLS session with each peer, for resumption by the client's side. Thread-safe.

    A session works with the context that it came from only, so a new context empties the cache.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._sessions: OrderedDict[tuple[str, str], ssl.SSLSession] = OrderedDict()

    def get(self, context: ssl.SSLContext, user: str, name: str) -> ssl.SSLSession | None:
        """Return the last session with ``user`` under the process name ``name``; None if there is none."""
        with self._lock:
            return self._sessions.get((user, name)) if context is self._context else None

    def put(self, context: ssl.SSLContext, user: str, name: str, session: ssl.SSLSession | None) -> None:
        """Keep ``session``, which came of a connection that was verified and confirmed."""
        if session is None or not session.has_ticket:
            return
        with self._lock:
            if context is not self._context:
                self._sessions.clear()
                self._context = context
            self._sessions[user, name] = session
            self._sessions.move_to_end((user, name))
            if len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)

    def forget(self, user: str, name: str) -> None:
        """Drop what is kept for a peer: it was refused."""
        with self._lock:
            self._sessions.pop((user, name), None)


def load_credential(data: bytes) -> Credential:
    """Return what `Credential.pem` returned.

    Raises:
        ConfigError: it is something else.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, None)
        chain = tuple(each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(data))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"the certificate that was kept can't be read: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not chain:
        raise ConfigError("the certificate that was kept is not for a P-256 key")
    return Credential(chain, key)
