"""The fuzzers' harnesses, run briefly; and every input that once found a fault, replayed."""

import importlib
import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.run import CRASHES, NAMES, fuzz

pytestmark = pytest.mark.slow


HAS_ATHERIS = importlib.util.find_spec("atheris") is not None
RUNS = 200


@pytest.mark.parametrize("name", NAMES)
def test_a_short_run_finds_nothing(name: str, tmp_path: Path) -> None:
    if HAS_ATHERIS:
        outcome = fuzz(name, f"-runs={RUNS}", "-seed=1", crashes=tmp_path)
        assert not outcome.crashed, outcome.output[-4000:]
        assert outcome.executions >= RUNS
        assert outcome.coverage > 20, "the harness reaches nothing"
        return
    harness = importlib.import_module(f"fuzz.fuzz_{name}")
    given(st.binary(max_size=harness.MAX_LEN))(harness.fuzz_one)()


@pytest.mark.parametrize("path", sorted(CRASHES.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_once_broke_it_does_so_no_more(path: Path) -> None:
    importlib.import_module(f"fuzz.fuzz_{path.parent.name}").fuzz_one(path.read_bytes())
