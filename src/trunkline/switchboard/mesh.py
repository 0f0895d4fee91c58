"""Membership: every server is connected to every other (docs/spec/switchboard.md section 2).

A server that starts dials the servers that it was told to join. Whoever answers tells it the members, and it connects
to all of those. Who learns of a new member tells the others, since two may join at once. If two servers dial each
other at the same time, the connection that the lesser id dialled is kept: both sides see the same.

A member whose connection is lost is *missing*: it is dialled again, in growing intervals, until it is back, says that
it left, or is forgotten.
"""

from typing import Final

from trunkline.errors import InvalidAddress, NameTaken, TooMany
from trunkline.names import Address, Draw
from trunkline.switchboard.config import ServerConfig
from trunkline.switchboard.events import Close, Dial, Log, Send, ServerEffect
from trunkline.wire.limits import MAX_MEMBERS
from trunkline.wire.messages import Goodbye, MateAlive, MateHello, MateWelcome, Member

REDIAL_FIRST: Final = 0.2
REDIAL_MOST: Final = 5.0
"""Seconds between attempts to reach a missing member: doubled each time, with jitter."""

FORGET: Final = 600.0
"""Seconds after which a missing member is dialled no more. It will find us when it is back."""


class Target:
    """A server that should be connected and is not: an address of the join list, or a missing member."""

    __slots__ = ("address", "conn", "due", "pause", "since")

    def __init__(self, address: Address, since: float) -> None:
        self.address = address
        self.conn = 0
        """The attempt under way, or 0."""
        self.due = since
        self.pause = REDIAL_FIRST
        self.since = since

    def freeze(self) -> tuple[object, ...]:
        """Return all of it, for snapshots."""
        return self.address, self.conn, self.due, self.pause, self.since


class Mesh:
    """Who is a member, who is connected, whom to dial and when. Effects are appended to ``out``."""

    def __init__(self, config: ServerConfig, draw: Draw, incarnation: int, now: float) -> None:
        self.me = Member(config.id, incarnation, str(config.address))
        self.out: list[ServerEffect] = []
        self.links: dict[str, int] = {}
        """Server id -> connection, for those that are connected."""
        self.members: dict[str, Member] = {}
        """Everyone who is connected or missing; not this server itself."""
        self.missing: dict[str, float] = {}
        """Server id -> since when it is missed."""
        self.sees: dict[str, tuple[Member, ...]] = {}
        """Connected server id -> whom it says that it is connected to."""
        self.hearsay: dict[str, tuple[Member, float]] = {}
        """Server id -> whom a mate sees and we never saw ourselves, and since when we know: missed as well."""
        self.targets: dict[str, Target] = {}
        """Address -> what we do about it."""
        self._by_conn: dict[int, str] = {}
        """Connection -> server id, for links that are up."""
        self._dialled: dict[int, str] = {}
        """Connection -> address, for dials whose answer is awaited."""
        self._ours: set[int] = set()
        """Of the links that are up, those that we dialled."""
        self._join = frozenset(map(str, config.join))
        self._selves: set[str] = {str(config.address)}
        """Addresses at which we found ourselves: never dialled again."""
        self._draw = draw
        self._next_conn = 0
        for address in config.join:
            self._aim(str(address), now)

    # ---- dialling ---------------------------------------------------------------------------------------------

    def _aim(self, address: str, now: float) -> None:
        if address in self._selves or address in self.targets:
            return
        try:
            self.targets[address] = Target(Address.parse(address), now)
        except InvalidAddress as error:
            self.out.append(Log("member's address can't be used", str(error)))

    def tick(self, now: float) -> None:
        """Dial whoever is due, and forget whom nobody has seen for long."""
        for address, target in list(self.targets.items()):
            if now >= target.since + FORGET and not target.conn and self._may_forget(address):
                self._forget(address)
            elif not target.conn and target.due <= now:
                self._next_conn += 1
                target.conn = self._next_conn
                self._dialled[target.conn] = address
                self.out.append(Dial(target.conn, target.address))
        for server in [server for server, since in self._undialled() if now >= since + FORGET]:
            self._drop_member(server)
            self.out.append(Log("server forgotten", server))

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        if not self.targets and not self.missing:
            return None  # as nearly always, and it is asked after each step
        due = [target.due for target in self.targets.values() if not target.conn]
        due += [since + FORGET for _, since in self._undialled()]
        return min(due, default=None)

    def _undialled(self) -> list[tuple[str, float]]:
        """Return the missing members that can't be dialled: a bad address, or ours. They are forgotten all the same."""
        return [(s, since) for s, since in self.missing.items() if self.members[s].address not in self.targets]

    def _may_forget(self, address: str) -> bool:
        # An address of the join list is given up only if somebody was there. One that we were told of may be a lie.
        return address not in self._join or any(member.address == address for member in self.members.values())

    def _forget(self, address: str) -> None:
        del self.targets[address]
        for member in [m for m in self.members.values() if m.address == address and m.id not in self.links]:
            self._drop_member(member.id)
            self.out.append(Log("server forgotten", member.id))

    def _drop_member(self, server: str) -> None:
        self.members.pop(server, None)
        self.missing.pop(server, None)

    # ---- connections ------------------------------------------------------------------------------------------

    def opened(self, conn: int) -> bool:
        """A dial of ours succeeded: introduce ourselves. False if the connection is not one of these."""
        if conn not in self._dialled:
            return False
        self.out.append(Send(conn, MateHello(self.me, self._known())))
        return True

    def hello(self, conn: int, message: MateHello, now: float) -> str | None:
        """Somebody dialled us: a link, unless it is ourselves, a double, or an impostor. Returns the id if it is up."""
        if not self._admit(conn, message.me, dialled=False):
            return None
        self.out.append(Send(conn, MateWelcome(self.me, self._known())))
        self._link(conn, message.me, message.members, dialled=False, now=now)
        return message.me.id

    def welcome(self, conn: int, message: MateWelcome, now: float) -> str | None:
        """The answer to our dial. Returns the id if the link is up."""
        address = self._dialled.pop(conn)
        target = self.targets.pop(address, None)
        if not self._admit(conn, message.me, dialled=True):
            if target is not None and message.me.id not in self.links and message.me.id != self.me.id:
                target.conn = 0
                self._back_off(target, now)
                self.targets[address] = target
            elif message.me.id == self.me.id:
                self._selves.add(address)
            return None
        self._link(conn, message.me, message.members, dialled=True, now=now)
        return message.me.id

    def _admit(self, conn: int, them: Member, *, dialled: bool) -> bool:
        """Whether a link to this server may be made; if not, the connection is closed here, and told why."""
        if them.id == self.me.id:
            if them == self.me:
                self._turn_away(conn, "that is this server itself", dialled=dialled)
            else:
                self._refuse(
                    conn,
                    NameTaken(them.id, f"it is the id of the server at {self.me.address}; choose another"),
                )
            return False
        known = self.members.get(them.id)
        if known is None and len(self.members) + 1 >= MAX_MEMBERS:
            self._refuse(conn, TooMany("servers in this mesh", MAX_MEMBERS))
            return False
        old = self.links.get(them.id)
        if old is None or known is None:
            return True
        if known.address != them.address:
            self._refuse(conn, NameTaken(them.id, f"it is the id of the server at {known.address}; choose another"))
            return False
        if them.incarnation < known.incarnation:
            self._turn_away(conn, "a later incarnation of it is connected", dialled=dialled)
            return False
        if them.incarnation == known.incarnation:
            dialler_of_old = self.me.id if old in self._ours else them.id
            dialler_of_new = self.me.id if dialled else them.id
            if dialler_of_old <= dialler_of_new:
                self._turn_away(conn, "there is a link already", dialled=dialled)
                return False
        # Either the other of two links is the one to keep, or the server has started anew before we missed it.
        self._unlink(old)
        self.out.append(Close(old, "a newer link takes its place"))
        return True

    def _turn_away(self, conn: int, why: str, *, dialled: bool) -> None:
        """Close a connection that is one too many, in a way that lets its dialler see whom it had reached."""
        if not dialled:
            self.out.append(Send(conn, MateWelcome(self.me, self._known())))
        self.out.append(Close(conn, why))

    def _refuse(self, conn: int, error: NameTaken | TooMany) -> None:
        self.out.append(Send(conn, Goodbye(error.code, str(error))))
        self.out.append(Close(conn, str(error)))

    def _link(self, conn: int, them: Member, members: tuple[Member, ...], *, dialled: bool, now: float) -> None:
        is_new = them.id not in self.members
        self.links[them.id] = conn
        self._by_conn[conn] = them.id
        if dialled:
            self._ours.add(conn)
        self.members[them.id] = them
        self.missing.pop(them.id, None)
        self.hearsay.pop(them.id, None)
        target = self.targets.get(them.address)
        if target is not None and not target.conn:
            del self.targets[them.address]
        self.learn(members, now)
        self.out.append(Log("server joined", f"{them.id} at {them.address}"))
        if is_new:
            for other, link in self.links.items():
                if other != them.id:
                    self.out.append(Send(link, MateAlive(self.seen())))

    def learn(self, members: tuple[Member, ...], now: float) -> None:
        """Connect to whoever of these isn't connected yet."""
        for member in members:
            if member.id == self.me.id or member.id in self.links:
                continue
            if member.id not in self.members and len(self.members) + 1 >= MAX_MEMBERS:
                continue
            if len(self.targets) >= MAX_MEMBERS + len(self._join):
                return  # more than a mesh can have: these are lies
            known = self.members.get(member.id)
            if known is None or known.incarnation < member.incarnation:
                self._aim(member.address, now)

    def saw(self, server: str, message: MateAlive, now: float) -> None:
        """A mate's heartbeat says whom it is connected to."""
        self.sees[server] = message.sees
        self.learn(message.sees, now)
        heard = {member.id: member for sees in self.sees.values() for member in sees}
        self.hearsay = {
            server: (member, self.hearsay.get(server, (member, now))[1])
            for server, member in sorted(heard.items())
            if server != self.me.id and server not in self.members
        }

    def lost(self, conn: int, now: float) -> str | None:
        """A connection ended. Returns the id of the server that is missing now, if it was a link."""
        address = self._dialled.pop(conn, None)
        if address is not None:
            target = self.targets.get(address)
            if target is not None:
                target.conn = 0
                self._back_off(target, now)
            return None
        server = self._unlink(conn)
        if server is None:
            return None
        self.missing[server] = now
        address = self.members[server].address
        target = self.targets.get(address)
        if target is None:
            self._aim(address, now)
            target = self.targets.get(address)
            if target is not None:
                target.due = now + REDIAL_FIRST * self._draw.fraction()
        self.out.append(Log("server missing", server))
        return server

    def left(self, server: str) -> None:
        """A server says that it goes in good order: it is not missed."""
        conn = self.links[server]
        address = self.members[server].address
        self._unlink(conn)
        self._drop_member(server)
        self.targets.pop(address, None)
        self.out.append(Log("server left", server))
        self.out.append(Close(conn, "the server left"))

    def _unlink(self, conn: int) -> str | None:
        server = self._by_conn.pop(conn, None)
        self._ours.discard(conn)
        if server is not None and self.links.get(server) == conn:
            del self.links[server]
            self.sees.pop(server, None)
            return server
        return None

    def _back_off(self, target: Target, now: float) -> None:
        target.due = now + target.pause * (0.5 + self._draw.fraction())
        target.pause = min(target.pause * 2, REDIAL_MOST)

    # ---- questions --------------------------------------------------------------------------------------------

    def server_at(self, conn: int) -> str | None:
        """Return which server is linked by this connection."""
        return self._by_conn.get(conn)

    def is_dial(self, conn: int) -> bool:
        """Whether this is a dial of ours that awaits its MateWelcome."""
        return conn in self._dialled

    def seen(self) -> tuple[Member, ...]:
        """Return the members that are connected."""
        return tuple(self.members[server] for server in sorted(self.links))

    def everyone(self) -> tuple[Member, ...]:
        """Return this server and those that are connected: what clients keep in their host lists."""
        return (self.me, *self.seen())

    def _known(self) -> tuple[Member, ...]:
        return tuple(self.members[server] for server in sorted(self.members))[: MAX_MEMBERS - 1]

    def detours(self, grace: float, now: float) -> tuple[Member, ...]:
        """Return where clients should lodge as well, since a member has been missing for longer than ``grace``.

        That is the missing member itself, which the client may be able to reach though we can't, and a mate that says
        that it sees it. A server of the join list that was never reached is missed too; all that we know of it is its
        address.
        """
        found: dict[str, Member] = {}
        missed = [(self.members[server], since) for server, since in self.missing.items()]
        missed += self.hearsay.values()
        known = {member.address for member in (*self.members.values(), *(member for member, _ in missed))}
        missed += [
            (Member(address, 0, address), target.since)
            for address, target in sorted(self.targets.items())
            if address in self._join - known and now - target.since < FORGET
        ]
        for member, since in missed:
            server = member.id
            if now - since < grace or server in self.links:
                continue
            found[server] = member
            for mate in sorted(self.sees):
                if any(seen.id == server for seen in self.sees[mate]):
                    found[mate] = self.members[mate]
                    break
        return tuple(found.values())

    # ---- for the explorer -------------------------------------------------------------------------------------

    def snapshot(self) -> tuple[object, ...]:
        """Return the whole state as nested tuples, equal for equal states."""
        return (
            tuple(sorted(self.links.items())),
            tuple(sorted(self.members.items())),
            tuple(sorted(self.missing.items())),
            tuple(sorted(self.sees.items())),
            tuple(self.hearsay.items()),
            tuple(sorted((address, target.freeze()) for address, target in self.targets.items())),
            tuple(sorted(self._by_conn.items())),
            tuple(sorted(self._dialled.items())),
            tuple(sorted(self._ours)),
            tuple(sorted(self._selves)),
            self._next_conn,
            self._draw.count,
        )

    def restore(self, snapshot: tuple[object, ...]) -> None:
        """Become what was snapshot."""
        links, members, missing, sees, hearsay, targets, by_conn, dialled, ours, selves, next_conn, drawn = snapshot
        self.links.clear()  # the matcher holds this very dict
        self.links.update(links)  # type: ignore[call-overload]
        self.members = dict(members)  # type: ignore[call-overload]
        self.missing = dict(missing)  # type: ignore[call-overload]
        self.sees = dict(sees)  # type: ignore[call-overload]
        self.hearsay = dict(hearsay)  # type: ignore[call-overload]
        self.targets = {}
        for address, (parsed, conn, due, pause, since) in targets:  # type: ignore[attr-defined]
            target = self.targets[address] = Target(parsed, since)
            target.conn, target.due, target.pause = conn, due, pause
        self._by_conn = dict(by_conn)  # type: ignore[call-overload]
        self._dialled = dict(dialled)  # type: ignore[call-overload]
        self._ours = set(ours)  # type: ignore[call-overload]
        self._selves = set(selves)  # type: ignore[call-overload]
        assert isinstance(next_conn, int)
        assert isinstance(drawn, int)
        self._next_conn = next_conn
        self._draw.count = drawn
