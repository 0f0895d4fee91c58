"""TLS that is got ready before there is a connection: while the servers look for a match, the caller has nothing to do.

To give a session to libssl takes a tenth of a resumed handshake, since `ssl` copies it by writing and parsing it, the
peer's certificate included; and it does so for a connected socket only. So that is given a socket of its own, which
the connection then takes the place of.
"""

import contextlib
import os
import socket
import ssl

from trunkline.drivers.secure_sockets import Member, SecureConnection, fresh_session
from trunkline.drivers.sockets import Carrier
from trunkline.errors import TrunklineError
from trunkline.meeting.handshake import Role


class Ahead:
    """What one call of secure_meet has got ready.

    Args:
        member: our user.
        you: what the peer's process is called.
        peer_user: whom it is of.
    """

    __slots__ = ("_conn", "_member", "_peer_user", "_session", "_you")

    def __init__(self, member: Member, you: str, peer_user: str) -> None:
        self._member = member
        self._you = you
        self._peer_user = peer_user
        self._conn: SecureConnection | None = None
        self._session: ssl.SSLSession | None = None

    def make(self) -> None:
        """Get the active side of a resumed handshake ready, if there is a session. It waits for nothing.

        Whatever keeps us from it is nobody's affair yet: the handshake will find it, if it is still so then.
        """
        if self._conn is not None:
            return
        with contextlib.suppress(OSError, TrunklineError):
            context = self._member.tls_client()
            session = self._session = fresh_session(self._member, context, self._peer_user, self._you)
            if session is not None:
                near, far = socket.socketpair()
                with far, near:  # who is wrapped is closed to its holder
                    self._conn = SecureConnection.wrap(near, context, Role.ACTIVE, session)

    def take(self, sock: socket.socket, context: ssl.SSLContext) -> SecureConnection | None:
        """Return it with the connection of ``sock``, which is closed to its holder then; it doesn't block.

        None if nothing is ready, or the session would not be resumed any more; then ``sock`` is as it was.
        """
        conn = self._conn
        if conn is None or fresh_session(self._member, context, self._peer_user, self._you) is not self._session:
            return None
        self._conn = None
        if isinstance(sock, Carrier):
            conn.udp = sock.udp
        family, kind, proto, fd = sock.family, sock.type, sock.proto, sock.detach()
        os.dup2(fd, conn.fileno(), inheritable=False)
        os.close(fd)
        # libssl knows the descriptor by its number, which stays; what the object says of it has to be said anew.
        socket.socket.__init__(conn, family, kind, proto, conn.fileno())
        conn.setblocking(False)
        return conn

    def close(self) -> None:
        """Close what nobody took."""
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()
