"""A connection to an authority that only asks for what proves itself, in asyncio: for replicas and auditors."""

import asyncio
import contextlib
import ssl
from typing import Final, Self

from trunkline.authority.codec import decode_answer, encode, frame_size
from trunkline.authority.messages import PREAMBLE, Answer, Request
from trunkline.drivers.channel_aio import reason
from trunkline.drivers.tls import client_context
from trunkline.errors import NoAuthority, VersionMismatch
from trunkline.names import Address

TIMEOUT: Final = 10.0
"""Seconds within which a connection has to stand, and each answer to be there whole."""


class Upstream:
    """One authority; connected at the first question, and again at the first after a failure.

    Args:
        address: where it listens.
        root: the realm's root certificate, DER.
    """

    def __init__(self, address: Address, root: bytes) -> None:
        self.address = address
        self._context = client_context(root, None)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ask(self, request: Request) -> Answer:
        """Ask, and return the answer; one question at a time.

        Raises:
            NoAuthority: it can't be reached, or doesn't answer.
            RemoteError: what it says is no answer.
        """
        try:
            async with asyncio.timeout(TIMEOUT):
                reader, writer = self._streams or await self._connect()
                writer.write(encode(request))
                await writer.drain()
                size = frame_size(await reader.readexactly(4))
                answer = decode_answer(await reader.readexactly(size))
        except (OSError, EOFError) as error:  # TimeoutError and ssl.SSLError are OSErrors
            await self.close()
            why = f"no answer in {TIMEOUT:g} s" if isinstance(error, TimeoutError) else reason(error)
            raise NoAuthority([(str(self.address), why)]) from error
        except BaseException:
            await self.close()
            raise
        return answer

    async def close(self) -> None:
        """Close the connection, if there is one."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].transport.abort()  # nothing is under way that anybody waits for
            with contextlib.suppress(OSError, ssl.SSLError):
                await streams[1].wait_closed()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(self.address.host, self.address.port, ssl=self._context)
        self._streams = reader, writer
        writer.write(PREAMBLE)
        theirs = await reader.readexactly(len(PREAMBLE))
        if theirs != PREAMBLE:
            raise VersionMismatch(repr(theirs), PREAMBLE[:-1].decode())
        return reader, writer
