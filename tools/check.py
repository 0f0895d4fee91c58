"""What `make test` and CI run: lint, types and layers; other Pythons; then all tests.

The whole suite runs on this Python. What depends most on the Python (`PORTABLE`) runs on the others that are
installed; `make matrix` runs all quick tests (neither e2e nor slow) there. The suite comes last, so that pytest's own
count of tests, printed once, is near the end of what is read. Branch coverage, with every process that the tests
start, is a part of its own (`make coverage`): it is there for a person to read, is no gate, and makes the run half as
long again.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PURE = ("wire", "switchboard", "meeting", "transfer", "authority", "names", "users", "errors")
PYTHONS = ("3.11", "3.12", "3.13")
PYTEST = ("-m", "pytest", "-n", "3", "--dist", "worksteal")  # one more than cores: many tests wait for something
QUICK = ("-m", "not e2e and not slow")
PORTABLE = (
    "tests/test_aio.py",
    "tests/test_aio_secure.py",
    "tests/test_connect.py",
    "tests/test_connect_sealed.py",
    "tests/test_exports.py",
    "tests/drivers/test_keys.py",
    "tests/drivers/test_membership.py",
    "tests/drivers/test_secure_sockets.py",
    "tests/drivers/test_tls.py",
    "tests/drivers/test_transport_tls_aio.py",
    "tests/meeting",
    "tests/switchboard",
    "tests/wire",
)
"""What runs on every Python: the faces, what they stand on in ssl, asyncio and sockets, and the codecs."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Run what CI runs. Without --only: lint, portable, suite.")
    parser.add_argument("--only", choices=list(PARTS), help="run one part (unit: quick tests, no coverage)")
    only = parser.parse_args().only
    began = time.monotonic()
    failed = [name for name in ([only] if only else ("lint", "portable", "suite")) if not PARTS[name]()]
    outcome = f"FAILED: {', '.join(failed)}" if failed else "all passed"
    say(f"{outcome}, in {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


def lint() -> bool:
    """Run the four checkers at once: they share no files that one of them writes."""
    commands = {
        "ruff check": ["ruff", "check", "--quiet"],
        "ruff format": ["ruff", "format", "--check", "--quiet"],
        "mypy": ["mypy"],
        "import-linter": ["lint-imports", "--no-logo"],
    }
    say("lint: " + ", ".join(commands))
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        running = []
        for name, (program, *arguments) in commands.items():
            # To files: a pipe that nobody reads yet could fill up and hold its writer.
            output = stack.enter_context((Path(place) / program).open("w+"))
            path = Path(sys.executable).with_name(program)
            process = subprocess.Popen(
                [path, *arguments], cwd=ROOT, env=environment(), stdout=output, stderr=subprocess.STDOUT
            )
            running.append((name, process, output))
        passed = True
        for name, process, output in running:
            good = process.wait() == 0
            passed &= good
            say(f"  {name}: {'ok' if good else 'FAILED'}")
            if not good:
                output.seek(0)
                print(output.read(), flush=True)
    return passed


def unit() -> bool:
    say("tests: the quick ones, without coverage")
    return run([sys.executable, *PYTEST, *QUICK]) == 0


def suite() -> bool:
    say("tests: all")
    return run([sys.executable, *PYTEST]) == 0


def coverage() -> bool:
    """Run all tests, in parallel and with every process that they start measured, then print the coverage."""
    say("tests: all, with branch coverage")
    run([sys.executable, "-m", "coverage", "erase"])
    passed = run([sys.executable, "-m", "coverage", "run", *PYTEST]) == 0
    run([sys.executable, "-m", "coverage", "combine", "--quiet"])
    run([sys.executable, "-m", "coverage", "report"])
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "coverage.json"
        if run([sys.executable, "-m", "coverage", "json", "--quiet", "-o", str(report)]) == 0:
            files = json.loads(report.read_text())["files"]
            for line in pure_coverage({path: entry["summary"] for path, entry in files.items()}):
                say(line)
    return passed


def pure_coverage(files: dict[str, dict[str, int]]) -> list[str]:
    """Return a line for each pure package: lines and branches that the tests took, of those there are."""
    lines = ["coverage of the pure packages, which should be near 100 %:"]
    for name in PURE:
        inside = [
            summary
            for path, summary in files.items()
            if path == f"src/trunkline/{name}.py" or path.startswith(f"src/trunkline/{name}/")
        ]
        statements, covered = (sum(file[key] for file in inside) for key in ("num_statements", "covered_lines"))
        branches, taken = (sum(file[key] for file in inside) for key in ("num_branches", "covered_branches"))
        if statements:
            share = 100 * (covered + taken) / (statements + branches)
            counts = f"lines {covered}/{statements}   branches {taken}/{branches}"
            lines.append(f"  trunkline.{name:12} {share:5.1f} %   {counts}")
    return lines


def portable() -> bool:
    return on_other_pythons("what depends most on the Python", PORTABLE)


def matrix() -> bool:
    return on_other_pythons("the quick tests", ())


def on_other_pythons(what: str, files: tuple[str, ...]) -> bool:
    """Run quick tests on the other Pythons that are installed, each in an environment of its own."""
    here = "{}.{}".format(*sys.version_info)
    interpreters = {version: find_python(version) for version in PYTHONS if version != here}
    passed = True
    with ThreadPoolExecutor() as pool:  # to install is mostly to wait
        environments = {
            version: pool.submit(prepared, version, found) for version, found in interpreters.items() if found
        }
    for version, interpreter in interpreters.items():
        if interpreter is None:
            say(f"python {version}: not installed here, so not tested")
            continue
        began = time.monotonic()
        say(f"python {version}: {what} ({interpreter})")
        try:
            python = environments[version].result()
        except subprocess.CalledProcessError as error:
            print(error.stdout, flush=True)
            say(f"  python {version}: FAILED to install")
            passed = False
            continue
        done = subprocess.run(
            [python, *PYTEST, "-q", "-p", "no:cacheprovider", *QUICK, *files],
            cwd=ROOT,
            # What differs between Pythons shows with few examples; the many are for the main run.
            env=environment() | {"TRUNKLINE_HYPOTHESIS": "fast"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        good = done.returncode == 0
        passed &= good
        if not good:
            print(done.stdout, flush=True)
        # Not in pytest's words: its count of tests should be read once, from the main run.
        say(f"  python {version}: {'ok' if good else 'FAILED'}, in {time.monotonic() - began:.0f} s")
    return passed


def find_python(version: str) -> str | None:
    """Return an interpreter of that version that really runs, or None.

    The one on PATH may be a shim of pyenv that refuses to run: so each is asked, and pyenv's own come after.
    """
    candidates = [shutil.which(f"python{version}")]
    candidates += map(str, sorted((Path.home() / ".pyenv/versions").glob(f"{version}*/bin/python")))
    for candidate in filter(None, candidates):
        ask = [candidate, "-c", "import sys, ensurepip; print('{}.{}'.format(*sys.version_info))"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(ask, capture_output=True, text=True, timeout=30, check=False)
            if done.returncode == 0 and done.stdout.strip() == version:
                return candidate
    return None


def prepared(version: str, interpreter: str) -> Path:
    """Return the Python of an environment for the tests, made anew when the requirements changed."""
    place = ROOT / f".venv-{version}"
    python = place / "bin/python"
    stamp = place / ".installed"
    wanted = (ROOT / "pyproject.toml").read_text() + (ROOT / "constraints.txt").read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [interpreter, "-m", "venv", "--clear", place],
        [*pip, "-c", "constraints.txt", "-e", ".[dev]"],
    ):
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    stamp.write_text(wanted)
    return python


def environment() -> dict[str, str]:
    """Return the environment of all that runs here: this tree's code, installed or not."""
    return os.environ | {"PYTHONPATH": str(ROOT / "src"), "MYPYPATH": str(ROOT / "src")}


def run(command: list[str]) -> int:
    return subprocess.run(command, cwd=ROOT, env=environment(), check=False).returncode


def say(line: str) -> None:
    print(line, flush=True)


PARTS: dict[str, Callable[[], bool]] = {
    "lint": lint,
    "unit": unit,
    "suite": suite,
    "coverage": coverage,
    "portable": portable,
    "matrix": matrix,
}

if __name__ == "__main__":
    sys.exit(main())
