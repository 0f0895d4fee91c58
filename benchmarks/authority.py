"""An authority with a million users: start-up, proven look-ups, approvals, memory (docs/measurements/authority.md).

Its log is built by the machine's own code, in big batches, without verifying what is built: most users' Inserts are not
even signed, but for those that are looked up. Then `trunkline authority serve` serves it, in a process of its own:

- start-up: a new process opens the store, makes the machine and answers one look-up; at several sizes of the log;
- get: one client asks for records and verifies everything, as every client does. In turn with that, over a connection
  of its own, it asks a server that only sends back as many bytes, in the same TLS: in rounds, so that noise falls on
  both alike;
- approvals: signed before; one at a time, and 32 at once over 32 connections. In turn with that, rows are inserted
  into a plain SQLite table with the same settings, one commit each.

    python benchmarks/authority.py [--users N] [--folder DIR] [--rounds N]

A folder that is given is kept, and used again as it is.
"""

import argparse
import asyncio
import contextlib
import functools
import multiprocessing
import os
import random
import signal
import socket
import sqlite3
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from trunkline.authority.codec import decode_answer, encode, frame_size
from trunkline.authority.directory import Directory
from trunkline.authority.events import DirectoryConfig, Received, Save, Saved, Send, Tick
from trunkline.authority.heads import revoked_digest, sign_head
from trunkline.authority.ledger import Ledger
from trunkline.authority.mapping import record_hash
from trunkline.authority.merkle import statement_hash
from trunkline.authority.messages import PREAMBLE, Answer, AskHead, Found, Get, Head, HeadIs, Request, Stored, Submit
from trunkline.authority.rules import Outcome, encode_statement, statement_bytes
from trunkline.authority.statements import APPROVED, NOTHING, TENTATIVE, Approve, Insert, Record, Signed
from trunkline.authority.store import Batch
from trunkline.authority.trust import Trust
from trunkline.drivers.authority_home import AuthorityHome, Settings, new_serial
from trunkline.drivers.clock import epoch, now
from trunkline.drivers.disk import CHECKPOINT, PAGE_CACHE, open_store
from trunkline.drivers.keys import UserKey, generate_p256
from trunkline.drivers.tls import Credential, client_context, server_context

SIZES = (1_000, 100_000, 1_000_000)
BATCH = 5_000
SIGNED = 2_000  # users whose Inserts are signed
POOL = 10_000  # users that are looked up
APPROVALS = 200  # of a round, and as many with 32 at once
AT_ONCE = 32
FORK = multiprocessing.get_context("fork")


def user(number: int) -> str:
    """Return a user's name."""
    return f"staff/{number % 97}/user{number}"


class Realm:
    """A realm in a folder."""

    def __init__(self, folder: Path) -> None:
        self.home = AuthorityHome(folder)
        if not (self.home.folder / "intermediate.pem").exists():
            wall = time.time()
            root = self.home.create_root("bench.example", wall)
            self.home.install(self.home.sign_request(self.home.make_request(Settings()), wall), wall, root.certificate)
        self.authority = self.home.load()
        self.fingerprint = self.authority.issuer.fingerprint
        self.root_key = self.home.root_key()
        self.users = 0

    def grow(self, users: int) -> None:
        """Go on until there are so many users, each of them tentative."""
        key, issuer = UserKey.generate(), self.authority.issuer
        with open_store(self.home.store, self.fingerprint, create=True) as store:
            ledger = Ledger(store, self.fingerprint, issuer.anchor.key)
            for start in range(store.size(), users, BATCH):
                numbers = range(start, min(start + BATCH, users))
                ledger.prepare([user(number) for number in numbers])
                for number in numbers:
                    insert = Insert(self.fingerprint, user(number), NOTHING, key.public, "bench")
                    body = encode_statement(insert)
                    signs = number % max(1, users // SIGNED) == 0
                    signed = Signed(body, key.sign(statement_bytes(body)) if signs else bytes(64))
                    record = Record(insert.user, TENTATIVE, insert.keys, number, statement_hash(signed), "bench")
                    ledger.append(signed, Outcome(insert, record, None))
                entries, records, nodes = ledger.close()
                head = Head(
                    self.fingerprint,
                    ledger.size,
                    ledger.log_root(),
                    ledger.map_root(),
                    int(time.time()),
                    revoked_digest(()),
                    issuer.key_id,
                )
                store.apply(Batch(sign_head(head, issuer), entries, records, nodes))
                ledger.saved()
        self.users = users

    def approve(self, record: Record) -> Signed:
        """Sign an approval."""
        body = encode_statement(Approve(self.fingerprint, record.user, record.latest, record.keys.signing))
        algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
        return Signed(body, self.root_key.sign(statement_bytes(body), algorithm))

    def credential(self) -> Credential:
        """Return what the bare server shows: the same as the authority does."""
        key, wall = generate_p256(), int(time.time())
        issuer = self.authority.issuer
        chain = issuer.certify(
            "authority/main", issuer.key_id, key.public_key(), new_serial(), wall - 300, wall + 86_400
        )
        return Credential(chain, key)


class Client:
    """A blocking connection to an authority, or to what answers as one."""

    def __init__(self, port: int, root: bytes) -> None:
        raw = socket.create_connection(("127.0.0.1", port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = client_context(root, None).wrap_socket(raw)
        self.sock.sendall(PREAMBLE)
        assert self.exactly(len(PREAMBLE)) == PREAMBLE

    def exactly(self, size: int) -> bytes:
        """Read so many bytes."""
        data = self.sock.recv(size)
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            assert more, "the server has closed the connection"
            data += more
        return data

    def send(self, request: Request) -> None:
        self.sock.sendall(encode(request))

    def receive(self) -> Answer:
        return decode_answer(self.exactly(frame_size(self.exactly(4))))

    def ask(self, request: Request) -> Answer:
        self.send(request)
        return self.receive()


# ---- start-up ----------------------------------------------------------------------------------------------------


def start_up(realm: Realm, pipe: Connection) -> None:
    """In a process of its own: from nothing open to the first answer, in seconds."""
    began = time.perf_counter()
    with open_store(realm.home.store, realm.fingerprint) as store:
        config = DirectoryConfig(realm.authority.root, realm.authority.authorities, epoch())
        machine = Directory(config, reader=store, issuer=realm.authority.issuer, seed=bytes(32), now=now())
        events, answers = [Tick(), Received(((1, Get(1, user(7))),))], []
        while events:
            for effect in machine.step(events.pop(0), now()):
                if isinstance(effect, Save):  # the head that is shown
                    store.apply(effect.batch)
                    events.append(Saved())
                elif isinstance(effect, Send):
                    answers.append(effect.answer)
        pipe.send(time.perf_counter() - began)
    assert isinstance(answers[0], Found)


def start_up_of(realm: Realm) -> float:
    """Return how long a start took, in seconds."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=start_up, args=(realm, theirs))
    process.start()
    theirs.close()
    taken: float = ours.recv()
    process.join()
    return taken


# ---- servers -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(realm: Realm) -> Iterator[tuple[int, int]]:
    """Run `trunkline authority serve`; yield its port and process id."""
    words = ["authority", "serve", "--listen", "127.0.0.1:0", "--home", str(realm.home.path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "trunkline", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        yield int(line.rsplit(":", 1)[1]), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def bare(context: ssl.SSLContext, listener: socket.socket, asked: int, answered: int) -> None:
    """A server that reads ``asked`` bytes and sends ``answered``, and knows nothing else; one client at a time."""
    answer = os.urandom(answered)
    while True:
        raw, _ = listener.accept()
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(raw, server_side=True) as sock, contextlib.suppress(OSError):
            sock.sendall(PREAMBLE)
            sock.recv(len(PREAMBLE))
            left = asked
            while data := sock.recv(left):
                left -= len(data)
                if not left:
                    sock.sendall(answer)
                    left = asked


def bare_asyncio(context: ssl.SSLContext, listener: socket.socket, asked: int, answered: int) -> None:
    """The same with asyncio's streams: what serves many clients at once, as an authority does."""
    answer = os.urandom(answered)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            writer.write(PREAMBLE)
            await reader.readexactly(len(PREAMBLE))
            while True:
                await reader.readexactly(asked)
                writer.write(answer)
                await writer.drain()

    async def main() -> None:
        async with await asyncio.start_server(serve, sock=listener, ssl=context) as server:
            await server.serve_forever()

    asyncio.run(main())


@contextlib.contextmanager
def serving_bare(
    realm: Realm, kind: Callable[[ssl.SSLContext, socket.socket, int, int], None], asked: int, answered: int
) -> Iterator[int]:
    """Run a server that answers with as many bytes; yield its port."""
    context = server_context(realm.authority.root, realm.credential(), required=False)
    context.verify_mode = ssl.CERT_NONE
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = FORK.Process(target=kind, args=(context, listener, asked, answered), daemon=True)
        process.start()
        try:
            yield listener.getsockname()[1]
        finally:
            process.kill()
            process.join()


def memory(pid: int) -> float:
    """Return a process's resident memory in MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1000


# ---- get ---------------------------------------------------------------------------------------------------------


def approve_all(realm: Realm, client: Client, names: Sequence[str]) -> None:
    """Have all of these users approved that are not."""
    with open_store(realm.home.store, realm.fingerprint, write=False) as store:
        for start in range(0, len(names), 32):
            found = store.records(names[start : start + 32]).values()
            approvals = [realm.approve(record) for record in found if record.state == TENTATIVE]
            for number, approval in enumerate(approvals):
                client.send(Submit(number, approval))
            for _ in approvals:
                assert isinstance(client.receive(), Stored)


def measure_get(realm: Realm, rounds: int) -> None:
    """Print how long a proven look-up takes, beside a bare request and answer of the same sizes.

    Users are looked up whom the server finds in no cache of its own, and some that were looked up just before. That a
    client knows a statement already is brought about by telling it, behind the server's back.
    """
    names = [user(number) for number in random.Random(1).sample(range(realm.users), min(POOL, realm.users))]
    with serving(realm) as (port, pid), contextlib.ExitStack() as stack:
        client = Client(port, realm.authority.root)
        approve_all(realm, client, names)
        store = stack.enter_context(open_store(realm.home.store, realm.fingerprint, write=False))
        trust = Trust("bench.example", realm.authority.root)
        answer = client.ask(AskHead(1))
        assert isinstance(answer, HeadIs)
        trust.update_head(answer, time.time())
        before = memory(pid)

        def unverified(name: str) -> int:
            client.send(Get(1, name, trust.size))
            size = frame_size(client.exactly(4))
            client.exactly(size)
            return size + 4

        def look_up(name: str) -> None:
            client.send(Get(1, name, trust.size))
            found = decode_answer(client.exactly(frame_size(client.exactly(4))))
            assert isinstance(found, Found)
            record = trust.check_found(found, name, time.time())
            assert record is not None
            assert record.state == APPROVED

        records = {name: store.records([name])[name] for name in names}
        rests = {name: (record.latest, record_hash(record)) for name, record in records.items()}

        def know(name: str) -> None:
            trust.verified.keep(*rests[name])

        sizes = [unverified(name) for name in names]
        for name in names[:2000]:
            look_up(name)  # now the upper nodes of this head are verified
        asked, answered = len(encode(Get(1, names[0], trust.size))), round(statistics.mean(sizes))
        nothing: Callable[[str], None] = lambda _: None  # noqa: E731
        recent, kinds = names[:200], dict[str, tuple[Callable[[str], None], Callable[[str], object]]]()
        for whose in ("", "recent, "):  # whom nobody, or somebody has looked up lately
            kinds |= {
                f"{whose}not verified": (nothing, unverified),
                f"{whose}known": (know, look_up),
                f"{whose}known, new head": (lambda name: (know(name), trust.verified.forget_nodes())[0], look_up),
                f"{whose}new": (lambda _: trust.verified.forget_statements(), look_up),
            }
        for called, kind in (("bare asyncio", bare_asyncio), ("bare", bare)):
            plain = Client(stack.enter_context(serving_bare(realm, kind, asked, answered)), realm.authority.root)
            kinds[called] = nothing, functools.partial(exchange, plain, bytes(asked), answered)
        taken: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for name in recent:
                unverified(name)
            for kind, (prepare, call) in kinds.items():
                took = []
                for name in random.sample(recent if kind.startswith("recent") else names, 100):
                    prepare(name)
                    began = time.perf_counter()
                    call(name)
                    took.append(time.perf_counter() - began)
                taken[kind].append(took)
        print(f"answers of {answered} bytes; the server holds {before:.0f} MB before and {memory(pid):.0f} MB after")
        medians = {kind: [statistics.median(each) for each in rounds] for kind, rounds in taken.items()}
        for kind, found in medians.items():
            ratios = [
                statistics.median(a / b for a, b in zip(found, medians[other], strict=True))
                for other in ("bare asyncio", "bare")
            ]
            print(
                f"  {kind:20} p50 {statistics.median(found) * 1e6:6.0f} us   x bare asyncio {ratios[0]:5.2f}   "
                f"x bare {ratios[1]:5.2f}"
            )


def exchange(client: Client, request: bytes, answered: int, _: str) -> None:
    """Send so much, and read so much."""
    client.sock.sendall(request)
    client.exactly(answered)


# ---- approvals ---------------------------------------------------------------------------------------------------


def commits(folder: Path) -> Iterator[float]:
    """Yield how many commits a second a plain table takes, a row each, with the store's settings."""
    database = sqlite3.connect(folder / "bare.sqlite", isolation_level=None)
    with contextlib.closing(database):
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            f"wal_autocheckpoint={CHECKPOINT}",
            f"cache_size=-{PAGE_CACHE}",
        ):
            database.execute(f"PRAGMA {pragma}")
        database.execute("CREATE TABLE IF NOT EXISTS bare (place INTEGER PRIMARY KEY, row BLOB)")
        while True:
            began = time.perf_counter()
            for _ in range(APPROVALS):
                database.execute("BEGIN IMMEDIATE")
                database.execute("INSERT INTO bare (row) VALUES (?)", (os.urandom(300),))
                database.execute("COMMIT")
            yield APPROVALS / (time.perf_counter() - began)


def measure_approvals(realm: Realm, rounds: int, folder: Path) -> None:
    """Print how many approvals a second are signed, sent, checked, saved and answered, beside bare commits."""
    with open_store(realm.home.store, realm.fingerprint, write=False) as store:
        tentative: list[Record] = []
        after = ""
        while len(tentative) < 2 * APPROVALS * rounds:
            page = store.users("", after, TENTATIVE, 1000)
            assert page, "too few users are left to be approved"
            tentative += page
            after = page[-1].user
    random.Random(1).shuffle(tentative)
    approvals = [encode(Submit(1, realm.approve(record))) for record in tentative[: 2 * APPROVALS * rounds]]
    with serving(realm) as (port, pid):
        clients = [Client(port, realm.authority.root) for _ in range(AT_ONCE)]

        def one_at_a_time(frames: list[bytes]) -> None:
            for frame in frames:
                clients[0].sock.sendall(frame)
                assert isinstance(clients[0].receive(), Stored)

        def at_once(frames: list[bytes]) -> None:
            left = iter(frames)
            for client in clients:
                client.sock.sendall(next(left))
            for number in range(len(frames)):
                client = clients[number % AT_ONCE]
                assert isinstance(client.receive(), Stored)
                frame = next(left, None)
                if frame is not None:
                    client.sock.sendall(frame)

        figures: dict[str, list[float]] = {"bare commits": [], "one at a time": [], f"{AT_ONCE} at once": []}
        rates = commits(folder)
        for each in range(rounds):
            figures["bare commits"].append(next(rates))
            some = approvals[2 * APPROVALS * each : 2 * APPROVALS * (each + 1)]
            for call, frames in ((one_at_a_time, some[:APPROVALS]), (at_once, some[APPROVALS:])):
                began = time.perf_counter()
                call(frames)
                kind = "one at a time" if call is one_at_a_time else f"{AT_ONCE} at once"
                figures[kind].append(APPROVALS / (time.perf_counter() - began))
        rates.close()
        for kind, found in figures.items():
            ratio = statistics.median(a / b for a, b in zip(found, figures["bare commits"], strict=True))
            print(f"  {kind:16} {statistics.median(found):7,.0f} /s   x bare {ratio:.2f}")
        print(f"the server holds {memory(pid):.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--users", type=int, default=SIZES[-1])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=("start", "get", "approve"))
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trunkline-bench-")))
        realms = {}
        for size in (*(size for size in SIZES if size < options.users), options.users):
            began = time.perf_counter()
            realms[size] = realm = Realm(folder / str(size))
            realm.grow(size)
            print(f"{realm.users:,} users, built in {time.perf_counter() - began:.0f} s", flush=True)
        if options.only in (None, "start"):
            rounds = [[start_up_of(each) for each in realms.values()] for _ in range(9)]
            for size, found in zip(realms, zip(*rounds, strict=True), strict=True):
                print(f"  start-up with {size:9,} users: {statistics.median(found) * 1e3:5.1f} ms")
            bytes_on_disk = sum(file.stat().st_size for file in realm.home.folder.glob("directory.sqlite*"))
            print(f"on disk: {bytes_on_disk / 1e6:,.0f} MB", flush=True)
        if options.only in (None, "get"):
            measure_get(realm, options.rounds)
        if options.only in (None, "approve"):
            measure_approvals(realm, options.rounds, folder)


if __name__ == "__main__":
    main()
