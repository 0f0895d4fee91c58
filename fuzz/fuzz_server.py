"""A server among clients, servers, strangers and liars: no order of bytes, ticks and losses breaks it.

After each step its tables are within their limits and agree with each other, and it speaks to nobody who isn't
there. When all are gone its tables are empty.
"""

from typing import Final

from fuzz.grammar import ALL, FROM_CLIENTS, FROM_MATES, Draws, Pools, fed
from trunkline.errors import RemoteError
from trunkline.names import Address
from trunkline.switchboard.config import ServerConfig
from trunkline.switchboard.entries import State
from trunkline.switchboard.events import Close, Dial, Halt, Lost, Opened, Received, Send, ServerEvent, Stop, Tick
from trunkline.switchboard.mesh import FORGET
from trunkline.switchboard.policy import Policy, Rule
from trunkline.switchboard.server import Role, Server
from trunkline.wire.codec import PREAMBLE, Inbound, decode, encode
from trunkline.wire.limits import MAX_MEMBERS, MAX_REMOVALS
from trunkline.wire.messages import Hello, MateHello, MateWelcome, Member, Propose

MAX_LEN = 2048

CONFIG: Final = ServerConfig(
    id="me",
    address=Address("me", 7117),
    join=(Address("z", 1),),
    heartbeat=1.0,
    max_clients=4,
    max_requests=5,
    name_memory=30.0,
    policy=Policy(
        realm="lab", rules=(Rule(("*",), meet=("ann", "ben"), post=("post",)), Rule(("ann",), meet=("",), post=("",)))
    ),
)
_MOST_CONNECTIONS: Final = 8
_SAID_BY: Final = {Role.CLIENT: FROM_CLIENTS, Role.MATE: (*FROM_MATES[2:-1], *FROM_MATES[2:7])}
"""What is said by whom when it keeps to the rules; seldom that it leaves."""


class World:
    """The server under test and all who are connected to it."""

    def __init__(self, draws: Draws) -> None:
        self.draws = draws
        self.pools = Pools()
        self.now = 0.0
        self.server = self._made()
        self.live: dict[int, Inbound] = {}
        self.greeted: set[int] = set()
        self.dialled: set[int] = set()
        self.last = 0
        self.halted = False
        self.refuses = False
        """Whether every dial fails at once."""

    def _made(self) -> Server:
        return Server(CONFIG, seed=b"fuzz" * 4, incarnation=3, epoch=1e6, now=0.0)

    def step(self, event: ServerEvent) -> None:
        """Let the server take one event, look at what it does, and at itself."""
        refused: list[int] = []
        for effect in self.server.step(event, self.now):
            match effect:
                case Send():
                    assert effect.conn in self.live, f"{effect} to nobody, after {event}"
                    assert decode(encode(effect.message)[4:]) == effect.message
                    if isinstance(effect.message, Propose):
                        self.pools.learn(effect.message)
                case Close():
                    assert effect.conn in self.live, f"{effect} of nobody, after {event}"
                    self.forget(effect.conn)
                case Dial():
                    assert effect.conn > 0
                    assert effect.conn not in self.live
                    assert effect.conn not in self.dialled
                    self.dialled.add(effect.conn)
                    refused.append(effect.conn)
                case Halt():
                    self.halted = True
        self.check()
        if self.refuses:
            for conn in refused:
                self.dialled.remove(conn)
                self.step(Lost(conn, "refused"))

    def forget(self, conn: int) -> None:
        """A connection is gone."""
        del self.live[conn]
        self.greeted.discard(conn)

    def check(self) -> None:
        """Look at the server's tables."""
        server = self.server
        matcher, mesh, table = server._matcher, server._mesh, server._matcher.table
        for conn, entries in matcher.lodged.items():
            assert conn in self.live
            assert len(entries) <= CONFIG.max_requests
        assert sum(map(len, matcher.lodged.values())) == len(table.own)
        reserved = {entry.proposal for entry in table.own.values() if entry.state is State.RESERVED}
        assert reserved == {match for match, proposal in matcher.proposals.items() if proposal.entry is not None}
        indexed = sum(map(len, table._pairs.values())) + sum(map(len, table._posts.values()))
        assert indexed == len(table.own) + sum(map(len, table.foreign.values()))
        assert set(table.foreign) <= set(mesh.links)
        assert sum(map(len, table._seekers.values())) == sum(map(len, table._pairs.values()))
        assert len(table._names) == len(table._posts)
        assert set(mesh.links.values()) <= set(self.live)
        assert set(server._parties) <= set(self.live)
        assert len(mesh.members) < MAX_MEMBERS
        assert len(mesh.targets) <= 2 * MAX_MEMBERS + len(CONFIG.join)
        assert set(mesh.missing) <= set(mesh.members)
        assert len(matcher.lazy) < MAX_REMOVALS
        assert 0 <= server._listeners <= server._clients <= CONFIG.max_clients

    def tick(self, wait: float) -> None:
        """Let time pass until the server's deadline, or so long."""
        due = self.server.next_deadline()
        self.now = max(self.now, due) if due is not None and not wait else self.now + wait
        self.step(Tick())
        due = self.server.next_deadline()
        assert due is None or due > self.now, "it would be asked to tick again at once, for ever"

    def hear(self, conn: int, data: bytes) -> None:
        """Let bytes come in, as the driver does."""
        for piece in fed(self.draws, data):
            if conn not in self.live:
                return
            try:
                messages = self.live[conn].receive_data(piece)
            except RemoteError as error:
                self.forget(conn)
                self.step(Lost(conn, str(error)))
                return
            for message in messages:
                if conn in self.live:
                    self.step(Received(conn, message))

    def act(self) -> None:
        """Do one thing that the fuzzer chooses."""
        draws = self.draws
        conns = sorted(self.live)
        match draws.below(16):
            case 0 | 1:
                if len(conns) < _MOST_CONNECTIONS:
                    self.open(draws)
            case 2:
                if self.dialled:
                    self.answer_dial(draws)
            case 3:
                self.tick(draws.choice((0, 0.3, 1.0, 7.0, 700.0)))
            case 4 if conns:
                conn = draws.choice(conns)
                self.forget(conn)
                self.step(Lost(conn, "gone"))
            case 5 if conns:
                self.hear(draws.choice(conns), draws.bytes(draws.below(16)))
            case 6:
                self.freeze()
            case number if conns:
                conn = draws.choice(conns)
                party = self.server._parties.get(conn)
                fitting = _SAID_BY.get(party.role, ALL) if party is not None else ALL
                kinds = ALL if number == 7 and not draws.below(4) else fitting
                self.hear(conn, self.said(conn, encode(self.pools.message(draws, kinds))))
            case _:
                pass

    def open(self, draws: Draws) -> None:
        """Let somebody connect: a client, a server, or neither."""
        self.last -= 1
        conn = self.last
        self.live[conn] = Inbound()
        self.step(Opened(conn, "somebody", self.draws.choice(("switchboard/m", "ann", ""))))
        kind = draws.below(4)
        if kind < 2:
            self.hear(conn, self.said(conn, encode(Hello("fuzz", bool(kind)))))
        elif kind == 2:
            name = draws.choice(("a", "z", "me"))
            self.hear(conn, self.said(conn, encode(MateHello(Member(name, draws.below(4), f"{name}:1"), ()))))

    def answer_dial(self, draws: Draws) -> None:
        """Let a dial of the server's succeed or fail."""
        conn = draws.choice(sorted(self.dialled))
        self.dialled.remove(conn)
        answer = draws.below(3)
        if not answer:
            self.step(Lost(conn, "refused"))
            return
        self.live[conn] = Inbound()
        self.step(Opened(conn, "z", "switchboard/z"))
        if answer == 1:
            name = draws.choice(("z", "a", "me"))
            self.hear(conn, self.said(conn, encode(MateWelcome(Member(name, draws.below(4), f"{name}:1"), ()))))

    def said(self, conn: int, frame: bytes) -> bytes:
        """Put the preamble before the first frame."""
        if conn in self.greeted:
            return frame
        self.greeted.add(conn)
        return PREAMBLE + frame

    def freeze(self) -> None:
        """Go on with a copy made from a snapshot: it must not matter."""
        snapshot = self.server.snapshot()
        hash(snapshot)
        copy = self._made()
        copy.restore(snapshot)
        assert copy.snapshot() == snapshot
        self.server = copy

    def end(self, draws: Draws) -> None:
        """Let all be gone, and see that nothing stays."""
        if draws.below(4) == 1:
            self.step(Stop())
            assert not self.live
            assert self.server.next_deadline() is None
        for conn in sorted(self.live):
            if conn in self.live:
                self.forget(conn)
                self.step(Lost(conn, "gone"))
        self.refuses = True
        for conn in sorted(self.dialled):
            self.dialled.remove(conn)
            self.step(Lost(conn, "refused"))
        server = self.server
        for wait in (FORGET + 1, 0, FORGET + 1, 0):
            self.tick(wait)
        if server._stopped:
            return
        assert server._matcher.table.counts() == (0, 0, 0)
        assert not server._parties
        assert (server._clients, server._listeners) == (0, 0)
        assert not server._mesh.links
        assert not server._mesh.members, server._mesh.members
        assert set(server._mesh.targets) <= {str(address) for address in CONFIG.join}, set(server._mesh.targets)
        assert not len(server._matcher.generations)
        assert not server._matcher.proposals
        assert not server._matcher._sent_to


def fuzz_one(data: bytes) -> None:
    """Run one input."""
    draws = Draws(data)
    world = World(draws)
    world.tick(0)
    while draws.left and not world.halted:
        world.act()
    if not world.halted:
        world.end(draws)
