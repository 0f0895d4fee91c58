"""A small realm in which everything can go wrong, for the explorer (docs/spec/authority.md sections 8 to 10).

Sites are the authority (0) and, if the world has one, its replica (1). Each has a disk. A machine that wants something
saved waits for the disk; a crash may come before the save, after it, and before or after every message. What happened
is checked at once:

R1  What was acknowledged is on the authority's disk, at the place that was said.
R2  All heads that anybody is shown are of one history.
R3  Nobody honest is accused: neither a reader's trust nor a replica finds fault with what honest machines say.
R4  What a reader believes is what the log says at that head.
R5  Once faults stop, everything that was asked for is done, and the replica has all of it.
R6  A certificate that was acknowledged is revoked by the head of every later state in which its key is not the user's.
"""

from collections.abc import Hashable
from typing import Any, Final, Protocol

import msgspec

from trunkline.authority import events as ev
from trunkline.authority.certificates import parse_leaf
from trunkline.authority.heads import read_head
from trunkline.authority.messages import (
    AskHead,
    Denied,
    Found,
    Get,
    HeadIs,
    Issue,
    Issued,
    Request,
    SignedHead,
    Stored,
    Submit,
)
from trunkline.authority.statements import Record
from trunkline.authority.store import Batch, MemoryStore, Reader
from trunkline.authority.trust import Trust
from trunkline.errors import StaleHead, TrunklineError
from trunkline.sim.invariants import MACHINE_FAULT, Violation
from trunkline.sim.realmcast import EPOCH, REALM, USER, Cast

AUTHORITY: Final = 0
REPLICA: Final = 1
WRITER: Final = 0
READER: Final = 1
UPSTREAM: Final = 2
"""Who asks: writer, reader, and the replica. Its connection's number is this and three times how often it broke."""

LATER: Final = 90.0
"""Seconds that pass at once, if any do: longer than a head is shown without being signed anew."""

BEHIND: Final = -100
"""Seconds by which a clock may be wrong after a crash: not so many that no certificate would be issued."""

Action = tuple[Any, ...]


class RealmSpec(msgspec.Struct, frozen=True):
    """A world."""

    name: str
    about: str
    replica: bool = False
    questions: int = 0
    """How often the reader asks."""
    waits: int = 0
    """How often time passes."""
    polls: int = 0
    """How often the replica asks its upstream while other things happen."""
    faults: int = 0
    kinds: tuple[str, ...] = ("crash", "cut", "clock")


class Machine(Protocol):
    """What `Directory` and `Replica` have in common here."""

    def step(self, event: Any, now: float) -> list[Any]: ...
    def snapshot(self) -> Hashable: ...
    def restore(self, snapshot: Any) -> None: ...
    def next_deadline(self) -> float | None: ...


_LOST: Final = ev.Failed(TrunklineError("the connection is lost"))


class _Disk:
    """What a machine reads from: the disk of the state in which it is stepped."""

    def __init__(self) -> None:
        self.now = MemoryStore()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.now, name)


class Stage:
    """The machines, one for each site and clock, lent to one state after the other."""

    def __init__(self, cast: Cast) -> None:
        self.cast = cast
        self.disks = (_Disk(), _Disk())
        self.machines: dict[tuple[int, int], Machine] = {}
        self._known: dict[Hashable, tuple[tuple[Any, ...], Hashable]] = {}

    def start(self, site: int, clock: int, disk: MemoryStore, now: float) -> Machine:
        """Start a machine on what is on its disk."""
        proxy = self.disks[site]
        proxy.now = disk
        reader: Reader = proxy
        made: Machine = self.cast.directory(reader, clock, now) if site == AUTHORITY else self.cast.replica(reader, now)
        self.machines[site, clock] = made
        return made

    def step(
        self, site: int, clock: int, disk: MemoryStore, snapshot: Hashable, event: Any, now: float
    ) -> tuple[tuple[Any, ...], Hashable]:
        """Return what a machine does in some state, and its state after that; remembered, for most of it is crypto."""
        key = (site, clock, disk_key(disk), snapshot, event, now)
        known = self._known.get(key)
        if known is None:
            self.disks[site].now = disk
            machine = self.machines[site, clock]
            machine.restore(snapshot)
            known = self._known[key] = (tuple(machine.step(event, now)), machine.snapshot())
        return known

    def deadline(self, site: int, clock: int, disk: MemoryStore, snapshot: Hashable) -> float | None:
        """Return when a machine in some state is to be ticked."""
        self.disks[site].now = disk
        machine = self.machines[site, clock]
        machine.restore(snapshot)
        return machine.next_deadline()


def disk_key(disk: MemoryStore) -> Hashable:
    """Return what tells one disk of a small realm from another."""
    return (disk.size(), disk.head(), disk.upstream(), len(disk.issued(USER, 0)))


class RealmWorld:
    """One state of a world."""

    def __init__(self, spec: RealmSpec, stage: Stage) -> None:
        self.spec = spec
        self.stage = stage
        self.now = 0.0
        self.left = spec.faults
        sites = 2 if spec.replica else 1
        self.disks = [MemoryStore() for _ in range(sites)]
        self.clocks = [0] * sites
        self.machines: list[Hashable | None] = [None] * sites
        self.saving: list[Batch | None] = [None] * sites
        self.asked: list[tuple[tuple[int, Request], ...]] = [()] * sites
        """Requests on their way to each site, by connection."""
        self.told: tuple[tuple[int, int, Any], ...] = ()
        """Answers on their way: site, connection, answer."""
        self.broken: tuple[int, ...] = (0, 0, 0)
        """How often each asker's connection broke: an answer to an earlier one reaches nobody."""
        self.done = 0
        """How much of the script is acknowledged."""
        self.waiting = False
        """Whether the writer has asked and not been answered."""
        self.questions = spec.questions
        self.reading = -1
        """The site that the reader has asked."""
        self.trust: bytes | None = None
        self.polls = spec.polls
        self.waits = spec.waits
        self.heads: frozenset[tuple[int, bytes, bytes]] = frozenset()
        self.serial = b""
        """Of the certificate that was acknowledged."""

    def copy(self) -> "RealmWorld":
        other = object.__new__(RealmWorld)
        other.__dict__.update(self.__dict__)
        other.disks, other.clocks = list(self.disks), list(self.clocks)
        other.machines, other.saving, other.asked = list(self.machines), list(self.saving), list(self.asked)
        return other

    def key(self) -> Hashable:
        """Return what tells this state from others."""
        return (
            tuple(map(disk_key, self.disks)),
            (tuple(self.clocks), tuple(self.machines), tuple(self.saving), tuple(self.asked), self.told),
            (self.done, self.waiting, self.questions, self.reading, self.trust, self.polls, self.waits, self.left),
            (self.serial, self.now, self.broken),
        )

    # ---- what can happen ---------------------------------------------------------------------------------------

    def steps(self) -> list[Action]:
        """Return what can happen without a fault."""
        found: list[Action] = []
        for site, machine in enumerate(self.machines):
            if machine is None:
                found.append(("start", site))
                continue
            if self.saving[site] is not None:
                found.append(("saved", site))
            if self.asked[site]:
                found.append(("take", site, len(self.asked[site])))
                if len(self.asked[site]) > 1:
                    found.append(("take", site, 1))
        found += [("hear", place) for place in range(len(self.told))]
        if not self.waiting and self.done < len(self.stage.cast.script) and self.machines[AUTHORITY] is not None:
            found.append(("write",))
        if self.reading < 0 and self.questions:
            found += [("ask", site) for site, machine in enumerate(self.machines) if machine is not None]
        if self.polls and self._poll_due() is not None:
            found.append(("poll",))
        if self.waits:
            found.append(("wait",))
        return found

    def faults(self) -> list[Action]:
        """Return what can go wrong."""
        if not self.left:
            return []
        found: list[Action] = []
        for site, machine in enumerate(self.machines):
            if machine is None:
                continue
            if "crash" in self.spec.kinds:
                found.append(("crash", site))
                if self.saving[site] is not None:
                    found.append(("crash-saved", site))
            if "clock" in self.spec.kinds and site == AUTHORITY:
                found.append(("crash-clock", site))
        if "cut" in self.spec.kinds:
            found += [("lose", place) for place in range(len(self.told))]
            found += [("drop", site) for site, asked in enumerate(self.asked) if asked]
        return found

    def apply(self, action: Action) -> None:
        """Do it.

        Raises:
            Violation: one of R1 to R6 is broken.
        """
        kind, *about = action
        if kind in ("crash", "crash-saved", "crash-clock", "lose", "drop"):
            self.left -= 1
        getattr(self, "_" + kind.replace("-", "_"))(*about)

    # ---- without a fault ---------------------------------------------------------------------------------------

    def _start(self, site: int) -> None:
        try:
            machine = self.stage.start(site, self.clocks[site], self.disks[site], self.now)
        except TrunklineError as error:
            raise Violation("R3", f"site {site} does not start on its own disk: {error}") from error
        self.machines[site] = machine.snapshot()
        self._step(site, ev.Tick())

    def _saved(self, site: int) -> None:
        batch = self.saving[site]
        assert batch is not None
        self._write_disk(site, batch)
        self.saving[site] = None
        self._step(site, ev.Saved())

    def _take(self, site: int, count: int) -> None:
        taken, self.asked[site] = self.asked[site][:count], self.asked[site][count:]
        self._step(site, ev.Received(taken))

    def _write(self) -> None:
        self.waiting = True
        self._send(AUTHORITY, WRITER, self.stage.cast.script[self.done])

    def _ask(self, site: int) -> None:
        self.questions -= 1
        self.reading = site
        size = self._trust().size
        self._send(site, READER, AskHead(0, size) if self.questions % 2 else Get(0, USER, size))

    def _wait(self) -> None:
        self.waits -= 1
        self.now += LATER

    def _poll(self) -> None:
        due = self._poll_due()
        assert due is not None
        self.polls -= 1
        self.now = max(self.now, due)
        self._step(REPLICA, ev.Tick())

    def _hear(self, place: int) -> None:
        site, conn, answer = self.told[place]
        self.told = self.told[:place] + self.told[place + 1 :]
        asker = conn % 3
        if asker == UPSTREAM:
            if self.machines[REPLICA] is not None:
                self._step(REPLICA, ev.Answered(answer))
        elif asker == WRITER:
            self._acknowledged(answer)
        else:
            self._read(site, answer)

    # ---- faults ------------------------------------------------------------------------------------------------

    def _crash(self, site: int) -> None:
        """Everything but the disk is gone, and everybody who was connected finds out."""
        self.machines[site] = None
        self.saving[site] = None
        self.asked[site] = ()
        if site == AUTHORITY:
            self._break(WRITER)
        if site == self.reading:
            self._break(READER)
        self._break(UPSTREAM)

    def _crash_saved(self, site: int) -> None:
        batch = self.saving[site]
        assert batch is not None
        self._write_disk(site, batch)
        self._crash(site)

    def _crash_clock(self, site: int) -> None:
        """It comes back with a clock that is behind."""
        self._crash(site)
        self.clocks[site] = BEHIND

    def _lose(self, place: int) -> None:
        """A connection breaks with this answer in it."""
        self._break(self.told[place][1] % 3)

    def _drop(self, site: int) -> None:
        """A connection breaks with the first request that is on its way."""
        self._break(self.asked[site][0][0] % 3)

    def _break(self, asker: int) -> None:
        conn = self._conn(asker)
        self.asked = [tuple(each for each in asked if each[0] != conn) for asked in self.asked]
        self.told = tuple(each for each in self.told if each[1] != conn)
        self.broken = tuple(count + (each == asker) for each, count in enumerate(self.broken))
        if asker == WRITER:
            self.waiting = False
        elif asker == READER:
            self.reading = -1
        else:
            self._unplug()

    def _unplug(self) -> None:
        """The replica's question will not be answered."""
        if self.spec.replica and self.machines[REPLICA] is not None:
            if self._poll_due() is None and self.saving[REPLICA] is None:
                self._step(REPLICA, _LOST)

    # ---- inside ------------------------------------------------------------------------------------------------

    def _poll_due(self) -> float | None:
        if not self.spec.replica or self.machines[REPLICA] is None:
            return None
        return self.stage.deadline(REPLICA, self.clocks[REPLICA], self.disks[REPLICA], self.machines[REPLICA])

    def _conn(self, asker: int) -> int:
        return asker + 3 * self.broken[asker]

    def _send(self, site: int, asker: int, request: Request) -> None:
        self.asked[site] = (*self.asked[site], (self._conn(asker), request))

    def _write_disk(self, site: int, batch: Batch) -> None:
        self.disks[site] = self.disks[site].copy()
        self.disks[site].apply(batch)

    def _step(self, site: int, event: Any) -> None:
        before = self.machines[site]
        try:
            effects, after = self.stage.step(site, self.clocks[site], self.disks[site], before, event, self.now)
        except TrunklineError:
            raise
        except Exception as error:
            raise Violation(MACHINE_FAULT, f"site {site} failed on {event!r}: {error!r}") from error
        self.machines[site] = after
        for effect in effects:
            match effect:
                case ev.Save():
                    if self.saving[site] is not None:
                        raise Violation(MACHINE_FAULT, f"site {site} saves while it saves")
                    self.saving[site] = effect.batch
                case ev.Send():
                    self._show(effect.answer)
                    if effect.conn == self._conn(effect.conn % 3):
                        self.told = (*self.told, (site, effect.conn, effect.answer))
                case ev.Ask():
                    if self.machines[AUTHORITY] is None:
                        self._step(site, _LOST)
                    else:
                        self._send(AUTHORITY, UPSTREAM, effect.request)
                case ev.Accuse():
                    raise Violation("R3", f"the replica accuses an honest authority: {effect.error}")
                case _:
                    pass

    def _show(self, answer: Any) -> None:
        """R2: whatever head leaves a machine is of the one history."""
        signed = getattr(answer, "head", None)
        if not isinstance(signed, SignedHead):
            return
        head = read_head(signed)
        fact = (head.size, head.log, head.map)
        for size, log, tree in self.heads:
            if size == head.size and (log, tree) != (head.log, head.map):
                raise Violation("R2", f"two heads of {size} statements differ")
        self.heads |= {fact}

    def _acknowledged(self, answer: Any) -> None:
        asked = self.stage.cast.script[self.done]
        self.waiting = False
        if isinstance(answer, Denied):
            raise Violation("R5", f"the authority refuses step {self.done} of the script: {answer.text}")
        if isinstance(answer, Stored):
            assert isinstance(asked, Submit)
            if (answer.index, asked.statement) not in self.disks[AUTHORITY].statements(answer.index, 1):
                raise Violation("R1", f"statement {answer.index} was acknowledged, and is not on disk")
        elif isinstance(answer, Issued):
            assert isinstance(asked, Issue)
            self.serial = parse_leaf(answer.chain[0]).serial
            if self.serial not in {each.serial for each in self.disks[AUTHORITY].issued(USER, 0)}:
                raise Violation("R1", "a certificate was handed out that is not on disk, so nobody could revoke it")
        self.done += 1

    def _trust(self) -> Trust:
        return Trust(REALM, self.stage.cast.root, state=self.trust)

    def _read(self, site: int, answer: Any) -> None:
        """R3, R4 and R6, with the trust that clients have."""
        self.reading = -1
        trust = self._trust()
        wall = EPOCH + self.now
        try:
            match answer:
                case HeadIs():
                    trust.update_head(answer, wall, first_hand=site == AUTHORITY)
                    self._check_revoked(answer)
                case Found():
                    trust.learn(self.stage.cast.authorities)
                    record = trust.check_found(answer, USER, wall, first_hand=site == AUTHORITY)
                    self._check_record(record, read_head(answer.head).size)
                case _:
                    pass  # a replica that is catching up says so
        except StaleHead as error:
            if site == AUTHORITY:
                raise Violation("R3", f"the authority is taken for rolled back: {error}") from error
        except TrunklineError as error:
            raise Violation("R3", f"a reader accuses site {site}: {error}") from error
        self.trust = trust.state() or self.trust

    def _check_record(self, record: Record | None, size: int) -> None:
        records = self.stage.cast.records
        expected = records[size - 1] if size else None
        if record != expected:
            raise Violation("R4", f"at {size} statements a reader believes {record!r}, and it is {expected!r}")

    def _check_revoked(self, answer: HeadIs) -> None:
        changed = read_head(answer.head).size > 2  # the third statement changes the key
        if self.serial and changed and self.serial not in answer.revoked:
            raise Violation("R6", "a head of the new key does not revoke the old key's certificate")

    def check_end(self) -> None:
        """Check a world in which nothing is left to happen.

        Raises:
            Violation: R1 or R5.
        """
        script = self.stage.cast.script
        if self.done < len(script):
            raise Violation("R5", f"{self.done} of {len(script)} requests were acknowledged, and nothing goes on")
        statements = [each.statement for each in script if isinstance(each, Submit)]
        for site, disk in enumerate(self.disks):
            if site == AUTHORITY or not self.polls:
                found = [signed for _, signed in disk.statements(0, 100)]
                if site == AUTHORITY and found != statements:
                    raise Violation("R1", "the authority's disk does not have what was acknowledged")
                if site == REPLICA and found != statements:
                    raise Violation("R5", f"the replica has {len(found)} of {len(statements)} statements at the end")
