"""The parts of the check runner that decide something."""

import sys
from pathlib import Path

import pytest

from tools import check


def interpreter(place: Path, name: str, body: str) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    path = place / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'shims'}:/usr/bin:/bin")
    return tmp_path


def test_a_shim_that_refuses_to_run_is_passed_over(home: Path) -> None:
    interpreter(home / "shims", "python3.99", "echo 'pyenv: python3.99: command not found' >&2; exit 127")
    assert check.find_python("3.99") is None
    real = interpreter(home / ".pyenv/versions/3.99.1/bin", "python", "echo 3.99")
    assert check.find_python("3.99") == str(real)


def test_an_interpreter_of_another_version_is_passed_over(home: Path) -> None:
    interpreter(home / "shims", "python3.99", "echo 3.98")
    assert check.find_python("3.99") is None


def test_an_interpreter_on_the_path_is_found(home: Path) -> None:
    version = "{}.{}".format(*sys.version_info)
    found = interpreter(home / "shims", f"python{version}", f'exec "{sys.executable}" "$@"')
    assert check.find_python(version) == str(found)


def test_coverage_is_summed_over_a_package() -> None:
    def summary(statements: int, covered: int, branches: int, taken: int) -> dict[str, int]:
        return {
            "num_statements": statements,
            "covered_lines": covered,
            "num_branches": branches,
            "covered_branches": taken,
        }

    lines = check.pure_coverage(
        {
            "src/trunkline/wire/a.py": summary(10, 10, 4, 3),
            "src/trunkline/wire/b.py": summary(6, 5, 0, 0),
            "src/trunkline/names.py": summary(8, 8, 2, 2),
            "src/trunkline/drivers/clock.py": summary(9, 0, 0, 0),
        }
    )
    assert [line.split() for line in lines[1:]] == [
        ["trunkline.wire", "90.0", "%", "lines", "15/16", "branches", "3/4"],
        ["trunkline.names", "100.0", "%", "lines", "8/8", "branches", "2/2"],
    ]
