"""TLS between switchboard servers and their clients, and between servers (docs/spec/switchboard.md section 14).

One port for both: who begins with a TLS record (0x16) speaks TLS, who begins with our preamble ('T') does not. Here is
what both drivers share: how a connection is wrapped, and who has to be at the other end of one that was dialled.
"""

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Final, Protocol

from trunkline.drivers.sockets import MAX_UNREAD
from trunkline.errors import LinkClosed, NotThatUser, RemoteError, TrunklineError
from trunkline.switchboard.policy import SERVICE

if TYPE_CHECKING:
    from trunkline.authority.certificates import Identity
    from trunkline.authority.messages import SignedHead

TLS_RECORD: Final = 0x16
"""The first byte of a TLS client (RFC 8446 section 5.1: a handshake record)."""

WAITS: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError, InterruptedError)
"""What a socket that doesn't block raises when it would."""


class RealmMember(Protocol):
    """What is needed of `trunkline.drivers.membership.Membership` here."""

    @property
    def realm(self) -> str:
        """The realm's name."""

    @property
    def user(self) -> str | None:
        """Who we are; None if we only verify others."""

    async def ready_async(self) -> None:
        """Return once there is a certificate and a head that will do."""

    def tls_client(self) -> ssl.SSLContext:
        """Return the context for the side that dials."""

    def tls_server(self, *, required: bool = True) -> ssl.SSLContext:
        """Return the context for the side that is dialled."""

    def identify(self, tls: ssl.SSLSocket | ssl.SSLObject) -> "Identity":
        """Return who is at the other end, now; TrustError if that is not proved."""

    def head(self) -> "SignedHead":
        """Return the newest head of the directory; StaleHead if none was ever seen."""

    def next_deadline(self) -> float | None:
        """Return when `tick` is due, by the drivers' clock."""

    def tick(self) -> None:
        """Start what is due, and return at once."""


def dialled(member: RealmMember, sock: socket.socket) -> ssl.SSLSocket:
    """Return a socket that was connected to a server, and doesn't block, as one that speaks TLS; nothing is sent yet.

    Raises:
        OSError: the connection is gone.
    """
    return member.tls_client().wrap_socket(sock, do_handshake_on_connect=False)


def accepted(member: RealmMember, sock: socket.socket, *, require_user: bool) -> ssl.SSLSocket:
    """Return a socket that was accepted, and doesn't block, as one that speaks TLS; nothing is sent yet.

    Raises:
        TrustError: we have no certificate.
        OSError: the connection is gone.
    """
    context = member.tls_server(required=require_user)
    context.num_tickets = 0  # connections to servers last: resuming is worth less than what a session weighs
    return context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)


def check_server(member: RealmMember, tls: ssl.SSLSocket) -> "Identity":
    """Return who the server at the other end is, once the handshake is over.

    Raises:
        TrustError: it is no switchboard server of our realm.
    """
    identity = member.identify(tls)
    if not identity.user.startswith(SERVICE):
        raise NotThatUser(
            f"certificate: it is of {identity.user!r}, and a switchboard server of {member.realm!r} "
            f"({SERVICE}NAME) was asked for"
        )
    return identity


def check_client(member: RealmMember, tls: ssl.SSLSocket) -> "Identity | None":
    """Return who is at the other end of a connection that was accepted; None if it has shown no certificate.

    Raises:
        TrustError: it has shown one that is not to be believed.
    """
    return member.identify(tls) if tls.getpeercert(binary_form=True) else None


def why_failed(error: Exception, realm: str) -> str:
    """Return why a handshake with a server came to nothing, for people."""
    from trunkline.drivers.secure_sockets import tls_error  # only who has a realm loads all of that

    said = tls_error(error) if isinstance(error, OSError) and not isinstance(error, TrunklineError) else error
    if isinstance(said, RemoteError):
        return f"{said}: it is no secured server, and members of the realm {realm!r} use no other"
    if isinstance(said, LinkClosed):
        return f"it closed the connection during the TLS handshake: is it a secured server of the realm {realm!r}?"
    return str(said)


def why_lost(error: ssl.SSLError) -> str:
    """Return why TLS ended on a connection that stood: it may be that the other side did not like our certificate.

    In TLS 1.3 a client is done before the server has looked at its certificate (RFC 8446 section 4.4.2.4).
    """
    from trunkline.drivers.secure_sockets import tls_error

    return str(tls_error(error))


def hang_up(sock: socket.socket) -> None:
    """Close at once, so that the other end reads what we sent last: with something unread it might not."""
    with contextlib.suppress(OSError, ValueError):
        socket.socket.recv(sock, MAX_UNREAD)  # below TLS: nobody is to read it
    sock.close()
