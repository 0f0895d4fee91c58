"""What an asker is told about why a meeting does not come about, and what not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.switchboard.entries import Entry, PostEntry, handle
from trunkline.switchboard.explain import explain as explained
from trunkline.switchboard.explain import resembles
from trunkline.switchboard.table import Table
from trunkline.wire.messages import Explain


@pytest.mark.parametrize(
    ("a", "b", "how"),
    [
        ("printer", "Printer", "by case only"),
        ("printer", "printe", "by one character"),
        ("printer", "prinker", "by one character"),
        ("printer", "sprinter", "by one character"),
        ("printer", "pritner", "by two characters swapped"),
        ("printer", "plotter", ""),
        ("printer", "printer", ""),
        ("", "a", "by one character"),
    ],
)
def test_resembles(a: str, b: str, how: str) -> None:
    assert resembles(a, b) == how
    assert resembles(b, a) == how


@given(st.text(min_size=1), st.integers(0, 50), st.characters())
def test_one_edit_always_resembles(name: str, at: int, extra: str) -> None:
    at %= len(name) + 1
    assert resembles(name, name[:at] + extra + name[at:])
    shorter = name[: at - 1] + name[at:] if at else name[1:]
    assert resembles(name, shorter)


def explain(table: Table, me: str, you: str, *, datagram: bool, user: str = "", peer_user: str = "") -> list[str]:
    return explained(table, Explain(1, me, you, datagram, user, peer_user), lambda name: "hidden" not in name)


def table_with(*entries: Entry) -> Table:
    table = Table()
    for entry in entries:
        table.add(entry)
    return table


def meet(rid: int, me: str, you: str, datagram: bool = False, **users: Any) -> Entry:
    return Entry(bytes([rid]) * 16, 1, me, you, b"", datagram, "", 1, 0.0, **users)


def post(rid: int, name: str, datagram: bool = False, backlog: int = 5, **users: Any) -> PostEntry:
    return PostEntry(
        bytes([rid]) * 16,
        1,
        name,
        b"",
        datagram,
        "",
        1,
        0.0,
        backlog=backlog,
        unique=False,
        claim=b"",
        generation=0,
        **users,
    )


def test_nobody_there() -> None:
    assert explain(Table(), "ann", "ben", datagram=False) == [
        "nobody has posted 'ben', and nobody waits under that name for 'ann'"
    ]


def test_wrong_kind() -> None:
    (line,) = explain(table_with(post(1, "ben", datagram=True)), "ann", "ben", datagram=False)
    assert "datagrams" in line
    (line,) = explain(table_with(meet(1, "ben", "ann")), "ann", "ben", datagram=True)
    assert "a stream" in line


def test_post_that_does_not_accept() -> None:
    full = post(1, "ben", backlog=1)
    full.matched = 1
    (line,) = explain(table_with(full), "ann", "ben", datagram=False)
    assert "not accepting" in line


def test_lookalikes() -> None:
    lines = "\n".join(
        explain(
            table_with(post(1, "Ben"), meet(2, "bin", "ann"), meet(3, "ben", "anne")),
            "ann",
            "ben",
            datagram=False,
        )
    )
    assert "'Ben' is posted" in lines
    assert "'bin' waits for 'ann'" in lines
    assert "'ben' waits for 'anne'" in lines


def test_lookalikes_that_the_asker_may_not_see_are_not_told() -> None:
    table = table_with(post(1, "hidden"), meet(2, "hiddens", "ann"), meet(3, "hidde", "hidden"))
    assert not any("hidden'" in line for line in explain(table, "hidden1", "hidde", datagram=False)[1:])


def test_others_business_is_not_told() -> None:
    lines = "\n".join(explain(table_with(meet(1, "ben", "carl")), "ann", "ben", datagram=False))
    assert "carl" not in lines


def test_a_queue_of_the_same_pair() -> None:
    lines = explain(table_with(meet(1, "ann", "ben"), meet(2, "ann", "ben")), "ann", "ben", datagram=False)
    assert any(line.startswith("2 requests") for line in lines)


SECURE: dict[str, Any] = {"datagram": False, "user": "ann", "peer_user": "ben"}


@pytest.mark.parametrize(
    ("there", "asked", "line"),
    [
        (
            post(1, "b", user="eve", allow=("*",)),
            SECURE,
            "'b' is posted by the user 'eve', and you ask for one by the user 'ben'",
        ),
        (post(1, "b"), SECURE, "'b' is posted for plain meetings, and you ask for one by the user 'ben'"),
        (
            post(1, "b", user="ben", allow=("*",)),
            {"datagram": False},
            "'b' is posted by the user 'ben', and you ask for a plain one",
        ),
        (
            post(1, "b", user="ben", allow=("zoe",)),
            SECURE,
            "'b' is posted by the user 'ben', but the user 'ann' is not allowed to meet it",
        ),
        (
            meet(1, "b", "a", user="eve", peer_user="ann"),
            SECURE,
            "'b' waits for 'a' as the user 'eve', for the user 'ann', and you are 'ann' and ask for 'ben'",
        ),
        (
            meet(1, "b", "a"),
            SECURE,
            "'b' waits for 'a' for a plain meeting, and you are 'ann' and ask for 'ben'",
        ),
        (
            meet(1, "b", "a", user="ben", peer_user="ann"),
            {"datagram": False},
            "'b' waits for 'a' as the user 'ben', for the user 'ann', and you ask for a plain meeting",
        ),
        (
            meet(1, "b", "a", user="ben", peer_user="ann"),
            SECURE,
            "'b' waits for 'a': a meeting is being made, or the two could not reach each other",
        ),
    ],
)
def test_users(there: Entry, asked: dict[str, Any], line: str) -> None:
    assert explain(table_with(there), "a", "b", **asked) == [line]


@pytest.mark.parametrize(
    "there", [post(1, "b", user="ben", allow=("ann",)), meet(1, "b", "a", user="ben", peer_user="ann")]
)
def test_what_is_avoided(there: Entry) -> None:
    mine = meet(2, "a", "b", user="ann", peer_user="ben", avoid=(handle(there.rid),))
    (line,) = explain(table_with(there, mine), "a", "b", **SECURE)
    assert "authentication with it failed" in line
    assert "not matched with you again" in line


def test_a_lookalike_of_several_users_is_one_line() -> None:
    lines = explain(
        table_with(post(1, "B", user="ben", allow=("*",)), post(2, "B", user="eve", allow=("*",))), "a", "b", **SECURE
    )
    assert len([line for line in lines if "'B' is posted" in line]) == 1
