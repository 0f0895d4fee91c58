"""Keys, from the command line, against an authority that runs in this process."""

import json
import os
import pty
import stat
import subprocess
import sys

import pytest

from tests.cli.authoritykit import World

pytestmark = pytest.mark.e2e


def key_of(world: World, user: str) -> str:
    return json.loads(world.ann.says("key", "get", user, "--json"))["entry"]["key"]


def test_new_insert_approve_get_list_change_delete(world: World) -> None:
    ann = world.ann
    name, key = ann.says("key", "new").split()
    assert (name, key[:8]) == ("ann", "ed25519:")
    path = ann.home.key_path("ann")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ann.says("key", "new", code=1)
    assert "has a key already" in ann.errors
    assert "`trunkline key change ann`" in ann.errors

    assert ann.says("key", "insert").split() == ["ann", key, "tentative"]
    assert "trunkline key approve ann" in ann.errors
    assert key in ann.errors
    assert "ann" in ann.says("key", "list", "--state", "tentative")

    ann.says("key", "approve", "ann", code=1)
    assert "There is no terminal to ask at: say --yes" in ann.errors
    assert ann.says("key", "approve", "ann", "--yes") == "ann is approved\n"
    ann.says("key", "approve", "ann", "--yes")
    assert "approved already" in ann.errors

    assert ann.says("key", "get") == f"ann  {key}  approved\n"
    assert "proven" in ann.errors
    assert ann.says("key", "list").splitlines()[1].split() == ["ann", key, "approved"]

    old = path.read_bytes()
    _, changed = ann.says("key", "change").split()
    assert changed != key
    assert key_of(world, "ann") == changed
    assert path.read_bytes() != old
    assert path.with_name("ann.pem.old").read_bytes() == old
    assert not path.with_name("ann.pem.new").exists()
    history = json.loads(ann.says("key", "get", "--history", "--json"))["history"]
    assert [each["what"] for each in history] == ["insert", "approve", "change"]
    assert ann.says("key", "get", "--history").splitlines()[3].split() == ["2", "change", changed]

    assert ann.says("key", "delete", "--reason", "moved on", "--yes") == "ann is deleted\n"
    assert ann.says("key", "get").split()[-1] == "deleted"
    ann.says("key", "get", "nobody", code=1)
    assert "nobody has the name 'nobody'; that is proven" in ann.errors
    assert json.loads(ann.says("key", "get", "nobody", "--json"))["entry"] is None


def test_a_change_that_was_cut_off_goes_on(world: World) -> None:
    ann = world.ann
    for words in (("new",), ("insert",)):
        ann.says("key", *words)
    path = ann.home.key_path("ann")
    before = path.read_bytes()
    changed = ann.says("key", "change").split()[1]
    # As if it had ended between the authority's answer and putting the new file in place.
    path.replace(path.with_name("ann.pem.new"))
    path.write_bytes(before)
    path.chmod(0o600)
    path.with_name("ann.pem.old").unlink()
    assert ann.says("key", "change").split()[1] == changed
    assert "going on with the change that was interrupted" in ann.errors
    assert key_of(world, "ann") == changed


def test_by_files_carried_by_hand(world: World) -> None:
    ann, path = world.ann, world.path
    ann.says("key", "new", "ops/ben")
    ann.says("key", "insert", "ops/ben", "--out", path / "ben")
    assert "in the log" in ann.says("key", "insert", "--file", path / "ben")
    ann.says("key", "list", "--state", "tentative", "--out", path / "pending")
    # The administrator's machine: it has the root's folder, and nothing else.
    admin = world.person("safe")
    stick = ann.home.path / "admin"
    said = admin.says(
        "key", "approve", "--file", path / "pending", "--out", path / "approved", "--admin-dir", stick, "--yes"
    )
    assert said.startswith("1 approved")
    assert "approval of ops/ben" in ann.says("key", "insert", "--file", path / "approved")
    assert ann.says("key", "get", "ops/ben").split()[-1] == "approved"
    (path / "approved").write_text("nonsense")
    ann.says("key", "insert", "--file", path / "approved", code=1)
    assert "no file of statements" in ann.errors


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("approve",), "say whose key"),
        (("approve", "--file", "x"), "--file and --out go together"),
        (("approve", "a", "--file", "x", "--out", "y"), "leave USER out"),
        (("insert", "a", "--file", "x"), "leave USER and --out out"),
        (("insert", "--file", "/nonexistent"), "no such file"),
        (("insert",), "there are no keys of 'ann' here"),
        (("list", "--state", "dead"), "'dead' is no state: say tentative, approved, deleted"),
        (("approve", "carl", "--yes"), "'carl' is not in the directory"),
        (("approve", "carl", "--admin-dir", "/nonexistent"), "the administrator's key is not in /nonexistent"),
    ],
)
def test_what_can_not_be(world: World, words: tuple[str, ...], says: str) -> None:
    world.ann.says("key", *words, code=1)
    assert says in world.ann.errors


def test_outside_of_any_realm(world: World) -> None:
    stranger = world.person("stranger")
    stranger.says("key", "list", code=1)
    assert "belongs to no realm: make one with `trunkline up`, or join one with `trunkline join`" in stranger.errors
    stranger.says("key", "get", code=1)
    assert "say which user" in stranger.errors


def test_a_person_is_asked_and_may_say_no(world: World) -> None:
    ann = world.ann
    ann.says("key", "new")
    ann.says("key", "insert")
    for answer, state in (("n\n", "tentative"), ("y\n", "approved")):
        main, terminal = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "trunkline", "--home", str(ann.home.path), "key", "approve", "ann"],
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(terminal)
        os.write(main, answer.encode())
        _, shown = process.communicate(timeout=60)
        os.close(main)
        assert "Is that the key of ann?" in shown
        assert ann.says("key", "get").split()[-1] == state
