"""The pending table: its indexes, and the life of an entry, enumerated."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.switchboard.entries import LIFE, Entry, Input, PostEntry, State
from trunkline.switchboard.table import Table


def entry(rid: int, me: str = "ann", you: str = "ben", owner: str = "", n: int = 1) -> Entry:
    return Entry(bytes([rid]) * 16, n, me, you, b"", False, owner, 1, 0.0)


def post(rid: int, name: str = "printer", owner: str = "", **more: Any) -> PostEntry:
    settings: dict[str, Any] = {"backlog": 2, "unique": False, "claim": b"", "generation": 0} | more
    return PostEntry(bytes([rid]) * 16, 1, name, b"", False, owner, 1, 0.0, **settings)


@pytest.mark.parametrize(("state", "what"), list(product(State, Input)))
def test_every_state_and_input_is_legal_or_refused(state: State, what: Input) -> None:
    it = entry(1)
    it.state = state
    if what in LIFE[state]:
        it.move(what)
        assert it.state is LIFE[state][what]
    else:
        with pytest.raises(AssertionError, match=what.name):
            it.move(what)
        assert it.state is state


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.WAITING}
    for _ in State:
        reached |= {after for state in reached for after in LIFE[state].values()}
    assert reached == set(State)
    assert all(State.GONE in LIFE[state].values() for state in State if state is not State.GONE)


def test_partners_are_those_who_name_each_other_in_order_of_arrival() -> None:
    table = Table()
    first, second = entry(1, owner="b"), entry(2)
    for it in (first, second, entry(3, you="carl"), entry(4, me="carl", you="ann")):
        table.add(it)
    assert table.partners(entry(9, "ben", "ann")) == [first, second]


def test_a_pool_is_chosen_from_by_load_then_turn() -> None:
    table = Table()
    pool = [post(1), post(2)]
    for it in pool:
        table.add(it)
    chosen = []
    for _ in range(4):
        it = table.choose(entry(9, you="printer"))
        assert it is not None
        it.matched += 1
        chosen.append(it)
    assert chosen == [*pool, *pool]
    assert table.choose(entry(9, you="printer")) is None


def test_of_unique_contenders_only_the_greatest_is_seen() -> None:
    table = Table()
    for rid, generation in ((1, 5), (2, 7), (3, 6)):
        table.add(post(rid, owner="abc"[rid - 1], unique=True, generation=generation))
    assert [it.generation for it in table.pool("printer", False, "")] == [7]


names = st.sampled_from(["a", "b", "c", "a/b"])
steps = st.lists(
    st.tuples(
        st.sampled_from(["meet", "post", "remove"]),
        st.integers(0, 5),
        names,
        names,
        st.sampled_from(["", "x", "y"]),
    ),
    max_size=40,
)


@given(steps)
def test_indexes_agree_with_a_plain_list(script: list[tuple[str, int, str, str, str]]) -> None:
    table = Table()
    model: list[Entry] = []
    for what, rid, me, you, owner in script:
        known = table.get(owner, bytes([rid]) * 16)
        if what == "remove":
            if known is not None:
                table.remove(known)
                model.remove(known)
        elif known is None and me != you:
            it = entry(rid, me, you, owner) if what == "meet" else post(rid, me, owner)
            table.add(it)
            model.append(it)
    for me in "abc":
        for you in "abc":
            pair = [e for e in model if not isinstance(e, PostEntry) and (e.me, e.you) == (you, me)]
            assert table.partners(entry(9, me, you)) == pair
        assert table.seekers(me, False) == [e for e in model if not isinstance(e, PostEntry) and e.you == me]
        assert table.pool(me, False, "") == [e for e in model if isinstance(e, PostEntry) and e.me == me]
    posted = sorted({e.me for e in model if isinstance(e, PostEntry)})
    assert [key[0] for key, _ in table.names("", "", 100)[0]] == posted
    again = Table()
    again.restore(table.snapshot())
    assert again.snapshot() == table.snapshot()
    for it in model:
        table.remove(it)
    assert table.counts() == (0, 0, 0)
    assert table.snapshot()[:3] == ((), (), ())
