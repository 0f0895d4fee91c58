import contextlib
import http.client
import http.server
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.cli.conftest import WITHIN

pytestmark = pytest.mark.e2e


@contextlib.contextmanager
def website(text: bytes) -> Iterator[str]:
    """An HTTP server that answers everything with one text; yields its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def get(address: str) -> bytes:
    client = http.client.HTTPConnection(address, timeout=WITHIN)
    try:
        client.request("GET", "/")
        return client.getresponse().read()
    finally:
        client.close()


def test_http_through_reach(cli, you):
    with website(b"by name") as address:
        cli.expose(you, f"tcp:{address}")
        _, here = cli.reach(you)
        assert [get(here) for _ in range(5)] == [b"by name"] * 5


def test_what_people_are_told(cli, you):
    exposed = cli.start("expose", you, "tcp:127.0.0.1:9")
    exposed.wait_for_line(f"^'{you}' leads to tcp:127.0.0.1:9; reach it with `trunkline reach {you} --listen", WITHIN)


def test_a_service_that_is_not_there(cli, you):
    exposed = cli.expose(you, "unix:/nonexistent/socket")
    _, here = cli.reach(you)
    host, _, port = here.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=WITHIN) as conn:
        assert conn.recv(1) == b""
    exposed.wait_for_line(
        "WARNING reach/.*: turned away: the service at unix:/nonexistent/socket does not answer: no such file", WITHIN
    )
    assert exposed.returncode is None


def test_two_share_a_name(cli, you):
    with website(b"one") as one, website(b"two") as two:
        cli.expose(you, f"tcp:{one}")
        cli.expose(you, f"tcp:{two}")
        _, here = cli.reach(you)
        assert {get(here) for _ in range(10)} == {b"one", b"two"}


def test_a_unique_name(cli, you):
    first = cli.expose(you, "tcp:127.0.0.1:9", "--unique")
    second = cli.run("expose", you, "tcp:127.0.0.1:9", "--unique")
    assert second.returncode == 1
    assert f"trunkline: the name '{you}' is taken" in second.stderr
    assert first.returncode is None


def test_it_stands_again_when_the_server_has_gone(lost, you):
    first, address = lost.server("--heartbeat", 0.2)
    _, other = lost.server("--heartbeat", 0.2, "--join", address)
    first.wait_for_line("server joined", WITHIN)
    lost.switchboards = f"{address},{other}"
    with website(b"still here") as site:
        lost.expose(you, f"tcp:{site}")
        _, here = lost.reach(you)
        assert get(here) == b"still here"
        first.kill()
        assert get(here) == b"still here"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_takes_the_name_back(cli, you, number):
    exposed = cli.expose(you, "tcp:127.0.0.1:9")
    assert cli.run("names", you).stdout
    exposed._signal(number)
    assert exposed.wait(WITHIN) == (130 if number == signal.SIGINT else 0)
    assert "Traceback" not in exposed.stderr
    assert cli.run("names", you).stdout == ""


@pytest.mark.parametrize("service", ["127.0.0.1", "tcp:", "unix:", "tcp:127.0.0.1:http"])
def test_no_such_service(cli, you, service):
    result = cli.run("expose", you, service)
    assert result.returncode == 1
    assert result.stderr.startswith(f"trunkline: the address '{service}' can't be used: ")


def test_no_server(lost):
    result = lost.run("expose", "web", "tcp:127.0.0.1:9")
    assert result.returncode == 1
    assert "trunkline up" in result.stderr
