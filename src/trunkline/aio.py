"""The asyncio face: `trunkline`'s names, asynchronous.

    reader, writer, peer = await aio.meet("alice", "bob")

`Switchboard` holds a configuration and does everything on one event loop. The functions of this module do the same
with a default one for each loop, which reads its settings from the environment and TRUNKLINE_HOME when it is first
used, stays connected between meetings, and closes with `close` or when `asyncio.run` ends.

Every call can be cancelled, and leaves nothing behind on any server then.
"""

import asyncio
import functools
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from trunkline.drivers.addresses import place
from trunkline.drivers.client_aio import AsyncClient
from trunkline.drivers.home import Home, given_servers
from trunkline.drivers.sockets import Connection, hang_up
from trunkline.drivers.streams_aio import streams, streams_at_once
from trunkline.errors import ClosedError, ConfigError, MeetTimeout
from trunkline.names import Address, Peer, Secret, check_name, check_pair
from trunkline.switchboard.config import ClientConfig
from trunkline.switchboard.events import Accepted, Announced, PostWanted
from trunkline.wire.limits import MAX_BACKLOG, MAX_NOTICE, MAX_SECRET
from trunkline.wire.messages import (
    AskStatus,
    Explain,
    Explanation,
    ListNames,
    NameList,
    PostedName,
    ServerStatus,
)

ANSWER_TIMEOUT: Final = 10.0
"""Seconds that a question to a server may take by default."""

NOTICES_KEPT: Final = 256
"""Notices that wait for a reader of `notices`; when more come, the oldest are lost."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter, Peer]
"""What a meeting gives: a reader, a writer, and who is at the other end."""


class _Meeting:
    """Waits for one connection."""

    __slots__ = ("_streams", "future")

    lasting = False

    def __init__(self, loop: asyncio.AbstractEventLoop, *, streams: bool) -> None:
        self.future: asyncio.Future[Connection | Streams] = loop.create_future()
        self._streams = streams

    def delivered(self, conn: Connection) -> None:
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
        if not self.future.done():
            self.future.set_exception(error)

    def stands(self, generation: int) -> None:
        raise AssertionError(f"only posts stand, and have a generation: {generation}")


class Post:
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
        switchboard: "Switchboard",
        name: str,
        *,
        unique: bool,
        secret: Secret | None,
        backlog: int,
        datagram: bool,
    ) -> None:
        self.name: Final = name
        """The name that is posted."""
        self.secret: Final = secret
        """For a unique name, what takes it over later: give it to `post` as ``secret``."""
        self.generation = 0
        """For a unique name, how often it has changed hands; 0 for others."""
        self._switchboard = switchboard
        self._unique = unique
        self._backlog = backlog
        self._datagram = datagram
        self._client: AsyncClient | None = None
        self._rid = b""
        self._standing: asyncio.Future[None] | None = None
        self._ready: deque[Connection] = deque()
        self._acceptors: deque[asyncio.Future[Connection]] = deque()
        self._error: Exception | None = None

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
        return await _streams(await self.accept_socket(timeout))

    async def accept_socket(self, timeout: float | None = None) -> Connection:  # noqa: ASYNC109
        """Do what `accept` does with a connected socket, not blocking; for datagrams a UDP socket."""
        if self._ready:
            return self._taken(self._ready.popleft())
        if self._client is None and self._error is None:
            raise ClosedError(f"the post {self.name!r} was not entered: use `async with`, or await it")
        if self._error is not None:
            raise self._error
        assert self._client is not None, "it was entered"
        future: asyncio.Future[Connection] = self._client.loop.create_future()
        self._acceptors.append(future)
        try:
            async with asyncio.timeout(timeout):
                conn = await future
        except BaseException as error:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._put_back(future.result())
            elif future in self._acceptors:
                self._acceptors.remove(future)
            if isinstance(error, TimeoutError):
                raise MeetTimeout(self.name, "", timeout or 0.0) from None
            raise
        return self._taken(conn)

    async def close(self) -> None:
        """Take the offer back. Clients that were not accepted read EOF. Closing twice does nothing."""
        if self._client is not None:
            self._client.cancel(self._rid)
        self._end(ClosedError(f"the post {self.name!r} is closed"))
        while self._ready:
            hang_up(self._ready.popleft())

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

    def delivered(self, conn: Connection) -> None:
        """For the client: a connection was made."""
        while self._acceptors:
            future = self._acceptors.popleft()
            if not future.done():
                future.set_result(conn)
                return
        self._ready.append(conn)

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
        self._client = self._switchboard.client()
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

    def _taken(self, conn: Connection) -> Connection:
        assert self._client is not None, "who delivers has a client"
        self._client.tell(Accepted(self._rid))
        return conn

    def _put_back(self, conn: Connection) -> None:
        # Its acceptor was cancelled in the very turn in which it came.
        if self._error is None:
            self._ready.appendleft(conn)
        else:
            hang_up(conn)

    def _end(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        for acceptor in self._acceptors:
            if not acceptor.done():
                acceptor.set_exception(self._error)
        self._acceptors.clear()
        if self._standing is not None and not self._standing.done():
            self._standing.set_exception(self._error)


class Switchboard:
    """The switchboard as one program uses it: where its servers are, and how patiently to wait for them.

    It keeps one connection to a server and one listener for each event loop that uses it. Nothing is opened before
    the first use. A child of a fork starts afresh.

    Args:
        servers: addresses of servers, ``host:port``, best first; by default what TRUNKLINE_SWITCHBOARDS, the
            settings file and the host list say.
        home: the folder of settings and host list; by default TRUNKLINE_HOME or the platform's.
        advertise: addresses at which peers on other hosts can dial this process, instead of what the kernel says.
        timings: settings of `trunkline.switchboard.config.ClientConfig` to change; ``servers``, ``place`` and
            ``notices`` in it are overruled.
    """

    def __init__(
        self,
        servers: Iterable[str | Address] | str | Address | None = None,
        *,
        home: str | Path | None = None,
        advertise: Iterable[str] | None = None,
        timings: ClientConfig | None = None,
    ) -> None:
        self._servers = given_servers(servers)
        self._home_path = home
        self._advertise = None if advertise is None else tuple(advertise)
        self._timings = timings or ClientConfig()
        self._clients: dict[asyncio.AbstractEventLoop, AsyncClient] = {}

    async def meet(self, me: str, you: str, *, timeout: float | None = None) -> Streams:  # noqa: ASYNC109
        """Return streams to the process that calls ``meet(you, me)`` or posts ``you``, and who it is.

        Nothing that the peer sends is read by us before you read. ``writer.get_extra_info("peer")`` is the peer too.

        Args:
            me: what this process calls itself.
            you: what the other calls itself.
            timeout: seconds to wait for it; None waits as long as it takes.

        Raises:
            InvalidName: a name can't be used, or both are the same.
            MeetTimeout: it didn't come in time; the error says what the switchboard knows about that.
            NoSwitchboard: no server could be reached.
            TooMany: a server's cap is reached.
        """
        made = await self._meet(me, you, timeout, streams=True)
        return await _streams(made) if isinstance(made, Connection) else made

    async def meet_socket(self, me: str, you: str, *, timeout: float | None = None) -> Connection:  # noqa: ASYNC109
        """Do what `meet` does, and return the connected socket itself, which doesn't block. Nagle's is off."""
        conn = await self._meet(me, you, timeout)
        assert isinstance(conn, Connection), "no streams were asked for"
        return conn

    async def meet_datagram(self, me: str, you: str, *, timeout: float | None = None) -> Connection:  # noqa: ASYNC109
        """Do what `meet` does with a connected UDP socket, which doesn't block.

        What is sent on it may be lost, doubled or overtaken.
        """
        conn = await self._meet(me, you, timeout, datagram=True)
        assert isinstance(conn, Connection), "no streams were asked for"
        return conn

    def post(
        self,
        name: str,
        *,
        unique: bool = False,
        secret: Secret | bytes | None = None,
        backlog: int = 128,
        datagram: bool = False,
    ) -> Post:
        """Offer connections under ``name`` to whoever meets it; see `Post` for how to enter it.

        Several processes may post one name: clients are spread over them.

        Args:
            name: what to be called.
            unique: be the only one. If somebody already is, entering it fails, unless ``secret`` proves that it was
                us.
            secret: what an earlier unique post of this name had as `Post.secret`.
            backlog: most clients that wait for `Post.accept` at once, 1 to 4096.
            datagram: offer connected UDP sockets, for `meet_datagram`; take them with `Post.accept_socket`.

        Raises:
            InvalidName: the name can't be used.
            ValueError: ``backlog`` or ``secret`` is out of its limits.
        """
        check_name(name)
        if not 1 <= backlog <= MAX_BACKLOG:
            raise ValueError(f"a backlog of {backlog} is out of the limits: 1 to {MAX_BACKLOG}")
        if isinstance(secret, bytes):
            secret = Secret(secret)
        if secret is not None and not 1 <= len(secret.reveal()) <= MAX_SECRET:
            raise ValueError(f"a secret has 1 to {MAX_SECRET} bytes")
        if unique and secret is None:
            secret = Secret(os.urandom(32))
        return Post(self, name, unique=unique, secret=secret, backlog=backlog, datagram=datagram)

    async def names(self, prefix: str = "", *, timeout: float | None = ANSWER_TIMEOUT) -> list[PostedName]:  # noqa: ASYNC109
        """Return what is posted under names that begin with ``prefix``, in order.

        Raises:
            NoSwitchboard: no server could be reached, or none answered within ``timeout`` seconds.
        """
        if prefix:
            check_name(prefix)
        found: list[PostedName] = []
        while True:
            after = found[-1].name if found else ""
            answer = await self.client().ask(functools.partial(ListNames, prefix=prefix, after=after), timeout)
            assert isinstance(answer, NameList), "the machine lets no other answer through"
            found += answer.names
            if not answer.more or not answer.names:
                return found

    async def status(self, *, timeout: float | None = ANSWER_TIMEOUT) -> ServerStatus:  # noqa: ASYNC109
        """Return how the server that we are connected to is.

        Raises:
            NoSwitchboard: no server could be reached, or none answered within ``timeout`` seconds.
        """
        answer = await self.client().ask(AskStatus, timeout)
        assert isinstance(answer, ServerStatus), "the machine lets no other answer through"
        return answer

    async def explain(
        self,
        me: str,
        you: str,
        *,
        datagram: bool = False,
        timeout: float | None = ANSWER_TIMEOUT,  # noqa: ASYNC109
    ) -> tuple[str, ...]:
        """Return why ``meet(me, you)`` would wait: a line for each thing that may be the reason.

        Raises:
            InvalidName: a name can't be used.
            NoSwitchboard: no server could be reached, or none answered within ``timeout`` seconds.
        """
        check_pair(me, you)
        answer = await self.client().ask(functools.partial(Explain, me=me, you=you, datagram=datagram), timeout)
        assert isinstance(answer, Explanation), "the machine lets no other answer through"
        return answer.lines

    async def broadcast(self, payload: bytes, *, timeout: float | None = ANSWER_TIMEOUT) -> None:  # noqa: ASYNC109
        """Send a notice to every client that wants notices; return when a server has it.

        It may be lost on the way from there, and the servers limit the rate of each sender.

        Raises:
            ValueError: it is longer than 512 bytes.
            NoSwitchboard: no server could be reached, or none answered within ``timeout`` seconds.
        """
        if len(payload) > MAX_NOTICE:
            raise ValueError(f"a notice of {len(payload)} bytes exceeds the limit of {MAX_NOTICE}")
        client = self.client()
        client.tell(Announced(bytes(payload)))
        await client.ask(AskStatus, timeout)  # the server answers in order

    async def notices(self) -> AsyncIterator[bytes]:
        """Yield the broadcasts of others, from now on, over a connection of its own, for as long as it is iterated.

        Who reads too slowly loses the oldest.
        """
        kept: deque[bytes] = deque(maxlen=NOTICES_KEPT)
        came = asyncio.Event()

        def noticed(payload: bytes) -> None:
            kept.append(payload)
            came.set()

        client = self._new_client(noticed)
        try:
            while True:
                await came.wait()
                came.clear()
                while kept:
                    yield kept.popleft()
                client.check_open()
        finally:
            client.close()

    async def close(self) -> None:
        """Withdraw what this loop's calls want, end their posts, close the connections. A later call starts afresh."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def client(self) -> AsyncClient:
        """Return the running loop's client."""
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None or client.closed:
            for other in [other for other in self._clients if other.is_closed()]:
                self._clients.pop(other).abandon()
            client = self._clients[loop] = self._new_client()
        return client

    def _new_client(self, noticed: Callable[[bytes], None] | None = None) -> AsyncClient:
        home = Home(self._home_path)
        config = msgspec.structs.replace(
            self._timings,
            servers=home.switchboards() if self._servers is None else self._servers,
            place=place(),
            notices=noticed is not None,
        )
        addresses = home.settings().advertise if self._advertise is None else self._advertise
        return AsyncClient(config, remember=home.remember, addresses=addresses, noticed=noticed)

    async def _meet(
        self, me: str, you: str, seconds: float | None, *, datagram: bool = False, streams: bool = False
    ) -> Connection | Streams:
        check_pair(me, you)
        client = self.client()
        meeting = _Meeting(client.loop, streams=streams)
        rid = client.meet(meeting, me, you, seconds=seconds, datagram=datagram)
        try:
            return await meeting.future
        except BaseException:
            meeting.drop()
            client.cancel(rid)
            raise


async def _streams(conn: Connection) -> Streams:
    reader, writer = streams_at_once(conn) or await streams(conn)
    return reader, writer, conn.peer


default: Final = Switchboard()
"""The one that the functions of this module use."""

meet = default.meet
meet_socket = default.meet_socket
meet_datagram = default.meet_datagram
post = default.post
names = default.names
status = default.status
explain = default.explain
broadcast = default.broadcast
notices = default.notices
close = default.close
