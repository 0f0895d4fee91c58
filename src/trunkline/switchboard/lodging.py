"""Requests on their way: lodged, matched, settled, ended (docs/spec/switchboard.md section 5).

Where a request may go is in `lifecycle`; here is what is done when it moves: what the servers are told, what its caller
gets, which timers run. Methods that may find that no server can be had return a `Down`, for the client to see to.
"""

from typing import Final

from trunkline.errors import (
    DeniedError,
    Displaced,
    MeetTimeout,
    NameTaken,
    NoSwitchboard,
    NotAllowed,
    TooMany,
)
from trunkline.names import Peer
from trunkline.switchboard.context import DEADLINE, REQUEST, Context, Timer
from trunkline.switchboard.events import Delivered, Failed, Log, PostStands
from trunkline.switchboard.lifecycle import Input, State
from trunkline.switchboard.questions import Questions
from trunkline.switchboard.rendezvous import Ended, Peers, Rendezvous
from trunkline.switchboard.requests import AnyRequest, MeetRequest, PostRequest
from trunkline.switchboard.uplinks import Down, Uplink, Uplinks
from trunkline.users import user_matches
from trunkline.wire.messages import Explain, Matched, Posted, Refused, Settled, Withdraw

EXPLAIN_AHEAD: Final = 0.5
"""Most seconds before a meeting's deadline at which the server is asked why it waits."""

EXPLAIN_SHARE: Final = 0.2
"""The same, as a share of the time that the caller gave."""

SETTLE_DELAY: Final = 0.05
"""Most seconds for which a settled match is not reported. Half a backlog of them is reported at once."""

MAX_GENERATIONS: Final = 1024
"""Most unique names whose generation is remembered; the one not seen for longest goes."""


class Lodgings:
    """All requests of one client."""

    __slots__ = (
        "_ctx",
        "_patience",
        "_peers",
        "_questions",
        "_timers",
        "_uplinks",
        "generations",
        "requests",
    )

    def __init__(self, ctx: Context, uplinks: Uplinks, peers: Peers, questions: Questions) -> None:
        self._ctx = ctx
        self._uplinks = uplinks
        self._peers = peers
        self._questions = questions
        self._timers = ctx.timers
        self._patience = ctx.config.patience
        self.requests: dict[bytes, AnyRequest] = {}
        """In order of arrival; the same pair's queue at the next server is in this order too."""
        self.generations: dict[str, int] = {}
        """The greatest generation seen of each unique name."""

    # ---- coming and going --------------------------------------------------------------------------------------

    def admit(self, request: AnyRequest, now: float) -> Down | None:
        """Take up a new request."""
        self.requests[request.rid] = request
        deadline = request.deadline
        if deadline is not None:
            if type(request) is MeetRequest:
                ahead = min(EXPLAIN_AHEAD, EXPLAIN_SHARE * (deadline - now))
                self._timers.set((DEADLINE, request.rid), deadline - max(ahead, 0.0))
            else:
                self._timers.set((DEADLINE, request.rid), deadline)
        return self._lodge(request, now)

    def end(self, request: AnyRequest, given: Input, error: Exception | None, now: float) -> None:
        """Forget a request, here and on the servers."""
        request.advance(given)
        assert request.state is State.DONE, "only an ending ends a request"
        if request.lodged:
            self._withdraw(request, now)
        for rendezvous in request.matches.values():
            self._peers.close(rendezvous)
        rid = request.rid
        if request.deadline is not None:
            self._timers.clear((DEADLINE, rid))
        if given is not Input.MET:
            self._timers.clear((REQUEST, rid))  # who has met neither paused nor sought
        if type(request) is PostRequest:
            self._timers.clear((Timer.SETTLE, rid))
        elif request.question > 0:
            self._questions.forget(request.question)
        del self.requests[rid]
        if error is not None:
            self._ctx.out.append(Failed(rid, error))
        if len(self._uplinks.up) > 1:
            self.tidy()

    def tidy(self) -> None:
        """Close extra connections that nobody needs any more."""
        for uplink in list(self._uplinks.up.values()):
            if not any(uplink.conn in request.lodged for request in self.requests.values()):
                self._uplinks.tidy(uplink)

    # ---- lodging -----------------------------------------------------------------------------------------------

    def server_up(self, uplink: Uplink, now: float) -> None:
        """Lodge everything that waits with this server, as well."""
        for request in self.requests.values():
            if request.state in (State.SEEKING, State.WAITING, State.STANDING):
                self._lodge_with(request, uplink, now)

    def server_lost(self, conn: int, now: float) -> bool:
        """Lodge anew what waited nowhere else. True if a server must be found for that."""
        unlodged = [request for request in self.requests.values() if self._unlodge(request, conn)]
        for request in unlodged:
            self._lodge_or_wait(request, now)
        return bool(unlodged) and self._uplinks.main is None

    def none_answered(self, error: NoSwitchboard, now: float) -> None:
        """A whole scan failed: that ends what was never lodged."""
        for request in list(self.requests.values()):
            if request.state is State.SEEKING and not request.n:
                self.end(request, Input.UNREACHABLE, error, now)

    @property
    def any_seeking(self) -> bool:
        """Whether any request is in need of a server."""
        return any(request.state is State.SEEKING for request in self.requests.values())

    def _lodge(self, request: AnyRequest, now: float) -> Down | None:
        """Lodge a new attempt wherever we can, or look for a server."""
        self._lodge_or_wait(request, now)
        if request.state is State.SEEKING:
            return self._uplinks.ensure(now)
        if self._uplinks.elsewhere:
            self._uplinks.reach_elsewhere(now)
        return None

    def _lodge_or_wait(self, request: AnyRequest, now: float) -> None:
        for uplink in self._uplinks.up.values():
            self._lodge_with(request, uplink, now)
        if request.state is State.SEEKING and request.n and not request.patient:
            self._timers.set((REQUEST, request.rid), now + self._patience)

    def _lodge_with(self, request: AnyRequest, uplink: Uplink, now: float) -> None:
        if request.state is State.SEEKING:
            if request.n:
                self._timers.clear((REQUEST, request.rid))
            request.n += 1  # it waits nowhere: a new attempt, which supersedes the last
        request.lodged[uplink.conn] = 0
        request.advance(Input.LODGED)
        self._uplinks.send(uplink, request.message(), now)

    def _unlodge(self, request: AnyRequest, conn: int) -> bool:
        """A server is lost. True if the request waits with no other."""
        if type(request) is PostRequest:
            request.reported.pop(conn, None)
        if request.lodged.pop(conn, None) is None or request.lodged:
            return False
        request.advance(Input.UNLODGED)
        return True

    def _withdraw(self, request: AnyRequest, now: float) -> None:
        """Take the present attempt off every server where it waits."""
        for conn in request.lodged:
            self._uplinks.send(self._uplinks.up[conn], Withdraw(request.rid, request.n), now)
        request.lodged.clear()

    def _lodged_at(self, uplink: Uplink, rid: bytes, n: int) -> AnyRequest | None:
        """Return the request if this attempt of it waits with this server; else the message is late, and void."""
        request = self.requests.get(rid)
        if request is None or request.n != n or uplink.conn not in request.lodged:
            return None
        return request

    # ---- what servers say --------------------------------------------------------------------------------------

    def posted(self, uplink: Uplink, message: Posted) -> None:
        """A post stands."""
        request = self._lodged_at(uplink, message.rid, message.n)
        if type(request) is not PostRequest:
            return
        request.advance(Input.POSTED)
        request.stood = True
        request.generation = max(request.generation, message.generation)
        self._timers.clear((DEADLINE, request.rid))
        self._ctx.out.append(PostStands(request.rid, request.generation))

    def refused(self, uplink: Uplink, message: Refused, now: float) -> None:
        """A server doesn't take a request, or no longer has it."""
        request = self._lodged_at(uplink, message.rid, message.n)
        if request is None:
            return
        del request.lodged[uplink.conn]
        error = refusal(message, request.name if type(request) is PostRequest else "")
        if request.lodged and not isinstance(error, NameTaken | Displaced):
            request.note(f"the server {uplink.address} refused: {error}")
            return  # it still waits with another
        self.end(request, Input.REFUSED, error, now)

    def matched(self, uplink: Uplink, message: Matched, now: float) -> None:
        """A server found a partner."""
        request = self._lodged_at(uplink, message.rid, message.n)
        if request is None:
            return  # the partner's match lapses
        if type(request) is MeetRequest:
            del request.lodged[uplink.conn]  # the server has forgotten it
            if request.lodged:
                self._withdraw(request, now)
            request.advance(Input.MATCHED)
        elif message.match in request.matches:
            return  # said twice
        ctx = self._ctx
        confirm_by = now + ctx.config.confirm_timeout
        rendezvous = Rendezvous(message, uplink.conn, confirm_by, datagram=request.datagram)
        request.matches[message.match] = rendezvous
        ended = self._objection(request, message, rendezvous) or self._peers.begin(rendezvous, now)
        if ended is not None:
            down = self.settled(ended, now)
            assert down is None, "the server that said this is up, so no other is looked for"

    def _objection(self, request: AnyRequest, message: Matched, rendezvous: Rendezvous) -> Ended | None:
        """Return what is wrong with a match, if anything is."""
        name = message.peer
        if type(request) is MeetRequest and name != request.you:
            return Ended(rendezvous, 0, f"the server named {name!r} instead")
        claimed = message.peer_user
        if type(request) is MeetRequest:
            if claimed != request.peer_user:
                return Ended(rendezvous, 0, f"the server named the user {claimed!r} instead")
        elif bool(claimed) != bool(request.user):
            kind = "secure" if claimed else "plain"
            return Ended(rendezvous, 0, f"the server sent a {kind} request to a post that is not")
        elif claimed and not any(user_matches(claimed, pattern) for pattern in request.allow):
            return Ended(rendezvous, 0, f"the server sent the user {claimed!r}, who is not allowed")
        generation = message.generation
        if generation:
            seen = self.generations.pop(name, 0)
            self.generations[name] = max(seen, generation)
            if len(self.generations) > MAX_GENERATIONS:
                del self.generations[next(iter(self.generations))]
            if generation < seen:
                why = f"{name!r} holds its name by generation {generation}, and {seen} was seen before"
                return Ended(rendezvous, 0, why)
        return None

    # ---- what becomes of matches -------------------------------------------------------------------------------

    def settled(self, ended: Ended, now: float) -> Down | None:
        """A rendezvous is over, one way or the other."""
        rendezvous = ended.rendezvous
        self._peers.close(rendezvous, keep=ended.conn)
        request = self.requests[rendezvous.told.rid]
        match = rendezvous.told.match
        del request.matches[match]
        if ended.conn:
            peer = Peer(rendezvous.told.peer, match=match.hex())
            told = rendezvous.told
            self._ctx.out.append(Delivered(request.rid, ended.conn, peer, told.peer_user, told.partner))
            if type(request) is PostRequest:
                request.unaccepted.append(rendezvous.origin)
            else:
                self.end(request, Input.MET, None, now)
            return None
        self._ctx.out.append(Log("match lapsed", f"{match.hex()}: {ended.why}"))
        if type(request) is PostRequest:
            self._settle(request, rendezvous.origin, now)
            return None
        request.note(f"attempt {request.n} was matched, but came to nothing: {ended.why}")
        request.lapses += 1
        request.advance(Input.LAPSED)
        pause = request.lapse_pause()
        if pause:
            self._timers.set((REQUEST, request.rid), now + pause * (0.5 + self._ctx.draw.fraction()))
            return None
        request.advance(Input.RESUMED)
        return self._lodge(request, now)

    def accepted(self, post: PostRequest, now: float) -> None:
        """The owner of a post took the oldest connection that was delivered."""
        if post.unaccepted:
            self._settle(post, post.unaccepted.popleft(), now)

    def _settle(self, post: PostRequest, conn: int, now: float) -> None:
        """Count a match of a post as settled, and report what is due."""
        unreported = post.settle(conn)
        if 2 * unreported >= post.backlog:
            self._report(post, conn, now)
        elif unreported and not self._timers.is_set((Timer.SETTLE, post.rid)):
            self._timers.set((Timer.SETTLE, post.rid), now + SETTLE_DELAY)

    def _report(self, post: PostRequest, conn: int, now: float) -> None:
        count = post.lodged[conn]
        if count != post.reported.get(conn, 0):
            post.reported[conn] = count
            self._uplinks.send(self._uplinks.up[conn], Settled(post.rid, post.n, count), now)

    # ---- time --------------------------------------------------------------------------------------------------

    def settle_due(self, rid: bytes, now: float) -> None:
        """Report what is settled."""
        post = self.requests[rid]
        assert type(post) is PostRequest, "only posts settle"
        for conn in post.lodged:
            self._report(post, conn, now)

    def request_due(self, rid: bytes, now: float) -> Down | None:
        """A pause is over, or the patience."""
        request = self.requests[rid]
        if request.state is State.PAUSING:
            request.advance(Input.RESUMED)
            return self._lodge(request, now)
        assert request.state is State.SEEKING, "the timer is cleared when it is lodged"
        self.end(request, Input.UNREACHABLE, NoSwitchboard(self._uplinks.finder.tried), now)
        return None

    def deadline_due(self, rid: bytes, now: float) -> None:
        """The caller's time is over, or nearly."""
        request = self.requests[rid]
        deadline = request.deadline
        assert deadline is not None, "the timer was set for it"
        if type(request) is PostRequest:
            silent = [(str(self._uplinks.up[conn].address), "no answer to the post") for conn in request.lodged]
            none = NoSwitchboard((*silent, *self._uplinks.finder.tried))
            self.end(request, Input.EXPIRED, none, now)
        elif now < deadline:
            self._timers.set((DEADLINE, rid), deadline)
            if self._uplinks.main is not None:
                explain = Explain(0, request.me, request.you, request.datagram, request.user, request.peer_user)
                request.question = self._questions.ask(explain, now, rid=rid)
        else:
            lines = self._explained(request)
            late = MeetTimeout(request.me, request.you, deadline - request.since, lines)
            self.end(request, Input.EXPIRED, late, now)

    def explained(self, rid: bytes, lines: tuple[str, ...]) -> None:
        """The server said why a meeting waits."""
        request = self.requests[rid]
        assert type(request) is MeetRequest, "only meetings are explained"
        request.question = 0
        request.explanation = lines

    def _explained(self, request: MeetRequest) -> tuple[str, ...]:
        """Return all that is known about why a meeting did not come about."""
        lines = [*request.explanation, *request.notes]
        lines.extend(rendezvous.describe() for rendezvous in request.matches.values())
        if request.state is State.SEEKING:
            lines.append("no switchboard server is connected")
            lines.extend(f"{address}: {why}" for address, why in self._uplinks.finder.tried)
        return tuple(lines)


def refusal(message: Refused, name: str) -> DeniedError:
    """Return the error that a server's refusal stands for. Its text is that error's sentence (``str``)."""
    text = message.text
    if message.code == NameTaken.code:
        return NameTaken(name, text.removeprefix(str(NameTaken(name))).removeprefix(": "))
    if message.code == Displaced.code:
        return Displaced(name, message.limit)
    if message.code == TooMany.code:
        what = text.removeprefix("too many ").removesuffix(f": the limit is {message.limit}")
        return TooMany(what, message.limit)
    if message.code == NotAllowed.code:
        return NotAllowed(text)
    return DeniedError(text)
