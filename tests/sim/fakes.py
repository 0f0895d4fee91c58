"""A client of forty lines: it lodges with its first server only, and retries nothing. For tests of the world itself."""

from collections.abc import Hashable

from trunkline.names import Peer
from trunkline.switchboard import events as ev
from trunkline.switchboard.config import ClientConfig
from trunkline.wire import messages as msg
from trunkline.wire.codec import decode_candidates


class FakeClient:
    """Meets, the simplest way that works while nothing goes wrong."""

    def __init__(self, config: ClientConfig, *, seed: bytes, now: float) -> None:
        self.config = config
        self.wanted: tuple[ev.MeetWanted, ...] = ()
        self.server = 0
        self.count = 0
        self.matches: dict[bytes, msg.Matched] = {}
        self.stages: dict[int, tuple[str, bytes]] = {}

    def snapshot(self) -> Hashable:
        return (
            self.wanted,
            self.server,
            self.count,
            tuple(sorted(self.matches.items())),
            tuple(sorted(self.stages.items())),
        )

    def restore(self, snapshot: Hashable) -> None:
        self.wanted, self.server, self.count, matches, stages = snapshot  # type: ignore[misc]
        self.matches = dict(matches)
        self.stages = dict(stages)

    def next_deadline(self) -> float | None:
        return None

    def bytes_wanted(self, conn: int) -> int:
        return {"dialled": 26, "shown": 10, "ready": 8}.get(self.stages.get(conn, ("", b""))[0], 0)

    def step(self, event: ev.ClientEvent, now: float) -> list[ev.ClientEffect]:
        match event:
            case ev.MeetWanted():
                self.wanted = (*self.wanted, event)
                if self.server:
                    return []
                self.server = self.count = 1
                return [ev.Dial(self.server, self.config.servers[0])]
            case ev.Opened():
                meets = [msg.Meet(w.rid, 1, w.me, w.you, w.candidates) for w in self.wanted]
                return [ev.Send(event.conn, m) for m in (msg.Hello("fake"), *meets)]
            case ev.Received(message=msg.Matched() as matched):
                self.matches[matched.token] = matched
                if not matched.active:
                    # Its dial may have come before this, and even its commit is only read once we said ready.
                    early = [c for c, (stage, t) in self.stages.items() if stage == "early" and t == matched.token]
                    return [effect for conn in early for effect in self._ready(conn, matched.token)]
                self.count += 1
                self.stages[self.count] = ("dial", matched.token)
                return [ev.PeerDial(self.count, decode_candidates(matched.candidates).at[0])]
            case ev.PeerDialled():
                self.stages[event.conn] = ("dialled", b"")
            case ev.PeerOpened():
                token = self.stages[event.conn][1]
                self.stages[event.conn] = ("shown", token)
                return [ev.PeerSend(event.conn, b"TRUNKD/1" + token + bytes(2))]
            case ev.PeerData():
                return self._bytes(event.conn, event.data)
            case _:
                pass
        return []

    def _bytes(self, conn: int, data: bytes) -> list[ev.ClientEffect]:
        stage, token = self.stages.pop(conn)
        if stage == "dialled":
            if data[8:24] in self.matches:
                return self._ready(conn, data[8:24])
            self.stages[conn] = ("early", data[8:24])
            return []
        matched = self.matches[token]
        given = ev.Delivered(matched.rid, conn, Peer(matched.peer, match=matched.match.hex()))
        return [ev.PeerSend(conn, b"TRUNKC/1"), given] if stage == "shown" else [given]

    def _ready(self, conn: int, token: bytes) -> list[ev.ClientEffect]:
        self.stages[conn] = ("ready", token)
        return [ev.PeerSend(conn, b"TRUNKR/1" + bytes(2))]
