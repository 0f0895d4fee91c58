"""Questions to an authority or a replica, over TLS, with a deadline on everything (docs/spec/authority.md section 6).

A connection is made for a few questions and closed again: a process asks once in a hundred seconds. Nothing that is
answered is believed here; `trunkline.authority.trust` decides that, through the ``take`` that callers pass.
"""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from trunkline.authority.certificates import Identity, fingerprint_text, parse_root
from trunkline.authority.link import AuthorityLink
from trunkline.authority.messages import Answer, AskRoot, Request, RootIs
from trunkline.drivers.clock import now as clock
from trunkline.drivers.tls import client_context, peer_certificate, peer_chain
from trunkline.errors import (
    ClosedError,
    ForkedHistory,
    LinkClosed,
    NoAuthority,
    NotWritable,
    RemoteError,
    TrustError,
)
from trunkline.names import Address

DEFAULT_PORT: Final = 7118
"""The authority's TCP port."""

TIMEOUT: Final = 15.0
"""Seconds that a question may take by default, over all authorities that are tried."""

DIAL_TIMEOUT: Final = 5.0
"""Most seconds until an authority has accepted and proved itself, before the next is tried."""

CHUNK: Final = 64 * 1024
"""Most bytes of one read."""

_CLOSED: Final = "the authority is asked no more: the membership was closed"
_LATE: Final = "it did not answer in time"
T = TypeVar("T")
Verify = Callable[[bytes, Sequence[bytes]], Identity]
"""Checks the certificate of an authority: leaf and intermediates, DER. Raises TrustError."""


class AuthorityClient:
    """Asks the authorities of one realm, in the order in which they are given; the last that answered goes first.

    Thread-safe. Args:
        root: the realm's root certificate, DER.
        addresses: where authorities and replicas are.
        verify: see `Verify`.
    """

    def __init__(self, root: bytes, addresses: Sequence[Address], verify: Verify) -> None:
        self._context = client_context(root, None)
        self.addresses: Final = tuple(addresses)
        self._verify = verify
        self._good: Address | None = None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False

    def ask(
        self,
        requests: Sequence[Request],
        take: Callable[[Sequence[tuple[Request, Answer]], bool], T],
        timeout: float = TIMEOUT,
    ) -> T:
        """Ask until one has answered to the satisfaction of ``take``, and return what that returned.

        Args:
            requests: asked together, over one connection.
            take: gets pairs of request and answer in the order asked, and whether the authority itself has answered.
                If it raises RemoteError, TrustError (but ForkedHistory) or NotWritable, the next authority is tried.
            timeout: seconds.

        Raises:
            NoAuthority: none could be reached.
            TrustError, NotWritable: the first of these, if some were reached and none was good.
        """
        deadline = clock() + timeout
        tried: list[tuple[str, str]] = []
        refused: TrustError | NotWritable | None = None
        silent = False
        for address in self._order():
            try:
                answers, first_hand = self._exchange(address, requests, deadline)
                result = take(answers, first_hand)
            except ForkedHistory:
                raise
            except TrustError as error:
                refused = error if refused is None or isinstance(refused, NotWritable) else refused
                tried.append((str(address), str(error)))
            except NotWritable as error:
                refused = refused or error
                tried.append((str(address), str(error)))
            except (OSError, RemoteError, LinkClosed) as error:
                if self._closed:
                    raise ClosedError(_CLOSED) from error
                silent = True
                tried.append((str(address), _reason(error)))
            else:
                self._good = address
                return result
        if isinstance(refused, TrustError) or (refused is not None and not silent):
            raise refused
        raise NoAuthority(tried)

    def close(self) -> None:
        """Break off what is being asked, in whatever thread."""
        with self._lock:
            self._closed = True
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _order(self) -> list[Address]:
        good = self._good
        return sorted(self.addresses, key=lambda address: address != good)

    def _exchange(
        self, address: Address, requests: Sequence[Request], deadline: float
    ) -> tuple[list[tuple[Request, Answer]], bool]:
        with _dialled(address, self._context, min(deadline, clock() + DIAL_TIMEOUT), self._registered) as sock:
            certificate = peer_certificate(sock)
            assert certificate is not None, "libssl has asked for one"
            identity = self._verify(certificate, tuple(peer_chain(sock)))
            return _converse(sock, requests, deadline), identity.user.startswith("authority/")

    @contextlib.contextmanager
    def _registered(self, sock: socket.socket) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise ClosedError(_CLOSED)
            self._open.add(sock)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(sock)


def fetch_root(address: Address, fingerprint: bytes, timeout: float = TIMEOUT) -> RootIs:
    """Ask an authority that can't be verified yet for the realm's root, and check it against the fingerprint.

    Args:
        fingerprint: as it came by another way, 32 bytes.
        timeout: seconds.

    Raises:
        NoAuthority: it can't be reached.
        TrustError: it serves another realm.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the fingerprint proves the root, whoever passes it on
    deadline = clock() + timeout
    try:
        with _dialled(address, context, deadline, lambda _: contextlib.nullcontext()) as sock:
            ((_, answer),) = _converse(sock, [AskRoot(0)], deadline)
    except (OSError, RemoteError, LinkClosed) as error:
        raise NoAuthority([(str(address), _reason(error))]) from error
    if not isinstance(answer, RootIs):
        raise NoAuthority([(str(address), f"it does not tell its root: {getattr(answer, 'text', answer)}")])
    anchor = parse_root(answer.root)
    if anchor.key_id != fingerprint or anchor.realm != answer.realm:
        raise TrustError(
            f"{address} serves the realm with the root {fingerprint_text(anchor.key_id)}, "
            f"and the invitation says {fingerprint_text(fingerprint)}"
        )
    return answer


@contextlib.contextmanager
def _dialled(
    address: Address,
    context: ssl.SSLContext,
    deadline: float,
    registered: Callable[[socket.socket], contextlib.AbstractContextManager[None]],
) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection((address.host, address.port), timeout=_left(deadline)) as plain,
        registered(plain),
    ):
        plain.settimeout(_left(deadline))
        # The wrapped socket takes the descriptor over; `plain` is empty from then on, and closing it does nothing.
        with context.wrap_socket(plain.dup()) as sock:
            yield sock


def _converse(sock: ssl.SSLSocket, requests: Sequence[Request], deadline: float) -> list[tuple[Request, Answer]]:
    link = AuthorityLink()
    order = {link.send_request(request): place for place, request in enumerate(requests)}
    found: dict[int, tuple[Request, Answer]] = {}
    sock.settimeout(_left(deadline))
    sock.sendall(link.data_to_send())
    while link.waiting:
        sock.settimeout(_left(deadline))
        data = sock.recv(CHUNK)
        if data:
            link.receive_data(data)
        else:
            link.receive_eof()
        while (each := link.next_answer()) is not None:
            found[order[each[1].query]] = each
    return [found[place] for place in range(len(requests))]


def _left(deadline: float) -> float:
    left = deadline - clock()
    if left <= 0:
        raise TimeoutError(_LATE)
    return left


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return _LATE
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was refused: {error.verify_message}"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
