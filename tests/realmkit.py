"""A realm built in memory, for tests: root, authority, users, certificates, signed heads; and homes on disk.

    realm = Realm("lab.example")
    ann, ben = realm.membership("ann"), realm.membership("ben")

No server is needed. Dates are about the present (`Realm.wall`), since libssl reads the system's clock.
"""

import itertools
import time
from collections.abc import Iterable

from trunkline.authority.freshness import TrustSettings
from trunkline.authority.heads import revoked_digest, sign_head
from trunkline.authority.issuing import DAY, LEAF_LIFETIME, Issuer, build_intermediate, build_request, build_root
from trunkline.authority.messages import Head, HeadIs, SignedHead
from trunkline.authority.trust import Trust
from trunkline.drivers.keys import UserKey, generate_p256
from trunkline.drivers.membership import Membership
from trunkline.drivers.tls import Credential

_numbers = itertools.count(1)


def new_serial() -> bytes:
    """Return a serial that no other certificate of this run has."""
    return next(_numbers).to_bytes(16, "big")


class Realm:
    """One realm. Whatever its authority could sign, this signs, true or not."""

    def __init__(self, name: str = "lab.example") -> None:
        self.name = name
        self.root_key = generate_p256()
        self.wall = int(time.time())
        self.root = build_root(name, self.root_key, new_serial(), self.wall - DAY, self.wall + 365 * DAY)
        self.issuer = self.new_issuer()
        self.keys: dict[str, UserKey] = {}
        self.revoked: list[bytes] = []

    def new_issuer(self, not_before: int | None = None, not_after: int | None = None) -> Issuer:
        """Certify one more key of the authority."""
        key = generate_p256()
        begin = self.wall - DAY if not_before is None else not_before
        end = self.wall + 30 * DAY if not_after is None else not_after
        certificate = build_intermediate(self.root, self.root_key, key.public_key(), new_serial(), begin, end)
        return Issuer(self.root, certificate, key)

    def key(self, user: str) -> UserKey:
        """Return the user's key, made at first use."""
        if user not in self.keys:
            self.keys[user] = UserKey.generate()
        return self.keys[user]

    def credential(
        self,
        user: str,
        *,
        not_before: int | None = None,
        not_after: int | None = None,
        issuer: Issuer | None = None,
        serial: bytes | None = None,
    ) -> Credential:
        """Issue a certificate for ``user``, approved or not."""
        secret = generate_p256()
        chain = (issuer or self.issuer).issue(
            user,
            self.key(user).public.signing,
            build_request(secret, user),
            serial or new_serial(),
            self.wall - 300 if not_before is None else not_before,
            self.wall + LEAF_LIFETIME if not_after is None else not_after,
        )
        return Credential(chain, secret)

    def signed_head(
        self,
        *,
        size: int = 0,
        log: bytes | None = None,
        map_root: bytes = bytes(32),
        time: int | None = None,
        revoked: Iterable[bytes] | None = None,
        issuer: Issuer | None = None,
    ) -> SignedHead:
        """Sign a head; what it says need not be so."""
        by = issuer or self.issuer
        head = Head(
            by.fingerprint,
            size,
            bytes(32) if log is None else log,
            map_root,
            self.wall if time is None else time,
            revoked_digest(self.revoked if revoked is None else revoked),
            by.key_id,
        )
        return sign_head(head, by)

    def head_is(self, head: SignedHead | None = None, consistency: tuple[bytes, ...] = ()) -> HeadIs:
        """Return the authority's answer about a head."""
        return HeadIs(
            1,
            head or self.signed_head(),
            consistency,
            tuple(sorted(self.revoked)),
            (self.issuer.authority.certificate,),
        )

    def trust(self, settings: TrustSettings | None = None, *, head: SignedHead | None = None) -> Trust:
        """Return what a client believes that has just asked for the head."""
        trust = Trust(self.name, self.root, settings)
        trust.update_head(self.head_is(head), self.wall)
        return trust

    def membership(
        self, user: str | None, *, settings: TrustSettings | None = None, credential: Credential | None = None
    ) -> Membership:
        """Return a membership that has its certificate and its head, and asks nobody."""
        if user is None:
            return Membership(self.trust(settings))
        return Membership(self.trust(settings), user, self.key(user), credential=credential or self.credential(user))
