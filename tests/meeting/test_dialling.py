"""Which candidates are dialled when."""

from trunkline.meeting.dialling import MAX_DIALS, Dialling, is_local, order
from trunkline.names import Candidate, Candidates

HERE, THERE = b"here0000", b"there000"
LAN = Candidate("tcp4", "10.0.0.2", 4000)
WAN = Candidate("tcp6", "2001:db8::1", 4000)
LOOP4 = Candidate("tcp4", "127.0.0.1", 4000)
LOOP6 = Candidate("tcp6", "::1", 4000)
UNIX = Candidate("unix", "@bob")


def test_from_the_same_place_the_nearest_come_first() -> None:
    given = Candidates(HERE, (LAN, LOOP6, LOOP4, UNIX, WAN))
    assert order(given, HERE) == (UNIX, LOOP6, LOOP4, LAN, WAN)


def test_from_elsewhere_only_what_can_reach() -> None:
    assert order(Candidates(THERE, (UNIX, LAN, LOOP4, LOOP6, WAN)), HERE) == (LAN, WAN)
    assert order(Candidates(THERE, (UNIX,)), HERE) == ()


def test_unknown_kinds_are_dropped_and_the_number_is_bounded() -> None:
    many = tuple(Candidate("tcp4", f"10.0.0.{n}", 1) for n in range(99))
    assert order(Candidates(THERE, (Candidate("pigeon", "loft"), *many)), HERE) == many[:MAX_DIALS]


def test_what_is_local() -> None:
    assert [is_local(each) for each in (LAN, WAN, LOOP4, LOOP6, UNIX)] == [False, False, True, True, True]


def dialling(*queue: Candidate) -> Dialling:
    return Dialling(queue, 10.0, stagger=0.25, timeout=3.0)


def test_staggered() -> None:
    d = dialling(UNIX, LOOP4, LAN)
    assert d.is_due(10.0)
    assert d.dial(1, 10.0) == UNIX
    assert not d.is_due(10.2)
    assert d.next_deadline() == 10.25
    assert d.is_due(10.25)
    assert d.dial(2, 10.25) == LOOP4
    d.opened(1)
    assert d.is_due(10.5)
    assert d.dial(3, 10.5) == LAN, "a connection that stands is not yet the right one"
    assert not d.is_due(99.0)
    assert d.next_deadline() == 13.25


def test_the_next_at_once_when_one_fails() -> None:
    d = dialling(UNIX, LOOP4)
    d.dial(1, 10.0)
    d.failed(1, "no such file", 10.1)
    assert d.is_due(10.1)
    assert d.dial(2, 10.1) == LOOP4
    assert not d.over
    d.opened(2)
    assert d.next_deadline() is None
    d.failed(2, "reset", 10.2)
    assert d.over
    assert d.next_deadline() is None
    assert d.errors == [(UNIX, "no such file"), (LOOP4, "reset")]


def test_those_that_take_too_long() -> None:
    d = dialling(LAN, WAN)
    d.dial(1, 10.0)
    d.dial(2, 10.25)
    assert d.expired(12.9) == []
    assert d.expired(13.0) == [1]
    d.failed(1, "no answer", 13.0)
    assert d.expired(13.25) == [2]
    d.opened(2)
    assert d.expired(99.0) == []


def test_nobody_to_dial() -> None:
    assert dialling().over
    assert not dialling().is_due(10.0)


def test_a_snapshot_is_the_whole_state() -> None:
    d = dialling(UNIX, LOOP4, LAN)
    d.dial(1, 10.0)
    d.dial(2, 10.25)
    d.opened(1)
    d.failed(2, "refused", 10.3)
    snapshot = d.snapshot()
    other = Dialling.restored(snapshot)
    assert other.snapshot() == snapshot
    assert hash(snapshot)
    assert other.is_due(10.3)
    assert other.dial(3, 10.3) == LAN
