"""Comparisons of a confirmation that are left out on purpose, one at a time, and other rules of it that are broken."""

from typing import Any, ClassVar, Final

import msgspec

from trunkline.meeting.confirmation import Confirm, Confirmation
from trunkline.meeting.handshake import Role


class BrokenConfirmation(msgspec.Struct, frozen=True):
    """One broken rule, and the world that shows it."""

    rule: str
    machine: type[Confirmation]
    world: str


class _Without(Confirmation):
    """Takes one field of the peer's Confirm for what it should be."""

    __slots__ = ()
    field: ClassVar[str]

    def _check(self, theirs: Confirm) -> None:
        ours = self._meeting
        fitting: dict[str, Any] = {
            "role": 3 - ours.role,
            "match": ours.match,
            "peer_user": ours.user,
            "me": ours.you,
            "you": ours.me,
        }
        super()._check(msgspec.structs.replace(theirs, **{self.field: fitting[self.field]}))


class _WithoutRole(_Without):
    __slots__ = ()
    field = "role"


class _WithoutMatch(_Without):
    __slots__ = ()
    field = "match"


class _WithoutPeerUser(_Without):
    __slots__ = ()
    field = "peer_user"


class _WithoutMe(_Without):
    __slots__ = ()
    field = "me"


class _WithoutYou(_Without):
    __slots__ = ()
    field = "you"


class _WithoutProof(Confirmation):
    """Takes the word of the peer for who it is, and not TLS's."""

    __slots__ = ()

    def _check(self, theirs: Confirm) -> None:
        proved, self._peer_user = self._peer_user, theirs.user
        super()._check(theirs)
        self._peer_user = proved


class _WithoutWish(Confirmation):
    """Takes whoever proved to be somebody."""

    __slots__ = ()

    def _check(self, theirs: Confirm) -> None:
        wished, self._meeting = self._meeting, msgspec.structs.replace(self._meeting, peer_user="")
        super()._check(theirs)
        self._meeting = wished


class _Hasty(Confirmation):
    """Confirms as the passive side before its owner has judged the head."""

    __slots__ = ()

    def receive_data(self, data: bytes, now: float) -> None:
        super().receive_data(data, now)
        if self._event is not None and self._meeting.role is Role.PASSIVE:
            self._out = self._confirm()


class _Greedy(Confirmation):
    """Reads what there is, and not only what is its own."""

    __slots__ = ()

    @property
    def bytes_wanted(self) -> int:
        return 1 << 16 if super().bytes_wanted else 0


BROKEN_CONFIRMATIONS: Final[dict[str, BrokenConfirmation]] = {
    "without-role": BrokenConfirmation("the role is not compared", _WithoutRole, "secure-lies"),
    "without-match": BrokenConfirmation("the match is not compared", _WithoutMatch, "secure-lies"),
    "without-me": BrokenConfirmation("what the peer calls itself is not compared", _WithoutMe, "secure-lies"),
    "without-you": BrokenConfirmation("what the peer calls us is not compared", _WithoutYou, "secure-lies"),
    "without-proof": BrokenConfirmation("the user is not compared with TLS's", _WithoutProof, "secure-eve"),
    "without-wish": BrokenConfirmation(
        "the user is not compared with the one who was asked for", _WithoutWish, "secure-eve"
    ),
    "without-peer-user": BrokenConfirmation("whom the peer means is not compared", _WithoutPeerUser, "secure-misled"),
    "hasty": BrokenConfirmation("the passive side confirms before its owner has accepted", _Hasty, "secure-pair"),
    "greedy": BrokenConfirmation("bytes are read that are the user's", _Greedy, "secure-pair"),
}
"""Short name -> rule. All break S6."""
