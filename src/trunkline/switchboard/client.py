"""The client's machine: requests, where they are lodged, and what becomes of them (docs/spec/switchboard.md section 5).

Events go in, effects come out (`trunkline.switchboard.events`). The parts each answer one question and never call each
other: `uplinks` (which servers can be used?), `rendezvous` (how does a match become a connection?), `questions`,
`requests` and `lifecycle` (where does a request stand?). This file is what ties them together. Two tables say who may
cause what: `_events` for the driver, `_admitted` for servers.
"""

from collections.abc import Callable, Hashable
from typing import Any, Final

from trunkline.errors import (
    ClosedError,
    ConfigError,
    DeniedError,
    Displaced,
    InvalidName,
    LinkClosed,
    LocalError,
    MeetTimeout,
    MessageNotAllowed,
    NameTaken,
    NoSwitchboard,
    TooMany,
)
from trunkline.names import Peer, check_name, check_pair
from trunkline.switchboard import events, requests
from trunkline.switchboard.config import ClientConfig
from trunkline.switchboard.context import Context, Timer
from trunkline.switchboard.events import (
    Accepted,
    Announced,
    Asked,
    Cancelled,
    CandidatesChanged,
    ClientEffect,
    ClientEvent,
    Delivered,
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
    PostStands,
    PostWanted,
    Received,
    Stop,
    Tick,
)
from trunkline.switchboard.finder import Scan
from trunkline.switchboard.lifecycle import Input, State
from trunkline.switchboard.questions import Questions
from trunkline.switchboard.rendezvous import Ended, Peers, Rendezvous
from trunkline.switchboard.requests import AnyRequest, MeetRequest, PostRequest
from trunkline.switchboard.uplinks import Down, Phase, Uplink, Uplinks
from trunkline.wire.limits import MAX_BACKLOG, MAX_CANDIDATES, MAX_NOTICE, MAX_SECRET
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
    Settled,
    Welcome,
    Withdraw,
)

EXPLAIN_AHEAD: Final = 0.5
"""Most seconds before a meeting's deadline at which the server is asked why it waits."""

EXPLAIN_SHARE: Final = 0.2
"""The same, as a share of the time that the caller gave."""

SETTLE_DELAY: Final = 0.05
"""Most seconds for which a settled match is not reported. Half a backlog of them is reported at once."""

MAX_GENERATIONS: Final = 1024
"""Most unique names whose generation is remembered; the oldest goes."""

MAX_ANNOUNCEMENTS: Final = 16
"""Most broadcasts that wait for a server. They are unreliable: the oldest goes."""

_GREETING: Final = frozenset({Phase.GREETING})
_UP: Final = frozenset({Phase.UP})
_OPEN: Final = _GREETING | _UP


class Client:
    """One process's client. See the module's docstring."""

    __slots__ = (
        "_admitted",
        "_announcements",
        "_config",
        "_ctx",
        "_events",
        "_expiry",
        "_generations",
        "_peers",
        "_questions",
        "_requests",
        "_stopped",
        "_timers",
        "_uplinks",
        "bytes_wanted",
        "next_deadline",
    )

    def __init__(self, config: ClientConfig, *, seed: bytes, now: float) -> None:
        self._config = config
        self._ctx = Context(config, seed)
        self._uplinks = Uplinks(self._ctx)
        self._peers = Peers(self._ctx)
        self._questions = Questions(self._ctx, self._uplinks)
        self._requests: dict[bytes, AnyRequest] = {}
        self._generations: dict[str, int] = {}
        self._announcements: tuple[bytes, ...] = ()
        self._stopped = False
        self._timers = self._ctx.timers
        self.next_deadline: Callable[[], float | None] = self._timers.next
        """Return when a `Tick` is due, or None."""
        self.bytes_wanted: Callable[[int], int] = self._peers.bytes_wanted
        """Return how many bytes may be read from a peer connection now; 0 is none."""
        # The driver's side: every event has a handler.
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
        # The servers' side: what a server may say, and when. Anything else closes its connection.
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
        self._expiry: dict[int, Callable[[Any, float], None]] = {
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

    def step(self, event: ClientEvent, now: float) -> list[ClientEffect]:
        """Take one event and return its effects, to be carried out in order. Then ask `next_deadline` again."""
        out: list[ClientEffect] = []
        self._ctx.out = out
        self._events[type(event)](event, now)
        return out

    # ---- what callers want -------------------------------------------------------------------------------------

    def _meet_wanted(self, event: MeetWanted, now: float) -> None:
        try:
            check_pair(event.me, event.you)
        except InvalidName as error:
            self._ctx.out.append(Failed(event.rid, error))
            return
        request = MeetRequest(event, now)
        if self._admit(request) and event.deadline is not None:
            ahead = min(EXPLAIN_AHEAD, EXPLAIN_SHARE * (event.deadline - now))
            self._timers.set((Timer.DEADLINE, event.rid), event.deadline - ahead)
        self._lodge(request, now)

    def _post_wanted(self, event: PostWanted, now: float) -> None:
        try:
            check_name(event.name)
            if not 1 <= event.backlog <= MAX_BACKLOG:
                raise ConfigError(f"the backlog is {event.backlog}, and it is a number from 1 to {MAX_BACKLOG}")
            if event.secret is not None and len(event.secret.reveal()) > MAX_SECRET:
                raise ConfigError(f"the secret is longer than the limit of {MAX_SECRET} bytes")
        except LocalError as error:
            self._ctx.out.append(Failed(event.rid, error))
            return
        request = PostRequest(event, now)
        if self._admit(request) and event.deadline is not None:
            self._timers.set((Timer.DEADLINE, event.rid), event.deadline)
        self._lodge(request, now)

    def _cancelled(self, event: Cancelled, now: float) -> None:
        request = self._requests.get(event.rid)
        if request is not None:  # else it is over, and the caller could not know yet
            self._end(request, Input.CANCELLED, None, now)

    def _accepted(self, event: Accepted, now: float) -> None:
        request = self._requests.get(event.rid)
        if isinstance(request, PostRequest) and request.unaccepted:
            self._settle(request, request.unaccepted.popleft(), now)

    def _asked(self, event: Asked, now: float) -> None:
        message = event.message
        if not isinstance(message, Explain | ListNames | AskStatus):
            self._ctx.out.append(Log("not a question", type(message).__name__))
        elif self._stopped:
            self._ctx.out.append(events.Answered(message.query, ClosedError("the client is closed")))
        else:
            self._questions.ask(message, now, deadline=event.deadline)
            self._see_to(self._uplinks.ensure(now), now)

    def _announced(self, event: Announced, now: float) -> None:
        if len(event.payload) > MAX_NOTICE or self._stopped:
            self._ctx.out.append(Log("notice dropped", f"{len(event.payload)} bytes, the limit is {MAX_NOTICE}"))
        elif self._uplinks.main is not None:
            self._uplinks.send(self._uplinks.main, Broadcast(event.payload), now)
        else:
            self._announcements = (*self._announcements, event.payload)[-MAX_ANNOUNCEMENTS:]
            self._see_to(self._uplinks.ensure(now), now)

    def _candidates_changed(self, event: CandidatesChanged, now: float) -> None:
        for request in self._requests.values():
            request.candidates = event.candidates

    def _stop(self, event: Stop, now: float) -> None:
        self._stopped = True
        error = ClosedError("the client is closed")
        for request in list(self._requests.values()):
            self._end(request, Input.CANCELLED, error, now)
        self._questions.fail_all(error)
        self._announcements = ()
        self._peers.close_strangers()
        self._uplinks.close_all()

    # ---- lodging -----------------------------------------------------------------------------------------------

    def _admit(self, request: AnyRequest) -> bool:
        """Take up a request, unless it can't be."""
        error: Exception | None = None
        if self._stopped:
            error = ClosedError("the client is closed")
        elif len(request.candidates) > MAX_CANDIDATES:
            error = ConfigError(f"the candidates have {len(request.candidates)} bytes; the limit is {MAX_CANDIDATES}")
        elif request.rid in self._requests:
            error = LocalError("this request id is in use")
        if error is not None:
            self._ctx.out.append(Failed(request.rid, error))
            return False
        self._requests[request.rid] = request
        return True

    def _lodge(self, request: AnyRequest, now: float) -> None:
        """Lodge a new attempt wherever we can, or look for a server."""
        uplinks = self._uplinks
        if request.rid not in self._requests:
            return
        if uplinks.main is not None:
            for uplink in uplinks.up.values():
                self._lodge_with(request, uplink, now)
            if uplinks.elsewhere:
                uplinks.reach_elsewhere(now)
            return
        if request.n and not request.patient:
            self._timers.set((Timer.REQUEST, request.rid), now + self._config.patience)
        self._see_to(uplinks.ensure(now), now)

    def _lodge_with(self, request: AnyRequest, uplink: Uplink, now: float) -> None:
        if request.state is State.SEEKING:
            request.n += 1  # it waits nowhere: a new attempt, which supersedes the last
            if request.n > 1:
                self._timers.clear((Timer.REQUEST, request.rid))
        request.lodged[uplink.conn] = 0
        request.advance(Input.LODGED)
        self._uplinks.send(uplink, request.message(), now)

    def _withdraw(self, request: AnyRequest, now: float) -> None:
        """Take the present attempt off every server where it waits."""
        for conn in request.lodged:
            self._uplinks.send(self._uplinks.up[conn], Withdraw(request.rid, request.n), now)
        request.lodged.clear()

    def _end(self, request: AnyRequest, given: Input, error: Exception | None, now: float) -> None:
        """Forget a request, here and on the servers."""
        request.advance(given)
        assert request.state is State.DONE, "only an ending ends a request"
        self._withdraw(request, now)
        for rendezvous in request.matches.values():
            self._peers.close(rendezvous)
        timers = self._timers
        rid = request.rid
        timers.clear((Timer.DEADLINE, rid))
        timers.clear((Timer.REQUEST, rid))
        if isinstance(request, PostRequest):
            timers.clear((Timer.SETTLE, rid))
        elif request.question > 0:
            self._questions.forget(request.question)
        del self._requests[rid]
        if error is not None:
            self._ctx.out.append(Failed(rid, error))
        self._tidy()

    def _tidy(self) -> None:
        """Close extra connections that nobody needs any more."""
        uplinks = self._uplinks
        if len(uplinks.up) > 1:
            for uplink in list(uplinks.up.values()):
                if not any(uplink.conn in request.lodged for request in self._requests.values()):
                    uplinks.tidy(uplink)

    # ---- matches -----------------------------------------------------------------------------------------------

    def _matched(self, uplink: Uplink, message: Matched, now: float) -> None:
        request = self._requests.get(message.rid)
        if request is None or message.n != request.n or uplink.conn not in request.lodged:
            return  # superseded, withdrawn or over: the partner's match lapses
        if isinstance(request, PostRequest):
            if message.match in request.matches:
                return  # said twice
        else:
            del request.lodged[uplink.conn]  # the server has forgotten it
            if request.lodged:
                self._withdraw(request, now)
            request.advance(Input.MATCHED)
        rendezvous = Rendezvous(message, uplink.conn, now + self._config.confirm_timeout, datagram=request.datagram)
        request.matches[message.match] = rendezvous
        if message.generation and not self._is_current(message.peer, message.generation):
            why = f"{message.peer!r} holds its name by generation {message.generation}, and a later one was seen"
            self._settled(Ended(rendezvous, 0, why), now)
            return
        ended = self._peers.begin(rendezvous, message.candidates, now)
        if ended is not None:
            self._settled(ended, now)

    def _is_current(self, name: str, generation: int) -> bool:
        seen = self._generations.pop(name, 0)
        self._generations[name] = max(seen, generation)
        if len(self._generations) > MAX_GENERATIONS:
            del self._generations[next(iter(self._generations))]
        return generation >= seen

    def _settled(self, ended: Ended, now: float) -> None:
        """A rendezvous is over, one way or the other."""
        rendezvous = ended.rendezvous
        self._peers.close(rendezvous, keep=ended.conn)
        request = self._requests[rendezvous.rid]
        del request.matches[rendezvous.match]
        if ended.conn:
            peer = Peer(rendezvous.peer, match=rendezvous.match.hex())
            self._ctx.out.append(Delivered(request.rid, ended.conn, peer))
            if isinstance(request, PostRequest):
                request.unaccepted.append(rendezvous.origin)
            else:
                self._end(request, Input.MET, None, now)
            return
        self._ctx.out.append(Log("match lapsed", f"{rendezvous.match.hex()}: {ended.why}"))
        if isinstance(request, PostRequest):
            self._settle(request, rendezvous.origin, now)
            return
        request.note(f"attempt {request.n} was matched, but came to nothing: {ended.why}")
        request.lapses += 1
        request.advance(Input.LAPSED)
        pause = request.lapse_pause()
        if pause:
            self._timers.set((Timer.REQUEST, request.rid), now + pause * (0.5 + self._ctx.draw.fraction()))
        else:
            request.advance(Input.RESUMED)
            self._lodge(request, now)

    def _settle(self, post: PostRequest, conn: int, now: float) -> None:
        """Count a match of a post as settled, and report what is due."""
        unreported = post.settle(conn)
        if not unreported:
            return
        if 2 * unreported >= post.backlog:
            self._report(post, conn, now)
        elif not self._timers.is_set((Timer.SETTLE, post.rid)):
            self._timers.set((Timer.SETTLE, post.rid), now + SETTLE_DELAY)

    def _report(self, post: PostRequest, conn: int, now: float) -> None:
        count = post.lodged[conn]
        if count != post.reported.get(conn, 0):
            post.reported[conn] = count
            self._uplinks.send(self._uplinks.up[conn], Settled(post.rid, post.n, count), now)

    # ---- peers -------------------------------------------------------------------------------------------------

    def _peer_dialled(self, event: PeerDialled, now: float) -> None:
        self._peers.dialled(event.conn, now, stopped=self._stopped)

    def _peer_opened(self, event: PeerOpened, now: float) -> None:
        self._peers.opened(event.conn, event.udp_port)

    def _peer_bound(self, event: PeerBound, now: float) -> None:
        ended = self._peers.bound(event.conn, event.udp_port)
        if ended is not None:
            self._settled(ended, now)

    def _peer_data(self, event: PeerData, now: float) -> None:
        ended = self._peers.data(event.conn, event.data, now)
        if ended is not None:
            self._settled(ended, now)

    def _peer_lost(self, event: PeerLost, now: float) -> None:
        ended = self._peers.lost(event.conn, event.reason, now)
        if ended is not None:
            self._settled(ended, now)

    # ---- servers -----------------------------------------------------------------------------------------------

    def _opened(self, event: Opened, now: float) -> None:
        uplink = self._uplinks.links.get(event.conn)
        if uplink is not None and uplink.phase is Phase.DIALLING:
            self._uplinks.opened(uplink, now)

    def _received(self, event: Received, now: float) -> None:
        uplink = self._uplinks.links.get(event.conn)
        if uplink is None:
            return  # closed at the same moment
        message = event.message
        handler, phases = self._admitted.get(type(message), (None, _OPEN))
        if handler is None or uplink.phase not in phases:
            error = MessageNotAllowed(type(message).__name__, "server")
            self._see_to(self._uplinks.refuse(uplink, error, now), now)
            return
        uplink.heard = now
        handler(uplink, message, now)

    def _lost(self, event: Lost, now: float) -> None:
        self._see_to(self._uplinks.lost(event.conn, event.reason, now), now)

    def _alive(self, uplink: Uplink, message: Alive, now: float) -> None:
        pass  # hearing it was all

    def _goodbye(self, uplink: Uplink, message: Goodbye, now: float) -> None:
        self._see_to(self._uplinks.drop(uplink, LinkClosed(f"the server closed: {message.text}"), now), now)

    def _welcome(self, uplink: Uplink, message: Welcome, now: float) -> None:
        outcome = self._uplinks.welcome(uplink, message, now)
        if not isinstance(outcome, Uplink):
            self._see_to(outcome, now)
            return
        for request in self._requests.values():
            if request.state in (State.SEEKING, State.WAITING, State.STANDING):
                self._lodge_with(request, uplink, now)
        if uplink is self._uplinks.main:
            self._questions.ask_all(uplink, now)
            for payload in self._announcements:
                self._uplinks.send(uplink, Broadcast(payload), now)
            self._announcements = ()

    def _posted(self, uplink: Uplink, message: Posted, now: float) -> None:
        request = self._requests.get(message.rid)
        if not isinstance(request, PostRequest) or message.n != request.n or uplink.conn not in request.lodged:
            return  # superseded or withdrawn
        request.advance(Input.POSTED)
        request.stood = True
        request.generation = max(request.generation, message.generation)
        self._timers.clear((Timer.DEADLINE, request.rid))
        self._ctx.out.append(PostStands(request.rid, request.generation))

    def _refused(self, uplink: Uplink, message: Refused, now: float) -> None:
        request = self._requests.get(message.rid)
        if request is None or message.n != request.n or uplink.conn not in request.lodged:
            return  # superseded or withdrawn
        del request.lodged[uplink.conn]
        name = request.name if isinstance(request, PostRequest) else request.me
        error = refusal(message, name)
        if request.lodged and not isinstance(error, NameTaken | Displaced):
            request.note(f"{uplink.address} refused: {error}")
            return  # it still waits with another server
        self._end(request, Input.REFUSED, error, now)

    def _answer(self, uplink: Uplink, message: Explanation | NameList | ServerStatus, now: float) -> None:
        rid = self._questions.answered(uplink.conn, message)
        if rid:
            request = self._requests[rid]
            assert isinstance(request, MeetRequest), "only meetings are explained"
            assert isinstance(message, Explanation), "the client itself asks nothing else"
            request.question = -1
            request.explanation = message.lines

    def _notice(self, uplink: Uplink, message: Notice, now: float) -> None:
        if uplink is self._uplinks.main:  # the extras pass the same ones on
            self._ctx.out.append(Noticed(message.payload))

    def _members(self, uplink: Uplink, message: Members, now: float) -> None:
        self._uplinks.learn(message.members)

    def _elsewhere(self, uplink: Uplink, message: Elsewhere, now: float) -> None:
        if uplink is self._uplinks.main:
            self._uplinks.lodge_elsewhere(message, now)
            self._tidy()

    def _see_to(self, down: Down | None, now: float) -> None:
        """A server is lost, or none can be had: see to what is concerned."""
        if down is None:
            return
        if down.uplink is None:
            self._none_answered(now)
            return
        conn = down.uplink.conn
        self._questions.lost(conn)
        unlodged: list[AnyRequest] = []
        for request in self._requests.values():
            if request.lodged.pop(conn, None) is not None and not request.lodged:
                request.advance(Input.UNLODGED)
                unlodged.append(request)
            if isinstance(request, PostRequest):
                request.reported.pop(conn, None)
        main = self._uplinks.main
        if main is not None:  # an extra server took over
            self._questions.ask_all(main, now)
            for request in unlodged:
                self._lodge(request, now)
        elif unlodged or self._questions.open or self._config.notices:
            for request in unlodged:
                if not request.patient:
                    self._timers.set((Timer.REQUEST, request.rid), now + self._config.patience)
            # All clients of that server are doing this now, so each waits a little, at random.
            self._see_to(self._uplinks.ensure(now, self._config.jitter * self._ctx.draw.fraction()), now)

    def _none_answered(self, now: float) -> None:
        """A whole scan failed."""
        finder = self._uplinks.finder
        error = NoSwitchboard(finder.tried)
        for request in list(self._requests.values()):
            if request.state is State.SEEKING and not request.n:
                self._end(request, Input.UNREACHABLE, error, now)
        self._questions.fail_all(error)
        self._announcements = ()
        if self._wants_server():
            finder.retry(now)
            self._see_to(self._uplinks.pump(now), now)
        else:
            finder.stop()

    def _wants_server(self) -> bool:
        return (
            self._config.notices
            or bool(self._questions.open or self._announcements)
            or any(request.state is State.SEEKING for request in self._requests.values())
        )

    # ---- time --------------------------------------------------------------------------------------------------

    def _tick(self, event: Tick, now: float) -> None:
        if self._config.notices and not self._stopped and self._uplinks.finder.scan is Scan.IDLE:
            self._see_to(self._uplinks.ensure(now), now)
        # Each handler sets its timer later than now, or not at all, so this ends.
        while (key := self._timers.pop_due(now)) is not None:
            kind, about = key
            self._expiry[kind](about, now)

    def _finder_due(self, about: int, now: float) -> None:
        finder = self._uplinks.finder
        if finder.scan is Scan.PAUSING and not self._wants_server():
            finder.stop()
        else:
            self._see_to(self._uplinks.pump(now), now)

    def _elsewhere_due(self, about: int, now: float) -> None:
        if self._requests:
            self._uplinks.reach_elsewhere(now)

    def _uplink_due(self, conn: int, now: float) -> None:
        self._see_to(self._uplinks.timer(conn, now), now)

    def _match_due(self, key: bytes, now: float) -> None:
        request = self._requests[key[:16]]
        ended = self._peers.match_timer(request.matches[key[16:]], now)
        if ended is not None:
            self._settled(ended, now)

    def _settle_due(self, rid: bytes, now: float) -> None:
        post = self._requests[rid]
        assert isinstance(post, PostRequest), "only posts settle"
        for conn in post.lodged:
            self._report(post, conn, now)

    def _request_due(self, rid: bytes, now: float) -> None:
        request = self._requests[rid]
        if request.state is State.PAUSING:
            request.advance(Input.RESUMED)
            self._lodge(request, now)
        else:
            assert request.state is State.SEEKING, "the timer is cleared when it is lodged"
            self._end(request, Input.UNREACHABLE, NoSwitchboard(self._uplinks.finder.tried), now)

    def _deadline_due(self, rid: bytes, now: float) -> None:
        request = self._requests[rid]
        deadline = request.deadline
        assert deadline is not None, "the timer was set for it"
        if isinstance(request, PostRequest):
            self._end(request, Input.EXPIRED, NoSwitchboard(self._silent_servers(request)), now)
        elif now < deadline:
            self._timers.set((Timer.DEADLINE, rid), deadline)
            if self._uplinks.main is not None and not request.question:
                explain = Explain(0, request.me, request.you, request.datagram)
                request.question = self._questions.ask(explain, now, rid=rid)
        else:
            given = deadline - request.since
            error = MeetTimeout(request.me, request.you, given, self._explained(request))
            self._end(request, Input.EXPIRED, error, now)

    def _silent_servers(self, post: PostRequest) -> tuple[tuple[str, str], ...]:
        silent = [(str(self._uplinks.up[conn].address), "did not answer the post") for conn in post.lodged]
        return (*silent, *self._uplinks.finder.tried)

    def _explained(self, request: MeetRequest) -> tuple[str, ...]:
        lines = [*request.explanation, *request.notes]
        for rendezvous in request.matches.values():
            lines.append(rendezvous.describe())
        if request.state is State.SEEKING:
            tried = self._uplinks.finder.tried
            lines.append("no switchboard server is connected")
            lines.extend(f"{address}: {why}" for address, why in tried)
        return tuple(lines)

    # ---- for the explorer --------------------------------------------------------------------------------------

    def snapshot(self) -> Hashable:
        """Return the whole state between two steps, in a form that is equal for equal states."""
        return (
            self._ctx.snapshot(),
            self._uplinks.snapshot(),
            self._peers.snapshot(),
            self._questions.snapshot(),
            tuple(request.snapshot() for request in self._requests.values()),
            tuple(self._generations.items()),
            self._announcements,
            self._stopped,
        )

    def restore(self, snapshot: Any) -> None:
        """Become what `snapshot` was taken of; the settings and the seed must be the same."""
        ctx, uplinks, peers, questions, wanted, generations, self._announcements, self._stopped = snapshot
        self._ctx.restore(ctx)
        self._uplinks.restore(uplinks)
        self._questions.restore(questions)
        self._requests = requests.restored(wanted)
        self._generations = dict(generations)
        self._peers.restore(peers, [each for request in self._requests.values() for each in request.matches.values()])


def refusal(message: Refused, name: str) -> DeniedError:
    """Return the error that a server's refusal stands for."""
    if message.code == NameTaken.code:
        return NameTaken(name, message.text)
    if message.code == Displaced.code:
        return Displaced(name, message.limit)
    if message.code == TooMany.code:
        return TooMany(message.text, message.limit)
    return DeniedError(message.text)
