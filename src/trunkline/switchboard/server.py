"""One switchboard server: events in, effects out (docs/spec/switchboard.md).

It is put together from three parts, each of which answers one question: `Mesh` (which servers are there?), `Matcher`
(who is matched with whom?) and this file (who may say what, and is everyone still alive?).

Who may send which message, and when, is one table, `ADMISSION`; what a user may ask for is another, `policy.CHECKS`:
no handler checks it again.
"""

import enum
from collections.abc import Callable, Hashable
from typing import Any, Final

from trunkline.errors import MessageNotAllowed, NameTaken, NotAllowed, RemoteError, SilentPeer, TooMany, TrunklineError
from trunkline.names import Draw
from trunkline.switchboard.config import ServerConfig
from trunkline.switchboard.events import (
    Close,
    Halt,
    Log,
    Lost,
    Opened,
    Received,
    Send,
    ServerEffect,
    ServerEvent,
    Stop,
    Tick,
)
from trunkline.switchboard.explain import explain
from trunkline.switchboard.matcher import Matcher
from trunkline.switchboard.mesh import Mesh
from trunkline.wire.limits import MAX_MEMBERS, MAX_NAMES, MAX_TEXT
from trunkline.wire.messages import (
    Alive,
    AskStatus,
    Broadcast,
    Declined,
    Elsewhere,
    Explain,
    Explanation,
    Goodbye,
    Granted,
    Hello,
    Leaving,
    ListNames,
    MateAlive,
    MateHello,
    MateNotice,
    MateWelcome,
    Meet,
    Member,
    Members,
    Message,
    NameList,
    Notice,
    Post,
    PostedName,
    Propagated,
    Propose,
    Refused,
    Removed,
    ServerStatus,
    Settled,
    Welcome,
    Withdraw,
)

GREETING_TIME: Final = 5.0
"""Seconds that a new connection has for its first message."""

MISSED_HEARTBEATS: Final = 3
"""A connection on which nothing was heard for this many heartbeats is lost."""

LOGGED_DENIALS: Final = 1.0
"""Refusals that are logged of one connection in a second, on average: a client must not fill the disk with them."""

QUESTION_RATE: Final = 50.0
"""Explanations that one client may ask for in a second, on average: each costs a scan."""


class Role(enum.Enum):
    """What a connection is to us."""

    NEWCOMER = "newcomer"
    CLIENT = "client"
    DIALLED = "server that was dialled"
    MATE = "server"


class Party:
    """One connection: who is at the other end, and when it was last heard."""

    __slots__ = ("allowances", "conn", "detours", "heard", "notices", "remote", "role", "said", "user")

    def __init__(self, conn: int, role: Role, remote: str, user: str, now: float) -> None:
        self.conn = conn
        self.user = user
        """Whom the other side proved to be; empty if nobody."""
        self.role = role
        self.remote = remote
        self.heard = now
        self.said = now
        self.notices = False
        self.detours: tuple[Member, ...] = ()
        """The detours that this client was told of last."""
        self.allowances: tuple[tuple[float, float, float], ...] = ()
        """Buckets of tokens, for what is rationed: (rate, what is left of it, when it was filled last)."""


class Server:
    """A switchboard server, of the Server shape.

    Args:
        config: its settings.
        seed: 16 random bytes or more; tokens and jitter are drawn from it.
        incarnation: grows with each start of this server; the clock in nanoseconds will do.
        epoch: the wall clock, in seconds, at ``now`` = 0.
        now: the time, in seconds, by a clock that never goes back.

    The first event is `Tick`, on which it dials the servers that it is to join.
    """

    def __init__(self, config: ServerConfig, *, seed: bytes, incarnation: int, epoch: float, now: float) -> None:
        self.config = config
        self._started = now
        self._mesh = Mesh(config, Draw(seed + b"mesh"), incarnation, now)
        self._matcher = Matcher(
            config.id, Draw(seed + b"match"), self._mesh, epoch=epoch, name_memory=config.name_memory
        )
        self._parties: dict[int, Party] = {}
        self._clients = 0
        self._listeners = 0
        """How many clients want notices."""
        self._sweep_due = now + config.heartbeat / 2
        self._stopped = False
        self._now = now
        self.out: list[ServerEffect] = []

    # ---- the Server shape -------------------------------------------------------------------------------------

    def step(self, event: ServerEvent, now: float) -> list[ServerEffect]:
        """Take one event and return what is to be done, in order."""
        self._now = now
        self.out = self._matcher.out = self._mesh.out = []
        match event:
            case Received():
                self._receive(event)
            case Opened():
                self._open(event)
            case Lost():
                self._lose(event.conn, event.reason)
            case Tick():
                self._tick()
            case Stop():
                self._stop()
        return self.out

    def next_deadline(self) -> float | None:
        """Return when `Tick` is due; None if there is nothing to wait for."""
        if self._stopped:
            return None
        due = self._sweep_due if self._parties or len(self._matcher.generations) else None
        for other in (self._mesh.next_deadline(), self._matcher.lazy_due, self._matcher.doubts.due):
            if other is not None and (due is None or other < due):
                due = other
        return due

    # ---- connections ------------------------------------------------------------------------------------------

    def _open(self, event: Opened) -> None:
        if self._stopped:
            self.out.append(Close(event.conn, "this server stops"))
            return
        dialled = self._mesh.opened(event.conn)
        most = self.config.max_clients + MAX_MEMBERS
        if not dialled and len(self._parties) >= most:
            self._dismiss(event.conn, TooMany("connections to this server", most))
            return
        role = Role.DIALLED if dialled else Role.NEWCOMER
        self._parties[event.conn] = Party(event.conn, role, event.remote, event.user, self._now)

    def _receive(self, event: Received) -> None:
        party = self._parties.get(event.conn)
        if party is None:
            return  # closed by us while this was on its way
        message = event.message
        if party.role in _GREETED:
            party.heard = self._now  # others have a fixed time to introduce themselves, whatever they say meanwhile
        rule = ADMISSION.get(type(message))
        if rule is None or party.role not in rule[1]:
            self._expel(party, MessageNotAllowed(type(message).__name__, party.role.value))
            return
        try:
            self.config.policy.check(party.user, message)
        except NotAllowed as error:
            self._deny(party, message, error)
            return
        rule[0](self, party, message)

    def _lose(self, conn: int, reason: str) -> None:
        party = self._parties.pop(conn, None)
        if party is not None and party.role is Role.CLIENT:
            self._clients -= 1
            self._listeners -= party.notices
            self._matcher.client_lost(conn, self._now)
        server = self._mesh.lost(conn, self._now)
        if server is not None:
            self.out.append(Log("link lost", f"{server}: {reason}"))
            self._matcher.mate_lost(server, self._now)

    def _expel(self, party: Party, error: RemoteError) -> None:
        """The other side broke the rules: say which, and close."""
        self.out.append(Log("expelled", f"{party.role.value} {party.remote}: {error}"))
        self._dismiss(party.conn, error)
        self._lose(party.conn, str(error))

    def _deny(self, party: Party, message: Message, error: NotAllowed) -> None:
        """The policy does not let it: say what it may know, and write down who wanted what."""
        if self._may_spend(party, LOGGED_DENIALS):
            who = f"the user {party.user!r}" if party.user else "nobody proven"
            self.out.append(Log("not allowed", f"{who} at {party.remote}: {_wish(message)}: {error}"))
        match message:
            case Meet() | Post():
                self.out.append(Send(party.conn, Refused(message.rid, message.n, error.code, str(error)[:MAX_TEXT])))
            case Explain():
                self.out.append(Send(party.conn, Explanation(message.query, (str(error)[:MAX_TEXT],))))
            case MateHello() | MateWelcome():
                self._dismiss(party.conn, error)
                self._lose(party.conn, str(error))
            case _:
                pass  # a broadcast: they are unreliable

    def _dismiss(self, conn: int, error: TrunklineError) -> None:
        code = getattr(error, "code", 1)
        self.out.append(Send(conn, Goodbye(code, str(error)[:MAX_TEXT])))
        self.out.append(Close(conn, str(error)))

    # ---- time -------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if self._stopped:
            return
        now = self._now
        self._mesh.tick(now)
        if self._matcher.lazy_due is not None and self._matcher.lazy_due <= now:
            self._beat_mates()
        if self._matcher.doubts.due is not None and self._matcher.doubts.due <= now:
            self._matcher.look_again(now)
        if now >= self._sweep_due:
            self._sweep_due = now + self.config.heartbeat / 2
            self._sweep()

    def _sweep(self) -> None:
        """Look at every connection: who is silent, and to whom have we been? Half a heartbeat apart, so cheap."""
        now = self._now
        silent_for = self.config.heartbeat * MISSED_HEARTBEATS
        detours = self._mesh.detours(self.config.heartbeat, now)
        silent: list[Party] = []
        beat = False
        for party in self._parties.values():
            limit = silent_for if party.role in _GREETED else GREETING_TIME
            if now - party.heard > limit:
                silent.append(party)
            elif party.role is Role.MATE:
                beat = beat or now - party.said >= self.config.heartbeat / 2
            elif party.role is Role.CLIENT:
                if now - party.said >= self.config.heartbeat:
                    party.said = now
                    self.out.append(Send(party.conn, _ALIVE))
                self._show_detours(party, detours)
        if beat:
            self._beat_mates()
        for party in silent:
            self._expel(party, SilentPeer(now - party.heard))
        self._matcher.generations.forget(now)

    def _beat_mates(self) -> None:
        removals = self._matcher.take_lazy()
        message = MateAlive(self._mesh.seen(), removals)
        for conn in self._mesh.links.values():
            self._parties[conn].said = self._now
            self.out.append(Send(conn, message))

    def _show_detours(self, party: Party, detours: tuple[Member, ...]) -> None:
        """Tell a client that waits where to lodge as well; and later, that this is no longer needed."""
        if detours == party.detours or (detours and party.conn not in self._matcher.lodged):
            return
        party.detours = detours
        self.out.append(Send(party.conn, Elsewhere(detours)))

    def _stop(self) -> None:
        """Leave in good order: mates don't miss us, clients look elsewhere at once."""
        self._stopped = True
        for conn in self._mesh.links.values():
            self.out.append(Send(conn, Leaving()))
        for party in self._parties.values():
            if party.role is Role.CLIENT:
                self.out.append(Send(party.conn, Goodbye(0, "this server stops")))
            self.out.append(Close(party.conn, "this server stops"))
        self._parties.clear()

    # ---- handlers: from anyone --------------------------------------------------------------------------------

    def _on_alive(self, party: Party, message: Alive) -> None:
        pass  # being heard is all there is to it

    def _on_goodbye(self, party: Party, message: Goodbye) -> None:
        if party.role is Role.DIALLED and message.code == NameTaken.code:
            self.out.append(Halt(NameTaken(self.config.id, message.text)))
        self.out.append(Close(party.conn, message.text))
        self._lose(party.conn, message.text)

    # ---- handlers: from clients -------------------------------------------------------------------------------

    def _on_hello(self, party: Party, message: Hello) -> None:
        # Not when it connects: it might be a server, and a server full of clients must stay in the mesh.
        if self._clients >= self.config.max_clients:
            self._dismiss(party.conn, TooMany("clients on this server", self.config.max_clients))
            self._lose(party.conn, "one client too many")
            return
        party.role = Role.CLIENT
        party.heard = self._now
        party.notices = message.notices
        self._clients += 1
        self._listeners += message.notices
        party.said = self._now
        me = self._mesh.me
        welcome = Welcome(me.id, me.incarnation, self.config.heartbeat, self._mesh.everyone())
        self.out.append(Send(party.conn, welcome))

    def _on_meet(self, party: Party, message: Meet) -> None:
        if self._has_too_many(party, message):
            return
        self._matcher.lodge_meet(party.conn, message, self._now)

    def _on_post(self, party: Party, message: Post) -> None:
        if self._has_too_many(party, message):
            return
        self._matcher.lodge_post(party.conn, message, self._now)

    def _has_too_many(self, party: Party, message: Meet | Post) -> bool:
        lodged = self._matcher.lodged.get(party.conn)
        if lodged is None or len(lodged) < self.config.max_requests:
            return False
        error = TooMany("requests lodged by one client", self.config.max_requests)
        self.out.append(Send(party.conn, Refused(message.rid, message.n, error.code, str(error), error.limit)))
        return True

    def _on_withdraw(self, party: Party, message: Withdraw) -> None:
        self._matcher.withdraw(party.conn, message, self._now)

    def _on_settled(self, party: Party, message: Settled) -> None:
        self._matcher.settle(party.conn, message, self._now)

    def _on_explain(self, party: Party, message: Explain) -> None:
        lines: list[str] = []
        if self._may_spend(party, QUESTION_RATE):
            lines = explain(self._matcher.table, message, self._seen_by(party))
            lines += [f"the server {server!r} can't be reached by {self.config.id!r}" for server in self._mesh.missing]
        else:
            lines = [f"too many questions: the limit is {QUESTION_RATE:g} in a second"]
        self.out.append(Send(party.conn, Explanation(message.query, tuple(line[:MAX_TEXT] for line in lines[:16]))))

    def _on_list_names(self, party: Party, message: ListNames) -> None:
        found, more = self._matcher.table.names(message.prefix, message.after, MAX_NAMES, self._seen_by(party))
        names = tuple(
            PostedName(name, len(posts), any(post.unique for post in posts), kind, user)
            for (name, kind, user), posts in found
        )
        self.out.append(Send(party.conn, NameList(message.query, names, more)))

    def _seen_by(self, party: Party) -> Callable[[str], bool]:
        return lambda name: self.config.policy.may_see(party.user, name)

    def _on_ask_status(self, party: Party, message: AskStatus) -> None:
        self.out.append(Send(party.conn, self.status(self._now, message.query)))

    def _on_broadcast(self, party: Party, message: Broadcast) -> None:
        if not self._may_spend(party, self.config.notice_rate):
            return  # notices are unreliable: whoever sends too many loses them
        self._notify_clients(message.payload, but=party.conn)
        notice = MateNotice(message.payload)
        for conn in self._mesh.links.values():
            self.out.append(Send(conn, notice))

    def _may_spend(self, party: Party, rate: float) -> bool:
        """Take one from the party's allowance: ``rate`` a second on average, ten seconds' worth at once."""
        left, filled = next(((left, at) for kind, left, at in party.allowances if kind == rate), (rate * 10, self._now))
        left = min(rate * 10, left + (self._now - filled) * rate)
        may = left >= 1
        others = tuple(bucket for bucket in party.allowances if bucket[0] != rate)
        party.allowances = (*others, (rate, left - may, self._now))
        return may

    def _notify_clients(self, payload: bytes, but: int = 0) -> None:
        if not self._listeners:
            return
        notice = Notice(payload)
        for party in self._parties.values():
            if party.notices and party.conn != but:
                self.out.append(Send(party.conn, notice))

    # ---- handlers: from other servers -------------------------------------------------------------------------

    def _on_mate_hello(self, party: Party, message: MateHello) -> None:
        self._greet(party, message)

    def _on_mate_welcome(self, party: Party, message: MateWelcome) -> None:
        self._greet(party, message)

    def _greet(self, party: Party, message: MateHello | MateWelcome) -> None:
        mesh = self._mesh
        before = mesh.links.get(message.me.id)
        if isinstance(message, MateHello):
            server = mesh.hello(party.conn, message, self._now)
        else:
            server = mesh.welcome(party.conn, message, self._now)
        if server is None:
            self._parties.pop(party.conn, None)  # closed by the mesh, which said why
            return
        party.role = Role.MATE
        party.heard = party.said = self._now
        if before is not None:
            self._parties.pop(before, None)
            self._matcher.mate_lost(server, self._now)
        self._matcher.mate_up(server)
        self._tell_members()

    def _tell_members(self) -> None:
        message = Members(self._mesh.everyone())
        for party in self._parties.values():
            if party.role is Role.CLIENT:
                self.out.append(Send(party.conn, message))

    def _on_propagated(self, party: Party, message: Propagated) -> None:
        self._matcher.propagated(self._mate(party), message, self._now)

    def _on_removed(self, party: Party, message: Removed) -> None:
        self._matcher.removed(self._mate(party), message.removals, self._now)

    def _on_propose(self, party: Party, message: Propose) -> None:
        self._matcher.propose(self._mate(party), message, self._now)

    def _on_granted(self, party: Party, message: Granted) -> None:
        self._matcher.granted(self._mate(party), message, self._now)

    def _on_declined(self, party: Party, message: Declined) -> None:
        self._matcher.declined(self._mate(party), message, self._now)

    def _on_mate_notice(self, party: Party, message: MateNotice) -> None:
        self._notify_clients(message.payload)

    def _on_mate_alive(self, party: Party, message: MateAlive) -> None:
        server = self._mate(party)
        self._mesh.saw(server, message, self._now)
        self._matcher.removed(server, message.removals, self._now)
        self._matcher.mate_alive(server)

    def _on_leaving(self, party: Party, message: Leaving) -> None:
        server = self._mate(party)
        self._mesh.left(server)
        self._parties.pop(party.conn, None)
        self._matcher.mate_lost(server, self._now)

    def _mate(self, party: Party) -> str:
        server = self._mesh.server_at(party.conn)
        assert server is not None, "a party is a MATE only while its link is up"
        return server

    # ---- for the explorer -------------------------------------------------------------------------------------

    def status(self, now: float, query: int = 0) -> ServerStatus:
        """Return how this server is; as the answer to a question, if one was asked."""
        meets, posts, foreign = self._matcher.table.counts()
        mesh = self._mesh
        return ServerStatus(
            query,
            mesh.me.id,
            mesh.me.incarnation,
            mesh.me.address,
            now - self._started,
            self._clients,
            meets,
            posts,
            foreign,
            self._matcher.matches,
            mesh.seen(),
            tuple(mesh.members[server] for server in sorted(mesh.missing)),
        )

    def snapshot(self) -> Hashable:
        """Return the whole state as nested tuples, equal for equal states."""
        parties = tuple(
            tuple(getattr(party, name) for name in Party.__slots__) for _, party in sorted(self._parties.items())
        )
        return (
            parties,
            self._mesh.snapshot(),
            self._matcher.snapshot(),
            self._clients,
            self._listeners,
            self._sweep_due,
            self._stopped,
        )

    def restore(self, snapshot: Hashable) -> None:
        """Become what was snapshot."""
        state: Any = snapshot
        parties, mesh, matcher, self._clients, self._listeners, self._sweep_due, self._stopped = state
        self._parties = {}
        for values in parties:
            party = Party.__new__(Party)
            for name, value in zip(Party.__slots__, values, strict=True):
                setattr(party, name, value)
            self._parties[party.conn] = party
        self._mesh.restore(mesh)
        self._matcher.restore(matcher)


def _wish(message: Message) -> str:
    """Return what somebody wanted, in a few words for the log."""
    match message:
        case Meet() | Explain():
            return f"{type(message).__name__} {message.me!r} -> {message.you!r} ({message.user} -> {message.peer_user})"
        case Post():
            return f"Post {message.name!r} ({message.user})"
        case MateHello() | MateWelcome():
            return f"{type(message).__name__} of {message.me.id!r} at {message.me.address}"
        case _:
            return type(message).__name__


_ALIVE: Final = Alive()
_GREETED: Final = frozenset({Role.CLIENT, Role.MATE})

_ANYONE: Final = frozenset(Role)
_CLIENT: Final = frozenset({Role.CLIENT})
_MATE: Final = frozenset({Role.MATE})
_NEWCOMER: Final = frozenset({Role.NEWCOMER})

Handler = Callable[[Server, Party, Any], None]

ADMISSION: Final[dict[type[Message], tuple[Handler, frozenset[Role]]]] = {
    Alive: (Server._on_alive, _ANYONE - _NEWCOMER),
    Goodbye: (Server._on_goodbye, _ANYONE),
    Hello: (Server._on_hello, _NEWCOMER),
    Meet: (Server._on_meet, _CLIENT),
    Post: (Server._on_post, _CLIENT),
    Withdraw: (Server._on_withdraw, _CLIENT),
    Settled: (Server._on_settled, _CLIENT),
    Explain: (Server._on_explain, _CLIENT),
    ListNames: (Server._on_list_names, _CLIENT),
    AskStatus: (Server._on_ask_status, _CLIENT),
    Broadcast: (Server._on_broadcast, _CLIENT),
    MateHello: (Server._on_mate_hello, _NEWCOMER),
    MateWelcome: (Server._on_mate_welcome, frozenset({Role.DIALLED})),
    Propagated: (Server._on_propagated, _MATE),
    Removed: (Server._on_removed, _MATE),
    Propose: (Server._on_propose, _MATE),
    Granted: (Server._on_granted, _MATE),
    Declined: (Server._on_declined, _MATE),
    MateNotice: (Server._on_mate_notice, _MATE),
    MateAlive: (Server._on_mate_alive, _MATE),
    Leaving: (Server._on_leaving, _MATE),
}
"""Message -> (handler, who may send it)."""
