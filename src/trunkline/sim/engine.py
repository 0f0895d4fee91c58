"""How a world runs its machines: live ones for long runs, remembered steps for exploring.

A world sees a machine as a *state* and steps it with small keys; what the machine wants done comes back as small
tuples. Messages, bytes and events stand in a codebook, and are numbers elsewhere: cheap to compare, hash and copy.

`Live` keeps a machine per site: the state is the machine. `Memo` is for the explorer: a state is the number of a
snapshot, and a step that was made once (same snapshot, event and time) is not made again, because most orders of
deliveries lead one machine through the same few steps. A machine is a function of its snapshot, its input and the
time; `Memo` relies on that and checks it as it goes (`restore` must give back the snapshot).
"""

import traceback
from collections.abc import Callable
from typing import Any, Final

import msgspec

from trunkline.names import Address, digest
from trunkline.sim.invariants import MACHINE_FAULT, Violation
from trunkline.sim.network import CLOSED, OPENED
from trunkline.sim.worlds import Spec
from trunkline.switchboard import events as ev
from trunkline.switchboard.client import Client
from trunkline.switchboard.config import ClientConfig, ServerConfig
from trunkline.switchboard.server import Server
from trunkline.wire import messages as msg

EPOCH: Final = 1_700_000_000.0
"""The wall clock of a world, in seconds, when its own clock says 0."""

# What is done to a machine: (kind, connection, item).
TAKE: Final = 0
PEER_TAKE: Final = 1
LOST: Final = 2
TICK: Final = 3
STOP: Final = 4
LOCAL: Final = 5
START: Final = 6
BOUND: Final = 7

# What a machine wants done: (kind, connection, what).
SEND: Final = 0
CLOSE: Final = 1
DIAL: Final = 2
PEER_DIAL: Final = 3
GIVE: Final = 4
FAIL: Final = 5
BIND: Final = 6
HALT: Final = 7

Key = tuple[int, int, int]
Done = tuple[tuple[int, int, Any], ...]

UNCOUNTED: Final = (
    msg.Alive,
    msg.MateAlive,
    msg.Posted,
    msg.Settled,
    msg.Hello,
    msg.Welcome,
    msg.MateHello,
    msg.MateWelcome,
    msg.Members,
)
"""Heartbeats, acknowledgements and greetings: left out of the budget (docs/design.md section 4)."""


class Cast(msgspec.Struct, frozen=True):
    """The classes of machines that play in a world; `trunkline.sim.broken` puts others in."""

    server: Callable[..., Any] = Server
    client: Callable[..., Any] = Client
    server_config: dict[str, Any] = {}
    client_config: dict[str, Any] = {}


class Engine:
    """What `Live` and `Memo` share: the codebook, making machines, events in and effects out."""

    def __init__(self, spec: Spec, cast: Cast | None = None, seed: bytes = b"world") -> None:
        self.spec = spec
        self.cast = cast or Cast()
        self.seed = seed
        self._things: list[Any] = [None, None]
        self._codes: dict[Any, int] = {}
        self._matched: set[int] = set()
        self._counted: set[int] = set()
        self._elsewhere: set[int] = set()
        self._quiet: set[int] = set()
        self.on_step: Callable[[Any, Any, Any], None] | None = None
        """Called with machine, event and effects of each step that is really made: for traces."""

    def code(self, thing: Any) -> int:
        """Return the number of a message, bytes or an event."""
        key = (type(thing), thing)
        code = self._codes.get(key)
        if code is None:
            code = len(self._things)
            self._things.append(thing)
            self._codes[key] = code
            if isinstance(thing, msg.Matched):
                self._matched.add(code)
            if isinstance(thing, msg.Alive | msg.MateAlive):
                self._quiet.add(code)
            if isinstance(thing, msg.Elsewhere):
                self._elsewhere.add(code)
            if isinstance(thing, msg.Message) and not isinstance(thing, UNCOUNTED):
                self._counted.add(code)
        return code

    def thing(self, code: int) -> Any:
        return self._things[code]

    def is_matched(self, code: int) -> bool:
        return code in self._matched

    def is_heartbeat(self, code: int) -> bool:
        return code in self._quiet

    def is_elsewhere(self, code: int) -> bool:
        return code in self._elsewhere

    def is_counted(self, code: int) -> bool:
        return code in self._counted

    def make(self, site: int, incarnation: int, now: float) -> Any:
        """Return the machine of a site, as new."""
        spec = self.spec
        seed = digest(self.seed + bytes((site, incarnation)))
        addresses = tuple(Address(f"server{i}", 7117) for i in range(spec.servers))
        if site < spec.servers:
            others = tuple(address for i, address in enumerate(addresses) if i != site)
            config = ServerConfig(
                id=f"server{site}",
                address=addresses[site],
                join=others,
                heartbeat=spec.heartbeat,
                **self.cast.server_config,
            )
            return self.cast.server(config, seed=seed, incarnation=incarnation, epoch=EPOCH, now=now)
        client = spec.clients[site - spec.servers]
        chosen = tuple(addresses[i] for i in client.servers)
        return self.cast.client(
            ClientConfig(servers=chosen, place=bytes(8), **self.cast.client_config), seed=seed, now=now
        )

    def run(self, machine: Any, key: Key, now: float) -> Done:
        """Step a machine.

        Raises:
            Violation: the machine raised, or wants what no driver does.
        """
        event = self._event(key)
        try:
            effects = machine.step(event, now)
        except Exception as error:
            text = "".join(traceback.format_exception(error)[-3:])
            raise Violation(MACHINE_FAULT, f"{type(machine).__name__} raised on {event}:\n{text}") from error
        if self.on_step is not None:
            self.on_step(machine, event, effects)
        return tuple(done for effect in effects for done in self._effect(effect))

    def _event(self, key: Key) -> Any:
        kind, conn, item = key
        match kind:
            case 0:  # TAKE
                return ev.Opened(conn, "there") if item == OPENED else ev.Received(conn, self._things[item])
            case 1:  # PEER_TAKE
                if item != OPENED:
                    return ev.PeerData(conn, self._things[item])
                return ev.PeerOpened(conn, 1000) if conn > 0 else ev.PeerDialled(conn)
            case 2:  # LOST
                return ev.PeerLost(conn, "lost") if item else ev.Lost(conn, "lost")
            case 3 | 6:  # TICK, START
                return ev.Tick()
            case 4:  # STOP
                return ev.Stop()
            case 5:  # LOCAL
                return self._things[item]
            case 7:  # BOUND
                return ev.PeerBound(conn, item)
            case _:
                raise AssertionError(f"unknown key {key}")

    def _effect(self, effect: Any) -> list[tuple[int, int, Any]]:
        match effect:
            case ev.Send():
                return [(SEND, effect.conn, self.code(effect.message))]
            case ev.PeerSend():
                return [(SEND, effect.conn, self.code(effect.data))]
            case ev.Close() | ev.PeerClose():
                return [(CLOSE, effect.conn, 0)]
            case ev.Dial():
                return [(DIAL, effect.conn, (effect.address.host, effect.address.port))]
            case ev.PeerDial():
                return [(PEER_DIAL, effect.conn, (effect.candidate.host, effect.candidate.port))]
            case ev.PeerBind():
                return [(BIND, effect.conn, effect.udp_port)]
            case ev.Delivered():
                return [(GIVE, effect.conn, (effect.rid, effect.peer.match, effect.peer.name))]
            case ev.Failed():
                return [(FAIL, 0, (effect.rid, type(effect.error).__name__))]
            case ev.Halt():
                return [(HALT, 0, str(effect.error))]
            case ev.PostStands() | ev.Answered() | ev.Noticed() | ev.Remember() | ev.Log():
                return []
            case _:
                raise Violation(MACHINE_FAULT, f"{effect!r} is no effect")

    # ---- what the two kinds do differently ------------------------------------------------------------------

    def create(self, site: int, incarnation: int, now: float) -> Any:
        """Return the state of a new machine."""
        raise NotImplementedError

    def step(self, state: Any, key: Key, now: float) -> tuple[Any, Done]:
        """Return the next state, and what the machine wants done."""
        raise NotImplementedError

    def deadline(self, state: Any) -> float | None:
        raise NotImplementedError

    def wanted(self, state: Any, conn: int) -> int:
        """Return how many bytes a client reads from a peer connection now."""
        raise NotImplementedError

    def machine(self, state: Any) -> Any:
        """Return the machine in this state, to look at."""
        raise NotImplementedError

    def tables(self, state: Any) -> dict[str, int]:
        """Return how much a server holds that belongs to clients."""
        return tables(self.machine(state))


class Live(Engine):
    """The state is the machine itself."""

    def create(self, site: int, incarnation: int, now: float) -> Any:
        return self.make(site, incarnation, now)

    def step(self, state: Any, key: Key, now: float) -> tuple[Any, Done]:
        return state, self.run(state, key, now)

    def deadline(self, state: Any) -> float | None:
        deadline: float | None = state.next_deadline()
        return deadline

    def wanted(self, state: Any, conn: int) -> int:
        wanted: int = state.bytes_wanted(conn)
        return wanted

    def machine(self, state: Any) -> Any:
        return state


class Memo(Engine):
    """The state is the number of a snapshot; steps are remembered."""

    REMEMBERED: Final = 1_000_000
    """Most steps kept; then all are forgotten, to bound the memory."""

    def __init__(self, spec: Spec, cast: Cast | None = None, seed: bytes = b"world") -> None:
        super().__init__(spec, cast, seed)
        self._numbers: dict[tuple[int, Any], int] = {}
        self._snapshots: list[tuple[int, Any]] = []
        self._deadlines: list[float | None] = []
        self._machines: list[Any] = []
        self._starts: dict[tuple[int, int], int] = {}
        self._loaded: list[int] = []
        """For each machine, the state that it is in now."""
        self._steps: dict[tuple[Any, ...], tuple[int, Done]] = {}
        self._wanted: dict[tuple[int, int], int] = {}

    def create(self, site: int, incarnation: int, now: float) -> int:
        machine = self.make(site, incarnation, now)
        # A machine keeps from its making what no snapshot holds (its configuration, and for a server when it was
        # made): so each (site, incarnation, time) has one of its own.
        self._machines.append(machine)
        self._loaded.append(-1)
        return self._number(len(self._machines) - 1)

    def _number(self, index: int) -> int:
        machine = self._machines[index]
        snapshot = machine.snapshot()
        key = (index, snapshot)
        number = self._numbers.get(key)
        if number is None:
            number = len(self._snapshots)
            self._numbers[key] = number
            self._snapshots.append(key)
            self._deadlines.append(machine.next_deadline())
            if number % 256 == 0:
                machine.restore(snapshot)
                if machine.snapshot() != snapshot:
                    raise Violation(MACHINE_FAULT, f"{type(machine).__name__}.restore loses state")
        self._loaded[index] = number
        return number

    def machine(self, state: int) -> Any:
        index, snapshot = self._snapshots[state]
        if self._loaded[index] != state:
            self._machines[index].restore(snapshot)
            self._loaded[index] = state
        return self._machines[index]

    def step(self, state: int, key: Key, now: float) -> tuple[int, Done]:
        at = (state, now, key)
        found = self._steps.get(at)
        if found is None:
            # Always from the snapshot: what a machine holds beyond it (the order of a dict, say) must not tell.
            index, snapshot = self._snapshots[state]
            machine = self._machines[index]
            machine.restore(snapshot)
            done = self.run(machine, key, now)
            found = (self._number(index), done)
            if len(self._steps) >= self.REMEMBERED:
                self._steps.clear()
            self._steps[at] = found
        return found

    def deadline(self, state: int) -> float | None:
        return self._deadlines[state]

    def wanted(self, state: int, conn: int) -> int:
        key = (state, conn)
        wanted = self._wanted.get(key)
        if wanted is None:
            wanted = self._wanted[key] = self.machine(state).bytes_wanted(conn)
        return wanted

    def tables(self, state: int) -> dict[str, int]:
        machine = self.machine(state)
        self._loaded[self._snapshots[state][0]] = -1
        return tables(machine)


def tables(server: Any) -> dict[str, int]:
    """Ask a server what it holds, the way that ``trunkline status`` does; the server is not used afterwards."""
    saved = server.snapshot()
    conn = -(1 << 60)
    now = 1e9
    server.step(ev.Opened(conn, "status"), now)
    server.step(ev.Received(conn, msg.Hello("status")), now)
    effects = server.step(ev.Received(conn, msg.AskStatus(1)), now)
    server.restore(saved)
    answers = [e.message for e in effects if isinstance(e, ev.Send) and isinstance(e.message, msg.ServerStatus)]
    assert answers, "a server answers AskStatus"
    status = answers[0]
    return {
        "clients": status.clients - 1,
        "meets": status.meets,
        "posts": status.posts,
        "foreign": status.foreign,
    }


assert CLOSED == OPENED + 1
