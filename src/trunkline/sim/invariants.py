"""What must hold in every world (docs/design.md section 8), for explorer, random worlds and stateful tests alike.

S1  Nobody but A's match partner ever returns for A's match; if only one of them returned, the other crashed,
    cancelled, ran out of time or lost the connection, and the one reads EOF.
S2  Each attempt is matched at most once, and at most one attempt of a request is confirmed.
S3  Once faults stop, two requests that match do match, if some path of live servers joins their clients.
S4  When the clients are gone, every table is empty.
S5  The message budget holds in runs without faults.

What happened is kept as *facts*, tuples in a frozen set that is part of a world's state:

    ("returned", rid, match, pipe, peer)      the caller of rid got the connection that it reads from this pipe
    ("over", rid, why)                        cancelled, failed with this error, or its process is gone
    ("matched", server, incarnation, rid, n, match)
    ("lost", connection)                      a fault broke this connection
    ("elsewhere",)                            a server told a client to lodge with others too
"""

from typing import TYPE_CHECKING, Any, Final

from trunkline.sim.network import CLOSED, MACHINE

if TYPE_CHECKING:
    from trunkline.sim.world import World

Fact = tuple[Any, ...]

MACHINE_FAULT: Final = "machine"
"""Not an invariant of the protocol: a machine raised, or broke its contract with the driver."""


class Violation(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(invariant, text)
        self.invariant = invariant
        self.text = text

    def __str__(self) -> str:
        return f"{self.invariant}: {self.text}"


def check_fact(world: "World", fact: Fact) -> None:
    """Check a fact against those before it (S1 and S2, as far as they can be broken at one instant).

    Raises:
        Violation: S1 or S2.
    """
    if fact[0] == "returned":
        _check_return(world, fact)
    elif fact[0] == "matched":
        _check_match(world, fact)


def _check_return(world: "World", fact: Fact) -> None:
    _, rid, match, pipe, peer = fact
    request = world.request(rid)
    if request.you and peer != request.you:
        raise Violation("S1", f"meet({request.me}, {request.you}) returned a connection to {peer!r}")
    partners = []
    for other in world.facts:
        if other[0] == "over" and other[1] == rid:
            raise Violation("S1", f"{request} returned after it was over ({other[2]})")
        if other[0] != "returned":
            continue
        if other[1] == rid and (request.you or other[2] == match):
            raise Violation("S2", f"{request} returned twice")
        if other[2] == match:
            partners.append(other)
    if not partners:
        return
    if len(partners) > 1:
        raise Violation("S1", f"a third caller, {request}, returned for match {match}")
    mate = world.request(partners[0][1])
    if not request.fits(mate):
        raise Violation("S1", f"match {match} joined {request} and {mate}, which do not match")
    if partners[0][3] != pipe ^ 1:
        raise Violation("S1", f"{request} and {mate} returned for one match with ends of different connections")


def _check_match(world: "World", fact: Fact) -> None:
    _, _, _, rid, n, match = fact
    if not world.request(rid).you:
        return  # a post is matched many times
    if ("elsewhere",) in world.facts:
        # An attempt that is lodged elsewhere as well, because a server misses a mate, may be matched by both servers at
        # once, and is lodged again with a server whose answer was lost. The client takes up one match at a time: what
        # holds then is that it returns once.
        return
    for other in world.facts:
        if other[0] == "matched" and other[3] == rid and other[4] == n and other[5] != match:
            raise Violation("S2", f"attempt {n} of {world.request(rid)} was matched twice")


def check_returns(world: "World") -> None:
    """Check at rest that who returned alone reads EOF, with a reason, and that both read only each other's bytes (S1).

    Raises:
        Violation: S1.
    """
    returned = [fact for fact in world.facts if fact[0] == "returned"]
    over = {fact[1]: fact[2] for fact in world.facts if fact[0] == "over"}
    lost = {fact[1] for fact in world.facts if fact[0] == "lost"}
    for fact in returned:
        _, rid, match, name, _ = fact
        request = world.request(rid)
        if not world.runs(request):
            continue  # it returned and crashed: nobody reads
        pipe = world.net.pipes.get(name)
        mate = next((other for other in returned if other[2] == match and other[1] != rid), None)
        if mate is None:
            partners = [world.request(r) for r in over]
            excused = name // 2 in lost or any(request.fits(partner) for partner in partners)
            if not excused:
                raise Violation("S1", f"{request} returned alone for match {match}, and nobody crashed or gave up")
            if pipe is not None and not pipe.broken and (not pipe.items or pipe.items[-1] != CLOSED):
                raise Violation("S1", f"{request} returned alone for match {match}, and does not read EOF")
        if pipe is None or pipe.broken or request.datagram:
            continue
        came = b"".join(world.engine.thing(item) for item in pipe.items if item > CLOSED)
        sent = b"" if mate is None else world.said(mate[1], match)
        if came != sent:
            raise Violation("S1", f"{request} was to read {sent!r} from its peer, and reads {came!r}")


def unmet(world: "World") -> list[tuple[Any, Any]]:
    """Return the pairs of requests that wait although they match."""
    waiting = world.waiting()
    pairs: list[tuple[Any, Any]] = []
    for place, one in enumerate(waiting):
        pairs.extend((one, other) for other in waiting[place + 1 :] if one.fits(other))
    return pairs


def check_met(world: "World") -> None:
    """Check that no two requests wait that match (S3).

    Raises:
        Violation: S3.
    """
    if not any(world.is_up(site) for site in range(world.spec.servers)):
        return
    pairs = unmet(world)
    if pairs:
        one, other = pairs[0]
        text = f"{one} and {other} still wait, {world.now - world.calm_since:.0f} s after the last fault"
        raise Violation("S3", text)
    for fact in world.facts:
        if fact[0] == "over" and fact[2] == "NoSwitchboard" and world.spec.faults <= 1 < world.spec.servers:
            raise Violation("S3", f"{world.request(fact[1])} failed with NoSwitchboard although a server lived")


def check_tables(world: "World") -> None:
    """Check that servers keep nothing of clients that are gone (S4).

    Raises:
        Violation: S4.
    """
    for site in range(world.spec.servers):
        if not world.is_up(site):
            continue
        left = {what: count for what, count in world.engine.tables(world.states[site]).items() if count}
        if left:
            raise Violation("S4", f"the clients are gone, and server {site} still holds {left}")
    for name, pipe in world.net.pipes.items():
        is_news = pipe.broken or pipe.items  # then the server will hear of it yet
        if pipe.reader == MACHINE and world.is_server(pipe.site) and name ^ 1 not in world.net.pipes and not is_news:
            raise Violation("S4", f"server {pipe.site} keeps a connection whose other side is gone")


def check_budget(world: "World", limit: int) -> None:
    """Check the number of messages that the connection took (S5).

    Raises:
        Violation: S5.
    """
    if world.count > limit:
        raise Violation("S5", f"{world.count} messages were sent for one connection, and the budget is {limit}")
