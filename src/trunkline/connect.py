"""The blocking face: sockets by name, for programs with threads or without.

`Switchboard` holds a configuration and does everything; the functions of this module do the same with a default one,
which reads its settings from the environment and TRUNKLINE_HOME when it is first used.
"""

import functools
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import msgspec

from trunkline.drivers import sealing, secure_blocking
from trunkline.drivers.addresses import place
from trunkline.drivers.client_blocking import BlockingClient
from trunkline.drivers.clock import now as clock
from trunkline.drivers.home import Home, given_servers
from trunkline.drivers.memberships import Memberships
from trunkline.drivers.offers import Offer
from trunkline.drivers.secure_datagram import SecureDatagramSocket
from trunkline.drivers.secure_sockets import SecureConnection
from trunkline.drivers.servers_tls import RealmMember
from trunkline.drivers.sockets import Connection
from trunkline.errors import ConfigError
from trunkline.names import Address, Secret, check_name, check_pair
from trunkline.switchboard.config import ClientConfig
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


class _Offered:
    """What both kinds of posts have in common."""

    def __init__(self, client: BlockingClient, offer: Offer) -> None:
        self._client = client
        self._offer = offer

    @property
    def name(self) -> str:
        """The name that is posted."""
        return self._offer.name

    @property
    def secret(self) -> Secret | None:
        """For a unique name, what takes it over later: give it to the next post as ``secret``."""
        return self._offer.secret

    @property
    def generation(self) -> int:
        """For a unique name, how often it has changed hands; 0 for others."""
        return self._offer.generation

    def fileno(self) -> int:
        """Return a descriptor that is readable while a client waits, for select, poll or an event loop.

        Only wait on it; don't read from it. The next `accept` then returns at once, or raises why the post is over.

        Raises:
            ClosedError: the post was closed.
        """
        return self._client.bell(self._offer)

    def close(self) -> None:
        """Take the offer back. Clients that were not accepted read EOF. Closing twice does nothing."""
        self._client.close_post(self._offer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


class Post(_Offered):
    """A standing offer under a name: whoever meets the name gets a connection to us.

    Close it, or use it in a ``with`` block; iterating accepts for ever. Any number of threads may accept.
    """

    def accept(self, timeout: float | None = None) -> Connection:
        """Return a connection to the next client, in the order in which they came.

        Args:
            timeout: seconds to wait; None waits for ever, 0 doesn't wait.

        Raises:
            MeetTimeout: nobody came in time.
            Displaced: somebody took the unique name over.
            ClosedError: the post was closed.
        """
        conn = self._client.accept(self._offer, timeout)
        assert isinstance(conn, Connection), "a plain post is given nothing else"
        return conn

    def __iter__(self) -> Iterator[Connection]:
        while True:
            yield self.accept()


class SecurePost(_Offered):
    """A standing offer under a name to certain users: each client has proved who it is before it is accepted.

    Close it, or use it in a ``with`` block; iterating accepts for ever. Any number of threads may accept. Clients prove
    themselves all at once and while nobody accepts, too, so one that is slow, or hostile, holds up nobody.
    """

    def accept(self, timeout: float | None = None) -> SecureConnection:
        """Return a connection to the next client that has proved who it is.

        Args:
            timeout: seconds to wait; None waits for ever, 0 doesn't wait.

        Raises:
            MeetTimeout: nobody came in time; it says who came and could prove nothing.
            ForkedHistory: the authority shows different people different histories: nobody can be believed.
            StaleHead: no authority could be reached for too long, so nobody knows what was revoked. As with
                ForkedHistory the post stands on, and the client has to come again.
            Displaced: somebody took the unique name over.
            ClosedError: the post was closed.
        """
        if self._offer.datagram:
            raise ConfigError(f"the post {self.name!r} offers datagrams: use accept_datagram")
        conn = self._client.accept(self._offer, timeout)
        assert isinstance(conn, SecureConnection), "a secure post is given nothing else"
        return conn

    def accept_datagram(self, timeout: float | None = None) -> SecureDatagramSocket:
        """Do what `accept` does on a post of datagrams."""
        if not self._offer.datagram:
            raise ConfigError(f"the post {self.name!r} offers streams: use accept")
        return self._client.accept_datagram(self._offer, timeout)

    def __iter__(self) -> Iterator[SecureConnection]:
        while True:
            yield self.accept()


class Switchboard:
    """The switchboard as this process uses it: where its servers are, and how patiently to wait for them.

    All threads may use one object; it keeps one connection to a server, one listener, and one helper thread that
    keeps heartbeats going while the callers compute. Nothing is opened before the first use. A child of a fork starts
    afresh; posts stay the parent's.

    Args:
        servers: addresses of servers, ``host:port``, best first; by default what TRUNKLINE_SWITCHBOARDS, the settings
            file and the host list say.
        home: the folder of settings and host list; by default TRUNKLINE_HOME or the platform's.
        advertise: addresses at which peers on other hosts can dial this process, instead of what the kernel says.
        timings: settings of `trunkline.switchboard.config.ClientConfig` to change; ``servers`` and ``place`` in it
            are overruled.
        memberships: users of a realm that this process is, the default one first; by default those whose keys are in
            ``home``.
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
        self._home: Home | None = None
        self._advertise = None if advertise is None else tuple(advertise)
        self._timings = timings or ClientConfig()
        self._memberships = Memberships(home, memberships)
        self._client = BlockingClient(self._configure, self._remember)
        self._others: dict[str, BlockingClient] = {}
        self._lock = threading.Lock()

    def _client_of(self, member: "Membership") -> BlockingClient:
        """Return the client whose connection to the servers proves this user: a secured one lets none other speak."""
        if member is self._memberships.known() or member.user is None:
            return self._client
        with self._lock:
            client = self._others.get(member.user)
            if client is None:
                configure = functools.partial(self._configure, member.user)
                client = self._others[member.user] = BlockingClient(configure, self._remember)
            return client

    def _configure(self, user: str | None = None) -> tuple[ClientConfig, tuple[str, ...] | None, RealmMember | None]:
        home = self._home = Home(self._home_path)
        member = self._memberships.known() if user is None else self._memberships.get(user)
        if member is not None:
            member.ready(ANSWER_TIMEOUT)
        servers = home.switchboards() if self._servers is None else self._servers
        advertise = home.settings().advertise if self._advertise is None else self._advertise
        return msgspec.structs.replace(self._timings, servers=servers, place=place()), advertise, member

    def _remember(self, servers: tuple[Address, ...]) -> None:
        if self._home is not None:
            self._home.remember(servers)

    def meet(self, me: str, you: str, *, timeout: float | None = None) -> Connection:
        """Return a socket that is connected to the process which calls ``meet(you, me)``, or which posts ``you``.

        It blocks, Nagle's algorithm is off, and nothing that the peer sends on it is read by us.

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
        return self._client.meet(me, you, timeout)

    def meet_datagram(self, me: str, you: str, *, timeout: float | None = None) -> Connection:
        """Do what `meet` does with a connected UDP socket: what is sent on it may be lost, doubled or overtaken."""
        return self._client.meet(me, you, timeout, datagram=True)

    def post(
        self,
        name: str,
        *,
        unique: bool = False,
        secret: Secret | bytes | None = None,
        backlog: int = 128,
        datagram: bool = False,
    ) -> Post:
        """Offer connections under ``name`` to whoever meets it; return when a server has taken the offer.

        Several processes may post one name: clients are spread over them.

        Args:
            name: what to be called.
            unique: be the only one. If somebody already is, this fails, unless ``secret`` proves that it was us.
            secret: what an earlier unique post of this name returned as `Post.secret`.
            backlog: most clients that wait for `Post.accept` at once, 1 to 4096.
            datagram: offer connected UDP sockets, for `meet_datagram`.

        Raises:
            InvalidName: the name can't be used.
            NameTaken: it is held by another, or was asked for as unique while others post it.
            NoSwitchboard: no server could be reached.
            ValueError: ``backlog`` or ``secret`` is out of its limits.
        """
        secret = _checked_offer(backlog, secret, unique=unique)
        offer = self._client.post(name, unique=unique, secret=secret, backlog=backlog, datagram=datagram)
        return Post(self._client, offer)

    def secure_meet(
        self, me: str, you: str, *, user: str | None = None, peer_user: str, timeout: float | None = None
    ) -> SecureConnection:
        """Return a TLS socket that is connected to the process of ``peer_user`` that meets us, or that posts ``you``.

        It returns once the peer has proved to be that user, by a certificate of our realm that is not revoked, and has
        confirmed this very meeting. Whoever proves nothing, or is somebody else, is avoided from then on, and the call
        goes on. The switchboard is not trusted for any of it. An `ssl.SSLSocket`, which blocks, with TLS 1.3.

        Args:
            me: what this process calls itself.
            you: what the other calls itself.
            user: who we are; None is the default user of TRUNKLINE_HOME.
            peer_user: who the other has to be.
            timeout: seconds to wait for it; None waits as long as it takes.

        Raises:
            InvalidName, InvalidUser: a name can't be used.
            MeetTimeout: it didn't come in time; the error says what is known, impostors included.
            NoSwitchboard: no server could be reached.
            ConfigError: there is no realm here, or no key of ``user``.
            NotAllowed: our own key is not approved, or a server's policy forbids it.
            NoAuthority: we have no certificate that is valid still, and no authority could be reached.
            ForkedHistory: the authority shows different people different histories.
            StaleHead: no authority could be reached for too long, so nobody knows what was revoked.
            TooMany: a server's cap is reached.
        """
        member, left = self._ready(me, you, user, peer_user, timeout)
        return secure_blocking.secure_meet(self._client_of(member), member, me, you, peer_user, left)

    def secure_meet_datagram(
        self, me: str, you: str, *, user: str | None = None, peer_user: str, timeout: float | None = None
    ) -> SecureDatagramSocket:
        """Do what `secure_meet` does with a UDP socket whose datagrams only the two users can make and read.

        A datagram may be lost or overtaken, but none comes twice, and none that the peer did not send.
        """
        member, left = self._ready(me, you, user, peer_user, timeout)
        return secure_blocking.secure_meet_datagram(self._client_of(member), member, me, you, peer_user, left)

    def _ready(
        self, me: str, you: str, user: str | None, peer_user: str, timeout: float | None
    ) -> tuple["Membership", float | None]:
        """Return our membership, when it can be shown, and what is left of the time."""
        check_pair(me, you)
        check_user(peer_user)
        start = clock()
        member = self._memberships.get(user)
        member.ready(timeout)
        return member, None if timeout is None else max(0.0, timeout - (clock() - start))

    def secure_post(
        self,
        name: str,
        *,
        user: str | None = None,
        allow: Iterable[str],
        unique: bool = False,
        secret: Secret | bytes | None = None,
        backlog: int = 128,
        datagram: bool = False,
    ) -> SecurePost:
        """Offer connections under ``name`` to whoever of ``allow`` meets it; return when a server has taken the offer.

        Args:
            name: what to be called.
            user: who we are; None is the default user of TRUNKLINE_HOME.
            allow: who may come: 1 to 16 users; a segment may be ``*``, as in ``ops/*``.
            unique: be the only one. If somebody already is, this fails, unless ``secret`` proves that it was us.
            secret: what an earlier unique post of this name returned as `SecurePost.secret`.
            backlog: most clients that prove themselves or wait for `SecurePost.accept` at once, 1 to 4096.
            datagram: offer datagrams, for `secure_meet_datagram`; take them with `SecurePost.accept_datagram`.

        Raises:
            InvalidName, InvalidUser: a name can't be used.
            NameTaken: it is held by another, or was asked for as unique while others post it.
            NoSwitchboard: no server could be reached.
            ConfigError: there is no realm here, or no key of ``user``; or ``allow`` is empty or too long.
            NotAllowed: our own key is not approved, or a server's policy forbids it.
            NoAuthority: we have no certificate that is valid still, and no authority could be reached.
            ValueError: ``backlog`` or ``secret`` is out of its limits.
        """
        if isinstance(allow, str):
            allow = (allow,)  # else each of its letters would be a user
        patterns = tuple(check_pattern(each) for each in allow)
        if not patterns:
            raise ConfigError("allow names nobody: a secure post has 1 to 16 users, or patterns of users")
        secret = _checked_offer(backlog, secret, unique=unique)
        member = self._memberships.get(user)
        member.ready()
        client = self._client_of(member)
        offer = client.post(
            name, unique=unique, secret=secret, backlog=backlog, datagram=datagram, member=member, allow=patterns
        )
        return SecurePost(client, offer)

    def membership(self, user: str | None = None) -> "Membership":
        """Return the membership of ``user``: the realm's directory, to look up and to change, and the user's key.

        Args:
            user: None is the default user of TRUNKLINE_HOME.

        Raises:
            ConfigError: there is no realm here, or no key of ``user``.
            TrustError: what is kept about the realm does not hold.
        """
        return self._memberships.get(user)

    def encrypt(self, data: bytes | bytearray | memoryview, *, to: str, user: str | None = None) -> bytes:
        """Return ``data`` sealed for the user ``to``, who alone can open it and then knows that it is from us.

        No connection to ``to`` is needed, nor a switchboard: only the directory is asked.

        Args:
            data: at most 64 MiB.
            to: a user of our realm, approved.
            user: who we are; None is the default user of TRUNKLINE_HOME.

        Raises:
            InvalidUser: the name can't be used.
            ValueError: ``data`` exceeds the limit.
            NotAllowed: ``to`` is not in the directory, or not approved.
            ConfigError: there is no realm here, or no key of ``user``.
            NoAuthority: no authority could be reached.
            TrustError: what the directory says does not hold.
        """
        return sealing.encrypt(self.membership(user), data, to=to)

    def decrypt(self, blob: bytes | bytearray | memoryview, *, user: str | None = None) -> tuple[bytes, str]:
        """Return what was sealed for us, and the user who did it: proven, and approved now.

        Args:
            blob: what `encrypt` returned.
            user: who we are; None is the default user of TRUNKLINE_HOME.

        Raises:
            DecryptError: it was altered, is for somebody else, or its sender is not in order any more.
            ConfigError: there is no realm here, or no key of ``user``.
            NoAuthority: no authority could be reached.
            TrustError: what the directory says does not hold.
        """
        return sealing.decrypt(self.membership(user), blob)

    def names(self, prefix: str = "", *, timeout: float | None = ANSWER_TIMEOUT) -> list[PostedName]:
        """Return what is posted under names that begin with ``prefix``, in order.

        Raises:
            NoSwitchboard: no server could be reached.
        """
        if prefix:
            check_name(prefix)
        found: list[PostedName] = []
        while True:
            after = found[-1].name if found else ""
            answer = self._client.ask(functools.partial(ListNames, prefix=prefix, after=after), timeout)
            assert isinstance(answer, NameList), "the machine lets no other answer through"
            found += answer.names
            if not answer.more or not answer.names:
                return found

    def status(self, *, timeout: float | None = ANSWER_TIMEOUT) -> ServerStatus:
        """Return how the server that we are connected to is.

        Raises:
            NoSwitchboard: no server could be reached.
        """
        answer = self._client.ask(AskStatus, timeout)
        assert isinstance(answer, ServerStatus), "the machine lets no other answer through"
        return answer

    def explain(
        self,
        me: str,
        you: str,
        *,
        datagram: bool = False,
        user: str | None = None,
        peer_user: str | None = None,
        timeout: float | None = ANSWER_TIMEOUT,
    ) -> tuple[str, ...]:
        """Return why ``meet(me, you)`` would wait: a line for each thing that may be the reason.

        Args:
            me: what we would call ourselves.
            you: whom we would meet.
            datagram: of a datagram meeting.
            user: of a secure meeting: who we would be; None is the default user.
            peer_user: of a secure meeting: whose process the other has to be; None asks about a plain one.
            timeout: seconds to wait for the answer.


        Raises:
            InvalidName: a name can't be used.
            NoSwitchboard: no server could be reached.
        """
        check_pair(me, you)
        question, client = functools.partial(Explain, me=me, you=you, datagram=datagram), self._client
        if peer_user is not None:
            member = self._memberships.get(user)
            client = self._client_of(member)
            question = functools.partial(question, user=member.user or "", peer_user=check_user(peer_user))
        answer = client.ask(question, timeout)
        assert isinstance(answer, Explanation), "the machine lets no other answer through"
        return answer.lines

    def broadcast(self, payload: bytes) -> None:
        """Send a notice to every client that wants notices: it may be lost, and the servers limit its rate.

        Raises:
            ValueError: it is longer than 512 bytes.
        """
        if len(payload) > MAX_NOTICE:
            raise ValueError(f"a notice of {len(payload)} bytes exceeds the limit of {MAX_NOTICE}")
        self._client.announce(bytes(payload))

    def close(self) -> None:
        """Withdraw what is wanted, end what is posted, close what is open. A later call starts afresh."""
        with self._lock:
            others, self._others = self._others, {}
        for client in (self._client, *others.values()):
            client.close()
        self._memberships.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _checked_offer(backlog: int, secret: Secret | bytes | None, *, unique: bool) -> Secret | None:
    """Return the secret of an offer whose limits are kept."""
    if not 1 <= backlog <= MAX_BACKLOG:
        raise ValueError(f"a backlog of {backlog} is out of the limits: 1 to {MAX_BACKLOG}")
    if isinstance(secret, bytes):
        secret = Secret(secret)
    if secret is not None and not 1 <= len(secret.reveal()) <= MAX_SECRET:
        raise ValueError(f"a secret has 1 to {MAX_SECRET} bytes")
    if unique and secret is None:
        return Secret(os.urandom(32))
    return secret


default: Final = Switchboard()
"""The one that the functions of this module use."""

meet = default.meet
meet_datagram = default.meet_datagram
post = default.post
secure_meet = default.secure_meet
secure_meet_datagram = default.secure_meet_datagram
secure_post = default.secure_post
encrypt = default.encrypt
decrypt = default.decrypt
names = default.names
status = default.status
explain = default.explain
broadcast = default.broadcast
