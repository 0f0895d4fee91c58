"""Run one harness under atheris: ``python -m fuzz.drive NAME [libFuzzer options] [corpus]``.

The harnesses are plain functions of bytes; this file is the only one that knows atheris.
"""

import importlib
import sys

import atheris

PURE = [f"trunkline.{name}" for name in ("wire", "switchboard", "meeting", "transfer", "authority", "names")]


def main() -> None:
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=PURE):
        harness = importlib.import_module(f"fuzz.fuzz_{name}")
    atheris.Setup([*sys.argv, f"-max_len={harness.MAX_LEN}"], harness.fuzz_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
