"""Why does a meeting not come about? What the table says of it (docs/spec/switchboard.md section 8).

Only what the asker may know: what is posted, which anybody may list; and who waits for the asker's own name.
"""

from typing import Final

from trunkline.switchboard.table import PostEntry, State, Table

MAX_SCAN: Final = 5000
"""Most names that one question looks at: some milliseconds."""

MAX_LINES: Final = 12


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


def explain(table: Table, me: str, you: str, *, datagram: bool) -> list[str]:
    """Return a line for each thing that may be the reason why meet(me, you) waits."""
    lines = [*_posts(table, you, datagram=datagram), *_meets(table, me, you, datagram=datagram)]
    if not lines:
        lines.append(f"nobody has posted {you!r}, and nobody waits under that name for {me!r}")
    lines += _lookalikes(table, me, you, datagram=datagram)
    return lines[:MAX_LINES]


def _posts(table: Table, you: str, *, datagram: bool) -> list[str]:
    pool = table.pool(you, datagram)
    if pool and not any(post.has_room for post in pool):
        waiting = sum(post.load for post in pool)
        return [f"{you!r} is posted, but it is not accepting: {waiting} connections wait for it already"]
    if pool:
        return [f"{you!r} is posted: a meeting with it is being made, or its process could not be reached"]
    if table.pool(you, not datagram):
        return [f"{you!r} is posted, but for {_kind(not datagram)}, and you ask for {_kind(datagram)}"]
    return []


def _meets(table: Table, me: str, you: str, *, datagram: bool) -> list[str]:
    lines = []
    waiting_for_me = table.seekers(me, datagram)
    if any(entry.me == you for entry in waiting_for_me):
        lines.append(f"{you!r} waits for {me!r}: a meeting is being made, or the two could not reach each other")
    if any(entry.me == you for entry in table.seekers(me, not datagram)):
        lines.append(f"{you!r} waits for {me!r}, but for {_kind(not datagram)}, and you ask for {_kind(datagram)}")
    same = [entry for entry in table.seekers(you, datagram) if entry.me == me and entry.state is not State.GONE]
    if len(same) > 1:
        lines.append(f"{len(same)} requests of {me!r} for {you!r} wait; they are served in order of arrival")
    return lines


def _lookalikes(table: Table, me: str, you: str, *, datagram: bool) -> list[str]:
    lines = []
    for name, kind in table.posted_names(MAX_SCAN):
        how = resembles(name, you)
        if how and kind == datagram:
            lines.append(f"{name!r} is posted; it differs from {you!r} {how}")
    for entry in table.seekers(me, datagram)[:MAX_SCAN]:
        how = resembles(entry.me, you)
        if how:
            lines.append(f"{entry.me!r} waits for {me!r}; it differs from {you!r} {how}")
    for entry in table.waiting_as(you, datagram, MAX_SCAN):
        how = resembles(entry.you, me)
        if how and not isinstance(entry, PostEntry):
            lines.append(f"{you!r} waits for {entry.you!r}; that differs from {me!r} {how}")
    return lines


def _kind(datagram: bool) -> str:
    return "datagrams" if datagram else "a stream"
