"""Rules broken on purpose: each is caught by the explorer, and named with the invariant that tells.

A checker that never complained is not known to check. Each rule here is one change to a machine that somebody could
make in good faith; `tests/sim/test_broken.py` shows that the worlds notice, and how soon.
"""

from typing import Any, Final

import msgspec

from trunkline.sim.engine import Cast
from trunkline.switchboard.client import Client
from trunkline.switchboard.entries import State
from trunkline.switchboard.matcher import Matcher
from trunkline.switchboard.rendezvous import Peers
from trunkline.switchboard.server import Server
from trunkline.wire.messages import Elsewhere, Granted, Matched, Propose, Removed


class BrokenRule(msgspec.Struct, frozen=True):
    """One broken rule, and where it shows."""

    rule: str
    """What is not done as it should be."""
    invariant: str
    world: str
    cast: Cast
    faults: int = 0
    kinds: tuple[str, ...] = ("crash", "lose")


# ---- servers ---------------------------------------------------------------------------------------------------


class _NoArbitration(Matcher):
    """Grants a proposal for an entry that it has proposed itself, and keeps its own proposal."""

    def propose(self, mate: str, message: Propose, now: float) -> None:
        entry = self.table.own.get(message.target)
        if entry is None or entry.n != message.target_n or entry.state is not State.RESERVED:
            super().propose(mate, message, now)
            return
        told = (entry.rid, entry.n, message.match, message.token, not message.active, message.me, message.candidates)
        self._send(entry.conn, Matched(*told))
        self._send(self._mates.links[mate], Granted(message.match))


class _NobodyProposes(Matcher):
    """Waits for the other server to propose when two entries were propagated and crossed."""

    def _answer(self, theirs: Any) -> None:
        pass


class _KeepsReserved(Matcher):
    """Leaves an entry reserved when the server that it was proposed to is lost."""

    def _release(self, entry: Any, now: float, *, upwards: bool = True) -> None:
        pass


class _NonOwnerRemoves(Matcher):
    """Believes anybody who says that an entry is gone, whoever owns it."""

    def removed(self, mate: str, removals: Any, now: float) -> None:
        for removal in removals:
            for entry in self.table.attempts(removal.rid):
                if entry.owner:
                    self.table.remove(entry)
                else:
                    self._forget(entry)


class _KeepsLostClients(Matcher):
    """Leaves the entries of a client that is lost on the table."""

    def client_lost(self, conn: int, now: float) -> None:
        pass


class _SilentRemoval(Matcher):
    """Removes its entries, and does not tell the others."""

    def _tell_mates(self, message: Any, but: str = "") -> None:
        if not isinstance(message, Removed):
            super()._tell_mates(message, but)


class _HastyRemoval(Matcher):
    """Says at once what could wait for the next heartbeat."""

    def _remove_lazily(self, removal: Any, now: float) -> None:
        self._tell_mates(Removed((removal,)))


def _server(matcher: type[Matcher]) -> Cast:
    class _Server(Server):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._matcher.__class__ = matcher

    return Cast(server=_Server)


# ---- clients ---------------------------------------------------------------------------------------------------


class _AnyToken(Peers):
    """Says Ready to whoever dials while a match waits, whatever token is shown."""

    __slots__ = ()

    def _introduce(self, conn: int, event: Any, now: float) -> None:
        token = getattr(event, "token", None)
        if token is not None and token not in self.tokens and self.tokens:
            event = msgspec.structs.replace(event, token=next(iter(self.tokens)))
        super()._introduce(conn, event, now)


class _AnyTokenClient(Client):
    __slots__ = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._peers.__class__ = _AnyToken


class _StaysHome(Client):
    """Does not lodge elsewhere when its server misses a mate."""

    __slots__ = ()

    def step(self, event: Any, now: float) -> Any:
        if isinstance(getattr(event, "message", None), Elsewhere):
            return []
        return super().step(event, now)


BROKEN: Final[dict[str, BrokenRule]] = {
    "any-token": BrokenRule(
        rule="a passive side takes any token", invariant="S1", world="e", cast=Cast(client=_AnyTokenClient)
    ),
    "no-arbitration": BrokenRule(
        rule="a reserved entry is granted as if it were free", invariant="S2", world="c", cast=_server(_NoArbitration)
    ),
    "nobody-proposes": BrokenRule(
        rule="when two entries cross, neither server proposes", invariant="S3", world="a", cast=_server(_NobodyProposes)
    ),
    "keeps-reserved": BrokenRule(
        rule="an entry stays reserved when the proposal came to nothing",
        invariant="S3",
        world="a",
        cast=_server(_KeepsReserved),
        faults=1,
    ),
    "non-owner-removes": BrokenRule(
        rule="an entry is removed on the word of a server that does not own it",
        invariant="S3",
        world="a",
        cast=_server(_NonOwnerRemoves),
        faults=1,
        kinds=("lose",),
    ),
    "stays-home": BrokenRule(
        rule="a client does not lodge elsewhere when its server misses a mate",
        invariant="S3",
        world="d",
        cast=Cast(client=_StaysHome),
    ),
    "keeps-lost-clients": BrokenRule(
        rule="the entries of a client that is lost stay",
        invariant="S4",
        world="a",
        cast=_server(_KeepsLostClients),
        faults=1,
    ),
    "silent-removal": BrokenRule(
        rule="a removal is not announced", invariant="S4", world="a", cast=_server(_SilentRemoval), faults=1
    ),
    "hasty-removal": BrokenRule(
        rule="a removal that could wait for a heartbeat is sent at once",
        invariant="S5",
        world="budget-3",
        cast=_server(_HastyRemoval),
    ),
}
"""Short name -> rule."""
