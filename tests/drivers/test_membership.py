"""One user of one realm: ready without doing anything, fresh again after sleep, and believing nobody too easily."""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import threading
import time

import pytest
from msgspec.structs import replace

from tests.realmkit import LiveAuthority, Realm
from trunkline.authority import keeper
from trunkline.authority.freshness import TrustSettings
from trunkline.authority.keeper import FetchHead, Renew
from trunkline.authority.trust import Trust
from trunkline.drivers.clock import now as clock
from trunkline.drivers.membership import EXPIRING, Membership
from trunkline.errors import (
    BadSignature,
    ClosedError,
    ConfigError,
    ForkedHistory,
    NoAuthority,
    NotAllowed,
    NotThatUser,
    Revoked,
    StaleHead,
    TrustError,
)

DAY = 86_400


@pytest.fixture(scope="module")
def realm():
    return Realm()


@pytest.fixture(scope="module")
def live(realm, tmp_path_factory):
    with LiveAuthority(realm, tmp_path_factory.mktemp("authority")) as authority:
        realm.approve(authority, "ann", "ops/ben")
        yield authority


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Whoever hurries waits for no second that shall keep real authorities from being flooded."""
    monkeypatch.setattr(keeper, "SOON", 0.01)


class Clock:
    """The wall clock of one member."""

    def __init__(self):
        self.ahead = 0.0

    def __call__(self):
        return time.time() + self.ahead


@pytest.fixture
def wall():
    return Clock()


@pytest.fixture
def ann(realm, live, tmp_path, wall):
    with Membership.open(realm.home(tmp_path / "ann", "ann", live.address), wall=wall) as member:
        yield member


@contextlib.contextmanager
def connected(client, server, **options):
    """Yield both ends of a TLS connection between two members."""
    a, b = socket.socketpair()
    for sock in (a, b):
        sock.settimeout(30)
    ends, failures = {}, []

    def serve():
        try:
            ends["server"] = server.tls_server(**options).wrap_socket(b, server_side=True)
            ends["server"].sendall(b"x")
        except OSError as error:
            failures.append(error)
            b.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        ends["client"] = client.tls_client().wrap_socket(a)
        ends["client"].recv(1)
        thread.join()
        yield ends["client"], ends["server"]
    finally:
        a.close()
        thread.join()
        for each in ends.values():
            each.close()


def settle(member, kind, attempts):
    """Wait until so many attempts of a kind are over."""
    with member._renewals.changed:
        assert member._renewals.changed.wait_for(lambda: member._renewals.attempts[kind] >= attempts, 30)


class TestGettingReady:
    def test_is_all_that_a_caller_does(self, realm, ann):
        assert repr(ann) == "Membership('lab.example', 'ann')"
        assert ann.fingerprint == realm.issuer.fingerprint
        ann.ready(30)
        ben = realm.membership("ops/ben")
        with connected(ann, ben) as (here, there):
            assert ann.identify(here).user == "ops/ben"
            identity = ben.identify(there)
            assert (identity.user, identity.public_key) == ("ann", ann.key.public.signing)
        assert ann.get("ops/ben").user == "ops/ben"
        assert ann.get("nobody") is None

    def test_takes_no_time_once_it_is(self, ann):
        ann.ready(30)
        before = dict(ann._renewals.attempts)
        ann.ready(0)
        asyncio.run(ann.ready_async())
        assert ann._renewals.attempts == before
        assert clock() < ann.next_deadline() < clock() + 101

    def test_without_blocking_the_loop(self, ann):
        async def main():
            turns = 0

            async def count():
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            counting = asyncio.create_task(count())
            await ann.ready_async()
            counting.cancel()
            return turns

        assert asyncio.run(main()) > 5

    def test_may_be_cancelled(self, ann):
        async def main():
            waiting = asyncio.create_task(ann.ready_async())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert ann._renewals._callbacks == set()
            await ann.ready_async()

        asyncio.run(main())

    def test_many_threads_wait_for_one_attempt(self, ann):
        threads = [threading.Thread(target=ann.ready, args=(30,)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ann._renewals.attempts == {FetchHead: 1, Renew: 1}

    def test_who_is_not_in_the_directory(self, realm, live, tmp_path):
        home = realm.home(tmp_path / "eve", "eve", live.address)
        with Membership.open(home) as eve:
            with pytest.raises(NotAllowed, match="not in the directory"):
                eve.ready(30)
            with pytest.raises(NotAllowed):
                asyncio.run(eve.ready_async())
            with pytest.raises(TrustError, match="there is no certificate for 'eve'"):
                eve.tls_client()

    def test_who_is_tentative_and_then_approved(self, realm, live, tmp_path):
        directory = realm.directory(live.address)
        directory.insert_key("new", realm.key("new"))
        with Membership.open(realm.home(tmp_path / "new", "new", live.address)) as new:
            with pytest.raises(NotAllowed, match="approved"):
                new.ready(30)
            directory.approve_key(directory.existing("new"), realm.administrator)
            new.ready(30)

    def test_with_nobody_to_ask(self, realm, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
        with Membership.open(realm.home(tmp_path / "one", "ann", address)) as ann:
            with pytest.raises(NoAuthority, match="Connection refused"):
                ann.ready()
            with pytest.raises(NoAuthority, match="Connection refused"):
                asyncio.run(ann.ready_async())
            with pytest.raises(StaleHead, match="no head of the realm"):
                ann.head()
        with Membership.open(realm.home(tmp_path / "two", "ann")) as ann:
            with pytest.raises(StaleHead):
                ann.ready()
            with pytest.raises(NoAuthority, match="no authority is known"):
                ann.get("ops/ben")
            assert ann.next_deadline() is None
            ann.tick()

    def test_with_a_deaf_authority_within_a_time(self, realm, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            address = f"127.0.0.1:{deaf.getsockname()[1]}"
            with Membership.open(realm.home(tmp_path / "one", "ann", address)) as ann:
                with pytest.raises(NoAuthority, match=r"no answer within 0.05 s"):
                    ann.ready(0.05)

    def test_of_who_only_verifies(self, realm, live, tmp_path):
        with Membership.open(realm.home(tmp_path / "watch", "", live.address)) as watch:
            watch.ready(30)
            assert watch.user is None
            assert watch._renewals.attempts == {FetchHead: 1, Renew: 0}
            with pytest.raises(NotAllowed, match="is no user of 'lab.example'"):
                _ = watch.key
            from trunkline.authority import requests

            key = realm.key("hal")
            assert watch.submit(requests.insert(watch.fingerprint, "hal", key.public, key.sign)) > 0
            with pytest.raises(NotAllowed, match="nobody can dial it"):
                watch.tls_server()
            with connected(watch, realm.membership("ops/ben"), required=False) as (here, there):
                assert watch.identify(here).user == "ops/ben"
                with pytest.raises(NotThatUser, match="has shown no certificate"):
                    realm.membership("ops/ben").identify(there)


class TestOverRestarts:
    def test_certificate_and_head_are_kept(self, realm, live, tmp_path):
        home = realm.home(tmp_path / "ann", "ann", live.address)
        with Membership.open(home) as first:
            first.ready(30)
            chain, head = first._credential.chain, first.head()
        with Membership.open(home) as second:
            second.ready(0)
            assert second._credential.chain == chain
            assert second.head() == head
            assert second._renewals.attempts == {FetchHead: 0, Renew: 0}

    def test_a_head_that_others_of_this_home_have_kept_does_not_stand_for_a_certificate(self, realm, live, tmp_path):
        home = realm.home(tmp_path / "ann", "ann", live.address)
        realm.directory(live.address, trust=(trust := Trust(realm.name, realm.root))).refresh()
        kept = trust.state()
        assert kept is not None
        home.keep_state(kept)
        with Membership.open(home) as member:
            member.ready(20)
            assert member.expires is not None

    def test_an_old_head_is_not_taken_again(self, realm, live, tmp_path):
        home = realm.home(tmp_path / "ann", "ann", live.address)
        with Membership.open(home) as first:
            first.ready(30)
            size = first._trust.size
        with Membership.open(home) as second:
            old = realm.head_is(realm.signed_head(size=size - 1, time=realm.wall - 1000))
            with pytest.raises(StaleHead, match="rolled back"):
                second._trust.update_head(old, time.time())

    def test_evidence_of_two_histories_is_kept_until_a_person_has_looked(self, realm, live, tmp_path, caplog):
        home = realm.home(tmp_path / "ann", "ann", live.address)
        with Membership.open(home) as first:
            first.ready(30)
            ours = first._trust.head
            lie = realm.signed_head(size=ours.size, time=ours.time)
            with pytest.raises(ForkedHistory, match="two different states"):
                first.compare(lie)
            with pytest.raises(ForkedHistory):
                first.ready(0)
            with pytest.raises(ForkedHistory):
                asyncio.run(first.ready_async())
        assert home.load_evidence()
        assert "the evidence is kept in" in caplog.text
        with Membership.open(home) as second:
            with pytest.raises(ForkedHistory, match="until a person has looked"):
                second.ready(30)
        home.evidence_path.unlink()
        with Membership.open(home) as third:
            third.ready(30)

    def test_another_processs_certificate_is_used(self, realm, live, tmp_path):
        home = realm.home(tmp_path / "ann", "ann", live.address)
        with Membership.open(home) as first, Membership.open(home) as second:
            first.ready(30)
            second.ready(30)
            assert second._credential.chain == first._credential.chain

    def test_a_kept_certificate_that_is_no_good_is_replaced(self, realm, live, tmp_path):
        home = realm.home(tmp_path / "ann", "ann", live.address)
        home.keep_credential("ann", realm.credential("ops/ben"))
        with Membership.open(home) as ann:
            ann.ready(30)
            assert ann._identity.user == "ann"

    def test_files_that_others_can_read_are_refused(self, realm, live, tmp_path):
        home = realm.home(tmp_path / "ann", "ann", live.address)
        with Membership.open(home) as ann:
            ann.ready(30)
        for path in (home.key_path("ann"), home.state_path(), home.state_path("ann")):
            path.chmod(0o644)
            with pytest.raises(ConfigError, match=f"run `chmod 600 {path}`"):
                Membership.open(home)
            path.chmod(0o600)


class TestInTime:
    def test_a_head_is_fetched_in_the_background(self, ann):
        ann.ready(30)
        ann._renewals.hurry(head=True)
        ann._renewals._keeper._head.due = clock()
        ann._renewals.due = clock()
        ann.head()
        settle(ann, FetchHead, 2)
        assert ann.next_deadline() > clock()

    def test_a_certificate_is_renewed_in_the_background_and_contexts_with_it(self, ann):
        ann.ready(30)
        ann._home = None  # or it would find the one that it has just written
        context, server = ann.tls_client(), ann.tls_server()
        chain = ann._credential.chain
        assert ann.tls_client() is context
        assert ann.tls_server() is server
        assert ann.tls_server(required=False) is not server
        ann._renewals.hurry(certificate=True)
        ann._renewals._keeper._certificate.due = clock()
        ann._renewals.due = clock()
        ann.tick()
        settle(ann, Renew, 2)
        assert ann._credential.chain != chain
        assert ann.tls_client() is not context

    def test_whoever_slept_past_the_end_of_the_certificate_comes_back(self, realm, live, tmp_path, wall):
        """The lid was shut for two days: certificate and head are old, and the first call mends both."""
        home = realm.home(tmp_path / "ann", "ann", live.address)
        wall.ahead = -2 * DAY
        past = realm.credential("ann", not_before=realm.wall - 3 * DAY, not_after=realm.wall - DAY)
        trust = realm.trust(head=realm.signed_head(time=realm.wall - 2 * DAY))
        from trunkline.names import Address

        with Membership(
            trust,
            "ann",
            realm.key("ann"),
            credential=past,
            addresses=[Address.parse(live.address)],
            home=home,
            wall=wall,
        ) as ann:
            assert ann._identity is not None
            wall.ahead = 0
            with pytest.raises(TrustError, match="'ann' has expired"):
                ann.tls_client()
            ann.ready(30)
            ann.tls_client()
            assert ann._identity.not_after > time.time() + DAY / 2
            assert abs(ann._trust.refreshed - time.time()) < 120

    def test_what_expires_within_a_handshake_is_not_shown(self, realm):
        ann = realm.membership("ann", credential=realm.credential("ann", not_after=int(time.time()) + EXPIRING - 1))
        with pytest.raises(TrustError, match="has expired"):
            ann.tls_server()
        with pytest.raises(TrustError, match="has expired"):
            ann.ready()

    def test_a_key_that_was_changed_elsewhere_ends_it(self, realm, live, tmp_path):
        from trunkline.drivers.keys import UserKey

        realm.approve(live, "moved")
        with Membership.open(realm.home(tmp_path / "moved", "moved", live.address)) as moved:
            moved.ready(30)
            directory = realm.directory(live.address)
            directory.change_key("moved", realm.key("moved"), UserKey.generate())
            moved.directory.refresh()
            with pytest.raises(Revoked):
                moved.tls_client()
            with pytest.raises(BadSignature, match="not signed by the key of 'moved'"):
                moved.ready(30)


class TestStaleness:
    def test_grace_tries_then_warns_once_and_goes_on(self, realm, tmp_path, caplog):
        wall = Clock()
        with LiveAuthority(realm, tmp_path) as short:
            realm.approve(short, "ann")
            home = realm.home(tmp_path / "ann", "ann", short.address)
            member = Membership.open(home, wall=wall)
            member.ready(30)
        with member:
            wall.ahead = 400
            with caplog.at_level(logging.WARNING):
                member.ready(30)
                member.ready(30)
                with connected(member, realm.membership("ops/ben")) as (here, _):
                    member.identify(here)
            assert caplog.text.count("going on without knowing what was revoked") == 1
            assert member._renewals.attempts[FetchHead] == 2
            wall.ahead = 4000
            with pytest.raises(NoAuthority):
                member.ready(30)

    def test_a_newer_head_that_is_old_by_our_clock_is_asked_for_once(self, ann, wall):
        ann.ready(30)
        wall.ahead = 400
        ann.ready(30)
        assert ann._renewals.attempts[FetchHead] == 2

    def test_strict_refuses(self, realm):
        settings = TrustSettings(when_stale="strict")
        wall = Clock()
        ann = Membership(realm.trust(settings), "ann", realm.key("ann"), credential=realm.credential("ann"), wall=wall)
        ben = realm.membership("ops/ben")
        with connected(ben, ann) as (_, there):
            ann.identify(there)
            wall.ahead = realm.wall + 301 - time.time() + 1
            with pytest.raises(StaleHead, match="strict"):
                ann.identify(there)
        with pytest.raises(StaleHead):
            ann.ready()


class TestWhoIsBelieved:
    def test_only_whom_was_asked_for(self, realm):
        ann, ben, eve = (realm.membership(user) for user in ("ann", "ops/ben", "eve"))
        with connected(ann, eve) as (here, _):
            identity = ann.identify(here)
            with pytest.raises(NotThatUser, match="proved to be 'eve', and 'ops/ben' was asked for"):
                ann.expect(identity, "ops/ben")
            ann.expect(identity, "eve")
        with connected(ann, ben) as (here, _):
            ann.expect(ann.identify(here), "ops/ben")

    def test_a_revoked_certificate_on_a_connection_that_stands(self, realm):
        ann, ben = realm.membership("ann"), realm.membership("ops/ben")
        with connected(ann, ben) as (here, _):
            serial = ann.identify(here).serial
            answer = replace(realm.head_is(realm.signed_head(time=realm.wall + 1, revoked=[serial])), revoked=(serial,))
            ann._trust.update_head(answer, time.time())
            with pytest.raises(Revoked, match="'ops/ben' was revoked"):
                ann.identify(here)

    @pytest.mark.parametrize("forged", ["expired", "not yet valid", "wrong realm"])
    def test_bad_certificates_fail_in_the_handshake(self, realm, forged):
        wall = realm.wall
        eve = {
            "expired": lambda: realm.credential("eve", not_before=wall - 900, not_after=wall - 600),
            "not yet valid": lambda: realm.credential("eve", not_before=wall + 600, not_after=wall + 900),
            "wrong realm": lambda: Realm("other.example").credential("eve"),
        }[forged]()
        from trunkline.drivers.tls import server_context

        a, b = socket.socketpair()
        server = server_context(realm.root, eve)
        thread = threading.Thread(target=lambda: _quietly(server, b))
        thread.start()
        with pytest.raises(ssl.SSLCertVerificationError):
            realm.membership("ann").tls_client().wrap_socket(a)
        a.close()
        thread.join()

    def test_heads_of_peers_are_compared(self, realm):
        ann, ben = realm.membership("ann"), realm.membership("ops/ben")
        ann.compare(ben.head())
        with pytest.raises(ForkedHistory):
            ann.compare(realm.signed_head(map_root=b"\1" * 32))
        with pytest.raises(ForkedHistory):
            ann.compare(ben.head())

    def test_a_newer_head_of_a_peer_has_ours_fetched(self, realm, live, tmp_path, ann):
        ann.ready(30)
        realm.approve(live, "zoe")
        with Membership.open(realm.home(tmp_path / "ben", "ops/ben", live.address)) as ben:
            ben.ready(30)
            ann._renewals._keeper._head.asked = 0.0
            ann.compare(ben.head())
            settle(ann, FetchHead, 2)
            assert ann._trust.size == ben._trust.size
            assert not ann._trust.puzzled


def _quietly(context, sock):
    with sock, contextlib.suppress(OSError):
        context.wrap_socket(sock, server_side=True).close()


class TestTheEnd:
    def test_after_closing_nothing_is_done(self, realm, live, tmp_path):
        member = Membership.open(realm.home(tmp_path / "ann", "ann", live.address))
        member.ready(30)
        member.close()
        member.close()
        for call in (member.ready, member.tls_client, member.tls_server, lambda: member.get("ann")):
            with pytest.raises(ClosedError):
                call()
        assert not [each for each in threading.enumerate() if each.name == "trunkline-renewals"]

    def test_closing_wakes_who_waits(self, realm, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            address = f"127.0.0.1:{deaf.getsockname()[1]}"
            member = Membership.open(realm.home(tmp_path / "ann", "ann", address))
            failures = []

            def wait():
                try:
                    member.ready(60)
                except (ClosedError, NoAuthority) as error:
                    failures.append(error)

            thread = threading.Thread(target=wait)
            thread.start()
            with deaf.accept()[0]:
                member.close()
            thread.join()
            assert len(failures) == 1

    def test_the_child_of_a_fork_goes_on(self, ann):
        ann.ready(30)
        with ann._lock, ann._renewals.changed:
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    ann.ready(30)
                    ann._renewals._keeper._head.asked = 0.0
                    ann._renewals.hurry(head=True)
                    settle(ann, FetchHead, 1)
                    os.write(write, b"good")
                finally:
                    os._exit(0)
        os.close(write)
        assert os.read(read, 4) == b"good"
        os.close(read)
        os.waitpid(child, 0)

    def test_nothing_secret_is_shown(self, ann, realm, caplog):
        ann.ready(30)
        shown = f"{ann!r} {ann} {ann._credential!r} {ann.key!r} {ann._renewals!r} {ann._trust!r}" + caplog.text
        key = ann._credential.key.private_numbers().private_value
        for secret in (f"{key:x}", str(key), ann.key._signing.private_bytes_raw().hex()):
            assert secret not in shown
        assert "PRIVATE KEY" not in shown
