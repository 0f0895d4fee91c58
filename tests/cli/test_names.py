import json

import pytest

pytestmark = pytest.mark.e2e


def test_what_is_posted(cli, me, you):
    cli.expose(f"{me}/a", "tcp:127.0.0.1:9")
    cli.expose(f"{me}/a", "tcp:127.0.0.1:9")
    cli.expose(f"{me}/b", "tcp:127.0.0.1:9", "--unique")
    cli.expose(you, "tcp:127.0.0.1:9")
    assert json.loads(cli.run("names", f"{me}/", "--json").stdout) == [
        {"name": f"{me}/a", "user": "", "holders": 2, "unique": False, "datagram": False},
        {"name": f"{me}/b", "user": "", "holders": 1, "unique": True, "datagram": False},
    ]
    head, *rows = cli.run("names", me).stdout.splitlines()
    assert [row.split() for row in (head, *rows)] == [
        ["NAME", "USER", "HOLDERS", "KIND"],
        [f"{me}/a", "-", "2", "stream"],
        [f"{me}/b", "-", "1", "stream", "unique"],
    ]
    assert f"\n{you} " in cli.run("names").stdout


def test_nothing_is_posted(cli, me):
    result = cli.run("names", me)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", f"no name that begins with '{me}' is posted\n")
    assert cli.run("names", me, "--json").stdout == "[]\n"


def test_a_prefix_that_no_name_has(cli):
    result = cli.run("names", "bell\a")
    assert result.returncode == 1
    assert "it has a control character" in result.stderr


def test_no_server(lost):
    assert "trunkline up" in lost.run("names").stderr
