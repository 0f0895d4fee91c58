"""The pending table: what is lodged, here and with the mates, and who matches whom.

See docs/spec/switchboard.md section 3.

Rule 1: an entry is one attempt. At most one attempt of a request is *ours*; others may own further copies.
Rule 2: indexes hold every entry that may still match; removing an entry takes it out of all of them at once.
Rule 3: the order in every index is the order of arrival here.
"""

import bisect
from collections.abc import Callable, Iterator
from typing import Final

from trunkline.switchboard.entries import Entry, Key, PostEntry, admits
from trunkline.wire.messages import Meet

Pair = tuple[str, str, bool, str, str]
"""Both names, whether it is about datagrams, and both users ('' if plain)."""


class Table:
    """All entries that this server knows, ours and others'."""

    def __init__(self) -> None:
        self.own: dict[bytes, Entry] = {}
        self.foreign: dict[str, dict[bytes, Entry]] = {}
        self._pairs: dict[Pair, list[Entry]] = {}
        self._seekers: dict[tuple[str, bool], dict[Entry, None]] = {}
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
            key = entry.key
            pool = self._posts.get(key)
            if pool is None:
                self._posts[key] = [entry]
                bisect.insort(self._names, key)
            else:
                pool.append(entry)
        else:
            pair = (entry.me, entry.you, entry.datagram, entry.user, entry.peer_user)
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
            key = entry.key
            pool = self._posts[key]
            pool.remove(entry)
            if not pool:
                del self._posts[key]
                del self._names[bisect.bisect_left(self._names, key)]
        else:
            pair = (entry.me, entry.you, entry.datagram, entry.user, entry.peer_user)
            queue = self._pairs[pair]
            queue.remove(entry)
            if not queue:
                del self._pairs[pair]
            seekers = self._seekers[entry.you, entry.datagram]
            del seekers[entry]
            if not seekers:
                del self._seekers[entry.you, entry.datagram]

    def get(self, owner: str, rid: bytes) -> Entry | None:
        """Return that owner's attempt of a request, if there is one."""
        return self.foreign.get(owner, _NONE).get(rid) if owner else self.own.get(rid)

    def attempts(self, rid: bytes) -> list[Entry]:
        """Return every copy of every attempt of a request."""
        found = [self.own[rid]] if rid in self.own else []
        found += [entries[rid] for entries in self.foreign.values() if rid in entries]
        return found

    # ---- looking ------------------------------------------------------------------------------------------------

    def partners(self, entry: Meet | Entry) -> list[Entry]:
        """Return the meets that name ``entry`` and its user, in order of arrival. The list is the index itself.

        Which of them may be matched with it is for `entries.shuns` to say.
        """
        return self._pairs.get((entry.you, entry.me, entry.datagram, entry.peer_user, entry.user), _EMPTY)

    def seekers(self, name: str, datagram: bool) -> list[Entry]:
        """Return the meets that want ``name``, of whatever user, in order of arrival."""
        return list(self._seekers.get((name, datagram), ()))

    def pool(self, name: str, datagram: bool, user: str) -> list[PostEntry]:
        """Return the posts of ``user`` under ``name``: of unique ones only the one that holds it."""
        posts = self._posts.get((name, datagram, user), _NOBODY)
        if len(posts) > 1 and any(post.unique for post in posts):
            return [max(posts, key=lambda post: (post.unique, post.generation, post.owner))]
        return posts

    def pools(self, name: str, datagram: bool) -> Iterator[list[PostEntry]]:
        """Go through the pools under ``name``, one for each user that has posted it."""
        at = bisect.bisect_left(self._names, (name, datagram, ""))
        while at < len(self._names) and self._names[at][:2] == (name, datagram):
            yield self.pool(*self._names[at])
            at += 1

    def every_post(self, key: Key) -> list[PostEntry]:
        """Return all posts that are looked up by ``key``, a unique name's contenders included."""
        return list(self._posts.get(key, ()))

    def choose(self, client: Meet | Entry) -> PostEntry | None:
        """Choose a post for one more client: fewest unaccepted first, then the longest without a turn."""
        pool = self.pool(client.you, client.datagram, client.peer_user)
        if client.user:
            pool = [post for post in pool if admits(post, client)]
        if len(pool) == 1:
            return pool[0] if pool[0].has_room else None
        ready = [post for post in pool if post.has_room]
        if not ready:
            return None
        chosen = min(ready, key=lambda post: (post.load, post.turn))
        self._turns += 1
        chosen.turn = self._turns
        return chosen

    def names(
        self, prefix: str, after: str, limit: int, sees: Callable[[str], bool]
    ) -> tuple[list[tuple[Key, list[PostEntry]]], bool]:
        """Return at most ``limit`` posted names under ``prefix`` after ``after`` that ``sees`` admits; are there more?

        The entries of one name, of several kinds and users, stay together: who asks goes on after the last name.
        """
        if after >= prefix and after:
            at = bisect.bisect_left(self._names, (after + "\0",))
        else:
            at = bisect.bisect_left(self._names, (prefix,))
        found: list[tuple[Key, list[PostEntry]]] = []
        while at < len(self._names) and self._names[at][0].startswith(prefix):
            key = self._names[at]
            at += 1
            if not sees(key[0]):
                continue
            if len(found) == limit:
                whole = [one for one in found if one[0][0] != key[0]]
                return whole or found, True  # more users of one name than fit: the rest of them can't be listed
            found.append((key, self._posts[key]))
        return found, False

    def posted_names(self, most: int) -> Iterator[Key]:
        """Go through the posted names, ``most`` at most."""
        return iter(self._names[:most])

    def waiting_as(self, name: str, datagram: bool, most: int) -> Iterator[Entry]:
        """Go through the meets lodged by callers who call themselves ``name``; looks at ``most`` pairs at most."""
        for count, ((me, _, kind, _, _), queue) in enumerate(self._pairs.items()):
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
