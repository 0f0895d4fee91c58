"""What a client believes, and above all what it does not: each attack fails at the step that the spec names."""

import msgspec
import pytest
from msgspec.structs import replace

from tests.authority import kit
from tests.authority.kit import ADMIN, ISSUER, REALM, WALL, Administrator, Desk, Person
from trunkline.authority.freshness import TrustSettings
from trunkline.authority.heads import read_head, sign_head
from trunkline.authority.issuing import DAY, Issuer, build_request
from trunkline.authority.messages import AskHead, AskRoot, Get
from trunkline.authority.trust import MAX_KNOWN, MAX_LEAVES, MAX_PENDING, Trust
from trunkline.errors import (
    BadProof,
    BadSignature,
    ForkedHistory,
    NotThatUser,
    Revoked,
    StaleHead,
    TrustError,
)

ANN, BEN, EVE = Person("ann"), Person("ops/ben"), Person("eve")


@pytest.fixture
def desk():
    made = Desk()
    made.add(ANN)
    return made


def new_trust(settings=None, **state):
    return Trust(REALM, ADMIN.root, settings, **state)


def refreshed(desk, trust=None, *, first_hand=True):
    trust = trust or new_trust()
    trust.update_head(desk.ask(AskHead(0, trust.size)), WALL + desk.now, first_hand=first_hand)
    return trust


def found(desk, trust, user, wall=None):
    return trust.check_found(desk.ask(Get(0, user, trust.size)), user, wall or WALL + desk.now)


def certified(desk, who=ANN, key=7):
    """Return the chain of a certificate that the authority has issued."""
    answer = desk.ask(kit.issue(who, key=key, time=int(WALL + desk.now)))
    return answer.chain


def leaf(issuer=ISSUER, who=ANN, *, serial=99, begin=WALL - 300, end=WALL + DAY):
    request = build_request(kit.p256(7), who.name)
    return issuer.issue(who.name, who.signing, request, serial.to_bytes(16, "big"), begin, end)


def state_of(trust):
    return trust.state(), trust.evidence, trust.head, trust.refreshed


class TestHeads:
    def test_a_first_head_is_taken_at_its_word_and_the_next_by_proof(self, desk):
        trust = refreshed(desk)
        assert trust.size == 2
        assert trust.refreshed == WALL
        desk.now = 10
        desk.add(BEN)
        refreshed(desk, trust)
        assert trust.size == 4
        assert trust.refreshed == WALL + 10
        assert trust.signed_head.body == msgspec.msgpack.encode(trust.head)

    def test_of_another_realm(self, desk):
        other = Administrator(1)
        answer = desk.ask(AskHead(0))
        head = sign_head(replace(read_head(answer.head), realm=other.realm), ISSUER)
        with pytest.raises(TrustError, match="another realm"):
            new_trust().update_head(replace(answer, head=head), WALL)

    def test_signed_by_nobody_that_the_root_certified(self, desk):
        answer = desk.ask(AskHead(0))
        stranger = Administrator(1).issuer(5)
        head = sign_head(replace(read_head(answer.head), authority=stranger.key_id), stranger)
        with pytest.raises(BadSignature, match="no authority of"):
            new_trust().update_head(replace(answer, head=head), WALL)
        with pytest.raises(TrustError):
            new_trust().update_head(replace(answer, authorities=(stranger.authority.certificate,)), WALL)

    @pytest.mark.parametrize("field", ["size", "time", "map", "log", "revoked"])
    def test_altered_in_any_field(self, desk, field):
        answer = desk.ask(AskHead(0))
        head = read_head(answer.head)
        value = getattr(head, field)
        other = value + 1 if isinstance(value, int) else bytes(32)
        altered = replace(answer.head, body=msgspec.msgpack.encode(replace(head, **{field: other})))
        trust = new_trust()
        with pytest.raises(BadSignature, match="is not signed by"):
            trust.update_head(replace(answer, head=altered), WALL)
        assert trust.head is None
        assert trust.state() is None

    def test_that_is_none(self, desk):
        answer = desk.ask(AskHead(0))
        with pytest.raises(BadSignature, match="no head"):
            new_trust().update_head(replace(answer, head=replace(answer.head, body=b"\xc1")), WALL)

    def test_from_the_future_by_more_than_clocks_may_differ(self, desk):
        new_trust().update_head(desk.ask(AskHead(0)), WALL - 60)
        with pytest.raises(TrustError, match="61 s in the future, and clocks may differ by 60 s"):
            new_trust().update_head(desk.ask(AskHead(0)), WALL - 61)

    def test_rolled_back(self, desk):
        old = desk.ask(AskHead(0))
        desk.now = 5
        desk.add(BEN)
        trust = refreshed(desk)
        before = state_of(trust)
        with pytest.raises(StaleHead, match="rolled back: a head of 2 statements"):
            trust.update_head(replace(old, consistency=()), WALL + 6)
        assert state_of(trust) == before

    def test_rolled_back_over_a_restart(self, desk):
        old = desk.ask(AskHead(0))
        desk.now = 5
        desk.add(BEN)
        again = new_trust(state=refreshed(desk).state())
        assert again.size == 4
        with pytest.raises(StaleHead, match="rolled back"):
            again.update_head(old, WALL + 6)

    def test_rolled_back_to_fewer_statements_and_signed_anew(self, desk):
        backup = desk.store.copy()
        desk.add(BEN)
        trust = refreshed(desk)
        restored = Desk(backup, now=100.0)
        with pytest.raises(ForkedHistory, match="shrunk"):
            refreshed(restored, trust)

    def test_two_states_of_one_size(self, desk):
        backup = desk.store.copy()
        desk.add(BEN)
        trust = refreshed(desk)
        other = Desk(backup, now=1.0)
        other.add(EVE)
        with pytest.raises(ForkedHistory, match="two different states") as caught:
            refreshed(other, trust)
        assert len(caught.value.evidence) == 4
        assert len(trust.evidence) == 2
        with pytest.raises(ForkedHistory, match="nothing of this realm is believed"):
            refreshed(desk, trust)
        again = new_trust(state=trust.state(), evidence=trust.evidence)
        with pytest.raises(ForkedHistory):
            again.check_leaf(certified(desk)[0], WALL)

    def test_two_histories_told_by_the_authority_itself(self, desk):
        backup = desk.store.copy()
        desk.add(BEN)
        trust = refreshed(desk)
        other = Desk(backup, now=1.0)
        other.add(EVE)
        other.add(Person("mallory"))
        with pytest.raises(ForkedHistory, match="can't connect two of its heads"):
            refreshed(other, trust)

    def test_a_replica_that_makes_up_a_proof_is_only_not_believed(self, desk):
        trust = refreshed(desk)
        desk.add(BEN)
        answer = desk.ask(AskHead(0, trust.size))
        before = state_of(trust)
        with pytest.raises(BadProof):
            trust.update_head(replace(answer, consistency=(bytes(32),) * len(answer.consistency)), WALL)
        assert state_of(trust) == before
        refreshed(desk, trust)

    def test_with_other_revoked_serials_than_it_was_signed_for(self, desk):
        certified(desk)
        desk.submit(kit.change(ANN, Person("ann", 2), desk.get("ann").latest))
        answer = desk.ask(AskHead(0))
        assert len(answer.revoked) == 1
        with pytest.raises(BadProof, match="revoked serials"):
            new_trust().update_head(replace(answer, revoked=()), WALL)

    def test_by_an_intermediate_out_of_its_dates(self, desk):
        with pytest.raises(TrustError, match="expired"):
            new_trust().update_head(desk.ask(AskHead(0)), WALL + 366 * DAY)

    def test_an_authority_that_starts_anew_with_its_clock_a_little_behind_is_no_forger(self, desk):
        desk.now = 30
        refreshed_at_30 = Desk(desk.store.copy(), now=100.0)
        trust = refreshed(refreshed_at_30)
        behind = Desk(desk.store.copy(), now=60.0)
        behind.add(BEN)
        with pytest.raises(StaleHead, match="rolled back"):
            refreshed(behind, trust)
        assert not trust.evidence


class TestRetirement:
    def test_a_retired_key_signs_heads_and_leaves_in_vain(self, desk):
        old = leaf(ADMIN.issuer(2), end=WALL + DAY)
        trust = refreshed(desk)
        trust.learn([old[1]])
        trust.check_leaf(old[0], WALL)
        desk.submit(kit.retire(ADMIN.issuer(2).key_id))
        refreshed(desk, trust)
        with pytest.raises(Revoked, match="retired"):
            trust.check_leaf(old[0], WALL)
        head = sign_head(replace(trust.head, authority=ADMIN.issuer(2).key_id, time=WALL + 1), ADMIN.issuer(2))
        with pytest.raises(Revoked, match="retired"):
            trust.compare(head, WALL)
        again = new_trust(state=trust.state())
        with pytest.raises(Revoked, match="retired"):
            again.check_leaf(old[0], WALL, [old[1]])
        assert old[1] not in again.authorities()

    def test_none_can_be_left_out_by_a_replica(self, desk):
        first = kit.retire(ADMIN.issuer(2).key_id)
        desk.submit(first)
        desk.submit(kit.retire(ADMIN.issuer(3).key_id, kit.leaf(first)))
        answer = desk.ask(AskHead(0))
        one, other = answer.retired
        for told in ((), (one,), (other,), (other, one), (one, other, other)):
            with pytest.raises(BadProof, match="or the retired keys are not those"):
                new_trust().update_head(replace(answer, retired=told), WALL)
        new_trust().update_head(answer, WALL)

    def test_only_by_the_administrator(self, desk):
        answer = desk.ask(AskHead(0))
        for forged in (
            kit.retire(ISSUER.key_id, by=ANN),
            kit.retire(ISSUER.key_id, by=ISSUER),
            kit.approve(ANN, bytes(32)),
            replace(kit.retire(ISSUER.key_id), body=b"\xc1"),
        ):
            with pytest.raises(BadSignature):
                new_trust().update_head(replace(answer, retired=(forged,)), WALL)


class TestRoot:
    def test_is_compared(self, desk):
        answer = desk.ask(AskRoot(0))
        trust = new_trust()
        trust.update_root(answer)
        assert trust.authorities() == (ISSUER.authority.certificate,)
        with pytest.raises(TrustError, match="serves another root"):
            trust.update_root(replace(answer, root=Administrator(1).root))

    def test_is_of_the_realm(self):
        with pytest.raises(TrustError, match=r"of the realm 'lab.example', not of 'other'"):
            Trust("other", ADMIN.root)

    def test_says_who_it_is(self):
        trust = new_trust()
        assert trust.realm == REALM
        assert trust.fingerprint == ADMIN.realm


class TestRecords:
    def test_are_proven_present_and_absent(self, desk):
        trust = refreshed(desk)
        assert found(desk, trust, "ann").keys == ANN.keys
        assert found(desk, trust, "nobody") is None
        desk.add(BEN)
        assert found(desk, trust, BEN.name).keys == BEN.keys
        assert trust.size == 4
        assert trust.refreshed == WALL

    def test_a_head_that_came_with_a_record_is_not_fresh_for_revocation(self, desk):
        trust = refreshed(desk)
        desk.now = 200
        desk.add(BEN)
        found(desk, trust, BEN.name)
        assert trust.head.time == WALL + 200
        assert trust.refreshed == WALL
        assert new_trust(state=trust.state()).refreshed == WALL

    def test_from_a_replica_that_is_behind_by_a_signature(self, desk):
        """The state is the same; the authority has signed it anew, and failed before the replica asked."""
        trust = new_trust()
        behind = desk.ask(Get(0, "ann"))
        desk.now = 100
        refreshed(desk, trust)
        record = trust.check_found(behind, "ann", WALL + 100)
        assert record == desk.get("ann")
        assert trust.head.time == trust.refreshed == WALL + 100
        with pytest.raises(BadProof):
            trust.check_found(replace(behind, record=replace(record, state=3)), "ann", WALL + 100)

    def test_yesterdays_from_a_replica_that_hides_a_change(self, desk):
        trust = refreshed(desk)
        stale = desk.ask(Get(0, "ann", trust.size))
        desk.now = 5
        desk.submit(kit.change(ANN, Person("ann", 2), desk.get("ann").latest))
        refreshed(desk, trust)
        with pytest.raises(StaleHead, match="rolled back"):
            trust.check_found(stale, "ann", WALL + 5)
        new = desk.ask(Get(0, "ann", trust.size))
        with pytest.raises(BadProof):  # the old record under the new head
            trust.check_found(replace(stale, head=new.head), "ann", WALL + 5)

    def test_older_than_the_policy_allows(self, desk):
        trust = refreshed(desk, new_trust(TrustSettings(when_stale="strict")))
        answer = desk.ask(Get(0, "ann", trust.size))
        with pytest.raises(StaleHead, match="301 s old, and the limit is 300 s"):
            trust.check_found(answer, "ann", WALL + 301)


class TestPeersHeads:
    def test_the_same_and_those_seen_before_need_nothing(self, desk):
        trust = refreshed(desk)
        first = trust.signed_head
        trust.compare(first, WALL)
        desk.add(BEN)
        refreshed(desk, trust)
        trust.compare(first, WALL)
        assert trust.pending == ()
        assert not trust.puzzled

    def test_a_newer_one_waits_for_a_proof_and_is_not_believed(self, desk):
        trust = refreshed(desk)
        desk.now = 5
        desk.add(BEN)
        newer = desk.ask(AskHead(0)).head
        trust.compare(newer, WALL + 5)
        assert trust.puzzled
        assert trust.size == 2
        ((size, signed),) = trust.pending
        refreshed(desk, trust)
        trust.connect(signed, desk.ask(AskHead(0, size)), WALL + 5, first_hand=True)
        assert trust.pending == ()
        trust.compare(newer, WALL + 5)
        assert not trust.puzzled

    def test_an_older_one_that_we_never_saw_is_connected_too(self, desk):
        first = desk.ask(AskHead(0)).head
        desk.add(BEN)
        trust = refreshed(desk)
        trust.compare(first, WALL)
        trust.connect(first, desk.ask(AskHead(0, 2)), WALL)
        assert trust.pending == ()

    def test_another_state_of_the_same_size(self, desk):
        backup = desk.store.copy()
        desk.add(BEN)
        trust = refreshed(desk)
        other = Desk(backup, now=1.0)
        other.add(EVE)
        with pytest.raises(ForkedHistory, match="two different states"):
            trust.compare(other.ask(AskHead(0)).head, WALL)

    def test_two_of_one_size_that_we_are_behind_of(self, desk):
        trust = refreshed(desk)
        backup = desk.store.copy()
        desk.add(BEN)
        trust.compare(desk.ask(AskHead(0)).head, WALL)
        other = Desk(backup, now=0.0)
        other.add(EVE)
        with pytest.raises(ForkedHistory):
            trust.compare(other.ask(AskHead(0)).head, WALL)

    def test_less_signed_later(self, desk):
        backup = desk.store.copy()
        desk.add(BEN)
        trust = refreshed(desk)
        with pytest.raises(ForkedHistory, match="shrunk"):
            trust.compare(Desk(backup, now=90.0).ask(AskHead(0)).head, WALL + 90)

    def test_a_history_that_the_authority_can_not_connect(self, desk):
        backup = desk.store.copy()
        trust = refreshed(desk)
        other = Desk(backup, now=1.0)
        other.add(EVE)
        lied = other.ask(AskHead(0)).head
        trust.compare(lied, WALL + 1)
        desk.now = 1
        for who in (BEN, Person("mallory")):
            desk.add(who)
        refreshed(desk, trust)
        answer = desk.ask(AskHead(0, 4))
        with pytest.raises(BadProof):  # from a replica: it may be the replica that lies
            trust.connect(lied, answer, WALL + 1)
        with pytest.raises(ForkedHistory, match="can't connect what it told a peer"):
            trust.connect(lied, answer, WALL + 1, first_hand=True)
        assert lied in trust.evidence

    def test_an_answer_for_another_head_than_ours_says_nothing(self, desk):
        first = desk.ask(AskHead(0)).head
        desk.add(BEN)
        trust = refreshed(desk)
        trust.compare(first, WALL)
        desk.add(EVE)
        trust.connect(first, desk.ask(AskHead(0, 2)), WALL)
        assert len(trust.pending) == 1
        trust.connect(sign_head(trust.head, ISSUER), desk.ask(AskHead(0, 2)), WALL)  # nobody has shown that one

    def test_forged_ones_are_refused(self, desk):
        trust = refreshed(desk)
        with pytest.raises(BadSignature):
            trust.compare(replace(trust.signed_head, signature=b"0"), WALL)

    def test_by_a_newer_authority_than_we_know_wait_for_our_next_head(self, desk):
        trust = refreshed(desk)
        newer = ADMIN.issuer(2)
        honest = sign_head(replace(trust.head, authority=newer.key_id), newer)
        made_up = replace(honest, signature=b"0", body=honest.body)
        trust.compare(honest, WALL)
        assert trust.puzzled
        answer = desk.ask(AskHead(0, trust.size))
        trust.update_head(replace(answer, authorities=(newer.authority.certificate, *answer.authorities)), WALL)
        assert not trust.puzzled
        trust = refreshed(desk)
        trust.compare(made_up, WALL)
        trust.update_head(replace(answer, authorities=(newer.authority.certificate, *answer.authorities)), WALL)
        assert not trust.puzzled
        trust = refreshed(desk)
        lie = sign_head(replace(trust.head, authority=newer.key_id, map=bytes(32)), newer)
        trust.compare(lie, WALL)
        with pytest.raises(ForkedHistory):
            trust.update_head(replace(answer, authorities=(newer.authority.certificate, *answer.authorities)), WALL)

    def test_are_remembered_within_limits(self, desk):
        trust = refreshed(desk)
        strange = ADMIN.issuer(2)
        for size in range(3, MAX_PENDING + 13):
            trust.compare(sign_head(replace(trust.head, size=size, time=WALL + size), ISSUER), WALL)
            trust.compare(sign_head(replace(trust.head, size=size, authority=strange.key_id), strange), WALL)
        assert len(trust.pending) == MAX_PENDING
        assert len(trust._strange) == MAX_PENDING

    def test_mean_nothing_before_we_have_one(self, desk):
        with pytest.raises(StaleHead, match="no head of the realm was ever seen"):
            new_trust().compare(desk.ask(AskHead(0)).head, WALL)

    def test_of_the_past_are_remembered_within_limits(self, desk):
        trust = refreshed(desk)
        for number in range(MAX_KNOWN + 5):
            trust._remember(replace(trust._newest, head=replace(trust.head, size=100 + number)))
        assert len(trust._known) == MAX_KNOWN


class TestCertificates:
    def test_of_the_realm_is_believed(self, desk):
        chain = certified(desk)
        identity = refreshed(desk).check_leaf(chain[0], WALL)
        assert (identity.realm, identity.user, identity.public_key) == (REALM, "ann", ANN.signing)
        assert identity.not_after - identity.not_before == DAY + 300
        assert identity.authority == ISSUER.key_id

    def test_expired(self, desk):
        trust = refreshed(desk, new_trust(TrustSettings(max_staleness=10 * DAY)))
        chain = certified(desk)
        trust.check_leaf(chain[0], WALL + DAY + 60)
        with pytest.raises(TrustError, match="'ann' expired 61 s ago"):
            trust.check_leaf(chain[0], WALL + DAY + 61)

    def test_not_yet_valid(self, desk):
        trust = refreshed(desk)
        early = leaf(begin=WALL + 100)[0]
        trust.check_leaf(early, WALL + 40)
        with pytest.raises(TrustError, match="'ann' is not valid yet: it begins in 61 s"):
            trust.check_leaf(early, WALL + 39)

    def test_revoked_by_a_change(self, desk):
        trust = refreshed(desk)
        chain = certified(desk)
        trust.check_leaf(chain[0], WALL)
        desk.submit(kit.change(ANN, Person("ann", 2), desk.get("ann").latest))
        refreshed(desk, trust)
        with pytest.raises(Revoked, match="'ann' was revoked"):
            trust.check_leaf(chain[0], WALL)
        with pytest.raises(Revoked):
            new_trust(state=trust.state()).check_leaf(chain[0], WALL)

    def test_of_a_deleted_user(self, desk):
        chain = certified(desk)
        desk.submit(kit.delete(ANN, desk.get("ann").latest))
        with pytest.raises(Revoked):
            refreshed(desk).check_leaf(chain[0], WALL)

    def test_tentative_users_get_none(self, desk):
        desk.add(BEN, approved=False)
        assert "approved" in desk.ask(kit.issue(BEN)).text

    def test_of_another_realm(self, desk):
        foreign = leaf(Administrator(1).issuer(9))
        with pytest.raises(BadSignature):
            refreshed(desk).check_leaf(foreign[0], WALL, [foreign[1]])

    def test_of_a_realm_with_another_name(self, desk):
        from trunkline.authority.issuing import build_intermediate, build_root

        root = build_root("other.example", ADMIN.key, bytes(15) + b"\1", WALL - DAY, WALL + DAY)
        key = kit.p256(1001)
        certificate = build_intermediate(root, ADMIN.key, key.public_key(), bytes(15) + b"\1", WALL - DAY, WALL + DAY)
        foreign = leaf(Issuer(root, certificate, key))
        with pytest.raises(TrustError, match=r"'ann' is of the realm 'other.example', not of 'lab.example'"):
            refreshed(desk).check_leaf(foreign[0], WALL, [foreign[1]])

    def test_signed_by_a_user(self, desk):
        mine = certified(desk)
        key = kit.p256(7)
        forged = leaf(_as_authority(mine, key), EVE)
        with pytest.raises(TrustError, match="may not sign certificates"):
            refreshed(desk).check_leaf(forged[0], WALL, forged[1:])
        with pytest.raises(BadSignature, match="no authority of"):
            refreshed(desk).check_leaf(forged[0], WALL)

    def test_self_signed(self, desk):
        with pytest.raises(TrustError, match="may sign other certificates"):
            refreshed(desk).check_leaf(ADMIN.root, WALL)
        with pytest.raises(TrustError, match="may sign other certificates"):
            refreshed(desk).check_leaf(ISSUER.authority.certificate, WALL)

    def test_that_names_an_authority_which_did_not_sign_it(self, desk):
        other = kit.p256(5)
        forged = leaf(_under_the_name_of(ISSUER, other), EVE)
        with pytest.raises(BadSignature, match="is not signed by the key"):
            refreshed(desk).check_leaf(forged[0], WALL)

    def test_by_an_intermediate_that_came_along(self, desk):
        newer = leaf(ADMIN.issuer(2))
        trust = refreshed(desk)
        with pytest.raises(BadSignature, match="no authority of"):
            trust.check_leaf(newer[0], WALL)
        trust.check_leaf(newer[0], WALL, newer[1:])
        trust.check_leaf(newer[0], WALL)

    def test_junk(self, desk):
        with pytest.raises(TrustError, match="can't be read"):
            refreshed(desk).check_leaf(b"junk", WALL)

    def test_are_remembered_within_limits(self, desk):
        trust = refreshed(desk)
        for number in range(3):
            trust.check_leaf(leaf(serial=number + 1)[0], WALL)
        assert len(trust._leaves) == 3
        trust._leaves.update({bytes([number >> 8, number & 255]): None for number in range(MAX_LEAVES)})
        trust.check_leaf(leaf(serial=77)[0], WALL)
        assert len(trust._leaves) <= MAX_LEAVES + 3


class TestOurOwnCertificate:
    def test_is_what_was_asked_for(self, desk):
        from trunkline.authority.certificates import key_id

        chain = certified(desk, key=7)
        trust = new_trust()
        ours = key_id(kit.p256(7).public_key())
        assert trust.check_own(chain, "ann", ANN.signing, ours, WALL).user == "ann"
        with pytest.raises(NotThatUser):
            trust.check_own(chain, "eve", ANN.signing, ours, WALL)
        with pytest.raises(NotThatUser):
            trust.check_own(chain, "ann", EVE.signing, ours, WALL)
        with pytest.raises(TrustError, match="another TLS key"):
            trust.check_own(chain, "ann", ANN.signing, bytes(32), WALL)
        with pytest.raises(TrustError, match="empty chain"):
            trust.check_own((), "ann", ANN.signing, ours, WALL)

    def test_and_that_of_an_authority_need_no_head(self, desk):
        chain = certified(desk)
        assert new_trust().check_certificate(chain[0], WALL, chain[1:]).user == "ann"


class TestFreshness:
    def test_without_any_head_nothing_is_fresh(self, desk):
        trust = new_trust()
        trust.learn([ISSUER.authority.certificate])
        with pytest.raises(StaleHead, match="no head of the realm was ever seen"):
            trust.check_leaf(certified(desk)[0], WALL)

    def test_grace_goes_on_for_a_while(self, desk):
        trust = refreshed(desk)
        chain = certified(desk)
        trust.check_leaf(chain[0], WALL + 3900)
        assert trust.overdue(WALL + 300) == 0
        assert trust.overdue(WALL + 3900) == 3600
        with pytest.raises(StaleHead, match=r"3901 s old, and the limit is 3900 s \(max_staleness 300, grace\)"):
            trust.check_leaf(chain[0], WALL + 3901)

    def test_strict_refuses(self, desk):
        trust = refreshed(desk, new_trust(TrustSettings(when_stale="strict")))
        chain = certified(desk)
        trust.check_leaf(chain[0], WALL + 300)
        with pytest.raises(StaleHead, match=r"the limit is 300 s \(max_staleness 300, strict\)"):
            trust.check_leaf(chain[0], WALL + 301)

    def test_a_clock_that_is_behind(self, desk):
        trust = refreshed(desk)
        with pytest.raises(StaleHead, match="this machine's clock is behind"):
            trust.check_fresh(WALL - 61)


class TestState:
    def test_is_what_is_needed(self, desk):
        certified(desk)
        desk.submit(kit.change(ANN, Person("ann", 2), desk.get("ann").latest))
        trust = refreshed(desk)
        again = new_trust(state=trust.state())
        assert state_of(again) == state_of(trust)
        assert again._revoked == trust._revoked
        assert again.authorities() == trust.authorities()

    @pytest.mark.parametrize("damage", [b"", b"junk", b"\x90"])
    def test_damaged(self, damage):
        with pytest.raises(TrustError, match="the state kept for the realm 'lab.example' can't be used"):
            new_trust(state=damage)

    def test_with_heads_that_nobody_signed(self, desk):
        from trunkline.authority.truststate import decode_state, encode_state

        trust = refreshed(desk)
        state = decode_state(trust.state(), ADMIN.realm)
        for altered in (
            replace(state, head=replace(state.head, signature=b"0")),
            replace(state, authorities=()),
            replace(state, realm=bytes(32)),
        ):
            with pytest.raises(TrustError):
                new_trust(state=encode_state(altered))


def _as_authority(chain, key):
    """Return what issues in the name of a user's certificate, which the class would refuse."""
    from trunkline.authority.certificates import parse_leaf

    issuer = Issuer.__new__(Issuer)
    leaf = parse_leaf(chain[0])
    issuer.anchor = ISSUER.anchor
    issuer.authority = replace(ISSUER.authority, key_id=leaf.key_id, certificate=chain[0])
    issuer._key = key
    return issuer


def _under_the_name_of(honest, key):
    issuer = Issuer.__new__(Issuer)
    issuer.anchor, issuer.authority, issuer._key = honest.anchor, honest.authority, key
    return issuer
