"""Datagrams that nobody else can read, alter or say again (docs/spec/sealing.md sections 8 and 9).

Each datagram goes out sealed by ChaCha20-Poly1305 under its direction's key: its sequence number in clear, then the
ciphertext and the tag. `trunkline.meeting.datagram_keys` makes the keys.

    Sealer  numbers and seals      Opener  checks, opens, refuses what it has seen before

Datagrams may be lost and may overtake each other; within `WINDOW` the Opener takes them in any order, each once. A
forged one moves nothing: only what was opened is marked as seen.
"""

from collections import Counter
from enum import StrEnum
from struct import Struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from trunkline.errors import DecryptError, LocalError, TrustError
from trunkline.meeting.datagram_keys import Session

WINDOW: Final = 1024
"""How far a datagram may be overtaken. DTLS 1.3 asks for 64 or more (RFC 9147 section 4.5.1)."""

OVERHEAD: Final = 8 + 16
MAX_DATAGRAM: Final = 65_507
"""Largest payload of UDP over IPv4."""

MAX_DATA: Final = MAX_DATAGRAM - OVERHEAD
LAST_SEQUENCE: Final = (1 << 64) - 1
"""No number is used twice under one key: after this one the session is over."""

MAX_FORGED: Final = 1 << 36
"""Failed attempts after which the key is given up (RFC 9147 section 4.5.3, for ChaCha20-Poly1305)."""

_SEQUENCE: Final = Struct("!Q")
_NONCE_START: Final = bytes(4)
_BOUND: Final = b"trunkline datagram v1\0"
_ALL: Final = (1 << WINDOW) - 1


class Drop(StrEnum):
    """Why a datagram was dropped."""

    SIZE = "too short or too long"
    FORGED = "altered, of another session, or not the peer's"
    REPLAYED = "seen before"
    OLD = "overtaken by too many"


class Sealer:
    """Seals what is sent. It is not thread-safe; no copy of it may live on, as in a forked process."""

    __slots__ = ("_aead", "_bound", "sequence")

    def __init__(self, session: Session, sequence: int = 0) -> None:
        self._aead = ChaCha20Poly1305(session.sending.reveal())
        self._bound = _BOUND + session.id
        self.sequence = sequence
        """The next datagram's number."""

    def seal(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return the datagram to send.

        Raises:
            ValueError: ``data`` exceeds MAX_DATA; no number was used.
            LocalError: all numbers are used up.
        """
        size = memoryview(data).nbytes
        if size > MAX_DATA:
            raise ValueError(f"{size} bytes exceed the limit of {MAX_DATA} bytes for a secure datagram")
        if self.sequence > LAST_SEQUENCE:
            raise LocalError("this session has sent all the datagrams that it may: meet again")
        number = _SEQUENCE.pack(self.sequence)
        self.sequence += 1
        return number + self._aead.encrypt(_NONCE_START + number, data, self._bound)

    def __reduce__(self) -> str:
        raise TypeError("a Sealer can't be pickled: a copy would use its numbers twice")


class Opener:
    """Opens what came. It is not thread-safe.

    Args:
        session: what the key exchange gave.
        max_forged: see `MAX_FORGED`.
    """

    __slots__ = ("_aead", "_bound", "_greatest", "_max_forged", "_seen", "dropped")

    def __init__(self, session: Session, max_forged: int = MAX_FORGED) -> None:
        self._aead = ChaCha20Poly1305(session.receiving.reveal())
        self._bound = _BOUND + session.id
        self._max_forged = max_forged
        self._greatest = -1
        self._seen = 0
        """Bit i: the number ``_greatest - i`` was opened."""
        self.dropped: Counter[Drop] = Counter()
        """How many datagrams were dropped, by reason."""

    def open(self, datagram: bytes) -> bytes:
        """Return what the peer sealed.

        Raises:
            DecryptError: the datagram is to be dropped; it was counted in `dropped`, and nothing else changed.
            TrustError: so many were forged that the key is given up: meet again.
        """
        if self.dropped[Drop.FORGED] >= self._max_forged:
            raise TrustError(f"{self._max_forged} forged datagrams came: this session's key is given up; meet again")
        if not OVERHEAD <= len(datagram) <= MAX_DATAGRAM:
            raise self._drop(Drop.SIZE)
        number = datagram[: _SEQUENCE.size]
        sequence = int.from_bytes(number, "big")
        behind = self._greatest - sequence
        if behind >= WINDOW:
            raise self._drop(Drop.OLD)
        if behind >= 0 and self._seen >> behind & 1:
            raise self._drop(Drop.REPLAYED)
        try:
            data = self._aead.decrypt(_NONCE_START + number, datagram[_SEQUENCE.size :], self._bound)
        except InvalidTag:
            raise self._drop(Drop.FORGED) from None
        if behind >= 0:
            self._seen |= 1 << behind
        else:
            # A peer may leap ahead by 2**63, and a shift by that much would ask for all memory.
            self._seen = (self._seen << -behind | 1) & _ALL if -behind < WINDOW else 1
            self._greatest = sequence
        return data

    def _drop(self, reason: Drop) -> DecryptError:
        self.dropped[reason] += 1
        return DecryptError(f"a datagram was dropped: {reason}")

    def __reduce__(self) -> str:
        raise TypeError("an Opener can't be pickled: a copy would take datagrams twice")
