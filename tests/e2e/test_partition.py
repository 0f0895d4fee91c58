"""Servers that can't see each other, or don't answer, while each of their clients can still see some server.

Servers are on hosts one, two and three; clients on four and five, so that a cut between servers parts no clients.
"""

import itertools
from pathlib import Path

import pytest

from tests.e2e.hosts import Lan
from tests.e2e.mesh import Mesh, Workers, check_empty

pytestmark = [pytest.mark.e2e, pytest.mark.requires_root_netns]

SERVERS = ("one", "two", "three")
TIMEOUT = 40.0
KINDS = list(itertools.product(("aio", "blocking"), repeat=2))


def start(workers: Workers, mesh: Mesh, name: str, host: str, kind: str, *servers: str) -> None:
    """Start a worker that is told of these servers alone; of others it hears by itself."""
    workers.start(name, mesh.lan.host(host), mesh.environment(host, *servers), kind)


def begin(workers: Workers, worker: str, me: str, you: str) -> int:
    return workers.submit(worker, do="meet", me=me, you=you, nonce=f"by {me}", timeout=TIMEOUT)


def check_met(workers: Workers, job: int, you: str, nonce: str) -> None:
    assert workers.result(job) == {"peer": you, "theirs": nonce}


@pytest.mark.parametrize("third_only", [False, True], ids=["all in reach", "only the third in common"])
def test_clients_of_two_servers_that_cannot_see_each_other_meet(lan: Lan, tmp_path: Path, third_only: bool) -> None:
    mesh = Mesh(lan, SERVERS, tmp_path).start().wait_until_joined()
    lan.host("four"), lan.host("five")
    lan.cut("one", "two")
    if third_only:
        lan.cut("four", "two")
        lan.cut("five", "one")
    mesh.wait_until("one", "two", seen=False)
    mesh.wait_until("two", "one", seen=False)
    with Workers() as workers:
        start(workers, mesh, "four", "four", "aio", "one")
        start(workers, mesh, "five", "five", "blocking", "two")
        post = workers.submit("five", do="post", name="post", nonce="p")
        assert workers.result(post)["stands"] == 0
        first = begin(workers, "four", "a", "b")
        check_met(workers, begin(workers, "five", "b", "a"), "a", "by a")
        check_met(workers, first, "b", "by b")
        first = begin(workers, "five", "c", "d")
        check_met(workers, begin(workers, "four", "d", "c"), "c", "by c")
        check_met(workers, first, "d", "by d")
        check_met(workers, begin(workers, "four", "e", "post"), "post", "p/1")
        lan.heal("one", "two")
        mesh.wait_until_joined()
        check_met(workers, begin(workers, "four", "f", "post"), "post", "p/2")
        workers.stop()
        check_empty(mesh, workers)
    mesh.stop()


def test_clients_of_two_servers_that_never_saw_each_other_meet(lan: Lan, tmp_path: Path) -> None:
    mesh = Mesh(lan, ("one", "two"), tmp_path)
    lan.cut("one", "two")
    mesh.start()
    with Workers() as workers:
        start(workers, mesh, "four", "four", "blocking", "one")
        start(workers, mesh, "five", "five", "aio", "two")
        first = begin(workers, "four", "a", "b")
        check_met(workers, begin(workers, "five", "b", "a"), "a", "by a")
        check_met(workers, first, "b", "by b")
        workers.stop()
        check_empty(mesh, workers)
    mesh.stop()


@pytest.mark.parametrize(("kind", "other"), KINDS)
def test_clients_of_a_frozen_server_move_on(lan: Lan, tmp_path: Path, kind: str, other: str) -> None:
    mesh = Mesh(lan, SERVERS, tmp_path).start().wait_until_joined()
    with Workers() as workers:
        start(workers, mesh, "four", "four", kind, "one", "three", "two")
        start(workers, mesh, "five", "five", other, "two")
        post = workers.submit("four", do="post", name="post", nonce="p")
        assert workers.result(post)["stands"] == 0
        waiting = begin(workers, "four", "a", "b")
        # Jobs of a worker that come later are lodged later: when this is made, the one before it waits.
        made = begin(workers, "four", "x", "y")
        check_met(workers, begin(workers, "five", "y", "x"), "x", "by x")
        check_met(workers, made, "y", "by y")
        mesh.servers["one"].freeze()
        check_met(workers, begin(workers, "five", "b", "a"), "a", "by a")
        check_met(workers, waiting, "b", "by b")
        check_met(workers, begin(workers, "five", "c", "post"), "post", "p/1")
        mesh.servers["one"].thaw()
        mesh.wait_until_joined()
        workers.stop()
        check_empty(mesh, workers)
    mesh.stop()


def test_clients_that_crash_or_vanish_leave_nothing_on_any_server(lan: Lan, tmp_path: Path) -> None:
    mesh = Mesh(lan, SERVERS, tmp_path).start().wait_until_joined()
    with Workers() as workers:
        for name, (kind, server) in {
            "crashes": ("aio", "one"),
            "freezes": ("blocking", "two"),
            "vanishes": ("aio", "three"),
        }.items():
            start(workers, mesh, name, "four" if name == "vanishes" else "five", kind, server)
            post = workers.submit(name, do="post", name="post", nonce="p")
            for number in range(20):
                begin(workers, name, f"{name}/{number}", "nobody")
            assert workers.result(post)["stands"] == 0
        workers.processes["crashes"].kill()
        workers.processes["freezes"].freeze()
        lan.unplug("four")
        check_empty(mesh, workers)
        workers.processes["freezes"].thaw()
    mesh.stop()
