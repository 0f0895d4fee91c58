import json
import re
import signal
import socket
import threading

import pytest

from tests.cli.conftest import WITHIN
from trunkline.cli.up import _local
from trunkline.names import Address

pytestmark = pytest.mark.e2e

UP = ("up", "--listen", "127.0.0.1:0", "--user", "ann", "--realm", "lab.example")


def test_it_is_secure_from_the_first_start_on(lost, me, you):
    lost.switchboards = ""
    server = lost.start(*UP, "--json")
    said = lost.ready(server)
    address = said["address"]
    assert (said["realm"], said["user"]) == ("lab.example", "ann")
    assert address in (lost.home / "switchboards").read_text().splitlines()
    status = json.loads(lost.run("status", "--json").stdout)
    assert [row["address"] for row in status["servers"] if row["up"]] == [address]
    assert (status["realm"]["user"], status["realm"]["trouble"]) == ("ann", "")
    assert status["realm"]["certificate_until"]
    first = lost.start("meet", me, you, "--exec", "echo", "hello")
    met = lost.run("-v", "meet", you, me)
    assert met.stdout == "hello\n"
    assert f"{me!r} of ann came" in met.stderr
    assert first.wait(WITHIN) == 0
    line = lost.run("invite").stdout
    assert re.fullmatch(r"trunkline join trunkline:lab\.example/[a-z2-7]{52}/127[^/]+/127\S+\n", line)
    assert server.stop(WITHIN) == 0
    # The second start finds everything, and asks for nothing.
    root = (lost.home / "admin" / "root.key").read_bytes()
    server = lost.start("up", "--listen", "127.0.0.1:0", "--json")
    assert lost.ready(server)["user"] == "ann"
    assert (lost.home / "admin" / "root.key").read_bytes() == root


def test_it_says_what_to_try_next(lost):
    server = lost.start(*UP)
    server.wait_for_line(r"^The realm lab\.example is up: you are ann, and what you start here is secure", WITHIN)
    server.wait_for_line("trunkline meet alice bob", WITHIN)
    server.wait_for_line("Only this host reaches it. For others: trunkline up --listen 0.0.0.0", WITHIN)
    server.wait_for_line("Ctrl-C stops it", WITHIN)
    server._signal(signal.SIGINT)
    assert server.wait(WITHIN) == 130


def test_opened_to_the_network_it_says_how_to_bring_others_in(lost):
    server = lost.start("up", "--listen", "0.0.0.0:0")
    server.wait_for_line(r"^Bring in another machine or person: trunkline invite$", WITHIN)
    assert "/127." not in lost.run("invite").stdout


def test_without_a_realm_it_is_a_switchboard_alone(lost):
    lost.home.mkdir()
    (lost.home / "switchboards").write_text("elsewhere.test:7117\n")
    server = lost.start("up", "--plain", "--listen", "127.0.0.1:0", "--json")
    address = lost.ready(server)["address"]
    lines = (lost.home / "switchboards").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [address, "elsewhere.test:7117"], (
        "what was known stays"
    )
    server = lost.start("up", "--plain", "--listen", "0.0.0.0:0")
    server.wait_for_line(r"On other hosts: export TRUNKLINE_SWITCHBOARDS=[0-9.]+:\d+$", WITHIN)


def test_it_is_up_already(cli):
    result = cli.run("up", "--plain", "--listen", cli.switchboards)
    assert (result.returncode, result.stdout) == (0, f"A switchboard is up already at {cli.switchboards}.\n")


@pytest.mark.parametrize(("bound", "local"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.1", "10.0.0.1")])
def test_where_this_host_finds_it(bound, local):
    assert _local(Address(bound, 1)) == Address(local, 1)


def answer_when_all_is_read(listener: socket.socket) -> None:
    conn, _ = listener.accept()
    with conn:
        size = 0
        while part := conn.recv(1 << 16):
            size += len(part)
        conn.sendall(f"{size} bytes".encode())


def test_services_and_files_are_secure_too(lost, tmp_path):
    lost.switchboards = ""
    lost.ready(lost.start(*UP, "--json"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer_when_all_is_read, args=(listener,), daemon=True).start()
        exposed = lost.start("expose", "counter", f"tcp:127.0.0.1:{listener.getsockname()[1]}", "--json")
        assert lost.ready(exposed) == {
            "event": "exposed",
            "name": "counter",
            "service": f"tcp:127.0.0.1:{listener.getsockname()[1]}",
            "user": "ann",
            "allow": ["ann"],
        }
        _, at = lost.reach("counter")
        host, _, port = at.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=WITHIN) as conn:
            conn.sendall(bytes(300_000))
            conn.shutdown(socket.SHUT_WR)  # each end may be closed alone, through TLS as well
            assert conn.recv(100) == b"300000 bytes"
            assert conn.recv(100) == b""
        exposed.wait_for_line("'reach/.*' of ann: connected", WITHIN)
        assert json.loads(lost.run("names", "--json").stdout)[0]["user"] == "ann"
    (tmp_path / "into").mkdir()
    (tmp_path / "file").write_bytes(bytes(range(256)) * 4000)
    taking = lost.start("take", "desk", "attic", "--into", tmp_path / "into")
    assert lost.run("send", tmp_path / "file", "attic", "desk").returncode == 0
    assert taking.wait(WITHIN) == 0
    assert (tmp_path / "into" / "file").read_bytes() == (tmp_path / "file").read_bytes()
    refused = lost.run("meet", "a", "counter", "--user", "nobody", "--timeout", "1")
    assert "there are no keys of 'nobody' here" in refused.stderr
