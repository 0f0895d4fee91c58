"""Who gets a certificate, who gets none, and what is revoked when."""

import msgspec

from tests.authority.kit import (
    ISSUER,
    WALL,
    Desk,
    Person,
    approve,
    change,
    delete,
    insert,
    issue,
    leaf,
    refused,
)
from trunkline.authority import messages as msg
from trunkline.authority.certificates import parse_leaf
from trunkline.authority.heads import read_head, revoked_digest
from trunkline.authority.issuing import LEAF_LIFETIME
from trunkline.authority.registrar import REMEMBERED
from trunkline.authority.statements import APPROVED
from trunkline.errors import BadSignature, NotAllowed, TooMany

ANN, BEN, EVE = Person("ann"), Person("ben"), Person("eve")
NEW = Person("ann", 1)


def test_an_approved_user_gets_a_certificate_and_the_same_again():
    desk = Desk()
    desk.add(ANN)
    first = desk.ask(issue(ANN))
    identity = parse_leaf(first.chain[0])
    assert (identity.realm, identity.user, identity.public_key) == ("lab.example", "ann", ANN.signing)
    assert (identity.not_before, identity.not_after) == (WALL - 300, WALL + LEAF_LIFETIME)
    assert first.chain[1] == ISSUER.authority.certificate
    assert identity.serial[0] < 128
    assert desk.ask(issue(ANN)).chain == first.chain
    assert Desk(desk.store, now=60.0).ask(issue(ANN, time=WALL + 60)).chain == first.chain
    assert desk.ask(issue(ANN, key=8)).chain != first.chain
    late = WALL + LEAF_LIFETIME // 2
    desk.now = late - WALL
    assert desk.ask(issue(ANN, time=late)).chain != first.chain  # the half of its life is over


def test_two_requests_for_one_key_in_one_batch_get_one_certificate():
    desk = Desk()
    desk.add(ANN)
    one, two = desk.ask(issue(ANN), issue(ANN))
    assert one.chain == two.chain
    assert len(desk.store.issued("ann", WALL)) == 1


def test_approval_and_certificate_fit_into_one_batch():
    desk = Desk()
    first = insert(ANN)
    answers = desk.ask(msg.Submit(0, first), msg.Submit(0, approve(ANN, leaf(first))), issue(ANN))
    assert isinstance(answers[2], msg.Issued)
    assert desk.saves == 1


def test_no_certificate_for_who_is_unknown_tentative_or_deleted():
    desk = Desk()
    refused(desk.ask(issue(ANN)), NotAllowed, "its key is not in the directory")
    record = desk.add(ANN, approved=False)
    refused(desk.ask(issue(ANN)), NotAllowed, "its key is tentative")
    desk.submit(delete(ANN, record.latest))
    refused(desk.ask(issue(ANN)), NotAllowed, "its key is deleted")


def test_no_certificate_for_a_request_that_is_forged_old_or_not_self_signed():
    desk = Desk()
    desk.add(ANN)
    refused(desk.ask(issue(ANN, by=EVE)), BadSignature, "not signed by the key of 'ann'")
    for wrong in (WALL - 121, WALL + 121):
        refused(desk.ask(issue(ANN, time=wrong)), NotAllowed, "clocks may differ by 120 s")
    refused(desk.ask(issue(ANN, request=b"nonsense")), BadSignature, "can't be read")
    altered = bytearray(issue(ANN).request)
    altered[-1] ^= 1
    refused(desk.ask(issue(ANN, request=bytes(altered))), BadSignature, "the certificate request")
    assert desk.store.issued("ann", 0) == []


def test_a_user_has_so_many_certificates_and_no_more():
    desk = Desk(max_certificates=2)
    desk.add(ANN)
    answers = desk.ask(*(issue(ANN, key=key) for key in (7, 8, 9)))
    refused(answers[2], TooMany, "the limit is 2")


def test_change_and_delete_revoke_what_was_issued_and_the_head_says_so_until_it_expires():
    desk = Desk()
    record = desk.add(ANN)
    desk.add(BEN)
    serials = sorted(
        parse_leaf(each.chain[0]).serial for each in desk.ask(issue(ANN, key=7), issue(ANN, key=8), issue(BEN))[:2]
    )
    changed = change(ANN, NEW, record.latest)
    desk.submit(changed)
    answer = desk.ask(msg.AskHead(0))
    assert list(answer.revoked) == serials
    assert read_head(answer.head).revoked == revoked_digest(serials)
    fresh = desk.ask(issue(NEW)).chain
    desk.submit(delete(NEW, leaf(changed)))
    assert len(desk.ask(msg.AskHead(0)).revoked) == 3
    assert parse_leaf(fresh[0]).serial in desk.ask(msg.AskHead(0)).revoked
    again = Desk(desk.store)
    assert again.ask(msg.AskHead(0)).revoked == desk.ask(msg.AskHead(0)).revoked
    desk.now = LEAF_LIFETIME + REMEMBERED + 1.0
    desk.tick()
    answer = desk.ask(msg.AskHead(0))
    assert answer.revoked == ()
    assert read_head(answer.head).revoked == revoked_digest(())
    assert desk.store.revoked(0) == []
    assert desk.store.issued("ann", 0) == []


def test_what_is_issued_and_revoked_in_one_batch_is_revoked():
    desk = Desk()
    record = desk.add(ANN)
    issued, _ = desk.ask(issue(ANN), msg.Submit(0, delete(ANN, record.latest)))
    assert desk.ask(msg.AskHead(0)).revoked == (parse_leaf(issued.chain[0]).serial,)


def test_a_change_of_the_encryption_key_alone_revokes_nothing():
    desk = Desk()
    record = desk.add(ANN)
    desk.ask(issue(ANN))
    other = Person("ann")
    other.keys = msgspec.structs.replace(ANN.keys, encryption=b"e" * 32)
    desk.submit(change(ANN, other, record.latest))
    assert desk.get("ann").keys.encryption == b"e" * 32
    assert desk.ask(msg.AskHead(0)).revoked == ()


def test_a_key_that_was_revoked_and_comes_back_gets_a_new_certificate():
    desk = Desk()
    record = desk.add(ANN)
    old = desk.ask(issue(ANN)).chain
    away = change(ANN, NEW, record.latest)
    desk.submit(away, change(NEW, ANN, leaf(away)))
    assert desk.ask(issue(ANN)).chain[0] != old[0]


def test_what_would_revoke_more_than_a_head_can_tell_is_refused(monkeypatch):
    monkeypatch.setattr("trunkline.authority.registrar.MAX_REVOKED", 1)
    desk = Desk()
    record = desk.add(ANN)
    desk.ask(issue(ANN, key=7), issue(ANN, key=8))
    refused(desk.submit(delete(ANN, record.latest)), TooMany, "the limit is 1")
    assert desk.get("ann").state == APPROVED
    assert desk.ask(msg.AskHead(0)).revoked == ()


def test_certificates_do_not_outlive_the_authoritys_own():
    end = ISSUER.authority.not_after
    desk = Desk(now=float(end - WALL - 3600))
    desk.add(ANN)
    assert parse_leaf(desk.ask(issue(ANN, time=end - 3600)).chain[0]).not_after == end
    desk.now = float(end - WALL)
    refused(desk.ask(issue(ANN, time=end)), NotAllowed, "`trunkline authority renew`")
