"""What a client knows about each request. How they move is in `lifecycle`; who moves them, in `lodging`."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from typing import Any, ClassVar, Final, final

from trunkline.names import Secret
from trunkline.switchboard import lifecycle
from trunkline.switchboard.events import MeetWanted, PostWanted
from trunkline.switchboard.lifecycle import Input, State
from trunkline.switchboard.rendezvous import Rendezvous
from trunkline.wire.limits import MAX_AVOID
from trunkline.wire.messages import Meet, Post

MAX_NOTES: Final = 8
"""Most remarks about lapsed attempts that are kept for the explanation: the first ones repeat themselves."""

FIRST_LAPSE_PAUSE: Final = 0.05
LONGEST_LAPSE_PAUSE: Final = 2.0


class Request(ABC):
    """What meetings and posts have in common."""

    __slots__ = (
        "candidates",
        "datagram",
        "deadline",
        "lapses",
        "lodged",
        "matches",
        "n",
        "notes",
        "rid",
        "since",
        "state",
    )

    table: ClassVar[lifecycle.Table]
    illegal: ClassVar[dict[tuple[State, Input], str]]

    def __init__(self, rid: bytes, candidates: bytes, deadline: float | None, now: float, *, datagram: bool) -> None:
        self.rid = rid
        self.candidates = candidates
        self.deadline = deadline
        self.since = now
        self.datagram = datagram
        self.state = State.SEEKING
        self.n = 0
        """The attempt; 0 until it is lodged for the first time."""
        self.lodged: dict[int, int] = {}
        """The server connections where this attempt waits; for a post, with the number of matches settled there."""
        self.matches: dict[bytes, Rendezvous] = {}
        """What is being carried out: at most one for a meeting."""
        self.lapses = 0
        self.notes: tuple[str, ...] = ()
        """What went wrong so far, for the explanation."""

    def advance(self, given: Input) -> None:
        """Move as the table says."""
        state = self.table[self.state].get(given)
        assert state is not None, f"{given.name} in {self.state.name}: {self.illegal[self.state, given]}"
        self.state = state

    def note(self, text: str) -> None:
        """Keep a remark for the explanation."""
        self.notes = (*self.notes, text)[-MAX_NOTES:]

    def lapse_pause(self) -> float:
        """Return the seconds to wait after the last lapse, before jitter: 0, 50 ms, 100 ms and so on, to 2 s."""
        if self.lapses <= 1:
            return 0.0
        return min(LONGEST_LAPSE_PAUSE, FIRST_LAPSE_PAUSE * float(2 ** min(self.lapses - 2, 10)))

    @property
    def patient(self) -> bool:
        """Whether this goes on for ever when no server can be had."""
        return False

    @abstractmethod
    def message(self) -> Meet | Post:
        """Return what lodges the present attempt."""

    def _common(self) -> tuple[Any, ...]:
        return (
            self.rid,
            self.candidates,
            self.deadline,
            self.since,
            self.datagram,
            int(self.state),
            self.n,
            tuple(self.lodged.items()),
            tuple(rendezvous.snapshot() for rendezvous in self.matches.values()),
            self.lapses,
            self.notes,
        )

    def _restore_common(self, common: tuple[Any, ...]) -> None:
        state, self.n, lodged, matches, self.lapses, self.notes = common[5:]
        self.state = State(state)
        self.lodged = dict(lodged)
        self.matches = {each.told.match: each for each in map(Rendezvous.restored, matches)}

    @abstractmethod
    def snapshot(self) -> tuple[Any, ...]:
        """Return the whole state."""


@final
class MeetRequest(Request):
    """A call of meet(me, you)."""

    __slots__ = ("avoid", "explanation", "me", "peer_user", "question", "user", "you")
    table = lifecycle.MEET
    illegal = lifecycle.ILLEGAL_MEET

    def __init__(self, wanted: MeetWanted, now: float) -> None:
        super().__init__(wanted.rid, wanted.candidates, wanted.deadline, now, datagram=wanted.datagram)
        self.me = wanted.me
        self.you = wanted.you
        self.user = wanted.user
        self.peer_user = wanted.peer_user
        self.avoid = wanted.avoid[-MAX_AVOID:]
        self.notes = wanted.notes[-MAX_NOTES:]
        self.question = 0
        """The number of the Explain that was asked for this; -1 if none could be."""
        self.explanation: tuple[str, ...] = ()

    def message(self) -> Meet:
        """Return what lodges the present attempt."""
        names = (self.me, self.you, self.candidates, self.datagram)
        return Meet(self.rid, self.n, *names, self.user, self.peer_user, self.avoid)

    def snapshot(self) -> tuple[Any, ...]:
        """Return the whole state."""
        users = (self.user, self.peer_user, self.avoid)
        return ("meet", self._common(), (self.me, self.you, users, self.question, self.explanation))

    @classmethod
    def restored(cls, common: tuple[Any, ...], own: tuple[Any, ...]) -> "MeetRequest":
        """Return what `snapshot` was taken of."""
        me, you, users, question, explanation = own
        rid, candidates, deadline, since, datagram = common[:5]
        self = cls(MeetWanted(rid, me, you, candidates, deadline, datagram, *users), since)
        self.question = question
        self.explanation = explanation
        self._restore_common(common)
        return self


@final
class PostRequest(Request):
    """A standing offer."""

    __slots__ = (
        "allow",
        "backlog",
        "generation",
        "name",
        "reported",
        "secret",
        "stood",
        "unaccepted",
        "unique",
        "user",
    )
    table = lifecycle.POST
    illegal = lifecycle.ILLEGAL_POST

    def __init__(self, wanted: PostWanted, now: float) -> None:
        super().__init__(wanted.rid, wanted.candidates, wanted.deadline, now, datagram=wanted.datagram)
        self.name = wanted.name
        self.unique = wanted.unique
        self.secret = wanted.secret.reveal() if wanted.secret is not None else b""
        self.backlog = wanted.backlog
        self.user = wanted.user
        self.allow = wanted.allow
        self.generation = 0
        """The greatest generation under which this post has stood."""
        self.stood = False
        """Whether it has ever stood: from then on it has no deadline, and goes on for ever."""
        self.reported: dict[int, int] = {}
        """By server connection, how much of what is settled was reported there."""
        self.unaccepted: deque[int] = deque()
        """For each delivered connection that was not accepted yet, in order, the server connection it came by."""

    @property
    def patient(self) -> bool:
        """Whether this goes on for ever when no server can be had."""
        return self.stood

    def message(self) -> Post:
        """Return what lodges the present attempt."""
        return Post(
            self.rid,
            self.n,
            self.name,
            self.candidates,
            self.datagram,
            self.backlog,
            self.unique,
            self.secret,
            self.generation,
            self.user,
            self.allow,
        )

    def settle(self, conn: int) -> int:
        """Count one match of that server as settled. Return how many are to be reported there."""
        if conn not in self.lodged:
            return 0  # that server is lost, and has forgotten the match as well
        self.lodged[conn] += 1
        return self.lodged[conn] - self.reported.get(conn, 0)

    def snapshot(self) -> tuple[Any, ...]:
        """Return the whole state."""
        own = (
            (self.name, self.unique, self.secret, self.backlog, self.user, self.allow),
            self.generation,
            self.stood,
            tuple(self.reported.items()),
            tuple(self.unaccepted),
        )
        return ("post", self._common(), own)

    @classmethod
    def restored(cls, common: tuple[Any, ...], own: tuple[Any, ...]) -> "PostRequest":
        """Return what `snapshot` was taken of."""
        (name, unique, secret, backlog, user, allow), generation, stood, reported, unaccepted = own
        rid, candidates, deadline, since, datagram = common[:5]
        wanted = PostWanted(rid, name, candidates, datagram, unique, Secret(secret), backlog, deadline, user, allow)
        self = cls(wanted, since)
        self.generation = generation
        self.stood = stood
        self.reported = dict(reported)
        self.unaccepted = deque(unaccepted)
        self._restore_common(common)
        return self


AnyRequest = MeetRequest | PostRequest


def restored(
    snapshots: Iterable[tuple[str, tuple[Any, ...], tuple[Any, ...]]],
) -> dict[bytes, AnyRequest]:
    """Return the requests that the snapshots were taken of."""
    requests: dict[bytes, AnyRequest] = {}
    for kind, common, own in snapshots:
        request = MeetRequest.restored(common, own) if kind == "meet" else PostRequest.restored(common, own)
        requests[request.rid] = request
    return requests
