import signal
import subprocess

import pytest

from tests.cli.conftest import WITHIN

pytestmark = pytest.mark.e2e


def test_a_pipe_both_ways(cli, me, you):
    first = cli.start("meet", me, you, stdin=subprocess.PIPE)
    first.stdin.write(b"from the first\n")
    first.stdin.close()
    second = cli.run("meet", you, me, given="from the second\n")
    assert (second.returncode, second.stdout, second.stderr) == (0, "from the first\n", "")
    assert first.wait(WITHIN) == 0
    assert first.stdout == "from the second\n"


def test_one_way_ends_and_the_other_goes_on(cli, me, you):
    first = cli.start("meet", me, you, stdin=subprocess.PIPE)
    second = cli.start("meet", you, me, stdin=subprocess.PIPE)
    first.stdin.write(b"question\n")
    first.stdin.close()
    second.wait_for_line("question", WITHIN)
    second.stdin.write(b"late answer\n")
    second.stdin.close()
    assert (first.wait(WITHIN), second.wait(WITHIN)) == (0, 0)
    assert first.stdout == "late answer\n"


def test_a_large_stream_arrives_whole(cli, me, you, tmp_path):
    data = bytes(range(256)) * 40_000
    source = tmp_path / "source"
    source.write_bytes(data)
    with source.open("rb") as file:
        sender = cli.start("meet", me, you, stdin=file)
        taken = subprocess.run(
            cli.argv("meet", you, me), stdin=subprocess.DEVNULL, capture_output=True, env=cli.environment, check=True
        )
    assert taken.stdout == data
    assert sender.wait(WITHIN) == 0


def test_exec_serves_the_peer(cli, me, you):
    command = cli.start("meet", me, you, "--timeout", 60, "--exec", "tr", "a-z", "A-Z")
    assert cli.run("meet", you, me, given="spoken\n").stdout == "SPOKEN\n"
    assert command.wait(WITHIN) == 0


def test_the_command_keeps_its_own_options_and_words(cli, me, you):
    cli.start("meet", me, you, "--exec", "printf", "%s|", "two words", "--debug", "-v")
    assert cli.run("meet", you, me).stdout == "two words|--debug|-v|"


def test_the_exit_code_of_the_command_is_ours(cli, me, you):
    command = cli.start("meet", me, you, "--exec", "sh", "-c", "exit 7")
    cli.run("meet", you, me)
    assert command.wait(WITHIN) == 7


def test_a_command_that_is_not_there(cli, me, you):
    command = cli.start("meet", me, you, "--exec", "no-such-command")
    cli.run("meet", you, me)
    assert command.wait(WITHIN) == 1
    assert "trunkline: the command 'no-such-command' can't be run" in command.stderr


def test_who_waits_long_is_told_for_whom_and_who_came(cli, me, you):
    first = cli.start("meet", me, you)
    first.wait_for_line(f"'{me}' waits for '{you}'", WITHIN)
    first.wait_for_line(f"- nobody has posted '{you}', and nobody waits under that name for '{me}'", WITHIN)
    cli.run("meet", you, me)
    first.wait_for_line(f"'{you}' came", WITHIN)
    assert first.wait(WITHIN) == 0
    assert first.stdout == ""


def test_giving_up_explains(cli, me, you):
    result = cli.run("meet", me, you, "--timeout", 0.3)
    assert result.returncode == 1
    assert result.stderr.startswith(f"trunkline: '{you}' did not come to meet '{me}' within 0.3 s\n  - nobody has")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_leaves_nothing_behind(cli, me, you, number):
    waiting = cli.start("meet", me, you)
    waiting.wait_for_line("waits for", WITHIN)
    assert cli.counts()["meets"] == 1
    waiting._signal(number)
    assert waiting.wait(WITHIN) == 130
    assert "Traceback" not in waiting.stderr
    assert cli.counts()["meets"] == 0


def test_interrupting_a_pipe(cli, me, you):
    first = cli.start("meet", me, you, stdin=subprocess.PIPE)
    second = cli.start("meet", you, me, stdin=subprocess.PIPE)
    first.stdin.write(b"here\n")
    first.stdin.flush()
    second.wait_for_line("here", WITHIN)
    first._signal(signal.SIGINT)
    assert first.wait(WITHIN) == 130
    assert second.wait(WITHIN) in (0, 1)  # end of file or a reset, by what the kernel had in hand


def test_a_reader_that_goes_away_ends_it_quietly(cli, me, you):
    endless = cli.start("meet", me, you, "--exec", "yes")
    taking = subprocess.run(
        ["sh", "-c", '"$0" "$@" | head -n 1', *cli.argv("meet", you, me)],
        env=cli.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (taking.stdout, taking.stderr) == ("y\n", "")
    endless.wait(WITHIN)


def test_names_that_cannot_be(cli):
    result = cli.run("meet", "same", "same")
    assert result.returncode == 1
    assert result.stderr == (
        "trunkline: the name 'same' can't be used: a process can't meet itself; the two names must differ\n"
    )


def test_no_server(lost):
    result = lost.run("meet", "a", "b")
    assert result.returncode == 1
    assert "127.0.0.1:1: connection refused" in result.stderr
    assert "trunkline up" in result.stderr
    assert result.stderr.count("\n") == 1


def test_usage(cli):
    result = cli.run("meet", "alone")
    assert result.returncode == 2
    assert "Missing argument 'YOU'" in result.stderr
    assert result.stdout == ""
