import json

import msgspec
import pytest

from trunkline.cli import main
from trunkline.sim import randomworld
from trunkline.sim.catalogue import ABOUT
from trunkline.sim.replay import Recording


def test_alone_it_lists_the_worlds(capfd):
    assert main(["simulate"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [*ABOUT, "all", "random"]
    assert main(["simulate", "--json"]) == 0
    assert [world["name"] for world in json.loads(capfd.readouterr().out)] == list(ABOUT)


def test_a_world_is_explored(capfd):
    assert main(["simulate", "one"]) == 0
    out = capfd.readouterr().out
    assert "states" in out
    assert "transitions, depth" in out
    assert "frontier exhausted: exhaustive" in out
    assert "every invariant held" in out


def test_json_is_a_line_for_each_world(capfd):
    assert main(["simulate", "one", "random", "--seed", "3", "--runs", "2", "--json"]) == 0
    reports = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [report["ok"] for report in reports] == [True] * 3
    assert reports[0]["exhausted"] is True
    assert reports[1]["trace"] != reports[2]["trace"]


def test_a_seed_replays(capfd):
    traces = set()
    for _ in range(2):
        assert main(["simulate", "random", "--seed", "5", "--json"]) == 0
        traces.add(json.loads(capfd.readouterr().out)["trace"])
    assert len(traces) == 1


def test_a_violation_is_exit_code_1_and_recorded(capfd, monkeypatch, tmp_path):
    found = randomworld.Violation("S3", "made up for this test")

    def fail(_: object) -> None:
        raise found

    monkeypatch.setattr(randomworld.Run, "run", fail)
    file = tmp_path / "failure.json"
    assert main(["simulate", "random", "--seed", "1", "--save", str(file)]) == 1
    assert "S3 broken" in capfd.readouterr().out
    assert Recording.load(file).invariant == "S3"
    monkeypatch.undo()
    assert main(["simulate", "--replay", str(file)]) == 0, "the machines keep the invariant: only the test broke it"


@pytest.mark.parametrize("text", ["", "{}", "nonsense"])
def test_a_file_that_is_no_recording(capfd, tmp_path, text):
    (tmp_path / "file").write_text(text)
    assert main(["simulate", "--replay", str(tmp_path / "file")]) == 1
    assert "is no recording" in capfd.readouterr().err
    assert msgspec.DecodeError


def test_no_such_file(capfd, tmp_path):
    assert main(["simulate", "--replay", str(tmp_path / "missing")]) == 1
    assert capfd.readouterr().err == f"trunkline: no such file or directory: {tmp_path}/missing\n"


def test_realms_and_secure_meetings_are_explored_too(capfd):
    assert main(["simulate", "replica-altered", "secure-pair", "--faults", "1"]) == 0
    out = capfd.readouterr().out
    assert out.count("frontier exhausted: exhaustive") == 2
    assert "1 fault(s): alter" in out
