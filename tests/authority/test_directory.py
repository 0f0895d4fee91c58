"""The authority's machine: what it accepts, saves, proves and refuses; and the attacks on it."""

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
    config,
    delete,
    insert,
    leaf,
    refused,
    retire,
)
from trunkline.authority import messages as msg
from trunkline.authority.directory import MAX_BATCH, MAX_RETIRED, Directory
from trunkline.authority.events import DirectoryConfig, Received, Save, Saved, Send, Tick
from trunkline.authority.heads import read_head, revoked_digest
from trunkline.authority.registrar import REMEMBERED
from trunkline.authority.rules import RETIRED_USER
from trunkline.authority.statements import APPROVED, DELETED, TENTATIVE
from trunkline.authority.store import Batch, MemoryStore, Revocation
from trunkline.errors import BadSignature, NameTaken, NotAllowed, TooMany, TrustError

ANN, BEN, EVE = Person("ann"), Person("ben"), Person("eve")
NEW = Person("ann", 1)


# ---- the life of an entry -----------------------------------------------------------------------------------------


def test_a_key_is_inserted_approved_changed_and_deleted_and_each_step_is_proven():
    desk = Desk()
    assert desk.get("ann") is None
    first = insert(ANN, requester="the desk")
    stored = desk.submit(first)
    assert stored.index == 0
    assert read_head(stored.head).size == 1
    record = desk.get("ann")
    assert (record.state, record.keys, record.requester, record.approval) == (TENTATIVE, ANN.keys, "the desk", -1)
    second = approve(ANN, leaf(first))
    assert desk.submit(second).index == 1
    record = desk.get("ann")
    assert (record.state, record.approval) == (APPROVED, 1)
    third = change(ANN, NEW, leaf(second))
    assert desk.submit(third).index == 2
    record = desk.get("ann")
    assert (record.state, record.keys, record.approval) == (APPROVED, NEW.keys, 1)
    assert desk.submit(delete(NEW, leaf(third))).index == 3
    assert desk.get("ann").state == DELETED
    history = desk.ask(msg.History(0, "ann"))
    assert [index for index, _ in history.statements] == [0, 1, 2, 3]
    assert [log.what for log in desk.logs] == ["insert", "approve", "change", "delete"]


def test_a_deleted_name_can_be_taken_anew_and_its_history_goes_on():
    desk = Desk()
    record = desk.add(ANN)
    gone = delete(ANN, record.latest, by=ADMIN)
    assert desk.submit(gone).index == 2
    assert desk.submit(insert(EVE, leaf(gone), name="ann")).index == 3
    record = desk.get("ann")
    assert (record.state, record.keys, record.approval) == (TENTATIVE, EVE.keys, -1)


def test_several_statements_about_one_user_and_others_are_one_save_and_one_head():
    desk = Desk()
    first, other = insert(ANN), insert(BEN)
    second = approve(ANN, leaf(first))
    stored = desk.submit(first, other, second, change(ANN, NEW, leaf(second)))
    assert [each.index for each in stored] == [0, 1, 2, 3]
    assert desk.saves == 1
    assert len({each.head for each in stored}) == 1
    assert desk.get("ann").keys == NEW.keys
    assert desk.get("ben").state == TENTATIVE


def test_one_bad_statement_in_a_batch_spoils_no_other():
    desk = Desk()
    answers = desk.submit(insert(ANN), insert(EVE, name="ann"), insert(BEN))
    refused(answers[1], NameTaken, "'ann' is taken")
    assert [answers[0].index, answers[2].index] == [0, 1]


def test_the_same_statement_again_gets_the_same_answer_and_no_second_entry():
    desk = Desk()
    first = insert(ANN)
    assert [each.index for each in desk.submit(first, first)] == [0, 0]
    second = approve(ANN, leaf(first))
    desk.submit(second)
    saves = desk.saves
    assert [each.index for each in desk.submit(first, second, first)] == [0, 1, 0]
    assert desk.saves == saves
    assert desk.head().size == 2


# ---- save, then answer --------------------------------------------------------------------------------------------


def test_nothing_is_answered_before_it_is_saved_refusals_included():
    desk = Desk()
    desk.head()  # shown, and so saved
    requests = (msg.AskHead(1), msg.Submit(2, insert(ANN)), msg.Submit(3, insert(EVE, name="ann")), msg.Get(4, "ann"))
    effects = desk.machine.step(Received(tuple((-1, each) for each in requests)), 0.0)
    answers = [each.answer.query for each in effects if isinstance(each, Send)]
    assert answers == [1]  # the question before it; that after it is to see what was written
    (save,) = [each for each in effects if isinstance(each, Save)]
    assert desk.machine.step(Received(((-2, msg.AskHead(5)), (-2, msg.Submit(6, insert(BEN))))), 0.0) == []
    desk.store.apply(save.batch)
    effects = desk.machine.step(Saved(), 0.0)
    assert [each.answer.query for each in effects if isinstance(each, Send)] == [2, 3, 4, 5]
    found = next(each.answer for each in effects if isinstance(each, Send) and each.answer.query == 4)
    assert check_found(found, "ann").keys == ANN.keys
    (save,) = [each for each in effects if isinstance(each, Save)]  # the write that came meanwhile
    assert [entry.user for entry in save.batch.entries] == ["ben"]


def test_a_new_start_goes_on_from_the_disk_and_needs_no_log():
    desk = Desk()
    for number in range(20):
        desk.add(Person(f"user{number}"))
    before = desk.head()

    class Counting(MemoryStore):
        reads = 0

        def statements(self, start, limit):
            self.reads += 1
            return super().statements(start, limit)

    store = Counting()
    store.__dict__.update(desk.store.copy().__dict__)
    again = Desk(store, now=5.0)
    assert store.reads == 0
    assert (again.head().size, again.head().log, again.head().map) == (before.size, before.log, before.map)
    assert again.get("user7", before).state == APPROVED
    again.add(ANN)
    assert again.get("ann", before).state == APPROVED


def test_an_answer_that_was_lost_in_a_crash_is_given_to_who_asks_again():
    desk = Desk()
    effects = desk.machine.step(Received(((-1, msg.Submit(1, insert(ANN))),)), 0.0)
    (save,) = [each for each in effects if isinstance(each, Save)]
    before = desk.store.copy()
    desk.store.apply(save.batch)
    assert Desk(before).submit(insert(ANN)).index == 0  # it crashed before the save
    after = Desk(desk.store)  # and after it
    assert after.submit(insert(ANN)).index == 0
    assert after.head().size == 1


def test_writes_beyond_one_batch_wait_for_the_next():
    desk = Desk()
    people = [Person(f"user{number}") for number in range(MAX_BATCH + 3)]
    answers = desk.submit(*map(insert, people))
    assert [each.index for each in answers] == list(range(MAX_BATCH + 3))
    assert desk.saves == 2


def test_a_snapshot_in_the_middle_of_a_save_holds_everything():
    desk = Desk()
    desk.add(ANN)
    machine, store = desk.machine, desk.store.copy()
    effects = machine.step(Received(((-1, msg.Submit(1, insert(BEN))),)), 1.0)
    machine.step(Received(((-1, msg.Get(2, "ben")),)), 1.0)
    snapshot = machine.snapshot()
    hash(snapshot)
    (save,) = [each for each in effects if isinstance(each, Save)]
    desk.store.apply(save.batch)
    expected = machine.step(Saved(), 1.0)
    store.apply(save.batch)
    other = Directory(desk.config, reader=store, issuer=ISSUER, seed=b"s" * 16, now=0.0)
    other.restore(snapshot)
    assert other.snapshot() == snapshot
    assert other.step(Saved(), 1.0) == expected
    assert other.snapshot() == machine.snapshot()


# ---- attacks ------------------------------------------------------------------------------------------------------


def test_insert_for_a_taken_name_is_refused_tentative_or_approved():
    desk = Desk()
    record = desk.add(ANN, approved=False)
    refused(desk.submit(insert(EVE, name="ann")), NameTaken, "its entry is tentative")
    refused(desk.submit(insert(EVE, record.latest, name="ann")), NameTaken, "its entry is tentative")
    desk.submit(approve(ANN, record.latest))
    refused(desk.submit(insert(EVE, name="ann")), NameTaken, "its entry is approved")
    assert desk.get("ann").keys == ANN.keys


def test_approval_by_a_user_by_another_realm_or_by_the_authority_itself_is_refused():
    desk = Desk()
    record = desk.add(ANN, approved=False)
    for forger in (ANN, EVE, ISSUER, Administrator(number=4712)):
        refused(desk.submit(approve(ANN, record.latest, by=forger)), BadSignature, "not signed by the realm's admin")
    assert desk.get("ann").state == TENTATIVE


def test_approval_of_another_key_than_is_there_is_refused():
    desk = Desk()
    first = insert(ANN)
    desk.submit(first, change(ANN, NEW, leaf(first)))
    latest = desk.get("ann").latest
    refused(desk.submit(approve(ANN, latest)), NotAllowed, "is not the one that Approve names")


def test_change_signed_by_the_new_key_only_is_refused():
    desk = Desk()
    record = desk.add(ANN)
    good = change(ANN, NEW, record.latest)
    only_new = msgspec.structs.replace(good, signature=good.second)
    only_old = msgspec.structs.replace(good, second=good.signature)
    none = msgspec.structs.replace(good, second=b"")
    for bad in (only_new, only_old, none):
        refused(desk.submit(bad), BadSignature, "not signed by the key that is there and")
    assert desk.submit(good).index == 2


def test_a_replayed_delete_after_the_name_was_inserted_again_is_answered_as_what_it_was():
    desk = Desk()
    record = desk.add(ANN)
    gone = delete(ANN, record.latest)
    desk.submit(gone)
    again = insert(ANN, leaf(gone))
    desk.submit(again, approve(ANN, leaf(again)))
    assert desk.submit(gone).index == 2  # it was said, once: nothing new is deleted
    assert desk.get("ann").state == APPROVED
    elsewhere = delete(ANN, leaf(insert(ANN)))
    refused(desk.submit(elsewhere), NotAllowed, "look the entry up again")


def test_statements_of_another_realm_are_refused():
    desk = Desk()
    other = Administrator(number=4712)
    refused(desk.submit(insert(ANN, realm=other.realm)), NotAllowed, "for another realm")
    record = desk.add(ANN, approved=False)
    refused(desk.submit(approve(ANN, record.latest, by=other, realm=other.realm)), NotAllowed, "for another realm")


def test_a_directory_does_not_start_on_a_store_that_was_altered_or_is_anothers():
    desk = Desk()
    desk.add(ANN)
    cut = desk.store.copy()
    cut._entries.pop()
    with pytest.raises(TrustError, match="does not fit its signed head"):
        Desk(cut)
    headless = desk.store.copy()
    headless._head = None
    with pytest.raises(TrustError, match="no head"):
        Desk(headless)
    other = Administrator(number=4712)
    theirs = DirectoryConfig(other.root, (other.issuer().authority.certificate,), WALL)
    with pytest.raises(TrustError, match="of another realm"):
        Desk(desk.store, config=theirs, issuer=other.issuer())


def test_the_first_certificate_must_be_that_of_the_key_that_signs():
    with pytest.raises(TrustError, match="is not that of the key"):
        Desk(issuer=ADMIN.issuer(2), config=config())
    with pytest.raises(TrustError, match="is not that of the key"):
        Desk(config=msgspec.structs.replace(config(), authorities=()))


# ---- retired authorities ------------------------------------------------------------------------------------------


def test_a_retired_key_is_told_with_every_head_and_proven_by_the_map():
    desk = Desk()
    old = ADMIN.issuer(2)
    desk.submit(retire(old.key_id))
    assert desk.ask(msg.AskHead(0)).retired == (retire(old.key_id),)
    assert desk.get(RETIRED_USER).keys.signing == old.key_id
    second = retire(ADMIN.issuer(3).key_id, leaf(retire(old.key_id)))
    desk.submit(second)
    assert Desk(desk.store).ask(msg.AskHead(0)).retired == (retire(old.key_id), second)


def test_an_authority_neither_retires_its_own_key_nor_starts_with_a_retired_one():
    desk = Desk()
    refused(desk.submit(retire(ISSUER.key_id)), NotAllowed, "`trunkline authority renew`")
    other = ADMIN.issuer(2)
    authorities = (other.authority.certificate, ISSUER.authority.certificate)
    renewed = Desk(desk.store, config=msgspec.structs.replace(desk.config, authorities=authorities), issuer=other)
    renewed.submit(retire(ISSUER.key_id))
    assert renewed.get(RETIRED_USER).keys.signing == ISSUER.key_id
    with pytest.raises(NotAllowed, match="authority renew"):
        Desk(renewed.store)


def test_only_the_administrator_retires_and_only_under_that_name():
    desk = Desk()
    refused(desk.submit(retire(ADMIN.issuer(2).key_id, by=ISSUER)), BadSignature, "administrator")
    refused(desk.submit(insert(EVE, name=RETIRED_USER)), NotAllowed, "stands for retired keys")


def test_there_are_so_many_retired_keys_and_no_more(monkeypatch):
    monkeypatch.setattr("trunkline.authority.directory.MAX_RETIRED", 1)
    desk = Desk()
    first = retire(ADMIN.issuer(2).key_id)
    answers = desk.submit(first, retire(ADMIN.issuer(3).key_id, leaf(first)))
    refused(answers[1], TooMany, "retired keys: the limit is 1")
    assert MAX_RETIRED == 64


# ---- time ---------------------------------------------------------------------------------------------------------


def test_a_sweep_waits_for_a_save_and_an_early_tick_does_nothing():
    desk = Desk()
    assert desk.machine.next_deadline() == 600.0
    assert desk.machine.step(Tick(), 599.0) == []
    desk.machine.step(Received(((-1, msg.Submit(1, insert(ANN))),)), 599.0)
    assert desk.machine.step(Tick(), 600.0) == []
    assert desk.machine.next_deadline() == 601.0
    desk.machine.step(Saved(), 600.0)
    (save,) = desk.machine.step(Tick(), 601.0)
    assert save.batch.expired == WALL + 601 - REMEMBERED
    assert desk.machine.next_deadline() == 1201.0


def test_a_head_that_is_asked_for_fits_revocations_that_were_on_disk():
    store = MemoryStore()
    store.apply(Batch(revoked=(Revocation(b"s" * 16, WALL + 10), Revocation(b"t" * 16, WALL - REMEMBERED))))
    answer = Desk(store).ask(msg.AskHead(0))
    assert answer.revoked == (b"s" * 16,)
    assert read_head(answer.head).revoked == revoked_digest([b"s" * 16])
