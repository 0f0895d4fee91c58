#!/usr/bin/env python3
"""Wire programs into a graph, after UPCONN, the first user of the paper's switchboard.

    python examples/upconn/upconn.py GRAPH.toml            run the whole graph on this host
    python examples/upconn/upconn.py GRAPH.toml --only P   run one program of it here; the others may run elsewhere
    python examples/upconn/upconn.py GRAPH.toml --check    say what would be run and wired

A graph has programs and edges. An edge joins one end of a program with one end of another, by a meeting: both sides
agree on nothing but the names. Ends that are called ``stdin`` and ``stdout`` become just these; any other end is an
open socket whose file descriptor is in the environment variable of the end's name, in capitals.

    name = "words"                                    # names of meetings begin with it
    edges = ["split.left -> count1.stdin", …]
    [programs.split]
    run = ["python3", "split.py"]                     # relative to the graph's folder

A switchboard server must be running: ``trunkline up``.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import trunkline


class End(NamedTuple):
    """One end of an edge: a program, and what it calls this end."""

    program: str
    name: str

    def __str__(self) -> str:
        return f"{self.program}.{self.name}"


class Graph(NamedTuple):
    """What the file says."""

    name: str
    folder: Path
    programs: dict[str, list[str]]
    edges: list[tuple[End, End]]

    def ends(self, program: str) -> list[tuple[End, End]]:
        """Return the ends of one program, each with the end that it is joined to."""
        return [(mine, other) for edge in self.edges for mine, other in (edge, edge[::-1]) if mine.program == program]


def read_graph(path: Path) -> Graph:
    """Read a graph from a file.

    Raises:
        SystemExit: with what is wrong in it.
    """
    try:
        data = tomllib.loads(path.read_text())
        programs = {name: [str(word) for word in program["run"]] for name, program in data["programs"].items()}
        edges = []
        for line in data["edges"]:
            left, _, right = line.partition("->")
            edge = tuple(End(*end.strip().split(".", 1)) for end in (left, right))
            edges.append((edge[0], edge[1]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        sys.exit(f"{path}: not a graph: {error!r}")
    graph = Graph(str(data.get("name", path.stem)), path.resolve().parent, programs, edges)
    ends = [end for edge in edges for end in edge]
    for end in ends:
        if end.program not in programs:
            sys.exit(f"{path}: the edge end {end} is of no program in the file")
        if ends.count(end) > 1:
            sys.exit(f"{path}: the end {end} is in two edges; an end is one connection")
    return graph


def run_program(graph: Graph, program: str, timeout: float) -> int:
    """Meet the neighbours of one program, become it, and return its exit code."""
    environment = dict(os.environ)
    streams: dict[str, int] = {}
    connections = []
    # Every program meets in the order of the file, so no two can wait for each other in a circle.
    for mine, other in graph.ends(program):
        connection = trunkline.meet(f"{graph.name}/{mine}", f"{graph.name}/{other}", timeout=timeout)
        connections.append(connection)
        if mine.name in {"stdin", "stdout"}:
            streams[mine.name] = connection.fileno()
        else:
            environment[mine.name.upper()] = str(connection.fileno())
    done = subprocess.run(
        graph.programs[program],
        cwd=graph.folder,
        env=environment,
        stdin=streams.get("stdin", subprocess.DEVNULL),
        stdout=streams.get("stdout"),
        pass_fds=[connection.fileno() for connection in connections],
        check=False,
    )
    for connection in connections:
        connection.close()
    return done.returncode


def run_graph(graph: Graph, path: Path, timeout: float) -> int:
    """Run every program in a process of its own; if one fails, end the others."""
    me = [sys.executable, __file__, str(path), "--timeout", str(timeout), "--only"]
    running = {subprocess.Popen([*me, program], start_new_session=True).pid: program for program in graph.programs}
    worst = 0
    try:
        while running:
            pid, status = os.wait()
            program = running.pop(pid, None)
            code = os.waitstatus_to_exitcode(status)
            if program is not None and code and not worst:
                worst = 1
                print(f"{program} ended with {code}; the others are stopped", file=sys.stderr)
                stop(running)
    except KeyboardInterrupt:
        worst = 130
    finally:
        stop(running)
        for pid in running:
            os.waitpid(pid, 0)
    return worst


def stop(running: dict[int, str]) -> None:
    """End programs, each with its own children."""
    for pid in running:
        os.killpg(pid, signal.SIGTERM)


def main() -> int:
    options = argparse.ArgumentParser(description="Wire programs into a graph by meetings.")
    options.add_argument("graph", type=Path)
    options.add_argument("--only", metavar="PROGRAM", help="run this one program here")
    options.add_argument("--check", action="store_true", help="say what would be run and wired, and stop")
    options.add_argument("--timeout", type=float, default=30.0, help="seconds to wait for each neighbour")
    args = options.parse_args()
    graph = read_graph(args.graph)
    if args.check:
        for program, command in graph.programs.items():
            print(f"{program}: {shlex.join(command)}")
        for left, right in graph.edges:
            print(f"  {left}  <->  {right}")
        return 0
    if args.only is None:
        return run_graph(graph, args.graph, args.timeout)
    if args.only not in graph.programs:
        options.error(f"there is no program {args.only!r} in {args.graph}")
    try:
        return run_program(graph, args.only, args.timeout)
    except trunkline.TrunklineError as error:
        print(f"{args.only}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
