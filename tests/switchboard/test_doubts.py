"""Entries held for taken by others' word: looked at again, once each."""

from trunkline.switchboard.doubts import DOUBT_DELAY, Doubts
from trunkline.switchboard.entries import Entry


def entry(rid: int) -> Entry:
    return Entry(bytes([rid]) * 16, 1, "ann", "ben", b"", False, "b", 0, 0.0)


def test_each_is_looked_at_once_after_one_to_two_delays() -> None:
    doubts = Doubts()
    assert doubts.due is None
    one, two = entry(1), entry(2)
    doubts.mark(one, 10.0)
    assert one.taken
    assert doubts.due == 10.0 + DOUBT_DELAY
    assert doubts.look(doubts.due) == []
    doubts.mark(two, 11.6)
    assert doubts.due == 10.0 + 2 * DOUBT_DELAY
    assert doubts.look(doubts.due) == [("b", one.rid, 1)]
    assert doubts.look(15.0) == [("b", two.rid, 1)]
    assert doubts.due is None


def test_snapshot() -> None:
    doubts = Doubts()
    doubts.mark(entry(1), 0.0)
    doubts.look(2.0)
    doubts.mark(entry(2), 2.5)
    again = Doubts()
    again.restore(doubts.snapshot())
    assert again.snapshot() == doubts.snapshot()
    assert again.look(9.0) == [("b", bytes([1]) * 16, 1)]
