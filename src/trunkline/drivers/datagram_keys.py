"""The key exchange of a secure datagram meeting, over its confirmed TLS connection (docs/spec/sealing.md section 7).

`KeysOverTls` does not wait, so that whoever drives many handshakes drives these as well; the two functions below it do.
When the session is there the stream has done its work, and is closed.
"""

import asyncio
import math
import os
import select
import ssl
from typing import Final

from trunkline.drivers.clock import now as clock
from trunkline.errors import LinkClosed
from trunkline.meeting.datagram_keys import SHARE_SIZE, KeyExchange, Session
from trunkline.meeting.handshake import Role
from trunkline.names import Secret

_WANTS: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class KeysOverTls:
    """The exchange on one connection that TLS has authenticated and both sides have confirmed.

    Args:
        tls: doesn't block, and nothing was read from it beyond the confirmation.
        role: ours in the meeting.
        match: the match id.
    """

    __slots__ = ("_exchange", "_out", "_tls")

    def __init__(self, tls: ssl.SSLSocket | ssl.SSLObject, role: Role, match: bytes) -> None:
        self._tls = tls
        self._exchange = KeyExchange(role, match, Secret(os.urandom(SHARE_SIZE)))
        self._out = b""

    def step(self) -> Session:
        """Go on as far as can be; return the session when all is said.

        Raises:
            ssl.SSLWantReadError, ssl.SSLWantWriteError: it is not done; call again when the connection is ready.
            NotTrunkline: the peer said something else.
            LinkClosed: the peer hung up.
            OSError: the connection is lost.
        """
        while True:
            self._out = self._out or self._exchange.data_to_send()
            if self._out:
                self._tls.write(self._out)  # whole, or not at all: it fits one record
                self._out = b""
            if self._exchange.session is not None:
                return self._exchange.session
            data = self._tls.read(self._exchange.bytes_wanted)
            if not data:
                self._exchange.receive_eof()
            self._exchange.receive_data(data)


def exchange_keys(stream: ssl.SSLSocket, role: Role, match: bytes, timeout: float) -> Session:
    """Return the session that both sides agree upon; ``stream`` doesn't block afterwards.

    Args:
        stream: connected and confirmed.
        role: ours in the meeting.
        match: the match id.
        timeout: seconds for all of it.

    Raises:
        LinkClosed: the peer hung up, or took too long.
        NotTrunkline: the peer said something else.
    """
    deadline = clock() + timeout
    stream.setblocking(False)
    keys = KeysOverTls(stream, role, match)
    while True:
        try:
            return keys.step()
        except _WANTS as wants:
            poll = select.poll()
            poll.register(stream.fileno(), select.POLLIN if _reading(wants) else select.POLLOUT)
            if not poll.poll(max(0, math.ceil((deadline - clock()) * 1000))):
                raise _late(timeout) from None
        except OSError as error:
            raise _lost(error) from error


async def exchange_keys_async(stream: ssl.SSLSocket, role: Role, match: bytes, timeout: float) -> Session:  # noqa: ASYNC109
    """Do what `exchange_keys` does, on the running loop; ``stream`` doesn't block."""
    keys = KeysOverTls(stream, role, match)
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    return keys.step()
                except _WANTS as wants:
                    await _ready(stream.fileno(), reading=_reading(wants))
    except TimeoutError:
        raise _late(timeout) from None
    except OSError as error:
        raise _lost(error) from error


async def _ready(descriptor: int, *, reading: bool) -> None:
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    (loop.add_reader if reading else loop.add_writer)(descriptor, event.set)
    try:
        await event.wait()
    finally:
        (loop.remove_reader if reading else loop.remove_writer)(descriptor)


def _reading(wants: ssl.SSLError) -> bool:
    return isinstance(wants, ssl.SSLWantReadError)


def _late(timeout: float) -> LinkClosed:
    return LinkClosed(f"the keys for the datagrams were not exchanged within {timeout:g} s")


def _lost(error: OSError) -> LinkClosed:
    return LinkClosed(f"the keys for the datagrams were not exchanged: {error.strerror or error}")
