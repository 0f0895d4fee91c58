"""What a client knows about a request."""

import pytest

from tests.switchboard.clientside import MINE, POSTING, RID, RID2, WANTED
from trunkline.names import Secret
from trunkline.switchboard.events import PostWanted
from trunkline.switchboard.lifecycle import Input
from trunkline.switchboard.requests import LONGEST_LAPSE_PAUSE, MAX_NOTES, MeetRequest, PostRequest, restored
from trunkline.wire.messages import Meet, Post


def test_pauses_between_attempts() -> None:
    request = MeetRequest(WANTED, 0.0)
    pauses = []
    for request.lapses in range(1, 12):
        pauses.append(request.lapse_pause())
    assert pauses[:5] == [0.0, 0.05, 0.1, 0.2, 0.4]
    assert pauses[-1] == LONGEST_LAPSE_PAUSE


def test_an_illegal_move_names_the_reason() -> None:
    with pytest.raises(AssertionError, match="MET in SEEKING: there is no match"):
        MeetRequest(WANTED, 0.0).advance(Input.MET)
    with pytest.raises(AssertionError, match="MET in SEEKING: the matches of a post have lives of their own"):
        PostRequest(POSTING, 0.0).advance(Input.MET)


def test_notes_are_bounded() -> None:
    request = MeetRequest(WANTED, 0.0)
    for number in range(100):
        request.note(str(number))
    assert len(request.notes) == MAX_NOTES
    assert request.notes[-1] == "99"


def test_what_lodges_it() -> None:
    meet, post = MeetRequest(WANTED, 0.0), PostRequest(PostWanted(RID, "p", MINE, secret=Secret(b"s")), 0.0)
    meet.n = post.n = 3
    post.generation = 4
    assert meet.message() == Meet(RID, 3, "alice", "bob", MINE)
    assert post.message() == Post(RID, 3, "p", MINE, secret=b"s", generation=4)


def test_patience_belongs_to_posts_that_stood() -> None:
    meet, post = MeetRequest(WANTED, 0.0), PostRequest(POSTING, 0.0)
    assert not meet.patient
    assert not post.patient
    post.stood = True
    assert post.patient


def test_settling_counts_for_each_server() -> None:
    post = PostRequest(POSTING, 0.0)
    post.lodged = {1: 0, 2: 0}
    assert [post.settle(1), post.settle(1), post.settle(2), post.settle(3)] == [1, 2, 1, 0]
    post.reported[1] = 2
    assert post.settle(1) == 1


def test_snapshots() -> None:
    meet = MeetRequest(WANTED, 1.0)
    meet.note("a note")
    post = PostRequest(PostWanted(RID2, "p", MINE, True, True, Secret(b"s"), 7, 9.0), 2.0)
    post.lodged = {1: 2}
    post.reported = {1: 1}
    post.unaccepted.extend([1, 1, 2])
    snapshots = [meet.snapshot(), post.snapshot()]
    assert len({*snapshots, *snapshots}) == 2
    again = restored(snapshots)
    assert list(again) == [RID, RID2]
    assert [request.snapshot() for request in again.values()] == snapshots
