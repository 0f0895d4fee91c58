"""Questions that only read: what is answered, and that all of it is proven by one signed head."""

import msgspec

from tests.authority.kit import (
    ADMIN,
    ISSUER,
    WALL,
    Desk,
    Person,
    insert,
    signed,
)
from trunkline.authority import messages as msg
from trunkline.authority.heads import check_head, read_head, revoked_digest
from trunkline.authority.merkle import EMPTY_ROOT, verify_consistency
from trunkline.authority.statements import APPROVED, TENTATIVE, Insert

ANN, BEN = Person("ann"), Person("ben")


def test_the_root_and_the_authorities_are_told():
    answer = Desk().ask(msg.AskRoot(0))
    assert (answer.realm, answer.root, answer.authorities) == (
        "lab.example",
        ADMIN.root,
        (ISSUER.authority.certificate,),
    )


def test_an_empty_directory_has_a_signed_head():
    answer = Desk().ask(msg.AskHead(0))
    check_head(answer.head, ISSUER.authority)
    head = read_head(answer.head)
    assert (head.size, head.log, head.map, head.time) == (0, EMPTY_ROOT, bytes(32), WALL)
    assert head.revoked == revoked_digest(answer.revoked)


def test_every_head_goes_on_from_every_head_before_it():
    desk = Desk()
    heads = [desk.head()]
    for number in range(18):
        desk.submit(insert(Person(f"user{number}")))
        heads.append(desk.head())
    for old in heads:
        answer = desk.ask(msg.AskHead(0, old.size))
        new = read_head(answer.head)
        verify_consistency(old.size, new.size, old.log, new.log, answer.consistency)
        assert desk.get("user3", old).state == TENTATIVE
    ahead = desk.ask(msg.AskHead(0, 99), msg.Get(0, "user1", 99))
    assert [each.consistency for each in ahead] == [
        (),
        (),
    ]  # it never had so many: the client sees that


def test_a_head_is_signed_anew_when_it_is_old_and_its_time_never_goes_back():
    desk = Desk()
    assert desk.head().time == WALL
    desk.now = 60.0
    assert desk.head().time == WALL
    desk.now = 61.0
    assert desk.head().time == WALL + 61
    desk.add(ANN)
    back = Desk(desk.store, config=msgspec.structs.replace(desk.config, epoch=WALL - 1000.0))
    assert back.head().time == WALL + 61
    back.submit(insert(BEN))
    assert back.head().time == WALL + 61


def test_listing_pages_through_users_in_order_under_a_prefix_in_a_state():
    desk = Desk()
    names = [f"ops/user{number:03}" for number in range(msg.MAX_RECORDS + 5)]
    desk.submit(*(insert(Person(name)) for name in [*names, "ops-x", "zoe", "ops"]))
    first = desk.ask(msg.List(0, "ops"))
    assert [each.user for each in first.records] == ["ops", *names[: msg.MAX_RECORDS - 1]]
    assert first.more
    rest = desk.ask(msg.List(0, "ops", after=first.records[-1].user))
    assert [each.user for each in rest.records] == names[msg.MAX_RECORDS - 1 :]
    assert not rest.more
    assert [each.user for each in desk.ask(msg.List(0, after="ops/z")).records] == ["zoe"]
    assert desk.ask(msg.List(0, state=APPROVED)).records == ()


def test_fetch_and_history_page_through_statements():
    desk = Desk()
    desk.submit(*(insert(Person(f"user{number}")) for number in range(msg.MAX_STATEMENTS + 2)))
    first = desk.ask(msg.Fetch(0, 0))
    assert ([index for index, _ in first.statements], first.more, first.size) == (list(range(32)), True, 34)
    rest = desk.ask(msg.Fetch(0, 32))
    assert ([index for index, _ in rest.statements], rest.more) == ([32, 33], False)
    assert desk.ask(msg.History(0, "user5")).statements == ((5, insert(Person("user5"))),)
    assert desk.ask(msg.History(0, "user5", 6)).statements == ()


def test_a_name_that_cannot_be_is_refused():
    desk = Desk()
    assert "can't" in desk.ask(msg.Get(0, "a//b")).text or "user" in desk.ask(msg.Get(0, "a//b")).text
    bad = signed(Insert(ADMIN.realm, "a b", bytes(32), ANN.keys), ANN)
    answers = desk.ask(msg.Submit(0, bad), msg.Issue(0, "..", b"", WALL, b""))
    assert all(isinstance(each, msg.Denied) for each in answers)
    assert desk.store.size() == 0
