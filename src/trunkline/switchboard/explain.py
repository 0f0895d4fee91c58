"""Why does a meeting not come about? What the table says of it (docs/spec/switchboard.md section 8).

Only what the asker may know: what is posted, which anybody may list; and who waits for the asker's own name.
"""

import itertools
from collections.abc import Callable
from typing import Final

from trunkline.switchboard.entries import Entry, PostEntry, State, allows, shuns
from trunkline.switchboard.table import Table
from trunkline.wire.messages import Explain

MAX_SCAN: Final = 5000
"""Most names that one question looks at: some milliseconds."""

MAX_LINES: Final = 12

MAX_OTHERS: Final = 4
"""Most other users that are told of."""


def resembles(a: str, b: str) -> str:
    """Say how two different names resemble each other: '' if they don't.

    Case, or one character more, less, other, or two swapped.
    """
    if a == b:
        return ""
    if a.casefold() == b.casefold():
        return "by case only"
    shorter, longer = sorted((a, b), key=len)
    if len(longer) - len(shorter) > 1:
        return ""
    at = next((i for i, (x, y) in enumerate(zip(shorter, longer, strict=False)) if x != y), len(shorter))
    if len(longer) > len(shorter):
        return "by one character" if shorter[at:] == longer[at + 1 :] else ""
    if shorter[at + 1 :] == longer[at + 1 :]:
        return "by one character"
    swapped = shorter[:at] + shorter[at + 1 : at + 2] + shorter[at : at + 1] + shorter[at + 2 :]
    return "by two characters swapped" if swapped == longer else ""


def explain(table: Table, ask: Explain, sees: Callable[[str], bool]) -> list[str]:
    """Return a line for each thing that may be the reason why meet(me, you) waits.

    Args:
        table: what is lodged.
        ask: the question; its asker may meet ``you`` as ``me``.
        sees: whether the asker may know of another name.
    """
    own = (ask.user, ask.peer_user)
    mine = [entry for entry in table.seekers(ask.you, ask.datagram) if entry.me == ask.me and _users(entry) == own]
    lines = [*_posts(table, ask, mine), *_meets(table, ask, mine)]
    if not lines:
        lines.append(f"nobody has posted {ask.you!r}, and nobody waits under that name for {ask.me!r}")
    lines += _lookalikes(table, ask, sees)
    return lines[:MAX_LINES]


def _posts(table: Table, ask: Explain, mine: list[Entry]) -> list[str]:
    you = ask.you
    pool = table.pool(you, ask.datagram, ask.peer_user)
    if pool:
        return [_pool(pool, ask, mine)]
    others = itertools.islice(table.pools(you, ask.datagram), MAX_OTHERS)
    lines = [f"{you!r} is posted {_by(each[0].user)}, and you ask for {_one_by(ask.peer_user)}" for each in others]
    if not lines and any(table.pools(you, not ask.datagram)):
        return [f"{you!r} is posted, but for {_kind(not ask.datagram)}, and you ask for {_kind(ask.datagram)}"]
    return lines


def _pool(pool: list[PostEntry], ask: Explain, mine: list[Entry]) -> str:
    posted = f"{ask.you!r} is posted"
    if ask.user:
        pool = [post for post in pool if allows(post, ask.user)]
        if not pool:
            return f"{posted} by the user {ask.peer_user!r}, but the user {ask.user!r} is not allowed to meet it"
        if mine and all(shuns(mine[0], post.rid) for post in pool):
            return f"{posted}, but {_failed(ask)}"
    if not any(post.has_room for post in pool):
        waiting = sum(post.load for post in pool)
        return f"{posted}, but it is not accepting: {waiting} connections wait for it already"
    return f"{posted}: a meeting with it is being made, or its process could not be reached"


def _meets(table: Table, ask: Explain, mine: list[Entry]) -> list[str]:
    me, you = ask.me, ask.you
    lines = []
    waiting = [entry for entry in table.seekers(me, ask.datagram) if entry.me == you]
    agreed = [entry for entry in waiting if _users(entry) == (ask.peer_user, ask.user)]
    if agreed and mine and all(shuns(mine[0], entry.rid) or shuns(entry, mine[0].rid) for entry in agreed):
        lines.append(f"{you!r} waits for {me!r}, but {_failed(ask)}")
    elif agreed:
        lines.append(f"{you!r} waits for {me!r}: a meeting is being made, or the two could not reach each other")
    others = {_users(entry): None for entry in waiting if _users(entry) != (ask.peer_user, ask.user)}
    for user, peer_user in itertools.islice(others, MAX_OTHERS):
        theirs = f"as the user {user!r}, for the user {peer_user!r}" if user else "for a plain meeting"
        ours = f"are {ask.user!r} and ask for {ask.peer_user!r}" if ask.user else "ask for a plain meeting"
        lines.append(f"{you!r} waits for {me!r} {theirs}, and you {ours}")
    if any(entry.me == you for entry in table.seekers(me, not ask.datagram)):
        lines.append(
            f"{you!r} waits for {me!r}, but for {_kind(not ask.datagram)}, and you ask for {_kind(ask.datagram)}"
        )
    same = [entry for entry in mine if entry.state is not State.GONE]
    if len(same) > 1:
        lines.append(f"{len(same)} requests of {me!r} for {you!r} wait; they are served in order of arrival")
    return lines


def _lookalikes(table: Table, ask: Explain, sees: Callable[[str], bool]) -> list[str]:
    me, you = ask.me, ask.you
    lines = []
    for name, datagram, _ in table.posted_names(MAX_SCAN):
        how = resembles(name, you)
        if how and datagram == ask.datagram and sees(name):
            lines.append(f"{name!r} is posted; it differs from {you!r} {how}")
    for entry in table.seekers(me, ask.datagram)[:MAX_SCAN]:
        how = resembles(entry.me, you)
        if how and sees(entry.me):
            lines.append(f"{entry.me!r} waits for {me!r}; it differs from {you!r} {how}")
    for entry in table.waiting_as(you, ask.datagram, MAX_SCAN):
        how = resembles(entry.you, me)
        if how and sees(entry.you):
            lines.append(f"{you!r} waits for {entry.you!r}; that differs from {me!r} {how}")
    return list(dict.fromkeys(lines))  # a name that several users have posted is one line


def _users(entry: Entry) -> tuple[str, str]:
    return entry.user, entry.peer_user


def _by(user: str) -> str:
    return f"by the user {user!r}" if user else "for plain meetings"


def _one_by(user: str) -> str:
    return f"one by the user {user!r}" if user else "a plain one"


def _failed(ask: Explain) -> str:
    return f"authentication with it failed (is it the user {ask.peer_user!r}?), and it is not matched with you again"


def _kind(datagram: bool) -> str:
    return "datagrams" if datagram else "a stream"
