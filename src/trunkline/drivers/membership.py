"""One user of one realm in this process: what secure meetings and secure servers ask about themselves and others.

Everything here can be called from any thread, and nothing but `ready`, `get` and `submit` waits for the network.
"""

import ssl
import threading
import time
from collections.abc import Callable
from typing import Final

from trunkline.authority.certificates import Identity
from trunkline.authority.messages import SignedHead
from trunkline.authority.trust import Trust
from trunkline.drivers.keys import UserKey
from trunkline.drivers.tls import (
    Credential,
    SessionCache,
    TlsPeer,
    client_context,
    peer_certificate,
    peer_chain,
    server_context,
)
from trunkline.errors import ClosedError, NotAllowed, NotThatUser, StaleHead, TrustError


class Membership:
    """One user of one realm.

    Args:
        trust: what is believed about the realm.
        user: who this process is; None if it only verifies others.
        key: the user's secret keys.
        credential: a certificate that is valid still, with its key.
        wall: the wall clock, in seconds since 1970.
    """

    def __init__(
        self,
        trust: Trust,
        user: str | None = None,
        key: UserKey | None = None,
        *,
        credential: Credential | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._trust = trust
        self.user: Final = user
        self._key = key
        self._wall = wall
        self._lock = threading.RLock()
        self._closed = False
        self._credential: Credential | None = None
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.sessions: Final = SessionCache()
        """TLS sessions for resumption."""
        if credential is not None:
            self._install(credential)

    @property
    def realm(self) -> str:
        """The realm's name."""
        return self._trust.realm

    @property
    def fingerprint(self) -> bytes:
        """The fingerprint of the realm's root."""
        return self._trust.fingerprint

    @property
    def key(self) -> UserKey:
        """The user's secret keys.

        Raises:
            NotAllowed: this process only verifies others.
        """
        if self._key is None:
            raise NotAllowed(f"no user of {self.realm!r} is configured here, and so there is no key")
        return self._key

    def __repr__(self) -> str:
        return f"Membership({self.realm!r}, {self.user!r})"

    # ---- readiness ---------------------------------------------------------------------------------------------

    def ready(self, timeout: float | None = None) -> None:
        """Wait until there is a valid certificate and a head that is fresh enough.

        Args:
            timeout: seconds.

        Raises:
            NotAllowed: the key is not approved.
            NoAuthority: none could be reached, and it can't go on without.
            TrustError: what the authority said does not hold; or the head is too old.
        """
        with self._lock:
            self._check_open()
            self._trust.check_fresh(self._wall())
            if self.user is not None and self._credential is None:
                raise TrustError(f"there is no certificate for {self.user!r}")

    async def ready_async(self) -> None:
        """Do what `ready` does without blocking the event loop; may be cancelled."""
        self.ready()

    def next_deadline(self) -> float | None:
        """Return when `tick` is due, by the drivers' clock (`trunkline.drivers.clock.now`); None: never."""
        return None

    def tick(self) -> None:
        """Start what is due (in a thread of its own) and return at once."""

    # ---- what is shown to peers --------------------------------------------------------------------------------

    def tls_client(self) -> ssl.SSLContext:
        """Return the context for the side that dials: the same one until the certificate is renewed."""
        return self._context("client")

    def tls_server(self, *, required: bool = True) -> ssl.SSLContext:
        """Return the context for the side that is dialled.

        Args:
            required: whether peers without a certificate are refused; if not, `identify` raises for them.

        Raises:
            TrustError: there is no certificate.
        """
        return self._context("server" if required else "optional")

    def head(self) -> SignedHead:
        """Return the newest head that was verified: what peers are shown.

        Raises:
            StaleHead: there is none.
        """
        with self._lock:
            signed = self._trust.signed_head
        if signed is None:
            raise StaleHead(f"no head of the realm {self.realm!r} was ever seen: an authority must be reached")
        return signed

    # ---- what peers show ---------------------------------------------------------------------------------------

    def identify(self, peer: TlsPeer) -> Identity:
        """Return who the other side of a TLS connection is, once the handshake is over.

        What depends on the time (dates, revocation, freshness) is checked at each call, on resumed connections too.

        Raises:
            TrustError: it has shown no certificate, or one that is not to be believed; with the step.
        """
        certificate = peer_certificate(peer)
        if certificate is None:
            raise NotThatUser("the other side has shown no certificate")
        with self._lock:
            return self._trust.check_leaf(certificate, self._wall(), peer_chain(peer))

    def expect(self, identity: Identity, user: str) -> None:
        """Check that the other side is ``user``.

        Raises:
            NotThatUser: it is somebody else.
        """
        if identity.user != user:
            raise NotThatUser(f"the other side proved to be {identity.user!r}, and {user!r} was asked for")

    def compare(self, head: SignedHead) -> None:
        """Compare the head that a peer has shown with ours.

        Raises:
            BadSignature: no authority of the realm signed it.
            ForkedHistory: it can't be true together with ours.
        """
        with self._lock:
            self._trust.compare(head, self._wall())

    def close(self) -> None:
        """End what runs in the background. Connections that are open stay so."""
        with self._lock:
            self._closed = True

    # ---- inside ------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"the membership of {self.realm!r} is closed")

    def _install(self, credential: Credential) -> None:
        with self._lock:
            self._credential = credential
            self._contexts = {}

    def _context(self, kind: str) -> ssl.SSLContext:
        with self._lock:
            self._check_open()
            known = self._contexts.get(kind)
            if known is not None:
                return known
            root, credential = self._trust.root.certificate, self._credential
            if kind == "client":
                made = client_context(root, credential)
            elif credential is None:
                raise TrustError(f"there is no certificate for {self.user!r} in {self.realm!r}, so nobody can dial it")
            else:
                made = server_context(root, credential, required=kind == "server")
            self._contexts[kind] = made
            return made
