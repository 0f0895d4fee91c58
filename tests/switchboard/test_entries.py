"""What lies on the table: the life of an entry, enumerated; who may be matched with whom."""

from itertools import product
from typing import Any

import pytest

from trunkline.switchboard.entries import (
    LIFE,
    Entry,
    Input,
    PostEntry,
    State,
    admits,
    handle,
    of_mate,
    shuns,
)
from trunkline.wire.messages import Meet

RID = b"r" * 16


def entry(**more: Any) -> Entry:
    return Entry(RID, 1, "ann", "ben", b"at", False, "", 1, 0.0, **more)


def post(**more: Any) -> PostEntry:
    settings: dict[str, Any] = {"backlog": 2, "unique": False, "claim": b"", "generation": 0} | more
    return PostEntry(b"p" * 16, 1, "ben", b"at", False, "", 1, 0.0, **settings)


@pytest.mark.parametrize(("state", "what"), list(product(State, Input)))
def test_every_state_and_input_is_legal_or_refused(state: State, what: Input) -> None:
    it = entry()
    it.state = state
    if what in LIFE[state]:
        it.move(what)
        assert it.state is LIFE[state][what]
    else:
        with pytest.raises(AssertionError, match=what.name):
            it.move(what)
        assert it.state is state


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.WAITING}
    for _ in State:
        reached |= {after for state in reached for after in LIFE[state].values()}
    assert reached == set(State)
    assert all(State.GONE in LIFE[state].values() for state in State if state is not State.GONE)


@pytest.mark.parametrize(
    ("client", "offer", "may"),
    [
        ({}, {}, True),
        ({"user": "ann", "peer_user": "ben"}, {"user": "ben", "allow": ("ann",)}, True),
        ({"user": "ops/ann", "peer_user": "ben"}, {"user": "ben", "allow": ("x", "ops/*")}, True),
        ({"user": "ann", "peer_user": "ben"}, {"user": "ben", "allow": ("ops/*",)}, False),
        ({"user": "ann", "peer_user": "ben"}, {"user": "ben"}, False),
        ({"user": "ann", "peer_user": "ben"}, {"user": "eve", "allow": ("ann",)}, False),
        ({"user": "ann", "peer_user": "ben"}, {}, False),
        ({}, {"user": "ben", "allow": ("*",)}, False),
        ({"user": "ann", "peer_user": "ben", "avoid": (handle(b"p" * 16),)}, {"user": "ben", "allow": ("ann",)}, False),
    ],
)
def test_whom_a_post_admits(client: dict[str, Any], offer: dict[str, Any], may: bool) -> None:
    assert admits(post(**offer), entry(**client)) is may


def test_what_failed_authentication_is_shunned() -> None:
    one = entry(avoid=(handle(b"x" * 16),))
    assert shuns(one, b"x" * 16)
    assert not shuns(one, b"y" * 16)
    assert not shuns(entry(), b"x" * 16)


def test_a_handle_is_not_the_rid() -> None:
    """With the rid a partner could lodge a greater attempt, and so take the entry off the table."""
    assert handle(RID) != RID
    assert len(handle(RID)) == 16


def test_an_entry_reaches_the_mates_as_it_is() -> None:
    users = {"user": "ann", "peer_user": "ben", "avoid": (b"h" * 16,)}
    meet = Entry.lodged(Meet(RID, 3, "a", "b", b"at", True, **users), 7, 1.0)
    there = of_mate(meet.propagated_as(), "x", 2.0)
    same = ("rid", "n", "me", "you", "candidates", "datagram", "user", "peer_user", "avoid")
    assert [getattr(there, name) for name in same] == [getattr(meet, name) for name in same]
    offer = post(user="ben", allow=("ann", "ops/*"), backlog=1)
    offer.matched = 1
    copy = of_mate(offer.propagated_as(), "x", 2.0)
    assert isinstance(copy, PostEntry)
    assert (copy.key, copy.allow, copy.owner, copy.full) == (offer.key, offer.allow, "x", True)
