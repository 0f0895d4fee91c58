"""Certificates: who gets one, and which were revoked before they expired (docs/spec/authority.md section 7)."""

from collections.abc import Hashable
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from trunkline.authority.certificates import issue_bytes, key_id
from trunkline.authority.events import DirectoryConfig
from trunkline.authority.issuing import Issuer, check_request
from trunkline.authority.messages import MAX_REVOKED, Certificate, Issue, Serial
from trunkline.authority.statements import APPROVED, STATES, Record
from trunkline.authority.store import IssuedCertificate, Reader, Revocation
from trunkline.errors import BadSignature, NotAllowed, TooMany

REMEMBERED: Final = 600
"""Seconds for which a certificate is known after it expired: the clocks of those who check it may be behind."""


class Registrar:
    """Issues certificates, and knows all that are revoked.

    Args:
        wall: the time, in seconds since 1970.
    """

    def __init__(self, config: DirectoryConfig, reader: Reader, issuer: Issuer, wall: int) -> None:
        self._config = config
        self._reader = reader
        self._issuer = issuer
        self._revoked = {each.serial: each.not_after for each in reader.revoked(wall - REMEMBERED)}
        self._serials = tuple(sorted(self._revoked))
        self._new_issued: list[IssuedCertificate] = []
        self._new_revoked: list[Revocation] = []

    def revoked(self) -> tuple[Serial, ...]:
        """Return the serials that are revoked and not expired for long, sorted."""
        return self._serials

    def revoke(self, user: str, signing: bytes | None, wall: int) -> None:
        """Revoke what was issued to this key of ``user``; None stands for no key.

        Raises:
            TooMany: that would be more than a head can tell of; nothing was revoked.
        """
        if signing is None:
            return
        found = [
            Revocation(each.serial, each.not_after)
            for each in self._issued(user, wall - REMEMBERED)
            if each.signing == signing and each.serial not in self._revoked
        ]
        if len(self._revoked) + len(found) > MAX_REVOKED:
            raise TooMany("certificates that are revoked and not yet expired; try again in some hours", MAX_REVOKED)
        if found:
            self._new_revoked.extend(found)
            self._revoked.update((each.serial, each.not_after) for each in found)
            self._serials = tuple(sorted(self._revoked))

    def issue(self, request: Issue, record: Record | None, serial: Serial, wall: int) -> tuple[Certificate, ...]:
        """Return the certificate that is asked for and its issuer's, DER.

        If one for the same keys has more than half of its life before it, that one is returned: who lost an answer, or
        starts again with the keys that it kept, asks again.

        Args:
            serial: that of a new certificate.

        Raises:
            NotAllowed: the user is not approved, or a clock is wrong.
            BadSignature: the user did not sign this, or the request for a certificate is not in order.
            TooMany: the user has as many certificates as one may have.
        """
        record = self._check(request, record, wall)
        key = check_request(request.request)
        subject = key_id(key)
        standing = self._issued(request.user, wall)
        for each in standing:
            same = (each.subject, each.signing, each.authority) == (subject, record.keys.signing, self._issuer.key_id)
            if same and each.serial not in self._revoked and each.not_after - wall > self._config.lifetime // 2:
                return each.certificate, self._issuer.authority.certificate
        if len(standing) >= self._config.max_certificates:
            raise TooMany(f"unexpired certificates of {request.user!r}", self._config.max_certificates)
        end = min(wall + self._config.lifetime, self._issuer.authority.not_after)
        start = wall - self._config.backdated
        chain = self._issuer.certify(request.user, record.keys.signing, key, serial, start, end)
        self._new_issued.append(
            IssuedCertificate(serial, request.user, record.keys.signing, subject, end, self._issuer.key_id, chain[0])
        )
        return chain

    def close(self) -> tuple[tuple[IssuedCertificate, ...], tuple[Revocation, ...]]:
        """End the batch and return what is to be saved."""
        changes = tuple(self._new_issued), tuple(self._new_revoked)
        self._new_issued.clear()
        self._new_revoked.clear()
        return changes

    def sweep(self, wall: int) -> int:
        """Forget revocations of what has expired, and return up to which ``not_after`` (for `Batch.expired`)."""
        expired = wall - REMEMBERED
        self._revoked = {serial: end for serial, end in self._revoked.items() if end > expired}
        self._serials = tuple(sorted(self._revoked))
        return expired

    def snapshot(self) -> Hashable:
        """Return the state between two batches."""
        return tuple(sorted(self._revoked.items()))

    def restore(self, snapshot: Any) -> None:
        """Become what was snapshot."""
        self._revoked = dict(snapshot)
        self._serials = tuple(self._revoked)

    def _issued(self, user: str, after: int) -> list[IssuedCertificate]:
        """Return what was issued to ``user`` and expires later than ``after``, in this batch too."""
        return self._reader.issued(user, after) + [each for each in self._new_issued if each.user == user]

    def _check(self, request: Issue, record: Record | None, wall: int) -> Record:
        user = request.user
        if record is None or record.state != APPROVED:
            state = "not in the directory" if record is None else STATES[record.state]
            raise NotAllowed(f"{user!r} gets no certificate: its key is {state}, and must be approved")
        if abs(request.time - wall) > self._config.skew:
            raise NotAllowed(
                f"the request of {user!r} was signed at {request.time} and it is {wall} here (seconds since 1970): "
                f"clocks may differ by {self._config.skew} s; set the one that is wrong"
            )
        if wall >= self._issuer.authority.not_after:
            raise NotAllowed("the authority's own certificate has expired: make one with `trunkline authority renew`")
        try:
            Ed25519PublicKey.from_public_bytes(record.keys.signing).verify(
                request.signature, issue_bytes(self._issuer.fingerprint, user, request.time, request.request)
            )
        except InvalidSignature:
            raise BadSignature(f"the request for a certificate is not signed by the key of {user!r}") from None
        return record
