"""What a client of a realm believes (docs/spec/authority.md section 8, whose steps are cited as 8.1 to 8.9).

One object holds all that was verified: the root, the authority's certificates, the newest head, what is revoked. It has
a method for each thing that can be learnt, each checks in the order of the spec and raises on the first step that
fails. What the root has signed is taken in all the same; beyond that nothing has changed then. The form is that of
python-tuf's trusted_metadata_set, but for the clock: ``wall``, the seconds since 1970, is passed in.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from trunkline.authority.certificates import (
    Anchor,
    Identity,
    check_issued,
    parse_intermediate,
    parse_leaf,
    parse_root,
)
from trunkline.authority.freshness import TrustSettings, check_age, check_dates
from trunkline.authority.heads import check_head, read_head, revoked_digest
from trunkline.authority.merkle import verify_consistency
from trunkline.authority.messages import Found, Head, HeadIs, RootIs, SignedHead
from trunkline.authority.proofs import check_record, check_retired
from trunkline.authority.statements import Record, Signed
from trunkline.authority.truststate import MAX_AUTHORITIES, TrustState, decode_state, encode_state
from trunkline.authority.verified import Verified
from trunkline.errors import BadProof, BadSignature, ForkedHistory, NotThatUser, Revoked, StaleHead, TrustError

MAX_PENDING: Final = 8
"""Most heads of peers that wait until a proof connects them with ours; each costs one question."""

MAX_KNOWN: Final = 64
"""Most heads of the past that are remembered, to compare with those of peers who are behind."""

MAX_LEAVES: Final = 256
"""Most certificates whose parse and signature are remembered; what depends on the time is checked each time."""

MAX_HEADS: Final = 256
"""Most heads whose signature is remembered to be good: peers show the same one until the authority signs the next."""

_NO_HEAD: Final = "no head of the realm was ever seen, so nobody knows what was revoked: an authority must be reached"


class _Seen(msgspec.Struct, frozen=True):
    """A head that was verified."""

    signed: SignedHead
    head: Head


class Trust:
    """All that is verified about one realm.

    Args:
        root: the realm's root certificate, DER: whoever makes this has compared its fingerprint.
        state: what `state` returned, perhaps in another run.
        evidence: what `evidence` was in another run: then nothing is believed in this one either.

    Raises:
        TrustError: the root is none of this realm, or the state does not fit it.
    """

    def __init__(
        self,
        realm: str,
        root: bytes,
        settings: TrustSettings | None = None,
        state: bytes | None = None,
        evidence: Sequence[SignedHead] = (),
    ) -> None:
        self.settings: Final = settings or TrustSettings()
        self.root: Final = parse_root(root)
        if self.root.realm != realm:
            raise TrustError(f"the root certificate is of the realm {self.root.realm!r}, not of {realm!r}")
        self._authorities: dict[bytes, Anchor] = {}
        self._retired: dict[bytes, Signed] = {}
        self._revoked: frozenset[bytes] = frozenset()
        self._newest: _Seen | None = None
        self._listed: _Seen | None = None
        """The newest one that came with its revoked serials."""
        self._known: OrderedDict[int, _Seen] = OrderedDict()
        self._pending: OrderedDict[bytes, _Seen] = OrderedDict()
        self._strange: OrderedDict[bytes, SignedHead] = OrderedDict()
        """Heads of peers, signed by keys that may be those of authorities which are newer than our head."""
        self._evidence = tuple(evidence)
        self._leaves: OrderedDict[bytes, Identity] = OrderedDict()
        self.verified: Final = Verified()
        self._signed: OrderedDict[tuple[bytes, SignedHead], None] = OrderedDict()
        """Heads that were found to be signed, with the id of the key."""
        if state is not None:
            self._restore(state)

    # ---- what is known -----------------------------------------------------------------------------------------

    @property
    def realm(self) -> str:
        """The realm's name."""
        return self.root.realm

    @property
    def fingerprint(self) -> bytes:
        """The root's: what statements and heads name the realm by."""
        return self.root.key_id

    @property
    def head(self) -> Head | None:
        """The newest head that was verified."""
        return None if self._newest is None else self._newest.head

    @property
    def signed_head(self) -> SignedHead | None:
        """That head as it was signed: what peers are shown."""
        return None if self._newest is None else self._newest.signed

    @property
    def size(self) -> int:
        """Statements in the log as far as we know: what AskHead and Get say."""
        return 0 if self._newest is None else self._newest.head.size

    @property
    def pending(self) -> tuple[tuple[int, SignedHead], ...]:
        """Heads that peers have shown and no proof has connected with ours yet, with their sizes; see `connect`."""
        return tuple((seen.head.size, seen.signed) for seen in self._pending.values())

    @property
    def puzzled(self) -> bool:
        """Whether peers know more than we do, so that a head should be fetched soon."""
        return bool(self._strange) or any(seen.head.size > self.size for seen in self._pending.values())

    @property
    def refreshed(self) -> int:
        """When the newest head was signed that we have the revoked serials for, in seconds since 1970; 0 if none."""
        return 0 if self._listed is None else self._listed.head.time

    @property
    def evidence(self) -> tuple[SignedHead, ...]:
        """Two heads that can't both be true, if such were seen: then nothing is believed any more (8.5)."""
        return self._evidence

    def knows(self, signed: SignedHead) -> bool:
        """Say whether the authority that a head names is known. If not, `update_head` brings its certificate."""
        return read_head(signed).authority in self._authorities

    def authorities(self) -> tuple[bytes, ...]:
        """Return the certificates of the intermediates that are known and not retired, DER."""
        return tuple(anchor.certificate for key, anchor in self._authorities.items() if key not in self._retired)

    def state(self) -> bytes | None:
        """Return what is kept on disk, so that nobody rolls us back over a restart; None if nothing is known."""
        if self._newest is None or self._listed is None:
            return None
        return encode_state(
            TrustState(
                self.fingerprint,
                self._newest.signed,
                self._listed.signed,
                tuple(sorted(self._revoked)),
                tuple(anchor.certificate for anchor in self._authorities.values())[-MAX_AUTHORITIES:],
                tuple(self._retired.values()),
            )
        )

    # ---- learnt from the authority or a replica ----------------------------------------------------------------

    def learn(self, certificates: Iterable[bytes]) -> None:
        """Take in intermediates, from whomever: the root's signature makes them good (8.1).

        Their dates are checked whenever something depends on them.

        Raises:
            TrustError: one is not the root's.
        """
        for certificate in certificates:
            if all(certificate != known.certificate for known in self._authorities.values()):
                anchor = parse_intermediate(certificate, self.root)
                self._authorities[anchor.key_id] = anchor

    def update_root(self, answer: RootIs) -> None:
        """Take in the answer to AskRoot (8.1).

        Raises:
            TrustError: it is another realm's.
        """
        if parse_root(answer.root).key_id != self.fingerprint:
            raise TrustError(f"the authority serves another root than that of {self.realm!r}: ask who invited you")
        self.learn(answer.authorities)

    def retire(self, statements: Iterable[Signed]) -> None:
        """Take in which intermediates are no longer to be believed: the root's signature is all that it takes (8.1).

        Raises:
            BadSignature: one is not the administrator's.
        """
        known = self._retired.values()
        for signed in statements:
            if signed not in known:
                self._retired[check_retired(signed, self.root)] = signed

    def update_head(self, answer: HeadIs, wall: float, *, first_hand: bool = False) -> None:
        """Take in a newer head, and what is revoked (8.1 to 8.6).

        Args:
            first_hand: whether the authority itself answers, and not a replica, which could be lying.

        Raises:
            BadSignature, BadProof: it doesn't hold.
            StaleHead: it is older than one that we have seen.
            ForkedHistory: it can't be true together with what we have seen.
        """
        self._check_forked()
        self.learn(answer.authorities)
        self.retire(answer.retired)
        seen = self._open(answer.head, wall)
        self._check_follows(seen, answer.consistency, first_hand=first_hand)
        if revoked_digest(answer.revoked, answer.retired) != seen.head.revoked:  # 8.6
            raise BadProof("the revoked serials or the retired keys are not those that the head was signed for")
        self._accept(seen)
        self._listed = seen
        self._revoked = frozenset(answer.revoked)
        strange, self._strange = self._strange, OrderedDict()
        for signed in strange.values():
            if self.knows(signed):
                with contextlib.suppress(BadSignature, Revoked):  # whoever showed it made it up
                    self.compare(signed, wall)

    def check_found(self, answer: Found, user: str, wall: float, *, first_hand: bool = False) -> Record | None:
        """Return the record of ``user``; None if it is proven that there is none (8.2 to 8.7).

        Raises:
            BadSignature, BadProof: it doesn't hold.
            StaleHead: it is older than what we have seen, or than the policy allows.
            ForkedHistory: it can't be true together with what we have seen.
        """
        self._check_forked()
        seen, ours = self._open(answer.head, wall), self._newest
        if ours is not None and seen.head.size == ours.head.size and seen.head.time < ours.head.time:
            # A replica may be behind by a signature when its authority fails. It is the state that ours is of.
            self._check_agrees(ours, seen)
            seen = ours
        else:
            self._check_follows(seen, answer.consistency, first_hand=first_hand)
        check_age(seen.head.time, wall, self.settings, self.realm)
        record = check_record(answer, user, seen.head, self.root, self.verified)
        self._accept(seen)
        return record

    # ---- learnt from peers -------------------------------------------------------------------------------------

    def compare(self, signed: SignedHead, wall: float) -> None:
        """Compare the head that a peer has shown with ours.

        What can't be compared without a proof is kept as `pending`, until the authority has connected it. A newer one
        is not believed for that: it only shows that there is something to be fetched.

        Raises:
            BadSignature: the authority of this realm that it names did not sign it.
            StaleHead: we have no head ourselves.
            ForkedHistory: both are signed and can't both be true.
        """
        self._check_forked()
        if self._newest is None:
            raise StaleHead(_NO_HEAD)
        if not self.knows(signed):
            # Whoever has fetched a head more recently than we may know of an authority's new key. Nothing is believed
            # for it; and after the next answer from the authority it is looked at again.
            self._strange[signed.body] = signed
            if len(self._strange) > MAX_PENDING:
                self._strange.popitem(last=False)
            return
        seen = self._open(signed, wall)
        for known in (self._newest, *self._known.values(), *self._pending.values()):
            self._check_agrees(known, seen)
        size = seen.head.size
        if size not in (0, self._newest.head.size) and size not in self._known:
            self._pending[signed.body] = seen
            if len(self._pending) > MAX_PENDING:
                self._pending.popitem(last=False)

    def connect(self, signed: SignedHead, answer: HeadIs, wall: float, *, first_hand: bool = False) -> None:
        """Take in the answer to AskHead about the size of a pending head.

        If it is for another head than our newest, since the log has grown meanwhile, it says nothing: ask again.

        Raises:
            BadProof: a replica could not prove it.
            ForkedHistory: the authority itself could not: then both heads are kept as evidence.
        """
        self._check_forked()
        seen, newest = self._pending.get(signed.body), self._newest
        if seen is None or newest is None:
            return
        current = self._open(answer.head, wall).head
        if (current.size, current.log) != (newest.head.size, newest.head.log) or seen.head.size > current.size:
            return
        try:
            verify_consistency(seen.head.size, current.size, seen.head.log, current.log, answer.consistency)
        except BadProof as error:
            if first_hand:
                raise self._forked("the authority can't connect what it told a peer with it", seen, newest) from error
            raise
        for body, each in tuple(self._pending.items()):
            if each.head.size == seen.head.size:  # they agree, or it would have been noticed
                del self._pending[body]
        self._remember(seen)

    def check_leaf(self, certificate: bytes, wall: float, chain: Iterable[bytes] = ()) -> Identity:
        """Return whose certificate it is, once all is well with it (8.8, 8.9).

        Args:
            certificate: the leaf, DER.
            chain: intermediates that came with it, DER.

        Raises:
            TrustError: with the step that failed.
        """
        self._check_forked()
        identity = self._check_chain(certificate, wall, chain)
        self.check_fresh(wall)
        return identity

    def check_certificate(self, certificate: bytes, wall: float, chain: Iterable[bytes] = ()) -> Identity:
        """Do what `check_leaf` does but for freshness: for our own, and for who is about to tell us a fresh head.

        Raises:
            TrustError: with the step that failed.
        """
        self._check_forked()
        return self._check_chain(certificate, wall, chain)

    def check_own(self, chain: Sequence[bytes], user: str, signing: bytes, key: bytes, wall: float) -> Identity:
        """Return what the certificate says that was issued to us. (It may come before the first head.)

        Args:
            chain: leaf and intermediate, DER.
            signing: our Ed25519 key.
            key: the id of the TLS key that it was asked for.

        Raises:
            TrustError: it is not what was asked for, or not valid.
        """
        if not chain:
            raise TrustError("the authority issued an empty chain of certificates")
        identity = self._check_chain(chain[0], wall, chain[1:])
        if identity.user != user or identity.public_key != signing:
            raise NotThatUser(f"{user!r} asked for a certificate, and got one of {identity.user!r} or of another key")
        if identity.key_id != key:
            raise TrustError("the authority issued a certificate for another TLS key than the one that was asked for")
        return identity

    # ---- freshness ---------------------------------------------------------------------------------------------

    def check_fresh(self, wall: float) -> None:
        """Check that we would know of what was revoked (8.9).

        Raises:
            StaleHead: the newest head is older than the policy allows.
            ForkedHistory: no head is believed any more.
        """
        self._check_forked()
        if self._listed is None:
            raise StaleHead(_NO_HEAD)
        check_age(self._listed.head.time, wall, self.settings, self.realm)

    def overdue(self, wall: float) -> float:
        """Return for how many seconds the newest head has been older than max_staleness; 0 if it is not."""
        return max(0.0, wall - self.refreshed - self.settings.max_staleness)

    # ---- the steps ---------------------------------------------------------------------------------------------

    def _check_forked(self) -> None:
        if self._evidence:
            raise ForkedHistory(
                f"the authority of {self.realm!r} has signed two histories (docs/spec/authority.md section 8): nothing "
                "of this realm is believed until a person has looked at the evidence",
                [part for signed in self._evidence for part in (signed.body, signed.signature)],
            )

    def _forked(self, why: str, one: "_Seen", other: "_Seen") -> ForkedHistory:
        """Keep the evidence, and return the error to be raised."""
        self._evidence = (one.signed, other.signed)
        return ForkedHistory(
            f"{why}: heads of {one.head.size} and {other.head.size} statements, signed at {one.head.time} and "
            f"{other.head.time}, can't both be true; both are kept as evidence",
            [part for signed in self._evidence for part in (signed.body, signed.signature)],
        )

    def _issuer(self, key: bytes, what: str, wall: float) -> Anchor:
        """8.1: known, not retired, in its dates."""
        anchor = self._authorities.get(key)
        if anchor is None:
            raise BadSignature(f"{what} is signed by {key.hex()[:16]}, which is no authority of {self.realm!r}")
        if key in self._retired:
            raise Revoked(f"{what} is signed by {key.hex()[:16]}, an authority's key that was retired")
        check_dates(f"the certificate of the authority that signed {what}", anchor, wall, self.settings)
        return anchor

    def _open(self, signed: SignedHead, wall: float) -> "_Seen":
        """8.2 and 8.3."""
        newest = self._newest
        head = newest.head if newest is not None and newest.signed == signed else read_head(signed)
        if head.realm != self.fingerprint:
            raise TrustError(f"the head is of another realm than {self.realm!r}")
        issuer = self._issuer(head.authority, "the head", wall)
        if (issuer.key_id, signed) not in self._signed:
            check_head(signed, issuer)
            self._signed[issuer.key_id, signed] = None
            if len(self._signed) > MAX_HEADS:
                self._signed.popitem(last=False)
        if head.time > wall + self.settings.skew:
            raise TrustError(
                f"the head is {head.time - wall:.0f} s in the future, and clocks may differ by {self.settings.skew} s: "
                "this machine's clock or the authority's is wrong"
            )
        return _Seen(signed, head)

    def _check_follows(self, seen: "_Seen", proof: Sequence[bytes], *, first_hand: bool) -> None:
        """8.4 and 8.5."""
        ours = self._newest
        if ours is None:
            return
        self._check_agrees(ours, seen)
        if seen.head.size < ours.head.size or seen.head.time < ours.head.time:
            raise StaleHead(
                f"rolled back: a head of {seen.head.size} statements from {seen.head.time} was given, and one of "
                f"{ours.head.size} from {ours.head.time} was seen before"
            )
        try:
            verify_consistency(ours.head.size, seen.head.size, ours.head.log, seen.head.log, proof)
        except BadProof as error:
            if first_hand:
                raise self._forked("the authority can't connect two of its heads", ours, seen) from error
            raise

    def _check_agrees(self, one: "_Seen", other: "_Seen") -> None:
        a, b = one.head, other.head
        if a.size == b.size and (a.log, a.map) != (b.log, b.map):
            raise self._forked("the authority has signed two different states", one, other)
        older, newer = (a, b) if a.size < b.size else (b, a)
        if older.size < newer.size and older.time > newer.time + self.settings.skew:
            # The later it was signed, the more it holds. Whoever drops a statement signs less, later. (An authority
            # that starts anew with its clock set back a little does that too, hence the skew.)
            raise self._forked("the authority's log has shrunk", one, other)

    def _accept(self, seen: "_Seen") -> None:
        if self._newest is not None:
            self._remember(self._newest)
        self._newest = seen
        for known in tuple(self._pending.values()):
            self._check_agrees(known, seen)

    def _remember(self, seen: "_Seen") -> None:
        self._known[seen.head.size] = seen
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def _check_chain(self, certificate: bytes, wall: float, chain: Iterable[bytes]) -> Identity:
        """8.8, the part that needs no head."""
        known = self._leaves.get(certificate)
        identity = known or parse_leaf(certificate)
        what = f"the certificate of {identity.user!r}"
        if identity.realm != self.realm:
            raise TrustError(f"{what} is of the realm {identity.realm!r}, not of {self.realm!r}")
        if identity.authority not in self._authorities:
            self.learn(chain)
        issuer = self._issuer(identity.authority, what, wall)
        if known is None:
            check_issued(identity, issuer)
            self._leaves[certificate] = identity
            if len(self._leaves) > MAX_LEAVES:
                self._leaves.popitem(last=False)
        check_dates(what, identity, wall, self.settings)
        if identity.serial in self._revoked:
            raise Revoked(f"{what} was revoked: its key was changed, or its entry deleted")
        return identity

    def _restore(self, data: bytes) -> None:
        try:
            state = decode_state(data, self.fingerprint)
            self.learn(state.authorities)
            self.retire(state.retired)
            self._newest, self._listed = (self._reopen(signed) for signed in (state.head, state.listed))
        except TrustError as error:
            raise TrustError(f"the state kept for the realm {self.realm!r} can't be used: {error}") from None
        self._revoked = frozenset(state.revoked)

    def _reopen(self, signed: SignedHead) -> "_Seen":
        """Verify again what was verified in its time: clock, dates and retirements may have changed since."""
        head = read_head(signed)
        anchor = self._authorities.get(head.authority)
        if anchor is None:
            raise BadSignature(f"no authority is known by the key {head.authority.hex()[:16]}")
        check_head(signed, anchor)
        return _Seen(signed, head)
