"""Secure meetings for callers that wait: a plain meeting, then TLS and the confirmation in the caller's own thread.

Who proves nothing is avoided from then on, and the call goes on until its deadline (docs/spec/secure-meeting.md).
"""

import contextlib
import logging
from typing import Final

from trunkline.drivers.client_blocking import BlockingClient
from trunkline.drivers.clock import now as clock
from trunkline.drivers.proofs_blocking import prove
from trunkline.drivers.secure_ahead import Ahead
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
from trunkline.errors import ClosedError, TrunklineError
from trunkline.meeting.confirmation import Meeting
from trunkline.meeting.handshake import Role

_log: Final = logging.getLogger("trunkline")


def secure_meet_datagram(
    client: BlockingClient, member: Member, me: str, you: str, peer_user: str, timeout: float | None
) -> SecureDatagramSocket:
    """Do what `secure_meet` does, for a socket whose datagrams only the two can make and read."""
    return secure_meet(client, member, me, you, peer_user, timeout, datagram=True).datagrams()


def secure_meet(
    client: BlockingClient,
    member: Member,
    me: str,
    you: str,
    peer_user: str,
    timeout: float | None,
    *,
    datagram: bool = False,
) -> SecureConnection:
    """Return the connection to the process of ``peer_user`` that meets us, which has proved to be that.

    Raises:
        MeetTimeout, NoSwitchboard, InvalidName, TooMany, TrustError, ClosedError: see `trunkline.secure_meet`.
    """
    deadline = None if timeout is None else clock() + timeout
    user = user_of(member)
    suspects = Suspects(you)
    span = client.span
    with contextlib.closing(Ahead(member, you, peer_user)) as ahead:
        while True:
            conn, told = client.meet_once(
                me,
                you,
                timeout,
                deadline,
                meanwhile=ahead.make,
                span=span,
                datagram=datagram,
                user=user,
                peer_user=peer_user,
                avoid=suspects.avoid,
                notes=suspects.notes,
            )
            now = clock()
            left = HANDSHAKE_TIMEOUT if deadline is None else min(HANDSHAKE_TIMEOUT, deadline - now)
            role = Role.ACTIVE if told.conn > 0 else Role.PASSIVE
            meeting = Meeting(role, bytes.fromhex(told.peer.match), me, you, user, peer_user)
            try:
                handshake = SecureHandshake(meeting, member, now=now, timeout=max(left, 0.0))
            except BaseException:
                conn.close()  # it is our side that can't go on
                raise
            try:
                return prove(handshake, conn, span, ahead)
            except TrunklineError as error:
                if isinstance(error, ClosedError) or ends_the_call(error):
                    raise
                _log.info("= impostor %s: %s", you, error)
                suspects.add(told.partner, peer_user, error)
            seconds = suspects.pause()
            if seconds:
                client.pause(seconds, deadline)
