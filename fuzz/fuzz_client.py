"""A client among callers, lying servers and lying peers: nothing that they say makes `Client.step` raise.

It speaks to nobody who isn't there, answers each caller once, says only what a server admits, and closes everything
when it is told to stop.
"""

from typing import Final

import msgspec

from fuzz.grammar import ALL, FROM_SERVERS, HOME, Draws, Pools, fed
from trunkline.errors import RemoteError
from trunkline.meeting.handshake import COMMIT, DIAL, READY
from trunkline.names import Address, Secret
from trunkline.switchboard.client import Client
from trunkline.switchboard.config import ClientConfig
from trunkline.switchboard.events import (
    Accepted,
    Announced,
    Answered,
    Asked,
    Cancelled,
    CandidatesChanged,
    ClientEvent,
    Close,
    Delivered,
    Dial,
    Failed,
    Lost,
    MeetWanted,
    Opened,
    PeerBind,
    PeerBound,
    PeerClose,
    PeerData,
    PeerDial,
    PeerDialled,
    PeerLost,
    PeerOpened,
    PeerSend,
    PostStands,
    PostWanted,
    Received,
    Send,
    Stop,
    Tick,
)
from trunkline.switchboard.server import ADMISSION, Role
from trunkline.wire.codec import PREAMBLE, Inbound, decode, encode
from trunkline.wire.limits import MAX_BACKLOG
from trunkline.wire.messages import (
    Alive,
    AskStatus,
    Explain,
    Goodbye,
    Hello,
    ListNames,
    Matched,
    Member,
    Posted,
    Refused,
    Welcome,
)

MAX_LEN = 2048

CONFIG: Final = ClientConfig(
    servers=(Address("a", 1), Address("m", 1)), place=HOME, patience=20.0, max_strangers=3, notices=True
)
_MOST_REQUESTS: Final = 6


class World:
    """The client under test, its callers, its servers and its peers."""

    def __init__(self, draws: Draws) -> None:
        self.draws = draws
        self.pools = Pools()
        self.now = 0.0
        self.client = self._made()
        self.servers: dict[int, Inbound | None] = {}
        """Connections to servers; None while they are being dialled."""
        self.greeted: set[int] = set()
        self.helloed: set[int] = set()
        self.peers: dict[int, bytes | None] = {}
        """Connections to peers, with what the peer is going to say; None while they are being dialled."""
        self.open: dict[bytes, bool] = {}
        """Requests that have no answer yet, and whether they are posts."""
        self.wanted: dict[bytes, str] = {}
        """Whom a meeting wants."""
        self.lodged: dict[bytes, int] = {}
        """The last attempt of each request."""
        self.questions: list[int] = []
        self.to_bind: list[int] = []
        self.count = 0

    def _made(self) -> Client:
        return Client(CONFIG, seed=b"fuzz" * 4, now=0.0)

    def step(self, event: ClientEvent) -> None:
        """Let the client take one event, and look at what it does."""
        for effect in self.client.step(event, self.now):
            match effect:
                case Send():
                    self.sent(effect)
                case Close():
                    del self.servers[effect.conn]
                case Dial():
                    assert effect.conn not in self.servers
                    self.servers[effect.conn] = None
                case PeerDial():
                    assert effect.conn not in self.peers
                    self.peers[effect.conn] = None
                case PeerSend():
                    assert self.peers[effect.conn] is not None
                case PeerBind():
                    assert self.peers[effect.conn] is not None
                    self.to_bind.append(effect.conn)
                case PeerClose():
                    del self.peers[effect.conn]
                case Delivered():
                    assert self.peers.pop(effect.conn) is not None
                    if not self.open[effect.rid]:
                        del self.open[effect.rid]
                case Failed():
                    str(effect.error)
                    del self.open[effect.rid]
                case PostStands():
                    assert self.open[effect.rid]
                case Answered():
                    self.questions.remove(effect.query)
        client = self.client
        assert len(client._peers.strangers) <= CONFIG.max_strangers
        assert set(client._peers.links) | set(client._peers.strangers) == set(self.peers)
        assert set(client._uplinks.links) == set(self.servers)

    def sent(self, effect: Send) -> None:
        """The client says something to a server: is it there, and may that be said?"""
        assert self.servers[effect.conn] is not None
        message = effect.message
        assert decode(encode(message)[4:]) == message
        if not isinstance(message, Alive | Goodbye):
            role = Role.CLIENT if effect.conn in self.helloed else Role.NEWCOMER
            assert role in ADMISSION[type(message)][1], message
        if isinstance(message, Hello):
            self.helloed.add(effect.conn)
        self.pools.learn(message)
        if hasattr(message, "rid"):
            self.lodged[message.rid] = message.n

    def tick(self, wait: float) -> None:
        """Let time pass until the client's deadline, or so long."""
        due = self.client.next_deadline()
        self.now = max(self.now, due) if due is not None and not wait else self.now + wait
        self.step(Tick())
        due = self.client.next_deadline()
        assert due is None or due > self.now, "it would be asked to tick again at once, for ever"

    def act(self) -> None:
        """Do one thing that the fuzzer chooses."""
        draws = self.draws
        match draws.below(16):
            case 0 | 1:
                self.call(draws)
            case 2 if self.open:
                rid = draws.choice(sorted(self.open))
                if draws.below(2):
                    self.step(Accepted(rid))
                else:
                    self.open_to_cancel(rid)
            case 3:
                self.tick(draws.choice((0, 0, 0.3, 1.0, 7.0, 4000.0)))
            case 4 | 5 | 6:
                self.answer_dial(draws)
            case 7 if draws.below(2):
                self.freeze()
            case 7 | 8 if self.servers:
                conn = draws.choice(sorted(self.servers))
                del self.servers[conn]
                self.step(Lost(conn, "gone"))
            case 9 | 10:
                self.peer(draws)
            case _:
                self.serve(draws)

    def call(self, draws: Draws) -> None:
        """A caller wants something."""
        self.count += 1
        rid = self.count.to_bytes(16, "little")
        deadline = draws.choice((None, self.now + 3, self.now, self.now - 1, self.now + 100))
        blob = draws.bytes(draws.below(4))
        kind = draws.below(8)
        if kind < 5 and len(self.open) >= _MOST_REQUESTS:
            return
        if kind < 3:
            self.open[rid] = False
            you = self.wanted[rid] = self.pools.name(draws)
            user = draws.choice(("", "ann", "a//b"))
            more = (bool(draws.below(2)), user, user, tuple(self.pools.rids[: draws.choice((0, 2, 20))]))
            self.step(MeetWanted(rid, self.pools.name(draws), you, blob, deadline, *more))
        elif kind < 5:
            self.open[rid] = True
            datagram, unique = bool(draws.below(2)), bool(draws.below(2))
            secret = draws.choice((None, Secret(b"s"), Secret(b"s" * 65)))
            backlog = draws.choice((1, 2, 128, 0, MAX_BACKLOG + 1))
            offer = draws.choice((("", ()), ("ann", ("ben", "*")), ("ann", ()), ("", ("ben",)), ("ann", ("*",) * 17)))
            more = (datagram, unique, secret, backlog, deadline, *offer)
            self.step(PostWanted(rid, self.pools.name(draws), blob, *more))
        elif kind == 5:
            self.questions.append(self.count)
            asked = draws.choice((Explain(self.count, "a", "b"), ListNames(self.count, ""), AskStatus(self.count)))
            self.step(Asked(asked, deadline))
        elif kind == 6:
            self.step(Announced(b"n" * draws.choice((1, 600))))
        else:
            self.step(CandidatesChanged(blob))

    def open_to_cancel(self, rid: bytes) -> None:
        """The caller of a request gives up: it is told nothing more."""
        del self.open[rid]
        self.step(Cancelled(rid))

    def answer_dial(self, draws: Draws) -> None:
        """Let a dial to a server succeed or fail; who succeeds may say Welcome at once."""
        dials = [conn for conn, inbound in self.servers.items() if inbound is None]
        if not dials:
            return
        conn = draws.choice(dials)
        if draws.below(4) == 3:
            del self.servers[conn]
            self.step(Lost(conn, "refused"))
            return
        self.servers[conn] = Inbound()
        self.step(Opened(conn, "server"))
        if draws.below(4) < 3:
            name = draws.choice(("a", "m"))
            self.hear(conn, encode(Welcome(name, 1, 1.0, (Member(name, 1, f"{name}:1"),))))

    def serve(self, draws: Draws) -> None:
        """A server says something: what fits, what might, or anything."""
        conns = [conn for conn, inbound in self.servers.items() if inbound is not None]
        if not conns:
            return
        conn = draws.choice(conns)
        kind = draws.below(8)
        if kind < 4 and self.open:
            rid = draws.choice(sorted(self.open))
            n = self.lodged.get(rid, 1)
            if kind == 0:
                self.hear(conn, encode(Posted(rid, n, draws.below(3))))
            elif kind == 1:
                self.hear(conn, encode(Refused(rid, n, draws.choice((33, 34, 35, 32, 1)), "no", draws.below(3))))
            else:
                matched = self.pools.build(draws, Matched)
                self.pools.learn(matched)
                peer = self.wanted.get(rid) or matched.peer
                self.hear(conn, encode(msgspec.structs.replace(matched, rid=rid, n=n, peer=peer)))
        elif kind < 7:
            self.hear(
                conn, encode(self.pools.message(draws, ALL if kind == 6 and not draws.below(4) else FROM_SERVERS[1:]))
            )
        else:
            self.hear(conn, draws.bytes(draws.below(16)))

    def hear(self, conn: int, data: bytes) -> None:
        """Let bytes come from a server, as the driver does."""
        if conn not in self.servers:
            return
        if conn not in self.greeted:
            self.greeted.add(conn)
            data = PREAMBLE + data
        for piece in fed(self.draws, data):
            inbound = self.servers.get(conn)
            if inbound is None:
                return
            try:
                messages = inbound.receive_data(piece)
            except RemoteError as error:
                del self.servers[conn]
                self.step(Lost(conn, str(error)))
                return
            for message in messages:
                if conn in self.servers:
                    self.step(Received(conn, message))

    def peer(self, draws: Draws) -> None:
        """A peer does something."""
        kind = draws.below(8)
        conns = sorted(self.peers)
        if self.to_bind and kind < 2:
            self.step(PeerBound(self.to_bind.pop(), draws.byte()))
        elif kind < 2 or not conns:
            self.count += 1
            conn = -self.count
            self.peers[conn] = b""
            self.step(PeerDialled(conn))
            if conn in self.peers and draws.below(4):
                self.peers[conn] = DIAL + draws.choice(self.pools.tokens) + b"\x07\x00" + COMMIT
        elif kind == 2:
            conn = draws.choice(conns)
            del self.peers[conn]
            self.step(PeerLost(conn, "gone"))
        else:
            conn = draws.choice(conns)
            if self.peers[conn] is None:
                self.peers[conn] = b"" if draws.below(4) == 3 else READY + b"\x00\x07"
                self.step(PeerOpened(conn, draws.byte()))
            self.read_peer(conn, draws)

    def read_peer(self, conn: int, draws: Draws) -> None:
        """Let a peer's bytes come in, no more than the client wants."""
        wanted = self.client.bytes_wanted(conn)
        planned = self.peers.get(conn)
        if not wanted or planned is None:
            return
        size = wanted if draws.below(4) else 1
        data = planned[:size] or draws.bytes(min(size, 4))
        if data:
            self.peers[conn] = planned[size:]
            self.step(PeerData(conn, data))

    def freeze(self) -> None:
        """Go on with a copy made from a snapshot: it must not matter."""
        snapshot = self.client.snapshot()
        hash(snapshot)
        copy = self._made()
        copy.restore(snapshot)
        assert copy.snapshot() == snapshot
        self.client = copy

    def end(self) -> None:
        """Stop the client, and see that nothing stays."""
        self.step(Stop())
        assert not self.servers
        assert not self.peers
        assert not self.open
        assert not self.questions
        self.tick(5000.0)
        assert self.client.next_deadline() is None
        assert not self.servers


def fuzz_one(data: bytes) -> None:
    """Run one input."""
    draws = Draws(data)
    world = World(draws)
    world.tick(0.01)
    while draws.left:
        world.act()
    world.end()
