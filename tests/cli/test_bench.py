import json

import pytest

from trunkline.cli.measure import messages

pytestmark = pytest.mark.e2e


def test_messages_keep_the_budget():
    for counted in messages([1, 2, 3]):
        assert 0 < counted.messages <= counted.budget, counted


def test_tables(lost):
    result = lost.run("bench", "--count", 10, "--seconds", 0.1)
    assert (result.returncode, result.stderr) == (0, "")
    for title in ("MEETINGS WITH A POST", "MESSAGES FOR A CONNECTION", "ONE STREAM"):
        assert title in result.stdout
    assert not lost.home.exists(), "it has a home of its own"


def test_json(lost):
    said = json.loads(lost.run("bench", "--count", 40, "--seconds", 0.1, "--spin", 50, "--json").stdout)
    assert [(each["at_once"], each["meetings"]) for each in said["meetings"]] == [(1, 40), (32, 40)]
    assert all(0 < each["p50"] <= each["p99"] for each in said["meetings"])
    assert said["stream"]["straight"] > 0 < said["stream"]["relayed"]
