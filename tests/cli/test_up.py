import json
import signal

import pytest

from tests.cli.conftest import WITHIN
from trunkline.cli.up import _local
from trunkline.names import Address

pytestmark = pytest.mark.e2e


def test_clients_of_this_host_find_it(lost, me, you):
    lost.switchboards = ""
    server = lost.start("up", "--listen", "127.0.0.1:0", "--json")
    address = lost.ready(server)["address"]
    assert address in (lost.home / "switchboards").read_text().splitlines()
    rows = json.loads(lost.run("status", "--json").stdout)
    assert [(row["address"], row["up"]) for row in rows if row["up"]] == [(address, True)]
    first = lost.start("meet", me, you, "--exec", "echo", "hello")
    assert lost.run("meet", you, me).stdout == "hello\n"
    assert first.wait(WITHIN) == 0
    assert server.stop(WITHIN) == 0


def test_it_says_what_to_try_next(lost):
    server = lost.start("up", "--listen", "127.0.0.1:0")
    server.wait_for_line(r"^A switchboard is up at 127\.0\.0\.1:\d+\.$", WITHIN)
    server.wait_for_line("trunkline meet alice bob", WITHIN)
    server.wait_for_line("Only this host reaches it. For others: trunkline up --listen 0.0.0.0", WITHIN)
    server.wait_for_line("Ctrl-C stops it", WITHIN)
    server._signal(signal.SIGINT)
    assert server.wait(WITHIN) == 130


def test_opened_to_the_network_it_says_how_others_find_it(lost):
    server = lost.start("up", "--listen", "0.0.0.0:0")
    server.wait_for_line(r"On other hosts: export TRUNKLINE_SWITCHBOARDS=[0-9.]+:\d+$", WITHIN)


def test_what_was_known_stays_known(lost):
    lost.home.mkdir()
    (lost.home / "switchboards").write_text("elsewhere.test:7117\n")
    server = lost.start("up", "--listen", "127.0.0.1:0", "--json")
    address = lost.ready(server)["address"]
    lines = (lost.home / "switchboards").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [address, "elsewhere.test:7117"]


def test_it_is_up_already(cli):
    result = cli.run("up", "--listen", cli.switchboards)
    assert (result.returncode, result.stdout) == (0, f"A switchboard is up already at {cli.switchboards}.\n")


@pytest.mark.parametrize(("bound", "local"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.1", "10.0.0.1")])
def test_where_this_host_finds_it(bound, local):
    assert _local(Address(bound, 1)) == Address(local, 1)
