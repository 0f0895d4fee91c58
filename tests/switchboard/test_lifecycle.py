"""The tables of a request's life: every state x input is legal or named illegal."""

import itertools

import pytest

from trunkline.switchboard.lifecycle import ILLEGAL_MEET, ILLEGAL_POST, MEET, POST, Input, State, Table

BOTH = pytest.mark.parametrize(("table", "illegal"), [(MEET, ILLEGAL_MEET), (POST, ILLEGAL_POST)], ids=["meet", "post"])


@BOTH
def test_every_state_and_input_is_legal_or_named_illegal(table: Table, illegal: dict[tuple[State, Input], str]) -> None:
    for state, what in itertools.product(table, Input):
        assert (what in table[state]) != ((state, what) in illegal), (state.name, what.name)
    assert all(illegal.values())
    assert {state for state, _ in illegal} == set(table)


@BOTH
def test_every_state_is_reached_and_left(table: Table, illegal: dict[tuple[State, Input], str]) -> None:
    reached, frontier = {State.SEEKING}, [State.SEEKING]
    while frontier:
        for state in table[frontier.pop()].values():
            if state not in reached:
                reached.add(state)
                frontier.append(state)
    assert reached == set(table)
    assert [state for state in table if not table[state]] == [State.DONE]


@BOTH
def test_a_caller_can_leave_at_any_time(table: Table, illegal: dict[tuple[State, Input], str]) -> None:
    for state in table:
        if state is not State.DONE:
            assert table[state][Input.CANCELLED] is State.DONE
