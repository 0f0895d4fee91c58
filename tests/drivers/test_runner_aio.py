import asyncio
from collections.abc import Callable

import pytest

from tests.drivers.aiokit import run, until
from trunkline.drivers import runner_aio
from trunkline.drivers.runner_aio import Runner


class Counter:
    """A machine: an event is a number; below 3 its effects are the next number, twice."""

    def __init__(self) -> None:
        self.events: list[int] = []
        self.deadline: float | None = None

    def step(self, event: int, now: float) -> list[int]:
        self.events.append(event)
        return [event + 1] * 2 if 0 < event < 3 else []

    def next_deadline(self) -> float | None:
        return self.deadline


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [100.0]
    monkeypatch.setattr(runner_aio, "now", lambda: time[0])
    return time


def make(machine: Counter, carry_out: Callable[[int], None], settled: list[int]) -> Runner[int, int]:
    loop = asyncio.get_running_loop()
    settle = lambda: settled.append(len(machine.events))  # noqa: E731
    return Runner(loop, machine, carry_out=carry_out, settle=settle, tick=-1)


def test_what_effects_bring_about_waits_its_turn() -> None:
    async def main() -> None:
        machine, carried, settled = Counter(), [], []

        def carry_out(effect: int) -> None:
            carried.append(effect)
            if len(carried) < 4:
                runner.step(effect)

        runner = make(machine, carry_out, settled)
        runner.step(1)
        assert machine.events == [1, 2, 2, 3]
        assert carried == [2, 2, 3, 3, 3, 3]
        assert settled == [4]  # once, at the end

    run(main)


def test_an_effect_that_fails_does_not_jam_it() -> None:
    async def main() -> None:
        machine, settled = Counter(), []

        def fail(effect: int) -> None:
            raise ZeroDivisionError

        runner = make(machine, fail, settled)
        with pytest.raises(ZeroDivisionError):
            runner.step(1)
        runner.step(7)
        assert machine.events == [1, 7]

    run(main)


def test_the_deadline_becomes_a_tick(clock: list[float]) -> None:
    async def main() -> None:
        machine = Counter()
        runner = make(machine, lambda effect: None, [])
        machine.deadline = 100.0
        runner.step(9)
        while machine.events != [9, -1]:
            await asyncio.sleep(0)
            machine.deadline = None if machine.events[-1] == -1 else machine.deadline
        runner.stop()

    run(main)


def test_a_timer_that_is_early_looks_again(clock: list[float]) -> None:
    async def main() -> None:
        machine = Counter()
        runner = make(machine, lambda effect: None, [])
        machine.deadline = 100.0
        runner.step(9)
        machine.deadline = 100.01  # later than it was: the timer stays, and finds nothing due
        runner.step(8)
        timer = runner._timer
        await until(lambda: runner._timer is not timer)
        assert machine.events == [9, 8]
        clock[0] = 101.0
        await until(lambda: machine.events == [9, 8, -1])
        runner.stop()

    run(main)


def test_an_earlier_deadline_sets_the_timer_anew(clock: list[float]) -> None:
    async def main() -> None:
        machine = Counter()
        runner = make(machine, lambda effect: None, [])
        machine.deadline = 5000.0
        runner.step(9)
        late = runner._timer
        machine.deadline = 4000.0
        runner.step(9)
        assert runner._timer is not late
        assert late is not None
        assert late.cancelled()
        runner.stop()
        assert runner._timer is None
        runner.step(9)
        assert runner._timer is None
        runner.stop()

    run(main)
