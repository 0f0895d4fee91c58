"""The pending table: what is lodged, here and with the mates, and who matches whom.

See docs/spec/switchboard.md section 3.

Rule 1: an entry is one attempt. At most one attempt of a request is *ours*; others may own further copies.
Rule 2: indexes hold every entry that may still match; removing an entry takes it out of all of them at once.
Rule 3: the order in every index is the order of arrival here.

An own entry's life is `LIFE`, a table: it can be drawn and enumerated (tests/switchboard/test_table.py does).
"""

import bisect
import enum
from collections.abc import Iterator
from typing import Final

Key = tuple[str, bool]
"""A name, and whether it is about datagrams: the two kinds never match each other."""


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
        "busy",
        "candidates",
        "conn",
        "datagram",
        "me",
        "n",
        "owner",
        "propagated",
        "proposal",
        "rid",
        "since",
        "state",
        "taken",
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
        self.state = State.WAITING
        self.propagated = False
        self.proposal = b""
        """The match id of our proposal while RESERVED."""
        self.taken = False
        """Another's entry that is not to be proposed to now: it was matched, though its owner has not said so
        yet, or its owner said that it is busy. Its owner propagates it again if it becomes free."""
        self.busy: tuple[str, ...] = ()
        """Servers whose proposals were declined because this was reserved (or full): they are told when it is free."""

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

    __slots__ = ("backlog", "claim", "full", "generation", "matched", "settled", "turn", "unique")

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
    ) -> None:
        super().__init__(rid, n, name, "", candidates, datagram, owner, conn, since)
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
    def load(self) -> int:
        """Matches that are neither accepted nor lapsed, as far as this server knows."""
        return self.matched - self.settled

    @property
    def has_room(self) -> bool:
        """Whether one more client may be sent there."""
        return not self.full and self.matched - self.settled < self.backlog

    def freeze(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in Entry.__slots__ + self.__slots__)

    @classmethod
    def thaw(cls, frozen: tuple[object, ...]) -> "PostEntry":
        entry = cls.__new__(cls)
        for name, value in zip(Entry.__slots__ + cls.__slots__, frozen, strict=True):
            setattr(entry, name, value)
        return entry


class Table:
    """All entries that this server knows, ours and others'."""

    def __init__(self) -> None:
        self.own: dict[bytes, Entry] = {}
        self.foreign: dict[str, dict[bytes, Entry]] = {}
        self._pairs: dict[tuple[str, str, bool], list[Entry]] = {}
        self._seekers: dict[Key, dict[Entry, None]] = {}
        self._posts: dict[Key, list[PostEntry]] = {}
        self._names: list[Key] = []
        self._turns = 0
        self._own_posts = 0

    # ---- adding and removing -----------------------------------------------------------------------------------

    def add(self, entry: Entry) -> None:
        """Take an entry in; there must be none of the same request and owner."""
        home = self.foreign.setdefault(entry.owner, {}) if entry.owner else self.own
        assert entry.rid not in home, "the older attempt is removed first"
        home[entry.rid] = entry
        if isinstance(entry, PostEntry):
            self._own_posts += not entry.owner
            key = (entry.me, entry.datagram)
            pool = self._posts.get(key)
            if pool is None:
                self._posts[key] = [entry]
                bisect.insort(self._names, key)
            else:
                pool.append(entry)
        else:
            pair = (entry.me, entry.you, entry.datagram)
            queue = self._pairs.get(pair)
            if queue is None:
                self._pairs[pair] = [entry]
            else:
                queue.append(entry)
            self._seekers.setdefault((entry.you, entry.datagram), {})[entry] = None

    def remove(self, entry: Entry) -> None:
        """Take an entry out of every index."""
        if entry.owner:
            home = self.foreign[entry.owner]
            del home[entry.rid]
            if not home:
                del self.foreign[entry.owner]
        else:
            del self.own[entry.rid]
        if isinstance(entry, PostEntry):
            self._own_posts -= not entry.owner
            key = (entry.me, entry.datagram)
            pool = self._posts[key]
            pool.remove(entry)
            if not pool:
                del self._posts[key]
                del self._names[bisect.bisect_left(self._names, key)]
        else:
            pair = (entry.me, entry.you, entry.datagram)
            queue = self._pairs[pair]
            queue.remove(entry)
            if not queue:
                del self._pairs[pair]
            key = (entry.you, entry.datagram)
            seekers = self._seekers[key]
            del seekers[entry]
            if not seekers:
                del self._seekers[key]

    def get(self, owner: str, rid: bytes) -> Entry | None:
        """Return that owner's attempt of a request, if there is one."""
        return self.foreign.get(owner, _NONE).get(rid) if owner else self.own.get(rid)

    def attempts(self, rid: bytes) -> list[Entry]:
        """Return every copy of every attempt of a request."""
        found = [self.own[rid]] if rid in self.own else []
        found += [entries[rid] for entries in self.foreign.values() if rid in entries]
        return found

    # ---- looking ------------------------------------------------------------------------------------------------

    def partners(self, entry: Entry) -> list[Entry]:
        """Return the meets that match the meet ``entry``, in order of arrival. The list is the index itself."""
        return self._pairs.get((entry.you, entry.me, entry.datagram), _EMPTY)

    def is_wanted(self, me: str, you: str, datagram: bool) -> bool:
        """Whether there is a meet(me, you), whoever owns it and whatever becomes of it."""
        return (me, you, datagram) in self._pairs

    def seekers(self, name: str, datagram: bool) -> list[Entry]:
        """Return the meets that want ``name``, in order of arrival."""
        return list(self._seekers.get((name, datagram), ()))

    def pool(self, name: str, datagram: bool) -> list[PostEntry]:
        """Return the posts under ``name``: of unique ones only the one that holds it."""
        posts = self._posts.get((name, datagram), _NOBODY)
        if len(posts) > 1 and any(post.unique for post in posts):
            return [max(posts, key=lambda post: (post.unique, post.generation, post.owner))]
        return posts

    def every_post(self, name: str, datagram: bool) -> list[PostEntry]:
        """Return all posts under ``name``, a unique name's contenders included."""
        return list(self._posts.get((name, datagram), ()))

    def choose(self, name: str, datagram: bool) -> PostEntry | None:
        """Choose a post for one more client: fewest unaccepted first, then the longest without a turn."""
        pool = self.pool(name, datagram)
        if len(pool) == 1:
            return pool[0] if pool[0].has_room else None
        ready = [post for post in pool if post.has_room]
        if not ready:
            return None
        chosen = min(ready, key=lambda post: (post.load, post.turn))
        self._turns += 1
        chosen.turn = self._turns
        return chosen

    def names(self, prefix: str, after: str, limit: int) -> tuple[list[tuple[Key, list[PostEntry]]], bool]:
        """Return up to ``limit`` posted names under ``prefix`` after ``after``, and whether there are more."""
        if after >= prefix and after:
            at = bisect.bisect_right(self._names, (after, True))
        else:
            at = bisect.bisect_left(self._names, (prefix, False))
        found: list[tuple[Key, list[PostEntry]]] = []
        while at < len(self._names) and self._names[at][0].startswith(prefix):
            if len(found) == limit:
                return found, True
            key = self._names[at]
            found.append((key, self._posts[key]))
            at += 1
        return found, False

    def posted_names(self, most: int) -> Iterator[Key]:
        """Go through the posted names, ``most`` at most."""
        return iter(self._names[:most])

    def waiting_as(self, name: str, datagram: bool, most: int) -> Iterator[Entry]:
        """Go through the meets lodged by callers who call themselves ``name``; looks at ``most`` pairs at most."""
        for count, ((me, _, kind), queue) in enumerate(self._pairs.items()):
            if count >= most:
                return
            if me == name and kind == datagram:
                yield queue[0]

    def counts(self) -> tuple[int, int, int]:
        """Return how many meets and posts are ours, and how many entries are others'."""
        return len(self.own) - self._own_posts, self._own_posts, sum(map(len, self.foreign.values()))

    # ---- for the explorer ---------------------------------------------------------------------------------------

    def snapshot(self) -> tuple[object, ...]:
        """Return the whole table as nested tuples, equal for equal tables."""
        pairs = tuple(sorted((key, tuple(e.freeze() for e in queue)) for key, queue in self._pairs.items()))
        seekers = tuple(sorted((k, tuple((e.owner, e.rid) for e in v)) for k, v in self._seekers.items()))
        posts = tuple((key, tuple(e.freeze() for e in self._posts[key])) for key in self._names)
        return pairs, seekers, posts, self._turns

    def restore(self, snapshot: tuple[object, ...]) -> None:
        """Become the table that was snapshot."""
        pairs, seekers, posts, turns = snapshot
        self.__init__()  # type: ignore[misc]  # a fresh table is what is wanted
        for _, queue in pairs:  # type: ignore[attr-defined]
            for frozen in queue:
                self.add(Entry.thaw(frozen))
        for _, pool in posts:  # type: ignore[attr-defined]
            for frozen in pool:
                self.add(PostEntry.thaw(frozen))
        for key, order in seekers:  # type: ignore[attr-defined]
            self._seekers[key] = {self._at(owner, rid): None for owner, rid in order}
        assert isinstance(turns, int)
        self._turns = turns

    def _at(self, owner: str, rid: bytes) -> Entry:
        entry = self.get(owner, rid)
        assert entry is not None, "snapshots name what they hold"
        return entry


_EMPTY: Final[list[Entry]] = []
_NOBODY: Final[list[PostEntry]] = []
_NONE: Final[dict[bytes, Entry]] = {}
