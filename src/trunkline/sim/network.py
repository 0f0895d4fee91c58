"""A simulated world's network: connections of two pipes, each a queue in order (docs/spec/switchboard.md section 12).

What can happen to a connection is what can happen to TCP. Inside a living one nothing is lost, doubled or reordered.
A connection that breaks loses, in each direction on its own, some suffix of what was under way; each side learns of it
at its own time, and one side may have made a new connection before the other has read the last of the old one. So a
broken pipe keeps its items, and may *end* before any of them: that is one choice per item, made as late as possible,
and covers every suffix without listing them when the break happens.

A pipe is named by an even (towards the side that was dialled) or odd (towards the dialler) number; the other direction
is one bit away. No pipe under a number: that side reads no more.
"""

from typing import Final

import msgspec

MACHINE: Final = 0
"""The pipe is read by the machine that it leads to."""
USER: Final = 1
"""The connection was delivered: the pipe is read by the user."""

OPENED: Final = 0
"""The item that stands for the connection being there. Other items are numbers of the world's codebook."""
CLOSED: Final = 1
"""The item behind which nothing comes: the other side closed in good order."""

SITES: Final = 256
"""Most sites of a world; with the bounds below, what a connection's number is made of."""
INCARNATIONS: Final = 64
DIALS: Final = 1 << 24


class Pipe(msgspec.Struct, frozen=True, gc=False):
    """One direction of a connection."""

    site: int
    """Where it leads."""
    conn: int
    """What the machine there calls the connection."""
    items: tuple[int, ...]
    reader: int
    peer: bool
    """Between two clients: the items are bytes. Otherwise they are messages."""
    broken: bool


def number(site: int, incarnation: int, conn: int) -> int:
    """Return the number of the connection that a machine dials as ``conn``: the same whatever happened elsewhere."""
    assert 0 < conn < DIALS, f"a machine's own connections are positive: {conn}"
    return (conn * INCARNATIONS + incarnation) * SITES + site + 1


class Network:
    """The pipes of a world, and the links that are cut. Cheap to copy: the explorer does so for each step."""

    __slots__ = ("cuts", "pipes")

    def __init__(self, pipes: dict[int, Pipe], cuts: frozenset[tuple[int, int]]) -> None:
        self.pipes = pipes
        self.cuts = cuts

    def copy(self) -> "Network":
        return Network(self.pipes.copy(), self.cuts)

    def key(self) -> tuple[object, ...]:
        """Return what tells this network from others."""
        pipes = self.pipes
        return (self.cuts, *((name, pipes[name]) for name in sorted(pipes)))

    def is_cut(self, one: int, other: int) -> bool:
        return bool(self.cuts) and (min(one, other), max(one, other)) in self.cuts

    # ---- what machines do ----------------------------------------------------------------------------------

    def dial(self, site: int, incarnation: int, conn: int, target: int | None, peer: bool) -> tuple[int, ...]:
        """Open a connection; without a target, or over a cut link, it will be lost. Return the pipes that have news."""
        base = number(site, incarnation, conn) * 2
        assert base + 1 not in self.pipes, f"connection {conn} of site {site} is used twice"
        if target is None or self.is_cut(site, target):
            self.pipes[base + 1] = Pipe(site, conn, (), MACHINE, peer, True)
            return (base + 1,)
        self.pipes[base] = Pipe(target, -(base // 2), (OPENED,), MACHINE, peer, False)
        self.pipes[base + 1] = Pipe(site, conn, (OPENED,), MACHINE, peer, False)
        return (base, base + 1)

    @staticmethod
    def towards(site: int, incarnation: int, conn: int) -> int:
        """Return the pipe that leads to ``site`` on the connection it calls ``conn``."""
        return number(site, incarnation, conn) * 2 + 1 if conn > 0 else -conn * 2

    def send(self, inbound: int, item: int) -> int:
        """Send on the connection whose other direction is ``inbound``; return the pipe that has news, or -1."""
        name = inbound ^ 1
        pipe = self.pipes.get(name)
        if pipe is None or pipe.broken or inbound not in self.pipes:
            return -1  # swallowed: the connection is gone, whether the sender knows it or not
        if pipe.items and pipe.items[-1] == CLOSED:
            return -1
        self.pipes[name] = Pipe(pipe.site, pipe.conn, (*pipe.items, item), pipe.reader, pipe.peer, False)
        return name

    def close(self, inbound: int) -> int:
        """The reader of ``inbound`` closes the connection; return the pipe that has news, or -1."""
        name = self.send(inbound, CLOSED)
        self.pipes.pop(inbound, None)
        return name

    def give(self, inbound: int) -> bool:
        """Hand the connection to the user; return False if it is gone."""
        pipe = self.pipes.get(inbound)
        if pipe is None:
            return False
        self.pipes[inbound] = Pipe(pipe.site, pipe.conn, pipe.items, USER, pipe.peer, pipe.broken)
        return True

    # ---- what happens to them ------------------------------------------------------------------------------

    def take(self, name: int) -> int:
        """Take the first item out of a pipe."""
        pipe = self.pipes[name]
        item = pipe.items[0]
        if item == CLOSED:
            del self.pipes[name]
        else:
            self.pipes[name] = Pipe(pipe.site, pipe.conn, pipe.items[1:], pipe.reader, pipe.peer, pipe.broken)
        return item

    def put_back(self, name: int, item: int) -> None:
        """Put the rest of an item before the others: less was read than had come."""
        pipe = self.pipes[name]
        self.pipes[name] = Pipe(pipe.site, pipe.conn, (item, *pipe.items), pipe.reader, pipe.peer, pipe.broken)

    def end(self, name: int) -> None:
        """A broken pipe ends here: what was left in it is lost."""
        assert self.pipes[name].broken
        del self.pipes[name]

    def break_pipe(self, name: int) -> None:
        pipe = self.pipes.get(name)
        if pipe is not None and not pipe.broken:
            self.pipes[name] = Pipe(pipe.site, pipe.conn, pipe.items, pipe.reader, pipe.peer, True)

    def lose(self, name: int) -> tuple[int, ...]:
        """Break a connection; return its pipes."""
        self.break_pipe(name)
        self.break_pipe(name ^ 1)
        return tuple(end for end in (name, name ^ 1) if end in self.pipes)

    def crash(self, site: int) -> tuple[int, ...]:
        """A site is gone with all its ends; return the pipes that have news."""
        mine = [name for name, pipe in self.pipes.items() if pipe.site == site]
        news = []
        for name in mine:
            del self.pipes[name]
            self.break_pipe(name ^ 1)
            if name ^ 1 in self.pipes:
                news.append(name ^ 1)
        return tuple(news)

    def cut(self, one: int, other: int) -> tuple[int, ...]:
        """Cut the link between two sites: what goes over it breaks, and dials fail; return the pipes that have news."""
        self.cuts |= {(min(one, other), max(one, other))}
        news: list[int] = []
        for name, pipe in list(self.pipes.items()):
            mate = self.pipes.get(name ^ 1)
            if mate is not None and {pipe.site, mate.site} == {one, other}:
                self.break_pipe(name)
                news.append(name)
        return tuple(news)

    def heal(self, one: int, other: int) -> None:
        self.cuts -= {(min(one, other), max(one, other))}
