import contextlib
import threading
from collections import deque
from collections.abc import Iterator

import pytest

from trunkline.drivers.clock import now
from trunkline.drivers.crew import Crew, Waiter
from trunkline.drivers.pollers import Pollers, Ready
from trunkline.errors import ClosedError, InvalidName
from trunkline.switchboard.events import Tick

SOON = 20.0


class FakeReactor:
    """Does what the test says when it is turned."""

    def __init__(self) -> None:
        self.pollers = Pollers()
        self.events: deque[object] = deque()
        self.busy = True
        self.due: float | None = None
        self.handled: list[str] = []
        self.turned = threading.Event()
        self.on_turn = lambda: None
        self.said_goodbye = False

    def step(self, event: object) -> None:
        self.events.append(event)
        self.run()

    def run(self) -> None:
        self.turned.set()
        self.on_turn()

    def handle(self, ready: Ready) -> None:
        self.pollers.handle(ready)
        self.handled.append(threading.current_thread().name)
        self.run()

    def next_deadline(self) -> float | None:
        return self.due

    def tick(self, now: float) -> None:
        self.due = None
        self.step(Tick())

    def say_goodbye(self) -> None:
        self.said_goodbye = True

    def abandon(self) -> None:
        self.pollers.close()


@pytest.fixture
def errors() -> list[ClosedError]:
    return []


@pytest.fixture
def crew(errors) -> Iterator[Crew]:
    crew = Crew(errors.append)
    crew.reactor = FakeReactor()
    yield crew
    with crew.turn:
        helper = crew.dismiss()
    if helper is not None:
        helper.join()


def waiting(crew: Crew, waiter: Waiter, deadline: float | None = None) -> threading.Thread:
    def run() -> None:
        with crew.turn:
            crew.wait(waiter, deadline)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def until(crew: Crew, condition) -> None:
    while True:
        with crew.turn:
            if condition():
                return


def test_the_first_leads_the_second_follows_and_leads_on(crew):
    first, second = Waiter(), Waiter()
    one = waiting(crew, first)
    until(crew, lambda: crew._leader is first)
    other = waiting(crew, second)
    until(crew, lambda: second in crew._followers)
    with crew.turn:
        crew.finish(first)
    one.join()
    until(crew, lambda: crew._leader is second)
    with crew.turn:
        crew.finish(second)
    other.join()
    assert crew._leader is None


def test_a_follower_is_done_without_leading(crew):
    first, second = Waiter(), Waiter()
    one = waiting(crew, first)
    until(crew, lambda: crew._leader is first)
    other = waiting(crew, second)
    until(crew, lambda: second in crew._followers)
    crew.reactor.on_turn = lambda: crew.finish(second)
    crew.reactor.pollers.ring()
    other.join()
    assert crew._leader is first
    with crew.turn:
        crew.finish(first)
    one.join()


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_a_deadline_ends_the_wait(crew, role):
    other = Waiter()
    thread = None
    if role == "follower":
        thread = waiting(crew, other)
        until(crew, lambda: crew._leader is other)
    late = Waiter()
    waiting(crew, late, now()).join()
    waiting(crew, late, now() + 0.01).join()
    assert not late.done
    if thread is not None:
        with crew.turn:
            crew.finish(other)
        thread.join()


def test_a_leader_does_what_is_due(crew):
    waiter = Waiter()
    crew.reactor.due = now()
    crew.reactor.on_turn = lambda: crew.finish(waiter)
    waiting(crew, waiter).join()
    assert list(crew.reactor.events) == [Tick()]


def test_a_nearer_deadline_wakes_the_leader(crew):
    waiter = Waiter()
    thread = waiting(crew, waiter)
    until(crew, lambda: crew._leader_sleeps)
    with crew.turn:
        crew.reactor.due = now()
        crew.tell(Tick())  # by another thread: the leader sleeps without end, and must look again
        crew.reactor.on_turn = lambda: crew.finish(waiter)
    thread.join()


def test_the_helper_works_when_nobody_waits(crew):
    with crew.turn:
        crew.tell(Tick())
    crew.reactor.turned.clear()
    crew.reactor.pollers.ring()
    assert crew.reactor.turned.wait(SOON)
    assert crew.reactor.handled == ["trunkline-helper"]
    crew.reactor.turned.clear()
    with crew.turn:
        crew.reactor.due = now()
        crew.tell(Tick())
    until(crew, lambda: crew.reactor.due is None)


def test_the_helper_takes_over_when_a_leader_leaves(crew):
    waiter = Waiter()
    thread = waiting(crew, waiter)
    with crew.turn:
        crew.tell(Tick())
        crew._turns += 1
    until(crew, lambda: crew._leader is waiter)
    with crew.turn:
        crew.finish(waiter)
    thread.join()
    crew.reactor.turned.clear()
    crew.reactor.pollers.ring()
    assert crew.reactor.turned.wait(SOON)


def test_the_helper_ends_when_nothing_is_open(crew):
    with crew.turn:
        crew.tell(Tick())
        helper = crew._helper
        crew.reactor.busy = False
        crew.reactor.pollers.ring()
    helper.join()
    assert crew._helper is None


def test_what_a_leader_owes_is_fed_by_whoever_waits_next(crew):
    waiter = Waiter()

    def deliver() -> None:
        crew.reactor.on_turn = lambda: None
        crew.report(Tick(), waiter)
        crew.finish(waiter)

    crew.reactor.on_turn = deliver
    crew.reactor.pollers.ring()
    waiting(crew, waiter).join()
    until(crew, lambda: list(crew.reactor.events) == [Tick()])  # by the helper, since nobody else waits


def test_a_turn_that_fails_cuts_everything_off(crew, errors):
    def fail() -> None:
        raise ZeroDivisionError

    reactor = crew.reactor
    reactor.on_turn = fail
    with crew.turn, pytest.raises(ZeroDivisionError):
        crew.feed(Tick())
    assert crew.reactor is None
    assert reactor.pollers._epoll.closed
    assert isinstance(errors[0].__cause__, ZeroDivisionError)


def test_a_turn_of_the_helpers_that_fails_is_logged(crew, errors, caplog):
    def fail() -> None:
        raise ZeroDivisionError

    with crew.turn:
        crew.tell(Tick())
        helper = crew._helper
        crew.reactor.on_turn = fail
        crew.reactor.pollers.ring()
    helper.join()
    assert len(errors) == 1
    assert "ZeroDivisionError" in caplog.text


def test_the_callers_mistake_changes_nothing(crew, errors):
    def refuse() -> None:
        raise InvalidName("", "it is empty")

    crew.reactor.on_turn = refuse
    with crew.turn, contextlib.suppress(InvalidName):
        crew.feed(Tick())
    assert crew.reactor is not None
    assert errors == []


def test_dismissing_says_goodbye_and_wakes_the_leader(crew):
    waiter = Waiter()
    thread = waiting(crew, waiter)
    until(crew, lambda: crew._leader_sleeps)
    reactor = crew.reactor
    with crew.turn:
        crew.dismiss()
        crew.finish(waiter)
    thread.join()
    assert reactor.said_goodbye
    assert reactor.pollers._epoll.closed
