import time

import pytest

from trunkline.drivers import clock


def test_the_clock_never_goes_back() -> None:
    first = clock.now()
    assert clock.now() >= first


def test_epoch_and_now_make_the_wall_clock() -> None:
    before = time.time()
    shown = clock.epoch() + clock.now()
    assert before - 60 < shown < before + 60


def test_without_a_clock_that_counts_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_CLOCK", None)
    before = time.monotonic()
    assert before <= clock.now() <= time.monotonic()
