"""Every state x message is legal or named illegal, and an illegal one changes nothing."""

import itertools

import pytest

from trunkline import errors
from trunkline.transfer import messages as m
from trunkline.transfer.lifecycle import (
    ENTRY_TABLE,
    LINK_TABLE,
    SAID_BY,
    VERDICTS,
    Course,
    EntryState,
    LinkState,
    Role,
)
from trunkline.transfer.manifest import Manifest
from trunkline.transfer.messages import Entry, Kind, Verdict

SENDER, RECEIVER = Role.SENDER, Role.RECEIVER
DIGEST = bytes(32)
FILE = Entry("f", Kind.FILE, 10, 0o644, 0)
OTHER = Entry("g", Kind.FILE, 10, 0o644, 0)
DIRECTORY = Entry("d", Kind.DIRECTORY, 0, 0o755, 0)

# How to get an entry, number 0, into each state.
OFFER = [(SENDER, m.Offer([FILE, OTHER])), (SENDER, m.OfferEnd(2, 20)), (RECEIVER, m.Ready())]
WANTED = [*OFFER, (RECEIVER, m.Want(0, 4, DIGEST))]
MOVING = [*WANTED, (SENDER, m.Start(0, 4))]
COMPARING = [*OFFER, (RECEIVER, m.Whole(0, DIGEST))]
WAYS = {
    EntryState.OFFERED: OFFER,
    EntryState.COMPARING: COMPARING,
    EntryState.DIFFERENT: [*COMPARING, (SENDER, m.Differs(0))],
    EntryState.WANTED: WANTED,
    EntryState.MOVING: MOVING,
    EntryState.SAID_SAME: [*COMPARING, (SENDER, m.Same(0))],
    EntryState.SUMMED: [*MOVING, (SENDER, m.Run(0, 4, 6)), (SENDER, m.Sum(0, DIGEST))],
    EntryState.SPOILED: [*WANTED, (SENDER, m.Spoiled(0, "gone"))],
    EntryState.SETTLED: [*OFFER, (RECEIVER, m.Settled(0, Verdict.REFUSED))],
}
ENTRY_MESSAGES = sorted({said for _, said in ENTRY_TABLE}, key=lambda said: said.__name__)


def course(way=()):
    course = Course(Manifest())
    for by, message in way:
        course.apply(message, by)
    return course


def sample(said, state):
    """A message about entry 0 whose numbers fit its state, so that only the table can object."""
    offset = 4 if state in (EntryState.WANTED, EntryState.MOVING, EntryState.OFFERED) else 0
    complete = state is EntryState.MOVING
    return {
        m.Want: m.Want(0, offset, DIGEST),
        m.Whole: m.Whole(0, DIGEST),
        m.Same: m.Same(0),
        m.Differs: m.Differs(0),
        m.Start: m.Start(0, offset),
        m.Run: m.Run(0, offset, 6 if complete else 1),
        m.Sum: m.Sum(0, DIGEST),
        m.Spoiled: m.Spoiled(0, "gone"),
        m.Settled: m.Settled(0, next(iter(VERDICTS.get(state, {Verdict.FAILED})))),
        m.Offer: m.Offer([Entry("h", Kind.FILE, 0, 0o644, 0)]),
        m.OfferEnd: m.OfferEnd(0, 0),
        m.Ready: m.Ready(),
        m.Complete: m.Complete(),
        m.Done: m.Done(),
        m.Alive: m.Alive(),
        m.Stop: m.Stop(0, ""),
    }[said]


@pytest.mark.parametrize(("state", "said"), list(itertools.product(EntryState, ENTRY_MESSAGES)))
def test_every_entry_state_and_message(state, said):
    here = course(WAYS[state])
    assert here.entry_state(0) is state
    (by,) = SAID_BY[said]
    if said is m.Sum and state is EntryState.MOVING:
        here.apply(m.Run(0, 4, 6), by)
    after = ENTRY_TABLE.get((state, said))
    if after is None:
        with pytest.raises(errors.MessageNotAllowed, match=f"{said.__name__} of an entry that is {state.name}"):
            here.apply(sample(said, state), by)
        assert here.entry_state(0) is state
    else:
        here.apply(sample(said, state), by)
        assert here.entry_state(0) is after


LINK_WAYS = {
    LinkState.OFFERING: [],
    LinkState.OFFERED: [(SENDER, m.OfferEnd(0, 0))],
    LinkState.SERVING: [(SENDER, m.OfferEnd(0, 0)), (RECEIVER, m.Ready())],
    LinkState.COMPLETE: [(SENDER, m.OfferEnd(0, 0)), (RECEIVER, m.Ready()), (RECEIVER, m.Complete())],
    LinkState.ENDED: [
        (SENDER, m.OfferEnd(0, 0)),
        (RECEIVER, m.Ready()),
        (RECEIVER, m.Complete()),
        (SENDER, m.Done()),
    ],
    LinkState.STOPPED: [(SENDER, m.Stop(0, ""))],
}


@pytest.mark.parametrize(("state", "said", "by"), list(itertools.product(LinkState, SAID_BY, Role)))
def test_every_link_state_message_and_side(state, said, by):
    here = course(LINK_WAYS[state])
    assert here.state is state
    after = LINK_TABLE.get((state, said))
    if after is None or by not in SAID_BY[said]:
        with pytest.raises(errors.MessageNotAllowed, match=f"a {by.value} may not send {said.__name__}"):
            here.apply(sample(said, None), by)
        assert here.state is state
    elif said in ENTRY_MESSAGES:  # legal here, and there is no entry to speak of
        with pytest.raises(errors.MalformedMessage, match="entry 0 of 0"):
            here.apply(sample(said, None), by)
    else:
        here.apply(sample(said, None), by)
        assert here.state is after


@pytest.mark.parametrize(("state", "verdict"), list(itertools.product(EntryState, Verdict)))
def test_every_entry_state_and_verdict(state, verdict):
    here = course(WAYS[state])
    if verdict in VERDICTS.get(state, ()):
        here.apply(m.Settled(0, verdict), RECEIVER)
        assert here.entry_state(0) is EntryState.SETTLED
        assert here.in_hand == 0
        assert here.unsettled == 1
    else:
        with pytest.raises(errors.RemoteError):
            here.apply(m.Settled(0, verdict), RECEIVER)
        assert here.entry_state(0) is state


@pytest.mark.parametrize(
    ("way", "by", "message", "reason"),
    [
        (OFFER, RECEIVER, m.Want(0, 11, DIGEST), "wanted from 11, it has 10"),
        (OFFER, RECEIVER, m.Want(2, 0, DIGEST), "entry 2 of 2"),
        (OFFER, RECEIVER, m.Complete(), "2 entries are not settled"),
        (WAYS[EntryState.DIFFERENT], RECEIVER, m.Want(0, 1, DIGEST), "from 0 only"),
        (WANTED, SENDER, m.Start(0, 5), "starts at 5, 4 was asked"),
        ([*MOVING, (RECEIVER, m.Want(1, 0, DIGEST))], SENDER, m.Start(1, 0), "before the file ahead"),
        (MOVING, SENDER, m.Run(0, 5, 1), "bytes from 5, 4 is next"),
        (MOVING, SENDER, m.Run(0, 4, 7), "11 bytes, and 10 were offered"),
        (MOVING, SENDER, m.Sum(0, DIGEST), "4 bytes, and 10 were offered"),
        ([(SENDER, m.Offer([FILE]))], SENDER, m.OfferEnd(1, 11), "closed as 1 of 11"),
        ([], SENDER, m.Offer([FILE, FILE]), "twice"),
        ([], SENDER, m.Offer([Entry("../f", Kind.FILE, 0, 0, 0)]), r"'\.\./f' can't be used"),
        ([], SENDER, m.Offer([Entry("d", Kind.DIRECTORY, 1, 0, 0)]), "has a size"),
    ],
)
def test_numbers_that_do_not_fit(way, by, message, reason):
    here = course(way)
    with pytest.raises(errors.MalformedMessage, match=reason):
        here.apply(message, by)


def test_a_directory_is_settled_and_never_sent():
    way = [(SENDER, m.Offer([DIRECTORY])), (SENDER, m.OfferEnd(1, 0)), (RECEIVER, m.Ready())]
    for message in (m.Want(0, 0, DIGEST), m.Whole(0, DIGEST)):
        with pytest.raises(errors.MalformedMessage, match="is a directory"):
            course(way).apply(message, RECEIVER)
    for verdict in Verdict:
        here = course(way)
        here.apply(m.Settled(0, verdict), RECEIVER)
        assert here.unsettled == 0


def test_the_window_bounds_what_is_in_hand():
    count = m.MAX_WINDOW + 1
    files = [Entry(f"f{n}", Kind.FILE, 0, 0o644, 0) for n in range(count)]
    here = course([(SENDER, m.Offer(files)), (SENDER, m.OfferEnd(count, 0)), (RECEIVER, m.Ready())])
    for n in range(m.MAX_WINDOW):
        here.apply(m.Want(n, 0, DIGEST), RECEIVER)
    with pytest.raises(errors.MalformedMessage, match=f"more than {m.MAX_WINDOW}"):
        here.apply(m.Want(m.MAX_WINDOW, 0, DIGEST), RECEIVER)
    here.apply(m.Spoiled(0, "gone"), SENDER)
    here.apply(m.Settled(0, Verdict.FAILED), RECEIVER)
    here.apply(m.Want(m.MAX_WINDOW, 0, DIGEST), RECEIVER)


def test_only_the_two_sides_there_are():
    assert {role.other for role in Role} == set(Role)
    assert set(SAID_BY) == set(m.Message.__args__)
