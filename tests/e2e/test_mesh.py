"""500 meetings on three hosts while servers are killed, frozen, cut off and brought back: none lost, none crossed.

What fails when comes from a seed, which is printed; TRUNKLINE_SEED=… runs one again. At no time are all servers
gone: each two clients that can reach each other can both reach one that lives. A round gives out meetings, breaks
something when some of them are made, and mends it when more are made, and perhaps when the mesh has noticed.
"""

import contextlib
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.hosts import Lan
from tests.e2e.mesh import Mesh, Workers, check_empty

pytestmark = [pytest.mark.e2e, pytest.mark.requires_root_netns]

HOSTS = ("one", "two", "three")
KINDS = ("aio", "blocking")
MEETINGS = 500
ROUND = 25  # meetings
TIMEOUT = 40.0  # seconds for one meeting: many times what the slowest recovery takes
SEED = 1


class Fault:
    """Something that breaks, and is mended: by what `pick` draws."""

    def __init__(self, mesh: Mesh, kind: str, hosts: list[str]) -> None:
        self._mesh = mesh
        self.kind = kind
        self.first, self.second, self.third = hosts

    def __str__(self) -> str:
        return f"{self.kind}({self.first}, {self.second}, {self.third})"

    def apart(self, one: str, two: str) -> bool:
        """Return whether clients on these hosts can't reach each other as long as it lasts."""
        if one == two:
            return False
        unplugged = self.kind.startswith("unplug") and self.first in (one, two)
        cut = "cut" in self.kind and {one, two} == {self.second, self.third}
        return unplugged or cut

    def strike(self) -> None:
        servers = self._mesh.servers
        match self.kind:
            case "kill":
                servers[self.first].kill()
            case "kill two":
                servers[self.first].kill()
                servers[self.second].kill()
            case "freeze":
                servers[self.first].freeze()
            case "freeze two":
                servers[self.first].freeze()
                servers[self.second].freeze()
            case "freeze and kill":
                servers[self.first].freeze()
                servers[self.second].kill()
            case "cut":
                self._mesh.lan.cut(self.second, self.third)
            case "kill and cut":
                servers[self.first].kill()
                self._mesh.lan.cut(self.second, self.third)
            case "unplug":
                self._mesh.lan.unplug(self.first)
            case "unplug and kill":
                self._mesh.lan.unplug(self.first)
                servers[self.second].kill()
            case _:
                raise AssertionError(self.kind)

    def wait_until_noticed(self) -> None:
        """Wait until the servers that live and are concerned miss each other."""
        match self.kind:
            case "kill" | "freeze" | "unplug":
                pairs = [(self.second, self.first), (self.third, self.first)]
            case "cut" | "kill and cut":
                pairs = [(self.second, self.third), (self.third, self.second)]
            case _:
                pairs = [(self.third, self.first), (self.third, self.second)]
        for by, other in pairs:
            self._mesh.wait_until(by, other, seen=False)

    def mend(self) -> None:
        mesh = self._mesh
        if "cut" in self.kind:
            mesh.lan.heal(self.second, self.third)
        if "unplug" in self.kind:
            mesh.lan.plug(self.first)
        for name, server in list(mesh.servers.items()):
            if server.returncode is None:
                server.thaw()
            else:
                mesh.start(name)


FAULTS = (
    "kill",
    "kill two",
    "freeze",
    "freeze two",
    "freeze and kill",
    "cut",
    "kill and cut",
    "unplug",
    "unplug and kill",
)


def draws(rng: random.Random) -> Iterator[str]:
    """Yield kinds of faults, each as often as the others, in any order."""
    while True:
        yield from rng.sample(FAULTS, len(FAULTS))


class Ledger:
    """Who is to meet whom, and what came of it."""

    def __init__(self, workers: Workers, rng: random.Random) -> None:
        self._workers = workers
        self._rng = rng
        self.names = [f"{host}/{kind}" for host in HOSTS for kind in KINDS]
        self.posts: dict[str, int] = {}
        self.pool: list[int] = []
        self.sides: dict[int, dict[str, str]] = {}
        """Job -> the meet that it is."""
        self.partners: dict[int, int] = {}
        self.late: list[tuple[str, int, dict[str, str]]] = []
        self._count = 0

    def post(self) -> None:
        """Have each worker post a name of its own, and one that is the same for all."""
        for worker in self.names:
            self.posts[worker] = self._workers.submit(worker, do="post", name=f"post/{worker}", nonce=worker)
            self.pool.append(self._workers.submit(worker, do="post", name="pool", nonce=f"pool {worker}"))
        for job in (*self.posts.values(), *self.pool):
            assert self._workers.result(job)["stands"] == 0

    def begin(self) -> tuple[list[int], set[str]]:
        """Begin one meeting: of two workers, or of one and a post. Return its jobs, and the hosts it needs."""
        self._count += 1
        rng, number = self._rng, self._count
        one, two = rng.sample(self.names, 2)
        if rng.random() < 0.6:
            here = self._meet(one, f"{number}/a", f"{number}/b")
            if rng.random() < 0.4:
                self.late.append((two, here, {"me": f"{number}/b", "you": f"{number}/a"}))
                jobs = [here]
            else:
                there = self._meet(two, f"{number}/b", f"{number}/a")
                self.partners |= {here: there, there: here}
                jobs = [here, there]
            return jobs, {one.split("/")[0], two.split("/")[0]}
        if rng.random() < 0.7:
            return [self._meet(one, f"{number}/a", f"post/{two}")], {one.split("/")[0], two.split("/")[0]}
        return [self._meet(one, f"{number}/a", "pool")], set(HOSTS)

    def begin_late(self) -> None:
        """Begin the other sides of the meetings of which one waits."""
        for worker, here, names in self.late:
            there = self._meet(worker, **names)
            self.partners |= {here: there, there: here}
        self.late.clear()

    def done(self, job: int) -> bool:
        return bool(self._workers.results[job])

    def _meet(self, worker: str, me: str, you: str) -> int:
        nonce = f"{me} {self._rng.getrandbits(64):016x}"
        job = self._workers.submit(worker, do="meet", me=me, you=you, nonce=nonce, timeout=TIMEOUT)
        self.sides[job] = {"worker": worker, "me": me, "you": you, "nonce": nonce}
        return job

    def faults(self) -> list[str]:
        """Return what went wrong: nothing, unless a meeting was lost, or made with the wrong partner, or twice."""
        accepted = Counter()
        wrong = []
        for post, job in [*self.posts.items(), *[("pool", job) for job in self.pool]]:
            for result in self._workers.results[job][1:]:
                if "error" in result:
                    wrong.append(f"the post of {post}: {result}")
                else:
                    accepted[(result["peer"], result["theirs"], result["mine"])] += 1
        for job, side in self.sides.items():
            result = self._workers.results[job][0]
            if "error" in result:
                wrong.append(f"{side}: {result['error']}")
            elif job in self.partners:
                partner = self.sides[self.partners[job]]
                if (result["peer"], result["theirs"]) != (side["you"], partner["nonce"]):
                    wrong.append(f"{side}: {result}")
            else:
                key = (side["me"], side["nonce"], result["theirs"])
                if result["peer"] != side["you"] or accepted.pop(key, 0) != 1:
                    wrong.append(f"{side}: {result}, and the posts know nothing of it")
        return wrong + [f"a post's meeting with nobody: {key}" for key in accepted]


@pytest.mark.timeout(300)
def test_500_meetings_while_servers_come_and_go(lan: Lan, tmp_path: Path) -> None:
    seed = int(os.environ.get("TRUNKLINE_SEED", SEED))
    print(f"TRUNKLINE_SEED={seed}")
    rng = random.Random(seed)
    mesh = Mesh(lan, HOSTS, tmp_path).start().wait_until_joined()
    with Workers() as workers:
        ledger = Ledger(workers, rng)
        for name in ledger.names:
            host, kind = name.split("/")
            workers.start(name, lan.host(host), mesh.environment(host), kind)
        ledger.post()
        kinds = draws(rng)
        for number in range(MEETINGS // ROUND):
            fault = Fault(mesh, next(kinds), rng.sample(HOSTS, 3))
            begun = [ledger.begin() for _ in range(ROUND)]
            # Those that can be made before the other sides come; then those that the fault does not keep apart.
            early = [jobs for jobs, _ in begun if len(jobs) == 2 or jobs[0] not in {job for _, job, _ in ledger.late}]
            free = [jobs for jobs, hosts in begun if len(hosts) < 3 and not fault.apart(min(hosts), max(hosts))]
            before, after = rng.randint(0, len(early) // 2), rng.randint(len(free) // 2, len(free))
            noticed = rng.random() < 0.6
            print(f"round {number}: {fault} after {before}, until {after} of {len(free)}{' and noticed' * noticed}")
            wait_for(workers, early, before)
            fault.strike()
            ledger.begin_late()
            wait_for(workers, free, after)
            if noticed:
                fault.wait_until_noticed()
            fault.mend()
        workers.wait(lambda: all(map(ledger.done, ledger.sides)))
        with contextlib.suppress(TimeoutError):
            # A post may hear the other's line after the other has heard its own.
            workers.wait(lambda: not ledger.faults(), deadline=10)
        wrong = ledger.faults()
        assert not wrong, f"TRUNKLINE_SEED={seed}\n" + "\n".join(wrong)
        workers.stop()
        check_empty(mesh, workers)
    mesh.stop()


def wait_for(workers: Workers, begun: list[list[int]], count: int) -> None:
    """Wait until so many of these meetings are made."""
    workers.wait(lambda: sum(all(workers.results[job] for job in jobs) for jobs in begun) >= count)
