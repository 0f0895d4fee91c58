"""Secure meetings of asyncio programs, 32 at a time, and a secure stream, beside TLS without us.

Meetings: from the name to the first byte echoed, full handshakes and resumed ones, by clients in four processes with
eight calls each under way, all to one process that posts. Beside them, TLS 1.3 by `ssl` to a known address with the
same certificates: one process that accepts one after the other, clients in four processes with eight threads each. And
asyncio's own TLS, which can't resume.

Streams: one direction, in pieces of 1 MiB, from one process to another: blocking `ssl`, asyncio's own TLS, ours.

The kinds take turns in short rounds, so that noise on the machine meets all alike. With uvloop installed, --uvloop runs
all asyncio kinds on it.

    python benchmarks/secure_aio.py [--rounds N] [--seconds S] [--uvloop]
"""

import argparse
import asyncio
import contextlib
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

from trunkline.aio import Switchboard
from trunkline.authority.certificates import fingerprint_text
from trunkline.authority.heads import revoked_digest, sign_head
from trunkline.authority.issuing import DAY, LEAF_LIFETIME, Issuer, build_intermediate, build_request, build_root
from trunkline.authority.messages import Head, HeadIs
from trunkline.authority.trust import Trust
from trunkline.drivers.keys import UserKey, generate_p256
from trunkline.drivers.membership import Membership
from trunkline.drivers.realm_home import RealmHome, RealmSettings
from trunkline.drivers.selector import new_event_loop
from trunkline.drivers.server_aio import SwitchboardServer
from trunkline.drivers.streams_aio import tls_streams
from trunkline.drivers.tls import Credential
from trunkline.names import Address, Peer
from trunkline.switchboard.config import ServerConfig
from trunkline.switchboard.policy import Policy

HOST = "127.0.0.1"
CLIENTS, CALLS = 4, 8
PIECE = 1 << 20
PIECES = 64
MEETS = ("tls", "tls resumed", "asyncio's tls", "secure_meet", "secure_meet resumed")
STREAMS = ("tls", "asyncio's tls", "ours")
SERVER = "switchboard/bench"


# ---- a realm of two users and a server, no authority -------------------------------------------------------------


def make_homes(folder: Path) -> None:
    """Write homes of two users and of a server, as after a first run."""
    now = int(time.time())
    root_key, key = generate_p256(), generate_p256()
    root = build_root("bench.example", root_key, b"\1" * 16, now - DAY, now + DAY)
    middle = build_intermediate(root, root_key, key.public_key(), b"\2" * 16, now - DAY, now + DAY)
    issuer = Issuer(root, middle, key)
    head = Head(issuer.fingerprint, 0, bytes(32), bytes(32), now, revoked_digest(()), issuer.key_id)
    for number, user in enumerate(("ann", "ben", SERVER), 3):
        home = RealmHome(folder / user, {})
        home.join(root, RealmSettings("bench.example", fingerprint_text(issuer.fingerprint), user=user))
        trust = Trust("bench.example", root)
        trust.update_head(HeadIs(1, sign_head(head, issuer), (), (), (issuer.authority.certificate,)), now)
        home.keep_state(trust.state())
        keys, secret = UserKey.generate(), generate_p256()
        home.save_key(user, keys)
        csr = build_request(secret, user)
        chain = issuer.issue(user, keys.public.signing, csr, bytes([number]) * 16, now - 300, now + LEAF_LIFETIME)
        home.keep_credential(user, Credential(chain, secret))


class NoSessions:
    """Resumes nothing."""

    def get(self, *_: object) -> None:
        return None

    def put(self, *_: object) -> None:
        pass


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return ann's context to dial with, and ben's to accept with."""
    with (
        Membership.open(RealmHome(folder / "ann", {})) as ann,
        Membership.open(RealmHome(folder / "ben", {})) as ben,
    ):
        return ann.tls_client(), ben.tls_server()


# ---- the accepting side, each a process of its own ---------------------------------------------------------------


def accept_tls(folder: Path) -> None:
    """Echo a byte to one after the other."""
    _, context = contexts(folder)
    listener = socket.create_server((HOST, 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    while True:
        conn = context.wrap_socket(listener.accept()[0], server_side=True)
        with conn:
            conn.send(conn.recv(1))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readexactly(1))
    writer.close()


async def accept_asyncio(folder: Path) -> None:
    server = await asyncio.start_server(echo, HOST, 0, ssl=contexts(folder)[1], backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def accept_ours(folder: Path) -> None:
    config = ServerConfig(id="", address=Address(HOST, 0), policy=Policy(realm="bench.example"))
    member = Membership.open(RealmHome(folder / SERVER, {}))
    async with SwitchboardServer(config, member=member) as server:
        command = [sys.executable, __file__, "--post", str(server.address), str(folder), *LOOP]
        post = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: ASYNC220 - nothing else runs yet
        await asyncio.to_thread(post.stdout.readline)
        print(server.address, flush=True)
        try:
            await server.serve_forever()
        finally:
            post.terminate()


async def post(where: str, folder: Path) -> None:
    board = Switchboard(where, home=folder / "ben")
    async with board, board.secure_post("service", allow="ann", backlog=256) as offer:
        print("ready", flush=True)
        serving = set()
        async for reader, writer, _ in offer:
            task = asyncio.create_task(echo(reader, writer))
            serving.add(task)
            task.add_done_callback(serving.discard)


# ---- the calling side ---------------------------------------------------------------------------------------------


def call_tls(folder: Path, port: int, seconds: float, *, resumed: bool) -> int:
    """Call for so long, by threads; return how often."""
    context, _ = contexts(folder)
    counts = []

    def go() -> None:
        session, count = None, 0
        while time.perf_counter() < end:
            with context.wrap_socket(socket.create_connection((HOST, port)), session=session) as conn:
                conn.send(b"x")
                conn.recv(1)
                if resumed and session is None:
                    session = conn.session
            count += 1
        counts.append(count)

    end = time.perf_counter() + seconds
    threads = [threading.Thread(target=go) for _ in range(CALLS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


async def call_often(once: Callable[[int], object], seconds: float) -> int:
    """Call for so long, by tasks; return how often."""
    end = time.perf_counter() + seconds

    async def go(number: int) -> int:
        count = 0
        while time.perf_counter() < end:
            reader, writer = await once(number)
            writer.write(b"x")
            await reader.readexactly(1)
            writer.close()
            count += 1
        return count

    return sum(await asyncio.gather(*map(go, range(CALLS))))


async def client(kind: str, where: str, folder: Path, number: str) -> None:
    """Call for as many seconds as each line says; answer with how often."""
    context, _ = contexts(folder)
    board = Switchboard(where, home=folder / "ann")
    if kind == "secure_meet":
        board._memberships.get(None).sessions = NoSessions()

    async def by_name(call: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer, _ = await board.secure_meet(f"client{number}/{call}", "service", peer_user="ben")
        return reader, writer

    async def by_port(_: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(HOST, int(where), ssl=context, server_hostname="")

    async with board:
        while line := await asyncio.to_thread(sys.stdin.readline):
            if kind.startswith("tls"):
                count = await asyncio.to_thread(
                    call_tls, folder, int(where), float(line), resumed=kind.endswith("resumed")
                )
            else:
                count = await call_often(by_port if kind == "asyncio's tls" else by_name, float(line))
            print(count, flush=True)


# ---- streams --------------------------------------------------------------------------------------------------------


async def stream_of(kind: str, sock: socket.socket, context: ssl.SSLContext, *, server: bool) -> tuple:
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    if kind == "ours":
        tls = context.wrap_socket(sock, server_side=server, do_handshake_on_connect=False)
        while True:
            try:
                tls.do_handshake()
                return tls_streams(tls, Peer(""))
            except ssl.SSLWantReadError:
                await asyncio.sleep(0.001)
    if not server:
        return await asyncio.open_connection(sock=sock, ssl=context, server_hostname="")
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock, ssl=context)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def take(kind: str, folder: Path) -> None:
    """Be the receiving end: take everything, and answer with a byte."""
    with socket.create_server((HOST, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        sock, _ = listener.accept()
    context = contexts(folder)[1]
    left = PIECE * PIECES
    if kind == "tls":
        room = bytearray(PIECE)
        with context.wrap_socket(sock, server_side=True) as conn:
            while left:
                left -= conn.recv_into(room)
            conn.send(b"!")
        return
    reader, writer = await stream_of(kind, sock, context, server=True)
    while left:
        left -= len(await reader.read(PIECE))
    writer.write(b"!")
    await reader.read()
    writer.close()


async def send(kind: str, folder: Path, port: int) -> float:
    """Return MiB a second."""
    data, context = bytes(PIECE), contexts(folder)[0]
    sock = socket.create_connection((HOST, port))
    start = time.perf_counter()
    if kind == "tls":
        with context.wrap_socket(sock) as conn:
            for _ in range(PIECES):
                conn.sendall(data)
            conn.recv(1)
        return PIECES / (time.perf_counter() - start)
    reader, writer = await stream_of(kind, sock, context, server=False)
    for _ in range(PIECES):
        writer.write(data)
        await writer.drain()
    await reader.readexactly(1)
    took = time.perf_counter() - start
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return PIECES / took


# ---- the whole ---------------------------------------------------------------------------------------------------


def process(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *arguments, *LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with process(*arguments) as started:
        try:
            yield started
        finally:
            started.terminate()


def measure_meets(folder: str, rounds: int, seconds: float) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {kind: [] for kind in MEETS}
    with contextlib.ExitStack() as stack:
        clients = {}
        for kind in MEETS:
            server = stack.enter_context(running("--accept", kind, folder))
            where = server.stdout.readline().strip()
            clients[kind] = [
                stack.enter_context(running("--client", kind, where, folder, str(n))) for n in range(CLIENTS)
            ]
        for number in range(rounds + 1):  # the first warms up
            for kind, started in clients.items():
                for each in started:
                    each.stdin.write(f"{seconds}\n")
                    each.stdin.flush()
                counted = sum(int(each.stdout.readline()) for each in started)
                if number:
                    rates[kind].append(counted / seconds)
    return rates


def measure_streams(folder: str, rounds: int) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {kind: [] for kind in STREAMS}
    for _ in range(rounds):
        for kind in STREAMS:
            with running("--take", kind, folder) as taking:
                port = taking.stdout.readline().strip()
                sending = process("--send", kind, folder, port)
                rates[kind].append(float(sending.communicate()[0]))
    return rates


def report(what: str, unit: str, rates: dict[str, list[float]], bases: dict[str, str]) -> None:
    print(what)
    for kind, each in rates.items():
        base = bases.get(kind, kind)
        ratio = statistics.median(mine / theirs for mine, theirs in zip(each, rates[base], strict=True))
        beside = "" if base == kind else f"   {ratio:.2f} x {base}"
        print(f"  {kind:20} {statistics.median(each):8.0f} {unit}{beside}")


def run(main: Callable[[], object]) -> object:
    if LOOP:
        import uvloop

        return asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main)
    return asyncio.Runner(loop_factory=new_event_loop).run(main)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each kind in each round")
    parser.add_argument("--uvloop", action="store_true", help="run what is asynchronous on uvloop")
    for half, count in (("accept", 2), ("post", 2), ("client", 4), ("take", 2), ("send", 3)):
        parser.add_argument(f"--{half}", nargs=count, help=argparse.SUPPRESS)
    options = parser.parse_args()
    LOOP.extend(["--uvloop"] * options.uvloop)
    if options.accept:
        kind, folder = options.accept
        if kind.startswith("tls"):
            accept_tls(Path(folder))
        run((accept_asyncio if kind == "asyncio's tls" else accept_ours)(Path(folder)))
    elif options.post:
        run(post(options.post[0], Path(options.post[1])))
    elif options.client:
        kind, where, folder, number = options.client
        run(client(kind, where, Path(folder), number))
    elif options.take:
        run(take(options.take[0], Path(options.take[1])))
    elif options.send:
        kind, folder, port = options.send
        print(run(send(kind, Path(folder), int(port))))
    else:
        with tempfile.TemporaryDirectory() as folder:
            make_homes(Path(folder))
            meets = measure_meets(folder, options.rounds, options.seconds)
            streams = measure_streams(folder, options.rounds)
        bases = {"asyncio's tls": "tls", "secure_meet": "tls", "secure_meet resumed": "tls resumed", "ours": "tls"}
        report(f"{CLIENTS * CALLS} at a time, from the name to the first byte", "a second", meets, bases)
        report("a stream in one direction", "MiB a second", streams, bases)


LOOP: list[str] = []

if __name__ == "__main__":
    main()
