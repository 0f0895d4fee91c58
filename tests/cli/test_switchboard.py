import json
import signal
import socket
import sys
import urllib.request

import pytest

from tests.cli.conftest import WITHIN
from tests.realmkit import Realm
from trunkline.drivers.servers_tls import check_server

pytestmark = pytest.mark.e2e


def test_one_line_when_it_listens(lost):
    server = lost.start("switchboard", "--listen", "127.0.0.1:0")
    port = server.wait_for_line(r"^switchboard listens on 127\.0\.0\.1:(\d+), not secured", WITHIN)[1]
    lost.switchboards = f"127.0.0.1:{port}"
    assert lost.counts()["id"] == f"127.0.0.1:{port}"
    assert server.stop(WITHIN) == 0
    assert server.stdout.count("\n") == 1
    assert "Traceback" not in server.stderr


def test_as_json(lost):
    server = lost.start(
        "switchboard",
        "--listen",
        "127.0.0.1:0",
        "--listen",
        "[::1]:0",
        "--id",
        "home",
        "--advertise",
        "me.test:5",
        "--json",
    )
    said = lost.ready(server)
    assert (said["event"], said["id"], said["address"]) == ("listening", "home", "me.test:5")
    assert [text.rpartition(":")[0] for text in said["listen"]] == ["127.0.0.1", "[::1]"]


def test_ctrl_c(lost):
    server, _ = lost.server()
    server._signal(signal.SIGINT)
    assert server.wait(WITHIN) == 130
    assert "has stopped" in server.stderr
    assert "Traceback" not in server.stderr


def test_servers_join_and_log_it_and_leave(lost):
    first, address = lost.server("--heartbeat", 0.2)
    second, other = lost.server("--join", address, "--heartbeat", 0.2)
    first.wait_for_line(f"INFO server joined: {other} at {other}", WITHIN)
    lost.switchboards = address
    rows = json.loads(lost.run("status", "--json").stdout)["servers"]
    assert {row["address"]: row["mates"] for row in rows} == {address: [other], other: [address]}
    second.stop(WITHIN)
    first.wait_for_line(f"INFO server left: {other}", WITHIN)


def test_an_id_that_is_taken(lost):
    first, address = lost.server("--id", "one")
    second = lost.start("switchboard", "--listen", "127.0.0.1:0", "--id", "one", "--join", address)
    assert second.wait(WITHIN) == 1
    assert "trunkline: the name 'one' is taken" in second.stderr
    assert "Traceback" not in second.stderr
    assert first.returncode is None


def test_a_port_that_is_taken(cli):
    result = cli.run("switchboard", "--listen", cli.switchboards)
    assert result.returncode == 1
    assert result.stderr == (
        f"trunkline: {cli.switchboards} can't be listened on (address already in use): "
        "choose another with --listen HOST:PORT\n"
    )


def test_most_clients(lost):
    server, lost.switchboards = lost.server("--max-clients", 1)
    waiting = lost.start("meet", "a", "b")
    waiting.wait_for_line("waits for", WITHIN)
    refused = lost.run("names")
    assert refused.returncode == 1
    assert "too many clients on this server: the limit is 1" in refused.stderr
    assert server.returncode is None


def test_metrics(lost):
    with socket.create_server(("127.0.0.1", 0)) as free:
        at = f"127.0.0.1:{free.getsockname()[1]}"
    _, lost.switchboards = lost.server("--metrics", at)
    waiting = lost.start("meet", "a", "b")
    waiting.wait_for_line("waits for", WITHIN)
    with urllib.request.urlopen(f"http://{at}/metrics", timeout=WITHIN) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        lines = answer.read().decode().splitlines()
    assert "trunkline_switchboard_clients 1.0" in lines
    assert "trunkline_switchboard_meets 1.0" in lines
    assert "trunkline_switchboard_matches_total 0.0" in lines
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://{at}/", timeout=WITHIN)


def test_metrics_without_the_extra(lost, tmp_path):
    (tmp_path / "prometheus_client.py").write_text("raise ImportError\n")
    environment = lost.environment
    environment["PYTHONPATH"] = f"{tmp_path}:{environment.get('PYTHONPATH', '')}"
    result = lost.run("switchboard", "--metrics", "127.0.0.1:0", env=environment)
    assert result.returncode == 1
    assert result.stderr == "trunkline: --metrics needs prometheus-client: pip install 'trunkline[metrics]'\n"


@pytest.mark.parametrize(("spin", "code"), [("50", 0), ("2000", 2)])
def test_spin(lost, spin, code):
    if code:
        assert lost.run("switchboard", "--spin", spin).returncode == code
        return
    server, lost.switchboards = lost.server("--spin", spin)
    assert lost.run("names").returncode == 0
    assert server.stop(WITHIN) == 0


def test_a_spin_that_cannot_be(lost):
    environment = lost.environment | {"TRUNKLINE_SPIN": "fast"}
    result = lost.run("switchboard", "--listen", "127.0.0.1:0", env=environment)
    assert result.returncode == 1
    assert result.stderr.startswith("trunkline: TRUNKLINE_SPIN is 'fast': set it to microseconds")


def test_every_message_with_debug(lost):
    server, lost.switchboards = lost.server("--debug")
    lost.run("names")
    server.wait_for_line("DEBUG < -1 ListNames", WITHIN)
    assert sys.executable


@pytest.fixture
def realm_home(lost, tmp_path):
    """A home with a realm, a key of a server, and a certificate and a head that were fetched before."""
    realm = Realm("lab.example")
    home = realm.home(lost.home, "switchboard/a1")
    home.keep_credential("switchboard/a1", realm.credential("switchboard/a1"))
    home.keep_state(realm.trust().state())
    return realm, home


def test_in_a_home_with_a_realm_it_is_secured(lost, realm_home):
    realm, _ = realm_home
    (lost.home / "policy.toml").write_text("require_user = true")
    server = lost.start("switchboard", "--listen", "127.0.0.1:0")
    secured = "secured by the realm lab.example as switchboard/a1, every client proves its user"
    port = int(server.wait_for_line(rf"listens on 127\.0\.0\.1:(\d+), {secured}$", WITHIN)[1])
    with socket.create_connection(("127.0.0.1", port)) as sock:
        with realm.membership("ann").tls_client().wrap_socket(sock) as tls:
            assert check_server(realm.membership("ann"), tls).user == "switchboard/a1"
    # A command of this very home finds it as a member of the realm does.
    lost.switchboards = f"127.0.0.1:{port}"
    assert lost.run("names").returncode == 0
    assert server.stop(WITHIN) == 0


def test_plain_although_the_home_has_a_realm(lost, realm_home):
    said = lost.ready(lost.start("switchboard", "--listen", "127.0.0.1:0", "--plain", "--json"))
    assert "realm" not in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--user", "switchboard/b1"], "there are no keys of 'switchboard/b1'"),
        (["--user", "switchboard/a1", "--plain"], "--user is for a secured server"),
    ],
)
def test_settings_that_cannot_be(lost, realm_home, given, said):
    ended = lost.run("switchboard", "--listen", "127.0.0.1:0", *given)
    assert ended.returncode == 1
    assert said in ended.stderr


def test_which_server_it_is(lost, realm_home):
    realm, home = realm_home
    home.save_key("switchboard/a2", realm.key("switchboard/a2"))
    assert "keys of several servers" in lost.run("switchboard").stderr
    for name in ("a1", "a2"):
        home.key_path(f"switchboard/{name}").unlink()
    assert "no key of a server" in lost.run("switchboard").stderr
