"""Joined sockets where one or both speak TLS: bytes, ends of each direction, and connections that are cut."""

import asyncio
import contextlib
import datetime as dt
import errno
import hashlib
import os
import random
import select
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from trunkline.drivers import tls_flow
from trunkline.drivers.flow import Flow, Pool
from trunkline.drivers.splice import Joined, join
from trunkline.drivers.stdio import join_process, join_stdio
from trunkline.drivers.tls_flow import flow_between, said


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "peer")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(file)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    for context in (server, client):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    return server, client


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


def tls_pair(contexts: Contexts, kind: str = "tcp") -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """The user's end, which blocks, and the end that is to be joined."""
    if kind == "unix":
        a, b = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            a = socket.create_connection(listener.getsockname())
            b, _ = listener.accept()
    a.setblocking(False)
    b.setblocking(False)
    user = contexts[1].wrap_socket(a, do_handshake_on_connect=False, suppress_ragged_eofs=False)
    ours = contexts[0].wrap_socket(b, server_side=True, do_handshake_on_connect=False)
    waiting = [user, ours]
    while waiting:
        for each in list(waiting):
            with contextlib.suppress(ssl.SSLWantReadError):
                each.do_handshake()
                waiting.remove(each)
    user.setblocking(True)
    return user, ours


def plain_pair() -> tuple[socket.socket, socket.socket]:
    a, b = socket.socketpair()
    return a, b


def end(user: socket.socket) -> None:
    """End the user's stream, and go on reading."""
    if isinstance(user, ssl.SSLSocket):
        user.setblocking(False)
        words = tls_flow.close_notify(user)
        user.setblocking(True)
        socket.socket.send(user, words)
    else:
        user.shutdown(socket.SHUT_WR)


def read_all(user: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ssl.SSLZeroReturnError):
        while part := user.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


@contextlib.asynccontextmanager
async def joined(
    contexts: Contexts, kind: str, *, both: bool = False
) -> AsyncIterator[tuple[ssl.SSLSocket, socket.socket, "asyncio.Task[Joined]"]]:
    left, a = tls_pair(contexts, kind)
    right, b = tls_pair(contexts, kind) if both else plain_pair()
    task = asyncio.create_task(join(a, b))
    try:
        yield left, right, task
    finally:
        left.close()
        right.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def run(main: Callable[[], Coroutine[object, object, None]]) -> None:
    async def guarded() -> None:
        async with asyncio.timeout(60):
            await main()

    before = sorted(entry.name for entry in Path("/proc/self/fd").iterdir())
    asyncio.run(guarded())
    assert sorted(entry.name for entry in Path("/proc/self/fd").iterdir()) == before


KINDS = pytest.mark.parametrize("kind", ["tcp", "unix"])
thread = asyncio.to_thread


@KINDS
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("first", [0, 1])
def test_each_side_may_end_first_and_hears_the_rest(contexts: Contexts, kind: str, both: bool, first: int) -> None:
    async def main() -> None:
        async with joined(contexts, kind, both=both) as (left, right, task):
            ender, other = (left, right) if first == 0 else (right, left)
            await thread(ender.sendall, b"that is all")
            await thread(end, ender)
            assert await thread(read_all, other) == b"that is all"
            await thread(other.sendall, b"answer" * 10_000)
            await thread(end, other)
            assert await thread(read_all, ender) == b"answer" * 10_000
            result = await task
            assert result.error is None
            assert {result.a_to_b, result.b_to_a} == {11, 60_000}

    run(main)


@KINDS
def test_an_end_that_crosses_with_data_loses_none_of_it(contexts: Contexts, kind: str) -> None:
    """SSL_shutdown would have failed on these bytes, and never read again."""

    async def main() -> None:
        for _ in range(20):
            async with joined(contexts, kind) as (left, right, task):
                await thread(left.sendall, b"on its way" * 1000)
                right.shutdown(socket.SHUT_WR)
                await thread(left.sendall, b"and more")
                assert await thread(read_all, left) == b""
                await thread(end, left)
                assert await thread(read_all, right) == b"on its way" * 1000 + b"and more"
                assert (await task).error is None

    run(main)


@KINDS
@pytest.mark.parametrize("both", [False, True])
def test_8_mb_both_ways_at_once(contexts: Contexts, kind: str, both: bool) -> None:
    data = random.Random(1).randbytes(8 << 20)

    def play(user: socket.socket) -> str:
        # One thread for each end: an SSLSocket may be used by one at a time.
        found, at = hashlib.sha256(), 0
        user.setblocking(False)
        ended = False
        while not ended or at < len(data):
            moved = False
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                if at < len(data):
                    at += user.send(data[at : at + 65536])
                    moved = True
                    if at == len(data):
                        user.setblocking(True)
                        end(user)
                        user.setblocking(False)
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                part = b""
                with contextlib.suppress(ssl.SSLZeroReturnError):
                    part = user.recv(1 << 16)
                ended = not part
                found.update(part)
                moved = True
            if not moved:
                select.select([user], [user] if at < len(data) else [], [])
        return found.hexdigest()

    async def main() -> None:
        async with joined(contexts, kind, both=both) as (left, right, task):
            got = await asyncio.gather(thread(play, left), thread(play, right))
            assert set(got) == {hashlib.sha256(data).hexdigest()}
            assert await task == Joined(len(data), len(data), None)

    run(main)


def test_a_slow_reader_stops_the_writer(contexts: Contexts) -> None:
    async def main() -> None:
        async with joined(contexts, "tcp") as (left, right, task):
            right.setblocking(False)
            sent = 0
            quiet = 0
            while quiet < 20:
                try:
                    sent += right.send(bytes(1 << 16))
                    quiet = 0
                except BlockingIOError:
                    quiet += 1
                await asyncio.sleep(0)
            right.shutdown(socket.SHUT_WR)
            assert len(await thread(read_all, left)) == sent
            assert not task.done()

    run(main)


@KINDS
def test_a_connection_that_is_cut_is_an_error_and_no_end(contexts: Contexts, kind: str) -> None:
    async def main() -> None:
        async with joined(contexts, kind) as (left, right, task):
            await thread(left.sendall, b"half of it")
            assert await thread(right.recv, 100) == b"half of it"
            socket.socket.shutdown(left, socket.SHUT_WR)  # which anybody on the way can forge
            result = await task
            assert isinstance(result.error, ConnectionResetError)
            assert "its end was not said" in str(result.error)

    run(main)


def test_an_altered_record_ends_it(contexts: Contexts) -> None:
    async def main() -> None:
        async with joined(contexts, "tcp") as (left, right, task):
            socket.socket.send(left, b"\x17\x03\x03\x00\x20" + bytes(32))
            result = await task
            assert result.error is not None
            assert result.error.errno == errno.EPROTO
            assert "TLS: decryption failed or bad record mac" in str(result.error)

    run(main)


def test_a_tls_peer_that_is_gone_is_an_error_for_what_still_comes(contexts: Contexts) -> None:
    async def main() -> None:
        async with joined(contexts, "unix") as (left, right, task):
            left.close()
            assert (await task).error is not None
            assert right.recv(1) == b""

    run(main)


def test_what_libssl_holds_already_is_not_waited_for(contexts: Contexts) -> None:
    async def main() -> None:
        left, a = tls_pair(contexts)
        right, b = plain_pair()
        with left, right:
            left.sendall(b"first and rest")
            a.setblocking(True)
            assert a.recv(5) == b"first"
            task = asyncio.create_task(join(a, b))
            assert await thread(right.recv, 100) == b" and rest"
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(main)


def test_last_words_wait_until_there_is_room(contexts: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    words = random.Random(2).randbytes(4 << 20)  # more than any buffer takes

    async def main() -> None:
        monkeypatch.setattr(tls_flow, "close_notify", lambda _: words)
        async with joined(contexts, "tcp") as (left, right, task):
            right.shutdown(socket.SHUT_WR)
            got = 0
            while got < len(words):
                got += len(await thread(socket.socket.recv, left, 1 << 16))
            assert not task.done()

    run(main)


@pytest.mark.parametrize("after", [False, True])
def test_last_words_to_nobody_are_an_error(contexts: Contexts, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    def gone(_: object) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def main() -> None:
        monkeypatch.setattr(tls_flow, "close_notify", (lambda _: b"x" * (8 << 20)) if after else gone)
        async with joined(contexts, "tcp") as (left, right, task):
            right.shutdown(socket.SHUT_WR)
            if after:
                await thread(socket.socket.recv, left, 1)
                left.close()
            assert (await task).error is not None

    run(main)


class _Updating(ssl.SSLSocket):
    """Has, once, to write before it can read, as when the peer asks for new keys and our buffers are full."""

    asked = False

    def recv_into(self, *args: object, **kwargs: object) -> int:
        if not self.asked:
            self.asked = True
            raise ssl.SSLWantWriteError
        return super().recv_into(*args, **kwargs)  # type: ignore[arg-type]


def test_a_read_that_has_to_write_is_tried_again(contexts: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts[0], "sslsocket_class", _Updating)
    monkeypatch.setattr(tls_flow, "KEY_UPDATE_PAUSE", 0.0)

    async def main() -> None:
        async with joined(contexts, "tcp") as (left, right, _):
            await thread(left.sendall, b"hello")
            assert await thread(right.recv, 100) == b"hello"

    run(main)


def test_without_tls_it_is_the_plain_flow() -> None:
    async def main() -> None:
        a, b = plain_pair()
        pool = Pool.hold(asyncio.get_running_loop())
        with a, b:
            flow = flow_between(pool, a, b.fileno(), lambda _: None)
            assert type(flow) is Flow
            assert (flow.source, flow.destination) == (a.fileno(), b.fileno())
        pool.release()

    run(main)


def test_errors_of_tls_are_said_in_words() -> None:
    assert "cut off" in str(said(ssl.SSLEOFError()))
    assert "TLS: " in str(said(ssl.SSLError(1, "[SSL] something")))


# ---- with stdin and stdout, or a command -----------------------------------------------------------------------


def test_pipes_over_tls_with_both_ends(contexts: Contexts) -> None:
    async def main() -> None:
        user, ours = tls_pair(contexts)
        in_read, in_write = os.pipe()
        out_read, out_write = os.pipe()
        try:
            with user:
                task = asyncio.create_task(join_stdio(ours, stdin_fd=in_read, stdout_fd=out_write))
                os.write(in_write, b"a question")
                os.close(in_write)
                in_write = -1
                assert await thread(read_all, user) == b"a question"
                await thread(user.sendall, b"an answer")
                assert await thread(os.read, out_read, 100) == b"an answer"
                await thread(end, user)
                assert await task == Joined(10, 9, None)
        finally:
            for fd in (in_read, in_write, out_read, out_write):
                if fd >= 0:
                    os.close(fd)

    run(main)


@pytest.mark.parametrize("ends", [False, True])
def test_a_command_over_tls(contexts: Contexts, ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trunkline.drivers.stdio.LINGER_SECONDS", 0.05)

    async def main() -> None:
        user, ours = tls_pair(contexts)
        with user:
            task = asyncio.create_task(join_process(ours, ["sh", "-c", "head -c 5; echo done"]))
            await thread(user.sendall, b"hello, and what nobody reads")
            if ends:
                await thread(end, user)
            assert await thread(read_all, user) == b"hellodone\n"
            if ends:
                user.close()
            assert await task == 0

    # asyncio keeps a descriptor for child processes
    asyncio.run(main())
