"""The small realms that are explored (docs/spec/authority.md section 10)."""

from typing import Final

import msgspec


class RealmSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A world: an authority, perhaps a replica, a writer who says a script, and a reader."""

    name: str
    about: str
    before: int = 0
    """How much of the script (`trunkline.sim.realmcast`) is done in peace before anything else happens."""
    most: int = 5
    """How much of it the writer does in all."""
    replica: bool = False
    followed: int = -1
    """The replica has caught up when so much of the script is done; -1: it starts with nothing."""
    read: int = -1
    """The reader knows the head that the authority shows when so much of the script is done; -1: none."""
    questions: int = 0
    """How often the reader asks, of whomever; the last time for a record, the others for a head."""
    polls: int = 0
    """How often the replica asks its upstream while other things happen; in the end, as often as it takes."""
    waits: int = 0
    """How often time passes."""
    pause: float = 90.0
    """Seconds that pass at once, if any do: by default longer than a head is shown without being signed anew."""
    cut: bool = False
    """Whether the replica can't reach the authority until everything else is over."""
    faults: int = 1
    kinds: tuple[str, ...] = ("crash", "cut", "clock")
    """Which: a machine dies; a connection breaks; the authority comes back with a clock that is behind; `alter`:
    somebody between authority and replica changes an answer, or the replica lies to the reader."""


REALMS: Final = {
    spec.name: spec
    for spec in (
        RealmSpec(
            name="realm",
            about="an authority, a writer with five requests, a reader with two questions, 90 s that pass",
            questions=2,
            waits=1,
        ),
        RealmSpec(
            name="realm-sweep",
            about="a key is changed and its entry deleted while the authority sweeps; a reader with two questions",
            before=3,
            questions=2,
            waits=1,
            pause=700.0,
        ),
        RealmSpec(
            name="replica-new",
            about="a replica that begins with nothing fetches two statements, and a reader asks either",
            before=2,
            most=2,
            replica=True,
            questions=2,
            polls=2,
        ),
        RealmSpec(
            name="replica-behind",
            about="a statement is written that the replica does not have yet; a reader asks either twice",
            before=3,
            most=4,
            replica=True,
            followed=3,
            questions=2,
            polls=1,
        ),
        RealmSpec(
            name="replica-ahead",
            about="a replica has what a reader does not know yet; the reader asks either twice, 90 s pass",
            before=4,
            most=4,
            replica=True,
            followed=4,
            read=1,
            questions=2,
            polls=1,
            waits=1,
        ),
        RealmSpec(
            name="replica-cut",
            about="a replica can't reach the authority for longer than its head is good for; a reader asks either",
            before=3,
            most=4,
            replica=True,
            followed=3,
            questions=2,
            polls=1,
            waits=1,
            pause=4000.0,
            cut=True,
            kinds=("crash", "cut"),
        ),
        RealmSpec(
            name="replica-altered",
            about="somebody between authority and replica changes one answer; a reader asks either",
            before=1,
            most=1,
            replica=True,
            questions=1,
            polls=2,
            kinds=("alter",),
        ),
        RealmSpec(
            name="replica-lying",
            about="a replica lies to a reader once, about who there is or what is revoked; it asks either twice",
            before=4,
            most=4,
            replica=True,
            followed=4,
            read=3,
            questions=2,
            kinds=("alter",),
        ),
    )
}
"""The small realms; docs/spec/authority.md section 10 names them."""
