"""Audits: what is in order passes, and whatever was altered is found and named."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.drivers.authoritykit import Client, authority, opening
from tests.realmkit import Realm
from trunkline.authority import requests
from trunkline.authority.messages import SignedHead
from trunkline.authority.statements import Record, Signed
from trunkline.drivers import audit
from trunkline.drivers.audit import Audit, audit_remote, audit_store
from trunkline.drivers.upstream_aio import Upstream
from trunkline.errors import BadProof, BadSignature, TrustError


@pytest.fixture(scope="module")
def realm() -> Realm:
    return Realm()


@pytest.fixture(scope="module")
def filled(realm: Realm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled")

    async def main() -> None:
        async with authority(realm, folder) as server, Client(realm, server.address) as client:
            for number in range(40):
                await client.insert(f"user{number}")
            for number in range(0, 40, 3):
                await client.approve(f"user{number}")
            record = await client.record("user3")
            await client.submit(requests.delete(realm.issuer.fingerprint, record, realm.key("user3").sign))
            with Audit(realm.root) as remote:
                async with Upstream(server.address, realm.root) as upstream:
                    report = await audit_remote(upstream, remote)
            assert report.size == 55
            assert report.kinds == {"insert": 40, "approve": 14, "delete": 1}
            assert report.users == {"tentative": 26, "approved": 13, "deleted": 1}

    asyncio.run(main())
    return folder / "directory.sqlite"


@pytest.fixture
def file(filled: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "directory.sqlite"
    copy.write_bytes(filled.read_bytes())
    return copy


def look(realm: Realm, file: Path) -> audit.Report:
    with opening(realm, file)() as store, Audit(realm.root) as replay:
        return audit_store(store, (realm.issuer.authority.certificate,), replay)


def test_a_store_in_order_passes(realm: Realm, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "BATCH", 7)
    assert look(realm, file).records == 40


def change_statement(database: sqlite3.Connection) -> None:
    (blob,) = database.execute("SELECT signed FROM statements WHERE place = 5").fetchone()
    signed = msgspec.msgpack.decode(blob, type=Signed)
    other = msgspec.msgpack.encode(msgspec.structs.replace(signed, signature=bytes(64)))
    database.execute("UPDATE statements SET signed = ? WHERE place = 5", (other,))


def change_record(database: sqlite3.Connection) -> None:
    (blob,) = database.execute("SELECT record FROM records WHERE name = 'user1'").fetchone()
    record = msgspec.structs.replace(msgspec.msgpack.decode(blob, type=Record), state=2)
    database.execute("UPDATE records SET record = ? WHERE name = 'user1'", (msgspec.msgpack.encode(record),))


def drop_record(database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM records WHERE name = 'user1'")


def drop_statement(database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM statements WHERE place = 5")


def cut_log(database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM statements WHERE place = 54")


def swap_statements(database: sqlite3.Connection) -> None:
    database.execute("UPDATE statements SET place = place + 1000 WHERE place IN (7, 8)")
    database.execute("UPDATE statements SET place = CASE place WHEN 1007 THEN 8 ELSE 7 END WHERE place > 1000")


def unreadable(database: sqlite3.Connection) -> None:
    other = msgspec.msgpack.encode(Signed(b"nothing", b""))
    database.execute("UPDATE statements SET signed = ? WHERE place = 5", (other,))


@pytest.mark.parametrize(
    ("tamper", "error", "said"),
    [
        (change_statement, BadSignature, "statement 5 breaks the rules"),
        (change_record, BadProof, "the record of 'user1' says what the log does not"),
        (drop_record, BadProof, "1 records are missing"),
        (drop_statement, BadProof, "statement 5 is missing: 6 comes next"),
        (cut_log, BadProof, "the head is of 55 statements, and the log has 54"),
        (swap_statements, BadProof, "the log's Merkle root is not the one in the head"),
        (unreadable, BadSignature, "statement 5 can't be read"),
    ],
)
def test_whatever_was_altered_is_found(
    realm: Realm, file: Path, tamper: Callable[[sqlite3.Connection], None], error: type[Exception], said: str
) -> None:
    database = sqlite3.connect(file)
    with database:
        tamper(database)
    database.close()
    with pytest.raises(error, match=said):
        look(realm, file)


def test_a_head_of_another_is_refused(realm: Realm, file: Path) -> None:
    def with_head(head: SignedHead) -> None:
        database = sqlite3.connect(file)
        with database:
            database.execute("UPDATE kept SET value = ? WHERE name = 'head'", (msgspec.msgpack.encode(head),))
        database.close()

    with opening(realm, file)() as store:
        from trunkline.authority.heads import read_head

        true = store.head()
        assert true is not None
        head = read_head(true)
    with_head(realm.signed_head(size=55, log=head.log, map_root=bytes(32)))
    with pytest.raises(BadProof, match="the map's root"):
        look(realm, file)
    with_head(realm.signed_head(size=55, log=head.log, map_root=head.map, issuer=realm.new_issuer()))
    with pytest.raises(BadSignature, match="has no certificate"):
        look(realm, file)
    with_head(SignedHead(true.body, bytes(70)))
    with pytest.raises(BadSignature):
        look(realm, file)


def test_a_store_that_was_never_written_to_has_nothing_to_check(realm: Realm, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="has no head"):
        look(realm, tmp_path / "new.sqlite")
