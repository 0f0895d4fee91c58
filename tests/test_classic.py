import concurrent.futures
from collections.abc import Iterator

import pytest

from tests.leaks import no_leaks
from tests.live import LiveServer
from trunkline import ClosedError, InvalidName, classic, connect


@pytest.fixture(autouse=True)
def default_switchboard(tmp_path, monkeypatch) -> Iterator[None]:
    """The paper's routines take no address: they use the default configuration."""
    with no_leaks(), LiveServer() as server:
        monkeypatch.setenv("TRUNKLINE_SWITCHBOARDS", server.address)
        monkeypatch.setenv("TRUNKLINE_HOME", str(tmp_path))
        monkeypatch.setattr(classic, "_registered", None)
        yield
        connect.default.close()


@pytest.fixture
def pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        yield pool


def test_meet(pool):
    future = pool.submit(classic.meet, "you", "me")
    with classic.meet("me", "you") as mine, future.result() as yours:
        mine.sendall(b"hello")
        assert yours.recv(5) == b"hello"


def test_meet_d(pool):
    future = pool.submit(classic.meet_d, "you", "me")
    with classic.meet_d("me", "you") as mine, future.result() as yours:
        mine.send(b"hello")
        yours.settimeout(20)
        assert yours.recv(5) == b"hello"


def test_putserver_and_meetclient(pool):
    classic.putserver("server")
    for n in range(3):
        future = pool.submit(classic.meet, f"client{n}", "server")
        with classic.meetclient() as conn, future.result():
            assert conn.peer.name == f"client{n}"


def test_a_second_putserver_takes_the_place_of_the_first(pool):
    classic.putserver("first")
    classic.putserver("second")
    assert [found.name for found in connect.names()] == ["second"]
    future = pool.submit(classic.meet, "client", "second")
    with classic.meetclient(), future.result():
        pass


def test_meetclient_needs_a_registration():
    with pytest.raises(ClosedError, match="putserver"):
        classic.meetclient()


def test_errors_are_exceptions():
    with pytest.raises(InvalidName):
        classic.meet("me", "me")
