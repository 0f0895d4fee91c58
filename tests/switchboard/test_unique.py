"""Unique names: who may hold one. How it is taken over between servers is in test_matcher.py."""

from typing import Any

import pytest

from trunkline.errors import Displaced, NameTaken
from trunkline.names import digest
from trunkline.switchboard.entries import PostEntry
from trunkline.switchboard.generations import Generations
from trunkline.switchboard.table import Table
from trunkline.switchboard.unique import UniqueNames, claim_of
from trunkline.wire.messages import Post

SECRET = b"s" * 16


def held(*posts: PostEntry) -> UniqueNames:
    table = Table()
    for each in posts:
        table.add(each)
    return UniqueNames("m", table, Generations(epoch=100.0, memory=60.0))


def entry(rid: int, owner: str = "", **more: Any) -> PostEntry:
    settings: dict[str, Any] = {"backlog": 2, "unique": True, "claim": digest(SECRET), "generation": 50} | more
    return PostEntry(bytes([rid]) * 16, 1, "vault", b"", False, owner, 1, 0.0, **settings)


def asked(**more: Any) -> Post:
    return Post(b"r" * 16, 1, "vault", b"", **({"unique": True} | more))


def test_a_name_that_nobody_holds() -> None:
    assert held().claim(asked(), 0.0) == (100, [])
    assert held().claim(asked(unique=False), 0.0) == (0, [])
    assert held(entry(1, unique=False)).claim(asked(unique=False), 0.0) == (0, [])


@pytest.mark.parametrize("unique", [True, False])
def test_a_name_that_somebody_holds(unique: bool) -> None:
    with pytest.raises(NameTaken, match="by a unique post"):
        held(entry(1)).claim(asked(unique=unique), 0.0)


def test_a_name_that_is_posted_by_several() -> None:
    with pytest.raises(NameTaken, match="by 2 post"):
        held(entry(1, unique=False), entry(2, unique=False)).claim(asked(), 0.0)


def test_the_secret_takes_it_over() -> None:
    ours, theirs = entry(1), entry(2, "x", generation=70)
    assert held(ours, theirs).claim(asked(secret=SECRET), 0.0) == (100, [ours])


def test_who_was_succeeded_does_not_come_back_by_the_secret() -> None:
    with pytest.raises(Displaced, match="50"):
        held(entry(1)).claim(asked(secret=SECRET, generation=40), 0.0)


def test_a_user_holds_its_own_names_only() -> None:
    """Otherwise anybody could keep a user from posting, by posting first."""
    bens = entry(1, user="ben", allow=("*",))
    names = held(bens)
    assert names.claim(asked(), 0.0)[0]
    assert names.claim(asked(user="ann", allow=("*",)), 0.0)[0]
    with pytest.raises(NameTaken):
        names.claim(asked(user="ben", allow=("*",)), 0.0)
    assert names.losers(entry(2, "x", generation=90)) == []
    assert names.losers(entry(2, "x", generation=90, user="ben")) == [bens]


def test_of_two_the_greater_generation_stays_then_the_greater_server() -> None:
    ours = entry(1)
    assert held(ours).losers(entry(2, "a")) == []
    assert held(ours).losers(entry(2, "z")) == [ours]
    assert held(ours).losers(entry(2, "a", generation=51)) == [ours]
    plain = entry(3, unique=False)
    assert held(plain).losers(entry(2, "a", unique=False)) == []
    assert held(plain).losers(entry(2, "a")) == [plain]


def test_what_ended_is_remembered() -> None:
    names = held()
    names.gone(entry(1, generation=500), 0.0)
    assert names.claim(asked(), 0.0)[0] == 501
    names.gone(entry(1, unique=False, generation=900), 0.0)
    assert names.claim(asked(), 0.0)[0] == 501


def test_only_the_hash_of_a_secret_is_kept() -> None:
    assert claim_of(asked(secret=SECRET)) == digest(SECRET)
    assert claim_of(asked()) == b""
