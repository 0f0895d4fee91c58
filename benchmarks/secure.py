"""How long a `secure_meet` with a secure post takes, from the name to the first byte echoed; how fast its stream is.

Beside it, what it can't beat: mutual TLS 1.3 between two processes that know each other's address, with contexts made
once, Ed25519 certificates of one authority, and a sequential accept loop; full handshakes and resumed ones. Ours goes
through a switchboard that speaks TLS too, proves users of a realm, and confirms the meeting. No authority runs: while a
head is fresh nobody asks one.

Everything is up side by side; the kinds take turns in short rounds, so that noise on the machine meets all alike.

    python benchmarks/secure.py [--rounds N] [--seconds S] [--mebibytes N]
"""

import argparse
import contextlib
import datetime as dt
import json
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.realmkit import Realm
from trunkline import Switchboard
from trunkline.drivers.membership import Membership
from trunkline.drivers.realm_home import RealmHome
from trunkline.drivers.secure_sockets import SecureHandshake, Want
from trunkline.meeting.confirmation import Meeting
from trunkline.meeting.handshake import Role

KINDS = ("raw TLS", "raw TLS, resumed", "secure_meet", "secure_meet, resumed")
BASE = {"secure_meet": "raw TLS", "secure_meet, resumed": "raw TLS, resumed"}
CLIENTS, THREADS = 4, 8
BLOCK = bytes(256 * 1024)


# ---- what both sides do with a connection ---------------------------------------------------------------------------


def serve(conn: socket.socket) -> None:
    """Echo a byte; or, if it is an S, swallow eight bytes' worth of a number and so many bytes, and say so."""
    with conn, contextlib.suppress(OSError):
        first = conn.recv(1)
        if first != b"S":
            conn.sendall(first)
            return
        left = int.from_bytes(conn.recv(8), "big")
        buffer = bytearray(len(BLOCK))
        while left > 0:
            left -= conn.recv_into(buffer)
        conn.sendall(b"D")


def echoed(conn: socket.socket) -> None:
    conn.sendall(b"x")
    assert conn.recv(1) == b"x"


def swallowed(conn: socket.socket, size: int) -> float:
    start = time.perf_counter()
    conn.sendall(b"S" + size.to_bytes(8, "big"))
    for _ in range(size // len(BLOCK)):
        conn.sendall(BLOCK)
    assert conn.recv(1) == b"D"
    return size / (time.perf_counter() - start)


# ---- raw TLS --------------------------------------------------------------------------------------------------------


def write_raw(folder: Path) -> None:
    """Write an authority and two certificates for the raw peers."""
    now = dt.datetime.now(dt.UTC)
    authority = ed25519.Ed25519PrivateKey.generate()
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])

    def certificate(name: x509.Name, key: ed25519.Ed25519PrivateKey, *, ca: bool) -> bytes:
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - dt.timedelta(1)).not_valid_after(now + dt.timedelta(9))
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        return builder.sign(authority, None).public_bytes(Encoding.PEM)

    (folder / "authority.pem").write_bytes(certificate(issuer, authority, ca=True))
    for side in ("client", "server"):
        key = ed25519.Ed25519PrivateKey.generate()
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, side)])
        (folder / f"{side}.pem").write_bytes(secret + certificate(name, key, ca=False))


def raw_context(folder: Path, side: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if side == "server" else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(folder / "authority.pem")
    context.load_cert_chain(folder / f"{side}.pem")
    return context


def accept_raw(folder: Path) -> None:
    context = raw_context(folder, "server")
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            conn, _ = listener.accept()
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                tls = context.wrap_socket(conn, server_side=True)
            except OSError:
                conn.close()
                continue
            serve(tls)


def raw_call(folder: Path, port: int, *, resume: bool) -> Callable[[], Callable[[], ssl.SSLSocket]]:
    context = raw_context(folder, "client")

    def caller() -> Callable[[], ssl.SSLSocket]:
        kept: list[ssl.SSLSession | None] = [None]

        def call() -> ssl.SSLSocket:
            conn = socket.create_connection(("127.0.0.1", port))
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tls = context.wrap_socket(conn, session=kept[0])
            echoed(tls)
            if resume:
                assert tls.session_reused or kept[0] is None
                kept[0] = tls.session
            return tls

        return call

    return caller


# ---- ours -----------------------------------------------------------------------------------------------------------


def write_realm(folder: Path) -> None:
    """Write a home each for a switchboard, ann and ben, with a head and a certificate that last."""
    realm = Realm()
    for user in ("switchboard/b", "ann", "ben"):
        home = realm.home(folder / user, user, max_staleness=86_400)
        home.keep_credential(user, realm.credential(user))
        home.keep_state(realm.trust().state())


def switchboard(folder: Path) -> None:
    from trunkline.drivers.selector import run
    from trunkline.drivers.server_aio import SwitchboardServer
    from trunkline.names import Address
    from trunkline.switchboard.config import ServerConfig
    from trunkline.switchboard.policy import Policy

    async def main() -> None:
        member = Membership.open(RealmHome(folder / "switchboard/b"))
        config = ServerConfig(id="b", address=Address("127.0.0.1", 0), policy=Policy(realm=member.realm))
        async with SwitchboardServer(config, member=member) as server:
            print(server.address, flush=True)
            await server.serve_forever()

    run(main())


def accept_secure(folder: Path, where: str) -> None:
    with (
        Switchboard(where, home=folder / "ben") as board,
        board.secure_post("vault", allow=["ann"], backlog=1024) as post,
    ):
        print("ready", flush=True)
        for conn in post:
            serve(conn)


class Forgetful:
    """Sessions that are not kept."""

    def get(self, *_: object) -> None:
        return None

    def put(self, *_: object) -> None:
        return None

    forget = put


def secure_call(folder: Path, where: str, *, resume: bool) -> Callable[[], Callable[[], ssl.SSLSocket]]:
    member = Membership.open(RealmHome(folder / "ann"))
    board = Switchboard(where, home=folder / "ann", memberships=[member])
    if not resume:
        member.sessions = Forgetful()  # type: ignore[assignment]
    count = iter(range(1 << 30))

    def caller() -> Callable[[], ssl.SSLSocket]:
        me = f"alice{time.monotonic_ns()}.{next(count)}"

        def call() -> ssl.SSLSocket:
            conn = board.secure_meet(me, "vault", peer_user="ben", timeout=30)
            echoed(conn)
            return conn

        return call

    return caller


def flights(folder: Path, *, resumed: bool) -> int:
    """Count how often the two sides of a handshake take turns, confirmation included."""
    ann, ben = (Membership.open(RealmHome(folder / user)) for user in ("ann", "ben"))
    with ann, ben:
        for _ in range(2 if resumed else 1):
            sides = []
            for role, me, you, member, peer in (
                (Role.ACTIVE, "a", "b", ann, "ben"),
                (Role.PASSIVE, "b", "a", ben, "ann"),
            ):
                assert member.user is not None
                handshake = SecureHandshake(Meeting(role, bytes(8), me, you, member.user, peer), member, now=0.0)
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                handshake.over_memory(incoming, outgoing)
                sides.append((handshake, incoming, outgoing))
            turns, done = 0, [False, False]
            while not all(done):
                for me, (handshake, _, outgoing) in enumerate(sides):
                    done[me] = done[me] or handshake.step(0.0) is Want.NOTHING
                    data = outgoing.read()
                    turns += bool(data)
                    sides[1 - me][1].write(data)
    return turns


# ---- measuring ------------------------------------------------------------------------------------------------------


def client(folder: Path, kind: str, where: str) -> None:
    """Do what is asked on stdin: so many threads for so many seconds, or so many bytes of a stream."""
    resume = kind.endswith("resumed")
    raw = kind.startswith("raw")
    caller = raw_call(folder, int(where), resume=resume) if raw else secure_call(folder, where, resume=resume)
    caller()().close()
    print("ready", flush=True)
    for line in sys.stdin:
        threads, seconds, size = json.loads(line)
        if size:
            conn = stream(folder, caller, raw=raw, where=where)
            with conn:
                print(json.dumps(swallowed(conn, size)), flush=True)
            continue
        took: list[float] = []
        end = time.monotonic() + seconds

        def go(call: Callable[[], ssl.SSLSocket], end: float = end, took: list[float] = took) -> None:
            while time.monotonic() < end:
                start = time.perf_counter()
                call().close()
                took.append(time.perf_counter() - start)

        start = time.perf_counter()
        calls = [caller() for _ in range(threads)]
        if threads == 1:
            calls[0]().close()  # one that may not be resumed yet
            go(calls[0])
        else:
            workers = [threading.Thread(target=go, args=(call,)) for call in calls]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        print(json.dumps([statistics.median(took), len(took) / (time.perf_counter() - start)]), flush=True)


def stream(folder: Path, caller: Callable[[], Callable[[], ssl.SSLSocket]], *, raw: bool, where: str) -> ssl.SSLSocket:
    """Connect without the echo that ends a connection."""
    if raw:
        conn = socket.create_connection(("127.0.0.1", int(where)))
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return raw_context(folder, "client").wrap_socket(conn)
    member = Membership.open(RealmHome(folder / "ann"))
    board = Switchboard(where, home=folder / "ann", memberships=[member])
    return board.secure_meet(f"s{time.monotonic_ns()}", "vault", peer_user="ben", timeout=30)


@contextlib.contextmanager
def process(*args: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, __file__, "--role", *map(str, args)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def ask(children: list[subprocess.Popen[str]], *question: float) -> list[list[float]]:
    for child in children:
        child.stdin.write(json.dumps(question) + "\n")
        child.stdin.flush()
    return [json.loads(child.stdout.readline()) for child in children]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each kind in each round")
    parser.add_argument("--mebibytes", type=int, default=64, help="of each stream")
    parser.add_argument("--role", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        name, folder, *rest = options.role
        {"switchboard": switchboard, "raw": accept_raw, "secure": accept_secure, "client": client}[name](
            Path(folder), *rest
        )
        return
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_raw(folder)
        write_realm(folder)
        where = stack.enter_context(process("switchboard", folder)).stdout.readline().strip()
        port = stack.enter_context(process("raw", folder)).stdout.readline().strip()
        stack.enter_context(process("secure", folder, where)).stdout.readline()
        clients = {
            kind: [
                stack.enter_context(process("client", folder, kind, port if kind.startswith("raw") else where))
                for _ in range(CLIENTS)
            ]
            for kind in KINDS
        }
        for children in clients.values():
            for child in children:
                assert child.stdout.readline() == "ready\n"
        one: dict[str, list[float]] = {kind: [] for kind in KINDS}
        many: dict[str, list[float]] = {kind: [] for kind in KINDS}
        streams: dict[str, list[float]] = {kind: [] for kind in ("raw TLS", "secure_meet")}
        for _ in range(options.rounds):
            for kind, children in clients.items():
                one[kind].append(ask(children[:1], 1, options.seconds, 0)[0][0])
            for kind, children in clients.items():
                many[kind].append(sum(rate for _, rate in ask(children, THREADS, options.seconds, 0)))
            for kind, rates in streams.items():
                rates.append(float(ask(clients[kind][:1], 1, 0, options.mebibytes << 20)[0]))  # type: ignore[arg-type]
        print(f"{'':24}one at a time        {CLIENTS * THREADS} at a time")
        for kind in KINDS:
            base = BASE.get(kind, kind)
            slower = statistics.median(a / b for a, b in zip(one[kind], one[base], strict=True))
            rate = statistics.median(a / b for a, b in zip(many[kind], many[base], strict=True))
            print(
                f"{kind:22}{statistics.median(one[kind]) * 1e6:7.0f} us  {slower:5.2f} x "
                f"{statistics.median(many[kind]):10.0f} a second  {rate:5.2f} x"
            )
        for kind, rates in streams.items():
            ratio = statistics.median(a / b for a, b in zip(rates, streams["raw TLS"], strict=True))
            print(f"stream, {kind:14}{statistics.median(rates) / 1e6:7.0f} MB/s{ratio:6.2f} x")
        full, short = (flights(folder, resumed=resumed) for resumed in (False, True))
        print(
            f"messages: 4 with the switchboard, then the plain exchange of the peers, then {full} flights of TLS and "
            f"confirmation ({short} resumed); none to the authority.\nThe paper's secure meeting takes 15, or 11 with "
            "keys that are cached."
        )


if __name__ == "__main__":
    main()
