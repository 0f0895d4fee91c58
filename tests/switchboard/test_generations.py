"""Generations of unique names: they grow, whatever clients say and clocks do."""

from hypothesis import given
from hypothesis import strategies as st

from trunkline.switchboard.generations import MAX_AHEAD, MAX_GENERATION, MAX_REMEMBERED, Generations

KEY = ("vault", False, "")


def test_by_the_wall_clock() -> None:
    assert Generations(epoch=1000.0, memory=60.0).next(KEY, 5.5) == 1005


def test_remembered_until_it_is_forgotten() -> None:
    generations = Generations(epoch=0.0, memory=60.0)
    generations.remember(KEY, 500, 10.0)
    assert generations.next(KEY, 20.0) == 501
    assert generations.next(("other", False, ""), 20.0) == 20
    generations.forget(69.0)
    assert len(generations) == 1
    generations.forget(70.0)
    assert len(generations) == 0
    assert generations.next(KEY, 70.0) == 70


def test_what_a_client_held_counts_if_it_can_be_true() -> None:
    generations = Generations(epoch=1000.0, memory=60.0)
    assert generations.next(KEY, 0.0, held=1030) == 1030
    assert generations.next(KEY, 0.0, held=MAX_GENERATION) == 1000 + MAX_AHEAD
    generations.remember(KEY, 1040, 0.0)
    assert generations.next(KEY, 0.0, held=1040) == 1040


def test_a_takeover_is_greater_than_what_it_ends() -> None:
    generations = Generations(epoch=0.0, memory=60.0)
    assert generations.next(KEY, 0.0, taken_over=7) == 8
    assert generations.next(KEY, 0.0, taken_over=MAX_GENERATION) == MAX_GENERATION


def test_memory_is_bounded_and_the_oldest_goes() -> None:
    generations = Generations(epoch=0.0, memory=60.0)
    for number in range(MAX_REMEMBERED + 5):
        generations.remember((f"name-{number}", False), 9, number / 1e6)
    assert len(generations) == MAX_REMEMBERED
    assert generations.next(("name-0", False), 0.0) == 1
    assert generations.next(("name-5", False), 0.0) == 10


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 1 << 60))))
def test_one_holder_after_the_other_never_goes_back(holds: list[tuple[float, int]]) -> None:
    generations = Generations(epoch=0.0, memory=1e9)
    last = 0
    now = 0.0
    for later, held in holds:
        now += later
        following = generations.next(KEY, now, held=0 if held % 2 else min(held, last))
        assert following >= last
        last = following
        generations.remember(KEY, last, now)
    again = Generations(epoch=0.0, memory=1e9)
    again.restore(generations.snapshot())
    assert again.snapshot() == generations.snapshot()
