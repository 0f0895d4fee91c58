"""One battery over our transport and over asyncio's own TLS: whoever knows one knows the other."""

import asyncio
import contextlib
import functools
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.drivers.aiokit import run, until
from tests.drivers.tlskit import Far, contexts, handshake, tcp_pair
from trunkline.drivers import transport_tls_aio
from trunkline.drivers.transport_tls_aio import TlsTransport

Connect = Callable[[socket.socket, asyncio.BaseProtocol], Awaitable[asyncio.Transport]]


class Told(asyncio.Protocol):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.said.append("made")
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> None:
        self.said.append("eof")

    def pause_writing(self) -> None:
        self.said.append("pause")

    def resume_writing(self) -> None:
        self.said.append("resume")

    def connection_lost(self, error: Exception | None) -> None:
        self.said.append(("lost", error))

    @property
    def lost(self) -> bool:
        return isinstance(self.said[-1], tuple)


class ToldByBuffer(asyncio.BufferedProtocol):
    """The same, by the other interface, with a small buffer."""

    def __init__(self, size: int = 1000) -> None:
        self.data = bytearray()
        self.room = bytearray(size)
        self.lost = False

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self.room)

    def buffer_updated(self, size: int) -> None:
        self.data += self.room[:size]

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True


async def ours(sock: socket.socket, protocol: asyncio.BaseProtocol, *, ragged: bool = False) -> TlsTransport:
    tls = contexts()[0].wrap_socket(sock, do_handshake_on_connect=False, suppress_ragged_eofs=ragged)
    await handshake(tls)
    return TlsTransport(asyncio.get_running_loop(), tls, protocol)


async def asyncios(sock: socket.socket, protocol: asyncio.BaseProtocol) -> asyncio.Transport:
    transport, _ = await asyncio.get_running_loop().create_connection(
        lambda: protocol, sock=sock, ssl=contexts()[0], server_hostname="", ssl_shutdown_timeout=5.0
    )
    return transport


@contextlib.asynccontextmanager
async def world(connect: Connect, protocol: asyncio.BaseProtocol) -> AsyncIterator[tuple[asyncio.Transport, Far]]:
    near, other = tcp_pair()
    far = Far(other)
    transport, _ = await asyncio.gather(connect(near, protocol), far.handshake())
    try:
        yield transport, far
    finally:
        far.close()
        transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


both = pytest.mark.parametrize("connect", [ours, asyncios])


@both
def test_bytes_both_ways(connect: Connect) -> None:
    async def main() -> None:
        told = Told()
        async with world(connect, told) as (transport, far):
            assert told.said == ["made"]
            assert told.transport is transport
            transport.write(b"he")
            transport.write(bytearray(b"ll"))
            transport.write(memoryview(b"o"))
            transport.writelines([b" ", b"wor", b"ld"])
            transport.write(b"")
            assert await far.receive_exactly(11) == b"hello world"
            await far.send(b"and back")
            await until(lambda: told.data == b"and back")
            for wrong in ("text", 7):
                with pytest.raises(TypeError):
                    transport.write(wrong)  # type: ignore[arg-type]

    run(main)


@both
def test_much_both_ways_at_once(connect: Connect) -> None:
    async def main() -> None:
        told = Told()
        async with world(connect, told) as (transport, far):
            data, other = os.urandom(1_500_000), os.urandom(1_500_000)
            mutable = bytearray(data)
            transport.write(mutable)
            mutable[:] = bytes(len(mutable))  # what was written was taken
            _, got = await asyncio.gather(far.send(other), far.receive_exactly(len(data)))
            assert got == data
            await until(lambda: len(told.data) == len(other))
            assert told.data == other

    run(main)


@both
def test_a_buffered_protocol(connect: Connect) -> None:
    async def main() -> None:
        told = ToldByBuffer()
        async with world(connect, told) as (_, far):
            data = os.urandom(40_000)
            await far.send(data)
            await until(lambda: len(told.data) == len(data))
            assert told.data == data
            await far.end()
            await until(lambda: told.lost)

    run(main)


@both
def test_another_protocol_takes_over(connect: Connect) -> None:
    async def main() -> None:
        first, second = Told(), ToldByBuffer()
        async with world(connect, first) as (transport, far):
            assert transport.get_protocol() is first
            await far.send(b"one")
            await until(lambda: first.data == b"one")
            transport.set_protocol(second)
            assert transport.get_protocol() is second
            await far.send(b"two")
            await until(lambda: second.data == b"two")
            assert first.data == b"one"

    run(main)


@both
def test_reading_pauses(connect: Connect) -> None:
    async def main() -> None:
        told = Told()
        async with world(connect, told) as (transport, far):
            assert transport.is_reading()
            transport.pause_reading()
            transport.pause_reading()
            assert not transport.is_reading()
            await far.send(b"not yet")
            transport.write(b"!")  # which goes on
            assert await far.receive_exactly(1) == b"!"
            for _ in range(20):
                await asyncio.sleep(0)
            assert not told.data
            transport.resume_reading()
            transport.resume_reading()
            await until(lambda: told.data == b"not yet")

    run(main)


@both
def test_pausing_inside_what_is_told(connect: Connect) -> None:
    class Reluctant(ToldByBuffer):
        def buffer_updated(self, size: int) -> None:
            super().buffer_updated(size)
            transport.pause_reading()

    async def main() -> None:
        nonlocal transport
        told = Reluctant(100)
        async with world(connect, told) as (transport, far):
            await far.send(bytes(250))  # one record: what is left of it is in libssl, not in the kernel
            for size in (100, 200, 250):
                await until(lambda size=size: len(told.data) == size)
                for _ in range(5):
                    await asyncio.sleep(0)
                assert len(told.data) == size
                transport.resume_reading()

    transport: Any = None
    run(main)


@both
def test_the_peer_ends_the_stream(connect: Connect) -> None:
    async def main() -> None:
        told = Told()
        async with world(connect, told) as (transport, far):
            await far.send(b"last")
            await far.end()
            await until(lambda: told.lost)
            assert told.data == b"last"
            assert told.said == ["made", "eof", ("lost", None)]
            assert transport.is_closing()
            assert await far.receive() == b""  # and it was told the end, too

    run(main)


@both
def test_eof_is_the_end_whatever_the_protocol_would_like(connect: Connect) -> None:
    class Hopeful(Told):
        def eof_received(self) -> bool:
            super().eof_received()
            return True

    async def main() -> None:
        told = Hopeful()
        async with world(connect, told) as (_, far):
            await far.end()
            await until(lambda: told.lost)

    run(main)


@both
def test_closing_sends_what_waits(connect: Connect) -> None:
    async def main() -> None:
        told = Told()
        async with world(connect, told) as (transport, far):
            data = os.urandom(1_500_000)
            transport.write(data)
            transport.close()
            transport.close()
            assert transport.is_closing()
            assert not told.lost  # not in the call itself
            assert await far.receive_exactly(len(data)) == data
            assert await far.receive() == b""
            await far.end()
            await until(lambda: told.lost)
            assert told.said[-1] == ("lost", None)
            assert told.said.count(("lost", None)) == 1
            transport.abort()

    run(main)


@both
def test_aborting_sends_nothing_more(connect: Connect) -> None:
    async def main() -> None:
        told = Told()
        async with world(connect, told) as (transport, far):
            transport.write(bytes(5_000_000))
            transport.abort()
            assert transport.is_closing()
            assert not told.lost
            await until(lambda: told.lost)
            assert told.said[-1] == ("lost", None)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await far.receive_exactly(5_000_000)

    run(main)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@both
def test_a_reset_is_an_error(connect: Connect) -> None:
    async def main() -> None:
        told = Told()
        async with world(connect, told) as (_, far):
            reset(far.sock)
            await until(lambda: told.lost)
            assert isinstance(told.said[-1][1], ConnectionError)

    run(main)


@both
def test_a_reset_while_something_waits(connect: Connect) -> None:
    async def main() -> None:
        told = Told()
        async with world(connect, told) as (transport, far):
            transport.pause_reading()
            transport.write(bytes(5_000_000))
            reset(far.sock)
            await until(lambda: told.lost)
            assert isinstance(told.said[-1][1], ConnectionError)

    run(main)


@both
def test_what_is_no_tls_is_an_error(connect: Connect) -> None:
    async def main() -> None:
        told = Told()
        async with world(connect, told) as (_, far):
            far.sock.send(b"GET / HTTP/1.0\r\n\r\n")
            await until(lambda: told.lost)
            assert isinstance(told.said[-1][1], ssl.SSLError)

    run(main)


@both
def test_water_marks(connect: Connect) -> None:
    async def main() -> None:
        told = Told()
        async with world(connect, told) as (transport, far):
            transport.set_write_buffer_limits(high=0)
            assert transport.get_write_buffer_limits() == (0, 0)
            transport.set_write_buffer_limits(low=100)
            assert transport.get_write_buffer_limits() == (100, 400)
            transport.set_write_buffer_limits(high=4000)
            assert transport.get_write_buffer_limits() == (1000, 4000)
            with pytest.raises(ValueError, match="high"):
                transport.set_write_buffer_limits(high=1, low=2)
            transport.set_write_buffer_limits()
            size = 0
            while told.said[-1] != "pause":
                transport.write(bytes(100_000))
                size += 100_000
            assert transport.get_write_buffer_size() > 0
            await far.receive_exactly(size)
            await until(lambda: told.said[-1] == "resume")
            assert transport.get_write_buffer_size() == 0

    run(main)


@both
def test_what_is_known_about_it(connect: Connect) -> None:
    async def main() -> None:
        told = Told()
        async with world(connect, told) as (transport, far):
            info = transport.get_extra_info
            assert info("sslcontext") is contexts()[0]
            assert info("ssl_object").version() == "TLSv1.3"
            assert info("peercert")["subject"]
            assert info("cipher")[1] == "TLSv1.3"
            assert info("compression") is None
            assert info("peername") == far.sock.getsockname()
            assert info("sockname") == far.sock.getpeername()
            assert info("socket").fileno() >= 0
            assert info("nothing") is None
            assert info("nothing", 7) == 7
            assert not transport.can_write_eof()
            with pytest.raises(NotImplementedError):
                transport.write_eof()
            assert "Transport" in repr(transport)

    run(main)


@both
@pytest.mark.parametrize("kind", [Told, ToldByBuffer])
def test_a_protocol_that_fails_loses_its_connection(connect: Connect, kind: type) -> None:
    class Broken(kind):  # type: ignore[misc]
        def data_received(self, data: bytes) -> None:
            raise ZeroDivisionError

        def buffer_updated(self, size: int) -> None:
            raise ZeroDivisionError

    async def main() -> None:
        reports: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        told = Broken()
        async with world(connect, told) as (_, far):
            await far.send(b"x")
            await until(lambda: told.lost)
            assert [type(report["exception"]) for report in reports] == [ZeroDivisionError]

    run(main)


@both
def test_streams(connect: Connect) -> None:
    async def main() -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        async with world(connect, protocol) as (transport, far):
            writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
            data = os.urandom(700_000)
            sending = asyncio.create_task(far.send(b"line\n" + data))
            assert await reader.readline() == b"line\n"
            assert await reader.readexactly(len(data)) == data
            await sending
            receiving = asyncio.create_task(far.receive_exactly(len(data)))
            for at in range(0, len(data), 50_000):
                writer.write(data[at : at + 50_000])
                await writer.drain()
            assert await receiving == data
            await far.end()
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    run(main)


# ---- ours alone -----------------------------------------------------------------------------------------------


def test_a_call_too_late_does_nothing() -> None:
    async def main() -> None:
        told = Told()
        async with world(ours, told) as (transport, far):
            transport.close()
            transport.write(b"too late")
            assert not transport.is_reading()
            transport.pause_reading()
            transport.resume_reading()
            assert await far.receive() == b""
            await until(lambda: told.lost)
            assert "closed" in repr(transport)
            assert transport.get_extra_info("sockname") is None

    run(main)


@pytest.mark.parametrize("ragged", [True, False])
def test_cut_off_without_close_notify(ragged: bool) -> None:
    async def main() -> None:
        told = Told()
        async with world(functools.partial(ours, ragged=ragged), told) as (_, far):
            await far.send(b"part")
            far.close()
            await until(lambda: told.lost)
            assert told.data == b"part"
            if ragged:  # the socket was made to take it for the end
                assert told.said == ["made", "eof", ("lost", None)]
            else:
                assert "close_notify" in str(told.said[-1][1])
                assert "eof" not in told.said

    run(main)


def test_closing_while_the_peer_sends() -> None:
    async def main() -> None:
        told = Told()
        async with world(ours, told) as (transport, far):
            transport.pause_reading()
            await far.send(bytes(50_000))
            transport.write(b"enough")
            transport.close()
            await asyncio.sleep(0)
            assert not told.lost  # it lingers: a reset might overtake the last words
            await far.send(bytes(50_000))
            assert await far.receive_exactly(6) == b"enough"
            assert await far.receive() == b""
            far.close()
            await until(lambda: told.lost)
            assert told.said == ["made", ("lost", None)]

    run(main)


def test_lingering_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_tls_aio, "LINGER", 0.01)

    async def main() -> None:
        told = Told()
        async with world(ours, told) as (transport, far):
            transport.pause_reading()
            await far.send(b"unread")
            transport.close()
            await until(lambda: told.lost)  # though the far end stays

    run(main)


class Stubborn(ssl.SSLSocket):
    """Wants the opposite of what was asked, once, as libssl does when it has a key update to answer."""

    balks: dict[str, list[type[ssl.SSLError]]]

    def _balk(self, call: str) -> None:
        if self.balks.get(call):
            raise self.balks[call].pop()

    def read(self, *args: Any) -> Any:
        self._balk("read")
        return super().read(*args)

    def send(self, *args: Any) -> int:
        self._balk("send")
        return super().send(*args)

    def unwrap(self) -> socket.socket:
        self._balk("unwrap")
        return super().unwrap()


async def stubborn(
    sock: socket.socket, protocol: asyncio.BaseProtocol, **balks: list[type[ssl.SSLError]]
) -> TlsTransport:
    context = contexts()[0]
    context.sslsocket_class = Stubborn
    try:
        tls = context.wrap_socket(sock, do_handshake_on_connect=False)
    finally:
        context.sslsocket_class = ssl.SSLSocket
    tls.balks = balks
    await handshake(tls)
    return TlsTransport(asyncio.get_running_loop(), tls, protocol)


def test_reading_that_wants_to_write() -> None:
    async def main() -> None:
        told = Told()
        how = functools.partial(stubborn, read=[ssl.SSLWantWriteError])
        async with world(how, told) as (_, far):
            await far.send(b"x")
            await until(lambda: told.data == b"x")

    run(main)


@pytest.mark.parametrize("paused", [True, False])
def test_writing_that_wants_to_read(paused: bool) -> None:
    async def main() -> None:
        told = Told()
        how = functools.partial(stubborn, send=[ssl.SSLWantReadError])
        async with world(how, told) as (transport, far):
            if paused:
                transport.pause_reading()
            transport.write(b"one")
            transport.write(b"two")
            assert transport.get_write_buffer_size() == 6
            await far.send(b"x")
            assert await far.receive_exactly(6) == b"onetwo"
            assert transport.get_write_buffer_size() == 0
            transport.resume_reading()
            await until(lambda: told.data == b"x")

    run(main)


def test_a_goodbye_that_does_not_fit() -> None:
    async def main() -> None:
        told = Told()
        how = functools.partial(stubborn, unwrap=[ssl.SSLWantWriteError])
        async with world(how, told) as (transport, far):
            transport.close()
            assert await far.receive() == b""
            await until(lambda: told.lost)

    run(main)


def test_a_goodbye_to_nobody() -> None:
    async def main() -> None:
        told = Told()
        async with world(ours, told) as (transport, far):
            transport.pause_reading()
            reset(far.sock)
            transport.close()
            await until(lambda: told.lost)
            assert told.said == ["made", ("lost", None)]

    run(main)


def test_a_protocol_without_room() -> None:
    async def main() -> None:
        reports: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        told = ToldByBuffer(0)
        async with world(ours, told) as (_, far):
            with contextlib.suppress(ConnectionError):  # the session ticket may have been too much already
                await far.send(b"x")
            await until(lambda: told.lost)
            assert "empty buffer" in str(reports[0]["exception"])

    run(main)


@pytest.mark.parametrize("when", ["get_buffer", "pause_writing", "connection_made"])
def test_a_protocol_that_fails_elsewhere(when: str) -> None:
    def fail(*args: Any) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        reports: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        told = ToldByBuffer()
        if when == "connection_made":
            setattr(told, when, fail)
            near, other = tcp_pair()
            far = Far(other)
            with pytest.raises(ZeroDivisionError):
                await asyncio.gather(ours(near, told), far.handshake())
            far.close()
            return
        async with world(ours, told) as (transport, far):
            setattr(told, when, fail)
            if when == "pause_writing":  # which does no harm
                transport.write(bytes(3_000_000))
                await far.receive_exactly(3_000_000)
            else:
                await far.send(b"x")
                await until(lambda: told.lost)
            assert [type(report["exception"]) for report in reports] == [ZeroDivisionError]

    run(main)


def test_an_interrupt_is_not_swallowed() -> None:
    class Interrupted(Told):
        def data_received(self, data: bytes) -> None:
            raise KeyboardInterrupt

        def pause_writing(self) -> None:
            raise KeyboardInterrupt

    async def main() -> None:
        told = Interrupted()
        async with world(ours, told) as (transport, far):
            with pytest.raises(KeyboardInterrupt):
                transport.write(bytes(3_000_000))
            transport.pause_reading()
            await far.send(b"x")
            with pytest.raises(KeyboardInterrupt):
                transport._tell(told.data_received, b"x")

    run(main)
