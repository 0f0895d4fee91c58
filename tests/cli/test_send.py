import json
import os
import signal
import subprocess
import sys

import pytest

from tests.cli.conftest import WITHIN

pytestmark = pytest.mark.e2e

DIES = """
import os, signal, sys
from trunkline.cli import main, transferring
transferring._silent = lambda progress: progress.all_done > 8_000_000 and os.kill(os.getpid(), signal.SIGKILL)
sys.exit(main(sys.argv[1:]))
"""
"""The command, in a process that is killed when 8 MB have come."""


def test_files_and_folders(cli, me, you, tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "one").write_bytes(b"1" * 1000)
    (tmp_path / "two").write_bytes(b"2" * 2_000_000)
    into = tmp_path / "into"
    into.mkdir()
    taking = cli.start("take", you, me, "--into", into)
    sent = cli.run("send", tmp_path / "folder", tmp_path / "two", me, you)
    assert (sent.returncode, sent.stderr) == (0, "")
    assert taking.wait(WITHIN) == 0
    assert (into / "folder" / "inner" / "one").read_bytes() == b"1" * 1000
    assert (into / "two").read_bytes() == b"2" * 2_000_000
    *files, total = sent.stdout.splitlines()
    assert any(line.startswith("sent         2.0 MB  two  sha256 ") for line in files)
    assert total.startswith("2 files, 2.0 MB moved in ")
    assert "\x1b" not in sent.stdout + sent.stderr


def test_json(cli, me, you, tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    into = tmp_path / "into"
    into.mkdir()
    taking = cli.start("take", you, me, "--into", into, "--json")
    sent = json.loads(cli.run("send", tmp_path / "file", me, you, "--json").stdout)
    assert taking.wait(WITHIN) == 0
    for said in (sent, json.loads(taking.stdout)):
        assert said["ok"] is True
        assert [(file["name"], file["status"], file["size"]) for file in said["files"]] == [("file", "sent", 3)]
        assert said["files"][0]["sha256"].startswith("ba7816bf")
        assert said["bytes_moved"] == 3


def test_the_other_side_comes_again(cli, me, you, tmp_path):
    """`take` is killed in the middle and started again: the same `send` goes on where it was."""
    data = os.urandom(1 << 20) * 64
    (tmp_path / "big").write_bytes(data)
    into = tmp_path / "into"
    into.mkdir()
    sending = cli.start("send", tmp_path / "big", me, you, "--json")
    argv = [sys.executable, "-c", DIES, "take", you, me, "--into", into]
    taking = subprocess.run(argv, env=cli.environment, check=False)
    assert taking.returncode == -signal.SIGKILL
    assert not (into / "big").exists()
    sending.wait_for_line(f"meeting '{you}' again", WITHIN)
    taken = json.loads(cli.run("take", you, me, "--into", into, "--json").stdout)
    assert sending.wait(WITHIN) == 0
    assert (into / "big").read_bytes() == data
    assert taken["files"][0]["status"] == "resumed"
    assert 0 < taken["files"][0]["resumed_at"] < len(data)
    sent = json.loads(sending.stdout)
    assert (sent["ok"], sent["connections"]) == (True, 2)


def test_what_cannot_be_sent(cli, me, you, tmp_path):
    result = cli.run("send", tmp_path / "missing", me, you)
    assert result.returncode == 1
    assert "missing" in result.stderr
    assert "Traceback" not in result.stderr
    assert cli.run("send", me, you).returncode == 2


def test_nobody_takes(cli, me, you, tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    result = cli.run("send", tmp_path / "file", me, you, "--timeout", 0.3)
    assert result.returncode == 1
    assert f"'{you}' did not come to meet '{me}' within 0.3 s" in result.stderr
    assert result.stdout.startswith("pending")


def test_no_server(lost, tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    result = lost.run("send", tmp_path / "file", "a", "b")
    assert result.returncode == 1
    assert "trunkline up" in result.stderr
