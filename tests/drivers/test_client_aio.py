import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.drivers.aiokit import Raw, run, server, until
from tests.leaks import descriptors
from trunkline.drivers import client_aio
from trunkline.drivers.addresses import place
from trunkline.drivers.client_aio import AsyncClient
from trunkline.drivers.server_aio import SwitchboardServer
from trunkline.drivers.sockets import Connection
from trunkline.errors import ClosedError, NoSwitchboard
from trunkline.names import Address, Peer
from trunkline.switchboard.config import ClientConfig
from trunkline.switchboard.events import Accepted, Announced, Delivered
from trunkline.wire.codec import encode_candidates
from trunkline.wire.messages import AskStatus, ServerStatus


class Sink:
    """Keeps what comes."""

    def __init__(self, *, lasting: bool = False) -> None:
        self.lasting = lasting
        self.connections: list[Connection] = []
        self.errors: list[Exception] = []

    def delivered(self, conn: Connection, met: Delivered) -> None:
        self.connections.append(conn)

    def failed(self, error: Exception) -> None:
        self.errors.append(error)

    def stands(self, generation: int) -> None:
        raise AssertionError("no post here")


def client(*servers: Address, **settings: Any) -> AsyncClient:
    config = ClientConfig(servers=servers, place=place(), **settings)
    return AsyncClient(config, remember=lambda servers: None, addresses=())


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[tuple[SwitchboardServer, AsyncClient]]:
    async with server() as s:
        c = client(s.address)
        try:
            yield s, c
        finally:
            c.close()


async def status(c: AsyncClient) -> ServerStatus:
    answer = await c.ask(AskStatus, 30)
    assert isinstance(answer, ServerStatus)
    return answer


def test_nothing_is_open_before_it_is_needed() -> None:
    async def main() -> None:
        before = descriptors()
        c = client(Address("127.0.0.1", 1))
        assert descriptors() == before
        c.close()
        c.close()

    run(main)


def test_one_connection_and_one_listener_for_all() -> None:
    async def main() -> None:
        async with pair() as (_, c):
            sinks = [Sink() for _ in range(20)]
            for i in range(0, 20, 2):
                c.meet(sinks[i], f"a{i}", f"b{i}", seconds=None)
                c.meet(sinks[i + 1], f"b{i}", f"a{i}", seconds=None)
            await until(lambda: all(sink.connections for sink in sinks))
            assert (await status(c)).clients == 1
            assert c._listeners is not None
            for sink in sinks:
                sink.connections[0].close()
            assert c._sinks == {}

    run(main)


def test_the_end_of_the_loop_closes_it() -> None:
    kept: list[AsyncClient] = []

    async def main() -> None:
        async with server() as s:
            kept.append(client(s.address))
            kept[0].meet(Sink(), "a", "b", seconds=None)
            await status(kept[0])

    run(main)
    assert kept[0].closed


def test_a_closed_client_says_so() -> None:
    async def main() -> None:
        async with pair() as (_, c):
            waiting = Sink()
            rid = c.meet(waiting, "a", "b", seconds=None)
            question = asyncio.ensure_future(c.ask(AskStatus, None))
            await asyncio.sleep(0)
            c.close()
            assert isinstance(waiting.errors[0], ClosedError)
            with pytest.raises(ClosedError):
                await question
            for call in (lambda: c.meet(Sink(), "a", "b", seconds=None), c.check_open):
                with pytest.raises(ClosedError):
                    call()
            with pytest.raises(ClosedError):
                await c.ask(AskStatus, None)
            c.cancel(rid)
            c.tell(Announced(b"x"))

    run(main)


def test_a_question_may_be_cancelled() -> None:
    async def main() -> None:
        async with pair() as (_, c):
            question = asyncio.ensure_future(c.ask(AskStatus, None))
            await asyncio.sleep(0)
            question.cancel()
            with pytest.raises(asyncio.CancelledError):
                await question
            assert await status(c)
            assert c._questions == {}

    run(main)


def test_whoever_cancels_all_tasks_cancels_a_dial_and_no_more() -> None:
    async def main() -> None:
        async with pair() as (_, c):
            waiting = Sink()
            c.meet(waiting, "a", "b", seconds=None)
            (dial,) = c._dials.tasks.values()
            dial.cancel()
            await until(lambda: waiting.errors)
            assert isinstance(waiting.errors[0], NoSwitchboard)
            assert "cancelled" in str(waiting.errors[0])
            assert await status(c)

    run(main)


def test_closed_while_it_dials() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            c = client(Address(*silent.getsockname()))
            c.meet(Sink(), "a", "b", seconds=None)
            c.close()
            await asyncio.sleep(0)

    run(main)


def test_a_connection_for_nobody_is_closed() -> None:
    async def main() -> None:
        async with pair() as (_, c):
            near, far = socket.socketpair()
            near.setblocking(False)
            c._peers.accepted(near, "")
            c._carry_out(Delivered(b"x" * 16, -1, Peer("b")))
            assert far.recv(1) == b""
            far.close()

    run(main)


def test_a_connection_that_was_lost_in_this_very_step_reads_eof() -> None:
    async def main() -> None:
        async with pair() as (_, c):
            sink = Sink()
            rid = c.meet(sink, "a", "b", seconds=None)
            c._carry_out(Delivered(rid, 12345, Peer("b")))
            assert sink.connections[0].recv(1) == b""
            sink.connections[0].close()

    run(main)


def test_new_addresses_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with pair() as (_, c):
            first = c._where(datagram=False)
            assert c._where(datagram=False) is first
            assert c._where(datagram=True) != first
            monkeypatch.setattr(client_aio, "ADDRESSES_FRESH", -1.0)
            assert c._where(datagram=False) == first
            c._addresses = ("198.51.100.1",)
            assert c._where(datagram=False) != first
            assert c._listeners is not None
            assert c._where(datagram=False) == encode_candidates(c._listeners.candidates(addresses=c._addresses))

    run(main)


def test_notices_make_it_look_for_a_server() -> None:
    async def main() -> None:
        async with server() as s:
            heard: list[bytes] = []
            config = ClientConfig(servers=(s.address,), notices=True)
            listener = AsyncClient(config, remember=lambda servers: None, noticed=heard.append)
            deaf = AsyncClient(config, remember=lambda servers: None)
            speaker = client(s.address)
            while (await status(speaker)).clients < 3:
                pass
            speaker.tell(Announced(b"hello"))
            await until(lambda: heard)
            assert heard == [b"hello"]
            for c in (listener, deaf, speaker):
                c.close()

    run(main)


def test_accepted_for_a_post_that_is_over() -> None:
    async def main() -> None:
        async with pair() as (_, c):
            c.tell(Accepted(b"x" * 16))
            assert await status(c)

    run(main)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_a_fork_leaves_the_parents_sockets_alone() -> None:
    async def main() -> None:
        async with pair() as (s, c):
            sink = Sink()
            c.meet(sink, "a", "b", seconds=None)
            await status(c)
            raw = await Raw.hello(s.address)
            child = os.fork()
            if not child:
                listening = [sock.fileno() for sock in c._listeners.sockets] if c._listeners else [0]
                os._exit(0 if c.closed and set(listening) == {-1} else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0  # noqa: ASYNC222 - it exits at once
            other = Sink()
            c.meet(other, "b", "a", seconds=30)
            await until(lambda: sink.connections and other.connections)
            sink.connections[0].close()
            other.connections[0].close()
            await raw.close()

    run(main)
