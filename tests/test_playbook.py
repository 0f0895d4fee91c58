"""The scripts themselves: a script that is wrong fails, and shows where."""

import pytest

from tests.playbook import Error, Playbook, Wait
from tests.switchboard.clientside import HELLO, S1, WANTED, script
from trunkline.errors import NoSwitchboard
from trunkline.switchboard.events import Dial, Opened, Send


def test_a_right_script_passes() -> None:
    play = script()
    play >> WANTED << Dial(1, S1) >> Opened(1, "s1") << Send(1, HELLO) >> Wait(1.0)
    play.end()


@pytest.mark.parametrize("wrong", [[], [Dial(2, S1)], [Dial(1, S1), Dial(2, S1)]])
def test_a_wrong_script_fails_with_a_diff(wrong: list[Dial]) -> None:
    play = script()
    play >> WANTED
    for effect in wrong:
        play << effect
    with pytest.raises(AssertionError, match=r">> MeetWanted(.|\n)*--- the script\n\+\+\+ what happened"):
        play >> Opened(1, "s1")


def test_the_end_is_compared_too() -> None:
    play: Playbook = script()
    play >> WANTED
    with pytest.raises(AssertionError):
        play.end()


def test_errors_are_told_by_class_and_text() -> None:
    assert Error(NoSwitchboard, "refused") == NoSwitchboard([("s1:7117", "refused")])
    assert Error(NoSwitchboard, "reset") != NoSwitchboard([("s1:7117", "refused")])
    assert Error(ConnectionError, "refused") != NoSwitchboard([("s1:7117", "refused")])
