"""An authority: any bytes become requests or a RemoteError; any requests are answered, after they are saved.

First the codec. Then a directory, which users, an administrator and strangers ask for whatever they like, signed by
whom they like, over and over, while it is killed before and after saves. Whatever it answers, a client that checks
everything believes; and who is approved, the administrator has approved.
"""

from typing import Any, Final

import msgspec

from fuzz.grammar import Draws, fed
from tests.authority.kit import ADMIN, ISSUER, WALL, Administrator, Person, config, issue, signed
from trunkline.authority import messages as msg
from trunkline.authority.codec import answers, encode, requests
from trunkline.authority.directory import Directory
from trunkline.authority.events import Log, Received, Save, Saved, Send, Tick
from trunkline.authority.messages import MAX_REQUEST, PREAMBLE
from trunkline.authority.rules import read_statement
from trunkline.authority.statements import (
    APPROVED,
    DELETED,
    NOTHING,
    Approve,
    Change,
    Delete,
    Insert,
    Retire,
    Signed,
)
from trunkline.authority.store import MemoryStore
from trunkline.authority.trust import Trust
from trunkline.errors import RemoteError

MAX_LEN = 256
_PEOPLE: Final = [Person(name, number) for name in ("ann", "ben", "ops/eve") for number in range(2)]
_STRANGER: Final = Administrator(99)
_SIGNERS: Final = (*_PEOPLE, ADMIN, ADMIN, _STRANGER)
_USERS: Final = ("ann", "ben", "ops/eve", "authority/retired", "authority/main", "nobody")
_ODD: Final = ("", "a//b", "*", "Ann", "x" * 255)
_REALMS: Final = (ADMIN.realm,) * 6 + (_STRANGER.realm, bytes(32))
_ISSUES: Final = {(who.name, who.signing): issue(who, time=WALL) for who in _PEOPLE}
_CONFIG: Final = config(max_certificates=2, head_refresh=5.0, sweep=20.0)


def fuzz_one(data: bytes) -> None:
    """Run one input."""
    draws = Draws(data)
    match draws.below(8):
        case 0:
            _check_cuts(draws.bytes(MAX_LEN))
        case 1:
            body = draws.bytes(MAX_LEN)
            _check_cuts(PREAMBLE + len(body).to_bytes(4, "big") + body)
        case _:
            world = _World(draws)
            while draws.left and world.rounds < 40:
                world.act()
            world.end()


def _check_cuts(stream: bytes) -> None:
    for new in (requests, answers):
        outcomes = []
        for pieces in ([stream], [stream[at : at + 1] for at in range(len(stream))]):
            inbound: Any = new()
            got: list[object] = []
            try:
                for piece in pieces:
                    inbound.receive_data(piece)
                    while (message := inbound.next_message()) is not None:
                        got.append(message)
            except RemoteError as error:
                got.append(type(error))
            outcomes.append(repr(got))
        assert outcomes[0] == outcomes[1]


class _World:
    """A directory, what is on its disk, and a client that remembers."""

    def __init__(self, draws: Draws) -> None:
        self.draws = draws
        self.now = 0.0
        self.rounds = 0
        self.store = MemoryStore()
        self.client = Trust("lab.example", ADMIN.root)
        self.client.learn([ISSUER.authority.certificate])
        self.machine = self._made()
        self.query = 0
        self.unanswered: set[int] = set()
        self.answered: list[Any] = []
        self.promised: dict[bytes, int] = {}
        """Body of a statement -> where it was said to be stored."""
        self.asked: dict[int, msg.Request] = {}
        self.leaves = [NOTHING]

    def _made(self) -> Directory:
        return Directory(_CONFIG, reader=self.store, issuer=ISSUER, seed=b"s" * 16, now=self.now)

    def act(self) -> None:
        self.rounds += 1
        match self.draws.below(8):
            case 0:
                self.now += self.draws.choice((0.0, 1.0, 6.0, 30.0))
                self.drive(Tick())
            case 1:
                self.machine = self._made()  # killed, and started anew
            case _:
                batch = [self.request() for _ in range(1 + self.draws.below(4))]
                self.drive(Received(tuple((1, request) for request in self.sent(batch))))
                self.check()

    def sent(self, batch: list[msg.Request]) -> list[msg.Request]:
        """Send them over a wire, which may change them; return what arrives and is to be answered."""
        inbound, arrived = requests(), []
        stream = PREAMBLE + b"".join(encode(each) for each in batch)
        if self.draws.below(8) == 7:
            at = len(PREAMBLE) + self.draws.byte() % (len(stream) - len(PREAMBLE))
            stream = stream[:at] + bytes([self.draws.byte()]) + stream[at + 1 :]
        try:
            for piece in fed(self.draws, stream):
                inbound.receive_data(piece)
                assert inbound.waiting <= MAX_REQUEST + 4
                while (request := inbound.next_message()) is not None:
                    self.query += 1
                    arrived.append(msgspec.structs.replace(request, query=self.query))
        except RemoteError:
            pass
        self.unanswered = {each.query for each in arrived}
        self.asked = {each.query: each for each in arrived}
        return arrived

    def drive(self, event: Any) -> None:
        """Do what the machine wants done. It may be killed at any save: then nobody hears anything more."""
        self.answered = []
        events = [event]
        unsaved = False
        while events:
            for effect in self.machine.step(events.pop(0), self.now):
                match effect:
                    case Save():
                        fate = self.draws.below(16)
                        if fate != 15:
                            self.store.apply(effect.batch)
                        if fate >= 14:
                            self.unanswered = set()
                            self.machine = self._made()
                            return
                        unsaved = False
                        events.append(Saved())
                    case Send():
                        assert not unsaved
                        assert len(encode(effect.answer)) > 4
                        self.unanswered.remove(effect.answer.query)
                        self.answered.append(effect.answer)
                    case Log():
                        pass
        assert not self.unanswered, "somebody gets no answer"

    def check(self) -> None:
        """Believe what was answered only as a client would."""
        for answer in self.answered:
            asked = self.asked[answer.query]
            match answer:
                case msg.Stored():
                    assert isinstance(asked, msg.Submit)
                    self.promised[asked.statement.body] = answer.index
                case msg.HeadIs() if isinstance(asked, msg.AskHead) and asked.size == self.client.size:
                    self.client.update_head(answer, WALL + self.now, first_hand=True)
                case msg.Found() if isinstance(asked, msg.Get) and asked.size == self.client.size:
                    record = self.client.check_found(answer, asked.user, WALL + self.now, first_hand=True)
                    if record is not None:
                        self.leaves = [*self.leaves[-8:], record.latest]
                case msg.Issued():
                    assert isinstance(asked, msg.Issue)
                    entry = self.store.records([asked.user])[asked.user]
                    assert entry.state == APPROVED
        for body, index in self.promised.items():
            ((at, stored),) = self.store.statements(index, 1)
            assert (at, stored.body) == (index, body), "what was acknowledged is lost"

    def end(self) -> None:
        """See that who is approved was approved by the administrator, and that a client agrees about everybody."""
        log = [read_statement(each) for _, each in self.store.statements(0, 1000)]
        for record in self.store.users("", "", 0, 1000):
            about = [each for each in log if each.user == record.user]
            assert isinstance(about[-1], Delete | Retire) == (record.state == DELETED) or record.user == _USERS[3]
            if record.state == APPROVED and record.user != _USERS[3]:
                since = max(at for at, each in enumerate(about) if isinstance(each, Insert))
                assert any(isinstance(each, Approve) for each in about[since:]), "nobody approved that"
        self.machine = self._made()
        for user in _USERS:
            self.draws = Draws(b"")  # nothing breaks any more
            self.unanswered, self.asked = {1}, {1: msg.Get(1, user, self.client.size)}
            self.drive(Received(((1, self.asked[1]),)))
            self.check()

    # ---- what is asked -----------------------------------------------------------------------------------------

    def request(self) -> msg.Request:
        """Make a request, sensible or not."""
        draws = self.draws
        user = draws.choice(_USERS)
        size = self.client.size if draws.below(4) else draws.byte()
        match draws.below(12):
            case 0:
                return msg.AskRoot(0)
            case 1:
                return msg.AskHead(0, size)
            case 2:
                return msg.List(0, draws.choice(("", "ops", "ops/", "a")), draws.choice(("", user)), draws.below(5))
            case 3:
                return msg.History(0, user, draws.below(8))
            case 4:
                return msg.Fetch(0, draws.below(16))
            case 5:
                wanted = _ISSUES[draws.choice(sorted(_ISSUES))]
                if draws.below(4) == 3:
                    wanted = msgspec.structs.replace(wanted, user=user)
                return wanted
            case 6 | 7:
                return msg.Get(0, user, size)
            case _:
                return msg.Submit(0, self.statement(user))

    def statement(self, user: str) -> Signed:
        """Make a statement: mostly one that fits what is there, signed by whoever."""
        draws = self.draws
        entry = self.store.records([user]).get(user)
        who = draws.choice(_PEOPLE)
        mine = [each for each in _PEOPLE if entry is not None and each.signing == entry.keys.signing] or [who]
        previous = entry.latest if entry is not None and draws.below(8) else draws.choice(self.leaves)
        realm = draws.choice(_REALMS)
        if draws.below(16) == 15:
            user = draws.choice(_ODD) or "x"
        made: Any
        match draws.below(5):
            case 0:
                made, fitting = Insert(realm, user, previous, who.keys, draws.choice(("", "joe"))), [who]
            case 1:
                made, fitting = Approve(realm, user, previous, mine[0].signing), [ADMIN]
            case 2:
                made, fitting = Change(realm, user, previous, mine[0].signing, who.keys), [mine[0], who]
            case 3:
                made, fitting = Delete(realm, user, previous, mine[0].signing), [draws.choice((mine[0], ADMIN))]
            case _:
                made, fitting = Retire(realm, user, previous, draws.choice((ISSUER.key_id, bytes(32)))), [ADMIN]
        by = fitting if draws.below(4) else [draws.choice(_SIGNERS) for _ in range(1 + draws.below(2))]
        return signed(made, *by)
