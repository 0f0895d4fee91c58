"""The key exchange over real TLS, step by step."""

import concurrent.futures
import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.leaks import no_leaks
from trunkline.drivers.datagram_keys import KeysOverTls
from trunkline.errors import LinkClosed, NotTrunkline
from trunkline.meeting.datagram_keys import Session
from trunkline.meeting.handshake import Role

MATCH = b"match id"
Streams = tuple[ssl.SSLSocket, ssl.SSLSocket]


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A client's and a server's; who is who is not what is tested here."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    path: Path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    client, server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    server.load_cert_chain(path)
    return client, server


@pytest.fixture
def streams(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[Streams]:
    """The active and the passive side's, after the handshake; they block."""
    client, server = contexts
    with no_leaks(), contextlib.ExitStack() as closing:
        ours, theirs = socket.socketpair()
        active = closing.enter_context(client.wrap_socket(ours, do_handshake_on_connect=False))
        passive = closing.enter_context(server.wrap_socket(theirs, server_side=True, do_handshake_on_connect=False))
        thread = threading.Thread(target=passive.do_handshake)
        thread.start()
        active.do_handshake()
        thread.join()
        yield active, passive


def check(active: Session, passive: Session) -> None:
    assert active.id == passive.id
    assert active.sending == passive.receiving
    assert active.receiving == passive.sending


def exchange(stream: ssl.SSLSocket, role: Role) -> Session:
    """Take steps until it is done."""
    stream.setblocking(False)
    keys = KeysOverTls(stream, role, MATCH)
    while True:
        try:
            return keys.step()
        except ssl.SSLWantReadError:
            assert select.select([stream], [], [], 20)[0]
        except ssl.SSLWantWriteError:
            assert select.select([], [stream], [], 20)[1]


def test_both_sides_agree(streams: Streams) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        passive = pool.submit(exchange, streams[1], Role.PASSIVE)
        check(exchange(streams[0], Role.ACTIVE), passive.result(20))


def test_each_exchange_has_keys_of_its_own(streams: Streams) -> None:
    ids = set()
    for _ in range(3):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            passive = pool.submit(exchange, streams[1], Role.PASSIVE)
            ids.add(exchange(streams[0], Role.ACTIVE).id)
            passive.result(20)
    assert len(ids) == 3


def test_a_step_waits_for_nobody(streams: Streams) -> None:
    for stream in streams:
        stream.setblocking(False)
    active, passive = KeysOverTls(streams[0], Role.ACTIVE, MATCH), KeysOverTls(streams[1], Role.PASSIVE, MATCH)
    for _ in range(2):
        with pytest.raises(ssl.SSLWantReadError):
            active.step()
    session = passive.step()
    check(active.step(), session)


def test_nothing_is_read_beyond_it(streams: Streams) -> None:
    for stream in streams:
        stream.setblocking(False)
    active = KeysOverTls(streams[0], Role.ACTIVE, MATCH)
    with pytest.raises(ssl.SSLWantReadError):
        active.step()
    passive = KeysOverTls(streams[1], Role.PASSIVE, MATCH)
    passive.step()
    streams[1].send(b"more")
    active.step()
    assert streams[0].recv(10) == b"more"


class Full:
    """A TLS connection that takes nothing at first."""

    def __init__(self, stream: ssl.SSLSocket) -> None:
        self._stream = stream
        self._full = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, data: bytes) -> int:
        if self._full:
            self._full = False
            raise ssl.SSLWantWriteError
        return self._stream.write(data)


def test_a_full_connection_is_waited_for(streams: Streams) -> None:
    full = [cast("ssl.SSLSocket", Full(stream)) for stream in streams]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        passive = pool.submit(exchange, full[1], Role.PASSIVE)
        check(exchange(full[0], Role.ACTIVE), passive.result(20))


@pytest.mark.parametrize("role", Role)
def test_a_peer_that_hangs_up(role: Role, streams: Streams) -> None:
    ours, theirs = streams if role is Role.ACTIVE else streams[::-1]
    theirs.close()
    with pytest.raises((LinkClosed, OSError)):
        exchange(ours, role)


def test_a_peer_that_says_something_else(streams: Streams) -> None:
    streams[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(NotTrunkline):
        exchange(streams[1], Role.PASSIVE)
