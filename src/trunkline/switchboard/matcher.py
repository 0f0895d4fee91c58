"""Matching and replication: who is matched with whom, by one server or by two.

See docs/spec/switchboard.md sections 3, 4 and 7.

Theory of operation. Every server knows every waiting entry. An entry belongs to the server that its client lodged it
with, the owner, and nobody else may commit it or say that it is gone. A match between two of our own entries is
committed at once. A match with another's entry is proposed to its owner: we reserve ours, and it grants or declines.

Why that ends. An entry that is reserved makes others wait, so proposals must not go round in a circle. Therefore a
meet is proposed *downwards* only, from the server with the greater id to the one with the lesser (the paper's
arbitration by host id). There is one exception, which saves messages in the common case: an entry that was just
lodged, and that nobody else knows yet, may be proposed in either direction; once it has been propagated, never
upwards again. Each entry has that chance only while it is new, so in the end all proposals go downwards, and the one
to the least server is always answered by a grant or by "gone". Posts are never reserved, so proposals to posts may go
either way.

Of two entries that were propagated and cross, only the greater server's owner proposes: the race of the paper's
section 2.1.2, without a tie.

Removals. Whoever grants says at once that its entry is gone and, in the same message, which one it was matched with;
the other owner's own removal can wait for its next heartbeat. So a race costs one round of removals, not two.
"""

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from trunkline.errors import DeniedError, Displaced
from trunkline.names import Draw
from trunkline.switchboard.doubts import Doubts
from trunkline.switchboard.entries import Entry, Input, PostEntry, State, admits, allows, handle, of_mate, shuns
from trunkline.switchboard.events import Log, Send, ServerEffect
from trunkline.switchboard.generations import Generations
from trunkline.switchboard.table import Table
from trunkline.switchboard.unique import UniqueNames, claim_of
from trunkline.wire.limits import MATCH_SIZE, MAX_REMOVALS, TOKEN_SIZE
from trunkline.wire.messages import (
    Declined,
    Granted,
    Matched,
    Meet,
    Message,
    Post,
    Posted,
    Propagated,
    Propose,
    Refused,
    Removal,
    Removed,
    Settled,
    Withdraw,
)

LAZY_DELAY: Final = 1.0
"""Seconds that a removal may wait for a heartbeat to ride on."""

_NOTHING: Final[dict[bytes, Entry]] = {}


class Mates(Protocol):
    """What the matcher needs of the mesh: which servers are connected, and where."""

    links: dict[str, int]
    """Server id -> connection."""


class Proposal:
    """A proposal of ours that is not yet answered."""

    __slots__ = ("entry", "mate", "target", "token")

    def __init__(self, entry: Entry | None, mate: str, target: Entry, token: bytes) -> None:
        self.entry = entry
        """None once it has left the table: the answer still says what becomes of the target."""
        self.mate = mate
        self.target = target
        """What it was proposed to; it may have left the table meanwhile."""
        self.token = token


class Matcher:
    """The heart of a server. Its methods append effects to ``out``; the server hands it the same list each step."""

    def __init__(self, me: str, draw: Draw, mates: Mates, *, epoch: float, name_memory: float) -> None:
        self.me = me
        self.table = Table()
        self.lodged: dict[int, dict[bytes, Entry]] = {}
        """Client connection -> its entries."""
        self.proposals: dict[bytes, Proposal] = {}
        self.out: list[ServerEffect] = []
        self.lazy: list[Removal] = []
        """Removals that wait for the next heartbeat."""
        self.lazy_due: float | None = None
        self.doubts = Doubts()
        self.matches = 0
        self._sent_to: list[PostEntry] = []
        """Others' posts to which we proposed since their owner's last heartbeat."""
        self._draw = draw
        self._mates = mates
        self.generations = Generations(epoch=epoch, memory=name_memory)
        self._unique = UniqueNames(me, self.table, self.generations)

    # ---- from clients -----------------------------------------------------------------------------------------

    def lodge_meet(self, conn: int, message: Meet, now: float) -> Entry | None:
        """Take a meet in and match it if it can be. Returns the entry if it now waits; None if it is over already."""
        if not self._is_news(message.rid, message.n, now):
            return None
        table = self.table
        if not table.partners(message):
            post = table.choose(message)
            if post is not None and not post.owner:
                # What most meets come to: a post that is here. They are never on the table.
                self._give(conn, message, post, now)
                return None
        entry = Entry.lodged(message, conn, now)
        self._keep(entry)
        self._seek(entry, now)
        return entry if entry.state is not State.GONE else None

    def lodge_post(self, conn: int, message: Post, now: float) -> PostEntry | None:
        """Take a post in and let the waiting ones have it. Returns None, having said why, if it is refused."""
        if not self._is_news(message.rid, message.n, now):
            return None
        try:
            generation, displaced = self._unique.claim(message, now)
        except DeniedError as error:
            held = error.generation if isinstance(error, Displaced) else 0
            self._send(conn, Refused(message.rid, message.n, error.code, str(error), held))
            return None
        self._displace(displaced, generation, now)
        entry = PostEntry(
            message.rid,
            message.n,
            message.name,
            message.candidates,
            message.datagram,
            "",
            conn,
            now,
            backlog=message.backlog,
            unique=message.unique,
            claim=claim_of(message),
            generation=generation,
            user=message.user,
            allow=message.allow,
        )
        self._keep(entry)
        self._send(conn, Posted(message.rid, message.n, generation))
        entry.propagated = True
        self._tell_mates(entry.propagated_as())
        self._fill(entry, now)
        return entry

    def withdraw(self, conn: int, message: Withdraw, now: float) -> None:
        """Remove what the client withdraws."""
        entry = self.lodged.get(conn, _NOTHING).get(message.rid)
        if entry is not None and entry.n <= message.n:  # else it was matched, or lodged anew, before this came
            self._drop_own([entry], now)

    def settle(self, conn: int, message: Settled, now: float) -> None:
        """A post has taken more of its matches off our hands: others may have its room."""
        post = self.lodged.get(conn, _NOTHING).get(message.rid)
        if not isinstance(post, PostEntry) or post.n != message.n:
            return
        post.settled = min(max(post.settled, message.count), post.matched)
        self._fill(post, now)
        self._say_room(post)

    def client_lost(self, conn: int, now: float) -> None:
        """Remove everything that this client had lodged."""
        entries = self.lodged.get(conn)
        if entries:
            self._drop_own(list(entries.values()), now)

    # ---- from mates -------------------------------------------------------------------------------------------

    def mate_up(self, mate: str) -> None:
        """Tell a new mate all that we own (figure 3: integration of a new or recovered server)."""
        conn = self._mates.links[mate]
        for _, entry in sorted(self.table.own.items()):
            if entry.propagated:
                self._send(conn, entry.propagated_as())
                if isinstance(entry, PostEntry) and not entry.has_room:
                    self._remember_busy(entry, mate)  # it will not ask, so it is to be told

    def mate_lost(self, mate: str, now: float) -> None:
        """Remove all that the lost server owned; what we had proposed to it is free again."""
        for entry in list(self.table.foreign.get(mate, _NOTHING).values()):
            self.table.remove(entry)
        self._sent_to = [post for post in self._sent_to if post.owner != mate]
        for entry in self.table.own.values():
            if mate in entry.busy:
                entry.busy = tuple(other for other in entry.busy if other != mate)
        for match, proposal in list(self.proposals.items()):
            if proposal.mate == mate:
                del self.proposals[match]
                if proposal.entry is not None:
                    self._release(proposal.entry, now)

    def propagated(self, mate: str, message: Propagated, now: float) -> None:
        """A mate owns this entry; it may match one of ours."""
        known = self.table.get(mate, message.rid)
        if known is not None and known.n == message.n:
            if isinstance(known, PostEntry):
                known.full = message.room == 0
                self._fill(known, now, message.room)
            else:
                known.taken = False
                self._answer(known)
            return
        if not self._supersede(message.rid, message.n, now):
            return
        entry = of_mate(message, mate, now)
        self.table.add(entry)
        if isinstance(entry, PostEntry):
            self._displace(self._unique.losers(entry), entry.generation, now)
            self._fill(entry, now, message.room)
        else:
            self._answer(entry)

    def removed(self, mate: str, removals: Iterable[Removal], now: float) -> None:
        """A mate's entries are gone. Those that they were matched with are taken, whoever owns them."""
        for removal in removals:
            gone = self.table.get(mate, removal.rid)
            if gone is not None and gone.n <= removal.n:
                self.table.remove(gone)
            if removal.partner:
                self._consumed(removal.rid, removal.n, now)
                self._consumed(removal.partner, removal.partner_n, now)

    def propose(self, mate: str, message: Propose, now: float) -> None:
        """A mate wants one of our entries for one of its own: grant or decline, at once."""
        conn = self._mates.links[mate]
        entry = self.table.own.get(message.target)
        if entry is None or entry.n != message.target_n or not _fits(entry, message):
            self._send(conn, Declined(message.match, busy=False))
            return
        if isinstance(entry, PostEntry):
            if not entry.has_room:
                self._remember_busy(entry, mate)
                self._send(conn, Declined(message.match, busy=True))
                return
            entry.matched += 1
        elif entry.state is State.RESERVED:
            self._remember_busy(entry, mate)
            self._send(conn, Declined(message.match, busy=True))
            return
        told = _told(entry, message, message.match, message.token, not message.active, message.generation)
        self._send(entry.conn, told)
        self._send(conn, Granted(message.match))
        self.matches += 1
        if not isinstance(entry, PostEntry):
            entry.move(Input.MATCHED)
            self._forget(entry)
            if entry.propagated:
                removal = Removal(entry.rid, entry.n, message.rid, message.n)
                self._tell_mates(Removed((removal,)), but=mate)
            self._consumed(message.rid, message.n, now)

    def granted(self, mate: str, message: Granted, now: float) -> None:
        """Our proposal is granted: tell our client."""
        proposal = self.proposals.get(message.match)
        if proposal is None or proposal.mate != mate:
            return
        del self.proposals[message.match]
        entry, target = proposal.entry, proposal.target
        known = self.table.get(mate, target.rid)
        if entry is None:
            # Our client withdrew or was lost meanwhile, and the other side's attempt lapses. Its entry is gone all the
            # same: a grant is also the removal, so nothing else will tell us.
            self._used_up(target, now)
            return
        assert entry.state is State.RESERVED, "an entry leaves RESERVED only with its proposal"
        if known is None and not isinstance(target, PostEntry):
            # A greater attempt came by way of another server while the grant was on its way: whoever made it takes no
            # match of the lesser one any more, so ours is better off waiting on.
            self._release(entry, now)
            return
        generation = target.generation if isinstance(target, PostEntry) and target.unique else 0
        self._send(entry.conn, _told(entry, target, message.match, proposal.token, True, generation))
        entry.move(Input.GRANTED)
        self._forget(entry)
        if entry.propagated:
            self._remove_lazily(Removal(entry.rid, entry.n), now)
        self._used_up(target, now)

    def _used_up(self, target: Entry, now: float) -> None:
        """A proposal to this entry of a mate's was granted."""
        if not self._is_there(target):
            return
        if isinstance(target, PostEntry):
            # Ask for one more than we got, as long as somebody waits: only a proposal that it declines lets the owner
            # know that it is to tell us of room.
            self._fill(target, now, 0)
        else:
            self.table.remove(target)

    def declined(self, mate: str, message: Declined, now: float) -> None:
        """Our proposal is refused: our entry stays queued."""
        proposal = self.proposals.get(message.match)
        if proposal is None or proposal.mate != mate:
            return
        del self.proposals[message.match]
        target = proposal.target
        if isinstance(target, PostEntry):
            target.full = True  # until its owner says that it has room
        else:
            target.taken = True  # until its owner says that it is free
        if not message.busy and self.table.get(mate, target.rid) is target:
            self.table.remove(target)
        if proposal.entry is not None:
            self._release(proposal.entry, now, upwards=not message.busy)

    def mate_alive(self, mate: str) -> None:
        """A heartbeat came: what its posts were sent before is held for accepted, unless they said otherwise."""
        for post in [post for post in self._sent_to if post.owner == mate]:
            post.settled = post.matched
            self._sent_to.remove(post)

    # ---- seeking ----------------------------------------------------------------------------------------------

    def _seek(self, entry: Entry, now: float, *, upwards: bool = True) -> bool:
        """Match an own waiting meet, or propose it, or let the mates know of it. True if it has found somebody."""
        assert entry.state is State.WAITING, "only what waits may seek"
        for partner in self.table.partners(entry):
            if not partner.owner and partner.state is State.WAITING and not _at_odds(entry, partner):
                self._commit(entry, partner, now)
                return True
        new = upwards and not entry.propagated
        for partner in self.table.partners(entry):
            if not partner.owner or partner.taken or not (new or partner.owner < self.me):
                continue
            if not _at_odds(entry, partner):
                self._propose(entry, partner)
                return True
        post = self.table.choose(entry)
        if post is not None:
            if post.owner:
                self._propose(entry, post)
            else:
                self._commit(entry, post, now)
            return True
        if not entry.propagated:
            entry.propagated = True
            self._tell_mates(entry.propagated_as())
        return False

    def _answer(self, theirs: Entry) -> None:
        """A mate's meet came, or is free again: the first of ours that matches it is proposed, if that is our part."""
        if theirs.taken or theirs.owner > self.me:
            return
        for ours in self.table.partners(theirs):
            if not ours.owner and ours.state is State.WAITING and not _at_odds(ours, theirs):
                self._propose(ours, theirs)
                return

    def _fill(self, post: PostEntry, now: float, room: int | None = None) -> None:
        """Let our waiting meets have a post's room, first come first served."""
        # Of another's post we ask one more than there is room for: its owner then knows that we have others waiting.
        left = post.backlog if room is None else room + 1
        if not post.has_room:
            return
        for entry in self.table.seekers(post.me, post.datagram):
            if left <= 0 or not post.has_room:
                return
            if entry.owner or entry.state is not State.WAITING or not admits(post, entry):
                continue
            if self._seek(entry, now):
                left -= 1

    def _give(self, conn: int, client: Meet, post: PostEntry, now: float) -> None:
        """Match a client with a post of ours."""
        post.matched += 1
        self._tell_both(conn, client, post, post.generation if post.unique else 0)
        if self.table.foreign:
            self._consumed(client.rid, client.n, now)

    def _tell_both(self, conn: int, active: Meet | Entry, passive: Entry, generation: int) -> None:
        match, token = self._draw_match()
        # The active side first: it has the longer way to go, and on a full machine whom we wake takes our core.
        self.out += (
            Send(conn, _told(active, passive, match, token, True, generation)),
            Send(passive.conn, _told(passive, active, match, token, False, 0)),
        )
        self.matches += 1

    def _commit(self, newcomer: Entry, waiting: Entry, now: float) -> None:
        """Match two entries of ours. The one that waited is passive: it has been listening for longer."""
        generation = 0
        if isinstance(waiting, PostEntry):
            waiting.matched += 1
            generation = waiting.generation if waiting.unique else 0
        self._tell_both(newcomer.conn, newcomer, waiting, generation)
        removals = []
        for entry, other in ((newcomer, waiting), (waiting, newcomer)):
            if isinstance(entry, PostEntry):
                continue
            entry.move(Input.MATCHED)
            self._forget(entry)
            if entry.propagated:
                removals.append(Removal(entry.rid, entry.n, other.rid, other.n))
        if removals:
            self._tell_mates(Removed(tuple(removals)))
        for entry in (newcomer, waiting):
            if entry.state is State.GONE:
                self._consumed(entry.rid, entry.n, now)

    def _propose(self, ours: Entry, theirs: Entry) -> None:
        match, token = self._draw_match()
        ours.move(Input.PROPOSE)
        ours.proposal = match
        self.proposals[match] = Proposal(ours, theirs.owner, theirs, token)
        if isinstance(theirs, PostEntry):
            if theirs.matched == theirs.settled:
                self._sent_to.append(theirs)
            theirs.matched += 1
        target, lodged, users = (theirs.rid, theirs.n), (ours.rid, ours.n), (ours.user, ours.peer_user)
        message = Propose(match, token, *target, *lodged, ours.me, ours.candidates, True, 0, *users)
        self._send(self._mates.links[theirs.owner], message)

    def _release(self, entry: Entry, now: float, *, upwards: bool = True) -> None:
        """A proposal came to nothing: seek on, and tell those whom we kept waiting."""
        entry.move(Input.DECLINED)
        entry.proposal = b""
        known_to_all = entry.propagated
        if not self._seek(entry, now, upwards=upwards) and entry.busy:
            kept_waiting, entry.busy = entry.busy, ()
            if known_to_all:  # else it was propagated to all just now
                for mate in kept_waiting:
                    self._send(self._mates.links[mate], entry.propagated_as())

    def _remember_busy(self, entry: Entry, mate: str) -> None:
        if mate not in entry.busy:
            entry.busy = (*entry.busy, mate)

    def _say_room(self, post: PostEntry) -> None:
        if not post.busy or not post.has_room:
            return
        message = post.propagated_as()
        for mate in post.busy:
            self._send(self._mates.links[mate], message)
        post.busy = ()

    def _displace(self, posts: Sequence[PostEntry], generation: int, now: float) -> None:
        """Close our own posts that have lost their name. Others' owners do it themselves when they hear of it."""
        for post in posts:
            error = Displaced(post.me, generation)
            self._send(post.conn, Refused(post.rid, post.n, error.code, str(error), generation))
        self._drop_own(posts, now)

    # ---- removing ---------------------------------------------------------------------------------------------

    def _is_news(self, rid: bytes, n: int, now: float) -> bool:
        """Whether an attempt that a client lodges is to be taken in: not if it, or a greater one, is here."""
        known = self.table.own.get(rid)
        if known is not None and known.n >= n:
            return False
        return self._supersede(rid, n, now)

    def _supersede(self, rid: bytes, n: int, now: float) -> bool:
        """Remove lesser attempts of a request. False if a greater one is known: this one is stale."""
        stale: list[Entry] = []
        for entry in self.table.attempts(rid):
            if entry.n > n:
                return False
            if entry.n < n:
                stale.append(entry)
        for entry in stale:
            if entry.owner:
                self.table.remove(entry)
            else:
                self._drop_own([entry], now)
        return True

    def _consumed(self, rid: bytes, n: int, now: float) -> None:
        """This attempt is matched somewhere: copies of it may not match again."""
        for entry in self.table.attempts(rid):
            if entry.n > n or isinstance(entry, PostEntry):
                continue
            if not entry.owner:
                self._drop_own([entry], now)
            elif not entry.taken:
                self.doubts.mark(entry, now)

    def look_again(self, now: float) -> None:
        """Hold entries for free again that were matched by others' word, if their owners did not confirm it."""
        for owner, rid, n in self.doubts.look(now):
            entry = self.table.get(owner, rid)
            if entry is not None and entry.n == n and entry.taken:
                entry.taken = False
                self._answer(entry)

    def _drop_own(self, entries: Sequence[Entry], now: float) -> None:
        """Remove entries of ours that end without a match by us, and tell the mates."""
        removals = []
        for entry in entries:
            entry.move(Input.REMOVED)
            self._forget(entry)
            if entry.propagated:
                removals.append(Removal(entry.rid, entry.n))
            if isinstance(entry, PostEntry):
                self._unique.gone(entry, now)
        for at in range(0, len(removals), MAX_REMOVALS):
            self._tell_mates(Removed(tuple(removals[at : at + MAX_REMOVALS])))

    def _keep(self, entry: Entry) -> None:
        """Put an entry of ours on the table."""
        self.table.add(entry)
        self.lodged.setdefault(entry.conn, {})[entry.rid] = entry

    def _forget(self, entry: Entry) -> None:
        """Take an entry of ours off the table. A proposal of it stays until it is answered."""
        self.table.remove(entry)
        lodged = self.lodged[entry.conn]
        del lodged[entry.rid]
        if not lodged:
            del self.lodged[entry.conn]
        proposal = self.proposals.get(entry.proposal) if entry.proposal else None
        if proposal is not None:
            proposal.entry = None

    def _remove_lazily(self, removal: Removal, now: float) -> None:
        if not self._mates.links:
            return
        self.lazy.append(removal)
        if self.lazy_due is None:
            self.lazy_due = now + LAZY_DELAY
        if len(self.lazy) >= MAX_REMOVALS // 2:
            self._tell_mates(Removed(self.take_lazy()))

    def take_lazy(self) -> tuple[Removal, ...]:
        """Return the removals that waited; they go out with what the caller sends now."""
        taken = tuple(self.lazy)
        self.lazy.clear()
        self.lazy_due = None
        return taken

    # ---- for the explorer -------------------------------------------------------------------------------------

    def snapshot(self) -> tuple[object, ...]:
        """Return the whole state as nested tuples, equal for equal states."""
        proposals = tuple(
            (
                match,
                b"" if p.entry is None else p.entry.rid,
                p.mate,
                p.token,
                p.target.freeze(),
                self.table.get(p.mate, p.target.rid) is p.target,
            )
            for match, p in sorted(self.proposals.items())
        )
        sent_to = tuple((post.owner, post.rid) for post in self._sent_to if self._is_there(post))
        return (
            self.table.snapshot(),
            proposals,
            sent_to,
            self.generations.snapshot(),
            tuple(self.lazy),
            self.lazy_due,
            self.doubts.snapshot(),
            self.matches,
            self._draw.count,
        )

    def restore(self, snapshot: tuple[object, ...]) -> None:
        """Become what was snapshot."""
        table, proposals, sent_to, generations, lazy, self.lazy_due, doubts, self.matches, self._draw.count = snapshot  # type: ignore[assignment]
        self.table.restore(table)  # type: ignore[arg-type]
        self.lodged = {}
        for entry in self.table.own.values():
            self.lodged.setdefault(entry.conn, {})[entry.rid] = entry
        self.proposals = {}
        for match, rid, mate, token, frozen, there in proposals:  # type: ignore[attr-defined]
            target = self.table.get(mate, frozen[Entry.__slots__.index("rid")]) if there else None
            if target is None:
                kind = Entry if len(frozen) == len(Entry.__slots__) else PostEntry
                target = kind.thaw(frozen)
            self.proposals[match] = Proposal(self.table.own[rid] if rid else None, mate, target, token)
        self._sent_to = []
        for owner, rid in sent_to:  # type: ignore[attr-defined]
            post = self.table.get(owner, rid)
            assert isinstance(post, PostEntry), "only what is there is snapshot"
            self._sent_to.append(post)
        self.generations.restore(generations)  # type: ignore[arg-type]
        self.lazy = list(lazy)  # type: ignore[call-overload]
        self.doubts.restore(doubts)  # type: ignore[arg-type]

    def _is_there(self, entry: Entry) -> bool:
        return self.table.get(entry.owner, entry.rid) is entry

    # ---- sending ----------------------------------------------------------------------------------------------

    def _draw_match(self) -> tuple[bytes, bytes]:
        drawn = self._draw.bytes(MATCH_SIZE + TOKEN_SIZE)
        return drawn[:MATCH_SIZE], drawn[MATCH_SIZE:]

    def _send(self, conn: int, message: Message) -> None:
        self.out.append(Send(conn, message))  # type: ignore[arg-type]  # every caller passes a member of the union

    def _tell_mates(self, message: Message, but: str = "") -> None:
        for mate, conn in self._mates.links.items():
            if mate != but:
                self._send(conn, message)

    def log(self, what: str, about: str = "") -> None:
        """Say something to the operator."""
        self.out.append(Log(what, about))


def _told(
    to: Meet | Entry, about: Meet | Entry | Propose, match: bytes, token: bytes, active: bool, generation: int
) -> Matched:
    """Return what tells one side of a match about the other."""
    partner = handle(about.rid) if about.user else b""
    peer = (about.me, about.candidates, generation, about.user, partner)
    return Matched(to.rid, to.n, match, token, active, *peer)


def _at_odds(one: Entry, other: Entry) -> bool:
    """Whether two meets that name each other are not to be matched: they tried, and authentication failed."""
    return shuns(one, other.rid) or shuns(other, one.rid)


def _fits(target: Entry, message: Propose) -> bool:
    """Whether a proposal agrees with our entry about users. The proposer knows it, unless it is of an older version."""
    if isinstance(target, PostEntry):
        return message.peer_user == target.user and (not target.user or allows(target, message.user))
    agreed = (message.user, message.peer_user) == (target.peer_user, target.user)
    return agreed and not shuns(target, message.rid)
