"""A small realm in which everything can go wrong, for the explorer (docs/spec/authority.md sections 8 to 10).

Sites are the authority (0) and, if the world has one, its replica (1). Each has a disk. A machine that wants something
saved waits for the disk; a crash may come before the save, after it, and before or after every message. A reader keeps
what `Trust.state` returns and starts anew on it for every answer; if a replica is too far behind for it, it asks the
authority. What happened is checked at once:

R1  What was acknowledged is on the authority's disk, at the place that was said.
R2  All heads that anybody is shown are of the one history.
R3  Nobody honest is accused: neither a reader's trust nor a replica finds fault with what honest machines say.
R4  What a reader believes is what the log says at that head.
R5  Once faults stop, everything that was asked for is done, and the replica has all of it.
R6  A certificate that was acknowledged is revoked by the head of every later state in which its key is not the user's.
R7  A reader never goes back to fewer statements, or an older head, than it has seen.
R8  No record is believed on the word of a head that is older than the policy allows.
R9  What is on a replica's disk is the beginning of what is on the authority's.
"""

from collections.abc import Hashable
from typing import Any, Final

from trunkline.authority.certificates import parse_leaf
from trunkline.authority.heads import read_head
from trunkline.authority.messages import AskHead, Denied, Get, HeadIs, Issue, Issued, SignedHead, Stored, Submit
from trunkline.sim.invariants import MACHINE_FAULT, Violation
from trunkline.sim.realmcast import CHANGED, EPOCH, USER
from trunkline.sim.realmspec import RealmSpec
from trunkline.sim.realmstage import AUTHORITY, REPLICA, Event, Stage

WRITER: Final = 0
READER: Final = 1
UPSTREAM: Final = 2
"""Who asks: writer, reader, and the replica. Its connection's number is this and three times how often it broke."""

NAMES: Final = ("authority", "replica")
ASKERS: Final = ("writer", "reader", "replica")

BEHIND: Final = -100
"""Seconds by which a clock may be wrong after a crash: not so many that no certificate would be issued."""

SETTLING: Final = 400
"""Steps within which a realm comes to rest when faults are over."""

COUNTED: Final = frozenset(("crash", "crash-saved", "crash-clock", "lose", "drop", "alter"))

Action = tuple[Any, ...]


class RealmWorld:
    """One state of a world. Disks, snapshots and messages are numbers of a `Stage`; 0 is none, or an empty disk."""

    def __init__(self, spec: RealmSpec, stage: Stage) -> None:
        self.spec = spec
        self.stage = stage
        self.now = 0.0
        self.left = 0
        sites = 2 if spec.replica else 1
        self.disks = [0] * sites
        self.clocks = [0] * sites
        self.machines = [0] * sites
        self.saving = [0] * sites
        self.asked: list[tuple[tuple[int, int], ...]] = [()] * sites
        """Requests on their way to each site, by connection."""
        self.told: tuple[tuple[int, int, int], ...] = ()
        """Answers on their way: site, connection, answer."""
        self.broken: tuple[int, ...] = (0, 0, 0)
        """How often each asker's connection broke: an answer to an earlier one reaches nobody."""
        self.done = 0
        """How much of the script is acknowledged."""
        self.waiting = False
        """Whether the writer has asked and not been answered."""
        self.questions = 0
        self.reading = -1
        """The site that the reader has asked."""
        self.elsewhere = False
        """Whether the reader was told too little by the replica, so that it asks the authority now."""
        self.trust = 0
        """What the reader has kept."""
        self.polls = 0
        self.waits = 0
        self.serial = b""
        """Of the certificate that was acknowledged."""
        self.cut = False
        self.altered: frozenset[int] = frozenset()
        """Whose answers were changed: the replica may accuse then, and is excused from going on; or the reader may."""
        self._prepare()

    def copy(self) -> "RealmWorld":
        other = object.__new__(RealmWorld)
        other.__dict__.update(self.__dict__)
        other.disks, other.clocks = self.disks[:], self.clocks[:]
        other.machines, other.saving, other.asked = self.machines[:], self.saving[:], self.asked[:]
        return other

    def key(self) -> Hashable:
        """Return what tells this state from others."""
        return (
            (*self.disks, *self.clocks, *self.machines, *self.saving, *self.asked, self.told),
            (self.done, self.waiting, self.questions, self.reading, self.elsewhere, self.trust),
            (self.polls, self.waits, self.left, self.serial, self.now, self.broken, self.altered),
        )

    def _prepare(self) -> None:
        """Let happen in peace what the world begins with."""
        spec = self.spec
        self._start(AUTHORITY)
        for done in range(spec.before + 1):
            if spec.replica and done == max(spec.followed, 0):
                self._start(REPLICA)
                if spec.followed >= 0:
                    self._catch_up()
            if done == spec.read:
                self.questions = 2  # so that it asks for a head
                self._ask(AUTHORITY)
                self._settle()
            if done < spec.before:
                self._write()
                self._settle()
        self.questions, self.polls, self.waits = spec.questions, spec.polls, spec.waits
        self.cut, self.left = spec.cut, spec.faults

    # ---- what can happen ---------------------------------------------------------------------------------------

    def steps(self) -> list[Action]:
        """Return what can happen without a fault."""
        found = self._pending()
        if not self.waiting and self.done < self.spec.most and self.machines[AUTHORITY]:
            found.append(("write",))
        if self.reading < 0 and self.questions:
            sites = (AUTHORITY,) if self.elsewhere else range(len(self.machines))
            found += [("ask", site) for site in sites if self.machines[site]]
        if self.polls and self._poll_due() is not None:
            found.append(("poll",))
        if self.waits:
            found.append(("wait",))
        return found

    def _pending(self) -> list[Action]:
        """Return what goes on by itself."""
        found: list[Action] = []
        for site, machine in enumerate(self.machines):
            if not machine:
                found.append(("start", site))
                continue
            if self.saving[site]:
                found.append(("saved", site))
            if self.asked[site]:
                found.append(("take", site, len(self.asked[site])))
                if len(self.asked[site]) > 1:
                    found.append(("take", site, 1))
        found += [("hear", place) for place in range(len(self.told))]
        if self.machines[AUTHORITY] and self.now:
            due = self.stage.deadline(AUTHORITY, self.clocks[0], self.disks[0], self.machines[0])
            if due is not None and due <= self.now:
                found.append(("tick",))
        return found

    def faults(self) -> list[Action]:
        """Return what can go wrong."""
        if not self.left:
            return []
        kinds = self.spec.kinds
        found: list[Action] = []
        for site, machine in enumerate(self.machines):
            if machine and "crash" in kinds:
                found.append(("crash", site))
                if self.saving[site]:
                    found.append(("crash-saved", site))
            if machine and "clock" in kinds and site == AUTHORITY:
                found.append(("crash-clock", site))
        if "cut" in kinds:
            found += [("lose", place) for place in range(len(self.told))]
            found += [("drop", site) for site, asked in enumerate(self.asked) if asked]
        if "alter" in kinds:
            ways = ((AUTHORITY, UPSTREAM), (REPLICA, READER))
            found += [("alter", place) for place, (site, conn, _) in enumerate(self.told) if (site, conn % 3) in ways]
        return found

    def apply(self, action: Action) -> None:
        """Do it.

        Raises:
            Violation: one of R1 to R9 is broken.
        """
        kind, *about = action
        if kind in COUNTED:
            self.left -= 1
        getattr(self, "_" + kind.replace("-", "_"))(*about)

    # ---- without a fault ---------------------------------------------------------------------------------------

    def _start(self, site: int) -> None:
        self.machines[site] = self.stage.start(site, self.clocks[site], self.disks[site], self.now)
        if site == AUTHORITY:  # the replica's tick is its first poll
            self._step(site, ("tick",))

    def _saved(self, site: int) -> None:
        self._keep(site)
        self.saving[site] = 0
        self._step(site, ("saved",))

    def _take(self, site: int, count: int) -> None:
        taken, self.asked[site] = self.asked[site][:count], self.asked[site][count:]
        self._step(site, ("received", taken))

    def _write(self) -> None:
        self.waiting = True
        self._send(AUTHORITY, WRITER, self.stage.cast.script[self.done])

    def _ask(self, site: int) -> None:
        self.questions -= 1
        self.reading = site
        size = self.stage.size(self.trust)
        self._send(site, READER, AskHead(0, size) if self.questions else Get(0, USER, size))

    def _wait(self) -> None:
        self.waits -= 1
        self.now += self.spec.pause

    def _tick(self) -> None:
        self._step(AUTHORITY, ("tick",))

    def _poll(self) -> None:
        due = self._poll_due()
        assert due is not None, "only a replica that is due polls"
        self.polls -= 1
        self.now = max(self.now, due)
        self._step(REPLICA, ("tick",))

    def _hear(self, place: int) -> None:
        site, conn, answer = self.told[place]
        self.told = self.told[:place] + self.told[place + 1 :]
        asker = conn % 3
        if asker == UPSTREAM:
            self._step(REPLICA, ("answered", answer))
        elif asker == WRITER:
            self._acknowledged(self.stage.values[answer])
        else:
            self._read(site, answer)

    # ---- faults ------------------------------------------------------------------------------------------------

    def _crash(self, site: int) -> None:
        """Everything but the disk is gone, and everybody who was connected finds out."""
        self.machines[site] = self.saving[site] = 0
        self.asked[site] = ()
        if site == AUTHORITY:
            self._break(WRITER)
        if site == self.reading:
            self._break(READER)
        self._break(UPSTREAM)

    def _crash_saved(self, site: int) -> None:
        self._keep(site)
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

    def _alter(self, place: int) -> None:
        """Somebody between authority and replica changes an answer, or the replica lies to the reader."""
        site, conn, answer = self.told[place]
        self.altered |= {conn % 3}
        self.told = (*self.told[:place], (site, conn, self.stage.altered(answer)), *self.told[place + 1 :])

    def _break(self, asker: int) -> None:
        conn = self._conn(asker)
        self.asked = [tuple(each for each in asked if each[0] != conn) for asked in self.asked]
        self.told = tuple(each for each in self.told if each[1] != conn)
        self.broken = tuple(count + (each == asker) for each, count in enumerate(self.broken))
        if asker == WRITER:
            self.waiting = False
        elif asker == READER:
            self.questions += self.reading >= 0  # it asks again
            self.reading = -1
        elif self.spec.replica and self.machines[REPLICA] and self._poll_due() is None and not self.saving[REPLICA]:
            self._step(REPLICA, ("lost",))

    # ---- inside ------------------------------------------------------------------------------------------------

    def _poll_due(self) -> float | None:
        if not self.spec.replica or not self.machines[REPLICA]:
            return None
        return self.stage.deadline(REPLICA, self.clocks[REPLICA], self.disks[REPLICA], self.machines[REPLICA])

    def _conn(self, asker: int) -> int:
        return asker + 3 * self.broken[asker]

    def _send(self, site: int, asker: int, request: Any) -> None:
        self.asked[site] = (*self.asked[site], (self._conn(asker), self.stage.number(request)))

    def _keep(self, site: int) -> None:
        self.disks[site] = self.stage.write(self.disks[site], self.saving[site])
        if site == REPLICA:
            has = self.stage.disk(self.disks[REPLICA]).statements(0, 100)
            if has != self.stage.disk(self.disks[AUTHORITY]).statements(0, len(has)):
                raise Violation("R9", f"the replica's {len(has)} statements are not the authority's first")

    def _step(self, site: int, event: Event) -> None:
        told, self.machines[site] = self.stage.step(
            site, self.clocks[site], self.disks[site], self.machines[site], event, self.now
        )
        for effect in told:
            match effect:
                case ("save", batch):
                    if self.saving[site]:
                        raise Violation(MACHINE_FAULT, f"site {site} saves while it saves")
                    self.saving[site] = batch
                case ("send", conn, answer):
                    self.stage.check_shown(answer)
                    if conn == self._conn(conn % 3):
                        self.told = (*self.told, (site, conn, answer))
                case ("ask", request):
                    if self.cut or not self.machines[AUTHORITY]:
                        self._step(site, ("lost",))
                    else:
                        self.asked[AUTHORITY] = (*self.asked[AUTHORITY], (self._conn(UPSTREAM), request))
                case ("accuse", text) if UPSTREAM not in self.altered:
                    raise Violation("R3", f"the replica accuses an honest authority: {text}")

    def _acknowledged(self, answer: Any) -> None:
        asked = self.stage.cast.script[self.done]
        disk = self.stage.disk(self.disks[AUTHORITY])
        self.waiting = False
        if isinstance(answer, Denied):
            raise Violation("R5", f"the authority refuses step {self.done} of the script: {answer.text}")
        if isinstance(answer, Stored):
            assert isinstance(asked, Submit), "a statement is stored"
            if (answer.index, asked.statement) not in disk.statements(answer.index, 1):
                raise Violation("R1", f"statement {answer.index} was acknowledged, and is not on disk")
        elif isinstance(answer, Issued):
            assert isinstance(asked, Issue), "a certificate is issued"
            self.serial = parse_leaf(answer.chain[0]).serial
            if self.serial not in {each.serial for each in disk.issued(USER, 0)}:
                raise Violation("R1", "a certificate was handed out that is not on disk, so nobody could revoke it")
        self.done += 1

    def _read(self, site: int, number: int) -> None:
        reading = self.stage.read(self.trust, site, number, self.now)
        is_lie = site == REPLICA and READER in self.altered
        if reading.fault and not is_lie:
            raise Violation("R3", f"a reader accuses site {site}: {reading.fault}")
        if reading.stale or reading.fault:
            if site == AUTHORITY and not reading.late:
                raise Violation("R3", f"the authority is taken for rolled back: {reading.stale}")
            self.questions += 1
            self.elsewhere = True
        else:
            self._check_revoked(self.stage.values[number])
            self.elsewhere = False
            self.trust = reading.trust
        self.reading = -1

    def _check_revoked(self, answer: Any) -> None:
        is_told = not self.serial or not isinstance(answer, HeadIs) or self.serial in answer.revoked
        if not is_told and read_head(answer.head).size > CHANGED:
            raise Violation("R6", "a head of the new key does not revoke the old key's certificate")

    def describe(self) -> str:
        """Return this state in one line, for people."""
        parts = [f"{self.now:.0f} s", f"{self.done} done"]
        for site, machine in enumerate(self.machines):
            state = "down" if not machine else "saving" if self.saving[site] else "up"
            parts.append(f"{NAMES[site]} {state}, {self.stage.disk(self.disks[site]).size()} statements")
            parts += [f"{NAMES[site]} <- {self._shown(request)}" for _, request in self.asked[site]]
        parts += [f"{self._shown(answer)} -> {ASKERS[conn % 3]}" for _, conn, answer in self.told]
        return "; ".join(parts)

    def _shown(self, number: int) -> str:
        value = self.stage.values[number]
        signed = getattr(value, "head", None)
        if not isinstance(signed, SignedHead):
            return type(value).__name__
        head = read_head(signed)
        return f"{type(value).__name__}({head.size} statements, {head.time - EPOCH} s)"

    # ---- the end -----------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Check a world in which nothing is left to happen, once the replica has polled until it is at rest.

        Raises:
            Violation: R1, R5 or R9.
        """
        self.left, self.cut = 0, False
        if self.done < self.spec.most or self.questions:
            left = f"{self.done} of {self.spec.most} requests done, {self.questions} questions left"
            raise Violation("R5", f"{left}, and nothing goes on")
        statements = [each.statement for each in self.stage.cast.script[: self.spec.most] if isinstance(each, Submit)]
        if [signed for _, signed in self.stage.disk(self.disks[AUTHORITY]).statements(0, 100)] != statements:
            raise Violation("R1", "the authority's disk does not have what was acknowledged")
        if self.spec.replica and UPSTREAM not in self.altered:
            self._catch_up()

    def _catch_up(self) -> None:
        """Let the replica poll until it has what the authority has."""
        for _ in range(SETTLING):
            size, most = (self.stage.disk(self.disks[site]).size() for site in (REPLICA, AUTHORITY))
            if size == most and not self.saving[REPLICA]:
                return
            if self._poll_due() is not None:
                self._poll()
            self._settle()
        raise Violation("R5", "the replica does not catch up, although nothing hinders it")

    def _settle(self) -> None:
        for _ in range(SETTLING):
            steps = self._pending()
            if not steps:
                return
            self.apply(steps[0])
        raise Violation("R5", "the realm does not come to rest")
