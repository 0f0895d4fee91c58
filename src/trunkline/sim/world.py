"""A world: servers and clients as machines, a network of queues, one clock (docs/spec/switchboard.md section 12).

A world moves by *actions*, small tuples of JSON values, so that a run is a list of them and replays exactly:

    ("take", pipe)        the next item of a pipe reaches its reader
    ("end", pipe)         a broken pipe ends: its reader learns that the connection is lost
    ("tick", site)        a machine whose deadline has come is told so
    ("jump",)             time moves to the next deadline; only when nothing of the above can happen
    ("begin", site)       a client starts and its callers call
    ("cancel", site, k)   the k-th caller of a client gives up
    ("stop", site)        a machine leaves in good order
    and the faults of trunkline.sim.faults.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from trunkline.names import Candidate, Candidates, digest
from trunkline.sim import faults
from trunkline.sim.engine import BOUND, LOCAL, LOST, START, STOP, TAKE, TICK, Engine
from trunkline.sim.invariants import MACHINE_FAULT, Fact, Violation, check_fact
from trunkline.sim.network import CLOSED, MACHINE, OPENED, Network
from trunkline.sim.worlds import Spec
from trunkline.switchboard.events import Accepted, Cancelled, MeetWanted, PostWanted
from trunkline.users import user_matches
from trunkline.wire.codec import encode_candidates

Action = tuple[Any, ...]
FAR: Final = 1e3
"""Seconds: a deadline further off than this is never waited for (heartbeats of explored worlds)."""
STEPS_WITHOUT_TIME: Final = 100_000
"""More actions than this at one instant: the machines run in a circle."""


class Request(msgspec.Struct, frozen=True):
    """One call of one caller."""

    site: int
    incarnation: int
    place: int
    rid: bytes
    me: str
    you: str
    datagram: bool = False
    user: str = ""
    peer_user: str = ""
    allow: tuple[str, ...] = ()

    def fits(self, other: "Request") -> bool:
        """Say whether the two match."""
        if self.datagram != other.datagram or (not self.you and not other.you):
            return False
        if not self.you or not other.you:
            meet, post = (self, other) if self.you else (other, self)
            if meet.peer_user != post.user or (meet.user and not any(user_matches(meet.user, p) for p in post.allow)):
                return False
            return meet.you == post.me and meet.me != post.me
        if (self.user, self.peer_user) != (other.peer_user, other.user):
            return False
        return self.me == other.you and self.you == other.me

    def __str__(self) -> str:
        what = f"meet({self.me}, {self.you})" if self.you else f"post({self.me})"
        return f"{what} of client {self.site}" + (f" (start {self.incarnation})" if self.incarnation > 1 else "")


class World:
    """The state of a world. `copy` is cheap as long as the engine's states are values (`engine.Memo`)."""

    __slots__ = (
        "calm_since",
        "count",
        "engine",
        "facts",
        "incarnations",
        "left",
        "net",
        "news",
        "now",
        "slack",
        "spec",
        "states",
        "touched",
    )

    def __init__(self, spec: Spec, engine: Engine) -> None:
        sites = spec.servers + len(spec.clients)
        self.spec = spec
        self.engine = engine
        self.now = 0.0
        self.net = Network({}, frozenset((min(cut), max(cut)) for cut in spec.cuts))
        self.states: list[Any] = [None] * sites
        self.incarnations = [0] * sites
        self.facts: frozenset[Fact] = frozenset()
        self.left = 0
        self.slack: int | None = None
        """How often the run may still leave its first possible step; None: as often as it likes."""
        self.calm_since = 0.0
        self.count = 0
        self.news: list[int] | None = None
        """Pipes that got an item or broke, for a scheduler to read and clear; None when nobody does."""
        self.touched: list[int] | None = None
        """Likewise the sites whose machines were stepped."""

    def copy(self) -> "World":
        new = World.__new__(World)
        new.spec = self.spec
        new.engine = self.engine
        new.now = self.now
        new.net = self.net.copy()
        new.states = self.states.copy()
        new.incarnations = self.incarnations.copy()
        new.facts = self.facts
        new.left = self.left
        new.slack = self.slack
        new.calm_since = self.calm_since
        new.count = self.count
        new.news = None
        new.touched = None
        return new

    def key(self) -> tuple[object, ...]:
        """Return what tells this state from others."""
        return (
            self.now,
            self.left,
            self.slack,
            self.count,
            tuple(self.states),
            tuple(self.incarnations),
            self.facts,
            self.calm_since,
            self.net.key(),
        )

    # ---- asking --------------------------------------------------------------------------------------------

    def is_up(self, site: int) -> bool:
        return self.states[site] is not None

    def is_server(self, site: int) -> bool:
        return site < self.spec.servers

    def request(self, rid: bytes) -> Request:
        """Return the request with this id: it says itself whose it is."""
        site, incarnation, place = rid[0], rid[1], rid[2]
        want = self.spec.clients[site - self.spec.servers].wants[place]
        names = (want.me, want.you, want.datagram, want.user, want.peer_user, want.allow)
        return Request(site, incarnation, place, rid, *names)

    def runs(self, request: Request) -> bool:
        """Say whether the process that made this request still runs."""
        return self.is_up(request.site) and self.incarnations[request.site] == request.incarnation

    def requests(self) -> list[Request]:
        """Return the requests of all clients that run."""
        found = []
        for site in range(self.spec.servers, len(self.states)):
            if self.is_up(site):
                wants = self.spec.clients[site - self.spec.servers].wants
                found += [self.request(make_rid(site, self.incarnations[site], k)) for k in range(len(wants))]
        return found

    def waiting(self) -> list[Request]:
        """Return the requests that are not over: meets that did not return, and posts."""
        done = {fact[1] for fact in self.facts if fact[0] == "over"}
        done |= {fact[1] for fact in self.facts if fact[0] == "returned" and self.request(fact[1]).you}
        return [request for request in self.requests() if request.rid not in done]

    def said(self, rid: bytes, match: str) -> bytes:
        """Return what the caller of ``rid`` writes to the peer of this match."""
        return digest(rid + match.encode(), 5)

    def can_take(self, name: int) -> bool:
        """Say whether the next item of a pipe can be delivered now."""
        pipe = self.net.pipes.get(name)
        if pipe is None or pipe.reader != MACHINE or not pipe.items:
            return False
        if pipe.peer and pipe.items[0] > CLOSED:
            return self.engine.wanted(self.states[pipe.site], pipe.conn) > 0
        return True

    def steps(self) -> list[Action]:
        """Return what can happen without a fault and without time: deliveries, ends of broken pipes, timers."""
        found: list[Action] = []
        for name, pipe in sorted(self.net.pipes.items()):
            if pipe.reader != MACHINE:
                continue
            if pipe.items and self.can_take(name):
                found.append(("take", name))
            if pipe.broken:
                found.append(("end", name))
        for site, state in enumerate(self.states):
            if state is not None:
                deadline = self.engine.deadline(state)
                if deadline is not None and deadline <= self.now:
                    found.append(("tick", site))
        return found

    def next_deadline(self) -> float | None:
        """Return the time of the next timer; None if none is near."""
        deadlines = [self.engine.deadline(state) for state in self.states if state is not None]
        near = [deadline for deadline in deadlines if deadline is not None and deadline < self.now + FAR]
        return min(near, default=None)

    # ---- moving --------------------------------------------------------------------------------------------

    def apply(self, action: Action) -> None:
        """Do one action.

        Raises:
            Violation: an invariant broke.
            KeyError, AssertionError: the action is not possible here.
        """
        match action[0]:
            case "take":
                self._take(action[1])
            case "end":
                pipe = self.net.pipes[action[1]]
                self.net.end(action[1])
                self._run(pipe.site, (LOST, pipe.conn, int(pipe.peer)))
            case "tick":
                self._tick(action[1])
            case "jump":
                deadline = self.next_deadline()
                assert deadline is not None, "no deadline to jump to"
                self.now = max(self.now, deadline)
            case "begin":
                self.begin(action[1])
            case "cancel":
                rid = make_rid(action[1], self.incarnations[action[1]], action[2])
                self.add_fact(("over", rid, "cancelled"))
                self.tell(action[1], Cancelled(rid))
            case "stop":
                self._over_all(action[1], "stopped")
                self._run(action[1], (STOP, 0, 0))
                self.net.crash(action[1])
                self.states[action[1]] = None
            case _:
                faults.apply(self, action)

    def begin(self, site: int) -> None:
        """Start a machine; a client's callers call at once."""
        assert self.states[site] is None, f"site {site} runs already"
        self.incarnations[site] += 1
        incarnation = self.incarnations[site]
        self.states[site] = self.engine.create(site, incarnation, self.now)
        if self.is_server(site):
            self._run(site, (START, 0, 0))
            return
        for place in range(len(self.spec.clients[site - self.spec.servers].wants)):
            self.call(site, place)

    def call(self, site: int, place: int) -> None:
        """Let the caller number ``place`` of a client call."""
        want = self.spec.clients[site - self.spec.servers].wants[place]
        incarnation = self.incarnations[site]
        rid = make_rid(site, incarnation, place)
        deadline = None if want.within is None else self.now + want.within
        at = (Candidate("tcp4", f"client{site}", 1000 + incarnation),)
        candidates = encode_candidates(Candidates(bytes(8), at))
        if want.you:
            users = (want.user, want.peer_user)
            self.tell(site, MeetWanted(rid, want.me, want.you, candidates, deadline, want.datagram, *users))
        else:
            offer = (want.datagram, want.unique, None, want.backlog, deadline, want.user, want.allow)
            self.tell(site, PostWanted(rid, want.me, candidates, *offer))

    def tell(self, site: int, event: Any) -> None:
        """Give a machine an event of its own caller."""
        self._run(site, (LOCAL, 0, self.engine.code(event)))

    def add_fact(self, fact: Fact) -> None:
        check_fact(self, fact)
        self.facts |= {fact}

    def note_gone(self, site: int) -> None:
        """Note that the callers of a client that crashed wait no longer."""
        self._over_all(site, "crashed")

    def _over_all(self, site: int, why: str) -> None:
        if not self.is_server(site):
            for request in self.waiting():
                if request.site == site:
                    self.facts |= {("over", request.rid, why)}

    def tell_news(self, names: tuple[int, ...]) -> None:
        if self.news is not None:
            self.news.extend(names)

    def _tick(self, site: int) -> None:
        before = self.states[site]
        self._run(site, (TICK, 0, 0))
        if self.states[site] == before and self.touched is None:
            deadline = self.engine.deadline(before)
            if deadline is not None and deadline <= self.now:
                raise Violation(MACHINE_FAULT, f"a tick of site {site} changed nothing, and its deadline stays")

    def touched_site(self, site: int) -> None:
        if self.touched is not None:
            self.touched.append(site)

    def _take(self, name: int) -> None:
        pipe = self.net.pipes[name]
        assert self.can_take(name), "nothing to take here"
        item = self.net.take(name)
        if item == CLOSED:
            self._run(pipe.site, (LOST, pipe.conn, int(pipe.peer)))
            return
        if pipe.peer and item != OPENED:
            data = self.engine.thing(item)
            wanted = self.engine.wanted(self.states[pipe.site], pipe.conn)
            if wanted < len(data):
                self.net.put_back(name, self.engine.code(data[wanted:]))
                item = self.engine.code(data[:wanted])
        self._run(pipe.site, (TAKE + pipe.peer, pipe.conn, item))

    def _run(self, site: int, event: tuple[int, int, int]) -> None:
        assert self.states[site] is not None, f"site {site} is down"
        self.touched_site(site)
        self.states[site], effects = self.engine.step(self.states[site], event, self.now)
        for effect in effects:
            self._carry_out(site, effect)

    def _carry_out(self, site: int, effect: tuple[int, int, Any]) -> None:
        kind, conn, what = effect
        net = self.net
        inbound = net.towards(site, self.incarnations[site], conn) if conn else 0
        match kind:
            case 0:  # SEND
                if self.engine.is_matched(what):
                    message = self.engine.thing(what)
                    self.add_fact(
                        (
                            "matched",
                            site,
                            self.incarnations[site],
                            message.rid,
                            message.n,
                            message.match.hex(),
                        )
                    )
                elif self.engine.is_elsewhere(what):
                    self.facts |= {("elsewhere",)}
                if self.spec.counting and self.engine.is_counted(what):
                    self.count += 1
                self.tell_news((net.send(inbound, what),))
            case 1:  # CLOSE
                self.tell_news((net.close(inbound),))
            case 2:  # DIAL
                target = self._listener(what)
                self.tell_news(net.dial(site, self.incarnations[site], conn, target, peer=False))
            case 3:  # PEER_DIAL
                target = self._listener(what)
                self.tell_news(net.dial(site, self.incarnations[site], conn, target, peer=True))
            case 4:  # GIVE
                self._give(site, inbound, what)
            case 5:  # FAIL
                rid, error = what
                self.add_fact(("over", rid, error))
            case 6:  # BIND
                self._run(site, (BOUND, conn, 2000 + site))
            case 7:  # HALT
                raise Violation(MACHINE_FAULT, f"server {site} halted: {what}")
            case _:
                raise AssertionError(f"unknown effect {effect}")

    def _listener(self, address: tuple[str, int]) -> int | None:
        """Return the site that listens there; None if nobody does."""
        host, port = address
        if host.startswith("server"):
            site = int(host[6:])
            return site if self.is_up(site) else None
        if host.startswith("client"):
            site = int(host[6:])
            return site if self.is_up(site) and port == 1000 + self.incarnations[site] else None
        return None

    def _give(self, site: int, inbound: int, what: tuple[bytes, str, str]) -> None:
        rid, match, peer = what
        if self.request(rid).site != site:
            raise Violation(MACHINE_FAULT, f"client {site} delivered for a request that is not its own")
        self.add_fact(("returned", rid, match, inbound, peer))
        if self.net.give(inbound) and not self.request(rid).datagram:
            # The user writes at once. Its bytes may come in one piece with ours, and must not be read by us.
            self._write(inbound, self.said(rid, match))
        if not self.request(rid).you:
            self.tell(site, Accepted(rid))

    def _write(self, inbound: int, data: bytes) -> None:
        pipe = self.net.pipes.get(inbound ^ 1)
        if pipe is None or pipe.broken:
            return
        if pipe.items and pipe.items[-1] > CLOSED:
            last = self.engine.thing(pipe.items[-1])
            items = (*pipe.items[:-1], self.engine.code(last + data))
            self.net.pipes[inbound ^ 1] = msgspec.structs.replace(pipe, items=items)
        else:
            self.net.send(inbound, self.engine.code(data))
        self.tell_news((inbound ^ 1,))


def make_rid(site: int, incarnation: int, place: int) -> bytes:
    """Return a request's id: it says whose it is, so that facts can be read."""
    return bytes((site, incarnation, place)) + digest(bytes((site, incarnation, place)), 13)


def settle(world: World, until: float, choose: Callable[[list[Action]], Action] | None = None) -> list[Action]:
    """Let a world run by itself until nothing is under way and no timer is due before ``until``; return the run."""
    run: list[Action] = []
    idle = 0
    while True:
        steps = world.steps()
        if steps:
            ready = [step for step in steps if step[0] == "take"] or steps
            action = choose(ready) if choose else ready[idle % len(ready)]
        else:
            deadline = world.next_deadline()
            if deadline is None or deadline > until:
                return run
            action = ("jump",)
            idle = 0
        world.apply(action)
        run.append(action)
        idle += 1
        if idle > STEPS_WITHOUT_TIME:
            raise Violation(MACHINE_FAULT, f"{idle} actions at one instant: the machines run in a circle")
