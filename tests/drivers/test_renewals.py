"""The thread that keeps a membership up to date: it lives while there is something to do, and no longer."""

import asyncio
import logging
import threading

import pytest

from trunkline.authority.freshness import TrustSettings
from trunkline.authority.keeper import CertificateCame, FetchHead, HeadCame, Keeper, Renew, Tick
from trunkline.drivers import renewals
from trunkline.drivers.clock import now as clock
from trunkline.drivers.renewals import Renewals, Since
from trunkline.errors import ClosedError, NoAuthority

WALL = 1_800_000_000.0


def threads():
    return [each for each in threading.enumerate() if each.name == "trunkline-renewals"]


class World:
    """What the tasks do is up to the test."""

    def __init__(self, *, certificate=True):
        keeper = Keeper(TrustSettings(), certificate=certificate, seed=bytes(16), now=clock())
        self.renewals = Renewals(keeper, self.fetch, self.renew)
        self.asked = []
        self.failure = None
        self.began = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def fetch(self):
        self.asked.append("head")
        self.began.set()
        self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return HeadCame(WALL, WALL)

    def renew(self):
        self.asked.append("certificate")
        if self.failure is not None:
            raise self.failure
        return CertificateCame(WALL - 300, WALL + 86_400, WALL)

    def wait_for(self, heads, certificates):
        with self.renewals.changed:
            enough = self.renewals.changed.wait_for(
                lambda: self.renewals.attempts == {FetchHead: heads, Renew: certificates}, 30
            )
        assert enough


@pytest.fixture
def world():
    made = World()
    yield made
    made.gate.set()
    made.renewals.close()
    assert threads() == []


def test_what_is_due_is_done_in_a_thread_that_ends(world):
    world.renewals.tick()
    world.wait_for(1, 1)
    assert world.asked == ["head", "certificate"]
    assert world.renewals.failures == {FetchHead: None, Renew: None}
    assert clock() + 80 < world.renewals.due < clock() + 101
    world.renewals.tick()
    assert world.asked == ["head", "certificate"]


def test_one_thread_at_a_time_and_nobody_waits_for_it(world):
    world.gate.clear()
    world.renewals.tick()
    world.renewals.tick()
    world.renewals.hurry(head=True, certificate=True)
    assert len(threads()) == 1
    world.gate.set()
    world.wait_for(1, 1)


def test_failures_are_kept_and_told_once(world, caplog):
    world.failure = NoAuthority([("127.0.0.1:1", "connection refused")])
    with caplog.at_level(logging.WARNING):
        world.renewals.tick()
        world.wait_for(1, 1)
    assert world.renewals.failures[FetchHead] is world.failure
    assert world.renewals.failures[Renew] is world.failure
    assert caplog.text.count("connection refused") == 2
    assert clock() < world.renewals.due < clock() + 2


def test_a_mistake_of_ours_reaches_who_waits(world, caplog):
    world.failure = KeyError("oops")
    with caplog.at_level(logging.ERROR):
        world.renewals.tick()
        world.wait_for(1, 1)
    assert isinstance(world.renewals.failures[FetchHead], ClosedError)
    assert "KeyError: 'oops'" in str(world.renewals.failures[FetchHead])
    assert "Traceback" in caplog.text


def test_callbacks_are_called_after_each_task(world):
    async def main():
        loop, done, calls = asyncio.get_running_loop(), asyncio.Event(), []

        def call():
            calls.append(threading.current_thread().name)
            if len(calls) == 2:
                loop.call_soon_threadsafe(done.set)

        world.renewals.listen(call)
        world.renewals.tick()
        await done.wait()
        world.renewals.unlisten(call)
        world.renewals.unlisten(call)
        return calls

    assert asyncio.run(main()) == ["trunkline-renewals"] * 2


def test_closing_waits_and_starts_nothing_more(world):
    world.gate.clear()
    world.renewals.tick()
    world.began.wait()

    def open_the_gate_once_it_is_closing():
        with world.renewals.changed:
            world.renewals.changed.wait_for(lambda: world.renewals._closed)
        world.gate.set()

    opener = threading.Thread(target=open_the_gate_once_it_is_closing)
    opener.start()
    world.renewals.close()
    opener.join()
    assert threads() == []
    world.renewals.hurry(head=True)
    assert world.asked == ["head"]


def test_who_only_verifies_has_one_task():
    world = World(certificate=False)
    world.renewals.tick()
    world.wait_for(1, 0)
    world.renewals.close()
    assert world.asked == ["head"]


def test_who_comes_when_an_attempt_has_long_begun_waits_for_the_next(world, monkeypatch):
    """A machine that wakes up: what it asked before it slept fails, and says nothing about now."""
    ahead = 0.0
    monkeypatch.setattr(renewals, "clock", lambda: clock() + ahead)
    world.gate.clear()
    world.renewals.step(Tick())
    assert world.began.wait(30)
    together = Since(world.renewals)
    ahead = 3600.0
    later = Since(world.renewals)
    world.failure = NoAuthority([])
    world.gate.set()
    world.wait_for(1, 1)
    assert together.over(FetchHead)
    assert not later.over(FetchHead)
    assert later.over(Renew), "it had not begun"
    world.renewals.hurry(head=True)
    world.wait_for(2, 1)
    assert later.over(FetchHead)
