"""Real commands against a real switchboard server on a free loopback port."""

import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.authoritykit import World
from tests.e2e.process import Process

WITHIN = 60.0  # seconds that a command may take on a busy machine


class Commands:
    """Runs `trunkline` in an environment of its own; what it started ends with the test."""

    def __init__(self, home: Path, switchboards: str, stack: contextlib.ExitStack) -> None:
        self.home = home
        self.switchboards = switchboards
        self._stack = stack

    @property
    def environment(self) -> dict[str, str]:
        ours = {"TRUNKLINE_HOME": str(self.home), "PYTHONUNBUFFERED": "1"}
        if self.switchboards:
            ours["TRUNKLINE_SWITCHBOARDS"] = self.switchboards
        others = {k: v for k, v in os.environ.items() if not k.startswith("TRUNKLINE_") and k != "NO_COLOR"}
        return others | ours

    def argv(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "trunkline", *map(str, arguments)]

    def start(self, *arguments: object, **options: Any) -> Process:
        process = Process(self.argv(*arguments), env=self.environment, **options)
        return self._stack.enter_context(process)

    def run(self, *arguments: object, given: str | bytes = b"", **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; output is text."""
        given = given.decode() if isinstance(given, bytes) else given
        options = {"env": self.environment, "timeout": WITHIN} | options
        return subprocess.run(
            self.argv(*arguments), input=given, capture_output=True, text=True, check=False, **options
        )

    def run_on_terminal(self, *arguments: object, **options: Any) -> int:
        """Run a command to its end with stderr on a terminal; return its exit code."""
        return subprocess.run(
            self.argv(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False, **options
        ).returncode

    def ready(self, process: Process) -> dict[str, Any]:
        """Return the line of JSON with which a long-running command says that it is ready."""
        found: dict[str, Any] = json.loads(process.wait_for_line(r"^\{.*\}$", WITHIN)[0])
        return found

    def server(self, *arguments: object) -> tuple[Process, str]:
        """Start one more switchboard server; return it with its address."""
        process = self.start("switchboard", "--listen", "127.0.0.1:0", "--json", *arguments)
        return process, self.ready(process)["address"]

    def reach(self, name: str, listen: str = "127.0.0.1:0", *more: object) -> tuple[Process, str]:
        """Start `trunkline reach`; return it with where it listens."""
        process = self.start("reach", name, "--listen", listen, "--json", *more)
        return process, self.ready(process)["listen"]

    def expose(self, name: str, service: str, *more: object) -> Process:
        """Start `trunkline expose`, and wait until the name stands."""
        process = self.start("expose", name, service, "--json", *more)
        assert self.ready(process)["name"] == name
        return process

    def counts(self) -> dict[str, Any]:
        """Return what the server says of itself."""
        rows = json.loads(self.run("status", "--json").stdout)["servers"]
        return next(row for row in rows if row["address"] == self.switchboards)


@pytest.fixture(scope="session")
def switchboard_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for all tests of a worker; they use names of their own."""
    with contextlib.ExitStack() as stack:
        commands = Commands(tmp_path_factory.mktemp("home"), "", stack)
        yield commands.server()[1]


@pytest.fixture
def cli(tmp_path: Path, switchboard_address: str) -> Iterator[Commands]:
    """Commands that use the server."""
    with contextlib.ExitStack() as stack:
        yield Commands(tmp_path / "home", switchboard_address, stack)


@pytest.fixture
def lost(tmp_path: Path) -> Iterator[Commands]:
    """Commands that know of no server, and look for one where none is."""
    with contextlib.ExitStack() as stack:
        yield Commands(tmp_path / "home", "127.0.0.1:1", stack)


@pytest.fixture
def me() -> str:
    """A name that no other test uses."""
    return f"me-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def you() -> str:
    """Another one."""
    return f"you-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name in ("TRUNKLINE_HOME", "TRUNKLINE_SWITCHBOARDS", "TRUNKLINE_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    made = World(tmp_path)
    with made.authority:
        made.settle()
        yield made
