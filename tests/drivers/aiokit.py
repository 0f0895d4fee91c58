"""What the asyncio tests share: a loop that must leave nothing behind, servers on free ports, and a raw client."""

import asyncio
import gc
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tests.leaks import no_leaks
from trunkline.drivers.selector import new_event_loop
from trunkline.drivers.server_aio import SwitchboardServer
from trunkline.drivers.servers_tls import RealmMember
from trunkline.names import Address
from trunkline.switchboard.config import ServerConfig
from trunkline.wire.codec import PREAMBLE, Inbound, encode
from trunkline.wire.messages import Alive, AnyMessage, Hello, Members, Message, Welcome

T = TypeVar("T")

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "stock": asyncio.SelectorEventLoop,
    "polling": new_event_loop,
}
PATIENCE = 60.0
"""Seconds after which a test is held to hang: far more than any of them takes on a busy machine."""


def run(
    main: Callable[[], Coroutine[Any, Any, T]],
    loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop,
) -> T:
    """Run ``main`` on a loop of its own; what it leaves behind is an error."""
    with no_leaks():
        with asyncio.Runner(loop_factory=loop) as runner:
            result = runner.run(asyncio.wait_for(main(), PATIENCE))
        gc.collect()
    return result


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until ``condition`` holds."""
    while not condition():
        await asyncio.sleep(0)


def server(*, member: RealmMember | None = None, **settings: Any) -> SwitchboardServer:
    """Return a server that will listen on a free port of loopback; with ``member`` a secured one."""
    settings = {"id": "", "address": Address("127.0.0.1", 0), **settings}
    return SwitchboardServer(ServerConfig(**settings), member=member)


class Raw:
    """A client made of bytes: it may say what no client of ours says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._inbound = Inbound()
        self._messages: list[AnyMessage] = []

    @classmethod
    async def dial(cls, address: Address, tls: ssl.SSLContext | None = None) -> "Raw":
        named = {} if tls is None else {"ssl": tls, "server_hostname": ""}
        return cls(*await asyncio.open_connection(address.host, address.port, **named))

    @classmethod
    async def hello(cls, address: Address, tls: ssl.SSLContext | None = None) -> "Raw":
        """Dial, and go through the greeting."""
        raw = await cls.dial(address, tls)
        raw.send_bytes(PREAMBLE)
        raw.send(Hello("test"))
        assert isinstance(await raw.receive(), Welcome)
        return raw

    def send_bytes(self, data: bytes) -> None:
        self.writer.write(data)

    def send(self, *messages: Message) -> None:
        self.writer.write(b"".join(map(encode, messages)))

    async def receive(self, *, everything: bool = False) -> AnyMessage | None:
        """Return the next message; None when the other side has closed.

        Heartbeats and news of the mesh, which may come at any time, are passed over unless ``everything`` is wanted.
        """
        while True:
            while not self._messages:
                data = await self.reader.read(65536)
                if not data:
                    return None
                self._messages += self._inbound.receive_data(data)
            message = self._messages.pop(0)
            if everything or not isinstance(message, Alive | Members):
                return message

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            return
