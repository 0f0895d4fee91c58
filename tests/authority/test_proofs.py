"""Answers about users: what an authority, and a replica above all, can't get away with."""

import pytest
from msgspec.structs import replace

from tests.authority import kit
from tests.authority.kit import ADMIN, ISSUER, Administrator, Desk, Person
from trunkline.authority.heads import read_head
from trunkline.authority.mapping import map_key, record_hash
from trunkline.authority.messages import Get
from trunkline.authority.proofs import check_record, check_retired
from trunkline.authority.rules import RETIRED_USER
from trunkline.authority.statements import APPROVED, DELETED, TENTATIVE
from trunkline.errors import BadProof, BadSignature

ANN, BEN = Person("ann"), Person("ben")


@pytest.fixture
def desk():
    made = Desk()
    made.add(BEN)
    made.add(ANN)
    return made


def check(answer, user):
    return check_record(answer, user, read_head(answer.head), ADMIN.anchor)


def ask(desk, user="ann"):
    return desk.ask(Get(0, user))


class TestEveryStateOfAnEntry:
    def test_from_tentative_to_deleted_and_back(self):
        desk, new = Desk(), Person("ann", 2)
        first = kit.insert(ANN, requester="the help desk")
        desk.submit(first)
        assert check(ask(desk), "ann").state == TENTATIVE
        assert check(ask(desk), "ann").requester == "the help desk"
        moved = kit.change(ANN, new, kit.leaf(first))
        desk.submit(moved)
        assert check(ask(desk), "ann").keys == new.keys
        approved = kit.approve(new, kit.leaf(moved))
        desk.submit(approved)
        record = check(ask(desk), "ann")
        assert (record.state, record.approval) == (APPROVED, 2)
        moved = kit.change(new, ANN, kit.leaf(approved))
        desk.submit(moved)
        record = check(ask(desk), "ann")
        assert (record.state, record.keys, record.approval) == (APPROVED, ANN.keys, 2)
        gone = kit.delete(ANN, kit.leaf(moved))
        desk.submit(gone)
        assert check(ask(desk), "ann").state == DELETED
        desk.submit(kit.insert(new, kit.leaf(gone)))
        assert check(ask(desk), "ann").state == TENTATIVE

    def test_deleted_by_the_administrator_while_tentative(self):
        desk = Desk()
        desk.add(ANN, approved=False)
        desk.submit(kit.delete(ANN, desk.get("ann").latest, ADMIN))
        assert check(ask(desk), "ann").state == DELETED

    def test_retired_keys_have_a_record(self):
        desk = Desk()
        first = kit.retire(bytes(32))
        desk.submit(first)
        assert check(ask(desk, RETIRED_USER), RETIRED_USER).state == DELETED
        desk.submit(kit.retire(b"\1" * 32, kit.leaf(first)))
        assert check(ask(desk, RETIRED_USER), RETIRED_USER).keys.signing == b"\1" * 32

    def test_absent(self, desk):
        assert check(ask(desk, "nobody"), "nobody") is None


class TestLies:
    def test_that_somebody_is_not_there(self, desk):
        with pytest.raises(BadProof, match="nobody has that name"):
            check(replace(ask(desk), record=None, statement=None), "ann")

    def test_that_somebody_is(self, desk):
        answer = ask(desk)
        with pytest.raises(BadProof):
            check(replace(answer, record=replace(answer.record, user="eve")), "eve")

    def test_another_users_record(self, desk):
        with pytest.raises(BadProof, match="the answer about 'ann' has the record of 'ben'"):
            check(ask(desk, "ben"), "ann")

    @pytest.mark.parametrize("field", ["state", "index", "keys", "requester", "approval", "latest"])
    def test_a_record_altered_in_any_field(self, desk, field):
        answer = ask(desk)
        other = {"keys": BEN.keys, "requester": "me", "latest": bytes(32), "state": TENTATIVE}.get(field, 0)
        with pytest.raises(BadProof):
            check(replace(answer, record=replace(answer.record, **{field: other})), "ann")

    def test_the_statement_left_out_or_another(self, desk):
        answer = ask(desk)
        for statement in (None, ask(desk, "ben").statement, replace(answer.statement, signature=b"0")):
            with pytest.raises(BadProof, match="without the statement that it rests on"):
                check(replace(answer, statement=statement), "ann")

    def test_a_statement_that_is_not_in_the_log(self, desk):
        answer = ask(desk)
        with pytest.raises(BadProof):
            check(replace(answer, inclusion=()), "ann")


class TestAnAuthorityThatBreaksTheRules:
    """It can sign any map it likes, but whoever reads a record sees that nobody with the right said so."""

    def lie(self, desk, record, statement):
        answer = ask(desk)
        from trunkline.authority.mapping import leaf_node
        from trunkline.authority.merkle import statement_hash
        from trunkline.authority.messages import MapProof

        leaf = statement_hash(statement)
        record = replace(record, latest=leaf, index=0)
        head = replace(
            read_head(answer.head), size=1, log=leaf, map=leaf_node(map_key(record.user), record_hash(record))
        )
        answer = replace(answer, record=record, statement=statement, inclusion=(), proof=MapProof(()))
        return check_record(answer, record.user, head, ADMIN.anchor)

    def test_approves_without_the_administrator(self, desk):
        record = desk.get("ann")
        forged = kit.approve(ANN, desk.get("ben").latest, by=ISSUER)
        with pytest.raises(BadSignature, match="not signed by the realm's administrator"):
            self.lie(desk, replace(record, approval=0), forged)

    def test_calls_an_insert_approved(self, desk):
        with pytest.raises(BadProof, match="is not what its latest statement says"):
            self.lie(desk, desk.get("ann"), kit.insert(ANN))

    def test_changes_a_key_without_its_owner(self, desk):
        eve = Person("ann", 6)
        forged = kit.signed(kit.Change(ADMIN.realm, "ann", bytes(32), ANN.signing, eve.keys), eve, eve)
        with pytest.raises(BadSignature, match="not signed by the key that is there"):
            self.lie(desk, replace(desk.get("ann"), keys=eve.keys), forged)

    def test_changes_the_encryption_key_alone(self, desk):
        forged = kit.insert(ANN)
        keys = replace(ANN.keys, encryption=BEN.keys.encryption)
        with pytest.raises(BadProof, match="is not what"):
            self.lie(desk, replace(desk.get("ann"), state=TENTATIVE, approval=-1, keys=keys), forged)

    def test_takes_a_statement_of_another_realm(self, desk):
        with pytest.raises(BadProof, match="breaks the rules: Approve of 'ann' was signed for another realm"):
            self.lie(desk, desk.get("ann"), kit.approve(ANN, bytes(32), realm=bytes(32)))

    def test_takes_a_statement_about_somebody_else(self, desk):
        with pytest.raises(BadProof, match="is not what"):
            self.lie(desk, replace(desk.get("ann"), state=TENTATIVE, approval=-1, keys=BEN.keys), kit.insert(BEN))

    def test_takes_what_is_no_statement(self, desk):
        for body in (b"\xc1", kit.encode_statement(kit.Insert(ADMIN.realm, "../x", bytes(32), ANN.keys))):
            with pytest.raises(BadSignature):
                self.lie(desk, desk.get("ann"), replace(kit.insert(ANN), body=body))


def test_retirements_are_the_administrators():
    assert check_retired(kit.retire(bytes(32)), ADMIN.anchor) == bytes(32)
    for forged in (kit.retire(bytes(32), by=Administrator(1)), kit.insert(ANN)):
        with pytest.raises(BadSignature):
            check_retired(forged, ADMIN.anchor)
    with pytest.raises(BadSignature, match="another realm"):
        check_retired(kit.retire(bytes(32)), Administrator(1).anchor)
