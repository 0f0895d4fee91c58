"""A mesh of servers and workers on the hosts of a Lan: `trunkline switchboard` and `tests/e2e/worker.py`."""

import contextlib
import itertools
import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.e2e.hosts import Host, Lan
from tests.e2e.process import Process

TRUNKLINE = [sys.executable, "-m", "trunkline"]
WORKER = Path(__file__).with_name("worker.py")
PORT = 7117
HEARTBEAT = 0.3  # seconds: a server that is silent for three of these is held for lost
PATIENCE = 60.0  # seconds that the slowest step may take on a busy machine

Result = dict[str, Any]


class Mesh:
    """A server on each of some hosts of a Lan, all joined. Servers and workers end with the Lan."""

    def __init__(self, lan: Lan, names: Sequence[str], folder: Path) -> None:
        self.lan = lan
        self.hosts = {name: lan.host(name) for name in names}
        self.servers: dict[str, Process] = {}
        self.folder = folder

    def address(self, name: str) -> str:
        """Return where the server of a host listens, which is its id too."""
        return f"{self.hosts[name].address}:{PORT}"

    def environment(self, name: str, *servers: str) -> dict[str, str]:
        """Return what clients on a host need: the servers of some hosts, or all, its own first."""
        known = servers or sorted(self.hosts, key=lambda other: other != name)
        addresses = ",".join(map(self.address, known))
        return {"TRUNKLINE_SWITCHBOARDS": addresses, "TRUNKLINE_HOME": str(self.folder / name)}

    def start(self, *names: str) -> Self:
        """Start the servers of these hosts, or of all; return when they listen."""
        for name in names or self.hosts:
            join = [word for other in self.hosts if other != name for word in ("--join", self.address(other))]
            self.servers[name] = self.hosts[name].start(
                [*TRUNKLINE, "switchboard", "--listen", self.address(name), *join, "--heartbeat", str(HEARTBEAT)],
                env={"TRUNKLINE_HOME": str(self.folder / "server")},
            )
        for name in names or self.hosts:
            self.servers[name].wait_for_line(r"^switchboard listens on", PATIENCE)
        return self

    def command(self, name: str, *words: str | Path, **options: Any) -> Process:
        """Start one of Trunkline's commands on a host."""
        return self.lan.host(name).start([*TRUNKLINE, *words], env=self.environment(name), **options)

    def wait_until(self, by: str, other: str, *, seen: bool) -> None:
        """Wait until the server of one host is connected to the server of another, by what it says, or is not."""
        news = re.compile(rf"server (joined|missing|left): {re.escape(self.address(other))}\b")

        def said(output: str) -> bool:
            words = news.findall(output)
            return (words[-1:] == ["joined"]) == seen

        self.servers[by].wait_until(said, PATIENCE)

    def wait_until_joined(self) -> Self:
        """Wait until each server sees each other."""
        for one, two in itertools.permutations(self.hosts, 2):
            self.wait_until(one, two, seen=True)
        return self

    def stop(self) -> None:
        """End the servers in good order; see that none of them had a fault of its own."""
        for server in self.servers.values():
            server.ask_to_end()
        for name, server in self.servers.items():
            assert server.wait() == 0, f"the server of {name}:\n{server.stderr}"
            assert "Traceback" not in server.stderr, f"the server of {name}:\n{server.stderr}"


class Workers:
    """Worker processes on hosts. Their results all come by one pipe, in the order in which they are given."""

    def __init__(self) -> None:
        self.processes: dict[str, Process] = {}
        self.results: dict[int, list[Result]] = {}
        """Job -> what its worker has said of it."""
        self._ids = itertools.count(1)
        self._reader, self._writer = os.pipe()
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes.values():
            process.close()
        os.close(self._reader)
        os.close(self._writer)

    def start(self, name: str, host: Host, environment: dict[str, str], kind: str) -> None:
        """Start one; ``kind`` is aio or blocking."""
        self.processes[name] = host.start(
            [sys.executable, WORKER, kind], env=environment, stdin=subprocess.PIPE, stdout=self._writer
        )

    def submit(self, worker: str, **job: object) -> int:
        """Give a worker a job; return the job's number."""
        number = next(self._ids)
        self.results[number] = []
        stdin = self.processes[worker].stdin
        stdin.write((json.dumps(job | {"id": number}) + "\n").encode())
        stdin.flush()
        return number

    def wait(self, done: Callable[[], bool], deadline: float = PATIENCE) -> None:
        """Take results until ``done`` says so. Raises TimeoutError when none comes for ``deadline`` seconds."""
        while not done():
            if not select.select([self._reader], [], [], deadline)[0]:
                raise TimeoutError(f"no result within {deadline:g} s")
            *lines, self._rest = (self._rest + os.read(self._reader, 65536)).split(b"\n")
            for line in lines:
                result = json.loads(line)
                if number := result.pop("id"):
                    self.results[number].append(result)

    def result(self, job: int, *, after: int = 0, deadline: float = PATIENCE) -> Result:
        """Wait for a job's result, and return it; ``after`` leaves out so many that came before it."""
        self.wait(lambda: len(self.results[job]) > after, deadline)
        return self.results[job][after]

    def stop(self, *names: str) -> None:
        """End these workers, or all, in good order; see that none had a fault of its own."""
        chosen = {name: self.processes.pop(name) for name in names or list(self.processes)}
        for process in chosen.values():
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        for name, process in chosen.items():
            with process:
                assert process.wait(PATIENCE) == 0, f"worker {name}:\n{process.stderr}"
                assert "Traceback" not in process.stderr, f"worker {name}:\n{process.stderr}"


def check_empty(mesh: Mesh, workers: Workers) -> None:
    """See that no server has anything in its tables, once it has heard of the end of its clients."""
    for name, host in mesh.hosts.items():
        workers.start("asker", host, mesh.environment(name), "aio")
        limit = time.monotonic() + PATIENCE
        while True:
            said = workers.result(workers.submit("asker", do="status", server=mesh.address(name)))
            left = {key: said["status"][key] for key in ("meets", "posts", "foreign")}
            if not any(left.values()):
                break
            assert time.monotonic() < limit, f"the server of {name} keeps {left}"
        workers.stop("asker")
