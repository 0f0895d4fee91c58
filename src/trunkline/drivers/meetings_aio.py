"""What asyncio callers wait with: for one connection, or for all that come to a post."""

import asyncio
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from trunkline.drivers.client_aio import AsyncClient
from trunkline.drivers.sockets import Connection, hang_up
from trunkline.drivers.streams_aio import streams, streams_at_once
from trunkline.errors import ClosedError, ConfigError, MeetTimeout, TrunklineError
from trunkline.names import Peer, Secret
from trunkline.switchboard.events import Accepted, Delivered, PostWanted
from trunkline.switchboard.requests import MAX_NOTES

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter, Peer]
"""What a meeting gives: a reader, a writer, and who is at the other end."""


ConnectionT = TypeVar("ConnectionT", bound=socket.socket)


class Meeting:
    """Waits for one connection.

    Args:
        loop: the running loop.
        streams: make streams over it.
    """

    __slots__ = ("_streams", "future")

    lasting = False

    def __init__(self, loop: asyncio.AbstractEventLoop, *, streams: bool) -> None:
        self.future: asyncio.Future[Connection | Streams] = loop.create_future()
        self._streams = streams

    def delivered(self, conn: Connection, met: Delivered) -> None:
        """For the client: the connection is made."""
        if self.future.done():
            hang_up(conn)
            return
        # Made here, the streams are connected in the same turn of the loop in which the caller wakes.
        made = streams_at_once(conn) if self._streams else None
        self.future.set_result(conn if made is None else (*made, conn.peer))

    def drop(self) -> None:
        """The caller was cancelled in the very turn in which the connection came: the peer reads EOF."""
        if self.future.done() and not self.future.cancelled() and self.future.exception() is None:
            made = self.future.result()
            if isinstance(made, Connection):
                hang_up(made)
            else:
                made[1].transport.abort()

    def failed(self, error: Exception) -> None:
        """For the client: the request is over."""
        if not self.future.done():
            self.future.set_exception(error)

    def stands(self, generation: int) -> None:
        """For the client, which says this of posts only."""
        raise AssertionError(f"only posts stand, and have a generation: {generation}")


class AnyPost(ABC, Generic[ConnectionT]):
    """A standing offer under a name: whoever meets the name gets a connection to us.

    Use it in ``async with``, or await it and `close` it later: either returns when a server has taken the offer. Any
    number of tasks may accept; ``async for`` accepts until the post is closed.

    Raises, when it is entered:
        NameTaken: the name is held by another, or was asked for as unique while others post it.
        NoSwitchboard: no server could be reached.
    """

    lasting = True

    def __init__(
        self,
        client: Callable[[], AsyncClient],
        name: str,
        *,
        unique: bool,
        secret: Secret | None,
        backlog: int,
        datagram: bool = False,
    ) -> None:
        self.name: Final = name
        """The name that is posted."""
        self.secret: Final = secret
        """For a unique name, what takes it over later: give it to `post` as ``secret``."""
        self.generation = 0
        """For a unique name, how often it has changed hands; 0 for others."""
        self._new_client = client
        self._unique = unique
        self._backlog = backlog
        self._datagram = datagram
        self._client: AsyncClient | None = None
        self._rid = b""
        self._standing: asyncio.Future[None] | None = None
        self._ready: deque[ConnectionT | TrunklineError] = deque()
        self._acceptors: deque[asyncio.Future[ConnectionT | TrunklineError]] = deque()
        self._error: Exception | None = None
        self._notes: deque[str] = deque(maxlen=MAX_NOTES)
        """What is known about clients that came to nothing."""

    async def accept(self, timeout: float | None = None) -> Streams:  # noqa: ASYNC109 - as in the blocking face
        """Return streams to the next client, and who it is, in the order in which they came.

        Args:
            timeout: seconds to wait; None waits for ever.

        Raises:
            MeetTimeout: nobody came in time.
            Displaced: somebody took the unique name over.
            ClosedError: the post was closed.
        """
        if self._datagram:
            raise ConfigError(f"the post {self.name!r} offers datagrams, which have no streams: use accept_socket")
        return await self._streams(await self.accept_socket(timeout))

    async def accept_socket(self, timeout: float | None = None) -> ConnectionT:  # noqa: ASYNC109
        """Do what `accept` does with a connected socket, not blocking; for datagrams a UDP socket."""
        if self._ready:
            return self._taken(self._ready.popleft())
        if self._client is None and self._error is None:
            raise ClosedError(f"the post {self.name!r} was not entered: use `async with`, or await it")
        if self._error is not None:
            raise self._error
        assert self._client is not None, "it was entered"
        future: asyncio.Future[ConnectionT | TrunklineError] = self._client.loop.create_future()
        self._acceptors.append(future)
        try:
            async with asyncio.timeout(timeout):
                arrival = await future
        except BaseException as error:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._put_back(future.result())
            elif future in self._acceptors:
                self._acceptors.remove(future)
            if isinstance(error, TimeoutError):
                raise MeetTimeout(self.name, "", timeout or 0.0, tuple(self._notes)) from None
            raise
        return self._taken(arrival)

    async def close(self) -> None:
        """Take the offer back. Clients that were not accepted read EOF. Closing twice does nothing."""
        if self._client is not None:
            self._client.cancel(self._rid)
        self._end(ClosedError(f"the post {self.name!r} is closed"))
        while self._ready:
            self._hang_up(self._ready.popleft())

    async def __aenter__(self) -> Self:
        await self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __await__(self) -> Generator[object, None, Self]:
        return self.__aenter__().__await__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Streams:
        try:
            return await self.accept()
        except ClosedError:
            raise StopAsyncIteration from None

    def __repr__(self) -> str:
        return f"<Post {self.name!r}>"

    # ---- what the client tells ------------------------------------------------------------------------------

    @abstractmethod
    def delivered(self, conn: Connection, met: Delivered) -> None:
        """For the client: a connection was made."""

    def failed(self, error: Exception) -> None:
        """For the client: the post is over."""
        self._end(error)

    def stands(self, generation: int) -> None:
        """For the client: a server has taken the post."""
        self.generation = generation
        if self._standing is not None and not self._standing.done():
            self._standing.set_result(None)

    # ---- inside ---------------------------------------------------------------------------------------------

    async def _enter(self) -> None:
        if self._client is not None or self._error is not None:
            raise ClosedError(f"the post {self.name!r} was entered before: make a new one")
        self._client = self._new_client()
        self._standing = self._client.loop.create_future()
        self._rid = self._client.post(self, self._wanted, datagram=self._datagram)
        try:
            await self._standing
        except BaseException:
            await self.close()
            raise

    def _wanted(self, rid: bytes, at: bytes) -> PostWanted:
        return PostWanted(
            rid,
            self.name,
            at,
            datagram=self._datagram,
            unique=self._unique,
            secret=self.secret,
            backlog=self._backlog,
        )

    def _arrived(self, arrival: ConnectionT | TrunklineError) -> None:
        """Give it to whoever has waited longest, or keep it for who comes next."""
        while self._acceptors:
            future = self._acceptors.popleft()
            if not future.done():
                future.set_result(arrival)
                return
        self._ready.append(arrival)

    def _taken(self, arrival: ConnectionT | TrunklineError) -> ConnectionT:
        assert self._client is not None, "who delivers has a client"
        self._client.tell(Accepted(self._rid))
        if isinstance(arrival, TrunklineError):
            raise arrival
        return arrival

    def _put_back(self, arrival: ConnectionT | TrunklineError) -> None:
        # Its acceptor was cancelled in the very turn in which it came.
        if self._error is None:
            self._ready.appendleft(arrival)
        else:
            self._hang_up(arrival)

    @abstractmethod
    def _hang_up(self, arrival: ConnectionT | TrunklineError) -> None:
        """Close what nobody took."""

    @abstractmethod
    async def _streams(self, conn: ConnectionT) -> Streams:
        """Return streams over it."""

    def _end(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        for acceptor in self._acceptors:
            if not acceptor.done():
                acceptor.set_exception(self._error)
        self._acceptors.clear()
        if self._standing is not None and not self._standing.done():
            self._standing.set_exception(self._error)


class Post(AnyPost[Connection]):
    __doc__ = AnyPost.__doc__

    def delivered(self, conn: Connection, met: Delivered) -> None:
        """For the client: a connection was made."""
        self._arrived(conn)

    def _hang_up(self, arrival: Connection | TrunklineError) -> None:
        assert isinstance(arrival, Connection), "a plain post is given nothing else"
        hang_up(arrival)

    async def _streams(self, conn: Connection) -> Streams:
        return await make_streams(conn)


async def make_streams(conn: Connection) -> Streams:
    """Return streams over ``conn``, and its peer."""
    reader, writer = streams_at_once(conn) or await streams(conn)
    return reader, writer, conn.peer
