"""TLS for tests of drivers: certificates of no realm, two contexts, and a far end that is none of our code."""

import asyncio
import contextlib
import datetime as dt
import functools
import socket
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@functools.cache
def _certified() -> bytes:
    """Return one PEM: a key, and the certificate that it signed for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(serialization.Encoding.PEM)


@functools.cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a client's and a server's context, TLS 1.3 with certificates on both sides."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "both.pem")
        path.write_bytes(_certified())
        for context in made:
            context.check_hostname = False
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_cert_chain(path)
            context.load_verify_locations(path)
    made[1].num_tickets = 1
    return made


async def handshake(sock: ssl.SSLSocket) -> None:
    """Shake hands on a socket that doesn't block."""
    while True:
        try:
            sock.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            await asyncio.sleep(0)
        else:
            return


class Far:
    """The other end of a connection, through memory buffers, so that it can do what `ssl.SSLSocket` can't."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = contexts()[1].wrap_bio(self._in, self._out, server_side=True)

    async def handshake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._transmit()
                await self._fetch()
            else:
                await self._transmit()
                return

    async def send(self, data: bytes) -> None:
        sent = 0
        while sent < len(data):
            sent += self.tls.write(data[sent : sent + 65536])
            await self._transmit()

    async def receive(self) -> bytes:
        """Return some bytes; none when the stream was ended with close_notify."""
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLWantReadError:
                await self._fetch()
            except ssl.SSLZeroReturnError:
                return b""

    async def receive_exactly(self, size: int) -> bytes:
        got = bytearray()
        while len(got) < size:
            part = await self.receive()
            assert part, f"ended after {len(got)} of {size} bytes"
            got += part
        assert len(got) == size
        return bytes(got)

    async def end(self) -> None:
        """Send close_notify, and go on reading."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        await self._transmit()

    def close(self) -> None:
        self.sock.close()

    async def _transmit(self) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, self._out.read())

    async def _fetch(self) -> None:
        data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets that don't block, and hold little."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for sock in (near, far):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far
