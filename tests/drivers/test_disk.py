"""The store: one battery over memory, SQLite and PostgreSQL; and a disk or a neighbour that misbehaves."""

import contextlib
import itertools
import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.databases import postgresql
from trunkline.authority.messages import SignedHead
from trunkline.authority.statements import PublicKeys, Record, Signed
from trunkline.authority.store import Batch, Entry, IssuedCertificate, MemoryStore, Revocation
from trunkline.drivers import disk
from trunkline.drivers.disk import Store, open_store
from trunkline.errors import ConfigError, StoreFailed

REALM = bytes(range(32))
_numbers = itertools.count()

pytestmark = pytest.mark.requires_program("initdb", "postgres")


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    with postgresql() as folder:
        yield folder


@pytest.fixture
def database(server: Path) -> str:
    """The URL of an empty database."""
    name = f"directory{next(_numbers)}"
    with psycopg.connect(host=str(server), user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    return f"postgresql://postgres@/{name}?host={server}"


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    """Where a store can be made."""
    if request.param == "sqlite":
        return tmp_path / "authority" / "directory.sqlite"
    url: str = request.getfixturevalue("database")
    return url


def user(number: int) -> str:
    return ["ann", "ops/a", "ops/b/c", "ops-x", "ops", "ops0", "Ben", "z_.-"][number % 8] + str(number // 8 or "")


def record(rng: random.Random, name: str, index: int) -> Record:
    keys = PublicKeys(rng.randbytes(32), 2, rng.randbytes(1216))
    return Record(name, rng.randint(1, 3), keys, index, rng.randbytes(32), "somebody", rng.choice((-1, index)))


def batches(rng: random.Random, count: int) -> Iterator[Batch]:
    """Yield batches as a machine might make them, each of everything."""
    size = serial = 0
    for each in range(count):
        entries = []
        for _ in range(rng.randint(0, 5)):
            signed = Signed(
                rng.randbytes(rng.randint(1, 2000)), rng.randbytes(64), rng.choice((b"", rng.randbytes(64)))
            )
            entries.append(Entry(size, rng.randbytes(32), user(rng.randrange(24)), signed))
            size += 1
        changed = {entry.user: record(rng, entry.user, entry.index) for entry in entries}
        issued, revoked = [], []
        for _ in range(rng.randint(0, 3)):
            serial += 1
            made = (serial.to_bytes(16, "big"), user(rng.randrange(8)), rng.randbytes(32), rng.randbytes(32))
            issued.append(IssuedCertificate(*made, 1000 + rng.randrange(100), rng.randbytes(32), rng.randbytes(600)))
            if rng.random() < 0.5:
                revoked.append(Revocation(made[0], 1000 + rng.randrange(100)))
        nodes = {rng.randbytes(2) + bytes([rng.randrange(3)]): rng.randbytes(rng.randint(1, 2048)) for _ in range(20)}
        yield Batch(
            SignedHead(rng.randbytes(200), rng.randbytes(71)) if rng.random() < 0.8 else None,
            tuple(entries),
            tuple(changed.values()),
            tuple(nodes.items()),
            tuple(issued),
            tuple(revoked),
            1000 + rng.randrange(40) if rng.random() < 0.2 else 0,
            rng.randbytes(300) if each % 3 == 0 else b"",
        )


def everything(store: Any, written: list[Batch]) -> list[Any]:
    """Read all that can be read."""
    names = [user(number) for number in range(25)]
    entries = [entry for batch in written for entry in batch.entries]
    keys = [key for batch in written for key, _ in batch.nodes]
    return [
        store.head(),
        store.size(),
        store.upstream(),
        store.records(names),
        store.records([]),
        [store.latest(name) if name in store.records([name]) else None for name in names],
        [store.statements(start, 4) for start in range(0, len(entries) + 2, 3)],
        [store.history(name, start, 3) for name in names for start in (0, 7)],
        [store.find(entry.user, entry.leaf) for entry in entries],
        [store.find("ann", bytes(32)), store.find("nobody", entries[0].leaf)],
        store.nodes(keys),
        [store.nodes(keys[at : at + 5]) for at in range(0, len(keys), 5)],
        store.nodes([b"none"]),
        [
            store.users(prefix, after, state, limit)
            for prefix in ("", "ops", "ops/b", "z_.-", "nobody")
            for after in ("", "ann", "ops", "ops/a")
            for state in (0, 1)
            for limit in (1, 100)
        ],
        [store.issued(name, after) for name in names for after in (0, 1050)],
        [sorted(store.revoked(after)) for after in (0, 1050)],
    ]


def test_a_store_reads_back_what_one_in_memory_does(where: str | Path) -> None:
    memory, written = MemoryStore(), []
    store = open_store(where, REALM, create=True)
    try:
        assert (store.head(), store.size(), store.upstream()) == (None, 0, b"")
        for count, batch in enumerate(batches(random.Random(1), 16)):
            memory.apply(batch)
            store.apply(batch)
            written.append(batch)
            if count % 8 == 5:
                assert everything(store, written) == everything(memory, written)
                store.close()
                store = open_store(where, REALM)
        assert everything(store, written) == everything(memory, written)
        assert store.count(1) == len(memory.users("", "", 1, 1000))
    finally:
        store.close()


def test_many_nodes_are_looked_up_at_once(where: str | Path) -> None:
    nodes = {bytes([number >> 8, number & 255]): bytes([number & 255]) for number in range(1000)}
    with open_store(where, REALM, create=True) as store:
        store.apply(Batch(nodes=tuple(nodes.items())))
        assert store.nodes(nodes.keys()) == nodes


def test_one_process_writes(where: str | Path) -> None:
    with open_store(where, REALM, create=True):
        with pytest.raises(ConfigError, match="in use by another authority"):
            open_store(where, REALM)
        with open_store(where, REALM, write=False) as reader:  # as `verify` does
            assert reader.size() == 0
    open_store(where, REALM).close()


def test_a_second_writer_that_gets_past_the_lock_is_found_out(where: str | Path) -> None:
    with open_store(where, REALM, create=True) as store:
        store.apply(Batch(nodes=((b"ka", b"1"),)))
        store._saves -= 1  # as if another had written since
        with pytest.raises(StoreFailed, match="another process has written"):
            store.apply(Batch(nodes=((b"ka", b"2"), (b"kb", b"2"))))
        assert store.nodes([b"ka", b"kb"]) == {b"ka": b"1"}


def test_a_batch_is_written_whole_or_not_at_all(where: str | Path) -> None:
    class Stumbles(Store):
        def _commit(self) -> None:
            raise KeyboardInterrupt

    with open_store(where, REALM, create=True) as store:
        store.__class__ = Stumbles
        with pytest.raises(KeyboardInterrupt):
            store.apply(Batch(nodes=((b"ka", b"1"),), upstream=b"x"))
        assert (store.nodes([b"ka"]), store.upstream()) == ({}, b"")
        store.__class__ = Store
        store.apply(Batch(nodes=((b"ka", b"1"),)))
        assert store.nodes([b"ka"]) == {b"ka": b"1"}


def test_a_store_is_of_one_realm_and_one_version(where: str | Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(where, REALM, create=True).close()
    with pytest.raises(ConfigError, match="of another realm"):
        open_store(where, bytes(32))
    monkeypatch.setattr(disk.schema, "VERSION", 2)
    with pytest.raises(ConfigError, match="version 1, and this Trunkline knows 2 only"):
        open_store(where, REALM)


def test_the_wait_for_the_disk_is_asked_for(tmp_path: Path) -> None:
    with open_store(tmp_path / "d.sqlite", REALM, create=True) as store:
        run: Callable[[str], Any] = store._connection.exec_driver_sql
        assert run("PRAGMA synchronous").scalar() == 2  # FULL
        assert run("PRAGMA journal_mode").scalar() == "wal"
    assert (tmp_path / "d.sqlite").stat().st_mode & 0o777 == 0o600


# ---- what goes wrong ---------------------------------------------------------------------------------------------


def test_a_full_disk_is_said_so_and_loses_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path / "d.sqlite", REALM, create=True) as store:
        store.apply(Batch(nodes=((b"ka", b"1"),)))
        pages = store._connection.exec_driver_sql("PRAGMA page_count").scalar()
        store._connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 2}").close()
        with pytest.raises(StoreFailed, match="disk is full: make room"):
            store.apply(Batch(nodes=tuple((bytes([4, each]), bytes(2000)) for each in range(99))))
        assert store.nodes([b"ka"]) == {b"ka": b"1"}
        store._connection.exec_driver_sql("PRAGMA max_page_count=1000000").close()
        store.apply(Batch(nodes=((b"kb", b"2"),)))


def test_a_lock_that_stays_is_given_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "BUSY_TIMEOUT", 0.01)
    with open_store(tmp_path / "d.sqlite", REALM, create=True) as store:
        with contextlib.closing(sqlite3.connect(tmp_path / "d.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreFailed, match="another process keeps it locked"):
                store.apply(Batch(nodes=((b"ka", b"1"),)))
        store.apply(Batch(nodes=((b"ka", b"1"),)))


def test_damage_is_said_so(tmp_path: Path) -> None:
    file = tmp_path / "d.sqlite"
    with open_store(file, REALM, create=True) as store:
        store.apply(Batch(nodes=tuple((bytes([4, each]), bytes(2000)) for each in range(99))))
    whole = file.read_bytes()
    file.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreFailed, match="no SQLite database: put a backup"):
        open_store(file, REALM)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreFailed, match="damaged: put a backup"), open_store(file, REALM) as store:
        store.nodes([bytes([4, each]) for each in range(99)])


def test_a_row_that_is_none_of_ours_is_damage_too(where: str | Path) -> None:
    with open_store(where, REALM, create=True) as store:
        store.apply(Batch(SignedHead(b"body", b"signature")))
        store._connection.exec_driver_sql("UPDATE kept SET value = version.value FROM kept version "
                                          "WHERE kept.name = 'head' AND version.name = 'version'").close()  # fmt: skip
        with pytest.raises(StoreFailed, match="is damaged"):
            store.head()


def test_a_database_that_ends_the_session_is_said_so(database: str) -> None:
    with open_store(database, REALM, create=True) as store:
        pid = store._connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        name, _, host = database.removeprefix("postgresql://postgres@/").partition("?host=")
        with psycopg.connect(host=host, user="postgres", dbname=name, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [pid])
            with pytest.raises(StoreFailed, match="can't be written"):
                store.apply(Batch(nodes=((b"ka", b"1"),)))
            with pytest.raises(StoreFailed, match="can't be read"):
                store.size()
    open_store(database, REALM).close()


def test_what_is_not_there_is_not_made_up(tmp_path: Path, database: str) -> None:
    with pytest.raises(ConfigError, match="is missing: make one with `trunkline authority init`"):
        open_store(tmp_path / "none.sqlite", REALM)
    assert not (tmp_path / "none.sqlite").exists()
    with pytest.raises(ConfigError, match="none of our tables"):
        open_store(database, REALM)
    with pytest.raises(StoreFailed, match="no such database: make it with `createdb`"):
        open_store(database.replace("/directory", "/never"), REALM)
    with pytest.raises(StoreFailed, match="does not answer: see whether it runs"):
        open_store("postgresql://postgres@/db?host=/nowhere", REALM)
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(ConfigError, match="none of our tables"):
        open_store(tmp_path / "empty.sqlite", REALM)


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    for where in ("mysql://host/db", "sqlite://", "postgresql://host:port/x"):
        with pytest.raises(ConfigError, match=r"sqlite:PATH or postgresql:"):
            open_store(where, REALM)
    open_store(f"sqlite:{tmp_path / 'a.sqlite'}", REALM, create=True).close()
    open_store(f"sqlite:///{tmp_path / 'a.sqlite'}", REALM).close()
    assert (tmp_path / "a.sqlite").exists()
    (tmp_path / "file").touch()
    with pytest.raises(StoreFailed, match="can't be opened"):
        open_store(tmp_path / "file" / "d.sqlite", REALM, create=True)
