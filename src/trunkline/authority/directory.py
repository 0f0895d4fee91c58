"""The authority's machine: requests in, saves and answers out (docs/spec/authority.md section 5)."""

from trunkline.authority.events import DirectoryConfig, DirectoryEffect, DirectoryEvent, Issuer, Signer
from trunkline.authority.store import Reader


class Directory:
    """An authority, of the Server shape.

    Args:
        config: its settings.
        reader: what is on disk.
        signer: the intermediate's key, of ``config.authorities[0]``.
        issuer: makes certificates with the same key.
        seed: 16 random bytes or more; serial numbers are drawn from it.
        now: the time, in seconds, by a clock that never goes back.

    Raises:
        NotAllowed: the key of ``config.authorities[0]`` is retired.
        TrustError: a certificate of ``config`` is not of this realm, or what is on disk is of another.
    """

    def __init__(
        self, config: DirectoryConfig, *, reader: Reader, signer: Signer, issuer: Issuer, seed: bytes, now: float
    ) -> None:
        raise NotImplementedError

    def step(self, event: DirectoryEvent, now: float) -> list[DirectoryEffect]:
        """Take one event and return what is to be done, in order. The first event is `Tick`."""
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        """Return when `Tick` is due."""
        raise NotImplementedError
