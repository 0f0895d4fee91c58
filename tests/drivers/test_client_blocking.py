import concurrent.futures
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.leaks import no_leaks
from tests.live import LiveServer
from trunkline.drivers import peers_blocking
from trunkline.drivers.addresses import place
from trunkline.drivers.client_blocking import BlockingClient
from trunkline.drivers.offers import Offer
from trunkline.drivers.sockets import Connection, accept
from trunkline.errors import ClosedError, InvalidName, LinkClosed, MeetTimeout, NameTaken, NoSwitchboard
from trunkline.names import Address, Secret
from trunkline.switchboard.config import ClientConfig
from trunkline.wire.messages import AskStatus, ServerStatus

SOON = 20.0
"""A deadline that only a failing test meets."""


@pytest.fixture
def server() -> Iterator[LiveServer]:
    with LiveServer() as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with no_leaks():
        yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("trunkline")]


@pytest.fixture
def new_client() -> Iterator[Callable[..., BlockingClient]]:
    made: list[BlockingClient] = []

    def new(server: LiveServer | str, **settings: object) -> BlockingClient:
        address = Address.parse(server if isinstance(server, str) else server.address)
        config = ClientConfig(servers=(address,), place=place(), **settings)
        client = BlockingClient(lambda: (config, (), None), lambda servers: None)
        made.append(client)
        return client

    yield new
    for client in made:
        client.close()


@pytest.fixture
def client(server: LiveServer, new_client: Callable[..., BlockingClient]) -> BlockingClient:
    return new_client(server)


@pytest.fixture
def pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        yield pool


def post(client: BlockingClient, name: str, **settings: object) -> Offer:
    given = {"unique": False, "secret": None, "backlog": 128, **settings}
    return client.post(name, **given)


def status(client: BlockingClient) -> ServerStatus:
    answer = client.ask(AskStatus, SOON)
    assert isinstance(answer, ServerStatus)
    return answer


def until(condition: Callable[[], bool]) -> None:
    """Ask again until it is so; the test's own time-out ends it."""
    while not condition():
        time.sleep(0.002)


# ---- meetings ------------------------------------------------------------------------------------------------


def test_two_threads_of_one_process_meet(client, pool):
    future = pool.submit(client.meet, "bob", "alice", SOON)
    with client.meet("alice", "bob", SOON) as alice, future.result() as bob:
        assert (alice.peer.name, bob.peer.name) == ("bob", "alice")
        assert alice.peer.match == bob.peer.match
        assert alice.gettimeout() is None
        alice.sendall(b"from alice")
        bob.sendall(b"from bob")
        assert (bob.recv(100), alice.recv(100)) == (b"from alice", b"from bob")


def test_two_clients_meet_whichever_comes_first(server, new_client, pool):
    one, other = new_client(server), new_client(server)
    for first, second in ((one, other), (other, one)):
        early = pool.submit(first.meet, "early", "late", SOON)
        until(lambda: status(one).meets == 1)
        with second.meet("late", "early", SOON) as late, early.result() as conn:
            conn.sendall(b"x")
            assert late.recv(1) == b"x"


def test_bytes_right_behind_the_commit_are_the_users(server, new_client, pool):
    data = os.urandom(300_000)
    one, other = new_client(server), new_client(server)
    for a, b in ((one, other), (one, one)):
        future = pool.submit(a.meet, "a", "b", SOON)
        with b.meet("b", "a", SOON) as mine, future.result() as theirs:
            for sender, receiver in ((mine, theirs), (theirs, mine)):
                sending = pool.submit(lambda s=sender: (s.sendall(data), s.shutdown(socket.SHUT_WR)))
                with receiver.makefile("rb") as stream:
                    assert stream.read() == data
                sending.result()


def test_32_threads_meet_each_other(client, pool):
    def go(me: str, you: str) -> bytes:
        with client.meet(me, you, SOON) as conn:
            conn.sendall(me.encode().ljust(8))
            return conn.recv(8, socket.MSG_WAITALL).strip()

    pairs = [(f"left{i}", f"right{i}") for i in range(16)]
    for _ in range(3):
        futures = [(pool.submit(go, a, b), b) for a, b in pairs] + [(pool.submit(go, b, a), a) for a, b in pairs]
        for future, you in futures:
            assert future.result() == you.encode()
    assert status(client).meets == 0


def test_a_tcp_connection_has_no_delay(server, new_client, pool, monkeypatch):
    monkeypatch.setattr("trunkline.drivers.sockets._listen_unix", lambda: None)
    client = new_client(server)
    future = pool.submit(client.meet, "b", "a", SOON)
    with client.meet("a", "b", SOON) as one, future.result() as other:
        for conn in (one, other):
            assert conn.family in (socket.AF_INET, socket.AF_INET6)
            assert conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_datagrams(client, pool):
    future = pool.submit(client.meet, "b", "a", SOON, datagram=True)
    with client.meet("a", "b", SOON, datagram=True) as one, future.result() as other:
        assert one.type == other.type == socket.SOCK_DGRAM
        one.settimeout(SOON)
        other.settimeout(SOON)
        one.send(b"a datagram")
        assert other.recv(100) == b"a datagram"
        other.send(b"another")
        assert one.recv(100) == b"another"


def test_a_wrong_pair_is_refused_at_once(client):
    for me, you in (("a", "a"), ("", "b"), ("a", "x" * 256), ("a\n", "b")):
        with pytest.raises(InvalidName):
            client.meet(me, you, None)


def test_a_timeout_says_what_the_switchboard_knew(client):
    with pytest.raises(MeetTimeout, match=r"'nobody' did not come to meet 'me' within 0\.1 s") as caught:
        client.meet("me", "nobody", 0.1)
    assert caught.value.explanation
    assert status(client).meets == 0


def test_a_timeout_of_nothing_still_fails_cleanly(client):
    with pytest.raises(MeetTimeout):
        client.meet("me", "nobody", 0.0)
    assert status(client).meets == 0


def test_without_a_server_the_error_names_what_was_tried(new_client):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(NoSwitchboard, match=address):
        new_client(address).meet("a", "b", SOON)


def test_a_server_can_be_named(server, new_client):
    port = server.address.rpartition(":")[2]
    assert status(new_client(f"localhost:{port}")).clients == 1


def test_an_unknown_host_is_named_in_the_error(new_client):
    with pytest.raises(NoSwitchboard, match=r"no-such-host\.invalid"):
        new_client("no-such-host.invalid:7").meet("a", "b", SOON)


# ---- posts ---------------------------------------------------------------------------------------------------


def test_post_and_accept(server, new_client, pool):
    host, guest = new_client(server), new_client(server)
    offer = post(host, "service")
    for n in range(20):
        future = pool.submit(guest.meet, f"guest{n}", "service", SOON)
        with host.accept(offer, SOON) as conn, future.result() as theirs:
            assert conn.peer.name == f"guest{n}"
            theirs.sendall(b"?")
            assert conn.recv(1) == b"?"
    host.close_post(offer)
    assert status(guest).posts == 0


def test_many_threads_accept_from_many(server, new_client, pool):
    host = new_client(server)
    guests = [new_client(server) for _ in range(3)]
    offer = post(host, "service")

    def serve() -> None:
        with host.accept(offer, SOON) as conn:
            conn.sendall(conn.recv(8))

    def call(n: int) -> bool:
        with guests[n % 3].meet(f"guest{n}", "service", SOON) as conn:
            conn.sendall(b"%08d" % n)
            return conn.recv(8, socket.MSG_WAITALL) == b"%08d" % n

    for _ in range(5):
        serving = [pool.submit(serve) for _ in range(12)]
        assert all(pool.map(call, range(12)))
        for future in serving:
            future.result()
    host.close_post(offer)


def test_fileno_tells_when_a_client_waits(server, new_client, pool):
    host, guest = new_client(server), new_client(server)
    offer = post(host, "service")
    bell = host.bell(offer)
    assert not select.select([bell], [], [], 0)[0]
    with pytest.raises(MeetTimeout, match="nobody came to the post 'service' within 0 s"):
        host.accept(offer, 0)
    futures = [pool.submit(guest.meet, f"guest{n}", "service", SOON) for n in range(2)]
    peers = set()
    for _ in futures:
        assert select.select([bell], [], [], SOON)[0]  # nobody else turns the machine but the helper
        with host.accept(offer, 0) as conn:
            peers.add(conn.peer.name)
    assert peers == {"guest0", "guest1"}
    assert not select.select([bell], [], [], 0)[0]
    for future in futures:
        future.result().close()
    host.close_post(offer)
    with pytest.raises(ClosedError):
        host.bell(offer)


def test_a_client_gets_its_connection_while_the_owner_of_the_post_computes(server, new_client):
    host, guest = new_client(server), new_client(server)
    offer = post(host, "service")
    conn = guest.meet("guest", "service", SOON)  # this thread is the owner as well, and accepts nothing
    conn.sendall(b"in advance")
    until(
        lambda: len(offer.ready) == 1
    )  # the guest returned on its own Commit, which the helper thread has yet to read
    with host.accept(offer, 0) as served:
        assert served.recv(100) == b"in advance"
    conn.close()
    host.close_post(offer)


def test_closing_a_post_ends_those_who_accept(client, pool):
    offer = post(client, "service")
    futures = [pool.submit(client.accept, offer, None) for _ in range(3)]
    until(lambda: len(offer.acceptors) == 3)
    client.close_post(offer)
    for future in futures:
        with pytest.raises(ClosedError, match="'service'"):
            future.result()
    client.close_post(offer)


def test_who_is_not_accepted_reads_eof(server, new_client):
    host, guest = new_client(server), new_client(server)
    offer = post(host, "service")
    with guest.meet("guest", "service", SOON) as conn:
        until(lambda: len(offer.ready) == 1)
        host.close_post(offer)
        assert conn.recv(1) == b""


def test_a_unique_name_is_taken_over_by_its_secret(server, new_client, pool):
    first, second = new_client(server), new_client(server)
    secret = Secret(b"only we know")
    offer = post(first, "captain", unique=True, secret=secret)
    with pytest.raises(NameTaken, match="captain"):
        post(second, "captain", unique=True, secret=Secret(b"a guess"))
    waiting = pool.submit(first.accept, offer, SOON)
    successor = post(second, "captain", unique=True, secret=secret)
    assert successor.generation > offer.generation
    with pytest.raises(Exception, match="taken over"):
        waiting.result()
    assert select.select([], [], [], 0) == ([], [], [])
    second.close_post(successor)
    first.close_post(offer)


# ---- failures ------------------------------------------------------------------------------------------------


def test_a_server_that_comes_back_loses_nobody(server, new_client, pool):
    one, other = new_client(server, jitter=0.01), new_client(server, jitter=0.01)
    offer = post(one, "service")
    waiting = pool.submit(one.meet, "early", "late", SOON)
    until(lambda: status(other).meets == 1)
    server.stop()
    server.start()
    with other.meet("late", "early", SOON), waiting.result():
        pass
    with other.meet("guest", "service", SOON), one.accept(offer, SOON):
        pass
    one.close_post(offer)


def test_the_post_outlives_heartbeats_while_its_owner_computes(new_client):
    with LiveServer(heartbeat=0.1) as server:
        host, watcher = new_client(server), new_client(server)
        offer = post(host, "service")
        begun = status(watcher).uptime
        # Three heartbeats of silence, and the server would have closed the host's connection. This thread asks with
        # another client, and calls nothing of the host's.
        until(lambda: status(watcher).uptime - begun > 0.5)
        now = status(watcher)
        assert (now.clients, now.posts) == (2, 1)
        host.close_post(offer)


def test_close_ends_every_wait(client, pool):
    offer = post(client, "service")
    futures = [
        pool.submit(client.meet, "a", "b", None),
        pool.submit(client.accept, offer, None),
        pool.submit(client.meet, "c", "d", None),
    ]
    until(lambda: status(client).meets == 2 and len(offer.acceptors) == 1)
    client.close()
    for future in futures:
        with pytest.raises((ClosedError, LinkClosed)):
            future.result()
    client.close()
    assert status(client).meets == 0  # starts afresh


def test_a_broken_turn_cuts_everything_off_and_the_next_call_starts_afresh(client):
    offer = post(client, "service")

    class Broken:
        def step(self, event: object, now: float) -> None:
            raise ZeroDivisionError

        def next_deadline(self) -> None:
            return None

    with client._crew.turn:
        client._crew.reactor._machine = Broken()
    with pytest.raises(ZeroDivisionError):
        client.meet("a", "b", SOON)
    with pytest.raises(ClosedError, match="cut off"):
        client.accept(offer, SOON)
    until(lambda: status(client).clients == 1)
    assert status(client).posts == 0
    client.close_post(offer)


def test_running_out_of_descriptors_pauses_the_listener(server, new_client, pool, monkeypatch):
    host, guest = new_client(server), new_client(server)
    monkeypatch.setattr(peers_blocking, "ACCEPT_PAUSE", 0.01)
    offer = post(host, "service")
    failed = threading.Event()

    def full(listener: socket.socket, family: int) -> Connection:
        if not failed.is_set():
            failed.set()
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listener, family)

    monkeypatch.setattr(peers_blocking, "accept", full)
    with guest.meet("guest", "service", SOON), host.accept(offer, SOON):
        assert failed.is_set()
    host.close_post(offer)


# ---- signals and forks ---------------------------------------------------------------------------------------

PRELUDE = """
import os, signal, socket, sys, threading
import trunkline
board = trunkline.Switchboard(sys.argv[1], home=sys.argv[2])
"""


def run_script(server: LiveServer, home: object, script: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", PRELUDE + script, server.address, str(home)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> str:
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err.decode()) == (0, "")
    return out.decode()


@pytest.mark.parametrize(
    "call", ["board.meet('me', 'you')", "board.post('service').accept()", "board.meet_datagram('me', 'you')"]
)
def test_an_interrupt_leaves_nothing_behind(server, client, tmp_path, call):
    process = run_script(
        server,
        tmp_path,
        f"""
try:
    {call}
except KeyboardInterrupt:
    print(board.status().meets, flush=True)
    sys.stdin.read()
""",
    )
    until(lambda: (now := status(client)).meets + now.posts == 1)
    process.send_signal(signal.SIGINT)
    assert finish(process) == "0\n"


def test_an_interrupt_leaves_the_other_threads_alone(server, client, tmp_path):
    process = run_script(
        server,
        tmp_path,
        """
def serve():
    with board.meet("thread", "test", timeout=60) as conn:
        conn.sendall(b"still here")
thread = threading.Thread(target=serve)
thread.start()
try:
    board.meet("main", "nobody", timeout=60)
except KeyboardInterrupt:
    thread.join()
""",
    )
    until(lambda: status(client).meets == 2)
    process.send_signal(signal.SIGINT)
    until(lambda: status(client).meets == 1)
    with client.meet("test", "thread", SOON) as conn:
        assert conn.recv(100, socket.MSG_WAITALL) == b"still here"
    finish(process)


def test_other_signals_do_not_end_a_wait(server, client, tmp_path):
    process = run_script(
        server,
        tmp_path,
        """
signal.signal(signal.SIGUSR1, lambda number, frame: print("caught", flush=True))
with board.meet("script", "test", timeout=60) as conn:
    conn.sendall(b"met")
""",
    )
    until(lambda: status(client).meets == 1)
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.readline() == b"caught\n"
    with client.meet("test", "script", SOON) as conn:
        assert conn.recv(3, socket.MSG_WAITALL) == b"met"
    finish(process)


def test_the_child_of_a_fork_starts_afresh(server, client, tmp_path):
    process = run_script(
        server,
        tmp_path,
        """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of threads: the helper is one, and that is the test
post = board.post("parent")
before = set(os.listdir("/proc/self/fd"))
child = os.fork()
if child == 0:
    try:
        try:
            post.accept()
        except trunkline.ClosedError as error:
            assert "parent process" in str(error), error
        inherited = [fd for fd in before if os.path.exists("/proc/self/fd/" + fd)]
        assert all("socket" not in os.readlink("/proc/self/fd/" + fd) for fd in inherited), inherited
        with board.meet("child", "parent", timeout=60) as conn:
            conn.sendall(b"from the child")
        board.close()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
with post.accept(timeout=60) as conn:
    print(conn.peer.name, conn.recv(100, socket.MSG_WAITALL).decode())
_, status = os.waitpid(child, 0)
print(status, board.status().posts)
""",
    )
    assert finish(process) == "child from the child\n0 1\n"


def test_a_program_ends_quietly_with_everything_open(server, client, tmp_path):
    process = run_script(
        server,
        tmp_path,
        """
post = board.post("service")
post.fileno()
def serve():
    while True:
        post.accept().close()
threading.Thread(target=serve, daemon=True).start()
conn = board.meet("guest", "service", timeout=60)
conn.close()
print("done")
""",
    )
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"done\n")
    assert b"ResourceWarning" not in err
    until(lambda: status(client).clients == 1)
