import signal

import pytest

from tests.cli.conftest import WITHIN

pytestmark = pytest.mark.e2e


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"new")
    return path


@pytest.fixture
def into(tmp_path):
    path = tmp_path / "into"
    path.mkdir()
    return path


def test_nothing_is_overwritten_unasked(cli, me, you, file, into):
    (into / "file").write_bytes(b"old")
    sending = cli.start("send", file, me, you)
    taken = cli.run("take", you, me, "--into", into)
    assert (taken.returncode, sending.wait(WITHIN)) == (1, 1)
    assert (into / "file").read_bytes() == b"old"
    assert taken.stdout.startswith("refused")
    assert "trunkline: 1 of 1 were not taken" in taken.stderr
    assert "Traceback" not in taken.stderr + sending.stderr


def test_force(cli, me, you, file, into):
    (into / "file").write_bytes(b"old")
    sending = cli.start("send", file, me, you)
    assert cli.run("take", you, me, "--into", into, "--force").returncode == 0
    assert sending.wait(WITHIN) == 0
    assert (into / "file").read_bytes() == b"new"


def test_what_is_there_already_is_not_sent_again(cli, me, you, file, into):
    (into / "file").write_bytes(b"new")
    sending = cli.start("send", file, me, you)
    taken = cli.run("take", you, me, "--into", into)
    assert (taken.returncode, sending.wait(WITHIN)) == (0, 0)
    assert taken.stdout.startswith("skipped")
    assert "1 file, 0 B moved" in taken.stdout


def test_here_is_the_default(cli, me, you, file, into):
    sending = cli.start("send", file, me, you)
    environment = cli.environment
    assert cli.run("take", you, me, cwd=into, env=environment).returncode == 0
    assert sending.wait(WITHIN) == 0
    assert (into / "file").read_bytes() == b"new"


def test_no_such_folder(cli, me, you, into):
    result = cli.run("take", you, me, "--into", into / "missing")
    assert result.returncode == 1
    assert "missing" in result.stderr
    assert result.stderr.count("\n") == 1


def test_ctrl_c_while_it_waits(cli, me, you, into):
    taking = cli.start("take", you, me, "--into", into)
    taking.wait_for_line("waits for", WITHIN)
    taking._signal(signal.SIGINT)
    assert taking.wait(WITHIN) == 130
    assert "Traceback" not in taking.stderr
    assert cli.counts()["meets"] == 0
