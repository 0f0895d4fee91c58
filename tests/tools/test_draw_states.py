"""The drawings that are committed are those of the tables."""

from xml.etree import ElementTree as ET

import pytest

from tools import draw_states


@pytest.mark.parametrize("path", draw_states.files(), ids=lambda path: path.name)
def test_what_is_committed_is_what_the_tables_give(path: object) -> None:
    text = draw_states.files()[path]  # type: ignore[index]
    assert path.read_text() == text, "run tools/draw_states.py"  # type: ignore[attr-defined]


@pytest.mark.parametrize("drawn", draw_states.CHARTS, ids=lambda drawn: drawn.name)
def test_a_drawing_shows_every_state_and_input(drawn: draw_states.Chart) -> None:
    root = ET.fromstring(draw_states.Drawing(drawn).svg())
    shown = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert set(drawn.states) <= set(shown)
    for inputs in drawn.edges.values():
        assert set(inputs) <= set(shown)


def test_mermaid_has_a_line_for_each_pair_of_states() -> None:
    for drawn in draw_states.CHARTS:
        text = draw_states.mermaid(drawn)
        for state, after in drawn.edges:
            assert f"{state} --> {after}: " in text
