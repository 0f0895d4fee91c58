"""Memory of a switchboard server: for each pending request, and for each idle client connection.

    python benchmarks/memory.py [--requests N] [--connections N]

The server is a process of its own on a free loopback port; what is shown is its resident memory before and after.
"""

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

from trunkline.names import Candidate, Candidates
from trunkline.wire.codec import PREAMBLE, Inbound, encode, encode_candidates
from trunkline.wire.messages import AskStatus, Hello, Meet, ServerStatus

PER_CLIENT = 1000
"""Requests that each connection lodges; the server's cap is a little above it."""


def resident(pid: int) -> int:
    """Return a process's resident memory in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def start_server(*more: str) -> tuple[subprocess.Popen[str], int]:
    """Start `trunkline switchboard` on a free port, and return it with its port."""
    server = subprocess.Popen(
        [sys.executable, "-m", "trunkline", "switchboard", "--listen", "127.0.0.1:0", "--json", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    port = int(str(json.loads(server.stdout.readline())["address"]).rpartition(":")[2])
    return server, port


class Client:
    """A connection to the server that says only what it is told to."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.inbound = Inbound()
        self.sock.sendall(PREAMBLE + encode(Hello("memory benchmark")))

    def settle(self) -> None:
        """Wait until the server has read all that was sent."""
        self.sock.sendall(encode(AskStatus(1)))
        while True:
            for message in self.inbound.receive_data(self.sock.recv(65536)):
                if isinstance(message, ServerStatus):
                    return


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--requests", type=int, default=10_000)
    options.add_argument("--connections", type=int, default=5_000)
    args = options.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    blob = encode_candidates(
        Candidates(b"p" * 8, (Candidate("unix", "@trunkline-0123456789abcdef"), Candidate("tcp4", "192.0.2.77", 40123)))
    )

    server, port = start_server()
    try:
        clients = [Client(port) for _ in range(-(-args.requests // PER_CLIENT))]
        for client in clients:
            client.settle()
        before = resident(server.pid)
        for number in range(args.requests):
            rid = number.to_bytes(16, "big")
            request = Meet(rid, 1, f"waiting-{number:06}", f"wanted-{number:06}", blob)
            clients[number // PER_CLIENT].sock.sendall(encode(request))
        for client in clients:
            client.settle()
        each = (resident(server.pid) - before) / args.requests
        print(f"pending request    {each:8.0f} bytes each, of {args.requests} on {len(clients)} connections")
        for client in clients:
            client.sock.close()
    finally:
        server.terminate()
        server.wait()

    server, port = start_server("--heartbeat", "60")
    try:
        Client(port).settle()
        before = resident(server.pid)
        clients = [Client(port) for _ in range(args.connections)]
        for client in clients:
            client.settle()
        each = (resident(server.pid) - before) / args.connections
        print(f"idle connection    {each:8.0f} bytes each, of {args.connections}")
        for client in clients:
            client.sock.close()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
