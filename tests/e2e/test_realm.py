"""A realm on four hosts: 200 secure meetings while its authority and its servers fail; none lost, none wrong.

Who joins, does so by the line that `invite` prints, and is approved. Meanwhile certificates are renewed every few
seconds, a user is thrown out and refused from then on, and a laptop wakes up with a certificate that has ended.
"""

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.hosts import Lan
from tests.e2e.mesh import PATIENCE, Workers
from tests.e2e.realm import E2eRealm
from trunkline import connect
from trunkline.drivers.membership import Membership
from trunkline.errors import NotAllowed, TrunklineError

pytestmark = [pytest.mark.e2e, pytest.mark.requires_root_netns]

MEETINGS = 200
ROUND = 25
TIMEOUT = 40.0  # seconds for one meeting: many times what the slowest recovery takes
SLEPT = 4.0  # seconds that the laptop's certificate lives


class Ledger:
    """Who was to meet whom, and what came of it. Cleo is on host three, dan on host four."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._numbers = itertools.count(1)
        self._pairs: list[tuple[int, int]] = []
        self._calls: list[tuple[int, str]] = []
        self._nonces: dict[int, str] = {}
        self.certificates: dict[str, set[str]] = {}
        self.posts = {
            user: workers.submit(user, do="post", name=f"{user}/post", nonce=user, allow=[other, "lap", "eve"])
            for user, other in (("cleo", "dan"), ("dan", "cleo"))
        }
        for job in self.posts.values():
            assert "error" not in workers.result(job), workers.results[job]

    def begin(self, count: int) -> list[int]:
        """Begin so many meetings, of each kind in turn; return the jobs."""
        begun = []
        for number in itertools.islice(self._numbers, count):
            match number % 4:
                case 0:
                    begun.append(self.call("cleo", "dan"))
                case 1:
                    begun.append(self.call("dan", "cleo"))
                case _:
                    one = self._meet("cleo", f"cleo/{number}", f"dan/{number}", "dan")
                    other = self._meet("dan", f"dan/{number}", f"cleo/{number}", "cleo")
                    self._pairs.append((one, other))
                    begun += [one, other]
        return begun

    def call(self, user: str, other: str) -> int:
        """Meet the post of the other."""
        job = self._meet(user, f"{user}/call", f"{other}/post", other)
        self._calls.append((job, other))
        return job

    def wait(self, jobs: list[int]) -> None:
        self._workers.wait(lambda: all(self._workers.results[job] for job in jobs))

    def _meet(self, user: str, me: str, you: str, peer_user: str) -> int:
        nonce = f"{me} #{len(self._nonces)}"
        job = self._workers.submit(user, do="meet", me=me, you=you, nonce=nonce, timeout=TIMEOUT, peer_user=peer_user)
        self._nonces[job] = nonce
        return job

    def check(self) -> int:
        """See that everybody met whom they should, once; return how many meetings there were."""
        with contextlib.suppress(TimeoutError):
            # A post may hear the other's line after the other has heard its own.
            self._workers.wait(lambda: not self._wrong(), deadline=10)
        wrong = self._wrong()
        assert not wrong, "\n".join(wrong)
        return len(self._pairs) + len(self._calls)

    def _wrong(self) -> list[str]:
        accepted = Counter(
            (user, result["theirs"], result["mine"])
            for user, job in self.posts.items()
            for result in self._workers.results[job][1:]
            if result.get("theirs") and result["user"] != "eve"
        )
        wrong = []
        sides = [side for one, other in self._pairs for side in ((one, other), (other, one))]
        for job, partner in sides:
            result = self._note(job)
            if result.get("theirs") != self._nonces[partner]:
                wrong.append(f"{self._nonces[job]}: {result}")
        for job, user in self._calls:
            result = self._note(job)
            if result.get("user") != user or accepted.pop((user, self._nonces[job], result["theirs"]), 0) != 1:
                wrong.append(f"{self._nonces[job]}: {result}")
        return wrong + [f"a meeting with nobody: {key}" for key in accepted]

    def _note(self, job: int) -> dict[str, Any]:
        result = self._workers.results[job][0]
        if "user" in result:
            self.certificates.setdefault(result["user"], set()).add(result["certificate"])
        return result


def refusal(home: Path, timeout: float) -> TrunklineError | None:
    """Call dan as eve, whose program wants to hear no news; return what keeps her from it, None if nothing does."""
    with connect.Switchboard(home=home) as switchboard:
        try:
            switchboard.secure_meet("eve", "dan/post", peer_user="dan", timeout=timeout).close()
        except TrunklineError as error:
            return error
    return None


@pytest.mark.timeout(200)
def test_a_realm_through_its_faults(lan: Lan, tmp_path: Path) -> None:
    realm = E2eRealm(lan, tmp_path)
    realm.make()
    homes = {name: realm.join(name, name) for name in ("cleo", "dan", "lap", "eve")}
    realm.says("one", realm.admin, "key", "approve", "--yes", *homes)
    # The lid is closed before the laptop has met anybody: without a network it can't get another certificate.
    for server in realm.hosts:
        lan.cut("lap", server)
    with Workers() as workers:
        for name, kind in (("cleo", "aio"), ("dan", "blocking")):
            realm.worker(workers, name, kind)
        ledger = Ledger(workers)
        laptop_ends = realm.certify(homes["lap"], "lap", SLEPT)
        realm.worker(workers, "lap", "blocking")
        assert workers.result(workers.submit("lap", do="expires"))["expires"] == laptop_ends
        workers.processes["lap"].freeze()

        def during(strike: Callable[[], None]) -> list[int]:
            """Begin a round of meetings, and have something break when some of them are made."""
            begun = ledger.begin(ROUND)
            ledger.wait(begun[: ROUND // 5])
            strike()
            return begun + ledger.begin(ROUND)

        # The authority dies. Meetings need it for nothing; what is asked of the directory, the replica answers.
        jobs = during(realm.servers["authority"].kill)
        assert "approved" in realm.says("dan", homes["dan"], "key", "get", "cleo")
        ledger.wait(jobs)
        realm.start_authority()

        # A server dies. Its clients go to the other.
        jobs = during(realm.servers["one"].kill)
        ledger.wait(jobs)
        realm.start_switchboards("one")

        # Two hosts don't hear each other: cleo's, and that of one server and of the authority.
        jobs = during(lambda: lan.cut("cleo", "one"))
        ledger.wait(jobs)
        lan.heal("cleo", "one")

        # The other server dies, and the replica.
        jobs = during(lambda: [realm.servers[name].kill() for name in ("two", "replica")])
        ledger.wait(jobs)
        realm.start_switchboards("two")
        realm.start_replica()

        # A user is thrown out, whose program goes on as if nothing had happened.
        eve = homes["eve"].home.path
        with lan.host("eve").entered():
            with Membership.open(homes["eve"].home) as member:
                member.ready(PATIENCE)
            realm.make_deaf(homes["eve"])
            assert refusal(eve, TIMEOUT) is None
            with connect.Switchboard(home=eve) as switchboard:
                with pytest.raises(NotAllowed, match="the user 'eve' may not post 'dan/post'"):
                    switchboard.secure_post("dan/post", allow="dan")
        root = realm.admin.home.path / "admin"
        realm.says("one", realm.admin, "key", "delete", "eve", "--reason", "stolen", "--yes", "--admin-dir", root)
        jobs = ledger.begin(ROUND)
        tries = 0
        with lan.host("eve").entered():
            while "revoked" not in str(refusal(eve, 1.0)):
                tries += 1
                assert tries < 20, "eve is let in still"
            assert refusal(eve, 1.0) is not None
        ledger.wait(jobs)

        # The laptop wakes up after the end of its certificate.
        while time.time() <= laptop_ends:
            ledger.wait(ledger.begin(4))
        for server in realm.hosts:
            lan.heal("lap", server)
        workers.processes["lap"].thaw()
        ledger.wait([ledger.call("lap", "dan"), ledger.call("lap", "cleo")])
        ledger.check()
        assert workers.result(workers.submit("lap", do="expires"))["expires"] > laptop_ends

        assert ledger.check() >= MEETINGS
        assert all(len(ledger.certificates[user]) > 1 for user in ("cleo", "dan")), "nobody's certificate was renewed"
        workers.stop()
    realm.stop()
