"""Run every benchmark of this folder, one after the other, each as its own command would.

    python benchmarks/run.py [NAME …]

Each is a script with options of its own; `python benchmarks/NAME.py --help` says which. A peer that is not installed is
left out, and said so. Quote ratios and medians of a quiet machine: the figures in docs/measurements/ are such.
"""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main() -> int:
    there = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "run")
    wanted = sys.argv[1:] or there
    unknown = set(wanted) - set(there)
    if unknown:
        print(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(there)}", file=sys.stderr)
        return 2
    failed = []
    for name in wanted:
        print(f"\n== {name}\n", flush=True)
        if subprocess.run([sys.executable, str(FOLDER / f"{name}.py")], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
