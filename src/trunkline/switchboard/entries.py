"""What lies on the pending table: one attempt of a meeting, or a standing offer (docs/spec/switchboard.md section 3).

An own entry's life is `LIFE`, a table: it can be drawn and enumerated (tests/switchboard/test_entries.py does).

Two entries *fit* when each names the other and, if they are secure, the other's user; and neither *avoids* the other.
What can be looked up (names, users, kind) is in the keys of the table's indexes; the rest is here: `shuns`, `admits`.
"""

import enum
from typing import Final

from trunkline.names import digest
from trunkline.users import user_matches
from trunkline.wire.messages import Meet, Propagated

Key = tuple[str, bool, str]
"""A posted name, whether it is about datagrams, and its user ('' if plain): different ones never match each other."""


class State(enum.Enum):
    """Where an own entry is in its life."""

    WAITING = "waiting"
    RESERVED = "reserved"
    """Proposed to another server; it can't be matched otherwise until that server answers or is lost."""
    GONE = "gone"


class Input(enum.Enum):
    """What can happen to an own meet."""

    PROPOSE = "we propose it to another server"
    GRANTED = "that server grants"
    DECLINED = "that server declines, or is lost"
    MATCHED = "it is matched here, or we grant another's proposal"
    REMOVED = "its client withdraws, moves on or is lost; or a copy was matched elsewhere"


LIFE: Final[dict[State, dict[Input, State]]] = {
    State.WAITING: {
        Input.PROPOSE: State.RESERVED,
        Input.MATCHED: State.GONE,
        Input.REMOVED: State.GONE,
    },
    State.RESERVED: {
        Input.GRANTED: State.GONE,
        Input.DECLINED: State.WAITING,
        Input.REMOVED: State.GONE,
    },
    State.GONE: {},
}
"""Every pair that is missing here is illegal: reaching it is a fault of ours, and asserted."""


class Entry:
    """One attempt of meet(me, you). ``owner`` is the server that it is lodged with; empty if that is us."""

    __slots__ = (
        "avoid",
        "busy",
        "candidates",
        "conn",
        "datagram",
        "me",
        "n",
        "owner",
        "peer_user",
        "propagated",
        "proposal",
        "rid",
        "since",
        "state",
        "taken",
        "user",
        "you",
    )

    def __init__(
        self,
        rid: bytes,
        n: int,
        me: str,
        you: str,
        candidates: bytes,
        datagram: bool,
        owner: str,
        conn: int,
        since: float,
        *,
        user: str = "",
        peer_user: str = "",
        avoid: tuple[bytes, ...] = (),
    ) -> None:
        self.rid = rid
        self.n = n
        self.me = me
        self.you = you
        self.candidates = candidates
        self.datagram = datagram
        self.owner = owner
        self.conn = conn
        """The client's connection, if the entry is ours."""
        self.since = since
        self.user = user
        """Whose it is, if it is secure; empty if it is plain."""
        self.peer_user = peer_user
        self.avoid = avoid
        """Handles of requests that failed authentication with this one."""
        self.state = State.WAITING
        self.propagated = False
        self.proposal = b""
        """The match id of our proposal while RESERVED."""
        self.taken = False
        """Another's entry that is not to be proposed to now: it was matched, though its owner has not said so
        yet, or its owner said that it is busy. Its owner propagates it again if it becomes free."""
        self.busy: tuple[str, ...] = ()
        """Servers whose proposals were declined because this was reserved (or full): they are told when it is free."""

    @classmethod
    def lodged(cls, message: Meet, conn: int, now: float) -> "Entry":
        """Return the entry of a client's meet."""
        return cls(
            message.rid,
            message.n,
            message.me,
            message.you,
            message.candidates,
            message.datagram,
            "",
            conn,
            now,
            user=message.user,
            peer_user=message.peer_user,
            avoid=message.avoid,
        )

    def propagated_as(self) -> Propagated:
        """Return what tells the mates of it."""
        return Propagated(
            self.rid,
            self.n,
            self.me,
            self.you,
            self.candidates,
            self.datagram,
            user=self.user,
            peer_user=self.peer_user,
            avoid=self.avoid,
        )

    def move(self, what: Input) -> None:
        """Go on in `LIFE`."""
        after = LIFE[self.state].get(what)
        assert after is not None, f"{what.name} in {self.state.name}"
        self.state = after

    def freeze(self) -> tuple[object, ...]:
        """Return all of it as a tuple, for snapshots."""
        return tuple(getattr(self, name) for name in self.__slots__)

    @classmethod
    def thaw(cls, frozen: tuple[object, ...]) -> "Entry":
        """Return the entry that was frozen."""
        entry = cls.__new__(cls)
        for name, value in zip(cls.__slots__, frozen, strict=True):
            setattr(entry, name, value)
        return entry


class PostEntry(Entry):
    """A standing offer under the name ``me``; ``you`` is empty."""

    __slots__ = ("allow", "backlog", "claim", "full", "generation", "matched", "settled", "turn", "unique")

    def __init__(
        self,
        rid: bytes,
        n: int,
        name: str,
        candidates: bytes,
        datagram: bool,
        owner: str,
        conn: int,
        since: float,
        *,
        backlog: int,
        unique: bool,
        claim: bytes,
        generation: int,
        user: str = "",
        allow: tuple[str, ...] = (),
    ) -> None:
        super().__init__(rid, n, name, "", candidates, datagram, owner, conn, since, user=user)
        self.allow = allow
        """Patterns of the users that may meet it, if it is secure."""
        self.backlog = backlog
        self.unique = unique
        self.claim = claim
        self.generation = generation
        self.matched = 0
        self.settled = 0
        self.full = False
        """Another's post that declined for want of room; its owner tells us when there is some."""
        self.turn = 0
        """When it was last chosen, in choices made by this table: ties in a pool go to the one that waited longest."""

    @property
    def key(self) -> Key:
        """What it is looked up by."""
        return self.me, self.datagram, self.user

    @property
    def load(self) -> int:
        """Matches that are neither accepted nor lapsed, as far as this server knows."""
        return self.matched - self.settled

    @property
    def has_room(self) -> bool:
        """Whether one more client may be sent there."""
        return not self.full and self.matched - self.settled < self.backlog

    def propagated_as(self) -> Propagated:
        return Propagated(
            self.rid,
            self.n,
            self.me,
            "",
            self.candidates,
            self.datagram,
            self.unique,
            self.claim,
            self.generation,
            max(self.backlog - self.load, 0),
            user=self.user,
            allow=self.allow,
        )

    def freeze(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in Entry.__slots__ + self.__slots__)

    @classmethod
    def thaw(cls, frozen: tuple[object, ...]) -> "PostEntry":
        entry = cls.__new__(cls)
        for name, value in zip(Entry.__slots__ + cls.__slots__, frozen, strict=True):
            setattr(entry, name, value)
        return entry


def of_mate(message: Propagated, mate: str, now: float) -> Entry | PostEntry:
    """Return the entry that a mate told us of."""
    if message.you:
        return Entry(
            message.rid,
            message.n,
            message.me,
            message.you,
            message.candidates,
            message.datagram,
            mate,
            0,
            now,
            user=message.user,
            peer_user=message.peer_user,
            avoid=message.avoid,
        )
    post = PostEntry(
        message.rid,
        message.n,
        message.me,
        message.candidates,
        message.datagram,
        mate,
        0,
        now,
        backlog=1 << 30,
        unique=message.unique,
        claim=message.claim,
        generation=message.generation,
        user=message.user,
        allow=message.allow,
    )
    post.full = message.room == 0
    return post


def handle(rid: bytes) -> bytes:
    """Return what stands for a request towards its partners: with the rid itself they could supersede it."""
    return digest(b"handle" + rid)


def shuns(entry: Meet | Entry, rid: bytes) -> bool:
    """Say whether ``entry`` is not to be matched with the request ``rid`` again."""
    return bool(entry.avoid) and handle(rid) in entry.avoid


def admits(post: PostEntry, client: Meet | Entry) -> bool:
    """Say whether a client that names this post may be sent there: both are plain, or its list has that user."""
    if not client.user:
        return not post.user
    return allows(post, client.user) and client.peer_user == post.user and not shuns(client, post.rid)


def allows(post: PostEntry, user: str) -> bool:
    """Say whether a secure post's list has this user."""
    return any(user_matches(user, pattern) for pattern in post.allow)
