"""The key exchange of a secure datagram meeting, over its confirmed TLS connection (docs/spec/sealing.md section 7).

It does not wait, so that whoever drives many handshakes drives these as well. When the session is there the stream has
done its work, and is closed.
"""

import os
import ssl

from trunkline.meeting.datagram_keys import SHARE_SIZE, KeyExchange, Session
from trunkline.meeting.handshake import Role
from trunkline.names import Secret


class KeysOverTls:
    """The exchange on one connection that TLS has authenticated and both sides have confirmed.

    Args:
        tls: doesn't block, and nothing was read from it beyond the confirmation.
        role: ours in the meeting.
        match: the match id.
    """

    __slots__ = ("_exchange", "_out", "_tls")

    def __init__(self, tls: ssl.SSLSocket | ssl.SSLObject, role: Role, match: bytes) -> None:
        self._tls = tls
        self._exchange = KeyExchange(role, match, Secret(os.urandom(SHARE_SIZE)))
        self._out = b""

    def step(self) -> Session:
        """Go on as far as can be; return the session when all is said.

        Raises:
            ssl.SSLWantReadError, ssl.SSLWantWriteError: it is not done; call again when the connection is ready.
            NotTrunkline: the peer said something else.
            LinkClosed: the peer hung up.
            OSError: the connection is lost.
        """
        while True:
            self._out = self._out or self._exchange.data_to_send()
            if self._out:
                self._tls.write(self._out)  # whole, or not at all: it fits one record
                self._out = b""
            if self._exchange.session is not None:
                return self._exchange.session
            data = self._tls.read(self._exchange.bytes_wanted)
            if not data:
                self._exchange.receive_eof()
            self._exchange.receive_data(data)
