"""Draw the state tables of the machines into docs/states.md: `make docs`. Hand-drawn diagrams drift; these can't.

With --check nothing is written; the exit code is 1 if the page is not what the tables say.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trunkline.meeting import handshake
from trunkline.switchboard import entries, lifecycle
from trunkline.transfer import lifecycle as transfer

PAGE = Path(__file__).resolve().parent.parent / "docs/states.md"

HEAD = """\
# States

Drawn from the tables in the code by `make docs`; a test compares. What is not drawn is illegal: asserted, or refused.
"""

Move = tuple[str, str, str]
"""A state, what happens, the state after."""


def nested(moves: Mapping[Any, Mapping[Any, Any]]) -> list[Move]:
    """Return the moves of a table state -> input -> state."""
    return [(_name(state), _name(given), _name(after)) for state, row in moves.items() for given, after in row.items()]


def flat(moves: Mapping[tuple[Any, type], Any]) -> list[Move]:
    """Return the moves of a table (state, message) -> state."""
    return [(_name(state), said.__name__, _name(after)) for (state, said), after in moves.items()]


def _name(value: Any) -> str:
    return str(value.name)


def draw(moves: Iterable[Move]) -> str:
    """Return the moves as a Mermaid diagram: one arrow for all that leads from one state to another."""
    arrows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for state, given, after in moves:
        arrows[state, after].append(given)
    first = next(iter(arrows))[0]
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    lines += [f"    {state} --> {after}: {', '.join(inputs)}" for (state, after), inputs in arrows.items()]
    states = {state for state, _ in arrows}
    lines += [f"    {end} --> [*]" for end in dict.fromkeys(after for _, after in arrows) if end not in states]
    return "\n".join([*lines, "```"])


def page() -> str:
    """Return the whole page."""
    parts = (
        (
            "A meet on its own server's table (`switchboard/entries.py`)",
            "spec/switchboard.md",
            "3",
            nested(entries.LIFE),
        ),
        ("A client's meeting (`switchboard/lifecycle.py`)", "spec/switchboard.md", "5", nested(lifecycle.MEET)),
        ("A client's post (`switchboard/lifecycle.py`)", "spec/switchboard.md", "5", nested(lifecycle.POST)),
        ("The dial between peers (`meeting/handshake.py`)", "spec/switchboard.md", "6", nested(handshake.TABLE)),
        ("A file's entry in a transfer (`transfer/lifecycle.py`)", "spec/transfer.md", "5", flat(transfer.ENTRY_TABLE)),
        (
            "The conversation of a transfer (`transfer/lifecycle.py`)",
            "spec/transfer.md",
            "5",
            flat(transfer.LINK_TABLE),
        ),
    )
    drawn = [
        f"\n## {title}\n\n[{path}]({path}) section {number}.\n\n{draw(moves)}\n" for title, path, number, moves in parts
    ]
    return HEAD + "".join(drawn)


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw the state tables into docs/states.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")
    wanted = page()
    if parser.parse_args().check:
        return int(not PAGE.exists() or PAGE.read_text() != wanted)
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
