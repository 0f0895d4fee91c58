"""One user of one realm in this process: what secure meetings and secure servers ask about themselves and others.

Everything here can be called from any thread. `ready`, `get`, `submit` and `directory` wait for the network; nothing
else does: what is due is asked for in a thread of its own (`trunkline.drivers.renewals`), which `tick` starts, and so
does any use. The drivers of meetings call `tick` at `next_deadline`, so that memberships stay fresh while callers wait
or compute.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Final

from trunkline.authority.certificates import Identity, key_id
from trunkline.authority.issuing import build_request
from trunkline.authority.keeper import RENEW_AT, CertificateCame, FetchHead, HeadCame, Keeper, Renew
from trunkline.authority.messages import SignedHead
from trunkline.authority.statements import Record, Signed
from trunkline.authority.trust import Trust
from trunkline.drivers.clock import now as clock
from trunkline.drivers.directory_client import DirectoryClient
from trunkline.drivers.keys import UserKey, generate_p256
from trunkline.drivers.realm_home import Kept, RealmHome
from trunkline.drivers.renewals import Renewals, Since
from trunkline.drivers.tls import Contexts, Credential, Kind, SessionCache, TlsPeer, peer_certificate, peer_chain
from trunkline.errors import (
    ClosedError,
    ForkedHistory,
    NoAuthority,
    NotAllowed,
    NotThatUser,
    Revoked,
    StaleHead,
    TrunklineError,
    TrustError,
)
from trunkline.names import Address, Secret

EXPIRING: Final = 30
"""Seconds before its end at which a certificate is not shown any more: a handshake takes a while."""

_NEVER: Final = float("inf")
_log: Final = logging.getLogger("trunkline")
_living: "weakref.WeakSet[Membership]" = weakref.WeakSet()


class Membership:
    """One user of one realm.

    Args:
        trust: what is believed about the realm.
        user: who this process is; None if it only verifies others.
        key: the user's secret keys.
        credential: a certificate with its key, perhaps from an earlier run; it is checked.
        addresses: where authorities and replicas are, the best first; none: nobody is asked anything.
        home: where heads and certificates are kept between runs; None: nowhere.
        wall: the wall clock, in seconds since 1970.
    """

    def __init__(
        self,
        trust: Trust,
        user: str | None = None,
        key: UserKey | None = None,
        *,
        credential: Credential | None = None,
        addresses: Sequence[Address] = (),
        home: RealmHome | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._trust = trust
        self.user: Final = user
        self._key = key
        self._addresses = tuple(addresses)
        self._home = home
        self._wall = wall
        self._warned_stale = False
        self._closed = False
        self._credential: Credential | None = None
        self._identity: Identity | None = None
        self._contexts = Contexts(trust.root.certificate, None)
        self.sessions = SessionCache()
        """TLS sessions for resumption."""
        self._begin()
        if credential is not None:
            self._install_old(credential)
        _living.add(self)

    @classmethod
    def open(
        cls,
        home: RealmHome | None = None,
        user: str | None = None,
        *,
        passphrase: Secret | None = None,
        wall: Callable[[], float] = time.time,
    ) -> "Membership":
        """Become a user of the realm of ``home``.

        Args:
            user: default: that of ``realm.toml``; if that has none either, this process only verifies others.

        Raises:
            ConfigError: a file is missing, can't be used, or is open to others.
            TrustError: what was kept does not hold.
        """
        home = home or RealmHome()
        settings = home.settings()
        who = user or settings.user or None
        trust = Trust(settings.realm, home.root(), settings.trust_settings(), home.load_state(), home.load_evidence())
        key = None if who is None else home.load_key(who, passphrase)
        credential = None if who is None else home.load_credential(who)
        return cls(trust, who, key, credential=credential, addresses=settings.addresses(), home=home, wall=wall)

    def __repr__(self) -> str:
        return f"Membership({self.realm!r}, {self.user!r})"

    def __enter__(self) -> "Membership":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def realm(self) -> str:
        """The realm's name."""
        return self._trust.realm

    @property
    def fingerprint(self) -> bytes:
        """The fingerprint of the realm's root."""
        return self._trust.fingerprint

    @property
    def expires(self) -> int | None:
        """When the certificate in use ends, in seconds since 1970; None if there is none."""
        with self._lock:
            return None if self._identity is None else self._identity.not_after

    @property
    def head_time(self) -> int | None:
        """When the newest head that is known was signed, in seconds since 1970; None if there is none."""
        with self._lock:
            return self._trust.refreshed or None

    @property
    def key(self) -> UserKey:
        """The user's secret keys.

        Raises:
            NotAllowed: this process only verifies others.
        """
        if self._key is None:
            raise NotAllowed(f"this process is no user of {self.realm!r}, and so has no key: name one with --user")
        return self._key

    # ---- readiness ---------------------------------------------------------------------------------------------

    def ready(self, timeout: float | None = None) -> None:
        """Wait until there is a valid certificate and a head that is fresh enough. At once, nearly always.

        Args:
            timeout: seconds; None: as long as one question to all authorities may take.

        Raises:
            NotAllowed: the key is not approved.
            NoAuthority: none could be reached, and it can't go on without.
            TrustError: what the authority said does not hold; or the head is too old.
        """
        deadline = _NEVER if timeout is None else clock() + timeout
        waiting = Since(self._renewals)
        with self._renewals.changed:
            while self._must_wait(waiting):
                now = clock()
                if now >= deadline:
                    raise NoAuthority([(str(each), f"no answer within {timeout:g} s") for each in self._addresses])
                due = min(deadline, self._renewals.due)
                self._renewals.changed.wait(None if due == _NEVER else max(0.0, due - now))

    async def ready_async(self) -> None:
        """Do what `ready` does without blocking the event loop. May be cancelled."""
        waiting = Since(self._renewals)
        if not self._must_wait(waiting):
            return
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(changed.set)

        self._renewals.listen(wake)
        try:
            while self._must_wait(waiting):
                due = self._renewals.due
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), None if due == _NEVER else max(0.0, due - clock()))
                changed.clear()
        finally:
            self._renewals.unlisten(wake)

    def next_deadline(self) -> float | None:
        """Return when `tick` is due, by the drivers' clock (`trunkline.drivers.clock.now`); None: never."""
        due = self._renewals.due
        return None if not self._addresses or due == _NEVER else due

    def tick(self) -> None:
        """Start what is due (in a thread of its own) and return at once."""
        if self._addresses:
            self._renewals.tick()

    # ---- what is shown to peers --------------------------------------------------------------------------------

    def tls_client(self) -> ssl.SSLContext:
        """Return the context for the side that dials: the same one until the certificate is renewed.

        Raises:
            TrustError: there is no certificate, or it has expired; see `ready`.
        """
        return self._context("client")

    def tls_server(self, *, required: bool = True) -> ssl.SSLContext:
        """Return the context for the side that is dialled.

        Args:
            required: whether peers without a certificate are refused; if not, `identify` raises for them.

        Raises:
            TrustError: there is no certificate, or it has expired; see `ready`.
        """
        return self._context("server" if required else "optional")

    def head(self) -> SignedHead:
        """Return the newest head that was verified: what peers are shown.

        Raises:
            StaleHead: there is none.
        """
        self.tick()
        with self._lock:
            signed = self._trust.signed_head
        if signed is None:
            raise StaleHead(f"no head of the realm {self.realm!r} was ever seen: an authority must be reached")
        return signed

    # ---- what peers show ---------------------------------------------------------------------------------------

    def identify(self, tls: TlsPeer) -> Identity:
        """Return who the other side of a TLS connection is, once the handshake is over.

        What depends on the time (dates, revocation, freshness) is checked at each call, on resumed connections too.

        Raises:
            TrustError: it has shown no certificate, or one that is not to be believed; with the step.
        """
        certificate = peer_certificate(tls)
        if certificate is None:
            raise NotThatUser("the other side has shown no certificate")
        self.tick()
        with self._lock:
            identity = self._trust.check_leaf(certificate, self._wall(), peer_chain(tls))
            self._warn_if_stale()
        return identity

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
        try:
            with self._lock:
                self._trust.compare(head, self._wall())
                puzzled = self._trust.puzzled
        except ForkedHistory:
            self._keep()
            raise
        if puzzled and self._addresses:
            self._renewals.hurry(head=True)

    # ---- the directory -----------------------------------------------------------------------------------------

    @property
    def directory(self) -> DirectoryClient:
        """The directory, to look up and to change; its calls wait for the network.

        Raises:
            NoAuthority: none is known.
        """
        self._check_open()
        if self._directory is None:
            raise NoAuthority([])
        return self._directory

    def get(self, user: str, requester: str = "", timeout: float | None = None) -> Record | None:
        """Return the directory's entry of ``user``, verified; None if it is proven that there is none."""
        return self.directory.get_key(user, requester, timeout)

    def submit(self, signed: Signed, timeout: float | None = None) -> int:
        """Have a statement appended to the log, and return its place there."""
        return self.directory.submit(signed, timeout)

    def close(self) -> None:
        """End what runs in the background. Connections that are open stay so."""
        with self._lock:
            self._closed = True
        if self._directory is not None:
            self._directory.close()
        self._renewals.close()
        _living.discard(self)

    # ---- readiness, inside -------------------------------------------------------------------------------------

    def _must_wait(self, waiting: Since) -> bool:
        """Say whether to wait for the renewals; raise if that would be in vain."""
        self._check_open()
        self.tick()
        head, certificate = self._lacks_head(), self._lacks_certificate()
        if isinstance(head, ForkedHistory):
            raise head
        for kind, lack in ((FetchHead, head), (Renew, certificate)):
            if lack is None:
                continue
            if not self._addresses:
                raise lack
            if waiting.over(kind):
                failure = self._renewals.failures[kind]
                if isinstance(lack, _Aging):
                    continue  # a newer one was asked for, and is not new enough; the policy lets us go on
                raise failure or lack
            self._renewals.hurry(head=kind is FetchHead, certificate=kind is Renew)
            return True
        return False

    def _lacks_head(self) -> TrunklineError | None:
        with self._lock:
            wall = self._wall()
            try:
                self._trust.check_fresh(wall)
            except TrustError as error:
                return error
            old = self._trust.overdue(wall)
            if not old:
                self._warned_stale = False
                return None
            # Whoever comes first tries to do better; while that fails, nobody else waits for it again.
            if self._addresses and self._renewals.failures[FetchHead] is None:
                return _Aging()
            self._warn_if_stale()
            return None

    def _lacks_certificate(self) -> TrunklineError | None:
        if self.user is None:
            return None
        with self._lock:
            identity = self._identity
            if identity is None:
                return TrustError(f"there is no certificate for {self.user!r} in {self.realm!r}")
            if self._wall() > identity.not_after - EXPIRING:
                return TrustError(f"the certificate of {self.user!r} has expired")
            try:
                self._trust.check_certificate(identity.certificate, self._wall())
            except Revoked as error:
                return error
            return None

    def _warn_if_stale(self) -> None:
        old = self._trust.overdue(self._wall())
        if not old:
            self._warned_stale = False
        elif not self._warned_stale:
            self._warned_stale = True
            _log.warning(
                "the newest head of %s is %d s older than max_staleness: going on without knowing what was revoked "
                "since, for %d s in all",
                self.realm,
                old,
                self._trust.settings.grace,
            )

    # ---- renewals, inside --------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Make what has locks and threads: at the start, and anew in the child of a fork."""
        self._lock = threading.RLock()
        self._kept = None if self._home is None else Kept(self._home, self._trust)
        self._directory = None
        if self._addresses:
            self._directory = DirectoryClient(
                self._trust, self._addresses, self._wall, learnt=self._keep, lock=self._lock
            )
        keeper = Keeper(
            self._trust.settings, certificate=self.user is not None, seed=secrets.token_bytes(16), now=clock()
        )
        self._renewals = Renewals(keeper, self._fetch_head, self._renew)
        if self._addresses and self._trust.refreshed:
            keeper.know_head(self._trust.refreshed, self._wall(), clock())

    def _fetch_head(self) -> HeadCame:
        return HeadCame(self.directory.refresh(), self._wall())

    def _renew(self) -> CertificateCame:
        assert self.user is not None
        kept = self._from_home()
        if kept is None:
            secret = generate_p256()
            request = build_request(secret, self.user)
            chain = self.directory.issue(self.user, self.key, request)
            kept = Credential(chain, secret)
            self._install(kept)
            if self._home is not None:
                self._home.keep_credential(self.user, kept)
        else:
            self._install(kept)
        identity = self._identity
        assert identity is not None
        return CertificateCame(identity.not_before, identity.not_after, self._wall())

    def _from_home(self) -> Credential | None:
        """Return a certificate that another process of this home has got meanwhile; None if there is no such."""
        if self._home is None or self.user is None:
            return None
        found = self._home.load_credential(self.user)
        if found is None or (self._credential is not None and found.chain == self._credential.chain):
            return None
        with contextlib.suppress(TrustError):
            identity = self._checked(found)
            if self._wall() < identity.not_before + (identity.not_after - identity.not_before) * RENEW_AT:
                return found
        return None

    def _install_old(self, credential: Credential) -> None:
        try:
            self._install(credential)
        except TrustError as error:
            _log.info("the certificate that was kept is not used: %s", error)
            return
        identity = self._identity
        if identity is not None and self._addresses:
            self._renewals.step(CertificateCame(identity.not_before, identity.not_after, self._wall()))

    def _install(self, credential: Credential) -> None:
        with self._lock:
            self._identity = self._checked(credential)
            self._credential = credential
            self._contexts = Contexts(self._trust.root.certificate, credential)

    def _checked(self, credential: Credential) -> Identity:
        assert self.user is not None
        with self._lock:
            return self._trust.check_own(
                credential.chain,
                self.user,
                self.key.public.signing,
                key_id(credential.key.public_key()),
                self._wall(),
            )

    def _keep(self) -> None:
        """Write down what was learnt, if it is more than before."""
        if self._kept is not None:
            self._kept.update(self._lock, self._trust)

    # ---- TLS, inside -------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"the membership of {self.realm!r} is closed")

    def _context(self, kind: Kind) -> ssl.SSLContext:
        self.tick()
        with self._lock:
            self._check_open()
            lack = self._lacks_certificate()
            if lack is not None:
                raise lack
            if kind != "client" and self._credential is None:
                raise NotAllowed(f"this process is no user of {self.realm!r}: nobody can dial it")
            return self._contexts.get(kind)

    def begin_anew(self) -> None:
        """In the child of a fork, make anew what threads of the parent may have held: they are not here."""
        self._begin()
        self.sessions = SessionCache()
        identity = self._identity
        if identity is not None and self._addresses:
            self._renewals.step(CertificateCame(identity.not_before, identity.not_after, self._wall()))


class _Aging(StaleHead):
    """The head is older than it should be, and may still be used."""


def _after_fork() -> None:
    for membership in tuple(_living):
        membership.begin_anew()


os.register_at_fork(after_in_child=_after_fork)
