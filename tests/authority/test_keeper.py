"""When to ask, as a playbook of events, effects and times."""

import pytest

from trunkline.authority.freshness import TrustSettings
from trunkline.authority.keeper import (
    LONGEST_PAUSE,
    SOON,
    CertificateCame,
    Failed,
    FetchHead,
    HeadCame,
    Hurry,
    Keeper,
    Renew,
    Tick,
    Warn,
)

DAY = 86_400
WALL = 1_800_000_000


def keeper(*, certificate=True, now=1000.0):
    return Keeper(TrustSettings(), certificate=certificate, seed=b"k" * 16, now=now)


def running(now=1000.0):
    """Return a keeper that has got both at ``now``."""
    made = keeper(now=now)
    assert made.step(Tick(), now) == [FetchHead(), Renew()]
    assert made.step(HeadCame(WALL, WALL), now) == []
    assert made.step(CertificateCame(WALL - 300, WALL + DAY, WALL), now) == []
    return made


def test_both_are_due_at_the_start_and_asked_for_once():
    made = keeper()
    assert made.next_deadline() == 1000.0
    assert made.step(Tick(), 1000.0) == [FetchHead(), Renew()]
    assert made.next_deadline() is None
    assert made.step(Tick(), 1001.0) == []


def test_who_only_verifies_needs_no_certificate():
    made = keeper(certificate=False)
    assert made.step(Tick(), 1000.0) == [FetchHead()]
    assert made.next_deadline() is None
    made.step(HeadCame(WALL, WALL), 1000.0)
    assert made.step(Tick(), 10_000.0) == [FetchHead()]


def test_a_head_after_a_third_of_its_time():
    made = running()
    assert 1000 + 90 <= made.next_deadline() <= 1000 + 100
    assert made.step(Tick(), 1089.0) == []
    assert made.step(Tick(), 1100.0) == [FetchHead()]


def test_an_old_head_sooner_but_not_at_once():
    made = running()
    made.step(Tick(), 1100.0)
    made.step(HeadCame(WALL + 20, WALL + 100), 1100.0)
    assert 1118 <= made.next_deadline() <= 1120
    made.step(Tick(), 1120.0)
    made.step(HeadCame(WALL - 1000, WALL + 120), 1120.0)
    assert made.next_deadline() == 1120 + SOON


def test_a_certificate_after_two_thirds_of_its_life():
    made = running()
    life = DAY + 300
    early, late = 1000 + (life * 2 / 3 - 300) * 0.9, 1000 + life * 2 / 3 - 300
    effects = []
    for now in range(1000, int(late) + 2, 50):
        asked = made.step(Tick(), now)
        effects += [(now, each) for each in asked if each == Renew()]
        if FetchHead() in asked:
            made.step(HeadCame(WALL + now - 1000, WALL + now - 1000), now)
    ((when, _),) = effects
    assert early <= when <= late + 50


def test_whoever_slept_asks_for_both_at_once():
    made = running()
    assert made.step(Tick(), 1000.0 + 3 * DAY) == [FetchHead(), Renew()]


def test_failures_are_told_once_and_pauses_grow():
    made = running()
    now = 1100.0
    assert made.step(Tick(), now) == [FetchHead()]
    pauses, warnings = [], 0
    for _ in range(10):
        effects = made.step(Failed(False, "gone"), now)
        warnings += len([each for each in effects if isinstance(each, Warn)])
        pauses.append(made.next_deadline() - now)
        now = made.next_deadline()
        assert made.step(Tick(), now) == [FetchHead()]
    assert warnings == 1
    assert 0.9 <= pauses[0] <= 1.0
    assert 1.8 <= pauses[1] <= 2.0
    assert 0.9 * LONGEST_PAUSE <= pauses[-1] <= LONGEST_PAUSE
    made.step(HeadCame(WALL, WALL), now)
    made.step(Tick(), now + 100)
    (warning,) = made.step(Failed(False, "gone again"), now + 100)
    assert "gone again" in warning.text


def test_a_certificate_that_is_refused():
    made = keeper()
    made.step(Tick(), 1000.0)
    (warning,) = made.step(Failed(True, "it is tentative"), 1000.0)
    assert warning == Warn("the certificate could not be renewed, and is asked for again: it is tentative")
    assert 1000.9 <= made.next_deadline() <= 1001.0


def test_who_waits_cuts_a_pause_short_but_not_too_short():
    made = running()
    now = 1100.0
    for _ in range(5):
        made.step(Tick(), now)
        made.step(Failed(False, "gone"), now)
        now = made.next_deadline()
    made.step(Tick(), now)
    made.step(Failed(False, "gone"), now)
    assert made.next_deadline() > now + 20
    assert made.step(Hurry(head=True), now + 0.1) == []
    assert made.next_deadline() == now + SOON
    assert made.step(Hurry(head=True), now + SOON) == [FetchHead()]
    assert made.step(Hurry(head=True), now + 5) == []


@pytest.mark.parametrize(("hurry", "asked"), [(Hurry(head=True), FetchHead()), (Hurry(certificate=True), Renew())])
def test_who_wants_more_than_is_due(hurry, asked):
    assert running().step(hurry, 1010.0) == [asked]


def test_one_seed_gives_one_run():
    assert running().next_deadline() == running().next_deadline()
