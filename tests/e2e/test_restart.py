"""What outlives a server, and what outlives its holder; and what is said when there is no server at all."""

import contextlib
import http.client
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.hosts import Host, Lan
from tests.e2e.mesh import PATIENCE, TRUNKLINE, Mesh, Workers, check_empty

pytestmark = [pytest.mark.e2e, pytest.mark.requires_root_netns]

TIMEOUT = 40.0


@pytest.fixture
def mesh(lan: Lan, tmp_path: Path) -> Iterator[Mesh]:
    """One server, on host one."""
    mesh = Mesh(lan, ("one",), tmp_path).start()
    yield mesh
    mesh.stop()


@pytest.fixture
def workers(mesh: Mesh) -> Iterator[Workers]:
    """Workers two and three on other hosts: the one by asyncio, the other blocking."""
    with Workers() as workers:
        for name, kind in (("two", "aio"), ("three", "blocking")):
            start(workers, mesh, name, kind)
        yield workers


def start(workers: Workers, mesh: Mesh, name: str, kind: str) -> None:
    workers.start(name, mesh.lan.host(name), mesh.environment(name), kind)


def meet(workers: Workers, worker: str, me: str, you: str) -> int:
    return workers.submit(worker, do="meet", me=me, you=you, nonce=f"by {me}", timeout=TIMEOUT)


@pytest.mark.parametrize(("poster", "client"), [("two", "three"), ("three", "two")])
def test_a_post_and_a_waiting_meet_outlive_their_only_server(
    mesh: Mesh, workers: Workers, poster: str, client: str
) -> None:
    post = workers.submit(poster, do="post", name="post", nonce="p")
    assert workers.result(post)["stands"] == 0
    waiting = meet(workers, client, "a", "b")
    assert workers.result(meet(workers, client, "c", "post")) == {"peer": "post", "theirs": "p/1"}
    mesh.servers["one"].kill()
    mesh.start("one")
    assert workers.result(meet(workers, client, "d", "post")) == {"peer": "post", "theirs": "p/2"}
    assert workers.result(meet(workers, poster, "b", "a")) == {"peer": "a", "theirs": "by a"}
    assert workers.result(waiting) == {"peer": "b", "theirs": "by b"}
    workers.stop()
    check_empty(mesh, workers)


def test_a_server_that_stops_in_good_order_is_no_loss_either(mesh: Mesh, workers: Workers) -> None:
    post = workers.submit("two", do="post", name="post", nonce="p")
    assert workers.result(post)["stands"] == 0
    mesh.stop()
    mesh.start("one")
    assert workers.result(meet(workers, "three", "a", "post")) == {"peer": "post", "theirs": "p/1"}


def test_a_unique_name_is_taken_over_by_its_secret(mesh: Mesh, workers: Workers) -> None:
    first = workers.submit("two", do="post", name="master", nonce="first", unique=True)
    held = workers.result(first)
    assert workers.result(meet(workers, "three", "a", "master"))["theirs"] == "first/1"
    other = workers.submit("three", do="post", name="master", nonce="other", unique=True)
    assert workers.result(other)["error"].startswith("NameTaken: ")

    # Its holder does not answer: the secret has the name at once, and keeps it when the other is back.
    workers.processes["two"].freeze()
    second = workers.submit("three", do="post", name="master", nonce="second", unique=True, secret=held["secret"])
    taken = workers.result(second)
    assert taken["stands"] > held["stands"] > 0
    assert taken["secret"] == held["secret"]
    start(workers, mesh, "four", "aio")
    assert workers.result(meet(workers, "four", "b", "master"))["theirs"] == "second/1"
    workers.processes["two"].thaw()
    assert workers.result(first, after=2)["error"].startswith("Displaced: ")

    # Its holder is killed: as before.
    workers.processes.pop("three").kill()
    third = workers.submit("four", do="post", name="master", nonce="third", unique=True, secret=held["secret"])
    assert workers.result(third)["stands"] > taken["stands"]
    assert workers.result(meet(workers, "two", "c", "master"))["theirs"] == "third/1"
    workers.stop()
    check_empty(mesh, workers)


def test_expose_and_reach_outlive_their_only_server(mesh: Mesh) -> None:
    two, three = mesh.lan.host("two"), mesh.lan.host("three")
    folder = mesh.folder / "site"
    folder.mkdir()
    (folder / "page").write_text("words")
    serve = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", folder]
    with (
        two.start([*serve, "--protocol", "HTTP/1.1", "8000"]) as site,
        mesh.command("two", "expose", "web", "tcp:127.0.0.1:8000") as exposed,
        mesh.command("three", "reach", "web", "--listen", "127.0.0.1:9000") as reached,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", 9000, timeout=PATIENCE)) as old,
    ):
        site.wait_for_line("Serving", PATIENCE)
        exposed.wait_for_line("leads to", PATIENCE)
        reached.wait_for_line("leads to", PATIENCE)
        with three.entered():
            old.connect()
        for _ in range(2):
            assert get(three, old) == b"words"
            mesh.servers["one"].kill()
            assert get(three, old) == b"words", "a connection that is made needs no server"
            mesh.start("one")
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", 9000, timeout=PATIENCE)) as new:
                assert get(three, new) == b"words"


def get(host: Host, client: http.client.HTTPConnection) -> bytes:
    with host.entered():
        client.request("GET", "/page")
    response = client.getresponse()
    assert response.status == 200
    return response.read()


def test_no_server_at_all_names_what_was_tried_and_what_to_do(lan: Lan, tmp_path: Path) -> None:
    one, two = lan.host("one"), lan.host("two")
    environment = {"TRUNKLINE_SWITCHBOARDS": f"{two.address}:7117,{one.address}:7118", "TRUNKLINE_HOME": str(tmp_path)}
    words = [
        ["meet", "a", "b"],
        ["expose", "web", "tcp:127.0.0.1:8000"],
        ["reach", "web", "--listen", "127.0.0.1:9000"],
        ["status"],
    ]
    processes = [one.start([*TRUNKLINE, *each], env=environment) for each in words]
    with Workers() as workers:
        for kind in ("aio", "blocking"):
            workers.start(kind, one, environment, kind)
            error = workers.result(workers.submit(kind, do="meet", me="a", you="b", nonce="x", timeout=TIMEOUT))[
                "error"
            ]
            assert error.startswith("NoSwitchboard: ")
            check_names_the_cause(error, environment)
        workers.stop()
    for process in processes:
        assert process.wait(PATIENCE) == 1
        check_names_the_cause(process.stderr, environment)
        assert "Traceback" not in process.stderr


def check_names_the_cause(text: str, environment: dict[str, str]) -> None:
    for address in environment["TRUNKLINE_SWITCHBOARDS"].split(","):
        assert address in text
    assert "refused" in text
    assert "trunkline up" in text
