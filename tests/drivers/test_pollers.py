import os
import socket
import threading
from collections.abc import Iterator

import pytest

from trunkline.drivers import pollers as module
from trunkline.drivers.pollers import HANGUP, IN, OUT, Pollers

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pollers() -> Iterator[Pollers]:
    made = Pollers()
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("brief", [False, True])
def test_the_handler_is_called_with_what_is_ready(pollers, pair, brief):
    seen = []
    pollers.add(pair[0].fileno(), IN, seen.append, brief=brief)
    assert pollers.wait(0) == []
    pair[1].send(b"x")
    pollers.handle(pollers.wait(None))
    assert seen == [IN]
    pollers.change(pair[0].fileno(), OUT)
    pollers.handle(pollers.wait(None))
    assert seen == [IN, OUT]
    pollers.remove(pair[0].fileno())
    pollers.remove(pair[0].fileno())
    assert pollers.wait(0) == []


def test_brief_ones_and_others_are_found_together(pollers, pair):
    seen = []
    pollers.add(pair[0].fileno(), IN, lambda _: seen.append("brief"), brief=True)
    pollers.add(pair[1].fileno(), IN, lambda _: seen.append("lasting"))
    pair[0].send(b"x")
    pair[1].send(b"x")
    pollers.handle(pollers.wait(None))
    assert sorted(seen) == ["brief", "lasting"]


def test_brief_ones_are_kept_when_nobody_is_about_to_wait(pollers, pair):
    seen = []
    pollers.add(pair[0].fileno(), IN | HANGUP, seen.append, brief=True)
    assert not pollers._epoll.poll(0)
    pollers.keep_all()
    pair[1].close()
    pollers.handle(pollers.wait_aside(None))
    assert seen[0] & HANGUP
    pollers.remove(pair[0].fileno())


def test_while_one_sleeps_a_brief_one_is_found_all_the_same(pollers, pair):
    found = threading.Event()
    pollers.enter()

    def sleep() -> None:
        pollers.handle(pollers.wait(None))

    thread = threading.Thread(target=sleep)
    thread.start()
    pair[1].send(b"x")
    pollers.add(pair[0].fileno(), IN, lambda _: found.set(), brief=True)
    assert found.wait(20)
    thread.join()
    pollers.leave()


def test_one_that_an_earlier_handler_removed_is_not_called(pollers, pair):
    seen = []

    def handler(number: int) -> None:
        seen.append(number)
        pollers.remove(pair[0].fileno())
        pollers.remove(pair[1].fileno())

    for sock in pair:
        pollers.add(sock.fileno(), OUT, handler)
    pollers.handle(pollers.wait(None))
    assert len(seen) == 1


def test_the_bell_ends_a_wait(pollers):
    pollers.ring()
    pollers.ring()
    pollers.handle(pollers.wait(None))
    assert pollers.wait(0) == []


def test_closing_waits_for_the_last_sleeper():
    pollers = Pollers()
    bell = pollers._bell
    pollers.enter()
    pollers.enter()
    pollers.close()
    pollers.leave()
    assert pollers.wait(None)  # the bell was rung
    pollers.leave()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(bell)


def test_a_forked_child_has_no_sleepers():
    pollers = Pollers()
    pollers.enter()
    pollers.forked()
    pollers.close()
    assert pollers._epoll.closed


class Clock:
    """Moves by a step each time that it is read; stands in for the module `time`."""

    def __init__(self, step: float) -> None:
        self.now = 0.0
        self.step = step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pollers]:
    """One that has earned to poll for 100 microseconds."""
    monkeypatch.setattr(module, "available_cores", lambda: 2)
    made = Pollers(spin=100e-6)
    for _ in range(8):
        made._policy.found()
    yield made
    made.close()


def test_polling_finds_what_comes_meanwhile(eager, pair, monkeypatch):
    monkeypatch.setattr(module, "time", Clock(10e-6))
    monkeypatch.setattr(module, "give_way", lambda: pair[1].send(b"x"))
    eager.add(pair[0].fileno(), IN, lambda _: None)
    assert eager.wait(None) == [(pair[0].fileno(), IN)]
    assert eager._policy._finds == 9
    eager.remove(pair[0].fileno())


@pytest.mark.parametrize("step", [40e-6, 1e-3], ids=["missed", "stolen"])
def test_after_polling_in_vain_it_sleeps(eager, pair, monkeypatch, step):
    monkeypatch.setattr(module, "time", Clock(step))
    before = eager._policy._credit
    assert eager.wait(0.01) == []
    if step < 500e-6:
        assert eager._policy._credit < before
    else:
        assert eager._policy.budget(0.0) == 0


def test_waits_without_polling_are_evidence(eager, monkeypatch):
    monkeypatch.setattr(module, "time", Clock(1.0))
    eager._policy._credit = 0
    eager.ring()
    assert eager.wait(None)
    eager.handle(eager.wait(None))
    assert eager._policy._credit == 0
    monkeypatch.setattr(module, "time", Clock(1e-6))
    eager.ring()
    assert eager.wait(None)
    assert eager._policy._credit == 1
