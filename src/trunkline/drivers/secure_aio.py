"""Secure meetings in asyncio: a plain meeting, then TLS and the confirmation, and only then does the caller have it.

The handshake begins in the very turn of the loop in which the plain meeting is made. Who proves nothing is avoided from
then on, and the call goes on until its deadline (docs/spec/secure-meeting.md).
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from trunkline.drivers.client_aio import AsyncClient
from trunkline.drivers.clock import now
from trunkline.drivers.meetings_aio import AnyPost, Streams
from trunkline.drivers.proofs_aio import Outcome, Proof
from trunkline.drivers.secure_datagram import SecureDatagramSocket
from trunkline.drivers.secure_sockets import (
    HANDSHAKE_TIMEOUT,
    Member,
    SecureConnection,
    SecureHandshake,
    Suspects,
    ends_the_call,
    user_of,
)
from trunkline.drivers.sockets import Connection, hang_up
from trunkline.drivers.streams_aio import tls_streams
from trunkline.errors import ConfigError, MeetTimeout, TrunklineError
from trunkline.meeting.confirmation import Meeting
from trunkline.meeting.handshake import Role
from trunkline.names import Secret
from trunkline.switchboard.events import Accepted, Delivered, PostWanted

_log: Final = logging.getLogger("trunkline")


class ReadyMember(Member, Protocol):
    """What is needed of `trunkline.drivers.membership.Membership` here."""

    async def ready_async(self) -> None:
        """Return once there is a certificate and a head that will do."""


class SecureMeeting:
    """Waits for one connection, and for its peer to prove who it is.

    Args:
        loop: the running loop.
        member: our user.
        me: what this process calls itself.
        you: what the other calls itself.
        peer_user: whom we want to talk to.
        deadline: the caller's, by the drivers' clock.
    """

    lasting = False

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        member: Member,
        me: str,
        you: str,
        peer_user: str,
        deadline: float | None,
    ) -> None:
        self.future: asyncio.Future[Outcome] = loop.create_future()
        """Gets the connection, or why this peer proved nothing. An exception is about our side, or the realm."""
        self.partner = b""
        """Whom it was made with, for `Suspects`."""
        self._loop = loop
        self._member = member
        self._me = me
        self._you = you
        self._peer_user = peer_user
        self._deadline = deadline
        self._proof: Proof | None = None

    def delivered(self, conn: Connection, met: Delivered) -> None:
        """For the client: the plain meeting is made."""
        if self.future.done():
            hang_up(conn)
            return
        self.partner = met.partner
        start = now()
        left = HANDSHAKE_TIMEOUT if self._deadline is None else min(HANDSHAKE_TIMEOUT, self._deadline - start)
        role = Role.ACTIVE if met.conn > 0 else Role.PASSIVE
        match = bytes.fromhex(met.peer.match)
        meeting = Meeting(role, match, self._me, self._you, user_of(self._member), self._peer_user)
        try:
            handshake = SecureHandshake(meeting, self._member, now=start, timeout=max(left, 0.0))
        except TrunklineError as error:
            hang_up(conn)
            self.future.set_exception(error)
            return
        self._proof = Proof(self._loop, handshake, self._proved)
        self._proof.begin(conn)

    def failed(self, error: Exception) -> None:
        """For the client: there is no meeting."""
        if not self.future.done():
            self.future.set_exception(error)

    def stands(self, generation: int) -> None:
        """For the client, which says this of posts only."""
        raise AssertionError(f"only posts stand, and have a generation: {generation}")

    def drop(self) -> None:
        """The caller was cancelled: whatever there is of it is closed."""
        if self._proof is not None:
            self._proof.cancel()
        if self.future.done() and not self.future.cancelled() and self.future.exception() is None:
            made = self.future.result()
            if isinstance(made, SecureConnection):
                made.hang_up()

    def _proved(self, outcome: Outcome) -> None:
        if self.future.done():
            if isinstance(outcome, SecureConnection):
                outcome.hang_up()  # its caller was cancelled in this turn, and has not woken yet
        elif isinstance(outcome, TrunklineError) and ends_the_call(outcome):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


async def secure_meet(
    client: AsyncClient,
    member: ReadyMember,
    me: str,
    you: str,
    peer_user: str,
    timeout: float | None,  # noqa: ASYNC109
    *,
    datagram: bool = False,
) -> SecureConnection:
    """Return a connection to the process of ``peer_user`` that meets us, which has proved to be that.

    Raises:
        MeetTimeout, NoSwitchboard, InvalidName, TooMany, TrustError: see `trunkline.aio.secure_meet`.
    """
    deadline = None if timeout is None else now() + timeout
    user = user_of(member)
    suspects = Suspects(you)
    try:
        async with asyncio.timeout(timeout):
            await member.ready_async()
    except TimeoutError:
        raise MeetTimeout(me, you, timeout or 0.0, [f"no certificate for {user!r} was had by then"]) from None
    while True:
        meeting = SecureMeeting(client.loop, member, me, you, peer_user, deadline)
        rid = client.meet(
            meeting,
            me,
            you,
            seconds=_left(deadline),
            datagram=datagram,
            user=user,
            peer_user=peer_user,
            avoid=suspects.avoid,
            notes=suspects.notes,
        )
        try:
            outcome = await meeting.future
        except BaseException as error:
            meeting.drop()
            client.cancel(rid)
            if isinstance(error, MeetTimeout) and timeout is not None:
                error.seconds = timeout  # as it was asked for; the machine knows only what was left
            raise
        if isinstance(outcome, SecureConnection):
            return outcome
        _log.info("= impostor %s: %s", you, outcome)
        suspects.add(meeting.partner, peer_user, outcome)
        pause = suspects.pause()
        if pause:
            left = _left(deadline)
            await asyncio.sleep(pause if left is None else min(pause, left))


async def secure_meet_datagram(
    client: AsyncClient,
    member: ReadyMember,
    me: str,
    you: str,
    peer_user: str,
    timeout: float | None,  # noqa: ASYNC109
) -> SecureDatagramSocket:
    """Do what `secure_meet` does, for a socket, not blocking, whose datagrams only the two can make and read."""
    return (await secure_meet(client, member, me, you, peer_user, timeout, datagram=True)).datagrams()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - now())


class SecurePost(AnyPost[SecureConnection]):
    """A standing offer under a name, to those who prove that they may come.

    Used as `trunkline.aio.Post`. Whoever comes proves itself while others do the same, and is accepted in the order in
    which they are done. Who proves nothing is never seen here: it is logged, and said in the `MeetTimeout` of an
    `accept` that got nobody.

    Args:
        client: gives the running loop's client.
        name: what is posted.
        member: our user.
        allow: patterns of the users who may come.
    """

    def __init__(
        self,
        client: Callable[[], AsyncClient],
        name: str,
        member: ReadyMember,
        allow: tuple[str, ...],
        *,
        unique: bool,
        secret: Secret | None,
        backlog: int,
        datagram: bool = False,
    ) -> None:
        super().__init__(client, name, unique=unique, secret=secret, backlog=backlog, datagram=datagram)
        self._member = member
        self._allow = allow
        self._proofs: set[Proof] = set()

    async def accept_socket(self, timeout: float | None = None) -> SecureConnection:  # noqa: ASYNC109
        """Do what `accept` does with the connected TLS socket, which doesn't block."""
        if self._datagram:
            raise ConfigError(f"the post {self.name!r} offers datagrams: use accept_datagram")
        return await super().accept_socket(timeout)

    async def accept_datagram(self, timeout: float | None = None) -> SecureDatagramSocket:  # noqa: ASYNC109
        """Do what `accept_socket` does on a post of datagrams; the socket doesn't block."""
        if not self._datagram:
            raise ConfigError(f"the post {self.name!r} offers streams: use accept")
        return (await super().accept_socket(timeout)).datagrams()

    def delivered(self, conn: Connection, met: Delivered) -> None:
        """For the client: a plain meeting is made, and its peer has everything to prove."""
        assert self._client is not None, "it delivers"
        role = Role.ACTIVE if met.conn > 0 else Role.PASSIVE
        meeting = Meeting(role, bytes.fromhex(met.peer.match), self.name, met.peer.name, user_of(self._member), "")
        try:
            handshake = SecureHandshake(meeting, self._member, allow=self._allow, now=now(), timeout=HANDSHAKE_TIMEOUT)
        except TrunklineError as error:
            hang_up(conn)
            self._arrived(error)  # it is our side that can't go on
            return
        proof: Proof = Proof(self._client.loop, handshake, lambda outcome: self._proved(proof, met, outcome))
        self._proofs.add(proof)
        proof.begin(conn)

    def failed(self, error: Exception) -> None:
        """For the client: the post is over."""
        self._cancel_proofs()
        super().failed(error)

    async def close(self) -> None:
        """Take the offer back. Clients that were not accepted read EOF. Closing twice does nothing."""
        self._cancel_proofs()
        await super().close()

    def __repr__(self) -> str:
        return f"<SecurePost {self.name!r} of {self._member.user!r}>"

    def _proved(self, proof: Proof, met: Delivered, outcome: Outcome) -> None:
        self._proofs.discard(proof)
        if isinstance(outcome, SecureConnection) or ends_the_call(outcome):
            self._arrived(outcome)
            return
        _log.info("= impostor %s at %s: %s", met.peer.name, self.name, outcome)
        self._notes.append(f"{met.peer.name!r}, who is said to be {met.claimed!r}, could not prove it ({outcome})")
        assert self._client is not None, "it delivered"
        self._client.tell(Accepted(self._rid))  # that is, settled: there is room for another

    def _cancel_proofs(self) -> None:
        for proof in self._proofs:
            proof.cancel()
        self._proofs.clear()

    async def _enter(self) -> None:
        await self._member.ready_async()
        await super()._enter()

    def _wanted(self, rid: bytes, at: bytes) -> PostWanted:
        return PostWanted(
            rid,
            self.name,
            at,
            datagram=self._datagram,
            unique=self._unique,
            secret=self.secret,
            backlog=self._backlog,
            user=user_of(self._member),
            allow=self._allow,
        )

    def _hang_up(self, arrival: SecureConnection | TrunklineError) -> None:
        if isinstance(arrival, SecureConnection):
            arrival.hang_up()

    async def _streams(self, conn: SecureConnection) -> Streams:
        return secure_streams(conn)


def secure_streams(conn: SecureConnection) -> Streams:
    """Return streams over ``conn``, which they own from then on, and its peer."""
    reader, writer = tls_streams(conn, conn.peer)
    return reader, writer, conn.peer
