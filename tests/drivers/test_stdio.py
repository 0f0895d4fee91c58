import asyncio
import contextlib
import fcntl
import hashlib
import os
import pty
import random
import socket
import stat
import struct
import sys
import termios
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest

from trunkline.drivers import stdio
from trunkline.drivers.splice import Joined
from trunkline.drivers.stdio import join_process, join_stdio
from trunkline.errors import ConfigError, LinkClosed


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def run(main: Callable[[], Coroutine[object, object, None]]) -> None:
    """Run it, and see that no descriptor stays open."""

    async def guarded() -> None:
        async with asyncio.timeout(60):
            await main()

    before = descriptors()
    asyncio.run(guarded())
    assert descriptors() == before


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """The peer's end, and ours."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    peer.setblocking(False)
    return peer, ours


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    read_end, write_end = os.pipe()
    try:
        yield read_end, write_end
    finally:
        for fd in (read_end, write_end):
            with contextlib.suppress(OSError):  # a test may close one to end the stream
                os.close(fd)


@contextlib.contextmanager
def opened(path: Path | str, flags: int) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


async def send(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


async def receive(sock: socket.socket, limit: int = 1 << 16) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, limit)


async def read_all(sock: socket.socket) -> bytes:
    parts = []
    while data := await receive(sock):
        parts.append(data)
    return b"".join(parts)


async def read_fd(fd: int, count: int) -> bytes:
    """Read that many bytes from a descriptor that may be a blocking one, without blocking the loop."""
    loop, taken = asyncio.get_running_loop(), bytearray()
    while len(taken) < count:
        ready = asyncio.Event()
        loop.add_reader(fd, ready.set)
        await ready.wait()
        loop.remove_reader(fd)
        taken += os.read(fd, count - len(taken))
    return bytes(taken)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# --- join_stdio


def test_pipes_both_ways_half_close_and_flags_untouched() -> None:
    async def main() -> None:
        peer, ours = tcp_pair()
        with peer, pipe() as (stdin, typing), pipe() as (reading, stdout):
            flags = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in (stdin, stdout)]
            joining = asyncio.create_task(join_stdio(ours, stdin_fd=stdin, stdout_fd=stdout))
            os.write(typing, b"hello")
            assert await receive(peer) == b"hello"
            assert [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in (stdin, stdout)] == flags
            os.close(typing)
            assert await receive(peer) == b""
            await send(peer, b"goes on printing")
            assert await read_fd(reading, 16) == b"goes on printing"
            peer.close()
            assert await joining == Joined(5, 16, None)
            assert [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in (stdin, stdout)] == flags

    run(main)


def test_the_peer_may_end_first() -> None:
    async def main() -> None:
        peer, ours = tcp_pair()
        with peer, pipe() as (stdin, typing), pipe() as (reading, stdout):
            joining = asyncio.create_task(join_stdio(ours, stdin_fd=stdin, stdout_fd=stdout))
            await send(peer, b"bye")
            peer.shutdown(socket.SHUT_WR)
            assert await read_fd(reading, 3) == b"bye"
            os.write(typing, b"late")
            os.close(typing)
            assert await read_all(peer) == b"late"
            assert await joining == Joined(4, 3, None)

    run(main)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("interactive", [True, False])
def test_a_peer_that_hangs_up_while_we_may_still_send(interactive: bool, at_once: bool) -> None:
    async def main() -> None:
        peer, ours = socket.socketpair()  # only a Unix socket tells
        peer.setblocking(False)
        typing, stdin = pty.openpty() if interactive else reversed(os.pipe())
        with peer, pipe() as (reading, stdout):
            joining = asyncio.create_task(join_stdio(ours, stdin_fd=stdin, stdout_fd=stdout))
            await send(peer, b"bye")
            if not at_once:
                peer.shutdown(socket.SHUT_WR)
                assert await read_fd(reading, 3) == b"bye"
            peer.close()
            joined = await joining
        assert (joined.a_to_b, joined.b_to_a) == (0, 3)
        assert interactive is (joined.error is None)
        assert interactive or "hung up" in str(joined.error)
        os.close(typing)
        os.close(stdin)

    run(main)


def test_files(tmp_path: Path) -> None:
    data = random.Random(3).randbytes(20_000_000)
    (tmp_path / "from").write_bytes(b"skipped" + data)
    (tmp_path / "to").touch()

    async def main() -> None:
        peer, ours = tcp_pair()
        appending = os.O_WRONLY | os.O_APPEND
        with (
            peer,
            opened(tmp_path / "from", os.O_RDONLY) as source,
            opened(tmp_path / "to", appending) as sink,
        ):
            os.lseek(source, 7, os.SEEK_SET)  # what the shell has read already is not read again
            joining = asyncio.create_task(join_stdio(ours, stdin_fd=source, stdout_fd=sink))
            digest = hashlib.sha256()
            while chunk := await receive(peer, 1 << 20):
                digest.update(chunk)
                await send(peer, chunk)
            peer.shutdown(socket.SHUT_WR)
            assert await joining == Joined(len(data), len(data), None)
            assert digest.digest() == hashlib.sha256(data).digest()
            assert (tmp_path / "to").read_bytes() == data

    run(main)


def test_dev_null() -> None:
    async def main() -> None:
        peer, ours = tcp_pair()
        with peer, opened("/dev/null", os.O_RDWR) as null:
            flags = fcntl.fcntl(null, fcntl.F_GETFL)
            joining = asyncio.create_task(join_stdio(ours, stdin_fd=null, stdout_fd=null))
            assert await receive(peer) == b""
            await send(peer, b"x" * 300_000)
            peer.close()
            assert await joining == Joined(0, 300_000, None)
            assert fcntl.fcntl(null, fcntl.F_GETFL) == flags

    run(main)


@pytest.mark.parametrize("reopened", [True, False])
def test_a_terminal_is_left_as_it_was(reopened: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not reopened:
        monkeypatch.setattr(stdio, "_reopen", lambda *_: -1)

    async def main() -> None:
        peer, ours = tcp_pair()
        master, slave = pty.openpty()
        attributes = termios.tcgetattr(slave)
        attributes[3] &= ~termios.ECHO
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        flags = fcntl.fcntl(slave, fcntl.F_GETFL)
        try:
            with peer:
                joining = asyncio.create_task(join_stdio(ours, stdin_fd=slave, stdout_fd=slave))
                os.write(master, b"typed\n")
                assert await receive(peer) == b"typed\n"
                assert (fcntl.fcntl(slave, fcntl.F_GETFL) == flags) is reopened
                await send(peer, b"shown\n")
                assert await read_fd(master, 6) == b"shown\n"
                os.write(master, b"\x04")  # control-D
                assert await receive(peer) == b""
                peer.close()
                assert await joining == Joined(6, 6, None)
            assert fcntl.fcntl(slave, fcntl.F_GETFL) == flags
        finally:
            os.close(master)
            os.close(slave)

    run(main)


def test_a_terminal_that_hangs_up_is_an_end_of_file() -> None:
    async def main() -> None:
        peer, ours = tcp_pair()
        master, slave = pty.openpty()
        with peer, pipe() as (_, stdout):
            joining = asyncio.create_task(join_stdio(ours, stdin_fd=slave, stdout_fd=stdout))
            os.write(master, b"typed\n")
            assert await receive(peer) == b"typed\n"
            os.close(master)
            assert await receive(peer) == b""
            peer.close()
            assert (await joining).error is None
        os.close(slave)

    run(main)


def test_the_master_of_a_terminal_is_not_opened_again() -> None:
    master, slave = pty.openpty()
    assert stdio._reopen(master, os.fstat(master), os.O_RDONLY) == -1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "platform", "elsewhere")
        assert stdio._reopen(slave, os.fstat(slave), os.O_RDONLY) == -1
    os.close(master)
    os.close(slave)


def test_a_socket_as_stdin_gets_its_mode_back() -> None:
    async def main() -> None:
        peer, ours = tcp_pair()
        one, two = socket.socketpair()
        with peer, one, two:
            assert stat.S_ISSOCK(os.fstat(two.fileno()).st_mode)
            joining = asyncio.create_task(join_stdio(ours, stdin_fd=two.fileno(), stdout_fd=two.fileno()))
            one.send(b"there")
            assert await receive(peer) == b"there"
            await send(peer, b"back")
            assert await read_fd(one.fileno(), 4) == b"back"
            one.shutdown(socket.SHUT_WR)
            peer.close()
            assert await joining == Joined(5, 4, None)
            assert os.get_blocking(two.fileno())

    run(main)


def test_a_reader_of_stdout_that_left_ends_it_quietly() -> None:
    async def main() -> None:
        peer, ours = tcp_pair()
        with peer, pipe() as (stdin, _), pipe() as (reading, stdout):
            joining = asyncio.create_task(join_stdio(ours, stdin_fd=stdin, stdout_fd=stdout))
            await send(peer, b"first")
            assert await read_fd(reading, 5) == b"first"
            os.close(reading)
            await send(peer, b"second")
            assert await joining == Joined(0, 5, None)
            assert await receive(peer) == b""

    run(main)


def test_a_reset_is_reported_whether_it_reads_or_waits() -> None:
    async def main() -> None:
        for blocked in (False, True):
            peer, ours = tcp_pair()
            with pipe() as (stdin, _), pipe() as (_, stdout):
                joining = asyncio.create_task(join_stdio(ours, stdin_fd=stdin, stdout_fd=stdout))
                if blocked:  # nobody reads stdout
                    refused = 0
                    while refused < 200:
                        try:
                            peer.send(b"x" * 65536)
                        except BlockingIOError:
                            refused += 1
                        await asyncio.sleep(0)
                reset(peer)
                assert isinstance((await joining).error, ConnectionResetError)

    run(main)


def test_a_reset_right_behind_the_end_of_file_is_reported() -> None:
    async def main() -> None:
        peer, ours = tcp_pair()
        with pipe() as (stdin, _), pipe() as (_, stdout):
            peer.shutdown(socket.SHUT_WR)
            reset(peer)
            assert isinstance((await join_stdio(ours, stdin_fd=stdin, stdout_fd=stdout)).error, OSError)

    run(main)


def test_a_full_disk_is_reported() -> None:
    async def main() -> None:
        peer, ours = tcp_pair()
        with peer, pipe() as (stdin, _), opened("/dev/full", os.O_WRONLY) as full:
            await send(peer, b"hello")
            joined = await join_stdio(ours, stdin_fd=stdin, stdout_fd=full)
            assert joined.error is not None
            assert "space" in str(joined.error)

    run(main)


def test_cancelled_it_resets_the_peer_and_restores_the_mode() -> None:
    async def main() -> None:
        peer, ours = tcp_pair()
        with peer, pipe() as (stdin, typing), pipe() as (_, stdout):
            joining = asyncio.create_task(join_stdio(ours, stdin_fd=stdin, stdout_fd=stdout))
            os.write(typing, b"x")
            assert await receive(peer) == b"x"
            joining.cancel()
            with pytest.raises(asyncio.CancelledError):
                await joining
            with pytest.raises(ConnectionResetError):
                await receive(peer)
            assert os.get_blocking(stdin)
            assert os.get_blocking(stdout)

    run(main)


# --- join_process


def test_a_command_gets_the_peers_bytes_and_answers() -> None:
    data = random.Random(4).randbytes(5_000_000)

    async def main() -> None:
        peer, ours = tcp_pair()
        with peer:
            joining = asyncio.create_task(join_process(ours, ["cat"]))
            sending = asyncio.create_task(send(peer, data))
            taken = bytearray()
            while len(taken) < len(data):
                taken += await receive(peer)
            await sending
            peer.shutdown(socket.SHUT_WR)
            assert await receive(peer) == b""
            assert taken == data
            assert await joining == 0

    run(main)


@pytest.mark.parametrize(("command", "code"), [("exit 7", 7), ("kill -TERM $$", 128 + 15)])
def test_the_exit_code(command: str, code: int) -> None:
    async def main() -> None:
        peer, ours = tcp_pair()
        with peer:
            peer.shutdown(socket.SHUT_WR)
            assert await join_process(ours, ["sh", "-c", command]) == code
            assert await receive(peer) == b""

    run(main)


def test_a_command_that_reads_little_still_gets_its_answer_through() -> None:
    async def main() -> None:
        peer, ours = tcp_pair()
        with peer:
            joining = asyncio.create_task(join_process(ours, ["head", "-c", "5"]))
            sending = asyncio.create_task(send(peer, b"hello" + b"x" * 2_000_000))
            assert await read_all(peer) == b"hello"
            await sending
            peer.shutdown(socket.SHUT_WR)
            assert await joining == 0

    run(main)


def test_a_peer_that_never_ends_does_not_keep_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "LINGER_SECONDS", 0.05)

    async def main() -> None:
        peer, ours = tcp_pair()
        with peer:
            assert await join_process(ours, ["true"]) == 0
            assert await receive(peer) == b""

    run(main)


def test_a_command_that_closes_its_output_goes_on_reading(tmp_path: Path) -> None:
    async def main() -> None:
        peer, ours = tcp_pair()
        with peer:
            command = ["sh", "-c", 'exec cat >"$1"', "sh", str(tmp_path / "out")]
            joining = asyncio.create_task(join_process(ours, command))
            assert await receive(peer) == b""
            await send(peer, b"kept")
            peer.shutdown(socket.SHUT_WR)
            assert await joining == 0
            assert (tmp_path / "out").read_bytes() == b"kept"

    run(main)


def test_a_broken_connection_ends_the_command() -> None:
    async def main() -> None:
        peer, ours = tcp_pair()
        joining = asyncio.create_task(join_process(ours, ["sh", "-c", "echo up; exec sleep 600"]))
        assert await receive(peer) == b"up\n"
        reset(peer)
        with pytest.raises(LinkClosed, match="while 'sh' ran") as caught:
            await joining
        assert isinstance(caught.value.__cause__, ConnectionResetError)

    run(main)


@pytest.mark.parametrize("stubborn", [False, True])
def test_cancelled_it_ends_the_command_and_waits(stubborn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "TERMINATE_SECONDS", 0.05 if stubborn else 30)
    trap = "trap '' TERM; " if stubborn else ""

    async def main() -> None:
        peer, ours = tcp_pair()
        with peer:
            joining = asyncio.create_task(join_process(ours, ["sh", "-c", f"{trap}echo $$; exec sleep 600"]))
            pid = int(await receive(peer))
            joining.cancel()
            with pytest.raises(asyncio.CancelledError):
                await joining
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
            with pytest.raises(ConnectionResetError):
                await receive(peer)

    run(main)


@pytest.mark.parametrize("argv", [["/no/such/command"], [], ["nul\0"]])
def test_a_command_that_cannot_be_run(argv: list[str]) -> None:
    async def main() -> None:
        peer, ours = tcp_pair()
        with peer:
            with pytest.raises(ConfigError, match="can't be run"):
                await join_process(ours, argv)
            assert ours.fileno() == -1

    run(main)
