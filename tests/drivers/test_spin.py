"""The policy polls when it has earned it, and its setting is read."""

import os

import pytest

from trunkline.drivers.spin import (
    CREDIT_MAX,
    CREDIT_TO_SPIN,
    DEFAULT_SPIN,
    FINDS_PER_THEFT,
    FIRST_PAUSE,
    LAST_PAUSE,
    PAUSE_GROWTH,
    SPIN_VARIABLE,
    SpinPolicy,
    available_cores,
    spin_setting,
)
from trunkline.errors import ConfigError

SPIN = 100e-6


class TestPolicy:
    """Pure: no clock, no file."""

    def ready(self, spin: float = SPIN) -> SpinPolicy:
        policy = SpinPolicy(spin, cores=2)
        for _ in range(CREDIT_MAX):
            policy.found()
        return policy

    def test_starts_without_polling(self) -> None:
        assert SpinPolicy(SPIN, cores=2).budget(0.0) == 0

    def test_short_waits_earn_it(self) -> None:
        policy = SpinPolicy(SPIN, cores=2)
        for _ in range(CREDIT_TO_SPIN):
            assert policy.budget(0.0) == 0
            policy.blocked(policy.short)
        assert policy.budget(0.0) == SPIN

    def test_long_waits_never_earn_it(self) -> None:
        policy = SpinPolicy(SPIN, cores=2)
        for _ in range(100):
            policy.blocked(policy.short * 1.01)
            assert policy.budget(0.0) == 0

    def test_an_idle_process_polls_in_vain_twice_at_most(self) -> None:
        policy = self.ready()
        vain = 0
        for now in range(100):
            if policy.budget(now):
                policy.missed()
                vain += 1
            else:
                policy.blocked(1.0)
        assert vain == 2

    def test_one_long_wait_in_a_burst_is_forgiven(self) -> None:
        policy = self.ready()
        for _ in range(100):
            policy.missed()
            assert policy.budget(0.0) == SPIN
            policy.found()
            policy.found()
            assert policy.budget(0.0) == SPIN

    def test_waits_just_too_long_for_polling_are_mostly_left_alone(self) -> None:
        """They look short when they block, and polling misses them."""
        policy = SpinPolicy(SPIN, cores=2)
        vain = 0
        for now in range(300):
            if policy.budget(now):
                policy.missed()
                vain += 1
            else:
                policy.blocked(policy.short)
        assert vain <= 100

    def test_a_stolen_core_pauses_it_and_the_pause_grows(self) -> None:
        policy = self.ready()
        now, pause = 0.0, FIRST_PAUSE
        for _ in range(12):
            policy.stolen(now)
            assert policy.budget(now + pause * 0.99) == 0
            now += pause * 1.01
            assert policy.budget(now) == SPIN
            pause = min(pause * PAUSE_GROWTH, LAST_PAUSE)
        assert pause == LAST_PAUSE

    def test_polling_that_paid_its_way_begins_with_the_first_pause_again(self) -> None:
        policy = self.ready()
        for _ in range(5):
            policy.stolen(0.0)
        for _ in range(FINDS_PER_THEFT):
            policy.found()
        policy.stolen(10.0)
        assert policy.budget(10.0 + FIRST_PAUSE) == SPIN

    @pytest.mark.parametrize(("spin", "cores"), [(SPIN, 1), (0.0, 2), (0.0, 64)])
    def test_never(self, spin: float, cores: int) -> None:
        policy = SpinPolicy(spin, cores)
        for _ in range(CREDIT_MAX):
            policy.blocked(0.0)
        assert policy.spin == policy.budget(0.0) == 0


class TestSettings:
    def test_the_variable_is_in_microseconds(self) -> None:
        assert spin_setting("75") == pytest.approx(75e-6)
        assert spin_setting("0") == 0
        assert spin_setting(None) == spin_setting(" ") == DEFAULT_SPIN

    @pytest.mark.parametrize("text", ["-1", "1001", "much", "nan", "inf"])
    def test_what_the_variable_cannot_be(self, text: str) -> None:
        with pytest.raises(ConfigError, match=f"{SPIN_VARIABLE} is '{text}'.*0 .*to 1000"):
            spin_setting(text)

    def test_cores_where_the_system_knows_no_affinity(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 6)
        assert available_cores() == 6
        monkeypatch.setattr(os, "cpu_count", lambda: None)
        assert available_cores() == 1
