"""The client's machine: what its driver and its servers may tell it (docs/spec/switchboard.md section 5).

Events go in, effects come out (`trunkline.switchboard.events`). Each part answers one question: `uplinks` (which
servers can be used?), `lodging` (where does each request stand?), `rendezvous` (how does a match become a
connection?), `questions`. This file ties them together, and holds the two tables that say who may cause what:
`_events` for the driver, `_admitted` for servers.
"""

from collections.abc import Callable, Hashable
from typing import Any, Final

from trunkline.errors import (
    ClosedError,
    ConfigError,
    LinkClosed,
    LocalError,
    MessageNotAllowed,
    NoSwitchboard,
)
from trunkline.names import check_name, check_pair
from trunkline.switchboard import requests
from trunkline.switchboard.config import ClientConfig
from trunkline.switchboard.context import Context, Timer
from trunkline.switchboard.events import (
    Accepted,
    Announced,
    Answered,
    Asked,
    Cancelled,
    CandidatesChanged,
    ClientEffect,
    ClientEvent,
    Failed,
    Log,
    Lost,
    MeetWanted,
    Noticed,
    Opened,
    PeerBound,
    PeerData,
    PeerDialled,
    PeerLost,
    PeerOpened,
    PostWanted,
    Received,
    Stop,
    Tick,
)
from trunkline.switchboard.finder import Scan
from trunkline.switchboard.lifecycle import Input
from trunkline.switchboard.lodging import Lodgings
from trunkline.switchboard.questions import Questions
from trunkline.switchboard.rendezvous import Ended, Peers
from trunkline.switchboard.requests import MeetRequest, PostRequest
from trunkline.switchboard.uplinks import Down, Phase, Uplink, Uplinks
from trunkline.users import check_pattern, check_user
from trunkline.wire.limits import MAX_ALLOW, MAX_BACKLOG, MAX_CANDIDATES, MAX_NOTICE, MAX_SECRET, RID_SIZE
from trunkline.wire.messages import (
    Alive,
    AskStatus,
    Broadcast,
    Elsewhere,
    Explain,
    Explanation,
    Goodbye,
    ListNames,
    Matched,
    Members,
    NameList,
    Notice,
    Posted,
    Refused,
    ServerStatus,
    Welcome,
)

MAX_ANNOUNCEMENTS: Final = 16
"""Most broadcasts that wait for a server. They are unreliable: the oldest goes."""

_GREETING: Final = frozenset({Phase.GREETING})
_UP: Final = frozenset({Phase.UP})
_OPEN: Final = _GREETING | _UP

_CLOSED: Final = "this client is closed"


class Client:
    """One process's client, of the Server shape.

    Args:
        config: its settings.
        seed: 16 random bytes or more; pauses and jitter are drawn from it.
        now: the driver's clock, in seconds; as in every later call.
    """

    __slots__ = (
        "_admitted",
        "_announcements",
        "_config",
        "_ctx",
        "_due",
        "_events",
        "_lodgings",
        "_peers",
        "_questions",
        "_stopped",
        "_uplinks",
    )

    def __init__(self, config: ClientConfig, *, seed: bytes, now: float) -> None:
        self._config = config
        self._ctx = Context(config, seed)
        self._uplinks = Uplinks(self._ctx)
        self._peers = Peers(self._ctx)
        self._questions = Questions(self._ctx, self._uplinks)
        self._lodgings = Lodgings(self._ctx, self._uplinks, self._peers, self._questions)
        self._announcements: tuple[bytes, ...] = ()
        """Broadcasts that wait for a server."""
        self._stopped = False
        self._events: dict[type, Callable[[Any, float], None]] = {
            Opened: self._opened,
            Received: self._received,
            Lost: self._lost,
            Tick: self._tick,
            Stop: self._stop,
            MeetWanted: self._meet_wanted,
            PostWanted: self._post_wanted,
            Cancelled: self._cancelled,
            Accepted: self._accepted,
            Asked: self._asked,
            Announced: self._announced,
            CandidatesChanged: self._candidates_changed,
            PeerDialled: self._peer_dialled,
            PeerOpened: self._peer_opened,
            PeerBound: self._peer_bound,
            PeerData: self._peer_data,
            PeerLost: self._peer_lost,
        }
        """What the driver may say: everything that there is."""
        self._admitted: dict[type, tuple[Callable[[Uplink, Any, float], None], frozenset[Phase]]] = {
            Alive: (self._alive, _OPEN),
            Goodbye: (self._goodbye, _OPEN),
            Welcome: (self._welcome, _GREETING),
            Matched: (self._matched, _UP),
            Posted: (self._posted, _UP),
            Refused: (self._refused, _UP),
            Explanation: (self._answer, _UP),
            NameList: (self._answer, _UP),
            ServerStatus: (self._answer, _UP),
            Notice: (self._notice, _UP),
            Members: (self._members, _UP),
            Elsewhere: (self._elsewhere, _UP),
        }
        """What a server may say, and when. Anything else closes its connection."""
        self._due: dict[int, Callable[[Any, float], None]] = {
            Timer.FINDER: self._finder_due,
            Timer.ELSEWHERE: self._elsewhere_due,
            Timer.UPLINK: self._uplink_due,
            Timer.DEADLINE: self._deadline_due,
            Timer.REQUEST: self._request_due,
            Timer.SETTLE: self._settle_due,
            Timer.MATCH: self._match_due,
            Timer.STRANGER: self._peers.stranger_timer,
            Timer.QUESTION: self._questions.timer,
        }
        if config.notices:
            self._ctx.timers.set((Timer.FINDER, 0), now)  # such a client wants a server from the start

    def step(self, event: ClientEvent, now: float) -> list[ClientEffect]:
        """Take one event and return its effects, to be carried out in order. Then ask `next_deadline` again."""
        out: list[ClientEffect] = []
        self._ctx.out = out
        self._events[type(event)](event, now)
        return out

    def next_deadline(self) -> float | None:
        """Return when a `Tick` is due, or None."""
        return self._ctx.timers.next()

    def bytes_wanted(self, conn: int) -> int:
        """Return how many bytes may be read from a peer connection now; at 0 only its end is of interest."""
        return self._peers.bytes_wanted(conn)

    # ---- what callers want -------------------------------------------------------------------------------------

    def _meet_wanted(self, event: MeetWanted, now: float) -> None:
        try:
            check_pair(event.me, event.you)
            if event.user or event.peer_user:
                check_user(event.user)
                check_user(event.peer_user)
            self._check(event.rid, event.candidates)
        except LocalError as error:
            self._ctx.out.append(Failed(event.rid, error))
            return
        down = self._lodgings.admit(MeetRequest(event, now), now)
        if down is not None:
            self._see_to(down, now)

    def _post_wanted(self, event: PostWanted, now: float) -> None:
        try:
            check_name(event.name)
            _check_offer(event)
            self._check(event.rid, event.candidates)
            if not 1 <= event.backlog <= MAX_BACKLOG:
                raise ConfigError(f"the backlog is {event.backlog}; it can be from 1 to {MAX_BACKLOG}")
            if event.secret is not None and len(event.secret.reveal()) > MAX_SECRET:
                raise ConfigError(f"the secret is longer than the limit of {MAX_SECRET} bytes")
        except LocalError as error:
            self._ctx.out.append(Failed(event.rid, error))
            return
        self._see_to(self._lodgings.admit(PostRequest(event, now), now), now)

    def _check(self, rid: bytes, candidates: bytes) -> None:
        if self._stopped:
            raise ClosedError(_CLOSED)
        if rid in self._lodgings.requests:
            raise LocalError("a request with this id is there already")
        if len(candidates) > MAX_CANDIDATES:
            raise ConfigError(f"the candidates have {len(candidates)} bytes, and the limit is {MAX_CANDIDATES}")

    def _cancelled(self, event: Cancelled, now: float) -> None:
        request = self._lodgings.requests.get(event.rid)
        if request is not None:  # else it is over, and the caller could not know yet
            self._lodgings.end(request, Input.CANCELLED, None, now)

    def _accepted(self, event: Accepted, now: float) -> None:
        request = self._lodgings.requests.get(event.rid)
        if isinstance(request, PostRequest):  # else it was closed meanwhile
            self._lodgings.accepted(request, now)

    def _asked(self, event: Asked, now: float) -> None:
        message = event.message
        if not isinstance(message, Explain | ListNames | AskStatus):
            self._ctx.out.append(Log("not a question", type(message).__name__))
        elif self._stopped:
            self._ctx.out.append(Answered(message.query, ClosedError(_CLOSED)))
        else:
            self._questions.ask(message, now, deadline=event.deadline)
            self._see_to(self._uplinks.ensure(now), now)

    def _announced(self, event: Announced, now: float) -> None:
        main = self._uplinks.main
        if len(event.payload) > MAX_NOTICE or self._stopped:
            self._ctx.out.append(Log("notice dropped", f"{len(event.payload)} bytes; the limit is {MAX_NOTICE}"))
        elif main is not None:
            self._uplinks.send(main, Broadcast(event.payload), now)
        else:
            self._announcements = (*self._announcements, event.payload)[-MAX_ANNOUNCEMENTS:]
            self._see_to(self._uplinks.ensure(now), now)

    def _candidates_changed(self, event: CandidatesChanged, now: float) -> None:
        for request in self._lodgings.requests.values():
            if request.datagram == event.datagram:
                request.candidates = event.candidates

    def _stop(self, event: Stop, now: float) -> None:
        self._stopped = True
        error = ClosedError(_CLOSED)
        for request in list(self._lodgings.requests.values()):
            self._lodgings.end(request, Input.CANCELLED, error, now)
        self._questions.fail_all(error)
        self._announcements = ()
        self._peers.close_strangers()
        self._uplinks.close_all()

    # ---- peers -------------------------------------------------------------------------------------------------

    def _peer_dialled(self, event: PeerDialled, now: float) -> None:
        self._peers.dialled(event.conn, now, stopped=self._stopped)

    def _peer_opened(self, event: PeerOpened, now: float) -> None:
        self._peers.opened(event.conn, event.udp_port)

    def _peer_bound(self, event: PeerBound, now: float) -> None:
        self._settle(self._peers.bound(event.conn, event.udp_port), now)

    def _peer_data(self, event: PeerData, now: float) -> None:
        self._settle(self._peers.data(event.conn, event.data, now), now)

    def _peer_lost(self, event: PeerLost, now: float) -> None:
        self._settle(self._peers.lost(event.conn, event.reason, now), now)

    def _settle(self, ended: Ended | None, now: float) -> None:
        if ended is not None:
            self._see_to(self._lodgings.settled(ended, now), now)

    # ---- servers -----------------------------------------------------------------------------------------------

    def _opened(self, event: Opened, now: float) -> None:
        uplink = self._uplinks.links.get(event.conn)
        if uplink is not None and uplink.phase is Phase.DIALLING:
            self._uplinks.opened(uplink, now)

    def _received(self, event: Received, now: float) -> None:
        uplink = self._uplinks.links.get(event.conn)
        if uplink is None:
            return  # we closed it while this was on its way
        message = event.message
        admitted = self._admitted.get(type(message))
        if admitted is None or uplink.phase not in admitted[1]:
            error = MessageNotAllowed(type(message).__name__, "server")
            self._see_to(self._uplinks.refuse(uplink, error, now), now)
            return
        uplink.heard = now
        admitted[0](uplink, message, now)

    def _lost(self, event: Lost, now: float) -> None:
        self._see_to(self._uplinks.lost(event.conn, event.reason, now), now)

    def _alive(self, uplink: Uplink, message: Alive, now: float) -> None:
        """Hearing it was all."""

    def _goodbye(self, uplink: Uplink, message: Goodbye, now: float) -> None:
        self._see_to(self._uplinks.drop(uplink, LinkClosed(f"it said goodbye: {message.text}"), now), now)

    def _welcome(self, uplink: Uplink, message: Welcome, now: float) -> None:
        outcome = self._uplinks.welcome(uplink, message, now)
        if not isinstance(outcome, Uplink):
            self._see_to(outcome, now)
            return
        self._lodgings.server_up(uplink, now)
        if uplink is self._uplinks.main:
            self._questions.ask_all(uplink, now)
            for payload in self._announcements:
                self._uplinks.send(uplink, Broadcast(payload), now)
            self._announcements = ()

    def _matched(self, uplink: Uplink, message: Matched, now: float) -> None:
        self._lodgings.matched(uplink, message, now)

    def _posted(self, uplink: Uplink, message: Posted, now: float) -> None:
        self._lodgings.posted(uplink, message)

    def _refused(self, uplink: Uplink, message: Refused, now: float) -> None:
        self._lodgings.refused(uplink, message, now)

    def _answer(self, uplink: Uplink, message: Explanation | NameList | ServerStatus, now: float) -> None:
        rid = self._questions.answered(uplink.conn, message)
        if rid:
            assert isinstance(message, Explanation), "the client itself asks nothing else"
            self._lodgings.explained(rid, message.lines)

    def _notice(self, uplink: Uplink, message: Notice, now: float) -> None:
        if uplink is self._uplinks.main:  # the extras pass the same ones on
            self._ctx.out.append(Noticed(message.payload))

    def _members(self, uplink: Uplink, message: Members, now: float) -> None:
        self._uplinks.learn(message.members)

    def _elsewhere(self, uplink: Uplink, message: Elsewhere, now: float) -> None:
        self._uplinks.lodge_elsewhere(uplink, message, now)
        self._lodgings.tidy()

    def _see_to(self, down: Down | None, now: float) -> None:
        """A server is lost, or none can be had: see to what that concerns."""
        if down is None:
            return
        uplink = down.uplink
        if uplink is None:
            self._none_answered(now)
            return
        self._questions.lost(uplink.conn)
        wanted = self._lodgings.server_lost(uplink.conn, now)
        main = self._uplinks.main
        if main is not None:  # an extra server took over, or an extra one is lost
            self._questions.ask_all(main, now)
        elif wanted or self._wants_server():
            # All clients of that server are doing this now, so each waits a little, at random.
            self._see_to(self._uplinks.ensure(now, self._config.jitter * self._ctx.draw.fraction()), now)

    def _none_answered(self, now: float) -> None:
        """A whole scan failed: fail what was never lodged, and go on for the rest."""
        finder = self._uplinks.finder
        error = NoSwitchboard(finder.tried)
        self._lodgings.none_answered(error, now)
        self._questions.fail_all(error)
        self._announcements = ()
        if self._wants_server():
            finder.retry(now)
        else:
            finder.stop()
        down = self._uplinks.pump(now)
        assert down is None, "a scan is followed by a pause or by nothing"

    def _wants_server(self) -> bool:
        return (
            (self._config.notices and not self._stopped)
            or bool(self._questions.open or self._announcements)
            or self._lodgings.any_seeking
        )

    # ---- time --------------------------------------------------------------------------------------------------

    def _tick(self, event: Tick, now: float) -> None:
        if self._config.notices and not self._stopped and self._uplinks.finder.scan is Scan.IDLE:
            self._see_to(self._uplinks.ensure(now), now)
        timers = self._ctx.timers
        # Each handler sets its timer later than now, or not at all, so this ends.
        while (key := timers.pop_due(now)) is not None:
            kind, about = key
            self._due[kind](about, now)

    def _finder_due(self, about: int, now: float) -> None:
        finder = self._uplinks.finder
        if finder.scan is Scan.SCANNING:
            self._see_to(self._uplinks.pump(now), now)
        elif self._wants_server():
            self._see_to(self._uplinks.ensure(now), now)
        else:
            finder.stop()  # whoever wanted one was cancelled during the pause

    def _elsewhere_due(self, about: int, now: float) -> None:
        if self._lodgings.requests:
            self._uplinks.reach_elsewhere(now)

    def _uplink_due(self, conn: int, now: float) -> None:
        self._see_to(self._uplinks.timer(conn, now), now)

    def _deadline_due(self, rid: bytes, now: float) -> None:
        self._lodgings.deadline_due(rid, now)

    def _request_due(self, rid: bytes, now: float) -> None:
        self._see_to(self._lodgings.request_due(rid, now), now)

    def _settle_due(self, rid: bytes, now: float) -> None:
        self._lodgings.settle_due(rid, now)

    def _match_due(self, key: bytes, now: float) -> None:
        request = self._lodgings.requests[key[:RID_SIZE]]
        self._settle(self._peers.match_timer(request.matches[key[RID_SIZE:]], now), now)

    # ---- for the explorer --------------------------------------------------------------------------------------

    def snapshot(self) -> Hashable:
        """Return the whole state between two steps, in a form that is equal for equal states."""
        lodgings = self._lodgings
        return (
            self._ctx.snapshot(),
            self._uplinks.snapshot(),
            self._peers.snapshot(),
            self._questions.snapshot(),
            tuple(request.snapshot() for request in lodgings.requests.values()),
            tuple(lodgings.generations.items()),
            self._announcements,
            self._stopped,
        )

    def restore(self, snapshot: Any) -> None:
        """Become what `snapshot` was taken of; the settings and the seed must be the same."""
        ctx, uplinks, peers, questions, wanted, generations, self._announcements, self._stopped = snapshot
        self._ctx.restore(ctx)
        self._uplinks.restore(uplinks)
        self._questions.restore(questions)
        self._lodgings.requests = restored = requests.restored(wanted)
        self._lodgings.generations = dict(generations)
        self._peers.restore(peers, [each for request in restored.values() for each in request.matches.values()])


def _check_offer(wanted: PostWanted) -> None:
    """Raise unless a post's user and list of users can be."""
    if not wanted.user and not wanted.allow:
        return
    check_user(wanted.user)
    for pattern in wanted.allow:
        check_pattern(pattern)
    if not 1 <= len(wanted.allow) <= MAX_ALLOW:
        raise ConfigError(f"allow has {len(wanted.allow)} patterns of users; a secure post has from 1 to {MAX_ALLOW}")
