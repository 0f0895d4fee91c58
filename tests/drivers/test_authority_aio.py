"""The authority served: statements in, proofs out; a start from what is on disk; a death at every point."""

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.drivers.authoritykit import Client, authority
from tests.e2e.process import Process
from tests.realmkit import Realm
from trunkline.authority import requests
from trunkline.authority.certificates import parse_leaf
from trunkline.authority.codec import encode
from trunkline.authority.issuing import build_request
from trunkline.authority.messages import AskHead, AskRoot, Denied, Get, HeadIs, Issued, RootIs, Stored, Submit
from trunkline.authority.statements import APPROVED, TENTATIVE
from trunkline.drivers import authority_server
from trunkline.drivers.authority_aio import AuthorityServer
from trunkline.drivers.keys import generate_p256
from trunkline.drivers.tls import peer_certificate
from trunkline.errors import NameTaken, NotAllowed, StoreFailed


@pytest.fixture(scope="module")
def realm() -> Realm:
    return Realm()


def test_a_user_is_inserted_approved_and_certified(realm: Realm, tmp_path: Path) -> None:
    async def main() -> None:
        async with authority(realm, tmp_path) as server, Client(realm, server.address) as client:
            root = await client.ask(AskRoot(1))
            assert isinstance(root, RootIs)
            assert (root.realm, root.root) == (realm.name, realm.root)
            assert await client.record("ann") is None
            assert await client.insert("ann") == 0
            assert (await client.record("ann")).state == TENTATIVE
            assert await client.approve("ann") == 1
            assert (await client.record("ann")).state == APPROVED
            wish = requests.issue(
                realm.issuer.fingerprint,
                "ann",
                realm.wall,
                build_request(generate_p256(), "ann"),
                realm.key("ann").sign,
            )
            issued = await client.ask(wish)
            assert isinstance(issued, Issued)
            head = await client.ask(AskHead(1, client.trust.size))
            assert isinstance(head, HeadIs)
            client.trust.update_head(head, realm.wall)
            assert client.trust.check_leaf(issued.chain[0], realm.wall).user == "ann"
            about = server.status()
            assert (about.size, about.clients, about.failures) == (2, 1, 0)
            assert about.saves >= 3
            again = await client.ask(Submit(7, requests.insert(*_taken(realm))))
            assert isinstance(again, Denied)
            assert (again.query, again.code) == (7, NameTaken.code)

    asyncio.run(main())


def _taken(realm: Realm) -> tuple[Any, ...]:
    other = realm.key("eve")
    return realm.issuer.fingerprint, "ann", other.public, other.sign


def test_it_shows_a_certificate_of_the_realm_and_takes_no_older_tls(realm: Realm, tmp_path: Path) -> None:
    import ssl

    async def main() -> None:
        async with authority(realm, tmp_path) as server:
            async with Client(realm, server.address) as client:
                inside = client.writer.get_extra_info("ssl_object")
                assert inside.version() == "TLSv1.3"
                leaf = peer_certificate(inside)
                assert leaf is not None
                assert parse_leaf(leaf).user == "authority/main"
            old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(ssl.SSLError):
                await asyncio.open_connection(server.address.host, server.address.port, ssl=old)

    asyncio.run(main())


def test_it_goes_on_from_what_is_on_disk(realm: Realm, tmp_path: Path) -> None:
    async def main() -> None:
        async with authority(realm, tmp_path) as server, Client(realm, server.address) as client:
            for user in ("ann", "ben", "ops/cyd"):
                await client.insert(user)
            seen = client.trust
            await client.record("ann")
        async with authority(realm, tmp_path) as server, Client(realm, server.address) as client:
            client.trust = seen
            assert (await client.record("ben")).index == 1
            await client.approve("ben")
            assert seen.size == 3
            assert (await client.record("ben")).index == 3

    asyncio.run(main())


def test_writes_that_come_together_share_one_save(realm: Realm, tmp_path: Path) -> None:
    async def main() -> None:
        async with authority(realm, tmp_path) as server, contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(realm, server.address)) for _ in range(8)]
            saves = server.status().saves
            for number, client in enumerate(clients):
                key = realm.key(f"u{number}")
                statement = requests.insert(realm.issuer.fingerprint, f"u{number}", key.public, key.sign)
                client.writer.write(encode(Submit(1, statement)) * 3)  # whoever says it again is answered again
            for number, client in enumerate(clients):
                answers = [await client.receive() for _ in range(3)]
                assert len({answer.index for answer in answers if isinstance(answer, Stored)}) == 1, number
            assert server.status().size == 8
            assert server.status().saves - saves < 8

    asyncio.run(main())


class Stumbles(AuthorityServer):
    """Its store fails when it is told to."""

    broken = False
    refuses = False

    def _machine(self, store: Any) -> Any:
        apply = store.apply

        def stumble(batch: Any) -> None:
            if self.broken:
                raise StoreFailed("the disk is full: make room")
            apply(batch)

        store.apply = stumble
        if self.refuses:
            raise NotAllowed("it can't be")
        return super()._machine(store)


def test_a_store_that_fails_ends_nothing_but_what_was_under_way(
    realm: Realm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authority_server, "REOPEN", 0.01)
    monkeypatch.setattr(authority_server, "MAX_REOPEN", 0.02)

    async def main() -> None:
        server = authority(realm, tmp_path, Stumbles)
        server._pause = 0.01
        async with server, Client(realm, server.address) as client:
            await client.insert("ann")
            server.broken = True
            key = realm.key("ben")
            statement = requests.insert(realm.issuer.fingerprint, "ben", key.public, key.sign)
            client.writer.write(encode(Submit(1, statement)))
            await client.is_closed()  # and nothing was acknowledged
            server.broken, server.refuses = False, True
            while server.status().failures < 1 or server._pause < 0.02:
                await asyncio.sleep(0)
            server.refuses = False
            while server._runner is None:
                await asyncio.sleep(0)
            async with Client(realm, server.address) as again:
                assert (await again.record("ann")).index == 0
                assert await again.record("ben") is None
                assert await again.submit(statement) == 1

    asyncio.run(main())


def test_a_bug_that_a_request_brings_out_ends_that_machine_only(
    realm: Realm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Buggy(AuthorityServer):
        def _machine(self, store: Any) -> Any:
            machine = super()._machine(store)
            step = machine.step

            def stepping(event: Any, now: float) -> Any:
                if any(isinstance(each, Get) and each.user == "bug" for _, each in getattr(event, "requests", ())):
                    raise ZeroDivisionError
                return step(event, now)

            monkeypatch.setattr(machine, "step", stepping)
            return machine

    async def main() -> None:
        server = authority(realm, tmp_path, Buggy)
        server._pause = 0.01
        async with server, Client(realm, server.address) as client:
            client.writer.write(encode(Get(1, "bug")))
            await client.is_closed()
            while server._runner is None:
                await asyncio.sleep(0)
            async with Client(realm, server.address) as again:
                assert await again.record("ann") is None

    asyncio.run(main())
    assert "ZeroDivisionError" in caplog.text


def test_a_clock_that_was_set_is_followed(realm: Realm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with authority(realm, tmp_path) as server, Client(realm, server.address) as client:
            await client.insert("ann")
            real = authority_server.epoch()
            for module in ("authority_server", "authority_aio"):
                monkeypatch.setattr(f"trunkline.drivers.{module}.epoch", lambda: real + 1000)
            server._sweep()
            await client.insert("ben")
            head = await client.ask(AskHead(1))
            assert isinstance(head, HeadIs)
            from trunkline.authority.heads import read_head

            assert read_head(head.head).time >= realm.wall + 1000

    asyncio.run(main())


def test_serve_forever_ends_when_it_is_told_to(realm: Realm, tmp_path: Path) -> None:
    async def main() -> None:
        server = authority(realm, tmp_path)
        serving = asyncio.create_task(server.serve_forever(signals=()))
        while not server.bound:
            await asyncio.sleep(0)
        async with Client(realm, server.address) as client:
            await client.insert("ann")
            await server.stop()
            await client.is_closed()
        await serving
        await server.stop()
        assert server.status().size == 0  # it has no store any more

    asyncio.run(main())


@pytest.mark.e2e
@pytest.mark.slow
def test_killed_at_every_point_it_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with Process([sys.executable, "-m", "tests.drivers.mortal", tmp_path], env=environment) as process:
        assert process.wait(110) == 0, process.stderr
        assert "died at 36 points, and lost nothing" in process.stdout
