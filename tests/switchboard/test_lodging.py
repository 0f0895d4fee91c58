"""Requests on their way: attempts, lapses, posts and their reports, deadlines, refusals, generations."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.playbook import Error, Playbook, Wait
from tests.switchboard.clientside import (
    BOB,
    COMMITTED,
    DIALLED,
    HELLO,
    LAN,
    MINE,
    READIED,
    RID,
    RID2,
    S1,
    S2,
    WANTED,
    matched,
    meet,
    member,
    post,
    standing,
    waiting,
    welcome,
)
from trunkline.errors import DeniedError, Displaced, MeetTimeout, NameTaken, NoSwitchboard, NotAllowed, TooMany
from trunkline.meeting.handshake import DIAL
from trunkline.names import Peer, Secret
from trunkline.switchboard.events import (
    Accepted,
    Cancelled,
    CandidatesChanged,
    Delivered,
    Dial,
    Failed,
    Lost,
    MeetWanted,
    Opened,
    PeerClose,
    PeerData,
    PeerDial,
    PeerDialled,
    PeerLost,
    PeerOpened,
    PeerSend,
    PostStands,
    PostWanted,
    Received,
    Remember,
    Send,
)
from trunkline.switchboard.lodging import MAX_GENERATIONS, refusal
from trunkline.switchboard.requests import LONGEST_LAPSE_PAUSE
from trunkline.wire.messages import Elsewhere, Explain, Explanation, Meet, Posted, Refused, Settled, Withdraw

Script = Callable[..., Playbook]

# ---- attempts ----------------------------------------------------------------------------------------------------


def test_a_lapse_lodges_the_next_attempt_with_growing_pauses(play: Playbook) -> None:
    waiting(play)
    pauses = []
    for n in range(1, 12):
        play >> Received(1, matched(n, active=True)) << PeerDial(n + 1, LAN) >> PeerLost(n + 1, "refused")
        began = play.now
        if n > 1:
            play.end()
            when = play.machine.next_deadline()
            assert when is not None
            play >> Wait(when - play.now)
        play << Send(1, meet(n + 1))
        pauses.append(play.now - began)
    assert pauses[0] == 0
    assert all(0.5 * 0.05 * 2**k <= pause <= 1.5 * 0.05 * 2**k for k, pause in enumerate(pauses[1:6]))
    assert all(pause <= 1.5 * LONGEST_LAPSE_PAUSE for pause in pauses)


def test_a_match_of_another_attempt_is_ignored(play: Playbook) -> None:
    (
        waiting(play)
        >> Received(1, matched(2, active=True))
        >> Received(1, matched(0, active=True))
        >> Received(1, matched(1, active=True, rid=RID2))
        >> Received(1, matched(1, active=True))
        << PeerDial(2, LAN)
        >> Received(1, matched(1, active=True))
        >> PeerLost(2, "refused")
        << Send(1, meet(2))
        >> Received(1, matched(1, active=True))
    )


def test_the_server_names_somebody_else(play: Playbook) -> None:
    waiting(play) >> Received(1, matched(active=True, peer="eve")) << Send(1, meet(2))
    assert "the server named 'eve' instead" in play.logs[-1]


def test_candidates_that_changed_go_with_the_next_attempt(play: Playbook) -> None:
    waiting(play) >> CandidatesChanged(b"new") >> Received(1, matched(active=True)) << PeerDial(2, LAN)
    play >> PeerLost(2, "refused") << Send(1, Meet(RID, 2, "alice", "bob", b"new"))


def test_several_wait_for_the_first_server(play: Playbook) -> None:
    other = MeetWanted(RID2, "carol", "dave", MINE)
    (
        play
        >> WANTED
        << Dial(1, S1)
        >> other
        >> Opened(1, "s1")
        << Send(1, HELLO)
        >> Received(1, welcome())
        << Send(1, meet())
        << Send(1, Meet(RID2, 1, "carol", "dave", MINE))
        >> Lost(1, "reset")
        >> Wait(0.2)
        << Dial(2, S1)
        >> Opened(2, "s1")
        << Send(2, HELLO)
        >> Received(2, welcome())
        << Send(2, meet(2))
        << Send(2, Meet(RID2, 2, "carol", "dave", MINE))
    )


def test_the_server_is_lost_while_matched(play: Playbook) -> None:
    """The meeting needs it no more; only if it lapses another is looked for."""
    (
        waiting(play)
        >> Received(1, matched(active=True))
        << PeerDial(2, LAN)
        >> Lost(1, "reset")
        >> Wait(1.0)
        >> PeerOpened(2)
        << PeerSend(2, DIALLED)
        >> PeerLost(2, "reset")
        << Dial(3, S1)
        >> Opened(3, "s1")
        << Send(3, HELLO)
        >> Received(3, welcome())
        << Send(3, meet(2))
    )


def test_the_server_is_lost_during_a_pause(play: Playbook) -> None:
    waiting(play)
    for n in (1, 2):
        play >> Received(1, matched(n, active=True)) << PeerDial(n + 1, LAN) >> PeerLost(n + 1, "refused")
        if n == 1:
            play << Send(1, meet(2))
    play >> Lost(1, "reset") >> Wait(0.1) << Dial(4, S1) >> Opened(4, "s1") << Send(4, HELLO)
    play >> Received(4, welcome()) << Send(4, meet(3))


# ---- cancelling --------------------------------------------------------------------------------------------------


def test_cancelled_before_there_is_a_server(play: Playbook) -> None:
    """The scan that is under way ends by itself."""
    play >> WANTED << Dial(1, S1) >> Cancelled(RID) >> Cancelled(RID) >> Lost(1, "refused") >> Wait(60.0)
    assert play.machine.next_deadline() is None


def test_cancelled_while_waiting(play: Playbook) -> None:
    waiting(play) >> Cancelled(RID) << Send(1, Withdraw(RID, 1)) >> Received(1, matched(active=True))


def test_cancelled_during_a_pause(play: Playbook) -> None:
    waiting(play)
    for n in (1, 2):
        play >> Received(1, matched(n, active=True)) << PeerDial(n + 1, LAN) >> PeerLost(n + 1, "refused")
        if n == 1:
            play << Send(1, meet(2))
    play >> Cancelled(RID) >> Wait(5.0)


def test_cancelled_post_with_matches_under_way(play: Playbook) -> None:
    (
        standing(play)
        >> Received(1, matched(active=False))
        >> PeerDialled(-1)
        >> PeerData(-1, DIALLED)
        << PeerSend(-1, READIED)
        >> Received(1, matched(active=False, match=b"other000", token=b"v" * 16))
        >> Cancelled(RID)
        << Send(1, Withdraw(RID, 1))
        << PeerClose(-1)
        >> PeerDialled(-2)
        >> PeerData(-2, DIAL + b"v" * 16 + b"\0\0")
        >> Wait(2.0)
        << PeerClose(-2)
    )


# ---- deadlines ---------------------------------------------------------------------------------------------------


def test_a_deadline_is_explained(play: Playbook) -> None:
    wanted = MeetWanted(RID, "alice", "bob", MINE, 10.0)
    (
        waiting(play, wanted)
        >> Received(1, matched(active=True))
        << PeerDial(2, LAN)
        >> PeerLost(2, "refused")
        << Send(1, meet(2))
        >> Wait(9.5)
        << Send(1, Explain(1, "alice", "bob"))
        >> Received(1, Explanation(1, ("nobody waits as 'bob'", "but 'Bob' does")))
        >> Wait(0.4)
        >> Wait(0.1)
        << Send(1, Withdraw(RID, 2))
        << Failed(
            RID,
            Error(
                MeetTimeout,
                "'bob' did not come to meet 'alice' within 10 s",
                "nobody waits as 'bob'\n  - but 'Bob' does",
                "attempt 1 was matched, but came to nothing: tcp:10.0.0.2:4000: refused",
            ),
        )
    )


def test_a_short_deadline_is_asked_about_in_good_time(play: Playbook) -> None:
    wanted = MeetWanted(RID, "alice", "bob", MINE, 1.0)
    waiting(play, wanted) >> Wait(0.8) << Send(1, Explain(1, "alice", "bob")) >> Wait(0.2)
    play << Send(1, Withdraw(RID, 1)) << Failed(RID, Error(MeetTimeout, "within 1 s"))
    play >> Received(1, Explanation(1, ("too late",)))


def test_a_deadline_that_has_passed_already(play: Playbook) -> None:
    play.now = 5.0
    wanted = MeetWanted(RID, "alice", "bob", MINE, 4.0)
    play >> wanted << Dial(1, S1) >> Wait(0.0) << Failed(RID, Error(MeetTimeout, "no switchboard server is connected"))


def test_a_deadline_without_a_server_tells_what_was_tried(script: Script) -> None:
    play = script(S1, S2)
    wanted = MeetWanted(RID, "alice", "bob", MINE, 1.0)
    play >> wanted << Dial(1, S1) >> Lost(1, "refused") << Dial(2, S2) >> Wait(1.0)
    play << Failed(
        RID, Error(MeetTimeout, "no switchboard server is connected", "s1:7117: refused", "s2:7117: no answer yet")
    )


def test_a_deadline_while_matched_tells_of_the_dials(play: Playbook) -> None:
    wanted = MeetWanted(RID, "alice", "bob", MINE, 1.0)
    (
        waiting(play, wanted)
        >> Received(1, matched(active=True))
        << PeerDial(2, LAN)
        >> Wait(0.8)
        << Send(1, Explain(1, "alice", "bob"))
        >> Wait(0.2)
        << PeerClose(2)
        << Failed(RID, Error(MeetTimeout, "matched with 'bob', but the connection is not confirmed yet"))
    )


def test_a_deadline_and_the_server_is_lost(play: Playbook) -> None:
    """The client's own question dies with the server it was for, or is asked again."""
    wanted = MeetWanted(RID, "alice", "bob", MINE, 10.0)
    (
        waiting(play, wanted)
        >> Wait(9.5)
        << Send(1, Explain(1, "alice", "bob"))
        >> Lost(1, "reset")
        >> Wait(0.2)
        << Dial(2, S1)
        >> Opened(2, "s1")
        << Send(2, HELLO)
        >> Received(2, welcome())
        << Send(2, meet(2))
        << Send(2, Explain(1, "alice", "bob"))
        >> Received(2, Explanation(1, ("a line",)))
        >> Wait(0.3)
        << Send(2, Withdraw(RID, 2))
        << Failed(RID, Error(MeetTimeout, "a line"))
    )


# ---- posts -------------------------------------------------------------------------------------------------------


def deliver(play: Playbook, conn: int, backlog_full: bool = False) -> Playbook:
    token, match = conn.to_bytes(16, "big", signed=True), conn.to_bytes(8, "big", signed=True)
    return (
        play
        >> Received(1, matched(active=False, token=token, match=match))
        >> PeerDialled(conn)
        >> PeerData(conn, DIAL + token + b"\0\0")
        << PeerSend(conn, READIED)
        >> PeerData(conn, COMMITTED)
        << Delivered(RID, conn, Peer("bob", match=match.hex()))
    )


def test_a_post(play: Playbook) -> None:
    standing(play)
    deliver(play, -1)
    deliver(play, -2)
    play >> Accepted(RID) >> Wait(0.04) >> Accepted(RID) >> Wait(0.01) << Send(1, Settled(RID, 1, 2)) >> Wait(9.0)


def test_half_a_backlog_is_reported_at_once(play: Playbook) -> None:
    standing(play, PostWanted(RID, "printer", MINE, backlog=4))
    for conn in (-1, -2, -3, -4):
        deliver(play, conn)
    (
        play
        >> Accepted(RID)
        >> Accepted(RID)
        << Send(1, Settled(RID, 1, 2))
        >> Accepted(RID)
        >> Accepted(RID)
        << Send(1, Settled(RID, 1, 4))
        >> Accepted(RID)
        >> Wait(9.0)
    )


def test_a_backlog_of_one(play: Playbook) -> None:
    standing(play, PostWanted(RID, "printer", MINE, backlog=1))
    deliver(play, -1) >> Accepted(RID) << Send(1, Settled(RID, 1, 1))


def test_a_match_of_a_post_that_lapses_is_settled(play: Playbook) -> None:
    standing(play) >> Received(1, matched(active=False)) >> Wait(5.0) >> Wait(0.05) << Send(1, Settled(RID, 1, 1))
    play >> Received(1, matched(active=False)) >> Received(1, matched(active=False))


def test_what_another_server_matched_is_not_reported_to_this_one(play: Playbook) -> None:
    """A count is for the lodging that it belongs to: a new server starts at 0."""
    standing(play)
    deliver(play, -1)
    deliver(play, -2) >> Accepted(RID) >> Lost(1, "reset")
    (
        play
        >> Wait(0.2)
        << Dial(2, S1)
        >> Opened(2, "s1")
        << Send(2, HELLO)
        >> Received(2, welcome())
        << Send(2, post(2))
        >> Received(2, Posted(RID, 1))
        >> Received(2, Posted(RID, 2))
        << PostStands(RID, 0)
        >> Accepted(RID)
        >> Wait(9.0)
    )


def test_a_match_outlives_its_server(play: Playbook) -> None:
    (
        standing(play)
        >> Received(1, matched(active=False))
        >> Lost(1, "reset")
        >> PeerDialled(-1)
        >> PeerData(-1, DIALLED)
        << PeerSend(-1, READIED)
        >> PeerData(-1, COMMITTED)
        << Delivered(RID, -1, BOB)
        >> Accepted(RID)
    )


def test_a_post_elsewhere_counts_for_each_server(play: Playbook) -> None:
    standing(play, PostWanted(RID, "printer", MINE, backlog=2))
    play >> Received(1, Elsewhere((member("s2"),))) << Dial(2, S2) >> Opened(2, "s2") << Send(2, HELLO)
    play >> Received(2, welcome("s2")) << Send(2, post(backlog=2)) >> Received(2, Posted(RID, 1)) << PostStands(RID, 0)
    play >> Received(2, matched(active=False)) >> Wait(5.0) << Send(2, Settled(RID, 1, 1))
    play >> Received(1, matched(active=False, match=b"other000")) >> Wait(5.0) << Send(1, Settled(RID, 1, 1))


def test_acceptances_of_a_post_that_is_closed(play: Playbook) -> None:
    standing(play)
    deliver(play, -1) >> Cancelled(RID) << Send(1, Withdraw(RID, 1)) >> Accepted(RID)


def test_a_post_that_no_server_takes_in_time(play: Playbook) -> None:
    (
        play
        >> PostWanted(RID, "printer", MINE, deadline=1.0)
        << Dial(1, S1)
        >> Wait(1.0)
        << Failed(RID, Error(NoSwitchboard, "s1:7117: no answer yet"))
    )


def test_a_post_that_a_server_does_not_confirm_in_time(play: Playbook) -> None:
    wanted = PostWanted(RID, "printer", MINE, deadline=1.0)
    play >> wanted << Dial(1, S1) >> Opened(1, "s1") << Send(1, HELLO) >> Received(1, welcome()) << Send(1, post())
    (
        play
        >> Wait(1.0)
        << Send(1, Withdraw(RID, 1))
        << Failed(RID, Error(NoSwitchboard, "s1:7117: no answer to the post"))
    )


def test_the_deadline_of_a_post_ends_when_it_stands(play: Playbook) -> None:
    standing(play, PostWanted(RID, "printer", MINE, deadline=1.0)) >> Wait(60.0)


# ---- unique names ------------------------------------------------------------------------------------------------

UNIQUE = PostWanted(RID, "printer", MINE, unique=True, secret=Secret(b"secret"))


def test_a_unique_post_carries_its_generation(play: Playbook) -> None:
    (
        standing(play, UNIQUE, generation=7)
        >> Lost(1, "reset")
        >> Wait(0.2)
        << Dial(2, S1)
        >> Opened(2, "s1")
        << Send(2, HELLO)
        >> Received(2, welcome())
        << Send(2, post(2, unique=True, secret=b"secret", generation=7))
        >> Received(2, Posted(RID, 2, 7))
        << PostStands(RID, 7)
        >> Received(2, Refused(RID, 2, Displaced.code, str(Displaced("printer", 9)), 9))
        << Failed(RID, Error(Displaced, "'printer' was taken over (generation 9)"))
    )


def test_a_unique_name_that_is_taken(play: Playbook) -> None:
    wanted = PostWanted(RID, "printer", MINE, unique=True)
    play >> wanted << Dial(1, S1) >> Opened(1, "s1") << Send(1, HELLO)
    play >> Received(1, welcome()) << Send(1, post(unique=True))
    play >> Received(1, Refused(RID, 1, NameTaken.code, str(NameTaken("printer", "held by another"))))
    play << Failed(RID, Error(NameTaken, "the name 'printer' is taken: held by another"))


def test_an_older_generation_than_one_seen_is_refused(play: Playbook) -> None:
    waiting(play)
    (
        play
        >> Received(1, matched(active=True, generation=5))
        << PeerDial(2, LAN)
        >> PeerLost(2, "refused")
        << Send(1, meet(2))
        >> Received(1, matched(2, active=True, generation=4))
        >> Wait(0.1)
        << Send(1, meet(3))
        >> Received(1, matched(3, active=True, generation=5))
        << PeerDial(3, LAN)
    )
    assert any("generation 4, and 5 was seen before" in log for log in play.logs)


def test_the_memory_for_generations_is_bounded(play: Playbook) -> None:
    lodgings = play.machine._lodgings
    lodgings.generations = {f"name {n}": 1 for n in range(MAX_GENERATIONS)}
    waiting(play) >> Received(1, matched(active=True, generation=5)) << PeerDial(2, LAN)
    play.end()
    assert len(play.machine._lodgings.generations) <= MAX_GENERATIONS


# ---- refusals ----------------------------------------------------------------------------------------------------


def test_a_meeting_that_is_refused(play: Playbook) -> None:
    error = TooMany("requests lodged by one client", 1024)
    (
        waiting(play)
        >> Received(1, Refused(RID, 1, error.code, str(error), 1024))
        << Failed(RID, Error(TooMany, str(error)))
    )


def test_refused_by_one_of_two_servers(play: Playbook) -> None:
    waiting(play) >> Received(1, Elsewhere((member("s2"),))) << Dial(2, S2) >> Opened(2, "s2") << Send(2, HELLO)
    play >> Received(2, welcome("s2", "s2")) << Remember((S1, S2)) << Send(2, meet())
    play >> Received(2, Refused(RID, 1, 35, "too many requests: the limit is 1", 1))
    play >> Received(2, matched(active=True)) >> Received(2, Refused(RID, 1, 35, "again"))
    play >> Received(1, Refused(RID, 7, 35, "of another attempt"))
    play >> Received(1, Refused(RID, 1, 32, "go away")) << Failed(RID, Error(DeniedError, "go away"))


@pytest.mark.parametrize(
    "error",
    [
        NameTaken("printer"),
        NameTaken("printer", "by a unique post"),
        Displaced("printer", 9),
        TooMany("requests lodged by one client", 1024),
        DeniedError("no"),
    ],
    ids=str,
)
def test_a_refusal_says_the_same_at_both_ends(error: DeniedError) -> None:
    limit = {Displaced: 9, TooMany: 1024}.get(type(error), 0)
    there = refusal(Refused(RID, 1, error.code, str(error), limit), "printer")
    assert type(there) is type(error)
    assert str(there) == str(error)


# ---- users -------------------------------------------------------------------------------------------------------

ANN = {"user": "ann", "peer_user": "ben"}
SECURE = MeetWanted(RID, "alice", "bob", MINE, avoid=(b"h" * 16,), **ANN)


def lodged(play: Playbook, wanted: MeetWanted, **more: Any) -> Playbook:
    play >> wanted << Dial(1, S1) >> Opened(1, "s1") << Send(1, HELLO)
    return play >> Received(1, welcome()) << Send(1, meet(**more))


def test_a_secure_meeting(play: Playbook) -> None:
    told = matched(active=False, peer_user="ben", partner=b"p" * 16)
    (
        lodged(play, SECURE, avoid=(b"h" * 16,), **ANN)
        >> Received(1, told)
        >> PeerDialled(-1)
        >> PeerData(-1, DIALLED)
        << PeerSend(-1, READIED)
        >> PeerData(-1, COMMITTED)
        << Delivered(RID, -1, BOB, "ben", b"p" * 16)
    )


@pytest.mark.parametrize("named", ["", "eve"])
def test_a_server_that_names_another_user(play: Playbook, named: str) -> None:
    lodged(play, SECURE, avoid=(b"h" * 16,), **ANN)
    play >> Received(1, matched(active=True, peer_user=named)) << Send(1, meet(2, avoid=(b"h" * 16,), **ANN))


def test_a_server_that_answers_a_plain_meeting_with_a_user(play: Playbook) -> None:
    waiting(play) >> Received(1, matched(active=True, peer_user="ben")) << Send(1, meet(2))


def test_a_secure_post_takes_whom_it_allows(play: Playbook) -> None:
    offer: dict[str, Any] = {"user": "ben", "allow": ("ann", "ops/*")}
    play >> PostWanted(RID, "printer", MINE, **offer) << Dial(1, S1) >> Opened(1, "s1") << Send(1, HELLO)
    play >> Received(1, welcome()) << Send(1, post(**offer)) >> Received(1, Posted(RID, 1)) << PostStands(RID, 0)
    for number, user in enumerate(("", "eve", "ops/x/y")):
        play >> Received(1, matched(active=False, peer_user=user, match=bytes([number]) * 8))
    play >> Wait(1.0) << Send(1, Settled(RID, 1, 3))
    play >> Received(1, matched(active=False, peer_user="ops/x", partner=b"p" * 16))
    play >> PeerDialled(-1) >> PeerData(-1, DIALLED) << PeerSend(-1, READIED) >> PeerData(-1, COMMITTED)
    play << Delivered(RID, -1, BOB, "ops/x", b"p" * 16)


def test_a_plain_post_takes_no_secure_client(play: Playbook) -> None:
    standing(play) >> Received(1, matched(active=False, peer_user="ann")) >> Wait(1.0) << Send(1, Settled(RID, 1, 1))


def test_what_went_wrong_before_is_explained(play: Playbook) -> None:
    wanted = MeetWanted(RID, "alice", "bob", MINE, 1.0, notes=("somebody could not prove to be ben",), **ANN)
    lodged(play, wanted, **ANN)
    play >> Wait(0.8) << Send(1, Explain(1, "alice", "bob", **ANN))
    play >> Wait(0.2) << Send(1, Withdraw(RID, 1)) << Failed(RID, Error(MeetTimeout, "could not prove to be ben"))


def test_a_refusal_by_policy(play: Playbook) -> None:
    waiting(play) >> Received(1, Refused(RID, 1, NotAllowed.code, "not allowed"))
    play << Failed(RID, Error(NotAllowed, "not allowed"))


def test_more_to_avoid_than_a_message_carries(play: Playbook) -> None:
    handles = tuple(bytes([number]) * 16 for number in range(20))
    wanted = MeetWanted(RID, "alice", "bob", MINE, avoid=handles, **ANN)
    lodged(play, wanted, avoid=handles[-16:], **ANN)
