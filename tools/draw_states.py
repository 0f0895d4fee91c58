"""Draw the state tables: docs/spec/states.md (Mermaid, which GitHub shows) and docs/spec/states/*.svg.

Run it after a table was changed; tests/tools/test_draw_states.py fails until what is committed is what the tables give.
The layout is our own and simple: states from top to bottom in the order of their table, steps to the next one straight
down, longer ones in lanes on the right, ways back in lanes on the left.
"""

import enum
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

from trunkline.meeting import handshake
from trunkline.switchboard import lifecycle, table

DOCS = Path(__file__).resolve().parent.parent / "docs" / "spec"

BOX_WIDTH, BOX_HEIGHT, GAP = 150, 44, 64
LANE, LINE, CHARACTER = 34, 15, 6.6
MARGIN = 24


@dataclass(frozen=True)
class Chart:
    """One table, as text: (from, to) -> what leads there."""

    name: str
    title: str
    about: str
    states: tuple[str, ...]
    edges: dict[tuple[str, str], tuple[str, ...]]


def chart(name: str, title: str, about: str, moves: Mapping[enum.Enum, Mapping[enum.Enum, enum.Enum]]) -> Chart:
    """Return the chart of a table: state -> input -> state."""
    edges: dict[tuple[str, str], list[str]] = {}
    for state, inputs in moves.items():
        for given, after in inputs.items():
            edges.setdefault((state.name, after.name), []).append(given.name.lower())
    states = tuple(state.name for state in moves)
    return Chart(name, title, about, states, {pair: tuple(given) for pair, given in edges.items()})


CHARTS = (
    chart("meet", "A meeting, at its client", "`trunkline.switchboard.lifecycle.MEET`", lifecycle.MEET),
    chart("post", "A post, at its client", "`trunkline.switchboard.lifecycle.POST`", lifecycle.POST),
    chart("entry", "A meet that a server owns", "`trunkline.switchboard.table.LIFE`", table.LIFE),
    chart("handshake", "A connection between peers", "`trunkline.meeting.handshake.TABLE`", handshake.TABLE),
)


def mermaid(drawn: Chart) -> str:
    """Return a chart in Mermaid's language."""
    lines = ["stateDiagram-v2", f"    [*] --> {drawn.states[0]}"]
    for (state, after), given in drawn.edges.items():
        lines.append(f"    {state} --> {after}: {', '.join(given)}")
    ends = [state for state in drawn.states if not any(pair[0] == state for pair in drawn.edges)]
    lines += [f"    {state} --> [*]" for state in ends]
    return "\n".join(lines)


def page() -> str:
    """Return docs/spec/states.md."""
    parts = [
        "# State tables",
        "",
        "Drawn from the tables in the code by `tools/draw_states.py`; a test compares. Every state and input that is",
        "missing here is illegal, and named with its reason beside the table.",
    ]
    for drawn in CHARTS:
        parts += ["", f"## {drawn.title}", "", f"{drawn.about}; as a drawing: [states/{drawn.name}.svg]"]
        parts[-1] += f"(states/{drawn.name}.svg)"
        parts += ["", "```mermaid", mermaid(drawn), "```"]
    return "\n".join(parts) + "\n"


class Drawing:
    """One SVG in the making."""

    def __init__(self, drawn: Chart) -> None:
        self.chart = drawn
        self.row = {state: place for place, state in enumerate(drawn.states)}
        self.shapes: list[str] = []
        right = [pair for pair in drawn.edges if self.row[pair[1]] - self.row[pair[0]] > 1]
        left = [pair for pair in drawn.edges if self.row[pair[1]] < self.row[pair[0]]]
        self.right = sorted(right, key=lambda pair: (self.row[pair[1]] - self.row[pair[0]], self.row[pair[0]]))
        self.left = sorted(left, key=lambda pair: (self.row[pair[0]] - self.row[pair[1]], self.row[pair[0]]))
        self.x = MARGIN + self._reach(self.left)

    def _reach(self, pairs: list[tuple[str, str]]) -> float:
        return sum(self._lane_width(pair) for pair in pairs)

    def _lane_width(self, pair: tuple[str, str]) -> float:
        return LANE + max(len(given) for given in self.chart.edges[pair]) * CHARACTER

    def _top(self, state: str) -> float:
        return MARGIN + 34 + self.row[state] * (BOX_HEIGHT + GAP)

    def _port(self, state: str, pairs: list[tuple[str, str]], pair: tuple[str, str]) -> float:
        """Return where an edge meets the side of a box: each has its own place."""
        touching = [other for other in pairs if state in other]
        touching.sort(key=lambda other: self.row[other[0] if other[1] == state else other[1]])
        at = touching.index(pair) + 1
        return self._top(state) + BOX_HEIGHT * at / (len(touching) + 1)

    def _text(self, x: float, y: float, lines: tuple[str, ...], anchor: str = "start") -> None:
        first = y - (len(lines) - 1) * LINE / 2 + 4
        for place, line in enumerate(lines):
            self.shapes.append(
                f'<text x="{x:.0f}" y="{first + place * LINE:.0f}" text-anchor="{anchor}">{escape(line)}</text>'
            )

    def _lane(self, pair: tuple[str, str], pairs: list[tuple[str, str]], x: float, side: float, to: int) -> None:
        y1, y2 = self._port(pair[0], pairs, pair), self._port(pair[1], pairs, pair)
        bend = 8 if y2 > y1 else -8
        self.shapes.append(
            f'<path d="M{side:.0f},{y1:.0f} H{x - to * 8:.0f} Q{x:.0f},{y1:.0f} {x:.0f},{y1 + bend:.0f} '
            f'V{y2 - bend:.0f} Q{x:.0f},{y2:.0f} {x - to * 8:.0f},{y2:.0f} H{side + to * 3:.0f}" '
            'marker-end="url(#tip)"/>'
        )
        self._text(x + to * 6, (y1 + y2) / 2, self.chart.edges[pair], "start" if to > 0 else "end")

    def svg(self) -> str:
        """Return the drawing."""
        drawn = self.chart
        middle, side = self.x + BOX_WIDTH / 2, self.x + BOX_WIDTH
        loops = [pair for pair in drawn.edges if pair[0] == pair[1]]
        x = side + max((self._lane_width(pair) for pair in loops), default=0)
        for state in drawn.states:
            y = self._top(state)
            self.shapes.append(
                f'<rect x="{self.x:.0f}" y="{y:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="9"/>'
                f'<text x="{middle:.0f}" y="{y + BOX_HEIGHT / 2 + 5:.0f}" class="state">{state}</text>'
            )
        for pair, given in drawn.edges.items():
            step = self.row[pair[1]] - self.row[pair[0]]
            bottom = self._top(pair[0]) + BOX_HEIGHT
            if step == 1:
                self.shapes.append(
                    f'<path d="M{middle:.0f},{bottom:.0f} V{bottom + GAP - 3:.0f}" marker-end="url(#tip)"/>'
                )
                self._text(middle + 8, bottom + GAP / 2, given)
            elif step == 0:
                y = bottom - 10
                self.shapes.append(
                    f'<path d="M{side:.0f},{y:.0f} h14 q8,0 8,8 v8 q0,8 -8,8 H{side - 24:.0f} '
                    f'q-8,0 -8,-8 V{bottom + 3:.0f}" marker-end="url(#tip)"/>'
                )
                self._text(side + 28, y + 14, given)
        for pair in self.right:
            x += 12
            self._lane(pair, self.right, x, side, 1)
            x += self._lane_width(pair) - 12
        back = self.x
        for pair in self.left:
            back -= 24
            self._lane(pair, self.left, back, self.x, -1)
            back -= self._lane_width(pair) - 24
        width = x + MARGIN
        height = self._top(drawn.states[-1]) + BOX_HEIGHT + MARGIN
        return "\n".join(
            [
                (
                    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
                    f'width="{width:.0f}" height="{height:.0f}" role="img" aria-label="{escape(drawn.title)}">'
                ),
                (
                    "<style>text{font:12px sans-serif;fill:#333}.state{font-weight:bold;text-anchor:middle}"
                    ".title{font-size:15px;font-weight:bold}rect{fill:#eef3fa;stroke:#4a6a96;stroke-width:1.3}"
                    "path{fill:none;stroke:#777;stroke-width:1.2}#tip path{fill:#777;stroke:none}</style>"
                ),
                (
                    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
                    'orient="auto"><path d="M0,0 L8,4 L0,8 z"/></marker></defs>'
                ),
                f'<rect width="{width:.0f}" height="{height:.0f}" style="fill:#fff;stroke:none"/>',
                f'<text x="{MARGIN}" y="{MARGIN + 6}" class="title">{escape(drawn.title)}</text>',
                *self.shapes,
                "</svg>",
                "",
            ]
        )


def files() -> dict[Path, str]:
    """Return what is to be in docs/spec, by path."""
    found = {DOCS / "states" / f"{drawn.name}.svg": Drawing(drawn).svg() for drawn in CHARTS}
    return {DOCS / "states.md": page(), **found}


def main() -> int:
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
