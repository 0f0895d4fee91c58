import json

import pytest

pytestmark = pytest.mark.e2e


def test_a_name_that_is_nearly_right(cli, me, you):
    cli.expose(you, "tcp:127.0.0.1:9")
    wrong = you.upper()
    result = cli.run("explain", me, wrong)
    assert result.returncode == 0
    assert result.stdout.splitlines() == [
        f"nobody has posted '{wrong}', and nobody waits under that name for '{me}'",
        f"'{you}' is posted; it differs from '{wrong}' by case only",
    ]
    said = json.loads(cli.run("explain", me, wrong, "--json").stdout)
    assert said == {"me": me, "you": wrong, "user": "", "peer_user": "", "lines": result.stdout.splitlines()}


def test_names_that_cannot_be(cli):
    result = cli.run("explain", "same", "same")
    assert (result.returncode, result.stdout) == (1, "")
    assert "a process can't meet itself" in result.stderr


def test_no_server(lost):
    assert "trunkline up" in lost.run("explain", "a", "b").stderr
