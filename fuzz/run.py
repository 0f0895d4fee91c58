"""Fuzz by hand: ``python fuzz/run.py --seconds N [--only NAME]``.

Each harness runs in a process of its own. What it finds interesting is kept in a temporary directory and is gone
afterwards; a crash is kept in ``fuzz/crashes/NAME/`` under a number. Fix what it shows, give the file a name that says
what it was, and commit both: the tests replay every file there.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
CRASHES = ROOT / "fuzz" / "crashes"
SEEDS = 32
NAMES = (
    "codec",
    "server",
    "client",
    "handshake",
    "transfer",
    "sealing",
    "confirmation",
    "trust",
    "authority",
    "joining",
)


class Outcome(NamedTuple):
    """What a run of one harness came to."""

    executions: int
    coverage: int
    """Branches of the instrumented code that were seen, by atheris's count."""
    crashed: bool
    output: str


def sow(corpus: Path) -> None:
    """Begin with some long inputs: machines break many messages deep, and libFuzzer's own first inputs are short."""
    draw = random.Random(7117)
    for number in range(SEEDS):
        (corpus / f"seed{number}").write_bytes(draw.randbytes(16 * (number + 1)))


def fuzz(name: str, *options: str, crashes: Path) -> Outcome:
    """Run one harness with libFuzzer's options; what makes it crash is put into ``crashes``."""
    with tempfile.TemporaryDirectory(prefix="trunkline-fuzz-") as corpus:
        sow(Path(corpus))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "fuzz.drive", name),
                *(f"-artifact_prefix={crashes}/", "-rss_limit_mb=2048", "-timeout=20", *options, corpus),
            ],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    counts = [int(count) for count in re.findall(r"^(?:#|Done )(\d+)", done.stdout, re.MULTILINE)]
    coverage = [int(count) for count in re.findall(r"cov: (\d+)", done.stdout)]
    return Outcome(max(counts, default=0), max(coverage, default=0), done.returncode != 0, done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the wire's codecs and the machines behind them.")
    parser.add_argument("--seconds", type=int, default=600, help="for each harness")
    parser.add_argument("--only", choices=NAMES, help="run one harness")
    given = parser.parse_args()
    failed = False
    for name in [given.only] if given.only else NAMES:
        crashes = CRASHES / name
        crashes.mkdir(parents=True, exist_ok=True)
        outcome = fuzz(name, f"-max_total_time={given.seconds}", crashes=crashes)
        failed |= outcome.crashed
        verdict = "CRASHED" if outcome.crashed else "no crash"
        print(f"{name:12} {outcome.executions:9} executions   coverage {outcome.coverage:5}   {verdict}", flush=True)
        if outcome.crashed:
            print("\n".join(outcome.output.splitlines()[-40:]), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
