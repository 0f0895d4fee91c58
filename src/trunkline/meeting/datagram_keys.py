"""The keys of a session of datagrams, agreed upon inside TLS (docs/spec/sealing.md section 7).

    active                                  passive
      TRUNKX/1, its share            -->
                                     <--    TRUNKX/1, its share; its session stands
      its session stands

The stream is one that TLS has authenticated and both sides have confirmed, so the shares are secret and come from who
they seem to come from. Neither message is read beyond its end.
"""

from typing import Final

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from trunkline.errors import LinkClosed, NotTrunkline
from trunkline.meeting.handshake import Role
from trunkline.names import Secret

SHARE_SIZE: Final = 32
KEY_SIZE: Final = 32
SESSION_SIZE: Final = 16

EXCHANGE: Final = b"TRUNKX/1"
EXCHANGE_SIZE: Final = len(EXCHANGE) + SHARE_SIZE
"""Either side's message: exactly so many bytes."""

_DERIVED: Final = b"trunkline datagram keys v1\0"


class Session(msgspec.Struct, frozen=True):
    """What one side's `Sealer` and `Opener` are made of."""

    id: bytes
    """The same on both sides, and in every tag."""
    sending: Secret
    receiving: Secret


class KeyExchange:
    """One side's part: send what `data_to_send` gives, feed what comes, until `session` is there.

    Args:
        role: ours in the meeting.
        match: the match id, as both sides confirmed it.
        share: 32 random bytes, never used before.
    """

    __slots__ = ("_buffer", "_match", "_out", "_role", "_share", "session")

    def __init__(self, role: Role, match: bytes, share: Secret) -> None:
        assert len(share.reveal()) == SHARE_SIZE, "the driver draws it"
        self._role = role
        self._match = match
        self._share = share
        self._buffer = b""
        self._out = self._message() if role is Role.ACTIVE else b""
        self.session: Session | None = None
        """What was agreed upon; then all of `data_to_send` still has to go out."""

    @property
    def bytes_wanted(self) -> int:
        """How many bytes may be read now: never one that is not ours."""
        return 0 if self.session else EXCHANGE_SIZE - len(self._buffer)

    def receive_data(self, data: bytes) -> None:
        """Take bytes, at most `bytes_wanted`.

        Raises:
            NotTrunkline: they are not the peer's message.
        """
        self._buffer += data
        if not self._buffer.startswith(EXCHANGE[: len(self._buffer)]) or len(self._buffer) > EXCHANGE_SIZE:
            raise NotTrunkline(self._buffer[: len(EXCHANGE)])
        if len(self._buffer) == EXCHANGE_SIZE:
            if self._role is Role.PASSIVE:
                self._out = self._message()
            self.session = derive(self._role, self._match, self._share, Secret(self._buffer[len(EXCHANGE) :]))

    def receive_eof(self) -> None:
        """Say that the stream ended.

        Raises:
            LinkClosed: always: the message is not whole.
        """
        raise LinkClosed("the peer hung up before the keys for the datagrams were exchanged")

    def data_to_send(self) -> bytes:
        """Return what to send since the last call, once."""
        out, self._out = self._out, b""
        return out

    def _message(self) -> bytes:
        return EXCHANGE + self._share.reveal()


def derive(role: Role, match: bytes, ours: Secret, theirs: Secret) -> Session:
    """Return the session that follows from both shares."""
    active, passive = (ours, theirs) if role is Role.ACTIVE else (theirs, ours)
    size = 2 * KEY_SIZE + SESSION_SIZE
    made = HKDF(SHA256(), size, salt=match, info=_DERIVED).derive(active.reveal() + passive.reveal())
    down, up = Secret(made[:KEY_SIZE]), Secret(made[KEY_SIZE : 2 * KEY_SIZE])  # from the active side; to it
    sending, receiving = (down, up) if role is Role.ACTIVE else (up, down)
    return Session(made[2 * KEY_SIZE :], sending, receiving)
