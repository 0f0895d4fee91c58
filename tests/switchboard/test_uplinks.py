"""A client's server connections: found, lost, replaced, kept alive, and those elsewhere."""

from collections.abc import Callable

import pytest

from tests.playbook import Error, Playbook, Wait
from tests.switchboard.clientside import (
    HELLO,
    LAN,
    MINE,
    RID,
    RID2,
    S1,
    S2,
    S3,
    WANTED,
    matched,
    meet,
    member,
    standing,
    waiting,
    welcome,
)
from trunkline.errors import MalformedMessage, NoSwitchboard, SilentPeer
from trunkline.names import Address
from trunkline.switchboard.events import (
    Cancelled,
    Close,
    Dial,
    Failed,
    Lost,
    MeetWanted,
    Opened,
    PeerDial,
    PostWanted,
    Received,
    Remember,
    Send,
)
from trunkline.wire.messages import Alive, Elsewhere, Goodbye, Meet, Member, Members, Post, Refused, Withdraw

Script = Callable[..., Playbook]
OTHER = MeetWanted(RID2, "alice", "bob", MINE)


class Farewell(Goodbye, frozen=True, tag=2):
    """Equal to any goodbye with this code."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Goodbye) and other.code == self.code

    __hash__ = Goodbye.__hash__


def farewell(code: int) -> Goodbye:
    return Farewell(code, "")


# ---- finding -----------------------------------------------------------------------------------------------------


def test_the_first_welcome_wins(script: Script) -> None:
    play = script(S1, S2, S3)
    (
        play
        >> WANTED
        << Dial(1, S1)
        >> Wait(0.25)
        << Dial(2, S2)
        >> Opened(1, "s1")
        << Send(1, HELLO)
        >> Opened(2, "s2")
        << Send(2, HELLO)
        >> Wait(0.25)
        << Dial(3, S3)
        >> Received(2, welcome("s2"))
        << Close(1, "another server answered first")
        << Close(3, "another server answered first")
        << Remember((S2, S1, S3))
        << Send(2, meet())
        >> Opened(3, "s3")
        >> Received(1, welcome("s1"))
    )


def test_the_next_at_once_when_one_fails(script: Script) -> None:
    play = script(S1, S2)
    play >> WANTED << Dial(1, S1) >> Lost(1, "refused") << Dial(2, S2) >> Lost(2, "no route")
    play << Failed(RID, Error(NoSwitchboard, "s1:7117: refused; s2:7117: no route", "trunkline up")) >> Wait(60.0)
    assert play.machine.next_deadline() is None, "nobody wants a server any more"


def test_no_server_is_known_at_all(script: Script) -> None:
    play = script(servers=())
    play >> WANTED << Failed(RID, Error(NoSwitchboard, "no switchboard server is known"))


def test_a_server_that_accepts_and_stays_silent(script: Script) -> None:
    play = script(S1)
    play >> WANTED << Dial(1, S1) >> Opened(1, "s1") << Send(1, HELLO) >> Wait(2.9) >> Wait(0.1)
    play << Close(1, "no answer within 3 s") << Failed(RID, Error(NoSwitchboard, "s1:7117: no answer within 3 s"))


def test_a_server_that_says_goodbye_instead_of_welcome(play: Playbook) -> None:
    play >> WANTED << Dial(1, S1) >> Opened(1, "s1") << Send(1, HELLO)
    play >> Received(1, Goodbye(35, "too many clients: the limit is 1"))
    play << Close(1, "it said goodbye: too many clients: the limit is 1")
    play << Failed(RID, Error(NoSwitchboard, "it said goodbye: too many clients"))


@pytest.mark.parametrize("heartbeat", [0.0, -1.0, 1e9, float("nan"), float("inf")])
def test_a_welcome_with_an_absurd_heartbeat(play: Playbook, heartbeat: float) -> None:
    play >> WANTED << Dial(1, S1) >> Opened(1, "s1") << Send(1, HELLO)
    play >> Received(1, welcome(heartbeat=heartbeat)) << Send(1, farewell(MalformedMessage.code))
    play << Close(1, f"malformed message: heartbeat of {heartbeat} s") << Failed(RID, Error(NoSwitchboard, "heartbeat"))


def test_nothing_is_dialled_until_somebody_wants_it(play: Playbook) -> None:
    play >> Wait(60.0)
    assert play.machine.next_deadline() is None


def test_who_wants_notices_wants_a_server_from_the_start(script: Script) -> None:
    play = script(S1, notices=True)
    play >> Wait(0.0) << Dial(1, S1) >> Lost(1, "refused") >> Wait(0.1) << Dial(2, S1)
    play >> Opened(2, "s1") << Send(2, type(HELLO)("trunkline", True)) >> Received(2, welcome())
    play >> Lost(2, "reset") >> Wait(0.2) << Dial(3, S1)


# ---- the list ----------------------------------------------------------------------------------------------------


def test_the_list_grows_as_servers_report_their_mates(play: Playbook) -> None:
    play >> WANTED << Dial(1, S1) >> Opened(1, "s1") << Send(1, HELLO)
    play >> Received(1, welcome("s1", "s1", "s2")) << Remember((S1, S2)) << Send(1, meet())
    play >> Received(1, Members((member("s1"), member("s2"))))
    play >> Received(1, Members((member("s3"), Member("bad", 1, "[::1"), Member("worse", 1, "h:99999"))))
    play << Remember((S1, S2, S3))
    assert [log for log in play.logs if log.startswith("member left out")]


def test_the_last_good_first(script: Script) -> None:
    play = script(S1, S2)
    play >> WANTED << Dial(1, S1) >> Lost(1, "refused") << Dial(2, S2) >> Opened(2, "s2") << Send(2, HELLO)
    play >> Received(2, welcome("s2")) << Remember((S2, S1)) << Send(2, meet())


# ---- losing ------------------------------------------------------------------------------------------------------


def test_a_lost_server_is_tried_last(script: Script) -> None:
    play = script(S1, S2)
    (
        waiting(play)
        >> Lost(1, "reset")
        >> Wait(0.2)
        << Dial(2, S2)
        >> Lost(2, "refused")
        << Dial(3, S1)
        >> Opened(3, "s1")
        << Send(3, HELLO)
        >> Received(3, welcome())
        << Send(3, meet(2))
    )


def test_patience(script: Script) -> None:
    """A request that was lodged before goes on scanning, with pauses, for as long as the patience lasts."""
    play = script(S1, patience=1.0)
    waiting(play) >> Lost(1, "reset")
    number = 2
    for _ in range(20):
        play.end()
        when = play.machine.next_deadline()
        assert when is not None
        play >> Wait(when - play.now)
        if not any(isinstance(effect, Dial) for effect in play._effects):
            break
        play << Dial(number, S1) >> Lost(number, "refused")
        number += 1
    play << Failed(RID, Error(NoSwitchboard, "s1:7117: refused"))
    play.end()
    assert play.now == pytest.approx(1.0)
    assert number > 3


def test_a_post_that_stood_has_endless_patience(script: Script) -> None:
    play = script(S1, patience=1.0)
    standing(play) >> Lost(1, "reset") >> Wait(0.2) << Dial(2, S1) >> Lost(2, "refused")
    for number in range(3, 20):
        play >> Wait(2.0) << Dial(number, S1) >> Lost(number, "refused")


def test_a_new_request_cuts_the_pause_short(script: Script) -> None:
    play = script(S1)
    waiting(play) >> Lost(1, "reset") >> OTHER << Dial(2, S1) >> Lost(2, "refused")
    play << Failed(RID2, Error(NoSwitchboard, "refused"))


def test_cancelled_during_the_pause(play: Playbook) -> None:
    waiting(play) >> Lost(1, "reset") >> Cancelled(RID) >> Wait(60.0)
    assert play.machine.next_deadline() is None


# ---- heartbeats --------------------------------------------------------------------------------------------------


def test_heartbeats(play: Playbook) -> None:
    (
        play
        >> WANTED
        << Dial(1, S1)
        >> Opened(1, "s1")
        << Send(1, HELLO)
        >> Received(1, welcome(heartbeat=2.0))
        << Send(1, meet())
        >> Wait(1.9)
        >> Wait(0.1)
        << Send(1, Alive())
        >> Wait(1.0)
        >> OTHER
        << Send(1, Meet(RID2, 1, "alice", "bob", MINE))
        >> Wait(1.5)
        >> Received(1, Alive())
        >> Wait(0.5)
        << Send(1, Alive())
        >> Wait(2.0)
        << Send(1, Alive())
        >> Wait(2.0)
        << Send(1, Alive())
        >> Wait(1.4)
        >> Wait(0.1)
        << Send(1, farewell(SilentPeer.code))
        << Close(1, "nothing was heard for 6 s")
        >> Wait(0.2)
        << Dial(2, S1)
    )


def test_an_idle_connection_stays_warm(play: Playbook) -> None:
    waiting(play) >> Cancelled(RID) << Send(1, Withdraw(RID, 1)) >> Wait(1000.0) << Send(1, Alive())
    play >> OTHER << Send(1, Meet(RID2, 1, "alice", "bob", MINE))


# ---- elsewhere ---------------------------------------------------------------------------------------------------


def elsewhere(play: Playbook) -> Playbook:
    """Bring a meeting to where it waits at s1 (connection 1) and at s2 (connection 2)."""
    return (
        waiting(play)
        >> Received(1, Elsewhere((member("s2"),)))
        << Dial(2, S2)
        >> Opened(2, "s2")
        << Send(2, HELLO)
        >> Received(2, welcome("s2", "s2"))
        << Remember((S1, S2))
        << Send(2, meet())
    )


def test_elsewhere_lodges_the_same_attempt(play: Playbook) -> None:
    elsewhere(play) >> OTHER
    for conn in (1, 2):
        play << Send(conn, Meet(RID2, 1, "alice", "bob", MINE))
    play >> Cancelled(RID) << Send(1, Withdraw(RID, 1)) << Send(2, Withdraw(RID, 1))


@pytest.mark.parametrize(("by", "other"), [(1, 2), (2, 1)])
def test_the_copies_are_withdrawn_when_one_is_matched(play: Playbook, by: int, other: int) -> None:
    elsewhere(play) >> Received(by, matched(active=True)) << Send(other, Withdraw(RID, 1))
    play << PeerDial(3, LAN) >> Received(other, matched(active=True, match=b"other000"))


def test_losing_the_extra_server(play: Playbook) -> None:
    (
        elsewhere(play)
        >> Lost(2, "reset")
        >> Wait(3.0)
        << Dial(3, S2)
        >> Lost(3, "refused")
        >> Wait(3.0)
        << Dial(4, S2)
        >> Cancelled(RID)
        << Send(1, Withdraw(RID, 1))
        >> Lost(4, "refused")
        >> Wait(60.0)
        >> OTHER
        << Send(1, Meet(RID2, 1, "alice", "bob", MINE))
        << Dial(5, S2)
    )


def test_losing_the_main_server_promotes_the_extra_one(play: Playbook) -> None:
    """The attempt still waits at the extra server, so it is not lodged anew."""
    (
        elsewhere(play)
        >> Lost(1, "reset")
        << Remember((S2, S1))
        >> OTHER
        << Send(2, Meet(RID2, 1, "alice", "bob", MINE))
        >> Lost(2, "reset")
        >> Wait(0.2)
        << Dial(3, S1)
    )


def test_what_waited_only_at_the_main_server_goes_to_the_extra_one(play: Playbook) -> None:
    elsewhere(play) >> PostWanted(RID2, "printer", MINE)
    play << Send(1, Post(RID2, 1, "printer", MINE)) << Send(2, Post(RID2, 1, "printer", MINE))
    play >> Received(2, Refused(RID2, 1, 35, "too many requests: the limit is 1", 1))
    play >> Lost(1, "reset") << Remember((S2, S1)) << Send(2, Post(RID2, 2, "printer", MINE))


def test_the_main_server_sees_all_its_mates_again(play: Playbook) -> None:
    """What waits elsewhere stays there; a connection on which nothing waits is closed."""
    elsewhere(play) >> Received(1, Elsewhere(())) >> Cancelled(RID)
    play << Send(1, Withdraw(RID, 1)) << Send(2, Withdraw(RID, 1)) << Close(2, "not needed any more")


def test_an_extra_connection_that_is_there_is_kept(play: Playbook) -> None:
    elsewhere(play) >> Received(1, Elsewhere((member("s2"), member("s1"), member("s3")))) << Dial(3, S3)
    play >> Received(2, Elsewhere((Member("s9", 1, "s9:1"),)))


def test_what_the_extra_server_said_counts_once_it_is_the_main_one(play: Playbook) -> None:
    """It says so once: what was true then is not said again when the main server is lost."""
    elsewhere(play) >> Received(2, Elsewhere((member("s3"),))) >> Lost(1, "reset")
    play << Remember((S2, S1)) << Dial(3, S3) >> Opened(3, "s3") << Send(3, HELLO)
    play >> Received(3, welcome("s3")) << Send(3, meet())


def test_two_ways_to_one_server_are_one_too_many(play: Playbook) -> None:
    waiting(play) >> Received(1, Elsewhere((Member("alias", 1, "alias:1"),))) << Dial(2, Address("alias", 1))
    play >> Opened(2, "alias") << Send(2, HELLO) >> Received(2, welcome("s1"))
    play << Close(2, "another connection to this server is up")


def test_what_is_matched_is_not_lodged_elsewhere(play: Playbook) -> None:
    waiting(play) >> Received(1, matched(active=True)) << PeerDial(2, LAN) >> Received(1, Elsewhere((member("s2"),)))
    play << Dial(3, S2) >> Opened(3, "s2") << Send(3, HELLO) >> Received(3, welcome("s2"))


def test_losing_both_while_the_extra_one_is_dialled(play: Playbook) -> None:
    waiting(play) >> Received(1, Elsewhere((member("s2"),))) << Dial(2, S2) >> Lost(1, "reset")
    play >> Lost(2, "refused") >> Wait(0.2) << Dial(3, S1)


def test_losing_the_main_server_while_the_extra_one_is_dialled(script: Script) -> None:
    play = script(S1)
    waiting(play) >> Received(1, Elsewhere((member("s2"),))) << Dial(2, S2) >> Lost(1, "reset") >> Wait(0.2)
    play << Dial(3, S1) >> Opened(2, "s2") << Send(2, HELLO) >> Received(2, welcome("s2"))
    play << Close(3, "another server answered first") << Remember((S2, S1)) << Send(2, meet(2))
