import concurrent.futures
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.cli.conftest import WITHIN

pytestmark = pytest.mark.e2e


@contextlib.contextmanager
def service(handle: Callable[[socket.socket], None], path: str = "") -> Iterator[str]:
    """Serve each connection in a thread; yields what `expose` is given."""
    if path:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(256)
    else:
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    threads = []

    def serve() -> None:
        while True:
            try:
                conn, _ = listener.accept()
            except OSError:
                return  # shut down
            thread = threading.Thread(target=handled, args=(conn,))
            thread.start()
            threads.append(thread)

    def handled(conn: socket.socket) -> None:
        with conn, contextlib.suppress(OSError):
            conn.settimeout(WITHIN)
            handle(conn)

    acceptor = threading.Thread(target=serve)
    acceptor.start()
    try:
        yield f"unix:{path}" if path else f"tcp:127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join()
        listener.close()
        for thread in threads:
            thread.join()


def answer_at_the_end(conn: socket.socket) -> None:
    """Read until end of file, and only then answer: works only if a half-closed connection stays open."""
    with conn.makefile("rb") as file:
        conn.sendall(file.read()[::-1])


def echo(conn: socket.socket) -> None:
    while data := conn.recv(65536):
        conn.sendall(data)


def dial(address: str) -> socket.socket:
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(WITHIN)
        sock.connect(address.removeprefix("unix:"))
        return sock
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=WITHIN)


def ask(address: str, data: bytes) -> bytes:
    with dial(address) as conn:
        conn.sendall(data)
        conn.shutdown(socket.SHUT_WR)
        with conn.makefile("rb") as file:
            return file.read()


def test_half_closed_connections_stay_open(cli, you):
    with service(answer_at_the_end) as target:
        cli.expose(you, target)
        _, here = cli.reach(you)
        assert ask(here, b"abc") == b"cba"


def test_unix_sockets_at_both_ends(cli, you, tmp_path):
    with service(answer_at_the_end, str(tmp_path / "service")) as target:
        cli.expose(you, target)
        reaching, here = cli.reach(you, f"unix:{tmp_path}/here")
        assert here == f"unix:{tmp_path}/here"
        assert ask(here, b"abc") == b"cba"
        reaching.stop(WITHIN)
        assert not (tmp_path / "here").exists()


def test_a_hundred_connections_at_once(cli, you):
    everybody = threading.Barrier(100, timeout=WITHIN)

    def handle(conn: socket.socket) -> None:
        everybody.wait()  # passes only when all of them are open
        answer_at_the_end(conn)

    with service(handle) as target, concurrent.futures.ThreadPoolExecutor(100) as pool:
        cli.expose(you, target)
        _, here = cli.reach(you)
        asked = [f"question {number}".encode() for number in range(100)]
        answers = list(pool.map(lambda data: ask(here, data), asked))
    assert answers == [data[::-1] for data in asked]


def test_a_large_stream_both_ways(cli, you):
    data = os.urandom(1 << 20) * 16
    with service(echo) as target:
        cli.expose(you, target)
        _, here = cli.reach(you)
        with dial(here) as conn:
            sending = threading.Thread(target=conn.sendall, args=(data,))
            sending.start()
            came = bytearray()
            while len(came) < len(data):
                came += conn.recv(1 << 20)
            sending.join()
    assert came == data


def test_a_connection_waits_for_the_name(cli, you):
    _, here = cli.reach(you)
    with service(answer_at_the_end) as target, concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, here, b"early")
        cli.expose(you, target)
        assert asked.result(WITHIN) == b"ylrae"


def test_nobody_comes(cli, you):
    reaching, here = cli.reach(you, "127.0.0.1:0", "--timeout", 0.2)
    with dial(here) as conn, pytest.raises(ConnectionResetError):
        conn.recv(1)
    reaching.wait_for_line(f"WARNING reach/.*/1: turned away: '{you}' did not come to meet .* within 0.2 s;", WITHIN)
    assert reaching.returncode is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_ends_its_connections(cli, you, number):
    with service(echo) as target:
        cli.expose(you, target)
        reaching, here = cli.reach(you)
        with dial(here) as conn:
            conn.sendall(b"x")
            assert conn.recv(1) == b"x"
            reaching._signal(number)
            assert reaching.wait(WITHIN) == (130 if number == signal.SIGINT else 0)
            with contextlib.suppress(ConnectionResetError):
                assert conn.recv(1) == b""
    assert "Traceback" not in reaching.stderr


def test_what_people_are_told(cli, you):
    reaching = cli.start("reach", you, "--listen", "127.0.0.1:0")
    reaching.wait_for_line(rf"^127\.0\.0\.1:\d+ leads to '{you}'$", WITHIN)


def test_an_address_that_is_taken(cli, you):
    result = cli.run("reach", you, "--listen", cli.switchboards)
    assert result.returncode == 1
    assert f"trunkline: tcp:{cli.switchboards} can't be listened on: address already in use\n" in result.stderr


def test_no_server(lost):
    result = lost.run("reach", "web", "--listen", "127.0.0.1:0")
    assert result.returncode == 1
    assert "trunkline up" in result.stderr
