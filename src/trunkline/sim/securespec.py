"""The small worlds in which two confirm a secure meeting (docs/spec/secure-meeting.md section 3)."""

from typing import Final

import msgspec


class Wish(msgspec.Struct, frozen=True):
    """What an honest process asks for: a secure meet, or a secure post if ``allow`` is not empty."""

    user: str
    me: str
    you: str = ""
    peer_user: str = ""
    allow: tuple[str, ...] = ()


class SecureSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A world: one TLS channel and who is at its ends.

    Honest machines have nothing in common but channels, and eve is given every value from the start. So whatever she
    does with several channels at once she can do on each by itself, and one channel is enough.
    """

    name: str
    about: str
    left: tuple[Wish, ...]
    """Of whom one is at the left end."""
    right: tuple[Wish, ...] = ()
    """Of whom one is at the right end; none: eve, a user of the realm."""
    lies: bool = False
    """Whether the switchboard says what it likes: roles, matches, and to a post the other's name."""
    misled: bool = False
    """Whether TLS has told the left end that eve is at the other: then TLS itself is broken."""
    losses: bool = False
    """Whether channels break, at every byte, and time runs out."""


_ANN: Final = Wish("ann", "alice", "bob", "ben")
_BEN: Final = Wish("ben", "bob", "alice", "ann")
_POST: Final = Wish("ben", "bob", allow=("ann",))

SECURE: Final = {
    spec.name: spec
    for spec in (
        SecureSpec(
            name="secure-pair",
            about="ann and ben want each other; either refuses; the channel breaks at any byte, or time runs out",
            left=(_ANN,),
            right=(_BEN,),
            losses=True,
        ),
        SecureSpec(
            name="secure-post", about="the same with a post of ben's", left=(_ANN,), right=(_POST,), losses=True
        ),
        SecureSpec(
            name="secure-lies",
            about="one of two processes of ann's, one of four of ben's; the switchboard lies: roles, matches, names",
            left=(_ANN, Wish("ann", "alice2", "bob2", "ben")),
            right=(_BEN, Wish("ben", "bob2", "alice2", "ann"), _POST, Wish("ben", "bob2", allow=("ann", "eve"))),
            lies=True,
        ),
        SecureSpec(
            name="secure-self",
            about="two processes of ann's that want each other, and the switchboard lies",
            left=(Wish("ann", "alice", "alice2", "ann"), Wish("ann", "alice", "alice", "ann")),
            right=(Wish("ann", "alice2", "alice", "ann"), Wish("ann", "alice", "alice", "ann")),
            lies=True,
        ),
        SecureSpec(
            name="secure-eve",
            about="eve, a user, is at the other end and says all that can be said; the switchboard lies",
            left=(_ANN, Wish("ann", "alice", "bob", "eve"), _POST, Wish("ben", "bob", allow=("eve",))),
            lies=True,
        ),
        SecureSpec(
            name="secure-misled",
            about="ann means to talk to eve, and her TLS says so, and it is ben (Lowe's attack): TLS is broken",
            left=(Wish("ann", "alice", "bob", "eve"),),
            right=(_BEN, _POST),
            misled=True,
            lies=True,
        ),
    )
}
"""docs/spec/secure-meeting.md section 3 names them."""
