"""Questions to the main server."""

from collections.abc import Callable

import pytest

from tests.playbook import Error, Playbook, Wait
from tests.switchboard.clientside import HELLO, MINE, RID, S1, S2, meet, member, waiting, welcome
from trunkline.errors import ClosedError, NoSwitchboard
from trunkline.switchboard.events import (
    Answered,
    Asked,
    Cancelled,
    Close,
    Dial,
    Lost,
    MeetWanted,
    Opened,
    Received,
    Send,
    Stop,
)
from trunkline.wire.messages import (
    Alive,
    AskStatus,
    Elsewhere,
    Explain,
    Explanation,
    ListNames,
    NameList,
    PostedName,
    ServerStatus,
)

STATUS = ServerStatus(1, "s1", 1, "s1:7117", 1.0, 0, 0, 0, 0, 0, (), ())
NAMES = NameList(2, (PostedName("printer", 1, False, False),), False)


def test_asked_and_answered_under_the_callers_number(play: Playbook) -> None:
    (
        waiting(play)
        >> Asked(AskStatus(70))
        << Send(1, AskStatus(1))
        >> Asked(ListNames(70, "p"))
        << Send(1, ListNames(2, "p"))
        >> Asked(Explain(71, "alice", "bob"))
        << Send(1, Explain(3, "alice", "bob"))
        >> Received(1, NAMES)
        << Answered(70, NameList(70, NAMES.names, False))
        >> Received(1, STATUS)
        << Answered(70, ServerStatus(70, "s1", 1, "s1:7117", 1.0, 0, 0, 0, 0, 0, (), ()))
        >> Received(1, Explanation(3, ("a line",)))
        << Answered(71, Explanation(71, ("a line",)))
        >> Received(1, Explanation(3, ("again",)))
    )


def test_asking_looks_for_a_server(play: Playbook) -> None:
    (
        play
        >> Asked(AskStatus(7))
        << Dial(1, S1)
        >> Opened(1, "s1")
        << Send(1, HELLO)
        >> Received(1, welcome())
        << Send(1, AskStatus(1))
    )


def test_no_server_answers(play: Playbook) -> None:
    play >> Asked(AskStatus(7)) << Dial(1, S1) >> Lost(1, "refused")
    play << Answered(7, Error(NoSwitchboard, "s1:7117: refused"))


def test_a_question_goes_to_the_next_server_when_one_is_lost(play: Playbook) -> None:
    (
        waiting(play)
        >> Asked(AskStatus(7))
        << Send(1, AskStatus(1))
        >> Lost(1, "reset")
        >> Wait(0.2)
        << Dial(2, S1)
        >> Opened(2, "s1")
        << Send(2, HELLO)
        >> Received(2, welcome())
        << Send(2, meet(2))
        << Send(2, AskStatus(1))
        >> Received(2, STATUS)
        << Answered(7, ServerStatus(7, "s1", 1, "s1:7117", 1.0, 0, 0, 0, 0, 0, (), ()))
    )


def test_losing_another_server_does_not_matter(play: Playbook) -> None:
    waiting(play) >> Received(1, Elsewhere((member("s2"),))) << Dial(2, S2) >> Opened(2, "s2") << Send(2, HELLO)
    play >> Received(2, welcome("s2")) << Send(2, meet()) >> Asked(AskStatus(7)) << Send(1, AskStatus(1))
    play >> Received(2, STATUS) >> Lost(2, "reset") >> Received(1, STATUS)
    play << Answered(7, ServerStatus(7, "s1", 1, "s1:7117", 1.0, 0, 0, 0, 0, 0, (), ()))


def test_an_explanation_that_no_server_gave(script: Callable[..., Playbook]) -> None:
    """The question goes with the scan that failed; the request that wanted it goes on."""
    play = script(S1)
    waiting(play, MeetWanted(RID, "alice", "bob", MINE, 10.0)) >> Wait(9.5) << Send(1, Explain(1, "alice", "bob"))
    play >> Lost(1, "reset") >> Wait(0.2) << Dial(2, S1) >> Lost(2, "refused") >> Cancelled(RID) >> Wait(60.0)
    assert play.machine.next_deadline() is None


@pytest.mark.parametrize("welcomed", [True, False])
def test_no_answer_in_time(play: Playbook, welcomed: bool) -> None:
    if welcomed:
        waiting(play) >> Asked(AskStatus(7), 2.0) << Send(1, AskStatus(1))
        play >> Wait(2.0) << Answered(7, Error(NoSwitchboard, "s1:7117: no answer to the question within 2 s"))
        play >> Received(1, STATUS)
    else:
        play >> Asked(AskStatus(7), 2.0) << Dial(1, S1)
        play >> Wait(2.0) << Answered(7, Error(NoSwitchboard, "s1:7117: no answer yet"))


def test_an_answer_to_something_else(play: Playbook) -> None:
    waiting(play) >> Asked(AskStatus(7)) << Send(1, AskStatus(1)) >> Received(1, Explanation(1, ("what?",)))
    play >> Received(1, STATUS) << Answered(7, ServerStatus(7, "s1", 1, "s1:7117", 1.0, 0, 0, 0, 0, 0, (), ()))


def test_what_is_no_question(play: Playbook) -> None:
    play >> Asked(Alive())
    assert play.logs == ["not a question: Alive"]


def test_stopped(play: Playbook) -> None:
    play >> Asked(AskStatus(7)) << Dial(1, S1) >> Stop() << Answered(7, Error(ClosedError))
    play << Close(1, "the client is closed") >> Asked(AskStatus(8)) << Answered(8, Error(ClosedError))
