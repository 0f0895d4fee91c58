import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.drivers.aiokit import LOOPS, Raw, run, server
from trunkline import aio
from trunkline.aio import Switchboard
from trunkline.drivers.meetings_aio import Meeting
from trunkline.drivers.server_aio import SwitchboardServer
from trunkline.drivers.sockets import Connection
from trunkline.errors import (
    ClosedError,
    ConfigError,
    Displaced,
    InvalidName,
    MeetTimeout,
    NameTaken,
    NoSwitchboard,
)
from trunkline.names import Address, Secret
from trunkline.switchboard.config import ClientConfig
from trunkline.switchboard.events import Delivered
from trunkline.switchboard.server import Server
from trunkline.wire.codec import PREAMBLE, encode
from trunkline.wire.messages import Hello

Loop = Callable[[], asyncio.AbstractEventLoop]
either_loop = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_HOME", str(tmp_path))
    monkeypatch.delenv("TRUNKLINE_SWITCHBOARDS", raising=False)


@contextlib.asynccontextmanager
async def world():
    """A server and a client of it."""
    async with server() as s, Switchboard(s.address) as board:
        yield s, board


async def lodged(board: Switchboard, number: int) -> None:
    """Wait until that many meets wait on the server."""
    while (await board.status()).meets != number:
        pass


async def nothing_waits(board: Switchboard) -> None:
    while (status := await board.status()).meets or status.posts:
        pass


# ---- meets ----------------------------------------------------------------------------------------------------


@either_loop
@pytest.mark.parametrize("first", ["alice", "bob"])
def test_either_may_come_first(first: str, loop: Loop) -> None:
    second = "bob" if first == "alice" else "alice"

    async def main() -> None:
        async with world() as (_, board):
            early = asyncio.create_task(board.meet(first, second))
            await lodged(board, 1)
            reader, writer, peer = await board.meet(second, first)
            reader2, writer2, peer2 = await early
            assert (peer.name, peer2.name) == (first, second)
            assert peer.match == peer2.match
            assert peer.path == "direct"
            assert writer.get_extra_info("peer") is peer
            assert writer.get_extra_info("socket") is not None
            assert writer.get_extra_info("nothing", 7) == 7
            writer.write(b"hello")
            assert await reader2.readexactly(5) == b"hello"
            writer2.write(b"world!")
            assert await reader.readexactly(6) == b"world!"
            writer.close()
            writer2.close()
            await nothing_waits(board)

    run(main, loop)


@either_loop
def test_two_processes_worth_of_clients(loop: Loop) -> None:
    async def main() -> None:
        async with server() as s, Switchboard(str(s.address)) as left, Switchboard([s.address]) as right:
            (_, writer, _), (reader, writer2, _) = await asyncio.gather(left.meet("a", "b"), right.meet("b", "a"))
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            writer.close()
            writer2.close()

    run(main, loop)


@either_loop
def test_two_hundred_at_once(loop: Loop) -> None:
    async def main() -> None:
        async def one(board: Switchboard, me: str, you: str) -> None:
            reader, writer, peer = await board.meet(me, you)
            assert peer.name == you
            writer.write(f"{me}>{you};".encode())
            assert await reader.readuntil(b";") == f"{you}>{me};".encode()
            writer.close()

        async with world() as (_, board):
            pairs = [(f"a{i}", f"b{i}") for i in range(100)]
            await asyncio.gather(*(one(board, *pair) for pair in pairs), *(one(board, b, a) for a, b in pairs))
            await nothing_waits(board)

    run(main, loop)


def test_the_users_bytes_arrive_exactly() -> None:
    async def main() -> None:
        async with world() as (_, board):
            loop = asyncio.get_running_loop()
            one, two = await asyncio.gather(board.meet_socket("a", "b"), board.meet_socket("b", "a"))
            with one, two:
                assert one.gettimeout() == 0.0
                assert one.peer.name == "b"
                data = os.urandom(300_000)
                sending = asyncio.create_task(loop.sock_sendall(one, data))
                await loop.sock_sendall(two, b"TRUNKC/1TRUNKR/1")  # looks like ours, and is the user's
                got = b""
                while len(got) < len(data):
                    got += await loop.sock_recv(two, 65536)
                await sending
                assert got == data
                assert await loop.sock_recv(one, 99) == b"TRUNKC/1TRUNKR/1"

    run(main)


def test_data_sent_at_once_is_not_ours() -> None:
    async def main() -> None:
        async with world() as (_, board):
            loop = asyncio.get_running_loop()
            post = await board.post("p")
            for _ in range(20):
                with await board.meet_socket("a", "p") as near:
                    near.send(b"at once")  # before the other side has even read our commit
                    with await post.accept_socket() as far:
                        assert await loop.sock_recv(far, 99) == b"at once"
            await post.close()

    run(main)


def test_datagrams() -> None:
    async def main() -> None:
        async with world() as (_, board):
            loop = asyncio.get_running_loop()
            one, two = await asyncio.gather(board.meet_datagram("a", "b"), board.meet_datagram("b", "a"))
            with one, two:
                assert one.type == two.type == socket.SOCK_DGRAM
                one.send(b"ping")
                assert await loop.sock_recv(two, 99) == b"ping"
                two.send(b"pong")
                assert await loop.sock_recv(one, 99) == b"pong"

    run(main)


def test_streams_on_a_loop_that_is_not_asyncios(monkeypatch: pytest.MonkeyPatch) -> None:
    class Foreign(asyncio.SelectorEventLoop):
        def __getattribute__(self, name: str) -> object:
            if name == "_make_socket_transport" and not self.inside:
                raise AttributeError(name)
            return super().__getattribute__(name)

        inside = False

        async def create_connection(self, *args: object, **kwargs: object) -> object:
            self.inside = True
            try:
                return await super().create_connection(*args, **kwargs)
            finally:
                self.inside = False

    async def main() -> None:
        async with world() as (_, board), board.post("p") as post:
            (_, writer, peer), (reader2, writer2, _) = await asyncio.gather(board.meet("a", "p"), post.accept())
            assert peer.name == "p"
            assert writer.get_extra_info("peer") is peer
            writer.write(b"x")
            assert await reader2.readexactly(1) == b"x"
            writer.close()
            writer2.close()

    run(main, Foreign)


def test_wrong_names() -> None:
    async def main() -> None:
        async with world() as (_, board):
            for me, you in (("", "b"), ("a", "a"), ("a", "x" * 256), ("a", "b\n"), ("a", "\udc80")):
                with pytest.raises(InvalidName):
                    await board.meet(me, you)
                with pytest.raises(InvalidName):
                    await board.explain(me, you)
            with pytest.raises(InvalidName):
                board.post("")
            with pytest.raises(InvalidName):
                await board.names("\0")

    run(main)


# ---- deadlines and cancellation -------------------------------------------------------------------------------


@either_loop
def test_a_deadline_explains_itself(loop: Loop) -> None:
    async def main() -> None:
        async with world() as (_, board), board.post("printer"):
            with pytest.raises(MeetTimeout) as caught:
                await board.meet("a", "Printer", timeout=0.1)
            assert isinstance(caught.value, TimeoutError)
            assert (caught.value.me, caught.value.you) == ("a", "Printer")
            assert "'printer' is posted" in str(caught.value)
            assert (await board.status()).meets == 0

    run(main, loop)


def test_a_cancelled_meet_leaves_nothing_behind() -> None:
    async def main() -> None:
        async with world() as (_, board):
            tasks = [asyncio.create_task(board.meet(f"a{i}", "b")) for i in range(5)]
            await lodged(board, 5)
            for task in tasks:
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            await lodged(board, 0)

    run(main)


def test_a_meet_cancelled_before_it_is_lodged() -> None:
    async def main() -> None:
        async with world() as (_, board):
            task = asyncio.create_task(board.meet("a", "b"))
            await asyncio.sleep(0)
            task.cancel()
            await lodged(board, 0)

    run(main)


@pytest.mark.parametrize("face", ["meet", "meet_socket", "meet_datagram"])
@pytest.mark.parametrize("whose", ["b", "a"])
def test_cancelled_in_the_turn_in_which_it_comes(face: str, whose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world() as (_, board):
            task = asyncio.create_task(getattr(board, face)("a", "b"))
            delivered = Meeting.delivered

            def and_cancel(meeting: Meeting, conn: Connection, met: Delivered) -> None:
                delivered(meeting, conn, met)
                if conn.peer.name == whose:
                    task.cancel()

            monkeypatch.setattr(Meeting, "delivered", and_cancel)
            other = asyncio.create_task(getattr(board, face)("b", "a"))
            with pytest.raises(asyncio.CancelledError):
                await task
            monkeypatch.undo()
            result = await other
            if face == "meet":
                assert await result[0].read() == b""
                result[1].close()
            else:
                result.close()
            await nothing_waits(board)

    run(main)


# ---- posts ----------------------------------------------------------------------------------------------------


@either_loop
def test_a_post_serves_one_after_the_other(loop: Loop) -> None:
    async def main() -> None:
        async with world() as (_, board):
            async with board.post("echo") as post:

                async def serve() -> None:
                    async for reader, writer, peer in post:
                        writer.write(peer.name.encode() + await reader.readexactly(1))
                        writer.close()

                serving = asyncio.create_task(serve())
                for i in range(5):
                    reader, writer, peer = await board.meet(f"client{i}", "echo")
                    assert peer.name == "echo"
                    writer.write(b"!")
                    assert await reader.read() == f"client{i}!".encode()
                    writer.close()
            await serving  # ends with the post
            await nothing_waits(board)

    run(main, loop)


def test_more_clients_than_the_backlog() -> None:
    async def main() -> None:
        async with world() as (_, board), board.post("p", backlog=2) as post:
            meets = [asyncio.create_task(board.meet_socket(f"a{i}", "p")) for i in range(10)]
            names = set()
            for _ in meets:
                with await post.accept_socket() as conn:
                    names.add(conn.peer.name)
            assert names == {f"a{i}" for i in range(10)}
            for task in meets:
                (await task).close()

    run(main)


def test_accept_has_a_deadline() -> None:
    async def main() -> None:
        async with world() as (_, board), board.post("p") as post:
            for timeout in (0, 0.01):
                with pytest.raises(MeetTimeout, match="nobody came to the post 'p'"):
                    await post.accept(timeout=timeout)
            with await board.meet_socket("a", "p"), await post.accept_socket(timeout=30):
                pass

    run(main)


def test_a_cancelled_accept_loses_nobody() -> None:
    async def main() -> None:
        async with world() as (_, board), board.post("p") as post:
            waiting = asyncio.create_task(post.accept())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            accepting = asyncio.create_task(post.accept_socket())
            await asyncio.sleep(0)
            delivered = post.delivered

            def and_cancel(conn: Connection, met: Delivered) -> None:
                delivered(conn, met)
                accepting.cancel()  # in the very turn in which it comes

            post.delivered = and_cancel
            with await board.meet_socket("a", "p") as near:
                with pytest.raises(asyncio.CancelledError):
                    await accepting
                with await post.accept_socket() as far:
                    assert far.peer.name == "a"
                    assert near.peer.name == "p"

    run(main)


def test_clients_that_nobody_accepted_read_eof() -> None:
    async def main() -> None:
        async with world() as (_, board):
            async with board.post("p"):
                reader, writer, _ = await board.meet("a", "p")
            assert await reader.read() == b""
            writer.close()

    run(main)


def test_a_pool_of_posts() -> None:
    async def main() -> None:
        async with (
            server() as s,
            Switchboard(s.address) as one,
            Switchboard(s.address) as two,
            one.post("p") as post,
            two.post("p") as post2,
        ):
            for i in range(4):
                (await one.meet_socket(f"a{i}", "p")).close()
            for _ in range(2):
                (await post.accept_socket(timeout=30)).close()
                (await post2.accept_socket(timeout=30)).close()
            assert [name.holders for name in await one.names("p")] == [2]

    run(main)


def test_a_datagram_post() -> None:
    async def main() -> None:
        async with world() as (_, board), board.post("d", datagram=True) as post:
            near, far = await asyncio.gather(board.meet_datagram("a", "d"), post.accept_socket())
            with near, far:
                near.send(b"x")
                assert await asyncio.get_running_loop().sock_recv(far, 9) == b"x"
            with pytest.raises(ConfigError, match="accept_socket"):
                await post.accept()

    run(main)


def test_a_unique_name_is_taken_over_by_its_secret() -> None:
    async def main() -> None:
        async with server() as s, Switchboard(s.address) as one, Switchboard(s.address) as two:
            first = await one.post("u", unique=True)
            assert isinstance(first.secret, Secret)
            assert first.generation > 0
            with pytest.raises(NameTaken):
                await two.post("u", unique=True)
            accepting = asyncio.create_task(first.accept())
            second = await two.post("u", unique=True, secret=first.secret.reveal())
            assert second.generation > first.generation
            with pytest.raises(Displaced):
                await accepting
            with pytest.raises(Displaced):
                await first.accept()
            with pytest.raises(Displaced):
                async for _ in first:
                    pass
            await first.close()
            with await one.meet_socket("a", "u"), await second.accept_socket():
                pass
            await second.close()

    run(main)


def test_how_a_post_is_used() -> None:
    async def main() -> None:
        async with world() as (_, board):
            for wrong in ({"backlog": 0}, {"backlog": 4097}, {"secret": b""}, {"secret": b"x" * 65}):
                with pytest.raises(ValueError, match="1 to"):
                    board.post("p", **wrong)
            post = board.post("p")
            assert repr(post) == "<Post 'p'>"
            with pytest.raises(ClosedError, match="was not entered"):
                await post.accept()
            await post
            with pytest.raises(ClosedError, match="was entered before"):
                await post
            await post.close()
            await post.close()
            with pytest.raises(ClosedError, match="is closed"):
                await post.accept()

    run(main)


def test_a_post_cancelled_while_it_is_entered() -> None:
    async def main() -> None:
        async with world() as (_, board):
            task = asyncio.ensure_future(board.post("p").__aenter__())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await nothing_waits(board)

    run(main)


# ---- questions ------------------------------------------------------------------------------------------------


def test_names_come_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trunkline.switchboard.server.MAX_NAMES", 3)

    async def main() -> None:
        async with world() as (_, board), contextlib.AsyncExitStack() as stack:
            for i in range(8):
                await stack.enter_async_context(board.post(f"x/{i}"))
            await stack.enter_async_context(board.post("y"))
            assert [name.name for name in await board.names("x/")] == [f"x/{i}" for i in range(8)]
            assert len(await board.names()) == 9
            assert await board.names("z") == []

    run(main)


def test_notices_reach_others() -> None:
    async def main() -> None:
        async with world() as (_, board):
            notices = board.notices()
            first = asyncio.ensure_future(anext(notices))
            while (await board.status()).clients < 2:
                pass
            await board.broadcast(b"one")
            assert await first == b"one"
            await board.broadcast(b"two")
            await board.broadcast(b"three")
            assert [await anext(notices), await anext(notices)] == [b"two", b"three"]
            await notices.aclose()
            with pytest.raises(ValueError, match="512"):
                await board.broadcast(b"x" * 513)

    run(main)


# ---- servers come and go --------------------------------------------------------------------------------------


def dead_address() -> Address:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return Address("127.0.0.1", sock.getsockname()[1])


def test_no_server_at_all() -> None:
    async def main() -> None:
        nobody = dead_address()
        async with Switchboard(nobody) as board:
            for call in (
                board.meet("a", "b"),
                board.post("p").__aenter__(),
                board.status(),
                board.broadcast(b""),
            ):
                with pytest.raises(NoSwitchboard, match=f"tried {nobody}: .*refused.*trunkline up"):
                    await call

    run(main)


def test_a_server_that_restarts_while_we_wait() -> None:
    async def main() -> None:
        async with server() as s, contextlib.AsyncExitStack() as stack:
            board = await stack.enter_async_context(Switchboard(s.address))
            waiting = asyncio.create_task(board.meet("a", "b"))
            post = await stack.enter_async_context(board.post("p"))
            await lodged(board, 1)
            await s.stop()
            async with server(address=s.address):
                await lodged(board, 1)
                with await board.meet_socket("b", "a"):
                    (await waiting)[1].close()
                with await board.meet_socket("c", "p"), await post.accept_socket():
                    pass
                await stack.aclose()

    run(main)


def test_another_server_takes_over() -> None:
    async def main() -> None:
        async with server() as one, server() as two, Switchboard([one.address, two.address]) as board:
            waiting = asyncio.create_task(board.meet("a", "b"))
            await lodged(board, 1)
            assert (await board.status()).address == str(one.address)
            await one.stop()
            await lodged(board, 1)
            assert (await board.status()).address == str(two.address)
            with await board.meet_socket("b", "a"):
                (await waiting)[1].close()

    run(main)


def test_the_servers_are_remembered(tmp_path: Path) -> None:
    async def main() -> None:
        async with server() as s:
            async with Switchboard([dead_address(), s.address]) as board:
                await board.status()
            async with Switchboard() as board:
                assert (await board.status()).address == str(s.address)

    run(main)
    assert "127.0.0.1" in (tmp_path / "switchboards").read_text()


def test_a_server_that_speaks_nonsense(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(8)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            assert await reader.read()  # our reason why we hang up
            writer.close()

        async with (
            await asyncio.start_server(answer, "127.0.0.1", 0) as odd,
            Switchboard(Address(*odd.sockets[0].getsockname())) as board,
        ):
            with pytest.raises(NoSwitchboard, match="does not speak Trunkline"):
                await board.status()

    run(main)
    assert "breaks the protocol" in caplog.text


def test_a_server_that_accepts_and_hangs_up() -> None:
    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with (
            await asyncio.start_server(answer, "127.0.0.1", 0) as odd,
            Switchboard(Address(*odd.sockets[0].getsockname())) as board,
        ):
            with pytest.raises(NoSwitchboard):
                await board.meet("a", "b")

    run(main)


def test_the_list_of_servers_is_checked() -> None:
    with pytest.raises(ConfigError, match="empty"):
        Switchboard([])


# ---- the default one, and its life ------------------------------------------------------------------------------


def test_the_default_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with server() as s:
            monkeypatch.setenv("TRUNKLINE_SWITCHBOARDS", str(s.address))
            (_, writer, _), (_, writer2, _) = await asyncio.gather(aio.meet("a", "b"), aio.meet("b", "a"))
            writer.close()
            writer2.close()
            async with aio.post("p") as post:
                with await aio.meet_socket("a", "p"), await post.accept_socket():
                    pass
                assert [name.name for name in await aio.names()] == ["p"]
                assert await aio.explain("a", "q")
            await aio.close()
            await aio.close()
            assert (await aio.status()).clients == 1  # afresh
            # and no close: the end of the loop closes it

    run(main)
    assert all(loop.is_closed() for loop in aio.default._clients)


def test_each_loop_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with server() as s:
            monkeypatch.setenv("TRUNKLINE_SWITCHBOARDS", str(s.address))
            await aio.status()

    run(main)
    run(main)
    assert len([loop for loop in aio.default._clients if not loop.is_closed()]) == 0


def test_whoever_waits_is_told_of_the_close() -> None:
    async def main() -> None:
        async with world() as (_, board):
            meeting = asyncio.create_task(board.meet("a", "b"))
            post = await board.post("p")
            accepting = asyncio.create_task(post.accept())
            notices = board.notices()
            await lodged(board, 1)
            await board.close()
            for task in (meeting, accepting):
                with pytest.raises(ClosedError):
                    await task
            await notices.aclose()

    run(main)


def test_the_settings_file_is_used(tmp_path: Path) -> None:
    async def main() -> None:
        async with server() as s:
            (tmp_path / "config.toml").write_text(f'switchboards = ["{s.address}"]\nadvertise = []\n')
            async with Switchboard(timings=ClientConfig(jitter=0.0)) as board:
                await board.status()

    run(main)


def test_a_stranger_at_the_listener_harms_nobody() -> None:
    async def main() -> None:
        async with world() as (_, board), board.post("p") as post:
            listeners = board.client()._listeners
            assert listeners is not None
            loop = asyncio.get_running_loop()
            strangers = []
            for junk in (
                b"",
                b"GET / HTTP/1.1\r\n\r\n" + b"x" * 50,
                b"TRUNKD/1" + bytes(18),
                b"TRUNKD/2" + bytes(18),
            ):
                stranger = socket.create_connection(("127.0.0.1", listeners.port))
                stranger.setblocking(False)
                await loop.sock_sendall(stranger, junk)
                strangers.append(stranger)
            with await board.meet_socket("a", "p"), await post.accept_socket() as conn:
                assert conn.peer.name == "a"
            with contextlib.suppress(ConnectionResetError):
                assert await loop.sock_recv(strangers[1], 9) == b""
            for stranger in strangers:
                stranger.close()

    run(main)


def test_a_raw_client_sees_only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        s: SwitchboardServer
        async with world() as (s, board):
            raw = await Raw.dial(s.address)
            raw.send_bytes(PREAMBLE + encode(Hello("raw")))
            await board.status()
            await raw.close()

    seen: list[object] = []
    step = Server.step
    monkeypatch.setattr(Server, "step", lambda self, event, now: seen.append(event) or step(self, event, now))
    run(main)
    assert seen
