"""The directory over the network: the whole life of an entry with a real authority, and what a lying one achieves."""

import threading

import pytest
from msgspec.structs import replace

from tests.authority import kit
from tests.authority.kit import Desk
from tests.realmkit import LiveAuthority, Realm, ScriptedAuthority
from trunkline.authority.messages import AskHead, Found, Get
from trunkline.authority.rules import read_statement
from trunkline.authority.statements import APPROVED, DELETED, TENTATIVE
from trunkline.authority.trust import Trust
from trunkline.drivers.keys import UserKey
from trunkline.errors import (
    BadProof,
    BadSignature,
    ForkedHistory,
    InvalidUser,
    NameTaken,
    NoAuthority,
    NotAllowed,
    StaleHead,
)


@pytest.fixture(scope="module")
def realm():
    return Realm()


@pytest.fixture(scope="module")
def live(realm, tmp_path_factory):
    with LiveAuthority(realm, tmp_path_factory.mktemp("authority")) as authority:
        realm.approve(authority, "ann", "ops/ben")
        yield authority


@pytest.fixture
def directory(realm, live):
    return realm.directory(live.address)


class TestEntries:
    def test_are_looked_up(self, realm, directory):
        assert directory.realm == realm.issuer.fingerprint
        record = directory.get_key("ann", requester="ops/ben")
        assert (record.state, record.keys) == (APPROVED, realm.key("ann").public)
        assert directory.get_key("nobody") is None
        assert directory.existing("ann") == record
        with pytest.raises(NotAllowed, match="'nobody' is not in the directory"):
            directory.existing("nobody")
        with pytest.raises(InvalidUser):
            directory.get_key("../x")

    def test_are_listed(self, directory):
        assert [each.user for each in directory.list_keys()][:2] == ["ann", "ops/ben"]
        assert [each.user for each in directory.list_keys("ops")] == ["ops/ben"]
        assert list(directory.list_keys("nobody", TENTATIVE)) == []

    def test_have_a_life_and_a_history(self, realm, directory):
        key, new = UserKey.generate(), UserKey.generate()
        first = directory.insert_key("cid", key, requester="the help desk")
        assert directory.insert_key("cid", key) == first  # said again: the answer was lost
        record = directory.existing("cid")
        assert (record.state, record.requester) == (TENTATIVE, "the help desk")
        with pytest.raises(NameTaken, match="trunkline key change"):
            directory.insert_key("cid", new)
        directory.approve_key(record, realm.administrator)
        assert directory.existing("cid").state == APPROVED
        changed = directory.change_key("cid", key, new)
        assert directory.change_key("cid", key, new) == changed
        assert directory.existing("cid").keys == new.public
        directory.delete_key("cid", new.sign, "left")
        with pytest.raises(NotAllowed, match="was deleted"):
            directory.existing("cid")
        directory.insert_key("cid", key)
        directory.delete_key("cid", realm.administrator)
        assert directory.get_key("cid").state == DELETED
        kinds = [read_statement(signed) for _, signed in directory.history("cid")]
        assert [type(each).__name__ for each in kinds] == ["Insert", "Approve", "Change", "Delete", "Insert", "Delete"]
        assert directory.history("nobody") == []

    def test_are_approved_by_the_administrator_alone(self, realm, directory):
        directory.insert_key("dan", realm.key("dan"))
        with pytest.raises(BadSignature, match="not signed by the realm's administrator"):
            directory.approve_key(directory.existing("dan"), realm.key("ann").sign)

    def test_are_changed_with_the_old_key_alone(self, realm, directory):
        thief = UserKey.generate()
        with pytest.raises(BadSignature, match="the key that is there"):
            directory.change_key("ann", thief, thief)


class TestRefreshing:
    def test_takes_the_newest_head(self, realm, live):
        trust = Trust(realm.name, realm.root)
        directory = realm.directory(live.address, trust=trust)
        assert directory.refresh() == trust.refreshed
        assert trust.size > 0
        directory.refresh()

    def test_connects_the_heads_that_peers_have_shown(self, realm, live):
        trust, peer = Trust(realm.name, realm.root), Trust(realm.name, realm.root)
        directory = realm.directory(live.address, trust=trust)
        realm.directory(live.address, trust=peer).refresh()
        realm.approve(live, "fay")
        directory.refresh()
        trust.compare(peer.signed_head, realm.wall)
        assert len(trust.pending) == 1
        directory.refresh()
        assert trust.pending == ()

    def test_from_several_threads_at_once_accuses_nobody(self, realm, live):
        """Answers that cross are for questions out of date: they are asked again, and no proof seems false."""
        trust = Trust(realm.name, realm.root)
        directory = realm.directory(live.address, trust=trust)
        failures = []

        def work(number):
            try:
                for turn in range(2):
                    realm.approve(live, f"crowd/{number}-{turn}")
                    directory.get_key(f"crowd/{number}-{turn}")
                    directory.refresh()
            except StaleHead:
                pass  # always outrun: rare, and said
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert trust.evidence == ()

    def test_tells_who_keeps_what_was_learnt(self, realm, live):
        learnt = []
        directory = realm.directory(live.address)
        directory._learnt = lambda: learnt.append(1)
        directory.get_key("ann")
        assert learnt


class TestReplicasThatLie:
    """A replica has a directory of its own in memory, and shows what the test makes of it."""

    @pytest.fixture
    def desk(self):
        made = Desk()
        made.add(kit.Person("ann"))
        return made

    def ask(self, desk, spoil, user="ann", *, first_hand=False, before=None):
        """Look up ``user`` with one that alters its answers; return what was believed."""
        trust = Trust(kit.REALM, kit.ADMIN.root)
        trust.learn([kit.ISSUER.authority.certificate])
        if before is not None:
            before(trust)
        from trunkline.drivers.directory_client import DirectoryClient
        from trunkline.drivers.tls import Credential
        from trunkline.names import Address

        class InTheDesksRealm:
            root = kit.ADMIN.root

        shown = Credential(leaf_of(first_hand), kit.p256(7))
        with ScriptedAuthority(InTheDesksRealm, shown, lambda request: spoil(desk, request)) as replica:
            client = DirectoryClient(trust, [Address.parse(replica.address)], lambda: kit.WALL + desk.now)
            _accept_any_date(client._client)
            return client.get_key(user), trust

    def test_honest_ones_are_believed(self, desk):
        record, _ = self.ask(desk, honest)
        assert record.user == "ann"

    def test_heads_of_a_new_authority_are_fetched_with_its_certificate(self):
        newer = kit.ADMIN.issuer(2)
        told = (newer.authority.certificate, kit.ISSUER.authority.certificate)
        renewed = Desk(config=replace(kit.config(), authorities=told), issuer=newer)
        renewed.add(kit.Person("ann"))
        record, trust = self.ask(renewed, honest)
        assert record.user == "ann"
        assert trust.knows(trust.signed_head)

    def test_altering_a_record(self, desk):
        def spoil(desk, request):
            answer = honest(desk, request)
            if isinstance(answer, Found):
                eve = kit.Person("ann", 6)
                answer = replace(answer, record=replace(answer.record, keys=eve.keys))
            return answer

        with pytest.raises(BadProof, match="does not fit the signed head"):
            self.ask(desk, spoil)

    def test_hiding_a_user(self, desk):
        def spoil(desk, request):
            answer = honest(desk, request)
            return replace(answer, record=None, statement=None) if isinstance(answer, Found) else answer

        with pytest.raises(BadProof, match="nobody has that name"):
            self.ask(desk, spoil)

    def test_hiding_a_change_from_who_has_seen_more(self, desk):
        old = desk.store.copy()
        desk.now = 10
        desk.submit(kit.change(kit.Person("ann"), kit.Person("ann", 2), desk.get("ann").latest))
        behind = Desk(old, now=1.0)

        def seen(trust):
            trust.update_head(desk.ask(AskHead(0)), kit.WALL + 10)

        with pytest.raises(StaleHead, match="rolled back"):
            self.ask(behind, honest, before=seen)

    def test_a_replica_that_is_too_far_behind(self, desk):
        answer = [honest(desk, Get(0, "ann")), honest(desk, AskHead(0))]
        desk.now = 4000

        def late(_, request):
            return replace(answer[isinstance(request, AskHead)], query=request.query)

        with pytest.raises(StaleHead, match="4000 s old, and the limit is 3900 s"):
            self.ask(desk, late)

    def test_two_histories_by_the_authority_itself(self, desk):
        other = Desk(desk.store.copy(), now=1.0)
        desk.add(kit.Person("ben"))
        for name in ("eve", "mallory"):
            other.add(kit.Person(name))

        def seen(trust):
            trust.update_head(desk.ask(AskHead(0)), kit.WALL)

        with pytest.raises(BadProof):  # a replica may have made that up
            self.ask(other, honest, before=seen)
        with pytest.raises(ForkedHistory):
            self.ask(other, honest, before=seen, first_hand=True)


def honest(desk, request):
    return replace(desk.ask(request), query=request.query)


def leaf_of(first_hand):
    user = "authority/main" if first_hand else "ben"
    request = kit.build_request(kit.p256(7), user)
    return kit.ISSUER.issue(user, bytes(32), request, bytes(15) + b"\5", kit.WALL - 300, kit.WALL + kit.DAY)


def _accept_any_date(client):
    """The desk lives in 2027, and libssl in the present; `Trust` checks the dates by the desk's clock."""
    import ssl

    client._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client._context.check_hostname = False
    client._context.verify_mode = ssl.CERT_NONE


class TestNobodyThere:
    def test_is_said(self, realm):
        with pytest.raises(NoAuthority, match="no authority is known"):
            realm.directory().refresh()

    def test_after_closing(self, realm, live):
        directory = realm.directory(live.address)
        assert directory.addresses
        directory.close()
        from trunkline.errors import ClosedError

        with pytest.raises(ClosedError):
            directory.refresh()


def test_always_outrun_is_said(realm, live):
    trust = Trust(realm.name, realm.root)
    directory = realm.directory(live.address, trust=trust)
    directory.refresh()
    real = directory._client.ask

    def outrun(requests, take, timeout):
        trust._newest = replace(trust._newest, head=replace(trust._newest.head, size=trust.size - 1))
        return real(requests, take, timeout)

    directory._client.ask = outrun
    with pytest.raises(StaleHead, match="ask again"):
        directory.get_key("ann")


def test_a_history_with_a_gap(realm):
    from trunkline.authority.messages import Statements

    person = kit.Person("ann")
    first = kit.insert(person)
    second = kit.approve(person, kit.leaf(first))

    def said(request):
        return Statements(request.query, ((1, second),), more=False, size=2)

    with ScriptedAuthority(realm, realm.credential("ben"), said) as replica:
        with pytest.raises(BadProof, match="has a gap before statement 1"):
            realm.directory(replica.address).history("ann")


def test_what_is_submitted_again_is_stored_once(realm, live):
    from trunkline.authority import requests

    directory = realm.directory(live.address)
    key = realm.key("gus")
    signed = requests.insert(directory.realm, "gus", key.public, key.sign)
    assert directory.submit(signed) == directory.submit(signed)
