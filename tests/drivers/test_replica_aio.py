"""Replicas end to end: they follow, go on alone, and neither can lie nor be lied to."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.drivers.authoritykit import HERE, PATIENCE, Client, authority, opening
from tests.realmkit import Realm
from trunkline.authority import requests
from trunkline.authority.certificates import parse_leaf
from trunkline.authority.codec import encode
from trunkline.authority.events import DirectoryConfig, Effect, Send
from trunkline.authority.messages import Denied, Found, Statements, Stored, Submit
from trunkline.authority.statements import APPROVED
from trunkline.drivers import replica_aio
from trunkline.drivers.authority_aio import AuthorityServer
from trunkline.drivers.replica_aio import ReplicaServer
from trunkline.drivers.tls import Credential, peer_certificate
from trunkline.errors import NotWritable, TrustError
from trunkline.names import Address

USER = "ops/replica"


@pytest.fixture(scope="module")
def realm() -> Realm:
    return Realm()


def replica(
    realm: Realm, folder: Path, upstream: Address, kind: type[ReplicaServer] = ReplicaServer, **options: Any
) -> ReplicaServer:
    return kind(
        realm.root,
        opening(realm, folder / "replica.sqlite"),
        upstream,
        USER,
        realm.key(USER),
        evidence=folder,
        listen=[HERE],
        config=DirectoryConfig(realm.root, (), 0.0, poll=0.02),
        **options,
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


async def fill(client: Client, *users: str) -> None:
    for user in (USER, *users):
        if await client.record(user) is None:
            await client.insert(user)
            await client.approve(user)


def test_a_replica_follows_and_goes_on_alone(realm: Realm, tmp_path: Path) -> None:
    kept: list[Credential] = []

    async def main() -> None:
        async with authority(realm, tmp_path / "a") as first, Client(realm, first.address) as writer:
            await fill(writer, "ann", "ben")
            async with replica(realm, tmp_path / "b", first.address, keep=kept.append) as second:
                await until(lambda: second.status().size == 6 and bool(kept))
                async with Client(realm, second.address) as reader:
                    leaf = peer_certificate(reader.writer.get_extra_info("ssl_object"))
                    assert leaf is not None
                    assert parse_leaf(leaf).user == USER
                    assert (await reader.record("ann")).state == APPROVED
                    await writer.insert("cyd")
                    await until(lambda: second.status().size == 7)
                    assert (await reader.record("cyd")).index == 6
                    key = realm.key("dan")
                    statement = requests.insert(realm.issuer.fingerprint, "dan", key.public, key.sign)
                    refused = await reader.ask(Submit(3, statement))
                    assert isinstance(refused, Denied)
                    assert refused.code == NotWritable.code
                    assert str(first.address) in refused.text
                    await first.stop()
                    assert (await reader.record("ben")).state == APPROVED
        # Started anew while nobody is there to follow, it shows what it has.
        async with replica(realm, tmp_path / "b", first.address, credential=kept[-1]) as second:
            async with Client(realm, second.address) as reader:
                assert (await reader.record("cyd")).index == 6

    asyncio.run(main())


def test_a_replica_of_a_replica(realm: Realm, tmp_path: Path) -> None:
    async def main() -> None:
        async with authority(realm, tmp_path / "a") as first, Client(realm, first.address) as writer:
            await fill(writer, "ann")
            kept: list[Credential] = []
            async with replica(realm, tmp_path / "b", first.address, keep=kept.append) as second:
                await until(lambda: second.status().size == 4 and bool(kept))
                async with replica(realm, tmp_path / "c", second.address, credential=kept[0]) as third:
                    await until(lambda: third.status().size == 4)
                    async with Client(realm, third.address) as reader:
                        assert (await reader.record("ann")).state == APPROVED

    asyncio.run(main())


def test_who_is_not_approved_gets_no_certificate_and_asks_again(
    realm: Realm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replica_aio, "CERTIFY_AGAIN", 0.02)

    async def main() -> None:
        async with authority(realm, tmp_path / "a") as first, Client(realm, first.address) as writer:
            kept: list[Credential] = []
            async with replica(realm, tmp_path / "b", first.address, keep=kept.append) as second:
                await until(lambda: "no certificate for 'ops/replica'" in caplog.text)
                with pytest.raises((OSError, asyncio.IncompleteReadError)):
                    async with Client(realm, second.address):
                        pass
                await fill(writer)
                await until(lambda: bool(kept))

    asyncio.run(main())


# ---- lies --------------------------------------------------------------------------------------------------------


def altered(statements: Statements) -> Statements:
    """Another requester in every Insert."""

    def alter(signed: Any) -> Any:
        return msgspec.structs.replace(signed, body=signed.body.replace(b"honest", b"liars!"))

    return msgspec.structs.replace(
        statements, statements=tuple((index, alter(signed)) for index, signed in statements.statements)
    )


def swapped(statements: Statements) -> Statements:
    """The same statements in another order."""
    signed = [signed for _, signed in reversed(statements.statements)]
    return msgspec.structs.replace(statements, statements=tuple(enumerate(signed, statements.statements[0][0])))


@pytest.mark.parametrize("lie", [altered, swapped])
def test_an_upstream_that_lies_is_found_out_and_the_last_truth_stays(
    realm: Realm, tmp_path: Path, lie: Callable[[Statements], Statements], caplog: pytest.LogCaptureFixture
) -> None:
    class Liar(AuthorityServer):
        lies = False

        def _carry_out(self, effect: Effect) -> None:
            if self.lies and isinstance(effect, Send) and isinstance(effect.answer, Statements):
                effect = Send(effect.conn, lie(effect.answer))
            super()._carry_out(effect)

    async def main() -> None:
        async with authority(realm, tmp_path / "a", Liar) as first, Client(realm, first.address) as writer:
            await fill(writer, "ann")
            async with replica(realm, tmp_path / "b", first.address) as second:
                await until(lambda: second.status().size == 4)
                first.lies = True
                of, keys = realm.issuer.fingerprint, [(user, realm.key(user)) for user in ("ben", "cyd")]
                made = [requests.insert(of, user, key.public, key.sign, requester="honest") for user, key in keys]
                writer.writer.write(b"".join(encode(Submit(1, each)) for each in made))  # under one head
                assert all([isinstance(await writer.receive(), Stored) for _ in made])
                await until(lambda: bool(list((tmp_path / "b").glob("evidence-*.msgpack"))))
                assert second.status().size == 4
                async with Client(realm, second.address) as reader:
                    assert (await reader.record("ann")).state == APPROVED
                    assert await reader.record("ben") is None

    asyncio.run(main())
    (evidence,) = (tmp_path / "b").glob("evidence-*.msgpack")
    assert msgspec.msgpack.decode(evidence.read_bytes())
    assert "says what can't be true" in caplog.text


def test_a_replica_that_lies_is_found_out_by_its_client(realm: Realm, tmp_path: Path) -> None:
    class Liar(ReplicaServer):
        def _carry_out(self, effect: Effect) -> None:
            if isinstance(effect, Send) and isinstance(effect.answer, Found) and effect.answer.record is not None:
                keys = realm.key("eve").public
                record = msgspec.structs.replace(effect.answer.record, keys=keys)
                effect = Send(effect.conn, msgspec.structs.replace(effect.answer, record=record))
            super()._carry_out(effect)

    async def main() -> None:
        async with authority(realm, tmp_path / "a") as first, Client(realm, first.address) as writer:
            await fill(writer, "ann")
            kept: list[Credential] = []
            async with replica(realm, tmp_path / "b", first.address, Liar, keep=kept.append) as second:
                await until(lambda: second.status().size == 4 and bool(kept))
                async with Client(realm, second.address) as reader:
                    with pytest.raises(TrustError, match="does not fit the signed head"):
                        await reader.record("ann")

    asyncio.run(main())
