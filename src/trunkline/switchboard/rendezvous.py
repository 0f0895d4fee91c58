"""From a match to a connection: the peers of one client (docs/spec/switchboard.md section 6).

A rendezvous is one match being carried out. The active side dials the partner's candidates and shows the token on each
connection that opens; the passive side waits for the token among the connections that come in. Strangers, connections
that have not shown a token we know, are few and short-lived.

A rendezvous ends once: with a connection (`Ended.conn`), or with the reason why not. What that means for the request is
the client's affair.
"""

from functools import lru_cache
from typing import Any, Final

from trunkline.errors import MalformedMessage
from trunkline.meeting.dialling import Dialling, order
from trunkline.meeting.handshake import (
    ActiveHandshake,
    Broken,
    Committed,
    DialShown,
    HandshakeEvent,
    PassiveHandshake,
    PeerReady,
)
from trunkline.names import Candidate
from trunkline.switchboard.context import MATCH, Context, Timer
from trunkline.switchboard.events import PeerBind, PeerClose, PeerDial, PeerSend
from trunkline.wire.codec import decode_candidates
from trunkline.wire.messages import Matched

UNKNOWN_TOKEN: Final = 2.0
"""Seconds for which a token that we don't know is held: our server's Matched may be behind the peer's dial."""

SILENT_STRANGER: Final = 5.0
"""Seconds within which an inbound connection has to show its token."""


class Rendezvous:
    """One match being carried out."""

    __slots__ = ("chosen", "confirm_by", "datagram", "dialling", "key", "links", "origin", "told")

    def __init__(self, told: Matched, origin: int, confirm_by: float, *, datagram: bool) -> None:
        self.told = told
        """What the server said: the request, the match, the token, our side, the peer and its candidates."""
        self.key = (MATCH, told.rid + told.match)
        """The key of its timer."""
        self.origin = origin
        """The server connection on which the match was told."""
        self.datagram = datagram
        self.confirm_by = confirm_by
        """When it lapses; on the passive side, unless Ready was said."""
        self.dialling: Dialling | None = None
        self.chosen = 0
        """The connection on which Ready was said; on the passive side also while the UDP socket is being bound."""
        self.links: dict[int, ActiveHandshake | PassiveHandshake | None] = {}
        """The connections of this rendezvous; None while one is being dialled."""

    def describe(self) -> str:
        """Return how it stands, for the explanation."""
        head = f"matched with {self.told.peer!r}, but the connection is not confirmed yet"
        errors = self.dialling.errors if self.dialling is not None else []
        return f"{head} ({describe(errors)})" if errors else head

    def snapshot(self) -> tuple[Any, ...]:
        """Return the whole state."""
        return (
            self.told,
            self.datagram,
            self.origin,
            self.confirm_by,
            self.dialling.snapshot() if self.dialling else None,
            self.chosen,
            tuple((conn, shake and shake.snapshot()) for conn, shake in self.links.items()),
        )

    @classmethod
    def restored(cls, snapshot: tuple[Any, ...]) -> "Rendezvous":
        """Return what `snapshot` was taken of."""
        told, datagram, origin, confirm_by, dialling, chosen, links = snapshot
        self = cls(told, origin, confirm_by, datagram=datagram)
        self.dialling = None if dialling is None else Dialling.restored(dialling)
        self.chosen = chosen
        for conn, state in links:
            shake: ActiveHandshake | PassiveHandshake | None = None
            if state is not None:
                shake = ActiveHandshake(told.token) if told.active else PassiveHandshake()
                shake.restore(state)
            self.links[conn] = shake
        return self


class Ended:
    """A rendezvous is over."""

    __slots__ = ("conn", "rendezvous", "why")

    def __init__(self, rendezvous: Rendezvous, conn: int, why: str = "") -> None:
        self.rendezvous = rendezvous
        self.conn = conn
        """The connection that was made; 0 if it lapsed."""
        self.why = why


class Peers:
    """All connections between this client and its peers, until they are delivered."""

    __slots__ = ("_ctx", "links", "strangers", "tokens")

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self.links: dict[int, Rendezvous] = {}
        """The rendezvous of each connection that has one."""
        self.tokens: dict[bytes, Rendezvous] = {}
        """The passive ones that wait for their token."""
        self.strangers: dict[int, tuple[PassiveHandshake, DialShown | None]] = {}
        """Inbound connections without one, oldest first, with the Dial if it has come."""

    def bytes_wanted(self, conn: int) -> int:
        """How many bytes may be read from this connection now."""
        rendezvous = self.links.get(conn)
        if rendezvous is not None:
            shake = rendezvous.links[conn]
            return 0 if shake is None else shake.bytes_wanted
        stranger = self.strangers.get(conn)
        return 0 if stranger is None else stranger[0].bytes_wanted

    # ---- beginning and ending ----------------------------------------------------------------------------------

    def begin(self, rendezvous: Rendezvous, now: float) -> Ended | None:
        """Carry out a match."""
        if not rendezvous.told.active:
            return self._await(rendezvous, now)
        config = self._ctx.config
        try:
            queue = _worth_dialling(rendezvous.told.candidates, config.place)
        except MalformedMessage as error:
            return Ended(rendezvous, 0, f"the peer sent a {error}")
        if not queue:
            return Ended(rendezvous, 0, "the peer has no address that can be dialled from here")
        rendezvous.dialling = Dialling(queue, now, stagger=config.probe_stagger, timeout=config.dial_timeout)
        return self._dial(rendezvous, now)

    def close(self, rendezvous: Rendezvous, keep: int = 0) -> None:
        """Forget a rendezvous and close its connections, but for the one that is handed over."""
        self._ctx.timers.clear(rendezvous.key)
        if not rendezvous.told.active and self.tokens.get(rendezvous.told.token) is rendezvous:
            del self.tokens[rendezvous.told.token]
        for conn in rendezvous.links:
            del self.links[conn]
            if conn != keep:
                self._ctx.out.append(PeerClose(conn))
        rendezvous.links.clear()

    # ---- what the connections do -------------------------------------------------------------------------------

    def dialled(self, conn: int, now: float, *, stopped: bool) -> None:
        """Somebody connected to us: a stranger, so far."""
        if stopped:
            self._ctx.out.append(PeerClose(conn))
            return
        if len(self.strangers) >= self._ctx.config.max_strangers:
            self._refuse(next(iter(self.strangers)))
        shake = PassiveHandshake(deadline=now + SILENT_STRANGER)
        self.strangers[conn] = (shake, None)
        self._ctx.timers.set((Timer.STRANGER, conn), now + SILENT_STRANGER)

    def opened(self, conn: int, udp_port: int) -> None:
        """A dial of ours succeeded: show the token."""
        rendezvous = self.links.get(conn)
        if rendezvous is None or rendezvous.links[conn] is not None:
            return
        assert rendezvous.dialling is not None, "who has outbound connections is active"
        rendezvous.dialling.opened(conn)
        shake = ActiveHandshake(rendezvous.told.token, udp_port)
        rendezvous.links[conn] = shake
        self._ctx.out.append(PeerSend(conn, shake.data_to_send()))

    def data(self, conn: int, data: bytes, now: float) -> Ended | None:
        """Bytes came."""
        rendezvous = self.links.get(conn)
        if rendezvous is None:
            stranger = self.strangers.get(conn)
            if stranger is None:
                return None
            stranger[0].receive_data(data, now)
            self._introduce(conn, stranger[0].next_event(), now)
            return None
        shake = rendezvous.links[conn]
        if shake is None:
            return None
        shake.receive_data(data, now)
        event = shake.next_event()
        if event is None:
            return None
        if type(event) is PeerReady:
            return self._ready(rendezvous, conn, event.udp_port)
        if type(event) is Committed:
            return Ended(rendezvous, conn)
        assert isinstance(event, Broken), "a Dial is shown by strangers only"
        self._ctx.out.append(PeerClose(conn))
        return self._failed(rendezvous, conn, str(event.error), now)

    def lost(self, conn: int, reason: str, now: float) -> Ended | None:
        """A connection ended, or could not be made."""
        rendezvous = self.links.get(conn)
        if rendezvous is not None:
            return self._failed(rendezvous, conn, reason, now)
        if self.strangers.pop(conn, None) is not None:
            self._ctx.timers.clear((Timer.STRANGER, conn))
        return None

    def bound(self, conn: int, udp_port: int) -> Ended | None:
        """The UDP socket of a datagram meeting is bound and connected."""
        rendezvous = self.links.get(conn)
        if rendezvous is None or rendezvous.chosen != conn or not rendezvous.datagram:
            return None
        shake = rendezvous.links[conn]
        if isinstance(shake, ActiveHandshake):
            return self._commit(rendezvous, conn, shake)
        if isinstance(shake, PassiveHandshake) and not shake.bytes_wanted:  # that is, before Ready
            self._say_ready(rendezvous, conn, shake, udp_port)
        return None

    def match_timer(self, rendezvous: Rendezvous, now: float) -> Ended | None:
        """Dial on, or let it lapse."""
        if now >= rendezvous.confirm_by:
            waited = f"within {self._ctx.config.confirm_timeout:g} s"
            what = "the peer did not confirm" if rendezvous.told.active else "the peer did not dial"
            return Ended(rendezvous, 0, f"{what} {waited}")
        dialling = rendezvous.dialling
        assert dialling is not None, "the passive side has no other timer"
        for conn in dialling.expired(now):
            self._ctx.out.append(PeerClose(conn))
            ended = self._failed(rendezvous, conn, f"no answer within {self._ctx.config.dial_timeout:g} s", now)
            if ended is not None:
                return ended
        return self._dial(rendezvous, now)

    def close_strangers(self) -> None:
        """Close every connection that has no rendezvous."""
        for conn in list(self.strangers):
            self._refuse(conn)

    def stranger_timer(self, conn: int, now: float) -> None:
        """A stranger had its time."""
        shake, _ = self.strangers[conn]
        shake.handle_timer(now)
        self._introduce(conn, shake.next_event(), now)

    # ---- inside ------------------------------------------------------------------------------------------------

    def _dial(self, rendezvous: Rendezvous, now: float) -> Ended | None:
        dialling = rendezvous.dialling
        assert dialling is not None, "only the active side dials"
        while dialling.is_due(now):
            conn = self._ctx.new_conn()
            rendezvous.links[conn] = None
            self.links[conn] = rendezvous
            self._ctx.out.append(PeerDial(conn, dialling.dial(conn, now), rendezvous.datagram))
        if not rendezvous.links:
            return Ended(rendezvous, 0, describe(dialling.errors))
        when = dialling.next_deadline()
        confirm_by = rendezvous.confirm_by
        self._ctx.timers.set(rendezvous.key, confirm_by if when is None or when > confirm_by else when)
        return None

    def _failed(self, rendezvous: Rendezvous, conn: int, reason: str, now: float) -> Ended | None:
        del self.links[conn]
        del rendezvous.links[conn]
        if rendezvous.chosen == conn:
            return Ended(rendezvous, 0, f"the connection was lost before it was confirmed: {reason}")
        assert rendezvous.dialling is not None, "the passive side has no connection but the chosen one"
        rendezvous.dialling.failed(conn, reason, now)
        return self._dial(rendezvous, now)

    def _ready(self, rendezvous: Rendezvous, conn: int, udp_port: int) -> Ended | None:
        shake = rendezvous.links[conn]
        assert isinstance(shake, ActiveHandshake), "Ready is said to the active side"
        if len(rendezvous.links) > 1:
            for other in [other for other in rendezvous.links if other != conn]:
                del self.links[other]
                del rendezvous.links[other]
                self._ctx.out.append(PeerClose(other))
        rendezvous.chosen = conn
        if rendezvous.datagram:
            self._ctx.timers.set(rendezvous.key, rendezvous.confirm_by)
            rendezvous.dialling = None
            self._ctx.out.append(PeerBind(conn, udp_port))
            return None
        return self._commit(rendezvous, conn, shake)

    def _commit(self, rendezvous: Rendezvous, conn: int, shake: ActiveHandshake) -> Ended:
        shake.send_commit()
        self._ctx.out.append(PeerSend(conn, shake.data_to_send()))
        return Ended(rendezvous, conn)

    def _await(self, rendezvous: Rendezvous, now: float) -> Ended | None:
        if rendezvous.told.token in self.tokens:
            return Ended(rendezvous, 0, "the server gave the token of another match")
        self.tokens[rendezvous.told.token] = rendezvous
        self._ctx.timers.set(rendezvous.key, rendezvous.confirm_by)
        for conn, (_, shown) in list(self.strangers.items()):
            if shown is not None and shown.token == rendezvous.told.token:
                self._introduce(conn, shown, now)
        return None

    def _introduce(self, conn: int, event: HandshakeEvent | None, now: float) -> None:
        if event is None:
            return
        if not isinstance(event, DialShown):
            self._refuse(conn)
            return
        rendezvous = self.tokens.get(event.token)
        if rendezvous is None:
            shake = self.strangers[conn][0]
            shake.deadline = now + UNKNOWN_TOKEN
            self.strangers[conn] = (shake, event)
            self._ctx.timers.set((Timer.STRANGER, conn), now + UNKNOWN_TOKEN)
            return
        if rendezvous.chosen:
            self._refuse(conn)  # Ready is said once for a match: see S1
            return
        shake, _ = self.strangers.pop(conn)
        self._ctx.timers.clear((Timer.STRANGER, conn))
        rendezvous.chosen = conn
        rendezvous.links[conn] = shake
        self.links[conn] = rendezvous
        if rendezvous.datagram:
            self._ctx.out.append(PeerBind(conn, event.udp_port))
        else:
            self._say_ready(rendezvous, conn, shake, 0)

    def _say_ready(self, rendezvous: Rendezvous, conn: int, shake: PassiveHandshake, udp_port: int) -> None:
        # From here on the active side may have returned, so only its EOF or our caller ends this (S1).
        shake.send_ready(udp_port)
        shake.deadline = None
        self._ctx.timers.clear(rendezvous.key)
        self._ctx.out.append(PeerSend(conn, shake.data_to_send()))

    def _refuse(self, conn: int) -> None:
        del self.strangers[conn]
        self._ctx.timers.clear((Timer.STRANGER, conn))
        self._ctx.out.append(PeerClose(conn))

    def snapshot(self) -> tuple[Any, ...]:
        """Return the strangers; the rest is in the snapshots of the rendezvous."""
        return tuple((conn, shake.snapshot(), shown) for conn, (shake, shown) in self.strangers.items())

    def restore(self, snapshot: tuple[Any, ...], rendezvous: list[Rendezvous]) -> None:
        """Become what `snapshot` was taken of."""
        self.strangers = {}
        for conn, state, shown in snapshot:
            shake = PassiveHandshake()
            shake.restore(state)
            self.strangers[conn] = (shake, shown)
        self.links = {conn: each for each in rendezvous for conn in each.links}
        self.tokens = {each.told.token: each for each in rendezvous if not each.told.active}


@lru_cache(maxsize=64)
def _worth_dialling(candidates: bytes, place: bytes) -> tuple[Candidate, ...]:
    # Kept: whoever is met once is often met again, and is where it was.
    return order(decode_candidates(candidates), place)


def describe(errors: list[tuple[Candidate, str]]) -> str:
    """Return what dialling came to, for people."""
    return "; ".join(f"{candidate}: {reason}" for candidate, reason in errors) or "no candidate could be dialled"
