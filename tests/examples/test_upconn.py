"""The example after the paper's UPCONN: a graph of programs, wired by meetings and run by one command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live import LiveServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "upconn"


def run(graph: Path, server: str, home: Path, *more: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, TRUNKLINE_SWITCHBOARDS=server, TRUNKLINE_HOME=str(home))
    return subprocess.run(
        [sys.executable, str(EXAMPLE / "upconn.py"), str(graph), *more],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_words_graph(tmp_path: Path) -> None:
    with LiveServer() as server:
        done = run(EXAMPLE / "words.toml", server.address, tmp_path)
    assert done.returncode == 0, done.stderr
    text = (EXAMPLE / "words.toml").read_text().lower()
    count, word = done.stdout.split("\n")[0].split()
    assert word == "count"
    assert text.count("count") >= int(count) > 5


def test_check_shows_the_wiring(tmp_path: Path) -> None:
    done = run(EXAMPLE / "words.toml", "127.0.0.1:1", tmp_path, "--check")
    assert "split.left  <->  count1.stdin" in done.stdout


def test_a_failing_program_ends_the_graph(tmp_path: Path) -> None:
    graph = tmp_path / "broken.toml"
    graph.write_text(
        'edges = ["a.stdout -> b.stdin"]\n'
        '[programs.a]\nrun = ["python3", "-c", "raise SystemExit(3)"]\n'
        '[programs.b]\nrun = ["python3", "-c", "import signal, sys; sys.stdin.read(); signal.pause()"]\n'
    )
    with LiveServer() as server:
        done = run(graph, server.address, tmp_path)
    assert done.returncode == 1
    assert "a ended with 3" in done.stderr


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("edges = []", "not a graph"),
        ('edges = ["a.x -> b.y"]\n[programs.a]\nrun = ["true"]', "b.y is of no program"),
        ('edges = ["a.x -> a.y", "a.x -> a.z"]\n[programs.a]\nrun = ["true"]', "a.x is in two edges"),
    ],
)
def test_bad_graphs(tmp_path: Path, text: str, complaint: str) -> None:
    graph = tmp_path / "graph.toml"
    graph.write_text(text)
    done = run(graph, "127.0.0.1:1", tmp_path, "--check")
    assert done.returncode == 1
    assert complaint in done.stderr
