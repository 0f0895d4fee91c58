import os
import pty

import pytest

from tests.cli.conftest import WITHIN
from trunkline.cli.transferring import shorten, size, summary
from trunkline.drivers.files import FileOutcome, Outcome, Status


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (3e12, "3.0 TB"), (7e9, "7.0 GB")],
)
def test_size(count, text):
    assert size(count) == text


def test_shorten():
    assert shorten("short") == "short"
    assert shorten("x" * 50) == "…" + "x" * 39
    assert shorten("red\x1b[31m") == "red?[31m"


def test_summary():
    outcome = Outcome(
        (
            FileOutcome("a", Status.RESUMED, 5_000_000, resumed_at=2_000_000, sha256="ab" * 32),
            FileOutcome("d", Status.SENT, directory=True),
            FileOutcome("l", Status.LEFT_OUT, reason="a symbolic link"),
        ),
        bytes_moved=3_000_000,
        connections=2,
    )
    assert summary(outcome, 2.0).splitlines() == [
        "resumed from 2.0 MB on    5.0 MB  a  sha256 abababababababab…",
        "sent                 d  folder",
        "left out        0 B  l  a symbolic link",
        "2 files, 3.0 MB moved in 2.0 s, 1.5 MB/s, 2 connections",
    ]


@pytest.mark.e2e
@pytest.mark.parametrize("no_color", [True, False])
def test_a_bar_on_a_terminal(cli, me, you, tmp_path, no_color):
    (tmp_path / "file").write_bytes(bytes(30_000_000))
    into = tmp_path / "into"
    into.mkdir()
    taking = cli.start("take", you, me, "--into", into)
    environment = (
        cli.environment | {"TERM": "xterm-256color", "COLUMNS": "100"} | ({"NO_COLOR": "1"} if no_color else {})
    )
    master, slave = pty.openpty()
    try:
        result = cli.run_on_terminal("send", tmp_path / "file", me, you, stderr=slave, env=environment)
        os.set_blocking(master, False)
        drawn = os.read(master, 1 << 20).decode()
    finally:
        os.close(master)
        os.close(slave)
    assert result == 0
    assert taking.wait(WITHIN) == 0
    assert "file" in drawn
    assert "\x1b[38;5" not in drawn or not no_color
