import pytest

from trunkline.cli import main
from trunkline.cli.app import SECTIONS


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
    for title, functions in SECTIONS.items():
        assert f"\n{title}:\n" in out
        assert all(f"\n  {function.__name__} " in out for function in functions)
    assert "..." not in out.partition("Connect:")[2], "no summary is cut off"
    assert "\x1b" not in out


@pytest.mark.parametrize("name", [function.__name__ for functions in SECTIONS.values() for function in functions])
def test_every_command_has_an_example(capfd, name):
    assert main([name, "--help"]) == 0
    out = capfd.readouterr().out
    assert "Example" in out
    assert f"trunkline {name}" in out
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
