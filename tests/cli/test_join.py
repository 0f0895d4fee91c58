"""Into a realm: by the line, and by three words."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.authoritykit import Person, World
from trunkline.drivers.home import Home
from trunkline.names import Address

pytestmark = pytest.mark.e2e


def line_of(person: Person) -> str:
    return person.says("invite").split()[-1]


def test_by_the_line(world: World) -> None:
    line = line_of(world.ann)
    assert "Only this host reaches 127.0.0.1:7117" in world.ann.errors
    ben = world.person("ben")
    said = ben.says("join", line, "--user", "ben")
    key = said.split()[-1]
    assert said == f"joined lab.example; ben's key is\n  {key}\n"
    assert "trunkline key approve ben" in ben.errors
    assert key in ben.errors
    settings = ben.home.settings()
    assert (settings.realm, settings.user) == ("lab.example", "ben")
    assert ben.home.root() == world.ann.home.root()
    assert Home(ben.home.path).remembered() == (Address("127.0.0.1", 7117),)
    world.ann.says("key", "approve", "ben", "--yes")
    # Once more: nothing is lost, and it says how things are.
    assert ben.says("join", line).split()[-1] == key
    assert "it is approved" in ben.errors
    assert ben.says("key", "get").split()[-1] == "approved"


def test_a_line_to_another_root_is_found_out(world: World) -> None:
    line = line_of(world.ann)
    forged = line.replace(line.split("/")[1], "a" * 51 + "q")
    ben = world.person("ben")
    ben.says("join", forged, code=1)
    assert "the invitation says aaaa" in ben.errors
    assert not ben.home.has_realm
    ben.says("join", "trunkline:lab.example", code=1)
    assert "should have 4" in ben.errors


def test_no_home_is_taken_out_of_its_realm_by_accident(world: World) -> None:
    line = line_of(world.ann)
    ben = world.person("ben")
    ben.says("authority", "init", "elsewhere")
    ben.says("join", line, code=1)
    assert "is in the realm 'elsewhere' already" in ben.errors
    assert "--force" in ben.errors
    ben.says("join", line, "--force", "--user", "ben")
    assert ben.home.settings().realm == "lab.example"
    assert "elsewhere" in (ben.home.path / "realm.toml.old").read_text()


@contextlib.contextmanager
def inviting(home: Path, *options: str) -> Iterator[tuple[str, str, "subprocess.Popen[str]"]]:
    argv = [sys.executable, "-m", "trunkline", "--home", str(home), "invite", "--code", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [*argv, "--json", *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            yield said["code"], said["address"], process
        finally:
            process.kill()


def test_by_three_words_approved_at_once(world: World) -> None:
    ben = world.person("ben")
    with inviting(world.ann.home.path, "--user", "ben", "--approve") as (code, address, process):
        said = ben.says("join", "--code", code, address)
        assert said.startswith("ben is entered and approved, with the key ed25519:")
        out, _ = process.communicate(timeout=60)
        assert json.loads(out)["approved"] is True
    assert ben.says("key", "get").split()[-1] == "approved"
    assert ben.home.settings().realm == "lab.example"


def test_by_three_words_left_to_the_administrator(world: World) -> None:
    ben = world.person("ben")
    with inviting(world.ann.home.path) as (code, address, process):
        assert "the administrator has to say: trunkline key approve ben" in ben.says(
            "join", "--code", code, address, "--user", "ben"
        )
        assert process.wait(60) == 0
    assert ben.says("key", "get").split()[-1] == "tentative"
    with inviting(world.ann.home.path, "--user", "carl") as (code, address, process):
        ben.says("join", "--code", code, address, "--user", "ben", code=1)
        assert "you are invited as 'carl'" in ben.errors


def test_wrong_words_end_it_on_both_sides(world: World) -> None:
    ben = world.person("ben")
    with inviting(world.ann.home.path) as (code, address, process):
        wrong = "river-candle-otter" if code != "river-candle-otter" else "river-candle-sugar"
        ben.says("join", "--code", "river-candle", address, code=1)
        assert "a code has 3 words" in ben.errors
        ben.says("join", "--code", wrong, address, code=1)
        assert "it is spent now" in ben.errors
        _, errors = process.communicate(timeout=60)
        assert "somebody tried another code: this one is spent" in errors
        assert process.returncode == 1
    assert not ben.home.has_realm


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--approve",), "--user and --approve go with --code"),
        (("--code", "--approve", "--admin-dir", "/nonexistent"), "--approve needs the administrator's key"),
        (("--code", "--listen", "192.0.2.1:0"), "192.0.2.1:0 can't be listened on"),
    ],
)
def test_invitations_that_can_not_be(world: World, words: tuple[str, ...], says: str) -> None:
    world.ann.says("invite", *words, code=1)
    assert says in world.ann.errors
