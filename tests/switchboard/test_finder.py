"""Finding a server: order, stagger, pauses, memory."""

import pytest

from trunkline.names import Address, Draw
from trunkline.switchboard.finder import FIRST_PAUSE, LONGEST_PAUSE, MAX_SERVERS, Finder, Scan

A, B, C = Address("a", 1), Address("b", 1), Address("c", 1)


def finder(*servers: Address) -> Finder:
    return Finder(servers, Draw(b"seed"), stagger=0.25)


def test_a_scan_is_staggered_and_in_order() -> None:
    f = finder(A, B, A)
    assert f.servers == (A, B)
    assert f.due(0.0) is None
    f.seek(0.0)
    f.seek(0.0)
    assert f.due(0.0) == A
    assert f.due(0.1) is None
    assert f.next_deadline() == 0.25
    assert f.due(0.25) == B
    assert f.due(0.25) is None
    assert f.next_deadline() is None
    assert not f.exhausted
    assert f.tried == (("a:1", "no answer yet"), ("b:1", "no answer yet"))


def test_the_next_at_once_when_one_fails() -> None:
    f = finder(A, B)
    f.seek(0.0)
    assert f.due(0.0) == A
    f.failed(A, "refused", 0.1)
    assert f.due(0.1) == B
    assert not f.exhausted
    f.failed(B, "no route", 0.2)
    assert f.exhausted
    assert f.tried == (("a:1", "refused"), ("b:1", "no route"))
    f.failed(C, "not of this scan", 0.2)
    assert f.tried == (("a:1", "refused"), ("b:1", "no route"))


def test_pauses_grow_to_a_limit_and_shrink_when_a_server_is_found() -> None:
    f = finder(A)
    now, pauses = 0.0, []
    f.seek(now)
    for _ in range(12):
        assert f.due(now) == A
        f.failed(A, "refused", now)
        f.retry(now)
        assert f.scan is Scan.PAUSING
        when = f.next_deadline()
        assert when is not None
        pauses.append(when - now)
        now = when
    assert all(FIRST_PAUSE / 2 * 2**n <= pauses[n] <= FIRST_PAUSE * 2**n for n in range(4))
    assert all(LONGEST_PAUSE / 2 <= pause <= LONGEST_PAUSE for pause in pauses[6:])
    assert len(set(pauses)) == len(pauses), "jittered"
    assert f.due(now) == A
    assert not f.found(A)
    f.seek(now)
    assert f.due(now) == A
    f.failed(A, "refused", now)
    f.retry(now)
    assert (f.next_deadline() or 0) - now <= FIRST_PAUSE


def test_a_new_wish_cuts_a_pause_short_but_never_a_scan() -> None:
    f = finder(A, B)
    f.seek(0.0, 0.2)
    assert f.next_deadline() == 0.2
    assert f.due(0.1) is None
    f.seek(0.1, 0.5)
    assert f.next_deadline() == 0.2
    f.seek(0.1)
    assert f.due(0.1) == A
    f.seek(0.1)
    assert f.due(0.1) is None


def test_the_last_good_first_and_the_lost_one_last() -> None:
    f = finder(A, B, C)
    f.seek(0.0)
    assert f.found(B)
    assert f.servers == (B, A, C)
    assert f.scan is Scan.IDLE
    f.lost(B)
    f.seek(1.0)
    assert [f.due(1.0), f.due(1.25), f.due(1.5)] == [A, C, B]
    f.stop()
    f.seek(2.0)
    assert f.due(2.0) == B, "only the first scan after the loss passes it over"


def test_the_list_grows_to_a_limit() -> None:
    f = finder(A)
    assert f.learn([B, A])
    assert not f.learn([B])
    assert f.servers == (A, B)
    assert f.learn([Address("many", n) for n in range(500)])
    assert len(f.servers) == MAX_SERVERS
    assert f.servers[:2] == (A, B)
    assert not f.learn([C]), "it is full"


def test_no_server_is_known() -> None:
    f = finder()
    f.seek(0.0)
    assert f.due(0.0) is None
    assert f.exhausted
    assert f.tried == ()


def test_only_a_scan_in_vain_is_retried() -> None:
    with pytest.raises(AssertionError, match="only a scan that is over"):
        finder(A).retry(0.0)


def test_a_snapshot_is_the_whole_state() -> None:
    f = finder(A, B)
    f.seek(0.0)
    f.due(0.0)
    f.failed(A, "refused", 0.1)
    f.lost(A)
    snapshot = f.snapshot()
    assert hash(snapshot)
    g = finder(A, B)
    g.restore(snapshot)
    assert g.snapshot() == snapshot
    assert g.due(0.1) == B
