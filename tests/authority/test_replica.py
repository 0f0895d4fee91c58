"""Replicas: they say what the authority says, and find out whatever is not as it should be."""

from collections import deque

import msgspec
import pytest

from tests.authority.kit import (
    ADMIN,
    ISSUER,
    WALL,
    Administrator,
    Desk,
    Person,
    approve,
    change,
    check_found,
    delete,
    insert,
    issue,
    leaf,
    retire,
    signed,
)
from trunkline.authority import messages as msg
from trunkline.authority import replica as module
from trunkline.authority.events import (
    Accuse,
    Answered,
    Ask,
    DirectoryConfig,
    Failed,
    Log,
    Received,
    Save,
    Saved,
    Send,
    Tick,
)
from trunkline.authority.heads import read_head, sign_head
from trunkline.authority.replica import MAX_PAUSE, Replica
from trunkline.authority.rules import RETIRED_USER
from trunkline.authority.statements import APPROVED, Insert, PublicKeys
from trunkline.authority.store import MemoryStore
from trunkline.errors import (
    BadProof,
    BadSignature,
    ForkedHistory,
    NoAuthority,
    NotWritable,
    Revoked,
    StaleHead,
    TrustError,
)

ANN, BEN, EVE = Person("ann"), Person("ben"), Person("eve")
CONFIG = DirectoryConfig(ADMIN.root, (), WALL, writer="auth.example:7118")


class Follower:
    """A replica and its store; its upstream is asked through `ask`, which a test may replace."""

    def __init__(self, upstream, store: MemoryStore | None = None, now: float = 0.0) -> None:
        self.upstream = upstream
        self.store = MemoryStore() if store is None else store
        self.now = now
        self.machine = Replica(CONFIG, reader=self.store, now=now)
        self.accused: list[Accuse] = []
        self.logs: list[Log] = []
        self.asked: list = []
        self.saves = 0

    def drive(self, *events):
        answers, waiting = [], deque(events)
        while waiting:
            for effect in self.machine.step(waiting.popleft(), self.now):
                match effect:
                    case Save():
                        self.store.apply(effect.batch)
                        self.saves += 1
                        waiting.appendleft(Saved())
                    case Send():
                        answers.append(effect.answer)
                    case Ask():
                        self.asked.append(effect.request)
                        found = self.upstream(effect.request)
                        waiting.append(Failed(found) if isinstance(found, Exception) else Answered(found))
                    case Accuse():
                        self.accused.append(effect)
                    case Log():
                        self.logs.append(effect)
        return answers

    def poll(self) -> "Follower":
        self.now = max(self.now, self.machine.next_deadline() or self.now)
        self.drive(Tick())
        return self

    def ask(self, request):
        (answer,) = self.drive(Received(((-1, request),)))
        return answer

    def get(self, user: str, since=None):
        return check_found(self.ask(msg.Get(1, user, since.size if since else 0)), user, since)


def follow(desk: Desk, store: MemoryStore | None = None) -> Follower:
    return Follower(desk.ask, store).poll()


def busy_desk() -> Desk:
    desk = Desk()
    record = desk.add(ANN)
    desk.add(BEN, approved=False)
    desk.ask(issue(ANN))
    desk.submit(change(ANN, Person("ann", 1), record.latest))
    desk.submit(retire(ADMIN.issuer(2).key_id))
    return desk


# ---- what works ---------------------------------------------------------------------------------------------------


def test_a_replica_answers_every_question_as_the_authority_does():
    desk = busy_desk()
    replica = follow(desk)
    assert not replica.accused
    old = desk.head()
    for question in (
        msg.AskHead(1),
        msg.AskHead(1, 3),
        msg.Get(1, "ann", 2),
        msg.Get(1, "nobody"),
        msg.Get(1, RETIRED_USER),
        msg.AskRoot(1),
        msg.List(1),
        msg.History(1, "ann"),
        msg.Fetch(1, 2),
    ):
        (expected,) = desk.drive(Received(((-1, question),)))
        assert replica.ask(question) == expected
    desk.add(EVE)
    assert replica.get("eve") is None  # it has not asked yet
    replica.poll()
    assert replica.get("eve", old).state == APPROVED


def test_writes_are_refused_with_where_they_go():
    replica = follow(busy_desk())
    for request in (msg.Submit(1, insert(EVE)), issue(EVE)):
        answer = replica.ask(request)
        assert (answer.code, "ask auth.example:7118" in answer.text) == (NotWritable.code, True)


def test_a_replica_of_a_replica_can_prove_as_much():
    first = follow(busy_desk())
    second = Follower(first.ask).poll()
    assert second.get("ann").state == APPROVED
    assert second.ask(msg.AskHead(1)) == first.ask(msg.AskHead(1))


def test_a_replica_shows_a_head_that_was_signed_anew_and_saves_it_once():
    desk = busy_desk()
    replica = follow(desk)
    saves = replica.saves
    replica.poll()
    assert replica.saves == saves
    desk.now = 61.0
    replica.poll()
    assert replica.saves == saves + 1
    assert read_head(replica.ask(msg.AskHead(1)).head).time == WALL + 61


def test_a_replica_that_starts_again_cut_off_shows_what_it_had():
    desk = busy_desk()
    before = follow(desk)
    again = Follower(lambda request: NoAuthority([]), before.store.copy(), now=9.0)
    assert again.ask(msg.AskHead(1)) == before.ask(msg.AskHead(1))
    again.poll()
    assert again.get("ann").state == APPROVED
    assert [log.what for log in again.logs] == ["upstream does not answer"]


def test_pauses_grow_while_the_upstream_does_not_answer():
    replica = Follower(lambda request: NoAuthority([]))
    pauses = []
    for _ in range(7):
        replica.poll()
        pauses.append(replica.machine.next_deadline() - replica.now)
    assert pauses == [1, 2, 4, 8, 16, MAX_PAUSE, MAX_PAUSE]
    assert len(replica.logs) == 1


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr(module, "MAX_GATHERED", 40)


@pytest.mark.usefixtures("_small")
def test_one_that_is_far_behind_proves_each_part_and_shows_nothing_until_it_is_there():
    desk = Desk()
    desk.submit(*(insert(Person(f"user{number}")) for number in range(100)))
    seen = []

    def upstream(request):
        if isinstance(request, msg.Fetch) and replica.store.size():
            seen.append(replica.ask(msg.Get(1, "user1")))
        return desk.ask(request)

    replica = Follower(upstream)
    replica.poll()
    assert not replica.accused
    assert all(each.code == StaleHead.code and "catching up" in each.text for each in seen)
    assert seen
    assert [each.size for each in replica.asked if isinstance(each, msg.AskHead)] == [0, 40, 80]
    assert replica.get("user99") is not None
    assert (replica.store.head(), replica.saves) == (desk.ask(msg.AskHead(0)).head, 3)


@pytest.mark.usefixtures("_small")
def test_one_that_crashed_while_it_caught_up_goes_on_from_there():
    desk = Desk()
    desk.submit(*(insert(Person(f"user{number}")) for number in range(60)))

    def upstream(request):
        return NoAuthority([]) if isinstance(request, msg.Fetch) and request.start >= 40 else desk.ask(request)

    cut_off = Follower(upstream).poll()
    assert cut_off.store.size() == 40
    assert cut_off.ask(msg.AskRoot(1)).root == ADMIN.root
    again = Follower(desk.ask, cut_off.store)
    assert isinstance(again.ask(msg.Get(1, "user1")), msg.Denied)
    again.poll()
    assert again.get("user59") is not None


def test_questions_wait_while_a_save_is_under_way():
    desk = busy_desk()
    machine = Replica(CONFIG, reader=(store := MemoryStore()), now=0.0)
    event = Tick()
    for _ in range(9):
        effects = machine.step(event, 0.0)
        if isinstance(effects[-1], Save):
            break
        event = Answered(desk.ask(effects[-1].request))
    assert machine.next_deadline() is None
    assert machine.step(Received(((-1, msg.Get(1, "ann")),)), 0.0) == []
    assert machine.step(Tick(), 9.0) == []
    snapshot = machine.snapshot()
    hash(snapshot)
    store.apply(effects[-1].batch)
    other = Replica(CONFIG, reader=store, now=0.0)
    other.restore(snapshot)
    assert other.snapshot() == snapshot
    expected = machine.step(Saved(), 9.0)
    assert check_found(expected[-1].answer, "ann").state == APPROVED
    assert other.step(Saved(), 9.0) == expected
    assert other.snapshot() == machine.snapshot()


# ---- what is found out --------------------------------------------------------------------------------------------


def accused(replica: Follower, error: type[Exception], text: str) -> Accuse:
    """It stops, keeps evidence, and shows on what it showed."""
    (found,) = replica.accused
    assert type(found.error) is error, found.error
    assert text in str(found.error), found.error
    assert found.evidence
    assert replica.machine.next_deadline() is None
    asked = len(replica.asked)
    replica.drive(Tick())
    assert len(replica.asked) == asked
    return found


def altering(desk: Desk, kind, alter):
    """An upstream that alters its answers of one kind."""

    def upstream(request):
        found = desk.ask(request)
        return alter(found) if isinstance(found, kind) else found

    return upstream


def with_statements(change_them):
    return lambda found: msgspec.structs.replace(found, statements=tuple(change_them(list(found.statements))))


def test_a_statement_that_was_altered_is_found_out():
    desk = busy_desk()

    def alter(found):
        index, statement = found[2]
        found[2] = index, msgspec.structs.replace(statement, body=statement.body.replace(b"ben", b"bob"))
        return found

    replica = Follower(altering(desk, msg.Statements, with_statements(alter))).poll()
    accused(replica, ForkedHistory, "statement 2 of the log breaks the rules: Insert of 'bob' is not signed")
    assert replica.store.size() == 0
    assert replica.ask(msg.Get(1, "ann")).code == StaleHead.code


def test_a_statement_that_was_exchanged_for_a_true_one_is_found_out():
    desk = busy_desk()
    desk.add(EVE, approved=False)

    def alter(found):
        return [(index, insert(Person("zoe")) if index == 5 else each) for index, each in found]

    accused(
        Follower(altering(desk, msg.Statements, with_statements(alter))).poll(),
        ForkedHistory,
        "is not of the statements",
    )


def test_a_statement_that_was_dropped_is_found_out():
    desk = busy_desk()
    replica = Follower(
        altering(desk, msg.Statements, with_statements(lambda found: [each for each in found if each[0] != 2]))
    )
    accused(replica.poll(), BadProof, "asked for statement 2 of the log, the upstream gave 3")


def test_a_statement_that_was_dropped_and_the_rest_moved_up_is_found_out():
    desk = busy_desk()
    desk.add(EVE)
    desk.submit(insert(Person("zoe")))
    rest = [each for each in desk.store.statements(0, 99) if each[0] != 2]
    moved = tuple((place, each) for place, (_, each) in enumerate(rest))

    def upstream(request):
        if isinstance(request, msg.Fetch):
            return msg.Statements(0, moved[request.start :], more=False, size=8)
        return desk.ask(request)

    replica = Follower(upstream).poll()
    assert not replica.accused  # the last one is missing: it is waited for, and nothing is shown meanwhile
    assert "does not give number 7" in replica.logs[-1].about
    assert replica.ask(msg.Get(1, "ann")).code == StaleHead.code
    moved = (*moved, (7, insert(Person("yan"))))
    accused(replica.poll(), ForkedHistory, "is not of the statements")


def rewritten(desk: Desk) -> Desk:
    """The same authority, with another history of the same length."""
    other = Desk()
    other.submit(insert(EVE), approve(EVE, leaf(insert(EVE))))
    while other.head().size < desk.head().size:
        other.add(Person(f"x{other.head().size}"), approved=False)
    return other


def test_two_histories_of_one_length_are_found_out_and_both_heads_kept():
    desk = busy_desk()
    replica = follow(desk)
    other = rewritten(desk)
    replica.upstream = other.ask
    found = accused(replica.poll(), ForkedHistory, "is not of the statements that were given")
    heads = [msgspec.msgpack.decode(each, type=msg.SignedHead) for each in found.evidence]
    assert heads == [desk.ask(msg.AskHead(0)).head, other.ask(msg.AskHead(0)).head]
    assert replica.get("ann").state == APPROVED  # the good head is shown on


def test_another_history_that_has_grown_is_found_out():
    desk = busy_desk()
    replica = follow(desk)
    other = rewritten(desk)
    other.add(Person("more"))
    replica.upstream = other.ask
    found = accused(replica.poll(), ForkedHistory, "does not go on from the one of 5")
    assert len(found.evidence) == 2


def test_a_head_that_was_rolled_back_is_found_out_and_one_that_is_late_is_waited_for():
    desk = busy_desk()
    old = desk.store.copy()
    late = desk.ask(msg.AskHead(0))
    desk.add(EVE)
    replica = follow(desk)
    replica.upstream = lambda request: late
    replica.poll()
    assert not replica.accused
    assert replica.logs[-1].what == "upstream is behind"
    replica.upstream = Desk(old, now=5.0).ask
    accused(replica.poll(), ForkedHistory, "its log was put back")
    assert replica.get("eve") is not None


def test_a_map_that_is_not_what_the_statements_amount_to_is_found_out():
    desk = busy_desk()

    def lie(found):
        head = msgspec.structs.replace(read_head(found.head), map=bytes(32))
        return msgspec.structs.replace(found, head=sign_head(head, ISSUER))

    accused(Follower(altering(desk, msg.HeadIs, lie)).poll(), ForkedHistory, "is not of the statements")


@pytest.mark.usefixtures("_small")
def test_a_part_that_does_not_lead_to_the_signed_head_is_not_saved():
    desk = Desk()
    desk.submit(*(insert(Person(f"user{number}")) for number in range(60)))

    def alter(found):
        return [(index, insert(Person("zoe")) if index == 3 else each) for index, each in found]

    replica = Follower(altering(desk, msg.Statements, with_statements(alter))).poll()
    accused(replica, ForkedHistory, "does not go on from the one of 40")
    assert replica.store.size() == 0


def test_an_authority_that_breaks_the_rules_is_found_out_though_it_signs_everything():
    desk = Desk()
    record = desk.add(ANN)
    forged = delete(ANN, record.latest, by=EVE)
    keys = PublicKeys(EVE.signing, 1, b"e" * 32)
    taken = signed(Insert(ADMIN.realm, "ann", record.latest, keys), EVE)
    for bad in (forged, taken, approve(ANN, record.latest), msgspec.structs.replace(forged, body=b"\x93")):
        replica = follow(desk)
        extended = desk.store.copy()
        cheat = Desk(extended)

        def upstream(request, bad=bad, cheat=cheat):
            if isinstance(request, msg.Fetch):
                return msg.Statements(0, ((2, bad),), more=False, size=3)
            return longer(cheat, bad)

        replica.upstream = upstream
        accused(replica.poll(), ForkedHistory, "the log")
        assert replica.get("ann").state == APPROVED


def longer(desk: Desk, statement) -> msg.HeadIs:
    """What an authority answers that took in ``statement``, whatever it says."""
    ledger = Replica(CONFIG, reader=desk.store, now=0.0)._from_disk()
    ledger._tiles.append(leaf(statement))
    found = desk.ask(msg.AskHead(0))
    head = msgspec.structs.replace(read_head(found.head), size=3, log=ledger.log_root())
    return msgspec.structs.replace(found, head=sign_head(head, ISSUER), consistency=ledger.consistency(2))


def test_a_head_of_others_is_not_believed():
    desk = busy_desk()
    other = Administrator(number=4712)
    stranger = other.issuer()
    second = ADMIN.issuer(2)  # retired in busy_desk

    def head_is(**changes):
        return lambda found: msgspec.structs.replace(found, **changes)

    def resigned(by, **changes):
        def alter(found):
            head = msgspec.structs.replace(read_head(found.head), **changes)
            return msgspec.structs.replace(
                found,
                head=sign_head(head, by),
                authorities=(by.authority.certificate,) if by is not ISSUER else found.authorities,
            )

        return alter

    for alter, error, text in (
        (head_is(authorities=()), BadSignature, "whose certificate is not with it"),
        (head_is(authorities=(stranger.authority.certificate,)), BadSignature, "another key"),
        (resigned(ISSUER, realm=other.realm), TrustError, "of another realm"),
        (resigned(ISSUER, authority=second.key_id), BadSignature, "whose certificate is not with it"),
        (resigned(second, authority=second.key_id), Revoked, "a key that was retired"),
        (head_is(revoked=()), BadProof, "the revoked serials"),
        (head_is(retired=()), BadProof, "the retired keys"),
        (head_is(retired=(retire(second.key_id, by=ISSUER),)), BadSignature, "retires"),
        (lambda found: msgspec.structs.replace(found, head=msg.SignedHead(b"\x90", b"")), BadSignature, "no head"),
    ):
        accused(Follower(altering(desk, msg.HeadIs, alter)).poll(), error, text)


def test_answers_that_do_not_fit_the_question_are_no_accusation():
    desk = busy_desk()
    for strange in (
        msg.Denied(0, 36, "no"),
        msg.Stored(0, 1, desk.ask(msg.AskHead(0)).head),
        msg.Statements(0, (), more=False, size=0),
    ):
        replica = Follower(lambda request, strange=strange: strange).poll()
        assert not replica.accused
        assert replica.logs[-1].what == "upstream does not answer"
        replica.upstream = desk.ask
        replica.poll()
        assert replica.get("ann").state == APPROVED


@pytest.mark.usefixtures("_small")
def test_an_upstream_that_shrinks_while_parts_are_fetched_is_asked_anew():
    desk = Desk()
    desk.submit(*(insert(Person(f"user{number}")) for number in range(30)))
    short = desk.ask(msg.AskHead(0))
    desk.submit(*(insert(Person(f"user{number}")) for number in range(30, 60)))

    def upstream(request):
        return short if isinstance(request, msg.AskHead) and request.size else desk.ask(request)

    replica = Follower(upstream).poll()
    assert not replica.accused
    assert "now has 30 statements" in replica.logs[-1].about
    assert replica.store.size() == 0


def test_a_replica_does_not_start_on_a_store_that_was_altered():
    replica = follow(busy_desk())
    kept = msgspec.msgpack.decode(replica.store.upstream(), type=msg.HeadIs)
    head = msgspec.structs.replace(read_head(kept.head), log=bytes(32))
    replica.store._upstream = msgspec.msgpack.encode(msgspec.structs.replace(kept, head=sign_head(head, ISSUER)))
    with pytest.raises(ForkedHistory, match="is not of the statements"):
        Follower(None, replica.store)
