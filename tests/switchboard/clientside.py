"""What the client's scripts share: a cast, and the ways to the usual scenes."""

from typing import Any

from tests.playbook import Playbook
from trunkline.meeting.handshake import COMMIT, DIAL, READY
from trunkline.names import Address, Candidate, Candidates, Peer
from trunkline.switchboard.client import Client
from trunkline.switchboard.config import ClientConfig
from trunkline.switchboard.events import (
    Dial,
    MeetWanted,
    Opened,
    PostStands,
    PostWanted,
    Received,
    Send,
)
from trunkline.wire.codec import encode_candidates
from trunkline.wire.messages import Hello, Matched, Meet, Member, Post, Posted, Welcome

S1, S2, S3 = Address("s1", 7117), Address("s2", 7117), Address("s3", 7117)
PLACE = b"here0000"
MINE = b"my candidates"
LAN = Candidate("tcp4", "10.0.0.2", 4000)
LOOP = Candidate("tcp4", "127.0.0.1", 4000)
UNIX = Candidate("unix", "@bob")
ONE = encode_candidates(Candidates(b"there000", (LAN,)))
THREE = encode_candidates(Candidates(PLACE, (LAN, LOOP, UNIX)))

RID = b"r" * 16
RID2 = b"s" * 16
TOKEN = b"t" * 16
TOKEN2 = b"u" * 16
MATCH = b"m" * 8
MATCH2 = b"n" * 8
BOB = Peer("bob", None, "direct", MATCH.hex())

DIALLED = DIAL + TOKEN + b"\0\0"
READIED = READY + b"\0\0"
COMMITTED = COMMIT
HELLO = Hello("trunkline")

WANTED = MeetWanted(RID, "alice", "bob", MINE)
POSTING = PostWanted(RID, "printer", MINE)


def config(*servers: Address, **more: Any) -> ClientConfig:
    return ClientConfig(**{"servers": servers or (S1,), "place": PLACE, **more})


def script(*servers: Address, **more: Any) -> Playbook:
    settings = config(*servers, **more)
    return Playbook(lambda: Client(settings, seed=b"seed" * 4, now=0.0))


def welcome(name: str = "s1", *members: str, heartbeat: float = 1000.0) -> Welcome:
    return Welcome(name, 1, heartbeat, tuple(member(each) for each in members))


def member(name: str) -> Member:
    return Member(name, 1, f"{name}:7117")


def meet(n: int = 1, rid: bytes = RID, **more: Any) -> Meet:
    return Meet(rid, n, "alice", "bob", MINE, **more)


def post(n: int = 1, **more: Any) -> Post:
    return Post(RID, n, "printer", MINE, **more)


def matched(n: int = 1, *, active: bool, candidates: bytes = ONE, **more: Any) -> Matched:
    fields: dict[str, Any] = {"rid": RID, "n": n, "match": MATCH, "token": TOKEN, "active": active, "peer": "bob"}
    return Matched(**{**fields, **more}, candidates=candidates)


def waiting(play: Playbook, wanted: MeetWanted = WANTED) -> Playbook:
    """Bring a meeting to where it waits at s1, connection 1."""
    lodged = Meet(wanted.rid, 1, wanted.me, wanted.you, wanted.candidates, wanted.datagram)
    return (
        play
        >> wanted
        << Dial(1, S1)
        >> Opened(1, "s1")
        << Send(1, HELLO)
        >> Received(1, welcome())
        << Send(1, lodged)
    )  # fmt: skip


def standing(play: Playbook, wanted: PostWanted = POSTING, generation: int = 0) -> Playbook:
    """Bring a post to where it stands at s1, connection 1."""
    secret = wanted.secret.reveal() if wanted.secret else b""
    lodged = Post(wanted.rid, 1, wanted.name, wanted.candidates, wanted.datagram, wanted.backlog, wanted.unique, secret)
    return (
        play
        >> wanted
        << Dial(1, S1)
        >> Opened(1, "s1")
        << Send(1, HELLO)
        >> Received(1, welcome())
        << Send(1, lodged)
        >> Received(1, Posted(wanted.rid, 1, generation))
        << PostStands(wanted.rid, generation)
    )
