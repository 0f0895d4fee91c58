"""Memory of a switchboard server: for each pending request, and for each idle client connection, plain and secure.

    python benchmarks/memory.py [--requests N] [--connections N] [--secure N]

The server is a process of its own on a free loopback port; what is shown is its resident memory before and after.
Secure connections are TLS 1.3 with certificates of both sides, which is the dearest kind.
"""

import argparse
import json
import os
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trunkline.authority.certificates import fingerprint_text
from trunkline.authority.heads import revoked_digest, sign_head
from trunkline.authority.issuing import Issuer, build_intermediate, build_request, build_root
from trunkline.authority.messages import Head, HeadIs
from trunkline.authority.trust import Trust
from trunkline.drivers.keys import UserKey, generate_p256
from trunkline.drivers.realm_home import RealmHome, RealmSettings
from trunkline.drivers.tls import Credential, client_context
from trunkline.names import Candidate, Candidates
from trunkline.wire.codec import PREAMBLE, Inbound, encode, encode_candidates
from trunkline.wire.messages import AskStatus, Hello, Meet, ServerStatus

PER_CLIENT = 1000
"""Requests that each connection lodges; the server's cap is a little above it."""


USERS: int = 200
"""Users of the secure connections; each has ten of them or so."""


def resident(pid: int) -> int:
    """Return a process's resident memory in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def start_server(home: Path, *more: str) -> tuple[subprocess.Popen[str], int]:
    """Start `trunkline switchboard` on a free port, and return it with its port."""
    server = subprocess.Popen(
        [sys.executable, "-m", "trunkline", "switchboard", "--listen", "127.0.0.1:0", "--json", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TRUNKLINE_HOME": str(home)},
    )
    assert server.stdout is not None
    port = int(str(json.loads(server.stdout.readline())["address"]).rpartition(":")[2])
    return server, port


class Client:
    """A connection to the server that says only what it is told to."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock)
        self.inbound = Inbound()
        self.sock.sendall(PREAMBLE + encode(Hello("memory benchmark")))

    def settle(self) -> None:
        """Wait until the server has read all that was sent."""
        self.sock.sendall(encode(AskStatus(1)))
        while True:
            for message in self.inbound.receive_data(self.sock.recv(65536)):
                if isinstance(message, ServerStatus):
                    return


class Realm:
    """As much of a realm as servers and their clients need: certificates, and a head that says nothing is revoked."""

    def __init__(self) -> None:
        self.now = now = int(time.time())
        root_key, key = generate_p256(), generate_p256()
        self.root = build_root("bench", root_key, b"\1" * 16, now - 600, now + 86400)
        authority = build_intermediate(self.root, root_key, key.public_key(), b"\2" * 16, now - 600, now + 86400)
        self.issuer = Issuer(self.root, authority, key)
        self.serial = 16

    def credential(self, user: str, key: UserKey) -> Credential:
        """Issue a certificate."""
        self.serial += 1
        secret = generate_p256()
        request, serial = build_request(secret, user), self.serial.to_bytes(16, "big")
        dates = (self.now - 300, self.now + 43200)
        return Credential(self.issuer.issue(user, key.public.signing, request, serial, *dates), secret)

    def home(self, path: Path, user: str) -> None:
        """Write the home of a server that has been in touch with the authority."""
        home, key = RealmHome(path), UserKey.generate()
        home.join(self.root, RealmSettings("bench", fingerprint_text(self.issuer.fingerprint), user=user))
        home.save_key(user, key)
        home.keep_credential(user, self.credential(user, key))
        fingerprint, nothing = self.issuer.fingerprint, bytes(32)
        head = Head(fingerprint, 0, nothing, nothing, self.now, revoked_digest(()), self.issuer.key_id)
        trust = Trust("bench", self.root)
        answer = HeadIs(1, sign_head(head, self.issuer), (), (), (self.issuer.authority.certificate,))
        trust.update_head(answer, self.now)
        home.keep_state(trust.state())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--requests", type=int, default=10_000)
    options.add_argument("--connections", type=int, default=5_000)
    options.add_argument("--secure", type=int, default=2_000)
    args = options.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    blob = encode_candidates(
        Candidates(b"p" * 8, (Candidate("unix", "@trunkline-0123456789abcdef"), Candidate("tcp4", "192.0.2.77", 40123)))
    )

    with tempfile.TemporaryDirectory() as folder:
        requests(Path(folder), args.requests, blob)
        connections(Path(folder), args.connections, "idle connection", None)
        realm = Realm()
        realm.home(Path(folder), "switchboard/bench")
        # A user for each, as in life: what the server keeps of their certificates is not the same.
        contexts = [client_context(realm.root, realm.credential(f"user/{n}", UserKey.generate())) for n in range(USERS)]
        connections(Path(folder), args.secure, "secure connection", contexts)


def requests(home: Path, count: int, blob: bytes) -> None:
    """Measure a pending request."""
    server, port = start_server(home)
    try:
        clients = [Client(port) for _ in range(-(-count // PER_CLIENT))]
        for client in clients:
            client.settle()
        before = resident(server.pid)
        for number in range(count):
            rid = number.to_bytes(16, "big")
            request = Meet(rid, 1, f"waiting-{number:06}", f"wanted-{number:06}", blob)
            clients[number // PER_CLIENT].sock.sendall(encode(request))
        for client in clients:
            client.settle()
        each = (resident(server.pid) - before) / count
        print(f"pending request    {each:8.0f} bytes each, of {count} on {len(clients)} connections")
        for client in clients:
            client.sock.close()
    finally:
        server.terminate()
        server.wait()


def connections(home: Path, count: int, what: str, contexts: list[ssl.SSLContext] | None) -> None:
    """Measure an idle connection, which has greeted and asked one question."""
    server, port = start_server(home, "--heartbeat", "600")
    try:
        kinds = contexts or [None]
        Client(port, kinds[0]).settle()
        before = resident(server.pid)
        clients = []
        for number in range(count):
            clients.append(Client(port, kinds[number % len(kinds)]))
            clients[-1].settle()
        each = (resident(server.pid) - before) / count
        print(f"{what:18} {each:8.0f} bytes each, of {count}")
        for client in clients:
            client.sock.close()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
