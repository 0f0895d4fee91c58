"""Sealed datagrams under attack: said again, overtaken, cut, altered, of another session, sent back."""

import copy
import pickle
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import DecryptError, LocalError, TrustError
from trunkline.meeting.datagram_keys import Session, derive
from trunkline.meeting.datagrams import (
    LAST_SEQUENCE,
    MAX_DATA,
    MAX_DATAGRAM,
    OVERHEAD,
    WINDOW,
    Drop,
    Opener,
    Sealer,
)
from trunkline.meeting.handshake import Role
from trunkline.names import Secret

ONE, TWO = Secret(bytes(range(32))), Secret(bytes(range(100, 132)))
ACTIVE = derive(Role.ACTIVE, b"match id", ONE, TWO)
PASSIVE = derive(Role.PASSIVE, b"match id", TWO, ONE)


@pytest.fixture
def sealer() -> Sealer:
    return Sealer(ACTIVE)


@pytest.fixture
def opener() -> Opener:
    return Opener(PASSIVE)


def dropped(opener: Opener, datagram: bytes, reason: Drop) -> None:
    """Assert that a datagram is dropped for that reason."""
    before = opener.dropped.copy()
    with pytest.raises(DecryptError, match=reason):
        opener.open(datagram)
    assert opener.dropped - before == {reason: 1}


@given(st.lists(st.binary(max_size=100), max_size=8))
def test_what_was_sealed_is_opened_in_both_directions(messages: list[bytes]) -> None:
    for ours, theirs in ((ACTIVE, PASSIVE), (PASSIVE, ACTIVE)):
        sealer, opener = Sealer(ours), Opener(theirs)
        assert [opener.open(sealer.seal(message)) for message in messages] == messages
        assert not opener.dropped


def test_the_layout_is_that_of_the_spec() -> None:
    """docs/spec/sealing.md section 8: these bytes were written by the first version."""
    assert Sealer(ACTIVE, 5).seal(b"hello").hex() == "0000000000000005386bc84a131eead46ce947ece0cddd5fd690ee8744"


def test_a_replay_is_dropped(sealer: Sealer, opener: Opener) -> None:
    sent = [sealer.seal(b"%d" % n) for n in range(20)]
    for datagram in sent:
        opener.open(datagram)
    for datagram in sent:
        dropped(opener, datagram, Drop.REPLAYED)


def test_overtaking_within_the_window_is_fine(sealer: Sealer, opener: Opener) -> None:
    sent = [sealer.seal(b"%d" % n) for n in range(WINDOW)]
    order = list(range(WINDOW))
    random.Random(1).shuffle(order)
    for n in order:
        assert opener.open(sent[n]) == b"%d" % n
    for datagram in sent:
        dropped(opener, datagram, Drop.REPLAYED)


def test_overtaking_beyond_the_window_is_not(sealer: Sealer, opener: Opener) -> None:
    sent = [sealer.seal(b"%d" % n) for n in range(WINDOW + 1)]
    assert opener.open(sent[WINDOW]) == b"%d" % WINDOW
    dropped(opener, sent[0], Drop.OLD)
    assert opener.open(sent[1]) == b"1"
    dropped(opener, sent[1], Drop.REPLAYED)


def test_the_window_moves_by_any_step(opener: Opener) -> None:
    for first, then in ((0, 1), (5, WINDOW + 4), (7, WINDOW + 7), (9, 5 * WINDOW), (3, LAST_SEQUENCE)):
        opener = Opener(PASSIVE)
        early, late = Sealer(ACTIVE, first).seal(b"early"), Sealer(ACTIVE, then).seal(b"late")
        opener.open(early)
        opener.open(late)
        dropped(opener, late, Drop.REPLAYED)
        dropped(opener, early, Drop.OLD if then - first >= WINDOW else Drop.REPLAYED)
        assert opener._seen.bit_length() <= WINDOW


@given(st.lists(st.integers(0, 3 * WINDOW), max_size=60))
def test_the_window_against_a_set(numbers: list[int]) -> None:
    opener, seen, greatest = Opener(PASSIVE), set[int](), -1
    for number in numbers:
        datagram = Sealer(ACTIVE, number).seal(b"")
        if number in seen and greatest - number < WINDOW:
            dropped(opener, datagram, Drop.REPLAYED)
        elif greatest - number >= WINDOW:
            dropped(opener, datagram, Drop.OLD)
        else:
            opener.open(datagram)
            seen.add(number)
            greatest = max(greatest, number)


def test_an_altered_byte_anywhere_is_dropped_and_moves_nothing(sealer: Sealer, opener: Opener) -> None:
    datagram = sealer.seal(b"hello")
    for at in range(len(datagram)):
        for bit in range(8):
            altered = bytearray(datagram)
            altered[at] ^= 1 << bit
            dropped(opener, bytes(altered), Drop.FORGED)
    assert opener.open(datagram) == b"hello", "a forged number of 2**63 did not move the window"


def test_a_cut_or_longer_datagram_is_dropped(sealer: Sealer, opener: Opener) -> None:
    datagram = sealer.seal(b"hello")
    for size in range(len(datagram)):
        dropped(opener, datagram[:size], Drop.SIZE if size < OVERHEAD else Drop.FORGED)
    dropped(opener, datagram + b"\0", Drop.FORGED)
    dropped(opener, bytes(MAX_DATAGRAM + 1), Drop.SIZE)
    assert opener.open(datagram) == b"hello"


def test_a_datagram_of_another_session_is_dropped(sealer: Sealer) -> None:
    """Even of one with the same keys: the session's id is in every tag."""
    other = derive(Role.PASSIVE, b"another!", TWO, ONE)
    dropped(Opener(other), sealer.seal(b"hello"), Drop.FORGED)
    same_keys = Session(bytes(16), PASSIVE.sending, PASSIVE.receiving)
    dropped(Opener(same_keys), sealer.seal(b"hello"), Drop.FORGED)


def test_a_datagram_that_is_sent_back_is_dropped(sealer: Sealer) -> None:
    dropped(Opener(ACTIVE), sealer.seal(b"hello"), Drop.FORGED)


@given(st.binary(max_size=100))
def test_any_bytes_are_dropped(data: bytes) -> None:
    opener = Opener(PASSIVE)
    with pytest.raises(DecryptError):
        opener.open(data)
    assert opener.dropped.total() == 1


def test_the_longest_datagram(sealer: Sealer, opener: Opener) -> None:
    datagram = sealer.seal(bytes(MAX_DATA))
    assert len(datagram) == MAX_DATAGRAM
    assert opener.open(datagram) == bytes(MAX_DATA)
    with pytest.raises(ValueError, match="65484 bytes exceed the limit of 65483"):
        sealer.seal(memoryview(bytes(MAX_DATA + 1)))
    assert sealer.sequence == 1, "no number was used"


def test_no_number_is_used_twice(opener: Opener) -> None:
    sealer = Sealer(ACTIVE, LAST_SEQUENCE)
    assert opener.open(sealer.seal(b"the last")) == b"the last"
    for _ in range(2):
        with pytest.raises(LocalError, match="meet again"):
            sealer.seal(b"one more")


def test_a_key_is_given_up_after_too_many_forgeries(sealer: Sealer) -> None:
    opener = Opener(PASSIVE, max_forged=3)
    for _ in range(3):
        dropped(opener, bytes(40), Drop.FORGED)
    with pytest.raises(TrustError, match="given up"):
        opener.open(sealer.seal(b"hello"))


def test_copies_are_refused(sealer: Sealer, opener: Opener) -> None:
    for each in (sealer, opener):
        for way in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="can't be pickled"):
                way(each)
