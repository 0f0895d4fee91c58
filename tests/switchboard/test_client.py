"""The client as a whole: who may say what, bad wishes, broadcasts, stopping, and anything in any order."""

import typing
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.playbook import Error, Playbook, Wait
from tests.switchboard.clientside import (
    COMMITTED,
    DIALLED,
    HELLO,
    LAN,
    MATCH,
    MATCH2,
    MINE,
    ONE,
    READIED,
    RID,
    RID2,
    S1,
    S2,
    S3,
    THREE,
    TOKEN,
    TOKEN2,
    WANTED,
    config,
    matched,
    meet,
    member,
    standing,
    waiting,
    welcome,
)
from trunkline.errors import (
    ClosedError,
    ConfigError,
    InvalidName,
    InvalidUser,
    LocalError,
    MessageNotAllowed,
    NoSwitchboard,
)
from trunkline.meeting.handshake import DIAL, READY
from trunkline.names import Secret
from trunkline.switchboard import events as ev
from trunkline.switchboard.client import MAX_ANNOUNCEMENTS, Client
from trunkline.switchboard.config import ClientConfig
from trunkline.switchboard.events import (
    Accepted,
    Announced,
    Asked,
    Cancelled,
    CandidatesChanged,
    Close,
    Dial,
    Failed,
    Lost,
    MeetWanted,
    Noticed,
    Opened,
    PeerBound,
    PeerClose,
    PeerData,
    PeerDial,
    PeerDialled,
    PeerLost,
    PeerOpened,
    PostWanted,
    Received,
    Send,
    Stop,
    Tick,
)
from trunkline.switchboard.uplinks import Phase
from trunkline.wire import messages as wire
from trunkline.wire.limits import MAX_CANDIDATES, MAX_NOTICE
from trunkline.wire.messages import (
    Alive,
    AskStatus,
    Broadcast,
    Elsewhere,
    Explanation,
    Goodbye,
    Matched,
    Meet,
    Members,
    Notice,
    Posted,
    Refused,
    ServerStatus,
    Welcome,
    Withdraw,
)

Script = Callable[..., Playbook]

# ---- who may say what --------------------------------------------------------------------------------------------


def example(kind: type[wire.Message]) -> wire.Message:
    """Return some message of that kind."""
    values: dict[Any, Any] = {
        str: "x", int: 1, float: 1.0, bool: False, tuple: (), bytes: b"x" * 16, wire.Member: member("s9"),
    }  # fmt: skip
    fields = []
    for field in msgspec.structs.fields(kind):
        base = typing.get_origin(field.type) or field.type
        while base is typing.Annotated or typing.get_origin(base) is typing.Annotated:
            base = typing.get_args(field.type)[0]
            base = typing.get_origin(base) or base
        fields.append(values[base])
    return kind(*fields)


EVERY = typing.get_args(wire.AnyMessage)
FROM_SERVERS = {Alive, Goodbye, *typing.get_args(wire.ServerMessage)}


def test_every_event_has_a_handler() -> None:
    client = Client(config(), seed=b"seed", now=0.0)
    assert set(client._events) == set(typing.get_args(ev.ClientEvent))


def test_servers_may_say_what_is_theirs_to_say() -> None:
    client = Client(config(), seed=b"seed", now=0.0)
    assert set(client._admitted) == FROM_SERVERS


@pytest.mark.parametrize("phase", [Phase.GREETING, Phase.UP], ids=lambda phase: phase.name)
@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_anything_else_closes_the_connection(play: Playbook, kind: type[wire.Message], phase: Phase) -> None:
    if phase is Phase.UP:
        waiting(play)
        allowed = kind in FROM_SERVERS - {Welcome}
    else:
        play >> WANTED << Dial(1, S1) >> Opened(1, "s1") << Send(1, HELLO)
        allowed = kind in (Alive, Goodbye, Welcome)
    play.end()
    effects = play.machine.step(Received(1, example(kind)), play.now)
    closed = Close(1, f"a server may not send {kind.__name__} here") in effects
    assert closed is not allowed
    if closed:
        assert effects[0] == Send(1, Goodbye(MessageNotAllowed.code, f"a server may not send {kind.__name__} here"))
        failed = [effect for effect in effects if isinstance(effect, Failed)]
        assert bool(failed) is (phase is Phase.GREETING)


def test_messages_on_connections_that_are_gone(play: Playbook) -> None:
    waiting(play) >> Received(7, Alive()) >> Lost(7, "reset") >> Opened(7, "x") >> Opened(1, "again")


def test_goodbye_is_a_loss(play: Playbook) -> None:
    waiting(play) >> Received(1, Goodbye(0, "this server stops")) << Close(1, "it said goodbye: this server stops")
    play >> Wait(0.2) << Dial(2, S1)


# ---- bad wishes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "error", "text"),
    [
        (MeetWanted(RID, "a", "a", MINE), InvalidName, "can't meet itself"),
        (MeetWanted(RID, "", "a", MINE), InvalidName, "it is empty"),
        (MeetWanted(RID, "a", "b" * 256, MINE), InvalidName, "the limit is 255"),
        (MeetWanted(RID, "a", "b", b"x" * (MAX_CANDIDATES + 1)), ConfigError, "the limit is 1024"),
        (MeetWanted(RID, "a", "b", MINE, user="ann"), InvalidUser, "it is empty"),
        (MeetWanted(RID, "a", "b", MINE, peer_user="ann"), InvalidUser, "it is empty"),
        (MeetWanted(RID, "a", "b", MINE, user="a b", peer_user="ann"), InvalidUser, "like ops/ann"),
        (PostWanted(RID, "a", MINE, user="ann"), ConfigError, "from 1 to 16"),
        (PostWanted(RID, "a", MINE, user="ann", allow=("*",) * 17), ConfigError, "from 1 to 16"),
        (PostWanted(RID, "a", MINE, user="ann", allow=("b b",)), InvalidUser, "like ops/ann"),
        (PostWanted(RID, "a", MINE, allow=("ben",)), InvalidUser, "it is empty"),
        (PostWanted(RID, "a\n", MINE), InvalidName, "control character"),
        (PostWanted(RID, "a", b"x" * (MAX_CANDIDATES + 1)), ConfigError, "the limit is 1024"),
        (PostWanted(RID, "a", MINE, backlog=0), ConfigError, "from 1 to 4096"),
        (PostWanted(RID, "a", MINE, secret=Secret(b"x" * 65)), ConfigError, "limit of 64 bytes"),
    ],
)
def test_a_wish_that_can_not_be_lodged(play: Playbook, wanted: Any, error: type[Exception], text: str) -> None:
    play >> wanted << Failed(RID, Error(error, text))
    assert play.machine.snapshot() == Client(config(), seed=b"seed", now=0.0).snapshot()


def test_a_request_id_in_use(play: Playbook) -> None:
    waiting(play) >> WANTED << Failed(RID, Error(LocalError, "is there already")) >> Cancelled(RID)
    play << Send(1, Withdraw(RID, 1))


# ---- broadcasts --------------------------------------------------------------------------------------------------


def test_broadcasts(play: Playbook) -> None:
    waiting(play) >> Announced(b"hello") << Send(1, Broadcast(b"hello")) >> Received(1, Notice(b"hi"))
    play << Noticed(b"hi") >> Announced(b"x" * (MAX_NOTICE + 1))
    assert play.logs[-1] == "notice dropped: 513 bytes; the limit is 512"


def test_broadcasts_wait_for_a_server_but_not_all_and_not_for_ever(play: Playbook) -> None:
    play >> Announced(b"0") << Dial(1, S1)
    for number in range(1, MAX_ANNOUNCEMENTS + 4):
        play >> Announced(str(number).encode())
    play >> Opened(1, "s1") << Send(1, HELLO) >> Received(1, welcome())
    for number in range(4, MAX_ANNOUNCEMENTS + 4):
        play << Send(1, Broadcast(str(number).encode()))
    play >> Lost(1, "reset") >> Announced(b"lost") << Dial(2, S1) >> Lost(2, "refused") >> Wait(60.0)
    assert play.machine.next_deadline() is None


def test_notices_of_an_extra_server_are_the_same_ones(play: Playbook) -> None:
    waiting(play) >> Received(1, Elsewhere((member("s2"),))) << Dial(2, S2) >> Opened(2, "s2") << Send(2, HELLO)
    play >> Received(2, welcome("s2")) << Send(2, meet()) >> Received(2, Notice(b"hi"))


# ---- stopping ----------------------------------------------------------------------------------------------------


def test_stop_withdraws_and_closes_everything(play: Playbook) -> None:
    (
        standing(play)
        >> MeetWanted(RID2, "alice", "bob", MINE)
        << Send(1, Meet(RID2, 1, "alice", "bob", MINE))
        >> Received(1, matched(active=True, rid=RID2, match=MATCH2))
        << PeerDial(2, LAN)
        >> PeerDialled(-1)
        >> Stop()
        << Send(1, Withdraw(RID, 1))
        << Failed(RID, Error(ClosedError, "this client is closed"))
        << PeerClose(2)
        << Failed(RID2, Error(ClosedError))
        << PeerClose(-1)
        << Close(1, "the client is closed")
        >> MeetWanted(RID, "alice", "bob", MINE)
        << Failed(RID, Error(ClosedError))
        >> PostWanted(RID, "printer", MINE)
        << Failed(RID, Error(ClosedError))
        >> PeerDialled(-2)
        << PeerClose(-2)
        >> Announced(b"hello")
        >> Stop()
        >> Wait(600.0)
    )
    assert play.machine.next_deadline() is None


def test_stop_when_a_server_is_always_wanted(script: Script) -> None:
    play = script(notices=True)
    play >> Wait(0.0) << Dial(1, S1) >> Stop() << Close(1, "the client is closed") >> Tick() >> Wait(60.0)


# ---- anything in any order ---------------------------------------------------------------------------------------

RIDS = st.sampled_from([RID, RID2, b"q" * 16])
NAMES = st.sampled_from(["alice", "bob", "carol", ""])
TOKENS = st.sampled_from([TOKEN, TOKEN2])
BLOBS = st.sampled_from([ONE, THREE, b"nonsense"])
CONNS = st.integers(1, 12)
INBOUND = st.integers(-8, -1)
PEERS = CONNS | INBOUND
NS = st.integers(0, 4)
MEMBERS = st.lists(st.sampled_from(["s1", "s2", "s3"]).map(member), max_size=3, unique=True).map(tuple)
DEADLINES = st.none() | st.floats(0.0, 60.0)

SERVER_SAYS = st.one_of(
    st.builds(
        Matched,
        RIDS,
        NS,
        st.sampled_from([MATCH, MATCH2]),
        TOKENS,
        st.booleans(),
        NAMES,
        BLOBS,
        st.integers(0, 3),
    ),
    st.builds(Posted, RIDS, NS, st.integers(0, 3)),
    st.builds(Refused, RIDS, NS, st.integers(32, 36), st.just("no"), st.integers(0, 3)),
    st.builds(Welcome, st.sampled_from(["s1", "s2"]), st.just(1), st.sampled_from([0.0, 2.0, 5.0]), MEMBERS),
    st.builds(Elsewhere, MEMBERS),
    st.builds(Members, MEMBERS),
    st.builds(Explanation, st.integers(0, 4), st.just(("line",))),
    st.just(ServerStatus(1, "s1", 1, "s1:7117", 1.0, 0, 0, 0, 0, 0, (), ())),
    st.sampled_from([Alive(), Goodbye(0, "bye"), Notice(b"hi"), HELLO]),
)
PEER_SAYS = st.one_of(
    st.sampled_from([DIALLED, DIAL + TOKEN2 + b"\0\0", READIED, COMMITTED, READY, b"", b"TRUNK", b"junk"]),
    st.binary(max_size=30),
)
EVENTS = st.one_of(
    st.builds(MeetWanted, RIDS, NAMES, NAMES, st.just(MINE), DEADLINES, st.booleans()),
    st.builds(PostWanted, RIDS, NAMES, st.just(MINE), st.booleans(), st.booleans(), backlog=st.integers(0, 4)),
    st.builds(Cancelled, RIDS),
    st.builds(Accepted, RIDS),
    st.builds(Asked, st.sampled_from([AskStatus(1), Alive()]), DEADLINES),
    st.builds(Announced, st.just(b"hi")),
    st.builds(CandidatesChanged, st.just(b"new")),
    st.builds(Opened, CONNS, st.just("s")),
    st.builds(Received, CONNS, SERVER_SAYS),
    st.builds(Received, CONNS, SERVER_SAYS),
    st.builds(Lost, CONNS, st.just("reset")),
    st.builds(PeerDialled, INBOUND),
    st.builds(PeerOpened, CONNS, st.integers(0, 3)),
    st.builds(PeerBound, PEERS, st.integers(0, 3)),
    st.builds(PeerData, PEERS, PEER_SAYS),
    st.builds(PeerData, PEERS, PEER_SAYS),
    st.builds(PeerLost, PEERS, st.just("reset")),
    st.just(Tick()),
    st.builds(Wait, st.floats(0.0, 3.0)),
)
ACTIONS = st.one_of(EVENTS, st.tuples(st.sampled_from(["alive", "peer"]), st.integers(0, 50), SERVER_SAYS, PEER_SAYS))


class World:
    """Feeds a client and checks that its effects are about connections that are there."""

    def __init__(self) -> None:
        self.settings = ClientConfig(servers=(S1, S2, S3), max_strangers=3, place=b"here0000")
        self.client = Client(self.settings, seed=b"seed", now=0.0)
        self.now = 0.0
        self.servers: set[int] = set()
        self.peers: set[int] = set()
        self.used: set[int] = set()
        self.wanted: set[bytes] = set()

    def step(self, event: Any) -> None:
        match event:
            case Lost(conn=conn):
                self.servers.discard(conn)
            case PeerLost(conn=conn):
                self.peers.discard(conn)
            case PeerDialled(conn=conn):
                if conn in self.used:
                    return  # the driver never uses a number twice
                self.used.add(conn)
                self.peers.add(conn)
            case MeetWanted(rid=rid) | PostWanted(rid=rid):
                self.wanted.add(rid)
            case Cancelled(rid=rid):
                self.wanted.discard(rid)
            case _:
                pass
        for effect in self.client.step(event, self.now):
            self.check(effect)
        snapshot = self.client.snapshot()
        other = Client(self.settings, seed=b"seed", now=0.0)
        other.restore(snapshot)
        assert other.snapshot() == snapshot
        assert hash(snapshot) == hash(other.snapshot())
        assert other.next_deadline() == self.client.next_deadline()
        self.client = other
        for conn in range(-8, 13):
            assert 0 <= self.client.bytes_wanted(conn) <= (26 if conn in self.peers else 0)

    def check(self, effect: Any) -> None:
        match effect:
            case ev.Dial(conn=conn):
                assert conn not in self.used
                self.used.add(conn)
                self.servers.add(conn)
            case ev.PeerDial(conn=conn):
                assert conn not in self.used
                self.used.add(conn)
                self.peers.add(conn)
            case ev.Send(conn=conn):
                assert conn in self.servers
            case ev.Close(conn=conn):
                self.servers.remove(conn)
            case ev.PeerSend(conn=conn) | ev.PeerBind(conn=conn):
                assert conn in self.peers
            case ev.PeerClose(conn=conn):
                self.peers.remove(conn)
            case ev.Delivered(rid=rid, conn=conn):
                self.peers.remove(conn)
                assert rid in self.wanted
            case ev.Failed(rid=rid):
                assert rid in self.wanted
            case _:
                pass

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (when := self.client.next_deadline()) is not None and when <= end:
            self.now = max(self.now, when)
            self.step(Tick())
            after = self.client.next_deadline()
            assert after is None or after > self.now, "time stands still"
        self.now = end


@given(st.lists(ACTIONS, max_size=60))
def test_anything_in_any_order(actions: list[Any]) -> None:
    world = World()
    for action in actions:
        match action:
            case Wait():
                world.wait(action.seconds)
            case ("alive", pick, said, _):
                if world.servers:  # a server that is there greets, or says something
                    conn = sorted(world.servers)[pick % len(world.servers)]
                    world.step(Opened(conn, "s"))
                    world.step(Received(conn, said))
            case ("peer", pick, _, data):
                if world.peers:
                    conn = sorted(world.peers)[pick % len(world.peers)]
                    world.step(PeerOpened(conn))
                    world.step(PeerData(conn, data[: world.client.bytes_wanted(conn)]))
            case _:
                world.step(action)
    # All callers leave, all connections are lost, and the rest of time passes: nothing stays.
    for rid in (RID, RID2, b"q" * 16):
        world.step(Cancelled(rid))
    for conn in sorted(world.peers):
        world.step(PeerLost(conn, "end"))
    for _ in range(100):
        for conn in sorted(world.servers):
            world.step(Lost(conn, "end"))
        world.wait(5.0)
        if not world.servers and world.client.next_deadline() is None:
            break
    client = world.client
    assert client.next_deadline() is None
    assert not world.servers
    assert not world.peers
    lodgings, uplinks, peers = client._lodgings, client._uplinks, client._peers
    assert not lodgings.requests
    assert not client._questions.open
    assert [uplinks.links, uplinks.up, uplinks.main] == [{}, {}, None]
    assert [peers.links, peers.tokens, peers.strangers] == [{}, {}, {}]
    assert not len(client._ctx.timers)


def test_a_thousand_requests_leave_nothing(play: Playbook) -> None:
    """Cancelled at once or later, nothing grows."""
    waiting(play) >> Cancelled(RID) << Send(1, Withdraw(RID, 1))
    play.end()
    client = play.machine
    before = client.snapshot()
    for number in range(1000):
        rid = number.to_bytes(16, "big")
        client.step(MeetWanted(rid, "alice", "bob", MINE, 1e6), 1.0)
        client.step(Cancelled(rid), 1.0)
    assert client.snapshot()[3:] == before[3:]  # type: ignore[index]
    assert len(client._ctx.timers._heap) < 200


def test_a_failed_scan_ends_only_what_was_never_lodged(script: Script) -> None:
    play = script(S1)
    waiting(play) >> Lost(1, "reset") >> MeetWanted(RID2, "x", "y", MINE) << Dial(2, S1) >> Lost(2, "refused")
    play << Failed(RID2, Error(NoSwitchboard, "refused")) >> Wait(0.1) << Dial(3, S1)
