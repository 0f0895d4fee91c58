"""The machines of a realm, lent to one state of a world after the other; what was computed once is remembered.

Nearly all the time of such a world is signatures. So everything that a state is made of (snapshots, disks, messages) is
kept here once, and a state has only its number: equal values have equal numbers. A step of a machine, a write and
what a reader makes of an answer are functions of such numbers, and each is computed once.
"""

from collections.abc import Hashable
from typing import Any, Final, Protocol

import msgspec

from trunkline.authority import events as ev
from trunkline.authority.freshness import GRACE, MAX_STALENESS
from trunkline.authority.heads import read_head
from trunkline.authority.messages import Answer, Denied, Found, HeadIs, SignedHead, Statements
from trunkline.authority.store import MemoryStore, Reader
from trunkline.errors import StaleHead, TrunklineError
from trunkline.sim.invariants import MACHINE_FAULT, Violation
from trunkline.sim.realmcast import EPOCH, USER, Cast

AUTHORITY: Final = 0
REPLICA: Final = 1

Event = tuple[Any, ...]
"""("received", ((connection, request), ...)), ("answered", answer), ("saved",), ("tick",) or ("lost",)."""

Step = tuple[tuple[tuple[Any, ...], ...], int]
"""("save", batch), ("send", connection, answer), ("ask", request), ("accuse", text), and the snapshot after it."""

_LOST: Final = ev.Failed(TrunklineError("the connection is lost"))


class Machine(Protocol):
    """What `Directory` and `Replica` have in common here."""

    def step(self, event: Any, now: float) -> list[Any]: ...
    def snapshot(self) -> Hashable: ...
    def restore(self, snapshot: Any) -> None: ...
    def next_deadline(self) -> float | None: ...


class Reading(msgspec.Struct, frozen=True):
    """What a reader made of an answer."""

    trust: int
    """What it has kept afterwards."""
    fault: str = ""
    """What it accuses somebody of."""
    stale: str = ""
    """It is not told anything that is new enough, and asks elsewhere."""
    late: bool = False
    """Whether the answer was under way for so long that its head is too old for anybody."""


class _Disk:
    """What a machine reads from: the disk of the state in which it is stepped."""

    def __init__(self) -> None:
        self.now = MemoryStore()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.now, name)


class Stage:
    """All that is known of the states of one world."""

    def __init__(self, cast: Cast) -> None:
        self.cast = cast
        self.values: list[Any] = [None]
        """By number; 0 is nothing."""
        self._numbers: dict[Hashable, int] = {None: 0}
        self._disks: list[MemoryStore] = [MemoryStore()]
        self._disk_numbers: dict[Hashable, int] = {_contents(self._disks[0]): 0}
        self._readers = (_Disk(), _Disk())
        self._machines: dict[tuple[int, int], Machine] = {}
        self._steps: dict[Hashable, Step] = {}
        self._starts: dict[Hashable, int] = {}
        self._writes: dict[tuple[int, int], int] = {}
        self._deadlines: dict[Hashable, float | None] = {}
        self._readings: dict[Hashable, Reading] = {}
        self._sizes: dict[int, int] = {}

    def number(self, value: Hashable) -> int:
        """Return the number of a value."""
        found = self._numbers.get(value)
        if found is None:
            found = self._numbers[value] = len(self.values)
            self.values.append(value)
        return found

    def disk(self, number: int) -> MemoryStore:
        """Return a disk, which is not to be changed."""
        return self._disks[number]

    def write(self, disk: int, batch: int) -> int:
        """Return the disk on which a batch was written."""
        found = self._writes.get((disk, batch))
        if found is None:
            after = self._disks[disk].copy()
            after.apply(self.values[batch])
            contents = _contents(after)
            if contents not in self._disk_numbers:
                self._disk_numbers[contents] = len(self._disks)
                self._disks.append(after)
            found = self._writes[disk, batch] = self._disk_numbers[contents]
        return found

    # ---- machines ----------------------------------------------------------------------------------------------

    def start(self, site: int, clock: int, disk: int, now: float) -> int:
        """Return what a machine is that starts on a disk.

        Raises:
            Violation: it doesn't start.
        """
        key = (site, clock, disk, now)
        found = self._starts.get(key)
        if found is None:
            proxy = self._readers[site]
            proxy.now = self._disks[disk]
            reader: Reader = proxy
            try:
                machine: Machine = (
                    self.cast.directory(reader, clock, now) if site == AUTHORITY else self.cast.replica(reader, now)
                )
            except TrunklineError as error:
                raise Violation("R3", f"site {site} does not start on its own disk: {error}") from error
            self._machines[site, clock] = machine
            found = self._starts[key] = self.number(machine.snapshot())
        return found

    def step(self, site: int, clock: int, disk: int, before: int, event: Event, now: float) -> Step:
        """Return what a machine does, and what it is then.

        Raises:
            Violation: it failed.
        """
        key = (site, clock, disk, before, event, now)
        found = self._steps.get(key)
        if found is None:
            machine = self._machine(site, clock, disk, before)
            try:
                effects = machine.step(self._event(event), now)
            except Exception as error:
                raise Violation(MACHINE_FAULT, f"site {site} failed on {event}: {error!r}") from error
            told = tuple(each for each in map(self._effect, effects) if each)
            found = self._steps[key] = (told, self.number(machine.snapshot()))
        return found

    def deadline(self, site: int, clock: int, disk: int, snapshot: int) -> float | None:
        """Return when a machine is to be ticked."""
        key = (site, clock, disk, snapshot)
        if key not in self._deadlines:
            self._deadlines[key] = self._machine(site, clock, disk, snapshot).next_deadline()
        return self._deadlines[key]

    def _machine(self, site: int, clock: int, disk: int, snapshot: int) -> Machine:
        self._readers[site].now = self._disks[disk]
        machine = self._machines[site, clock]
        machine.restore(self.values[snapshot])
        return machine

    def _event(self, event: Event) -> Any:
        match event:
            case ("received", requests):
                return ev.Received(tuple((conn, self.values[request]) for conn, request in requests))
            case ("answered", answer):
                return ev.Answered(self.values[answer])
            case ("saved",):
                return ev.Saved()
            case ("lost",):
                return _LOST
        return ev.Tick()

    def _effect(self, effect: Any) -> tuple[Any, ...]:
        match effect:
            case ev.Save():
                return ("save", self.number(effect.batch))
            case ev.Send():
                return ("send", effect.conn, self.number(effect.answer))
            case ev.Ask():
                return ("ask", self.number(effect.request))
            case ev.Accuse():
                return ("accuse", str(effect.error))
        return ()

    # ---- messages ----------------------------------------------------------------------------------------------

    def altered(self, answer: int) -> int:
        """Return what a liar makes of an answer: it looks right for as long as it can."""
        value = self.values[answer]
        match value:
            case Statements() if value.statements:
                (index, _), *others = value.statements
                forged = ((index, self.cast.forged), *others)
                return self.number(msgspec.structs.replace(value, statements=forged))
            case HeadIs():
                revoked = value.revoked[:-1] if value.revoked else (b"\xff" * 16,)
                return self.number(msgspec.structs.replace(value, revoked=revoked))
            case Found():
                return self.number(msgspec.structs.replace(value, record=None, statement=None, inclusion=()))
        return answer

    def check_shown(self, answer: int) -> None:
        """Check that the head that goes with an answer is of the one history.

        Raises:
            Violation: R2.
        """
        signed = getattr(self.values[answer], "head", None)
        if isinstance(signed, SignedHead):
            head = read_head(signed)
            if head.size >= len(self.cast.history) or (head.log, head.map) != self.cast.history[head.size]:
                raise Violation("R2", f"a head of {head.size} statements is shown that is of another history")

    # ---- the reader --------------------------------------------------------------------------------------------

    def size(self, trust: int) -> int:
        """Return how many statements a reader knows of that starts on what it has kept."""
        if trust not in self._sizes:
            self._sizes[trust] = self.cast.trust(self.values[trust]).size
        return self._sizes[trust]

    def read(self, trust: int, site: int, answer: int, now: float) -> Reading:
        """Return what a reader makes of an answer, starting on what it has kept.

        Raises:
            Violation: R4, R6, R7 or R8: what it believes is not so, or is too old.
        """
        key = (trust, site, answer, now)
        found = self._readings.get(key)
        if found is None:
            found = self._readings[key] = self._read(trust, site, self.values[answer], EPOCH + now)
        return found

    def _read(self, kept: int, site: int, answer: Answer, wall: float) -> Reading:
        trust = self.cast.trust(self.values[kept])
        before = trust.head
        if isinstance(answer, Denied):
            return Reading(kept, stale=answer.text)
        if not isinstance(answer, HeadIs | Found):
            return Reading(kept, fault=f"{type(answer).__name__} was not asked for")
        try:
            match answer:
                case HeadIs():
                    trust.update_head(answer, wall, first_hand=site == AUTHORITY)
                case Found():
                    trust.learn(self.cast.authorities)
                    record = trust.check_found(answer, USER, wall, first_hand=site == AUTHORITY)
                    head = read_head(answer.head)
                    expected = self.cast.records[head.size - 1] if head.size else None
                    if record != expected:
                        text = f"at {head.size} statements a reader believes {record!r}, and it is {expected!r}"
                        raise Violation("R4", text)
                    word = trust.head  # the newest of that state: the answer's, or one that was seen before
                    if word is None or wall - word.time > MAX_STALENESS + GRACE:
                        raise Violation("R8", f"a reader believes a record of {wall - head.time:.0f} s ago")
        except StaleHead as error:
            return Reading(kept, stale=str(error), late=_is_late(answer, wall))
        except TrunklineError as error:
            return Reading(kept, fault=str(error))
        after = trust.head
        if before is not None and after is not None and (after.size, after.time) < (before.size, before.time):
            raise Violation("R7", f"a reader that knew {before.size} statements now believes in {after.size}")
        return Reading(self.number(trust.state() or self.values[kept]))


def _is_late(answer: HeadIs | Found, wall: float) -> bool:
    return wall - read_head(answer.head).time > MAX_STALENESS + GRACE


def _contents(disk: MemoryStore) -> Hashable:
    """Return what tells one disk of a small realm from another; records and nodes come of the entries."""
    issued = tuple(each.serial for each in disk.issued(USER, 0))
    return (disk.head(), disk.upstream(), tuple(disk.statements(0, 100)), issued, tuple(disk.revoked(0)))
