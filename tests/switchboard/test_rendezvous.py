"""From a match to a connection: both sides, strangers, every kind of failure."""

from collections.abc import Callable

import pytest

from tests.playbook import Error, Playbook, Wait
from tests.switchboard.clientside import (
    BOB,
    COMMITTED,
    DIALLED,
    LAN,
    LOOP,
    MATCH,
    MATCH2,
    MINE,
    ONE,
    POSTING,
    READIED,
    RID,
    RID2,
    THREE,
    TOKEN,
    TOKEN2,
    UNIX,
    matched,
    meet,
    standing,
    waiting,
)
from trunkline.errors import MeetTimeout
from trunkline.meeting.handshake import DIAL, READY
from trunkline.names import Candidate, Candidates, Peer
from trunkline.switchboard.events import (
    Cancelled,
    Delivered,
    Failed,
    MeetWanted,
    PeerBind,
    PeerBound,
    PeerClose,
    PeerData,
    PeerDial,
    PeerDialled,
    PeerLost,
    PeerOpened,
    PeerSend,
    PostWanted,
    Received,
    Send,
)
from trunkline.wire.codec import encode_candidates
from trunkline.wire.messages import Explain, Meet, Settled

Script = Callable[..., Playbook]

# ---- the active side -------------------------------------------------------------------------------------------


def test_active(play: Playbook) -> None:
    (
        waiting(play)
        >> Received(1, matched(active=True))
        << PeerDial(2, LAN)
        >> PeerOpened(2)
        << PeerSend(2, DIALLED)
        >> PeerData(2, READIED[:4])
        >> PeerData(2, READIED[4:])
        << PeerSend(2, COMMITTED)
        << Delivered(RID, 2, BOB)
    )
    assert play.machine.bytes_wanted(2) == 0


def test_bytes_wanted_follows_the_handshake(play: Playbook) -> None:
    waiting(play) >> Received(1, matched(active=True)) << PeerDial(2, LAN)
    assert play.machine.bytes_wanted(2) == 0
    play >> PeerOpened(2) << PeerSend(2, DIALLED)
    assert play.machine.bytes_wanted(2) == 10
    play >> PeerData(2, READIED[:3])
    assert play.machine.bytes_wanted(2) == 7
    assert play.machine.bytes_wanted(99) == 0


def test_active_staggers_and_the_first_that_is_ready_wins(play: Playbook) -> None:
    (
        waiting(play)
        >> Received(1, matched(active=True, candidates=THREE))
        << PeerDial(2, UNIX)
        >> PeerOpened(2)
        << PeerSend(2, DIALLED)
        >> Wait(0.25)
        << PeerDial(3, LOOP)
        >> PeerOpened(3)
        << PeerSend(3, DIALLED)
        >> Wait(0.25)
        << PeerDial(4, LAN)
        >> PeerData(3, READIED)
        << PeerClose(2)
        << PeerClose(4)
        << PeerSend(3, COMMITTED)
        << Delivered(RID, 3, BOB)
        >> PeerOpened(4)
        >> PeerLost(2, "closed")
    )


def test_active_takes_the_next_at_once_when_one_fails(play: Playbook) -> None:
    (
        waiting(play)
        >> Received(1, matched(active=True, candidates=THREE))
        << PeerDial(2, UNIX)
        >> PeerLost(2, "no such file")
        << PeerDial(3, LOOP)
        >> PeerOpened(3)
        << PeerSend(3, DIALLED)
        >> PeerLost(3, "closed by the peer")
        << PeerDial(4, LAN)
        >> PeerLost(4, "no route")
        << Send(1, meet(2))
    )
    assert (
        "unix:@bob: no such file; tcp:127.0.0.1:4000: closed by the peer; tcp:10.0.0.2:4000: no route" in play.logs[-1]
    )


def test_active_gives_up_a_dial_that_takes_too_long(play: Playbook) -> None:
    (
        waiting(play)
        >> Received(1, matched(active=True))
        << PeerDial(2, LAN)
        >> Wait(3.0)
        << PeerClose(2)
        << Send(1, meet(2))
    )  # fmt: skip


def test_active_gives_up_one_dial_and_goes_on_with_the_others(play: Playbook) -> None:
    (
        waiting(play)
        >> Received(1, matched(active=True, candidates=THREE))
        << PeerDial(2, UNIX)
        >> Wait(0.25)
        << PeerDial(3, LOOP)
        >> Wait(0.25)
        << PeerDial(4, LAN)
        >> Wait(2.5)
        << PeerClose(2)
        >> PeerOpened(3)
        << PeerSend(3, DIALLED)
        >> Wait(0.5)
        << PeerClose(4)
        >> Wait(1.0)
        >> PeerData(3, READIED)
        << PeerSend(3, COMMITTED)
        << Delivered(RID, 3, BOB)
    )


def test_active_waits_for_ready_until_the_confirm_timeout(play: Playbook) -> None:
    (
        waiting(play)
        >> Received(1, matched(active=True))
        << PeerDial(2, LAN)
        >> PeerOpened(2)
        << PeerSend(2, DIALLED)
        >> Wait(4.9)
        >> Wait(0.1)
        << PeerClose(2)
        << Send(1, meet(2))
    )


def test_active_breaks_off_when_the_peer_talks_nonsense(play: Playbook) -> None:
    (
        waiting(play)
        >> Received(1, matched(active=True))
        << PeerDial(2, LAN)
        >> PeerData(2, b"too early")
        >> PeerOpened(2)
        << PeerSend(2, DIALLED)
        >> PeerOpened(2)
        >> PeerData(2, b"SSH-2.0-Op")
        << PeerClose(2)
        << Send(1, meet(2))
    )
    assert "does not speak Trunkline" in play.logs[-1]


@pytest.mark.parametrize(
    ("candidates", "why"),
    [
        (b"\xc1 nonsense", "malformed message: candidates"),
        (encode_candidates(Candidates(b"there000", (UNIX, LOOP))), "no address that can be dialled"),
        (encode_candidates(Candidates(b"here0000", ())), "no address that can be dialled"),
    ],
)
def test_active_without_a_candidate_to_dial(play: Playbook, candidates: bytes, why: str) -> None:
    waiting(play) >> Received(1, matched(active=True, candidates=candidates)) << Send(1, meet(2))
    assert why in play.logs[-1]


def test_active_cancelled_while_it_dials(play: Playbook) -> None:
    (
        waiting(play)
        >> Received(1, matched(active=True, candidates=THREE))
        << PeerDial(2, UNIX)
        >> PeerOpened(2)
        << PeerSend(2, DIALLED)
        >> Wait(0.25)
        << PeerDial(3, LOOP)
        >> Cancelled(RID)
        << PeerClose(2)
        << PeerClose(3)
        >> PeerData(2, READIED)
        >> PeerOpened(3)
    )


# ---- the passive side ------------------------------------------------------------------------------------------


def test_passive(play: Playbook) -> None:
    (
        waiting(play)
        >> Received(1, matched(active=False))
        >> PeerDialled(-1)
        >> PeerData(-1, DIALLED[:20])
        >> PeerData(-1, DIALLED[20:])
        << PeerSend(-1, READIED)
        >> PeerData(-1, COMMITTED)
        << Delivered(RID, -1, BOB)
    )


def test_passive_a_dial_before_its_match(play: Playbook) -> None:
    """The peer's dial may overtake our server's word: it is held."""
    waiting(play) >> PeerDialled(-1) >> PeerData(-1, DIALLED)
    assert play.machine.bytes_wanted(-1) == 0
    (
        play
        >> Wait(1.9)
        >> Received(1, matched(active=False))
        << PeerSend(-1, READIED)
        >> PeerData(-1, COMMITTED)
        << Delivered(RID, -1, BOB)
    )


def test_passive_two_dials_before_their_match(play: Playbook) -> None:
    (
        waiting(play)
        >> PeerDialled(-1)
        >> PeerData(-1, DIALLED)
        >> PeerDialled(-2)
        >> PeerData(-2, DIAL + TOKEN2 + b"\0\0")
        >> PeerDialled(-3)
        >> PeerData(-3, DIALLED)
        >> Received(1, matched(active=False))
        << PeerSend(-1, READIED)
        << PeerClose(-3)
        >> PeerLost(-2, "gone")
    )


def test_passive_a_wrong_token_is_held_and_then_refused(play: Playbook) -> None:
    (
        waiting(play)
        >> Received(1, matched(active=False))
        >> PeerDialled(-1)
        >> PeerData(-1, DIAL + TOKEN2 + b"\0\0")
        >> Wait(1.9)
        >> Wait(0.1)
        << PeerClose(-1)
    )


def test_passive_a_second_dial_with_the_token_is_refused(play: Playbook) -> None:
    (
        waiting(play)
        >> Received(1, matched(active=False))
        >> PeerDialled(-1)
        >> PeerDialled(-2)
        >> PeerData(-1, DIALLED)
        << PeerSend(-1, READIED)
        >> PeerData(-2, DIALLED)
        << PeerClose(-2)
        >> PeerData(-1, COMMITTED)
        << Delivered(RID, -1, BOB)
    )


def test_passive_a_silent_stranger_is_closed(play: Playbook) -> None:
    (
        waiting(play)
        >> PeerDialled(-1)
        >> PeerData(-1, b"TRUNK")
        >> Wait(4.9)
        >> Wait(0.1)
        << PeerClose(-1)
        >> PeerData(-1, b"KD/1")
    )  # fmt: skip


def test_passive_of_a_flood_of_strangers_the_oldest_goes(script: Script) -> None:
    play = script(max_strangers=2)
    (
        waiting(play)
        >> PeerDialled(-1)
        >> PeerDialled(-2)
        >> PeerData(-2, DIAL + TOKEN2 + b"\0\0")
        >> PeerDialled(-3)
        << PeerClose(-1)
        >> PeerDialled(-4)
        << PeerClose(-2)
    )


def test_passive_the_connection_is_lost_before_the_commit(play: Playbook) -> None:
    (
        waiting(play)
        >> Received(1, matched(active=False))
        >> PeerDialled(-1)
        >> PeerData(-1, DIALLED)
        << PeerSend(-1, READIED)
        >> PeerLost(-1, "reset")
        << Send(1, meet(2))
        >> PeerDialled(-2)
        >> PeerData(-2, DIALLED)
        >> Wait(2.0)
        << PeerClose(-2)
    )


def test_passive_the_peer_never_dials(play: Playbook) -> None:
    waiting(play) >> Received(1, matched(active=False)) >> Wait(4.9) >> Wait(0.1) << Send(1, meet(2))


def test_passive_after_ready_only_the_caller_gives_up(script: Script) -> None:
    """The active side may have returned already: a timer of ours would break S1."""
    play = script()
    wanted = MeetWanted(RID, "alice", "bob", MINE, 100.0)
    (
        waiting(play, wanted)
        >> Received(1, matched(active=False))
        >> PeerDialled(-1)
        >> PeerData(-1, DIALLED)
        << PeerSend(-1, READIED)
        >> Wait(99.0)
        >> Wait(0.5)
        << Send(1, Explain(1, "alice", "bob"))
        >> Wait(0.5)
        << PeerClose(-1)
        << Failed(RID, Error(MeetTimeout, "matched with 'bob', but the connection is not confirmed yet"))
    )


def test_passive_nonsense_instead_of_the_commit(play: Playbook) -> None:
    (
        waiting(play)
        >> Received(1, matched(active=False))
        >> PeerDialled(-1)
        >> PeerData(-1, DIALLED)
        << PeerSend(-1, READIED)
        >> PeerData(-1, b"nonsense")
        << PeerClose(-1)
        << Send(1, meet(2))
    )


@pytest.mark.parametrize("data", [b"G", b"GET / HTTP/1.1\r\n\r\nmore than wanted", b"TRUNKD/2"])
def test_a_stranger_that_talks_nonsense_is_closed(play: Playbook, data: bytes) -> None:
    waiting(play) >> PeerDialled(-1) >> PeerData(-1, data) << PeerClose(-1)


def test_a_held_stranger_that_goes_on_talking_is_closed(play: Playbook) -> None:
    waiting(play) >> PeerDialled(-1) >> PeerData(-1, DIALLED) >> PeerData(-1, b"!") << PeerClose(-1)


def test_a_stranger_that_leaves(play: Playbook) -> None:
    waiting(play) >> PeerDialled(-1) >> PeerLost(-1, "gone") >> Wait(60.0)
    assert play.machine.next_deadline() is not None  # the server's heartbeat, and nothing else


def test_passive_cancelled_after_ready(play: Playbook) -> None:
    (
        waiting(play)
        >> Received(1, matched(active=False))
        >> PeerDialled(-1)
        >> PeerData(-1, DIALLED)
        << PeerSend(-1, READIED)
        >> Cancelled(RID)
        << PeerClose(-1)
        >> PeerData(-1, COMMITTED)
    )


def test_two_matches_with_one_token(play: Playbook) -> None:
    """A server that gives a token twice costs the second match, not the first."""
    (
        standing(play)
        >> Received(1, matched(active=False, peer="carol"))
        >> Received(1, matched(active=False, peer="dave", match=MATCH2))
        >> PeerDialled(-1)
        >> PeerData(-1, DIALLED)
        << PeerSend(-1, READIED)
        >> PeerData(-1, COMMITTED)
        << Delivered(RID, -1, Peer("carol", match=MATCH.hex()))
        >> Wait(0.05)
        << Send(1, Settled(RID, 1, 1))
    )


def test_both_sides_in_one_process(play: Playbook) -> None:
    """The two calls of one meeting may share a client; the token names both its rendezvous."""
    other = MeetWanted(RID2, "bob", "alice", MINE)
    (
        waiting(play)
        >> other
        << Send(1, Meet(RID2, 1, "bob", "alice", MINE))
        >> Received(1, matched(active=True))
        << PeerDial(2, LAN)
        >> Received(1, matched(active=False, rid=RID2, peer="alice"))
        >> PeerDialled(-1)
        >> PeerOpened(2)
        << PeerSend(2, DIALLED)
        >> PeerData(-1, DIALLED)
        << PeerSend(-1, READIED)
        >> PeerData(2, READIED)
        << PeerSend(2, COMMITTED)
        << Delivered(RID, 2, BOB)
        >> PeerData(-1, COMMITTED)
        << Delivered(RID2, -1, Peer("alice", match=MATCH.hex()))
    )


# ---- datagrams -------------------------------------------------------------------------------------------------

DATAGRAM = MeetWanted(RID, "alice", "bob", MINE, None, datagram=True)
PORT, THEIRS = 0x1234, 0x5678


def test_datagram_active(play: Playbook) -> None:
    (
        waiting(play, DATAGRAM)
        >> Received(1, matched(active=True))
        << PeerDial(2, LAN, datagram=True)
        >> PeerOpened(2, PORT)
        << PeerSend(2, DIAL + TOKEN + b"\x12\x34")
        >> PeerBound(2, PORT)
        >> PeerData(2, READY + b"\x56\x78")
        << PeerBind(2, THEIRS)
        >> PeerBound(2, PORT)
        << PeerSend(2, COMMITTED)
        << Delivered(RID, 2, BOB)
    )


def test_datagram_passive(play: Playbook) -> None:
    (
        waiting(play, DATAGRAM)
        >> Received(1, matched(active=False))
        >> PeerDialled(-1)
        >> PeerData(-1, DIAL + TOKEN + b"\x12\x34")
        << PeerBind(-1, PORT)
        >> PeerBound(-1, THEIRS)
        << PeerSend(-1, READY + b"\x56\x78")
        >> PeerBound(-1, THEIRS)
        >> PeerData(-1, COMMITTED)
        << Delivered(RID, -1, BOB)
    )


@pytest.mark.parametrize("active", [True, False])
def test_datagram_that_cannot_be_bound(play: Playbook, active: bool) -> None:
    waiting(play, DATAGRAM) >> Received(1, matched(active=active))
    if active:
        play << PeerDial(2, LAN, datagram=True) >> PeerOpened(2, PORT) << PeerSend(2, DIAL + TOKEN + b"\x12\x34")
        play >> PeerData(2, READIED) << PeerBind(2, 0) >> PeerLost(2, "no UDP")
    else:
        play >> PeerDialled(-1) >> PeerData(-1, DIALLED) << PeerBind(-1, 0) >> PeerLost(-1, "no UDP")
    play << Send(1, meet(2, datagram=True))


@pytest.mark.parametrize("active", [True, False])
def test_datagram_that_is_not_bound_in_time(play: Playbook, active: bool) -> None:
    waiting(play, DATAGRAM) >> Received(1, matched(active=active))
    if active:
        play << PeerDial(2, LAN, datagram=True) >> PeerOpened(2, PORT) << PeerSend(2, DIAL + TOKEN + b"\x12\x34")
        play >> PeerData(2, READIED) << PeerBind(2, 0)
    else:
        play >> PeerDialled(-1) >> PeerData(-1, DIALLED) << PeerBind(-1, 0)
    play >> Wait(5.0) << PeerClose(2 if active else -1) << Send(1, meet(2, datagram=True))


def test_datagram_post(play: Playbook) -> None:
    wanted = PostWanted(RID, "printer", MINE, datagram=True)
    (
        standing(play, wanted)
        >> Received(1, matched(active=False))
        >> PeerDialled(-1)
        >> PeerData(-1, DIAL + TOKEN + b"\x12\x34")
        << PeerBind(-1, PORT)
        >> PeerBound(-1, THEIRS)
        << PeerSend(-1, READY + b"\x56\x78")
        >> PeerData(-1, COMMITTED)
        << Delivered(RID, -1, BOB)
    )


def test_a_post_may_be_told_to_dial(play: Playbook) -> None:
    """Servers make the poster passive; the machine doesn't depend on it."""
    (
        standing(play, POSTING)
        >> Received(1, matched(active=True, candidates=ONE))
        << PeerDial(2, LAN)
        >> PeerOpened(2)
        << PeerSend(2, DIALLED)
        >> PeerData(2, READIED)
        << PeerSend(2, COMMITTED)
        << Delivered(RID, 2, BOB)
    )


def test_candidates_of_strange_kinds_are_not_dialled(play: Playbook) -> None:
    blob = encode_candidates(Candidates(b"there000", (Candidate("pigeon", "loft"), LAN)))
    waiting(play) >> Received(1, matched(active=True, candidates=blob)) << PeerDial(2, LAN)
