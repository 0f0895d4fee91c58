import json

import pytest

from tests.cli.conftest import WITHIN

pytestmark = pytest.mark.e2e


def test_every_server_that_is_known_to_any(lost, you):
    first, one = lost.server("--id", "one", "--heartbeat", 0.2)
    second, two = lost.server("--id", "two", "--heartbeat", 0.2, "--join", one)
    first.wait_for_line("server joined: two", WITHIN)
    lost.switchboards = one
    lost.expose(you, "tcp:127.0.0.1:9")
    rows = json.loads(lost.run("status", "--json").stdout)["servers"]
    assert [(row["id"], row["address"], row["up"], row["mates"]) for row in rows] == [
        ("one", one, True, ["two"]),
        ("two", two, True, ["one"]),
    ]
    assert [(row["clients"], row["posts"]) for row in rows] == [(1, 1), (0, 0)]
    assert 0 < rows[0]["round_trip"] < WITHIN
    second.kill()
    first.wait_for_line("server missing: two", WITHIN)
    rows = json.loads(lost.run("status", "--json").stdout)["servers"]
    assert [(row["id"], row["up"], row["missing"]) for row in rows] == [("one", True, ["two"]), ("two", False, [])]
    assert rows[1]["reason"] == "connection refused"
    shown = lost.run("status")
    assert shown.returncode == 0
    head, *lines = shown.stdout.splitlines()
    assert head.split()[:3] == ["ID", "ADDRESS", "STATE"]
    assert lines[0].startswith("one")
    assert "down: connection refused" in lines[1]


def test_one_server_under_two_addresses_is_one_row(cli):
    port = cli.switchboards.rpartition(":")[2]
    result = cli.run("status", "--json", "--switchboards", f"{cli.switchboards},localhost:{port}")
    assert len(json.loads(result.stdout)["servers"]) == 1


def test_none_is_up(lost):
    result = lost.run("status")
    assert result.returncode == 1
    assert "down: connection refused" in result.stdout
    assert "tried 127.0.0.1:1: connection refused" in result.stderr
    assert "trunkline up" in result.stderr


def test_asking_changes_no_host_list(cli):
    cli.run("status")
    assert not (cli.home / "switchboards").exists()
