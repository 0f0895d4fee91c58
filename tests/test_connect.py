import concurrent.futures
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import trunkline
from tests.leaks import no_leaks
from tests.live import LiveServer
from trunkline import connect
from trunkline.switchboard.config import ClientConfig

SOON = 20.0


@pytest.fixture
def server() -> Iterator[LiveServer]:
    with no_leaks(), LiveServer() as server:
        yield server


@pytest.fixture
def board(server: LiveServer, tmp_path: Path) -> Iterator[trunkline.Switchboard]:
    with trunkline.Switchboard(server.address, home=tmp_path) as board:
        yield board


@pytest.fixture
def pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        yield pool


def test_the_tour(board, pool):
    with board.post("printer") as post:
        future = pool.submit(board.meet, "alice", "printer", timeout=SOON)
        with post.accept(timeout=SOON) as conn, future.result() as theirs:
            assert (conn.peer.name, theirs.peer.name, conn.peer.path) == ("alice", "printer", "direct")
            theirs.sendall(b"page 1")
            assert conn.recv(100) == b"page 1"
    with pytest.raises(trunkline.ClosedError):
        post.accept()


def test_a_post_is_iterated(board, pool):
    names = [f"guest{n}" for n in range(3)]
    with board.post("service") as post:
        assert repr(post) == "<Post 'service'>"
        futures = [pool.submit(board.meet, name, "service", timeout=SOON) for name in names]
        seen = set()
        for conn in post:
            with conn:
                seen.add(conn.peer.name)
            if len(seen) == 3:
                break
        for future in futures:
            future.result().close()
    assert seen == set(names)


def test_a_post_is_selected(board, pool):
    with board.post("service") as post:
        assert select.select([post], [], [], 0) == ([], [], [])
        future = pool.submit(board.meet, "guest", "service", timeout=SOON)
        assert select.select([post], [], [], SOON) == ([post], [], [])
        post.accept(timeout=0).close()
        future.result().close()


def test_datagrams(board, pool):
    with board.post("service", datagram=True) as post:
        future = pool.submit(board.meet_datagram, "guest", "service", timeout=SOON)
        with post.accept(timeout=SOON) as conn, future.result() as theirs:
            theirs.send(b"ping")
            conn.settimeout(SOON)
            assert conn.recv(10) == b"ping"


def test_names_and_status(board):
    assert board.names() == []
    names = sorted(f"printer/{n}" for n in range(250))
    posts = [board.post(name) for name in names]
    assert [found.name for found in board.names("printer/")] == names  # more than one answer holds
    assert board.names("plotter/") == []
    status = board.status()
    assert (status.posts, status.clients) == (250, 1)
    for post in posts:
        post.close()
    assert board.status().posts == 0
    with pytest.raises(trunkline.InvalidName):
        board.names("\n")


def test_explain(board):
    with board.post("Printer"):
        assert any("Printer" in line for line in board.explain("alice", "printer"))
    with pytest.raises(trunkline.InvalidName):
        board.explain("alice", "alice")


def test_a_timeout_carries_the_explanation(board):
    with board.post("Printer"), pytest.raises(trunkline.MeetTimeout) as caught:
        board.meet("alice", "printer", timeout=0.1)
    assert any("Printer" in line for line in caught.value.explanation)
    assert isinstance(caught.value, TimeoutError)


def test_unique_names(board, server, tmp_path):
    with board.post("captain", unique=True) as post:
        assert post.secret is not None
        assert post.generation > 0
        with trunkline.Switchboard(server.address, home=tmp_path) as other:
            with pytest.raises(trunkline.NameTaken):
                other.post("captain", unique=True)
            with other.post("captain", unique=True, secret=post.secret.reveal()) as successor:
                assert successor.generation > post.generation
                assert successor.secret == post.secret
                with pytest.raises(trunkline.Displaced, match="captain"):
                    post.accept(timeout=SOON)


def test_a_broadcast_is_sent(board):
    board.broadcast(b"anybody there?")
    assert board.status().clients == 1
    with pytest.raises(ValueError, match="513 bytes exceeds the limit of 512"):
        board.broadcast(bytes(513))


@pytest.mark.parametrize("backlog", [0, 4097])
def test_a_backlog_has_limits(board, backlog):
    with pytest.raises(ValueError, match="1 to 4096"):
        board.post("service", backlog=backlog)


def test_a_secret_has_limits(board):
    for secret in (b"", bytes(65)):
        with pytest.raises(ValueError, match="1 to 64 bytes"):
            board.post("service", unique=True, secret=secret)


def test_the_server_is_found_by_the_settings_and_remembered(server, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        dead = f"127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("TRUNKLINE_SWITCHBOARDS", f"{dead},{server.address}")
    monkeypatch.setenv("TRUNKLINE_HOME", str(tmp_path))
    with trunkline.Switchboard() as board:
        board.status()
    monkeypatch.delenv("TRUNKLINE_SWITCHBOARDS")
    with trunkline.Switchboard(timings=ClientConfig(probe_stagger=1.0)) as board:
        assert board.status().address == server.address


def test_the_default_one_reads_its_settings_when_it_is_first_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TRUNKLINE_SWITCHBOARDS", server.address)
    monkeypatch.setenv("TRUNKLINE_HOME", str(tmp_path))
    try:
        assert trunkline.status().clients == 1
    finally:
        connect.default.close()


def test_an_empty_list_of_servers_is_a_mistake():
    with pytest.raises(trunkline.ConfigError, match="empty"):
        trunkline.Switchboard([])
    with pytest.raises(trunkline.InvalidAddress):
        trunkline.Switchboard("host:port")
