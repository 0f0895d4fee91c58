"""The asyncio face: `trunkline`'s names, asynchronous.

    reader, writer, peer = await aio.meet("alice", "bob")

`Switchboard` holds a configuration and does everything on one event loop. The functions of this module do the same
with a default one for each loop, which reads its settings from the environment and TRUNKLINE_HOME when it is first
used, stays connected between meetings, and closes with `close` or when `asyncio.run` ends.

    reader, writer, peer = await aio.secure_meet("alice", "bob", user="ann", peer_user="ben")

Secure meetings need a home that belongs to a realm (`trunkline up`, `trunkline join`); certificates are renewed in the
background, by a thread that lives while there is something to ask.

Every call can be cancelled, and leaves nothing behind on any server then.
"""

import asyncio
import functools
import os
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import msgspec

from trunkline.drivers import secure_aio
from trunkline.drivers.addresses import place
from trunkline.drivers.client_aio import AsyncClient
from trunkline.drivers.home import Home, given_servers
from trunkline.drivers.meetings_aio import Meeting, Post, Streams, make_streams
from trunkline.drivers.memberships import Memberships
from trunkline.drivers.secure_aio import SecurePost, secure_streams
from trunkline.drivers.secure_datagram import SecureDatagramSocket
from trunkline.drivers.secure_sockets import SecureConnection
from trunkline.drivers.sockets import Connection
from trunkline.drivers.upkeep_aio import Upkeep
from trunkline.names import Address, Secret, check_name, check_pair
from trunkline.switchboard.config import ClientConfig
from trunkline.switchboard.events import Announced
from trunkline.users import check_pattern, check_user
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

if TYPE_CHECKING:
    from trunkline.drivers.membership import Membership

ANSWER_TIMEOUT: Final = 10.0
"""Seconds that a question to a server may take by default."""

NOTICES_KEPT: Final = 256
"""Notices that wait for a reader of `notices`; when more come, the oldest are lost."""


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
        memberships: users of a realm that this process is, the default one first; by default those whose keys are in
            ``home``. In a realm, only servers of the realm will do.
    """

    def __init__(
        self,
        servers: Iterable[str | Address] | str | Address | None = None,
        *,
        home: str | Path | None = None,
        advertise: Iterable[str] | None = None,
        timings: ClientConfig | None = None,
        memberships: Iterable["Membership"] = (),
    ) -> None:
        self._servers = given_servers(servers)
        self._home_path = home
        self._advertise = None if advertise is None else tuple(advertise)
        self._timings = timings or ClientConfig()
        self._clients: dict[asyncio.AbstractEventLoop, dict[Membership | None, AsyncClient]] = {}
        """Servers know a connection by the user that it proved, so each user has its own; None is the default's."""
        self._memberships = Memberships(home, memberships)
        self._upkeeps: weakref.WeakKeyDictionary[AsyncClient, Upkeep] = weakref.WeakKeyDictionary()

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
        return await make_streams(made) if isinstance(made, Connection) else made

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
        secret = _checked(name, unique, secret, backlog)
        return Post(self.client, name, unique=unique, secret=secret, backlog=backlog, datagram=datagram)

    async def secure_meet(
        self,
        me: str,
        you: str,
        *,
        peer_user: str,
        user: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Streams:
        """Return streams to the process of ``peer_user`` that meets us, which has proved to be that, over TLS 1.3.

        It meets us with ``secure_meet(you, me, ...)`` and the users the other way round, or posts ``you`` securely. Who
        can't prove it does not end the call: it goes on with others. ``writer.write_eof`` raises, as on any TLS stream.

        Args:
            me: what this process calls itself.
            you: what the other calls itself.
            peer_user: whose process it has to be.
            user: who we are; by default whom the home's ``realm.toml`` names.
            timeout: seconds to wait for it; None waits as long as it takes.

        Raises:
            InvalidName, InvalidUser: a name can't be used, or both are the same.
            MeetTimeout: it didn't come in time; the error says what is known about that, impostors included.
            NotAllowed: our key is not approved, or a server's policy refuses us.
            NoAuthority: there is no certificate of ours, and no authority could be reached.
            TrustError: the realm can't be believed as things are: `ForkedHistory`, `StaleHead`.
            ConfigError: the home belongs to no realm, or has no key of this user.
            NoSwitchboard: no server could be reached.
        """
        return secure_streams(await self.secure_meet_socket(me, you, peer_user=peer_user, user=user, timeout=timeout))

    async def secure_meet_socket(
        self,
        me: str,
        you: str,
        *,
        peer_user: str,
        user: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> SecureConnection:
        """Do what `secure_meet` does, and return the `ssl.SSLSocket` itself, which doesn't block."""
        check_pair(me, you)
        check_user(peer_user)
        return await secure_aio.secure_meet(*self._secured(user), me, you, peer_user, timeout)

    async def secure_meet_datagram(
        self,
        me: str,
        you: str,
        *,
        peer_user: str,
        user: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> SecureDatagramSocket:
        """Do what `secure_meet` does with a UDP socket whose datagrams only the two users can make and read.

        It doesn't block: use it with ``loop.sock_recv`` and ``loop.sock_sendall``. A datagram may be lost or overtaken,
        but none comes twice, and none that the peer did not send.
        """
        check_pair(me, you)
        check_user(peer_user)
        return await secure_aio.secure_meet_datagram(*self._secured(user), me, you, peer_user, timeout)

    def secure_post(
        self,
        name: str,
        *,
        allow: Iterable[str] | str,
        user: str | None = None,
        unique: bool = False,
        secret: Secret | bytes | None = None,
        backlog: int = 128,
        datagram: bool = False,
    ) -> SecurePost:
        """Offer connections under ``name`` to users who prove who they are; see `SecurePost`.

        Any number of clients prove themselves at a time, within `backlog`; each has 10 s for it.

        Args:
            name: what to be called.
            allow: who may come: at most 16 users, or patterns in which ``*`` stands for one segment.
            user: who we are; by default whom the home's ``realm.toml`` names.
            unique: as `post`.
            secret: as `post`.
            backlog: most clients that prove themselves, or wait for `SecurePost.accept`, at once: 1 to 4096.
            datagram: offer datagrams, for `secure_meet_datagram`; take them with `SecurePost.accept_datagram`.

        Raises:
            InvalidName, InvalidUser: a name can't be used.
            ConfigError: the home belongs to no realm, or has no key of this user; or, when it is entered, ``allow`` is
                empty or too long.
            ValueError: ``backlog`` or ``secret`` is out of its limits.
        """
        secret = _checked(name, unique, secret, backlog)
        if isinstance(allow, str):
            allow = (allow,)  # else each of its letters would be a user
        patterns = tuple(check_pattern(each) for each in allow)
        member = self._memberships.get(user)

        return SecurePost(
            lambda: self._secured(user)[0],
            name,
            member,
            patterns,
            unique=unique,
            secret=secret,
            backlog=backlog,
            datagram=datagram,
        )

    async def encrypt(self, data: bytes | bytearray | memoryview, *, to: str, user: str | None = None) -> bytes:
        """Return ``data`` sealed and signed by us for the user ``to``, who alone can open it.

        Args:
            data: at most 64 MiB.
            to: a user of the same realm, approved.
            user: who we are; by default whom the home's ``realm.toml`` names.

        Raises:
            ValueError: ``data`` exceeds the limit.
            NotAllowed: ``to`` is not in the directory, or not approved.
            ConfigError: the home belongs to no realm, or has no key of this user.
            NoAuthority, TrustError: the directory can't be reached, or not be believed.
        """
        from trunkline.drivers import sealing  # which most programs do without

        return await asyncio.to_thread(sealing.encrypt, self._memberships.get(user), data, to=to)

    async def decrypt(self, blob: bytes | bytearray | memoryview, *, user: str | None = None) -> tuple[bytes, str]:
        """Return what was sealed for us, and the user who sealed it: proven, and approved now.

        Raises:
            DecryptError: it was altered, is for another, or its sender is not in order; the text names the step.
            ConfigError, NoAuthority, TrustError: as `encrypt`.
        """
        from trunkline.drivers import sealing

        return await asyncio.to_thread(sealing.decrypt, self._memberships.get(user), blob)

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
        user: str | None = None,
        peer_user: str | None = None,
        timeout: float | None = ANSWER_TIMEOUT,  # noqa: ASYNC109
    ) -> tuple[str, ...]:
        """Return why ``meet(me, you)`` would wait: a line for each thing that may be the reason.

        With ``datagram`` one for datagrams; with ``peer_user`` a secure one, as ``user`` or the default user.

        Raises:
            InvalidName: a name can't be used.
            NoSwitchboard: no server could be reached, or none answered within ``timeout`` seconds.
        """
        check_pair(me, you)
        question = functools.partial(Explain, me=me, you=you, datagram=datagram)
        if peer_user is None:
            client = self.client()
        else:
            client, member = self._secured(user)
            question = functools.partial(question, user=member.user or "", peer_user=check_user(peer_user))
        answer = await client.ask(question, timeout)
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

        client = self._new_client(self._memberships.known(), noticed)
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
        for client in self._clients.pop(asyncio.get_running_loop(), {}).values():
            client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def client(self, member: "Membership | None" = None) -> AsyncClient:
        """Return the running loop's client: of ``member``, or of the default user if there is a realm."""
        loop = asyncio.get_running_loop()
        mine = self._clients.get(loop)
        if mine is None:
            for other in [other for other in self._clients if other.is_closed()]:
                for client in self._clients.pop(other).values():
                    client.abandon()
            mine = self._clients[loop] = {}
        found = mine.get(member)
        if found is None or found.closed:
            for gone in [key for key, client in mine.items() if client.closed]:
                del mine[gone]
            who = self._memberships.known() if member is None else member
            found = mine[member] = mine.get(who) or self._new_client(who)
            mine[who] = found
        return found

    def _secured(self, user: str | None) -> tuple[AsyncClient, "Membership"]:
        """Return our user's client and membership, which stays fresh for as long as that is open."""
        member = self._memberships.get(user)
        client = self.client(member)
        if client not in self._upkeeps:
            upkeep = self._upkeeps[client] = Upkeep(client.loop)
            client.at_close.append(upkeep.close)
            upkeep.add(member)
        return client, member

    def _closed(self) -> None:
        """One client is closed; with the last one, the memberships are."""
        if all(client.closed for clients in self._clients.values() for client in clients.values()):
            self._memberships.close()

    def _new_client(self, member: "Membership | None", noticed: Callable[[bytes], None] | None = None) -> AsyncClient:
        home = Home(self._home_path)
        config = msgspec.structs.replace(
            self._timings,
            servers=home.switchboards() if self._servers is None else self._servers,
            place=place(),
            notices=noticed is not None,
        )
        addresses = home.settings().advertise if self._advertise is None else self._advertise
        client = AsyncClient(config, remember=home.remember, addresses=addresses, noticed=noticed, member=member)
        client.at_close.append(self._closed)
        return client

    async def _meet(
        self, me: str, you: str, seconds: float | None, *, datagram: bool = False, streams: bool = False
    ) -> Connection | Streams:
        check_pair(me, you)
        client = self.client()
        meeting = Meeting(client.loop, streams=streams)
        rid = client.meet(meeting, me, you, seconds=seconds, datagram=datagram)
        try:
            return await meeting.future
        except BaseException:
            meeting.drop()
            client.cancel(rid)
            raise


def _checked(name: str, unique: bool, secret: Secret | bytes | None, backlog: int) -> Secret | None:
    """Check what posts have in common; return the secret, drawn if it takes one."""
    check_name(name)
    if not 1 <= backlog <= MAX_BACKLOG:
        raise ValueError(f"a backlog of {backlog} is out of the limits: 1 to {MAX_BACKLOG}")
    if isinstance(secret, bytes):
        secret = Secret(secret)
    if secret is not None and not 1 <= len(secret.reveal()) <= MAX_SECRET:
        raise ValueError(f"a secret has 1 to {MAX_SECRET} bytes")
    return Secret(os.urandom(32)) if unique and secret is None else secret


default: Final = Switchboard()
"""The one that the functions of this module use."""

meet = default.meet
meet_socket = default.meet_socket
meet_datagram = default.meet_datagram
post = default.post
secure_meet = default.secure_meet
secure_meet_socket = default.secure_meet_socket
secure_meet_datagram = default.secure_meet_datagram
secure_post = default.secure_post
encrypt = default.encrypt
decrypt = default.decrypt
names = default.names
status = default.status
explain = default.explain
broadcast = default.broadcast
notices = default.notices
close = default.close
