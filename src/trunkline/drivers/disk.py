"""An authority's store in SQLite or PostgreSQL: the `Reader` of its machine, and what carries out `Save`.

SQLAlchemy Core writes the SQL, which is the same for both; this file is the only one that runs any. Each statement is
compiled once and then handed to the database's own driver: a read takes a tenth of what it takes through a result of
SQLAlchemy, and a proof takes four reads.

SQLite is told to wait for the disk at each commit (WAL, synchronous=FULL); so is PostgreSQL unless its administrator
says otherwise. There is one connection, and one process that writes: a second one is refused when it opens the store,
and, should it get past that, at its first save.
"""

import contextlib
import fcntl
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import sqlalchemy
from sqlalchemy import bindparam, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement

from trunkline.authority.messages import SignedHead
from trunkline.authority.statements import Record, Signed
from trunkline.authority.store import Batch, IssuedCertificate, Revocation
from trunkline.drivers import schema
from trunkline.errors import ConfigError, StoreFailed

PAGE_CACHE: Final = 32 * 1024
"""Most memory for SQLite's pages, in KiB."""

CHECKPOINT: Final = 4096
"""Pages of 4 KiB in SQLite's write-ahead log that make it move them to their places: that costs two waits for the
disk, and a page that was written often is moved once."""

BUSY_TIMEOUT: Final = 2.0
"""Seconds to wait for a lock that another process holds, as a backup does for a moment."""

MANY: Final = 256
"""Most values that one query looks up."""

_LOCK: Final = 0x7472756E  # "trun": the number of PostgreSQL's advisory lock, with the schema's

_FIXES: Final = {
    # By SQLite's error names and PostgreSQL's SQLSTATE, or how they begin.
    "SQLITE_FULL": "the disk is full: make room, and it goes on by itself",
    "53100": "the database's disk is full: make room, and it goes on by itself",
    "SQLITE_BUSY": "another process keeps it locked: end that, a backup perhaps, or a second authority",
    "SQLITE_LOCKED": "another process keeps it locked: end that, a backup perhaps, or a second authority",
    "SQLITE_CORRUPT": "it is damaged: put a backup in its place, or let a replica's copy take over, and run "
    "`trunkline authority verify`",
    "SQLITE_NOTADB": "it is no SQLite database: put a backup in its place, or move the file away",
    "XX001": "it is damaged: put a backup in its place, and run `trunkline authority verify`",
    "SQLITE_READONLY": "it can't be written: see who owns the file and its folder, and how the disk is mounted",
    "25006": "the database is read-only: name its primary server with --store",
    "SQLITE_CANTOPEN": "it can't be opened: see who owns the file and its folder",
    "SQLITE_IOERR": "the disk fails to read or write: look into the system's log, and put the store on another disk",
    "42501": "that database user may not do it: see what it was granted",
    "08": "the database does not answer: see whether it runs, and the address in --store",
    "57P": "the database was shut down, or ended the session: it is opened again by itself",
    "28": "the database refuses that user: see the address and password in --store",
    "3D": "there is no such database: make it with `createdb`",
}


# A connection that fails has no SQLSTATE.
_CODES: Final = {
    "does not exist": "3D",
    "authentication failed": "28",
    "no pg_hba.conf entry": "28",
    "Connection refused": "08",
    "No such file": "08",
    "timeout": "08",
}


class _Query:
    """A statement in the words of one database. Parameters are given in the order of ``names``."""

    __slots__ = ("_constants", "_order", "sql")

    def __init__(self, statement: ClauseElement, dialect: sqlalchemy.Dialect, names: Sequence[str] = ()) -> None:
        compiled = statement.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler), "it is a statement, not a table"
        self.sql = str(compiled)
        wanted = compiled.positiontup or []
        assert set(names) <= set(wanted), f"{self.sql} takes {wanted}"
        # What SQLAlchemy puts in by itself comes last: SQLite's OFFSET for one.
        extra = [name for name in wanted if name not in names]
        self._constants = [compiled.params[name] for name in extra]
        all_of = [*names, *extra]
        order = [all_of.index(name) for name in wanted]
        self._order = None if order == list(range(len(names))) else order

    def parameters(self, values: Sequence[Any]) -> Sequence[Any]:
        if self._order is None:
            return values
        both = [*values, *self._constants]
        return [both[i] for i in self._order]


class _Queries:
    """All statements, compiled for one database."""

    def __init__(self, dialect: sqlalchemy.Dialect) -> None:
        self._dialect = dialect
        self._insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect.name]
        of = self._of
        kept, statements, records, nodes = schema.kept.c, schema.statements.c, schema.records.c, schema.nodes.c
        self.keep = self._upsert(schema.kept)
        self.kept = of(select(kept.value).where(kept.name == bindparam("name")), "name")
        self.count = of(
            update(schema.kept)
            .where(kept.name == bindparam("what"), kept.value == bindparam("old"))
            .values(value=bindparam("new")),
            "what", "old", "new",
        )  # fmt: skip
        self.size = of(select(func.max(statements.place)))
        self.add_statement = of(schema.statements.insert(), *schema.statements.c.keys())
        self.statements = of(
            select(statements.place, statements.signed)
            .where(statements.place >= bindparam("start"))
            .order_by(statements.place)
            .limit(bindparam("most")),
            "start", "most",
        )  # fmt: skip
        self.history = of(
            select(statements.place, statements.signed)
            .where(statements.name == bindparam("who"), statements.place >= bindparam("start"))
            .order_by(statements.place)
            .limit(bindparam("most")),
            "who", "start", "most",
        )  # fmt: skip
        self.find = of(
            select(statements.place).where(statements.name == bindparam("who"), statements.leaf == bindparam("hash")),
            "who", "hash",
        )  # fmt: skip
        self.put_record = self._upsert(schema.records)
        self.latest = of(
            select(records.record, statements.signed)
            .join_from(schema.records, schema.statements, statements.place == records.place)
            .where(records.name == bindparam("who")),
            "who",
        )
        some = select(records.record).where(records.name > bindparam("after"), records.name < bindparam("end"))
        some = some.order_by(records.name).limit(bindparam("most"))
        self.users = of(some, "after", "end", "most")
        self.users_by_state = of(some.where(records.state == bindparam("wanted")), "after", "end", "most", "wanted")
        self.count_state = of(
            select(func.count()).select_from(schema.records).where(records.state == bindparam("wanted")), "wanted"
        )
        self.put_node = self._upsert(schema.nodes)
        self.add_issued = of(schema.issued.insert().values(
            {name: bindparam(f"v_{name}") for name in ("name", "not_after", "certificate")}
        ), "v_name", "v_not_after", "v_certificate")  # fmt: skip
        issued, revoked = schema.issued.c, schema.revoked.c
        self.issued = of(
            select(issued.certificate)
            .where(issued.name == bindparam("who"), issued.not_after > bindparam("time"))
            .order_by(issued.place),
            "who", "time",
        )  # fmt: skip
        self.forget_issued = of(delete(schema.issued).where(issued.not_after <= bindparam("time")), "time")
        self.put_revoked = self._upsert(schema.revoked)
        self.revoked = of(
            select(revoked.serial, revoked.not_after).where(revoked.not_after > bindparam("time")), "time"
        )
        self.forget_revoked = of(delete(schema.revoked).where(revoked.not_after <= bindparam("time")), "time")
        # Lists of values are filled up to a power of two, so that the database sees few different statements.
        sizes = [1 << i for i in range(MANY.bit_length())]
        self.nodes = {size: self._any(select(nodes.key, nodes.value), nodes.key, size) for size in sizes}
        self.records = {size: self._any(select(records.record), records.name, size) for size in sizes}

    def _of(self, statement: ClauseElement, *names: str) -> _Query:
        return _Query(statement, self._dialect, names)

    def _upsert(self, table: sqlalchemy.Table) -> _Query:
        insert = self._insert(table)
        key, *others = table.c.keys()
        written = insert.on_conflict_do_update(
            index_elements=[key], set_={name: insert.excluded[name] for name in others}
        )
        return _Query(written, self._dialect, table.c.keys())

    def _any(self, statement: sqlalchemy.Select[Any], column: sqlalchemy.Column[Any], size: int) -> _Query:
        names = [f"k{i}" for i in range(size)]
        return _Query(statement.where(column.in_([bindparam(name) for name in names])), self._dialect, names)


class Store:
    """What one authority or replica keeps; see `open_store`. It is a `Reader`.

    Everything may raise StoreFailed. If `apply` does, close it and open it anew: whether that batch was written is
    known only from what is there then.
    """

    def __init__(self, connection: sqlalchemy.Connection, lock: int | None, what: str) -> None:
        self._connection = connection
        self._lock = lock
        self._what = what
        self._errors: type[Exception] = connection.dialect.loaded_dbapi.Error
        raw: Any = connection.connection.driver_connection
        self._cursor: Any = raw.cursor()
        self._pipeline = getattr(raw, "pipeline", contextlib.nullcontext)
        self._begin = "BEGIN IMMEDIATE" if connection.dialect.name == "sqlite" else "BEGIN"
        self._queries = _Queries(connection.dialect)
        self._encode = msgspec.msgpack.Encoder().encode
        self._records = msgspec.msgpack.Decoder(Record)
        self._signed = msgspec.msgpack.Decoder(Signed)
        self._certificates = msgspec.msgpack.Decoder(IssuedCertificate)
        self._saves = int(self.kept("saves") or b"0")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database. Closing twice does nothing."""
        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError, self._errors):
            self._connection.close()
            self._connection.engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # ---- writing --------------------------------------------------------------------------------------------

    def apply(self, batch: Batch) -> None:
        """Write ``batch`` in one transaction, and wait until it is on disk.

        Raises:
            StoreFailed: it may be written, or not.
        """
        with self._failures("written"):
            self._cursor.execute(self._begin)
            try:
                self._write(batch)
                self._commit()
            except BaseException:
                with contextlib.suppress(self._errors):
                    self._cursor.execute("ROLLBACK")
                raise
        self._saves += 1

    def _commit(self) -> None:
        self._cursor.execute("COMMIT")

    def _write(self, batch: Batch) -> None:
        queries, encode = self._queries, self._encode
        old, new = str(self._saves).encode(), str(self._saves + 1).encode()
        self._cursor.execute(queries.count.sql, queries.count.parameters(("saves", old, new)))
        if self._cursor.rowcount != 1:
            raise StoreFailed(f"{self._what}: another process has written to it: one authority may use it, no more")
        with self._pipeline():
            if batch.expired:
                self._many(queries.forget_issued, [(batch.expired,)])
                self._many(queries.forget_revoked, [(batch.expired,)])
            entries = [(each.index, each.user, each.leaf, encode(each.signed)) for each in batch.entries]
            self._many(queries.add_statement, entries)
            records = [(each.user, each.state, each.index, encode(each)) for each in batch.records]
            self._many(queries.put_record, records)
            self._many(queries.put_node, batch.nodes)
            self._many(queries.add_issued, [(each.user, each.not_after, encode(each)) for each in batch.issued])
            self._many(queries.put_revoked, [(each.serial, each.not_after) for each in batch.revoked])
            singles = [("head", encode(batch.head))] if batch.head is not None else []
            if batch.upstream:
                singles.append(("upstream", batch.upstream))
            self._many(queries.keep, singles)

    def _many(self, query: _Query, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            self._cursor.executemany(query.sql, [query.parameters(row) for row in rows])

    # ---- reading --------------------------------------------------------------------------------------------

    def kept(self, name: str) -> bytes | None:
        """Return one of the single values that schema.py lists."""
        rows = self._rows(self._queries.kept, (name,))
        return bytes(rows[0][0]) if rows else None

    def head(self) -> SignedHead | None:
        kept = self.kept("head")
        return None if kept is None else self._decoded(msgspec.msgpack.Decoder(SignedHead), kept)

    def size(self) -> int:
        (found,) = self._rows(self._queries.size, ())[0]
        return 0 if found is None else int(found) + 1

    def upstream(self) -> bytes:
        return self.kept("upstream") or b""

    def records(self, users: Collection[str]) -> dict[str, Record]:
        rows = self._look_up(self._queries.records, list(users))
        found = [self._decoded(self._records, record) for (record,) in rows]
        return {record.user: record for record in found}

    def latest(self, user: str) -> tuple[Record, Signed] | None:
        for record, signed in self._rows(self._queries.latest, (user,)):
            return self._decoded(self._records, record), self._decoded(self._signed, signed)
        return None

    def statements(self, start: int, limit: int) -> list[tuple[int, Signed]]:
        rows = self._rows(self._queries.statements, (start, limit))
        return [(place, self._decoded(self._signed, signed)) for place, signed in rows]

    def history(self, user: str, start: int, limit: int) -> list[tuple[int, Signed]]:
        rows = self._rows(self._queries.history, (user, start, limit))
        return [(place, self._decoded(self._signed, signed)) for place, signed in rows]

    def find(self, user: str, leaf: bytes) -> int | None:
        for (place,) in self._rows(self._queries.find, (user, leaf)):
            return int(place)
        return None

    def nodes(self, keys: Collection[bytes]) -> dict[bytes, bytes]:
        return dict(self._look_up(self._queries.nodes, list(keys)))

    def users(self, prefix: str, after: str, state: int, limit: int) -> list[Record]:
        found: list[Record] = []
        if prefix:
            # The names below it are one stretch of the index; it comes before them, but not next to them.
            if after < prefix:
                found = [each for each in self.records([prefix]).values() if state in (0, each.state)]
            after, end = max(after, prefix + "/"), prefix + "0"  # "0" comes after "/"
        else:
            end = "\x7f"  # comes after all that a name has
        rest = (after, end, limit - len(found))
        if state:
            rows = self._rows(self._queries.users_by_state, (*rest, state))
        else:
            rows = self._rows(self._queries.users, rest)
        return found + [self._decoded(self._records, record) for (record,) in rows]

    def count(self, state: int) -> int:
        """Return how many users are in a state; it takes the longer the more there are."""
        return int(self._rows(self._queries.count_state, (state,))[0][0])

    def issued(self, user: str, after: int) -> list[IssuedCertificate]:
        rows = self._rows(self._queries.issued, (user, after))
        return [self._decoded(self._certificates, certificate) for (certificate,) in rows]

    def revoked(self, after: int) -> list[Revocation]:
        return [Revocation(bytes(serial), end) for serial, end in self._rows(self._queries.revoked, (after,))]

    def _rows(self, query: _Query, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        try:
            self._cursor.execute(query.sql, query.parameters(values))
            rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        except self._errors as error:
            raise _failed(self._what, "read", error) from error
        return rows

    def _look_up(self, queries: dict[int, _Query], values: list[Any]) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        for at in range(0, len(values), MANY):
            some = values[at : at + MANY]
            size = 1 << (len(some) - 1).bit_length()
            some += some[:1] * (size - len(some))
            rows += self._rows(queries[size], some)
        return rows

    def _decoded(self, decoder: "msgspec.msgpack.Decoder[Any]", blob: bytes) -> Any:
        try:
            return decoder.decode(blob)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreFailed(f"{self._what} is damaged ({error}): put a backup in its place") from error

    @contextlib.contextmanager
    def _failures(self, done: str) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise _failed(self._what, done, error) from error


def open_store(where: str | Path, realm: bytes, *, create: bool = False, write: bool = True) -> Store:
    """Open an authority's store.

    Args:
        where: the file of an SQLite database, or a database's URL: ``sqlite:PATH``, ``postgresql://USER@HOST/NAME``.
        realm: the fingerprint of the realm that it is about.
        create: make the tables, and the file, if there are none.
        write: take the lock that the one authority or replica holds that writes to it. Without, nothing is written.

    Raises:
        ConfigError: it is of another realm or version, or somebody else holds it, or `postgres` is not installed.
        StoreFailed: it can't be opened or read.
    """
    url = _url(where)
    file = Path(url.database or "") if url.drivername == "sqlite" else None
    what = f"the store {file or url.render_as_string(hide_password=True)}"
    lock = None
    try:
        if file is not None:
            lock = _prepare_file(file, what, create=create, write=write)
        engine = sqlalchemy.create_engine(
            url,
            isolation_level="AUTOCOMMIT",  # transactions are begun and ended by name, the same way with both
            paramstyle="qmark" if file is not None else "format",
            poolclass=sqlalchemy.NullPool,
            connect_args={"timeout": BUSY_TIMEOUT} if file is not None else {"application_name": "trunkline"},
        )
        connection = engine.connect()
        try:
            _prepare(connection, realm, what, create=create, write=write)
            return Store(connection, lock, what)
        except BaseException:
            connection.close()
            engine.dispose()
            raise
    except BaseException as error:
        if lock is not None:
            os.close(lock)
        if isinstance(error, ModuleNotFoundError):
            raise ConfigError("--store postgresql://... needs psycopg: pip install 'trunkline[postgres]'") from error
        if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
            raise _failed(what, "opened", error.orig) from error
        raise


def _url(where: str | Path) -> URL:
    text = str(where)
    if isinstance(where, Path) or "://" not in text:
        return URL.create("sqlite", database=text.removeprefix("sqlite:"))
    try:
        url = make_url(text)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise ConfigError("--store is sqlite:PATH or postgresql://USER@HOST/DATABASE") from None
    if url.drivername in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername != "sqlite" or not url.database:
        raise ConfigError(f"--store {url.drivername}: it is sqlite:PATH or postgresql://USER@HOST/DATABASE")
    return url


def _prepare_file(file: Path, what: str, *, create: bool, write: bool) -> int | None:
    """See that the file is there and nobody else's; return the descriptor that holds the lock."""
    try:
        if create:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))  # its neighbours take its mode from it
        elif not file.exists():
            raise ConfigError(f"{what} is missing: make one with `trunkline authority init`, or put a backup there")
        if not write:
            return None
        lock = os.open(file.with_name(file.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreFailed(f"{what} can't be opened: {error.strerror}: {error.filename}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise ConfigError(f"{what} is in use by another authority on this host: end that one first") from None
    return lock


def _prepare(connection: sqlalchemy.Connection, realm: bytes, what: str, *, create: bool, write: bool) -> None:
    """Set the connection up, make the tables if there are none, and see that they are ours."""
    run = connection.exec_driver_sql
    if connection.dialect.name == "sqlite":
        begin = "BEGIN IMMEDIATE"
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            f"wal_autocheckpoint={CHECKPOINT}",
            f"journal_size_limit={CHECKPOINT * 4096}",
            f"cache_size=-{PAGE_CACHE}",
            "cell_size_check=ON",
            "trusted_schema=OFF",
            *(() if write or create else ("query_only=ON",)),
        ):
            run(f"PRAGMA {pragma}").close()
    else:
        begin = "BEGIN"
        # The lock is this session's, and goes with it, however it ends.
        lock = f"SELECT pg_try_advisory_lock({_LOCK}, hashtext(current_schema()))"
        if write and not run(lock).scalar():
            raise ConfigError(f"{what} is in use by another authority: end that one first")
    if create and not sqlalchemy.inspect(connection).has_table(schema.kept.name):
        run(begin)
        schema.metadata.create_all(connection)
        first = {"version": str(schema.VERSION).encode(), "realm": realm, "saves": b"0"}
        connection.execute(schema.kept.insert(), [{"name": name, "value": value} for name, value in first.items()])
        run("COMMIT")
    kept = schema.kept
    try:
        found = {name: bytes(value) for name, value in connection.execute(select(kept.c.name, kept.c.value))}
    except sqlalchemy.exc.DBAPIError as error:
        if "kept" in str(error.orig):  # no such table
            raise ConfigError(f"{what} has none of our tables: make them with `trunkline authority init`") from error
        raise
    version = found.get("version", b"none").decode(errors="replace")
    if version != str(schema.VERSION):
        raise ConfigError(f"{what} has tables of version {version}, and this Trunkline knows {schema.VERSION} only")
    if found.get("realm") != realm:
        raise ConfigError(f"{what} is of another realm: name this realm's with --store, or another --home")


def _failed(what: str, done: str, error: BaseException) -> StoreFailed:
    """Say what went wrong, and what to do about it."""
    code = getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None) or ""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    code = code or next((found for part, found in _CODES.items() if part in text), "")
    for start, fix in _FIXES.items():
        if code.startswith(start):
            return StoreFailed(f"{what} can't be {done}: {fix} ({text})")
    return StoreFailed(f"{what} can't be {done}: {text}")
