"""Many deadlines, one next deadline."""

from hypothesis import given
from hypothesis import strategies as st

from trunkline.switchboard.timers import Timers

A, B = (1, b"a"), (1, b"b")


def test_the_earliest_first() -> None:
    timers = Timers()
    assert timers.next() is None
    timers.set(A, 2.0)
    timers.set(B, 1.0)
    assert timers.next() == 1.0
    assert timers.pop_due(0.9) is None
    assert timers.pop_due(2.0) == B
    assert timers.pop_due(2.0) == A
    assert timers.pop_due(9.0) is None
    assert len(timers) == 0


def test_setting_again_replaces() -> None:
    timers = Timers()
    timers.set(A, 1.0)
    timers.set(A, 3.0)
    assert timers.next() == 3.0
    timers.set(A, 2.0)
    assert timers.pop_due(2.5) == A
    assert timers.pop_due(9.0) is None, "the leftovers are passed over"


def test_clearing() -> None:
    timers = Timers()
    timers.set(A, 1.0)
    assert timers.is_set(A)
    timers.clear(A)
    timers.clear(A)
    assert not timers.is_set(A)
    assert timers.next() is None


def test_leftovers_are_bounded() -> None:
    timers = Timers()
    timers.set(B, 1e9)
    for n in range(10_000):
        timers.set(A, float(n))
        timers.clear(A)
    assert len(timers._heap) < 100
    assert timers.next() == 1e9


KEYS = st.tuples(st.integers(1, 3), st.binary(max_size=1))
TIMES = st.integers(0, 9).map(float)


@given(st.lists(st.tuples(KEYS, TIMES | st.none())))
def test_like_a_sorted_dict(changes: list[tuple[tuple[int, bytes], float | None]]) -> None:
    timers, model = Timers(), dict[tuple[int, bytes], float]()
    for key, when in changes:
        if when is None:
            timers.clear(key)
            model.pop(key, None)
        else:
            timers.set(key, when)
            model[key] = when
        assert timers.next() == min(model.values(), default=None)
    other = Timers()
    other.restore(timers.snapshot())
    for each in (timers, other):
        popped = []
        while (key := each.pop_due(9.0)) is not None:
            popped.append(key)
        assert popped == [key for _, key in sorted((when, key) for key, when in model.items())]
