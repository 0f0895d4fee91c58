"""Certificates that end or are revoked while their connections are open: noticed, said, closed."""

import asyncio
import logging

import pytest

from tests.drivers.aiokit import Raw, run, until
from tests.drivers.test_servers_tls import aio_client, secured, serial_of
from tests.realmkit import Realm
from trunkline.authority.freshness import TrustSettings
from trunkline.authority.merkle import EMPTY_ROOT
from trunkline.drivers import rechecks_aio
from trunkline.drivers.membership import Membership
from trunkline.drivers.rechecks_aio import Rechecks
from trunkline.drivers.server_aio import SwitchboardServer
from trunkline.errors import Revoked
from trunkline.wire.messages import AskStatus, Goodbye, ServerStatus

DAY = 86400


class Clock:
    """The wall clock of a test, ahead of the real one."""

    def __init__(self, realm: Realm) -> None:
        self.now = float(realm.wall)

    def __call__(self) -> float:
        return self.now


def member(realm: Realm, user: str, clock: Clock) -> Membership:
    patient = TrustSettings(max_staleness=30 * DAY)
    trust = realm.trust(patient, head=realm.signed_head(log=EMPTY_ROOT))
    return Membership(trust, user, realm.key(user), credential=realm.credential(user), wall=clock)


def tell_of_revocations(realm: Realm, member: Membership) -> None:
    """Give the member the head that a realm's authority signs after it has revoked something."""
    later = realm.wall + 1
    member._trust.update_head(realm.head_is(realm.signed_head(log=EMPTY_ROOT, time=later)), later)


def rechecks(server: SwitchboardServer, clock: Clock) -> Rechecks:
    made = server._rechecks
    assert made is not None
    made._wall = clock
    return made


def test_who_was_revoked_is_told_and_closed_and_the_others_stay(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trunkline")
    realm = Realm("lab.example")
    clock = Clock(realm)
    ours = member(realm, "switchboard/a", clock)
    bad = realm.credential("eve")
    eve = Membership(realm.trust(), "eve", realm.key("eve"), credential=bad)

    async def main() -> None:
        async with secured(member=ours, realm=realm) as s:
            looks = rechecks(s, clock)
            raws = [
                await Raw.hello(s.address, each.tls_client())
                for each in (realm.membership("ann"), eve, realm.membership(None))
            ]
            looks.look()
            await asyncio.sleep(0)
            assert s.status().clients == 3
            realm.revoked.append(serial_of(bad.chain[0]))
            tell_of_revocations(realm, ours)
            looks.look()
            goodbye = await raws[1].receive()
            assert isinstance(goodbye, Goodbye)
            assert goodbye.code == Revoked.code
            assert await raws[1].receive() is None
            assert s.status().clients == 2
            for raw in (raws[0], raws[2]):
                raw.send(AskStatus(1))
                assert isinstance(await raw.receive(), ServerStatus)
            for raw in raws:
                await raw.close()

    run(main)
    assert "closing the connection of" in caplog.text


def test_a_certificate_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    realm = Realm("lab.example")
    clock = Clock(realm)
    ours = member(realm, "switchboard/a", clock)
    monkeypatch.setattr(rechecks_aio, "AT_ONCE", 1)

    async def main() -> None:
        async with secured(member=ours, realm=realm) as s:
            looks = rechecks(s, clock)
            raws = [await Raw.hello(s.address, realm.membership(user).tls_client()) for user in ("ann", "ben")]
            clock.now += DAY - 1
            looks.look()
            await asyncio.sleep(0)
            assert s.status().clients == 2
            clock.now += 2  # it has ended, but clocks may differ a little: it is looked at again
            looks.look()
            await asyncio.sleep(0)
            assert s.status().clients == 2
            clock.now += 120
            looks.look()
            for raw in raws:
                goodbye = await raw.receive()
                assert isinstance(goodbye, Goodbye)
                assert "expired" in goodbye.text
                await raw.close()
            await until(lambda: not s.status().clients)
            clock.now += DAY
            looks.look()
            assert not looks._ends

    run(main)


def test_no_news_is_no_revocation() -> None:
    """The authority can't be reached: who comes now is turned away, who was judged before stays."""
    realm = Realm("lab.example")
    clock = Clock(realm)
    strict = realm.trust(TrustSettings(max_staleness=300, when_stale="strict"))
    user = "switchboard/a"
    ours = Membership(strict, user, realm.key(user), credential=realm.credential(user), wall=clock)

    async def main() -> None:
        async with secured(member=ours, realm=realm) as s:
            looks = rechecks(s, clock)
            ann = await Raw.hello(s.address, realm.membership("ann").tls_client())
            clock.now += 1000
            looks._due = 0.0
            looks.look()
            await asyncio.sleep(0)
            ann.send(AskStatus(1))
            assert isinstance(await ann.receive(), ServerStatus)
            ben = await Raw.dial(s.address, realm.membership("ben").tls_client())
            assert isinstance(await ben.receive(), Goodbye)
            for raw in (ann, ben):
                await raw.close()

    run(main)


def test_a_client_leaves_a_server_whose_certificate_was_revoked(caplog: pytest.LogCaptureFixture) -> None:
    realm = Realm("lab.example")
    bad = realm.credential("switchboard/a")
    server_of = realm.membership("switchboard/a", credential=bad)
    ann = member(realm, "ann", Clock(realm))

    async def main() -> None:
        async with secured(member=server_of, realm=realm) as s:
            c = aio_client(ann, s.address)
            await c.ask(AskStatus, 30)
            realm.revoked.append(serial_of(bad.chain[0]))
            tell_of_revocations(realm, ann)
            assert c._rechecks is not None
            c._rechecks.look()
            await until(lambda: not s.status().clients)
            c.close()

    run(main)
    assert "leaving the server" in caplog.text


def test_the_memberships_clockwork_is_wound() -> None:
    class Due:
        ticks = 0

        def next_deadline(self) -> float:
            return 0.0

        def tick(self) -> None:
            self.ticks += 1

        def head(self) -> object:
            return Realm("lab.example").signed_head()

    async def main() -> None:
        due = Due()
        looks = Rechecks(asyncio.get_running_loop(), due, {}, lambda channel, error: None)  # type: ignore[arg-type]
        looks.look()
        assert due.ticks == 1
        looks.close()

    run(main)
