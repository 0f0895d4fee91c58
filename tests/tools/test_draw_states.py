"""The page of state diagrams."""

from tools import draw_states


def test_the_page_is_what_the_tables_say() -> None:
    assert draw_states.PAGE.read_text() == draw_states.page(), "run `make docs`"


def test_moves_between_two_states_share_an_arrow() -> None:
    moves = [("UP", "stop", "DOWN"), ("UP", "fail", "DOWN"), ("UP", "tick", "UP")]
    assert draw_states.draw(moves).splitlines()[1:-1] == [
        "stateDiagram-v2",
        "    [*] --> UP",
        "    UP --> DOWN: stop, fail",
        "    UP --> UP: tick",
        "    DOWN --> [*]",
    ]
