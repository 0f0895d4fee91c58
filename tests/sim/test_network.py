"""The simulated network keeps the promises of TCP, and no others."""

import pytest

from trunkline.sim.network import CLOSED, MACHINE, OPENED, USER, Network, number

A, B = 3, 7


def connected() -> tuple[Network, int, int]:
    """Return a network with one connection, the pipe to the dialler, and the pipe to the other side."""
    net = Network({}, frozenset())
    to_b, to_a = net.dial(A, 1, 5, B, peer=False)
    return net, to_a, to_b


def items(net: Network, name: int) -> tuple[int, ...]:
    return net.pipes[name].items


def test_a_dial_opens_on_both_sides_each_in_its_time() -> None:
    net, to_a, to_b = connected()
    assert items(net, to_a) == items(net, to_b) == (OPENED,)
    assert net.pipes[to_a].conn == 5
    assert net.pipes[to_b].conn == -number(A, 1, 5)
    assert net.towards(A, 1, 5) == to_a
    assert net.towards(B, 1, -number(A, 1, 5)) == to_b


def test_a_dial_to_nobody_or_over_a_cut_is_lost() -> None:
    net = Network({}, frozenset({(A, B)}))
    for conn, target in ((1, None), (2, B)):
        (name,) = net.dial(A, 1, conn, target, peer=False)
        assert net.pipes[name].broken
        assert items(net, name) == ()


def test_order_is_kept_and_close_comes_last() -> None:
    net, to_a, to_b = connected()
    for item in (10, 11):
        assert net.send(to_a, item) == to_b
    assert net.close(to_a) == to_b
    assert [net.take(to_b) for _ in range(4)] == [OPENED, 10, 11, CLOSED]
    assert not net.pipes


def test_who_was_closed_on_sends_into_the_void() -> None:
    net, to_a, to_b = connected()
    net.close(to_a)
    assert net.send(to_b, 10) == -1
    assert net.close(to_a) == -1


def test_a_break_loses_a_suffix_in_each_direction_on_its_own() -> None:
    net, to_a, to_b = connected()
    net.take(to_a)
    net.take(to_b)
    for item in (10, 11):
        net.send(to_a, item)
    assert set(net.lose(to_a)) == {to_a, to_b}
    net.end(to_a)  # one side knows already
    assert net.take(to_b) == 10  # and the other still reads what was under way
    net.end(to_b)
    assert not net.pipes


def test_nothing_is_sent_into_a_broken_connection() -> None:
    net, to_a, to_b = connected()
    net.lose(to_a)
    assert net.send(to_a, 10) == -1
    assert items(net, to_b) == (OPENED,)


def test_only_a_broken_pipe_may_end() -> None:
    net, to_a, _ = connected()
    with pytest.raises(AssertionError):
        net.end(to_a)


def test_a_crash_takes_what_leads_to_the_site_and_breaks_what_comes_from_it() -> None:
    net, to_a, to_b = connected()
    assert net.crash(A) == (to_b,)
    assert to_a not in net.pipes
    assert net.pipes[to_b].broken


def test_a_cut_breaks_only_its_own_link() -> None:
    net, _, to_b = connected()
    elsewhere, _ = net.dial(A, 1, 6, 9, peer=False)
    net.cut(B, A)
    assert net.pipes[to_b].broken
    assert not net.pipes[elsewhere].broken
    assert net.is_cut(A, B)
    net.heal(A, B)
    assert not net.is_cut(A, B)


def test_a_connection_that_is_given_away_is_read_by_the_user() -> None:
    net, to_a, _ = connected()
    assert net.pipes[to_a].reader == MACHINE
    assert net.give(to_a)
    assert net.pipes[to_a].reader == USER
    net.crash(A)
    assert not net.give(to_a)


def test_what_was_not_read_is_put_back_in_front() -> None:
    net, to_a, to_b = connected()
    net.send(to_a, 10)
    net.send(to_a, 11)
    net.take(to_b)
    net.take(to_b)
    net.put_back(to_b, 12)
    assert items(net, to_b) == (12, 11)


def test_a_copy_is_independent_and_has_the_same_key() -> None:
    net, to_a, _ = connected()
    copy = net.copy()
    assert copy.key() == net.key()
    copy.send(to_a, 10)
    assert copy.key() != net.key()
