import concurrent.futures
import select
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

import trunkline
from tests.leaks import no_leaks
from tests.live import LiveServer
from tests.realmkit import Realm
from trunkline import connect
from trunkline.switchboard.config import ClientConfig
from trunkline.switchboard.policy import Policy

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


# ---- secure meetings -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def realm() -> Realm:
    return Realm()


@pytest.fixture(scope="module")
def secure_server(realm: Realm) -> Iterator[LiveServer]:
    member = realm.membership("switchboard/s1")
    with LiveServer(member=member, policy=Policy(realm=realm.name)) as server:
        yield server


@pytest.fixture
def boards(realm: Realm, secure_server: LiveServer, tmp_path: Path) -> Iterator[tuple[trunkline.Switchboard, ...]]:
    """Ann's and ben's: each has the home of a member, with a certificate and a head that were kept."""
    homes = []
    for user in ("ann", "ben"):
        home = realm.home(tmp_path / user, user)
        home.keep_credential(user, realm.credential(user))
        home.keep_state(realm.trust().state())
        homes.append(home.path)
    ann, ben = (trunkline.Switchboard(secure_server.address, home=home) for home in homes)
    with ann, ben:
        yield ann, ben


def test_the_secure_tour(boards, pool):
    ann, ben = boards
    with ben.secure_post("vault", user="ben", allow=["ann", "ops/*"]) as post:
        assert repr(post) == "<SecurePost 'vault'>"
        assert post.name == "vault"
        future = pool.submit(ann.secure_meet, "alice", "vault", user="ann", peer_user="ben", timeout=SOON)
        with post.accept(timeout=SOON) as conn, future.result() as theirs:
            assert isinstance(conn, trunkline.SecureConnection)
            assert isinstance(conn, ssl.SSLSocket)
            assert (conn.peer.user, theirs.peer.user) == ("ann", "ben")
            theirs.sendall(b"gold")
            assert conn.recv(100) == b"gold"
    with pytest.raises(trunkline.ClosedError):
        post.accept()


def test_two_secure_meets_with_the_default_users(boards, pool):
    ann, ben = boards
    future = pool.submit(ben.secure_meet, "bob", "alice", peer_user="ann", timeout=SOON)
    with ann.secure_meet("alice", "bob", peer_user="ben", timeout=SOON) as conn, future.result():
        assert conn.peer.user == "ben"


def test_a_secure_post_is_iterated_and_selected(boards):
    ann, ben = boards
    with ben.secure_post("vault", allow="ann", unique=True) as post:
        assert post.secret is not None
        assert post.generation > 0
        with ann.secure_meet("alice", "vault", peer_user="ben", timeout=SOON):
            assert select.select([post], [], [], SOON)[0]
            for conn in post:
                conn.close()
                break


def test_a_process_can_be_several_users(realm, secure_server, pool):
    given = [realm.membership("ann"), realm.membership("ops/joe")]
    with trunkline.Switchboard(secure_server.address, memberships=given) as board:
        with board.secure_post("vault", user="ops/joe", allow=["ann"]) as post:
            future = pool.submit(board.secure_meet, "alice", "vault", peer_user="ops/joe", timeout=SOON)
            with post.accept(SOON) as conn, future.result() as theirs:
                assert (conn.peer.user, theirs.peer.user) == ("ann", "ops/joe")


@pytest.mark.parametrize(
    ("call", "kind", "part"),
    [
        (lambda b: b.secure_meet("a", "a", peer_user="ben"), trunkline.InvalidName, "can't meet itself"),
        (lambda b: b.secure_meet("a", "b", peer_user="b e n"), trunkline.InvalidUser, "segments"),
        (lambda b: b.secure_meet("a", "b", user="zoe", peer_user="ben"), trunkline.ConfigError, "zoe"),
        (lambda b: b.secure_post("a", allow=["*/*/ *"]), trunkline.InvalidUser, "segments"),
        (lambda b: b.secure_post("a", allow=[]), trunkline.ConfigError, "names nobody"),
        (lambda b: b.secure_post("a", allow=["x"] * 17), trunkline.ConfigError, "17 patterns"),
        (lambda b: b.secure_post("a", allow=["x"], backlog=0), ValueError, "backlog"),
    ],
)
def test_what_can_not_be_asked_for_securely(boards, call, kind, part):
    with pytest.raises(kind, match=part):
        call(boards[0])


def test_without_a_realm_nothing_is_secure(board):
    with pytest.raises(trunkline.ConfigError, match="belongs to no realm"):
        board.secure_meet("alice", "bob", peer_user="ben")
