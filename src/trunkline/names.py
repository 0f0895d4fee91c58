"""Names, addresses and ids: plain frozen values, shared by every layer (docs/design.md section 2)."""

import hashlib
import unicodedata
from typing import Final, NewType

import msgspec

from trunkline.errors import InvalidAddress, InvalidName

MAX_NAME: Final = 255
"""Longest process name, in bytes of UTF-8: the limit of a DNS name and of a file name, so it fits wherever names do."""

DEFAULT_PORT: Final = 7117
"""The switchboard's default TCP port."""

RequestId = NewType("RequestId", bytes)
"""16 random bytes; names one request for its whole life."""

ServerId = NewType("ServerId", str)
"""What a switchboard server calls itself in the mesh; by default the address that it advertises."""


def check_name(name: str) -> str:
    """Return ``name`` if it can be used as a process name.

    Raises:
        InvalidName: it is empty, longer than 255 bytes, not UTF-8, or has a control character in it.
    """
    given: object = name
    if not isinstance(given, str):
        raise InvalidName(given, f"a name is a str, not {type(given).__name__}")
    if name.isascii() and name.isprintable() and 0 < len(name) <= MAX_NAME:
        return name  # nearly every name, in a quarter of a microsecond
    if not name:
        raise InvalidName(name, "it is empty")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidName(name, "it is not UTF-8 (it has a lone surrogate)") from None
    if size > MAX_NAME:
        raise InvalidName(name, f"it has {size} bytes, and the limit is {MAX_NAME}")
    if any(unicodedata.category(c) == "Cc" for c in name):
        raise InvalidName(name, "it has a control character")
    return name


def check_pair(me: str, you: str) -> None:
    """Check the two names of a meeting.

    Raises:
        InvalidName: either can't be used, or they are the same: nobody can meet themselves.
    """
    check_name(me)
    check_name(you)
    if me == you:
        raise InvalidName(me, "a process can't meet itself; the two names must differ")


class Address(msgspec.Struct, frozen=True, order=True):
    """A TCP address. ``host`` is a name or a literal without brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int | None = DEFAULT_PORT) -> "Address":
        """Parse ``host``, ``host:port``, ``[v6]`` or ``[v6]:port``.

        Raises:
            InvalidAddress: with the reason.
        """
        text = text.strip()
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise InvalidAddress(text, "write an IPv6 address as [address]:port")
            port = rest[1:]
        elif text.count(":") > 1:
            raise InvalidAddress(text, "write an IPv6 address as [address]:port")
        else:
            host, _, port = text.partition(":")
        if not host or len(host) > MAX_NAME or any(c.isspace() or not c.isprintable() for c in host):
            raise InvalidAddress(text, "the host is missing or has characters that no host name has")
        if not port:
            if default_port is None:
                raise InvalidAddress(text, "the port is missing; write host:port")
            return cls(host, default_port)
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):
            raise InvalidAddress(text, "the port is a number from 0 to 65535")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Candidate(msgspec.Struct, frozen=True, array_like=True):
    """One address at which a process can be dialled.

    ``kind`` is ``tcp4``, ``tcp6`` or ``unix``. A ``unix`` host is a path; one that begins with ``@`` is in Linux's
    abstract name space, and its port is 0.
    """

    kind: str
    host: str
    port: int = 0

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.host}"
        return f"tcp:{Address(self.host, self.port)}"


class Candidates(msgspec.Struct, frozen=True, array_like=True):
    """Where a process can be dialled, best first.

    ``place`` names the network stack that the process lives on (8 bytes, a hash of boot id and network name space):
    loopback and unix candidates are worth trying only from the same place.
    """

    place: bytes
    at: tuple[Candidate, ...]


class Peer(msgspec.Struct, frozen=True):
    """Who is at the other end of a connection that Trunkline made."""

    name: str
    """The process name that the peer met under."""
    user: str | None = None
    """The peer's proven user; None on a plain meeting."""
    path: str = "direct"
    """The way that was taken: ``direct``."""
    match: str = ""
    """The match id, in hexadecimal: the same on both sides, for logs."""
    public_key: bytes = b""
    """The proven user's Ed25519 key, 32 bytes; empty on a plain meeting."""
    certificate: bytes = b""
    """The certificate that proved it, X.509 DER; empty on a plain meeting."""


class Secret:
    """Bytes that must not be shown: ``repr``, ``str``, formatting and pickling don't give them away."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """Return the bytes."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and digest(self._value) == digest(other._value)

    def __hash__(self) -> int:
        return hash(digest(self._value))

    def __reduce__(self) -> str:
        raise TypeError("a Secret can't be pickled")


def digest(value: bytes, size: int = 16) -> bytes:
    """Hash ``value`` with BLAKE2b to ``size`` bytes."""
    return hashlib.blake2b(value, digest_size=size).digest()


class Draw:
    """A stream of bytes that nobody can foresee who doesn't know the seed, and that anybody can replay who does.

    Pure machines take one of these instead of reading the system's randomness, so that a failing run replays.
    """

    __slots__ = ("_count", "_key")

    def __init__(self, seed: bytes, count: int = 0) -> None:
        self._key = digest(seed, 32)
        self._count = count

    @property
    def count(self) -> int:
        """How often it was drawn from; with the seed, the whole state."""
        return self._count

    @count.setter
    def count(self, value: int) -> None:
        self._count = value

    def bytes(self, size: int) -> bytes:
        """Return the next ``size`` bytes, at most 64."""
        self._count += 1
        return hashlib.blake2b(self._count.to_bytes(8, "big"), digest_size=size, key=self._key).digest()

    def fraction(self) -> float:
        """Return a number in [0, 1)."""
        return int.from_bytes(self.bytes(6), "big") / (1 << 48)
