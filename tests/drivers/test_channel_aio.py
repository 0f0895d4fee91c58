import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable

import pytest

from tests.drivers.aiokit import LOOPS, run, until
from trunkline.drivers import channel_aio
from trunkline.drivers.channel_aio import CLIENT_OUTPUT, MATE_OUTPUT, Channel, Pump, reason, shown
from trunkline.errors import FrameTooLarge, RemoteError
from trunkline.wire.codec import PREAMBLE, Inbound, encode
from trunkline.wire.messages import Alive, AnyMessage, AskStatus, Explanation

either_loop = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
BIG = Explanation(1, ("x" * 1000,) * 30)


class Owner:
    """Writes down what it is told, and closes what is broken."""

    def __init__(self) -> None:
        self.messages: list[AnyMessage] = []
        self.lost: list[str] = []
        self.broken: list[RemoteError] = []

    def messages_received(self, channel: Channel, messages: list[AnyMessage]) -> None:
        self.messages += messages

    def channel_broken(self, channel: Channel, error: RemoteError) -> None:
        self.broken.append(error)
        channel.close()

    def channel_lost(self, channel: Channel, reason: str) -> None:
        assert channel.closed
        self.lost.append(reason)


class Bench:
    """One channel, and the raw other end of it."""

    def __init__(self, limit: int = 1 << 20) -> None:
        self.loop = asyncio.get_running_loop()
        self.pump = Pump(self.loop)
        self.owner = Owner()
        ours, self.far = socket.socketpair()
        ours.setblocking(False)
        self.far.setblocking(False)
        self.channel = Channel(self.pump, self.owner, ours, conn=-1, remote="there", limit=limit)
        self._inbound = Inbound()

    async def receive(self, number: int) -> list[AnyMessage]:
        """Return so many messages from the far end."""
        messages: list[AnyMessage] = []
        while len(messages) < number:
            messages += self._inbound.receive_data(await self.loop.sock_recv(self.far, 65536))
        return messages

    def close(self) -> None:
        self.channel.abort()
        self.far.close()
        self.pump.close()


@contextlib.contextmanager
def bench(limit: int = 1 << 20):
    made = Bench(limit)
    try:
        yield made
    finally:
        made.close()


@either_loop
def test_a_turn_is_one_write(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        with bench() as b:
            for number in range(3):
                b.channel.send(AskStatus(number))
            b.pump.flush_later()
            b.channel.send(AskStatus(3))
            b.pump.flush_later()
            data = await b.loop.sock_recv(b.far, 65536)
            assert data == PREAMBLE + b"".join(encode(AskStatus(i)) for i in range(4))
            b.channel.send(Alive())
            b.channel.send(Alive())
            b.pump.flush()
            assert await b.loop.sock_recv(b.far, 65536) == encode(Alive()) * 2

    run(main, loop)


def test_messages_come_in_any_pieces() -> None:
    async def main() -> None:
        with bench() as b:
            data = PREAMBLE + encode(AskStatus(1)) + encode(BIG)
            for i in range(0, len(data), 7001):
                await b.loop.sock_sendall(b.far, data[i : i + 7001])
            await until(lambda: len(b.owner.messages) == 2)
            assert b.owner.messages == [AskStatus(1), BIG]

    run(main)


def test_two_channels_share_the_buffer() -> None:
    async def main() -> None:
        with bench() as b:
            ours, far = socket.socketpair()
            ours.setblocking(False)
            with far:
                other = Channel(b.pump, b.owner, ours, conn=-2, remote="", limit=99)
                half = PREAMBLE + encode(AskStatus(7))
                b.far.send(half[:-2])
                far.send(PREAMBLE + encode(AskStatus(8)))
                await until(lambda: b.owner.messages)
                b.far.send(half[-2:])
                await until(lambda: len(b.owner.messages) == 2)
                assert b.owner.messages == [AskStatus(8), AskStatus(7)]
                other.abort()

    run(main)


def test_the_end_of_the_other_side_is_told() -> None:
    async def main() -> None:
        with bench() as b:
            b.far.close()
            await until(lambda: b.owner.lost)
            assert b.owner.lost == ["closed by the other side"]
            b.channel.send(Alive())
            b.channel.flush()
            b.channel.close()
        with bench() as b:
            b.channel.send(Alive())
            b.channel.flush()
            b.far.close()  # with something unread: a reset
            await until(lambda: b.owner.lost)
            assert b.owner.lost == ["connection reset by peer"]

    run(main)


def test_a_write_that_fails_is_told_once() -> None:
    async def main() -> None:
        with bench() as b:
            b.far.close()
            b.channel.send(Alive())
            b.pump.flush()
            assert b.owner.lost == ["broken pipe"]

    run(main)


def test_a_frame_that_is_too_large_breaks_it() -> None:
    async def main() -> None:
        with bench() as b:
            b.far.send(PREAMBLE + b"\xff\xff\xff\xff")
            await until(lambda: b.owner.broken)
            assert isinstance(b.owner.broken[0], FrameTooLarge)

    run(main)


def test_who_does_not_read_is_dropped_at_the_limit() -> None:
    async def main() -> None:
        with bench(limit=100_000) as b:
            sent = 0
            while not b.owner.lost:
                b.channel.send(BIG)
                sent += 1
                assert sent < 1000
            (why,) = b.owner.lost
            assert "it does not read" in why
            assert "the limit is 100000" in why
            b.channel.send(BIG)  # swallowed

    run(main)


def test_a_burst_over_the_limit_is_fine_for_who_reads() -> None:
    async def main() -> None:
        with bench(limit=70_000) as b:
            for _ in range(5):
                b.channel.send(BIG)  # the third is over the limit: what waits is sent at once
            assert len(await b.receive(3)) == 3
            assert not b.owner.lost

    run(main)


def fill(b: Bench) -> int:
    """Send until so much waits that a client is paused; return how many were sent."""
    sent = 0
    while len(b.channel._out) <= channel_aio.PAUSE_OUTPUT:
        b.channel.send(BIG)
        b.pump.flush()
        sent += 1
    return sent


def test_a_client_that_does_not_read_is_not_read_from() -> None:
    async def main() -> None:
        with bench(limit=CLIENT_OUTPUT) as b:
            sent = fill(b)
            b.channel.send(BIG)
            await b.loop.sock_sendall(b.far, PREAMBLE + encode(AskStatus(1)))
            for _ in range(5):
                await asyncio.sleep(0)
            assert b.owner.messages == []
            assert len(await b.receive(sent + 1)) == sent + 1
            await until(lambda: b.owner.messages)
            assert b.owner.messages == [AskStatus(1)]

    run(main)


def test_a_server_that_does_not_read_is_read_from() -> None:
    async def main() -> None:
        with bench(limit=MATE_OUTPUT) as b:
            sent = fill(b)
            await b.loop.sock_sendall(b.far, PREAMBLE + encode(AskStatus(1)))
            await until(lambda: b.owner.messages)
            assert len(await b.receive(sent)) == sent

    run(main)


def test_closing_sends_what_waits_and_lingers() -> None:
    async def main() -> None:
        with bench() as b:
            for _ in range(30):
                b.channel.send(BIG)
            b.channel.close()
            b.channel.close()
            assert b.channel in b.pump.lingering
            await b.loop.sock_sendall(b.far, b"whatever" * 100)
            assert len(await b.receive(30)) == 30
            assert await b.loop.sock_recv(b.far, 1) == b""
            b.far.close()
            await b.pump.drained()
            await b.pump.drained()
            assert not b.owner.lost

    run(main)


def test_lingering_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(channel_aio, "LINGER", 0.001)
        with bench() as b:
            b.channel.close()
            await b.pump.drained()
            assert await b.loop.sock_recv(b.far, 99) == PREAMBLE
            assert await b.loop.sock_recv(b.far, 1) == b""

    run(main)


def test_few_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(channel_aio, "MAX_LINGERING", 0)
        with bench() as b:
            b.channel.close()
            assert not b.pump.lingering
            assert await b.loop.sock_recv(b.far, 99) == PREAMBLE
            assert await b.loop.sock_recv(b.far, 1) == b""

    run(main)


def test_a_reset_while_lingering() -> None:
    async def main() -> None:
        with bench() as b:
            b.channel.close()
            b.far.close()  # the preamble is unread
            await b.pump.drained()
        with bench() as b:
            for _ in range(30):
                b.channel.send(BIG)
            b.channel.close()
            b.far.close()
            await b.pump.drained()
            assert not b.owner.lost

    run(main)


def test_closing_when_the_other_side_is_gone() -> None:
    async def main() -> None:
        with bench() as b:
            b.far.close()
            b.channel.send(Alive())
            b.channel.close()
            assert not b.owner.lost
            assert not b.pump.lingering

    run(main)


def test_the_pump_ends_what_lingers() -> None:
    async def main() -> None:
        b = Bench()
        b.channel.close()
        b.pump.close()
        assert not b.pump.lingering
        b.far.close()

    run(main, LOOPS["polling"])


def test_reasons_and_addresses_for_people() -> None:
    assert reason(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")) == "connection refused"
    assert reason(ValueError()) == "valueerror"
    assert reason(OSError("odd")) == "odd"
    assert shown(("127.0.0.1", 80)) == "127.0.0.1:80"
    assert shown(("::1", 80, 0, 0)) == "[::1]:80"
    assert shown("\0name") == "\0name"
