import asyncio
import math

import pytest

from tests.drivers.aiokit import run, until
from trunkline.drivers import upkeep_aio
from trunkline.drivers.clock import now
from trunkline.drivers.upkeep_aio import Upkeep


class Member:
    def __init__(self, due: float | None) -> None:
        self.due = due
        self.ticks = 0

    def next_deadline(self) -> float | None:
        return self.due

    def tick(self) -> None:
        self.ticks += 1


def test_what_is_due_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep_aio, "SOONEST", 0.001)

    async def main() -> None:
        upkeep = Upkeep(asyncio.get_running_loop())
        soon, later, never = Member(now()), Member(now() + 3600), Member(None)
        for member in (never, later, soon, soon):
            upkeep.add(member)
        assert (soon.ticks, later.ticks, never.ticks) == (1, 2, 3)
        await until(lambda: soon.ticks > 3)
        upkeep.close()
        upkeep.close()
        assert upkeep._timer is None

    run(main)


@pytest.mark.parametrize(
    ("due", "wait"),
    [(-1.0, upkeep_aio.SOONEST), (5.0, 5.0), (3600.0, upkeep_aio.LATEST), (math.inf, upkeep_aio.LATEST)],
)
def test_when_it_looks_again(due: float, wait: float) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        upkeep = Upkeep(loop)
        start = loop.time()
        upkeep.add(Member(now() + due))
        assert upkeep._timer is not None
        assert start + wait - 0.1 <= upkeep._timer.when() <= loop.time() + wait + 0.1
        upkeep.close()

    run(main)
