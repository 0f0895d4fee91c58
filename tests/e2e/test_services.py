"""Services that know nothing of Trunkline, used across hosts through `expose` and `reach` by their usual clients."""

import contextlib
import hashlib
import http.client
import os
import pwd
import random
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.hosts import Host, Lan
from tests.e2e.mesh import PATIENCE, Mesh
from tests.e2e.process import Process
from tests.programs import find_program

pytestmark = [pytest.mark.e2e, pytest.mark.requires_root_netns]

# Reads a connection to its end, then answers with the number of bytes and their hash; a thread for each.
DIGEST = """
import hashlib, socketserver
class Digest(socketserver.StreamRequestHandler):
    def handle(self):
        size, seen = 0, hashlib.sha256()
        while data := self.rfile.read1():
            size += len(data)
            seen.update(data)
        self.wfile.write(f"{size} {seen.hexdigest()}".encode())
class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 256
server = Server(("127.0.0.1", 8000), Digest)
print("ready")
server.serve_forever()
"""

BIG = 50_000_000  # bytes of the file that is fetched


@pytest.fixture
def mesh(lan: Lan, tmp_path: Path) -> Iterator[Mesh]:
    """Three servers; the service and `expose` are on host one, `reach` and the client on host two."""
    mesh = Mesh(lan, ("one", "two", "three"), tmp_path).start().wait_until_joined()
    yield mesh
    mesh.stop()


def expose(mesh: Mesh, name: str, service: str) -> Process:
    process = mesh.command("one", "expose", name, service)
    process.wait_for_line("leads to", PATIENCE)
    return process


def reach(mesh: Mesh, name: str, listen: str) -> Process:
    process = mesh.command("two", "reach", name, "--listen", listen)
    process.wait_for_line("leads to", PATIENCE)
    return process


def check_quiet(*processes: Process) -> None:
    """See that commands end in good order when they are told to, and had nothing to complain of."""
    for process in processes:
        process.ask_to_end()
        assert process.wait() in (0, 130), process.stderr
        assert not re.search("Traceback|turned away|ERROR", process.stderr), process.stderr


# ---- PostgreSQL --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def database(host: Host) -> Iterator[Path]:
    """Run a PostgreSQL server on a host, at 127.0.0.1:5432 and in the folder that is given."""
    # It refuses to run as root; and its user may not enter pytest's own folders.
    user = pwd.getpwnam("postgres")
    options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}
    with tempfile.TemporaryDirectory(prefix="trunkline-pg-") as place:
        folder = Path(place)
        os.chown(folder, user.pw_uid, user.pw_gid)
        data = folder / "data"
        initdb = [find_program("initdb"), "--pgdata", data, "--username=postgres", "--auth=trust", "--no-sync"]
        host.run([*initdb, "--no-locale", "--encoding=UTF8"], deadline=PATIENCE, **options)
        settings = ["fsync=off", "listen_addresses=127.0.0.1", "port=5432", f"unix_socket_directories={folder}"]
        words = [word for setting in settings for word in ("-c", setting)]
        with host.start([find_program("postgres"), "-D", data, *words], **options) as server:
            server.wait_for_line("ready to accept connections", PATIENCE)
            yield folder
            assert server.stop(PATIENCE) == 0


def pgbench(host: Host, at: str, *words: str) -> str:
    """Run pgbench against 127.0.0.1:9000, or the socket of port 9000 in a folder."""
    server = ["--host", at, "--port", "9000", "--username", "postgres"]
    return host.run([find_program("pgbench"), *server, *words, "postgres"], deadline=PATIENCE).stdout


def check_transactions(output: str, wanted: int) -> None:
    assert f"number of transactions actually processed: {wanted}/{wanted}\n" in output, output
    assert "number of failed transactions: 0 (" in output, output


@pytest.mark.requires_program("initdb", "postgres", "pgbench")
def test_postgresql_over_tcp_and_unix_sockets(mesh: Mesh) -> None:
    two = mesh.hosts["two"]
    with database(mesh.hosts["one"]) as folder, tempfile.TemporaryDirectory(prefix="trunkline-pg-") as local:
        commands = [
            expose(mesh, "db", "tcp:127.0.0.1:5432"),
            expose(mesh, "db by socket", f"unix:{folder}/.s.PGSQL.5432"),
            reach(mesh, "db", "127.0.0.1:9000"),
            reach(mesh, "db by socket", f"unix:{local}/.s.PGSQL.9000"),
        ]
        for at in ("127.0.0.1", local):
            pgbench(two, at, "--initialize", "--scale=1", "--quiet")
            output = pgbench(two, at, "--client=8", "--jobs=2", "--transactions=50", "--no-vacuum")
            check_transactions(output, 400)
        # A connection, that is a meeting, for each transaction; two of the three servers die meanwhile.
        words = ["--connect", "--client=8", "--jobs=2", "--transactions=25", "--no-vacuum", "--progress=1"]
        address = ["--host=127.0.0.1", "--port=9000", "--username=postgres"]
        with two.start([find_program("pgbench"), *address, *words, "postgres"]) as client:
            mesh.servers["two"].kill()
            commands[2].wait_until(lambda said: said.count("connected to 'db'") > 100, PATIENCE)
            mesh.servers["one"].kill()
            assert client.wait(PATIENCE) == 0
            check_transactions(client.stdout, 200)
        check_quiet(*commands)
    mesh.start("one", "two")


# ---- nginx -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def website(host: Host, folder: Path) -> Iterator[None]:
    """Have nginx serve a folder on a host, at 127.0.0.1:8000."""
    config = folder / "nginx.conf"
    config.write_text(f"""
        daemon off;
        master_process off;
        user root;
        pid {folder}/nginx.pid;
        error_log stderr notice;
        events {{ worker_connections 512; }}
        http {{
            access_log off;
            client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
            keepalive_requests 1000000;
            server {{ listen 127.0.0.1:8000; root {folder}; }}
        }}
    """)
    # -e: before it has read that file, it would log to where the package says.
    with host.start([find_program("nginx"), "-e", "stderr", "-p", folder, "-c", config]) as server:
        server.wait_for_line('using the "epoll" event method', PATIENCE)
        yield
        assert server.stop(PATIENCE) == 0


def fetch(host: Host, path: str) -> str:
    """Fetch a file through `reach` at 127.0.0.1:9000; return its hash."""
    with host.entered(), contextlib.closing(http.client.HTTPConnection("127.0.0.1", 9000, timeout=PATIENCE)) as client:
        client.request("GET", path)
        response = client.getresponse()
        assert response.status == 200
        seen = hashlib.sha256()
        while data := response.read(1 << 20):
            seen.update(data)
        return seen.hexdigest()


@pytest.mark.requires_program("nginx", "wrk")
def test_nginx_under_load_while_servers_are_killed(mesh: Mesh, tmp_path: Path) -> None:
    one, two = mesh.hosts["one"], mesh.hosts["two"]
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "small").write_text("small\n" * 100)
    big = random.Random(1).randbytes(BIG)
    (folder / "big").write_bytes(big)
    wanted = hashlib.sha256(big).hexdigest()
    with website(one, folder):
        commands = [expose(mesh, "web", "tcp:127.0.0.1:8000"), reach(mesh, "web", "127.0.0.1:9000")]
        words = ["--threads=1", "--connections=32", "--duration=3s", "http://127.0.0.1:9000/small"]
        with two.start([find_program("wrk"), *words]) as load:
            commands[1].wait_until(lambda said: said.count("connected to 'web'") >= 32, PATIENCE)
            mesh.servers["two"].kill()
            assert fetch(two, "/big") == wanted
            mesh.servers["one"].kill()
            assert fetch(two, "/big") == wanted
            assert load.wait(PATIENCE) == 0
            output = load.stdout
        assert "Socket errors" not in output, output
        assert "Non-2xx" not in output, output
        assert int(re.search(r"(\d+) requests in", output)[1]) > 32, output
        check_quiet(*commands)
    mesh.start("one", "two")


# ---- the stream itself -------------------------------------------------------------------------------------------


def test_half_closed_connections_many_at_once(mesh: Mesh) -> None:
    one, two = mesh.hosts["one"], mesh.hosts["two"]
    rng = random.Random(2)
    bodies = [rng.randbytes(rng.choice((0, 1, 1000, 300_000))) for _ in range(60)] + [rng.randbytes(20_000_000)]

    def ask(body: bytes) -> str:
        """Send all, close that direction, and then read the answer."""
        with two.entered():
            conn = socket.create_connection(("127.0.0.1", 9000), timeout=PATIENCE)
        with conn:
            conn.sendall(body)
            conn.shutdown(socket.SHUT_WR)
            with conn.makefile() as answer:
                return answer.read()

    with one.start([sys.executable, "-c", DIGEST]) as service:
        service.wait_for_line("ready")
        commands = [expose(mesh, "digest", "tcp:127.0.0.1:8000"), reach(mesh, "digest", "127.0.0.1:9000")]
        with ThreadPoolExecutor(len(bodies)) as pool:
            answers = list(pool.map(ask, bodies))
        assert answers == [f"{len(body)} {hashlib.sha256(body).hexdigest()}" for body in bodies]
        check_quiet(*commands)


def test_a_service_that_is_down_closes_the_connection_and_says_why(mesh: Mesh) -> None:
    two = mesh.hosts["two"]
    with expose(mesh, "nothing", "tcp:127.0.0.1:8000") as exposed, reach(mesh, "nothing", "127.0.0.1:9000"):
        with two.entered():
            conn = socket.create_connection(("127.0.0.1", 9000), timeout=PATIENCE)
        with conn, contextlib.suppress(ConnectionResetError):
            assert conn.recv(1) == b""
        exposed.wait_for_line(r"turned away: the service at tcp:127\.0\.0\.1:8000 does not answer")
