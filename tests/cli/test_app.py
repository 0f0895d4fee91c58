import re

import pytest
import typer.main

from trunkline.cli import main
from trunkline.cli.app import SECTIONS, app


def commands() -> list[list[str]]:
    """Return the words of every command that does something."""
    found: list[list[str]] = []
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        below = getattr(command, "commands", None)
        found += [[name]] if below is None else [[name, each] for each in below]
    return found


def test_alone_it_says_where_to_begin(capfd):
    assert main([]) == 0
    out, err = capfd.readouterr()
    assert "trunkline up" in out
    assert "trunkline meet alice bob" in out
    assert (len(out.splitlines()) <= 15, err) == (True, "")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command_by_section(capfd, flag):
    assert main([flag]) == 0
    out = capfd.readouterr().out
    assert all(f"\n{title}:\n" in out for title in SECTIONS)
    assert all(f"\n  {words[0]} " in out for words in commands())
    assert "..." not in out.partition("Connect:")[2], "no summary is cut off"
    assert "\x1b" not in out


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_an_example(capfd, words):
    assert main([*words, "--help"]) == 0
    out = capfd.readouterr().out
    assert "Example" in out
    assert f"trunkline {' '.join(words)}" in out
    assert not re.search(r"[{}<>]", out.partition("Options:")[0])
    assert max(map(len, out.splitlines())) <= 110


def test_version(capfd):
    assert main(["--version"]) == 0
    assert capfd.readouterr().out.startswith("trunkline 0.")


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["meat"], "No such command 'meat'. Did you mean 'meet'?"),
        (["--nonsense"], "No such option: --nonsense"),
        (["meet", "a"], "Missing argument 'YOU'"),
        (["meet", "a", "b", "--timeout", "soon"], "Invalid value for '--timeout'"),
        (["meet", "a", "b", "--exec"], "Option '--exec' requires an argument"),
        (["reach", "web"], "Missing option '--listen'"),
        (["simulate", "nowhere"], "there is no world 'nowhere'"),
    ],
)
def test_wrong_usage(capfd, argv, what):
    assert main(argv) == 2
    out, err = capfd.readouterr()
    assert what in err
    assert out == ""


def test_options_of_every_command_stand_anywhere(capfd):
    for argv in (
        ["--switchboards", "127.0.0.1:1", "status"],
        ["status", "--switchboards", "127.0.0.1:1"],
        ["status", "--switchboards=127.0.0.1:1"],
    ):
        assert main(argv) == 1
        assert "tried 127.0.0.1:1: connection refused" in capfd.readouterr().err


def test_an_address_that_cannot_be(capfd):
    assert main(["status", "--switchboards", "host:port"]) == 1
    assert capfd.readouterr().err == (
        "trunkline: the address 'host:port' can't be used: the port is a number from 0 to 65535\n"
    )
