"""TLS between two peers, and the confirming round trip inside it, a step at a time (docs/spec/secure-meeting.md).

`SecureHandshake` does not wait: `step` goes as far as it can and says what it waits for, so that one thread, or a loop,
has any number of them under way and a slow or hostile peer holds up nobody. It runs over an `ssl.SSLSocket` or, for
transports that bring bytes themselves, over an `ssl.SSLObject`. The socket is its owner's: to be watched, and closed
when `step` raises.

This is where `ssl.SSLError` ends: `tls_error` says it in the words of `trunkline.errors`.
"""

import contextlib
import math
import socket
import ssl
import time
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol, Self

from trunkline.authority.messages import SignedHead
from trunkline.drivers.datagram_keys import KeysOverTls
from trunkline.drivers.secure_datagram import SecureDatagramSocket
from trunkline.drivers.sockets import MAX_UNREAD, Carrier
from trunkline.errors import (
    ForkedHistory,
    LinkClosed,
    NotAllowed,
    NotThatUser,
    RemoteError,
    SilentPeer,
    StaleHead,
    TrunklineError,
    TrustError,
)
from trunkline.meeting.confirmation import Confirmation, Meeting, refusal
from trunkline.meeting.datagram_keys import Session
from trunkline.meeting.handshake import Role
from trunkline.names import Peer
from trunkline.switchboard.requests import FIRST_LAPSE_PAUSE, LONGEST_LAPSE_PAUSE, MAX_NOTES
from trunkline.users import user_matches
from trunkline.wire.limits import MAX_AVOID

if TYPE_CHECKING:  # X.509 is a tenth of a second, which plain meetings need not take
    from trunkline.authority.certificates import Identity

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds that TLS and the confirmation may take together, if the caller gives no less."""

SESSION_TIME: Final = 600
"""Seconds for which one session is resumed; then there is a full handshake again, and its session is kept. To make a
ticket costs a sixth of a resumed handshake, and to take a session out of libssl as much, most of it for parsing
certificates. RFC 8446 appendix C.4 would have each used once, so that an observer can't tell that two connections are
of one client; the addresses tell that as well. Secrecy does not depend on it: keys are agreed on anew each time
(psk_dhe_ke)."""

_HELLO: Final = 16 * 1024 + 5
"""Bytes of one TLS record, in which a client hello comes."""

_BINDERS: Final = tuple(bytes((0, size + 1, size)) for size in (32, 48))
"""What is before the one binder at the end of a client hello that asks to resume (RFC 8446 section 4.2.11)."""

_NOBODY: Final = Peer("")


class Sessions(Protocol):
    """TLS sessions of this process, for one user: what makes the next handshake with the same peer a short one."""

    def get(self, context: ssl.SSLContext, user: str, name: str) -> ssl.SSLSession | None:
        """Return the last session with that peer under this context, if there is one."""

    def put(self, context: ssl.SSLContext, user: str, name: str, session: ssl.SSLSession | None) -> None:
        """Keep a session for the next time."""

    def forget(self, user: str, name: str) -> None:
        """Drop what is kept for that peer."""


class Member(Protocol):
    """What a handshake needs of `trunkline.drivers.membership.Membership`: one user of one realm."""

    @property
    def user(self) -> str | None:
        """Who we are; None if we only verify others."""

    @property
    def sessions(self) -> Sessions:
        """The sessions of this user's outgoing handshakes."""

    def tls_client(self) -> ssl.SSLContext:
        """Return the context for the active side, with the present certificate."""

    def tls_server(self) -> ssl.SSLContext:
        """Return the context for the passive side."""

    def identify(self, tls: ssl.SSLSocket | ssl.SSLObject) -> "Identity":
        """Return who is at the other end; TrustError if that is not proved, or no longer true."""

    def head(self) -> SignedHead:
        """Return the newest head that we have."""

    def compare(self, head: SignedHead) -> None:
        """Judge a peer's head: ForkedHistory if it can't be true beside ours."""

    def next_deadline(self) -> float | None:
        """Return when `tick` is due, by the drivers' clock."""

    def tick(self) -> None:
        """Start what is due, and return at once."""


class SecureConnection(ssl.SSLSocket):
    """A connected TLS socket that knows who is at the other end.

    A real `ssl.SSLSocket` with one attribute more. Closing it is all that `close` does: for an orderly end of TLS that
    the peer can tell from a cut, call `unwrap` first.
    """

    peer: Peer = _NOBODY
    """Who is at the other end: name, proven user, public key, certificate, match id."""

    udp: socket.socket | None = None
    """On the stream of a datagram meeting, until `datagrams` has made something of it."""

    _keys: KeysOverTls | None = None
    _datagrams: Session | None = None

    @classmethod
    def wrap(
        cls, sock: socket.socket, context: ssl.SSLContext, role: Role, session: ssl.SSLSession | None, tickets: int = 1
    ) -> Self:
        """Return the TLS socket that takes ``sock`` over; it has sent nothing yet.

        Args:
            tickets: how many the passive side is to give.

        Raises:
            OSError: the connection is gone.
        """
        sock.getpeername()  # that it is connected still: `ssl` would leave the descriptor open if it is not
        context.sslsocket_class = cls
        if role is Role.PASSIVE:
            context.num_tickets = tickets  # libssl looks when the connection is made: `ssl` has no other place for it
        tls = context.wrap_socket(
            sock, server_side=role is Role.PASSIVE, do_handshake_on_connect=False, session=session
        )
        assert isinstance(tls, cls), "the context was told of the class"
        if isinstance(sock, Carrier):
            tls.udp = sock.udp
        return tls

    def exchange_keys(self, role: Role, match: bytes) -> None:
        """On the stream of a datagram meeting, agree on the keys; it doesn't block, and may be called again.

        Raises:
            ssl.SSLWantReadError, ssl.SSLWantWriteError: it is not done.
            TrunklineError, OSError: as `KeysOverTls.step`.
        """
        if self.udp is not None:
            self._keys = self._keys or KeysOverTls(self, role, match)
            self._datagrams = self._keys.step()

    def datagrams(self) -> SecureDatagramSocket:
        """Return what the meeting was for, if that was datagrams; the stream is closed."""
        assert self.udp is not None, "whoever meets for a stream doesn't ask"
        assert self._datagrams is not None, "the handshake is done"
        self.udp.settimeout(self.gettimeout())
        made = SecureDatagramSocket(self.udp, self._datagrams, self.peer)
        self.udp = None
        self.close()
        return made

    def close(self) -> None:
        """Close the connection, and what it carries."""
        if self.udp is not None:
            self.udp.close()
        super().close()

    def hang_up(self) -> None:
        """Close at once, so that the other end reads what we sent last: with something unread it might not."""
        with contextlib.suppress(OSError):
            self.setblocking(False)
            socket.socket.recv(self, MAX_UNREAD)  # below TLS: nobody is to read it
        self.close()

    def __repr__(self) -> str:
        peer = self.peer
        return f"<{type(self).__name__} to {peer.name!r} of {peer.user!r} ({peer.path}) {socket.socket.__repr__(self)}>"


class Prepared(Protocol):
    """TLS that was got ready before there was a connection; see `trunkline.drivers.secure_ahead`."""

    def take(self, sock: socket.socket, context: ssl.SSLContext) -> SecureConnection | None:
        """Return it with the connection of ``sock``; None if there is none for this context."""


class Want(IntEnum):
    """What a handshake waits for before its next step."""

    READ = 1
    WRITE = 2
    NOTHING = 3
    """It is done: the connection is the user's."""


class SecureHandshake:
    """TLS and confirmation on one connection.

    Args:
        meeting: what we know of the meeting.
        member: our user.
        allow: on a post, patterns of the users who may come.
        now: the owner's clock.
        timeout: seconds that it may take.

    Raises:
        TrunklineError: it is *our* side that can't go on: no certificate, no head.
    """

    __slots__ = (
        "_allow",
        "_confirmation",
        "_context",
        "_head",
        "_member",
        "_offered",
        "_out",
        "_tickets",
        "_timeout",
        "deadline",
        "meeting",
        "peer",
        "tls",
    )

    def __init__(
        self,
        meeting: Meeting,
        member: Member,
        *,
        allow: Sequence[str] = (),
        now: float,
        timeout: float = HANDSHAKE_TIMEOUT,
    ) -> None:
        self.meeting = meeting
        self._timeout = timeout
        self.deadline = now + timeout
        """When the owner calls `expire`, if it is not done."""
        self.peer = _NOBODY
        """Who the peer is, when it is done."""
        self._member = member
        self._allow = tuple(allow)
        self._head = member.head()
        self._context = member.tls_client() if meeting.role is Role.ACTIVE else member.tls_server()
        self._confirmation: Confirmation | None = None
        self._tickets = 1
        self._offered = False
        """Whether we ask to resume a session."""
        self._out = b""
        self.tls: ssl.SSLSocket | ssl.SSLObject

    def can_begin(self, sock: socket.socket) -> bool:
        """Say whether it is time for `over_socket`: the passive side does well to wait until the peer says hello.

        For whoever asks to resume a session has a ticket, and another one would be made in vain. This is a guess, and
        nothing depends on it but time: whoever gets no ticket has a full handshake the next time.
        """
        if self.meeting.role is Role.ACTIVE:
            return True
        try:
            hello = sock.recv(_HELLO, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True  # the handshake will find the same
        self._tickets = 0 if any(hello[-len(b) - b[-1] : -b[-1]] == b for b in _BINDERS) else 1
        return True

    def over_socket(self, sock: socket.socket, ahead: Prepared | None = None) -> SecureConnection:
        """Take over a connected socket that doesn't block; return what the user gets when this is done.

        Args:
            ahead: what was got ready for the active side.

        Raises:
            LinkClosed: the connection is gone; it is closed.
        """
        if ahead is not None and self.meeting.role is Role.ACTIVE:
            ready = ahead.take(sock, self._context)
            if ready is not None:
                self._offered = True
                self.tls = ready
                return ready
        try:
            conn = SecureConnection.wrap(sock, self._context, self.meeting.role, self._session(), self._tickets)
        except OSError as error:
            sock.close()
            raise tls_error(error) from error
        self.tls = conn
        return conn

    def over_memory(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        """Run on bytes that the owner brings and takes away: after each `step`, empty ``outgoing`` first."""
        server = self.meeting.role is Role.PASSIVE
        self.tls = self._context.wrap_bio(incoming, outgoing, server_side=server, session=self._session())
        return self.tls

    def step(self, now: float) -> Want:
        """Go on as far as can be. When it is done, `peer` says who is there.

        Raises:
            TrustError: the peer has not proved to be who was asked for, or refuses us; or ForkedHistory, StaleHead:
                nobody can be met as things are (see `ends_the_call`).
            NotAllowed: the peer's user may not come to this post, or ours not to the peer's.
            RemoteError: it speaks something else.
            LinkClosed: the connection is gone.
        """
        try:
            if self._confirmation is None:
                self.tls.do_handshake()
                self._confirmation = self._begin(now)
                self._out = self._confirmation.data_to_send()
            return self._confirm(self._confirmation, now)
        except ssl.SSLWantReadError:
            return Want.READ
        except ssl.SSLWantWriteError:
            return Want.WRITE
        except TrunklineError:
            raise  # some are OSErrors as well
        except OSError as error:
            cause = self._last_words(error, now)
            raise tls_error(cause) from cause

    def expire(self, now: float) -> None:
        """Say that the deadline has passed: the peer is told, if it gets as far as listening.

        Raises:
            SilentPeer: always.
        """
        confirmation = self._confirmation
        if confirmation is not None:
            try:
                confirmation.handle_timer(math.inf)
            except SilentPeer:
                self._send_last(confirmation.data_to_send())
                raise
        raise SilentPeer(self._timeout)

    # ---- inside ------------------------------------------------------------------------------------------------

    def _session(self) -> ssl.SSLSession | None:
        m = self.meeting
        if m.role is Role.PASSIVE:
            return None
        session = fresh_session(self._member, self._context, m.peer_user, m.you)
        self._offered = session is not None
        return session

    def _begin(self, now: float) -> Confirmation:
        """TLS stands: see who is there."""
        m = self.meeting
        try:
            if self.tls.version() != "TLSv1.3":
                raise TrustError(f"TLS: the peer agreed to {self.tls.version()}, and nothing below TLSv1.3 will do")
            identity = self._member.identify(self.tls)
            self._expect(identity.user)
        except TrunklineError as error:
            if m.role is Role.ACTIVE:
                self._member.sessions.forget(m.peer_user, m.you)
            self._send_last(refusal(error))
            raise
        self.peer = Peer(
            m.you,
            identity.user,
            match=m.match.hex(),
            public_key=identity.public_key,
            certificate=identity.certificate,
        )
        return Confirmation(m, identity.user, self._head, now=now, timeout=self._timeout)

    def _expect(self, user: str) -> None:
        wanted = self.meeting.peer_user
        if wanted and user != wanted:
            raise NotThatUser(f"certificate: it is of {user!r}, and {wanted!r} was asked for")
        if not wanted and not any(user_matches(user, pattern) for pattern in self._allow):
            raise NotAllowed(f"the user {user!r} may not come to {self.meeting.me!r}")

    def _confirm(self, confirmation: Confirmation, now: float) -> Want:
        self._flush()
        while wanted := confirmation.bytes_wanted:
            data = self.tls.read(wanted)
            try:
                if not data:
                    confirmation.receive_eof(now)
                confirmation.receive_data(data, now)
            except TrunklineError:
                self._send_last(confirmation.data_to_send())
                raise
        event = confirmation.next_event()
        if event is not None:
            try:
                self._member.compare(event.head)
            except TrunklineError as error:
                self._tell(confirmation, error)
                raise
            confirmation.accept()
            self._out = confirmation.data_to_send()
            self._flush()
        if isinstance(self.tls, SecureConnection):
            self.tls.exchange_keys(self.meeting.role, self.meeting.match)
        self._keep_session()
        return Want.NOTHING

    def _flush(self) -> None:
        if self._out:
            self.tls.write(self._out)  # whole, or not at all: it fits one record
            self._out = b""

    def _tell(self, confirmation: Confirmation, error: TrunklineError) -> None:
        confirmation.refuse(error)
        self._send_last(confirmation.data_to_send())

    def _send_last(self, data: bytes) -> None:
        if data:
            with contextlib.suppress(OSError):  # nobody waits for the peer to have heard it
                self.tls.write(data)

    def _last_words(self, error: OSError, now: float) -> OSError:
        """Return why the peer hung up, if it said so before our write found that it had.

        In TLS 1.3 the client is done before the server has looked at its certificate, so the alert comes later
        (RFC 8446 section 4.4.2.4 and appendix E.1), and it is the read that finds it. So does a refusal, whose sender
        need not have waited for our Confirm.

        Raises:
            TrunklineError: it is that refusal.
        """
        confirmation = self._confirmation
        if confirmation is None or (isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError)):
            return error
        try:
            while data := self.tls.read(confirmation.bytes_wanted or 1):
                confirmation.receive_data(data, now)
        except TrunklineError:
            raise  # some are OSErrors as well
        except ssl.SSLError as told:
            if "ALERT" in (told.reason or ""):
                return told
        except OSError:
            pass
        return error

    def _keep_session(self) -> None:
        m = self.meeting
        if m.role is Role.PASSIVE:
            return
        if not self._offered:
            self._member.sessions.put(self._context, m.peer_user, m.you, self.tls.session)
        elif not self.tls.session_reused:
            # The peer is another process than the one of that session, and took us for one that needs no ticket.
            self._member.sessions.forget(m.peer_user, m.you)


class Suspects:
    """Those who were met in one call of secure_meet and could not prove to be who was asked for."""

    __slots__ = ("_met", "_you", "avoid")

    def __init__(self, you: str) -> None:
        self._you = you
        self._met: dict[str, int] = {}
        self.avoid: tuple[bytes, ...] = ()
        """For `MeetWanted.avoid`."""

    @property
    def notes(self) -> tuple[str, ...]:
        """For `MeetWanted.notes`: what was wrong with them, the last few kinds."""
        return tuple(text if times == 1 else f"{text}, {times} times" for text, times in self._met.items())

    def add(self, partner: bytes, claimed: str, error: TrunklineError) -> None:
        """Take somebody for an impostor, who is not to be met again in this call."""
        self.avoid = (*self.avoid, partner)[-MAX_AVOID:]
        text = f"somebody under the name {self._you!r} could not prove to be {claimed!r} ({error})"
        self._met[text] = self._met.pop(text, 0) + 1
        if len(self._met) > MAX_NOTES:
            del self._met[next(iter(self._met))]

    def pause(self) -> float:
        """Return the seconds to wait before the next attempt: none, then 50 ms doubling up to 2 s.

        As for meetings that lapse: an honest peer that has just been restarted is there at once, and a crowd of
        impostors costs us no more than it costs them.
        """
        met = sum(self._met.values())
        return 0.0 if met <= 1 else min(LONGEST_LAPSE_PAUSE, FIRST_LAPSE_PAUSE * float(2 ** min(met - 2, 10)))


def fresh_session(member: Member, context: ssl.SSLContext, user: str, name: str) -> ssl.SSLSession | None:
    """Return the session to resume with a peer; None if there is none, or it has had its time."""
    session = member.sessions.get(context, user, name)
    return None if session is None or time.time() - session.time >= SESSION_TIME else session


def user_of(member: Member) -> str:
    """Return our user.

    Raises:
        NotAllowed: there is none.
    """
    if member.user is None:
        raise NotAllowed("a secure meeting needs a user of our own: name one, or make a key with `trunkline key new`")
    return member.user


def ends_the_call(error: TrunklineError) -> bool:
    """Say whether an error of a handshake is about the realm or our own side: then no other peer would do better."""
    return isinstance(error, ForkedHistory | StaleHead)


def tls_error(error: OSError) -> TrunklineError:
    """Return what an error of `ssl` or of the socket below it means, in words of ours."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return TrustError(f"certificate: the peer's is not good: {error.verify_message}")
    if not isinstance(error, ssl.SSLError):
        return LinkClosed(f"the connection was lost during the handshake: {error.strerror or error}")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return LinkClosed("the peer closed the connection during the handshake")
    reason = getattr(error, "reason", None) or ""
    if any(sign in reason for sign in _OTHER_PROTOCOL):
        return RemoteError("the peer does not speak TLS 1.3")
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return TrustError("certificate: the peer shows none")
    if "ALERT" in reason:
        told = reason.partition("ALERT_")[2].replace("_", " ").lower()
        return TrustError(f"certificate: the peer does not accept ours, or broke off: it says {told!r}")
    return RemoteError(f"TLS: {reason.replace('_', ' ').lower() or error}")


_OTHER_PROTOCOL: Final = ("UNSUPPORTED_PROTOCOL", "WRONG_VERSION", "WRONG_SSL", "HTTP", "PROTOCOL_VERSION")
