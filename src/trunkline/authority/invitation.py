"""The line that brings another machine into a realm (docs/spec/authority.md section 13).

    trunkline:REALM/FINGERPRINT/SWITCHBOARD[,SWITCHBOARD…]/AUTHORITY[,AUTHORITY…]

It holds nothing secret: whoever has it knows where to ask and which root to believe, and no more. It is made of
characters that no shell obeys, so that it can be pasted without quotes; for that, an IPv6 address stands between two
``+`` where elsewhere brackets do.
"""

import re
from typing import Final, Self

import msgspec

from trunkline.authority.certificates import fingerprint_text, parse_fingerprint
from trunkline.errors import ConfigError, InvalidAddress, InvalidRealm
from trunkline.names import DEFAULT_PORT, Address
from trunkline.users import check_realm

SCHEME: Final = "trunkline:"

AUTHORITY_PORT: Final = 7118
"""The authority's default TCP port."""

MAX_INVITATION: Final = 4096
"""Longest line in characters: what a terminal takes as one line."""

MAX_SERVERS: Final = 16
"""Most switchboard servers, and most authorities: a few to start from; they tell of the others."""

_HOST: Final = re.compile(r"[A-Za-z0-9._:%-]+")
_FORM: Final = "trunkline:REALM/FINGERPRINT/SWITCHBOARD,…/AUTHORITY,…"


class Invitation(msgspec.Struct, frozen=True):
    """What somebody has to know of a realm to join it."""

    realm: str
    fingerprint: bytes
    """Of the realm's root: 32 bytes."""
    switchboards: tuple[Address, ...]
    """Best first; 1 to 16."""
    authorities: tuple[Address, ...]
    """Best first; 1 to 16."""

    def __str__(self) -> str:
        servers = "/".join(
            ",".join(_address_text(address) for address in of) for of in (self.switchboards, self.authorities)
        )
        return f"{SCHEME}{self.realm}/{fingerprint_text(self.fingerprint)}/{servers}"

    def check(self) -> Self:
        """Return this invitation if its line can be parsed again.

        Raises:
            InvalidRealm: the realm's name can't be one.
            ConfigError: it names no server of one kind, or too many.
            InvalidAddress: an address has characters that a shell would obey.
        """
        check_realm(self.realm)
        for kind, of in (("switchboard server", self.switchboards), ("authority", self.authorities)):
            _check_count(kind, len(of))
            for address in of:
                if not _HOST.fullmatch(address.host):
                    raise InvalidAddress(str(address), "its host has characters that don't go into an invitation")
        return self


def parse_invitation(line: str) -> Invitation:
    """Parse the line that an `Invitation` gives as its text; blanks around it don't matter.

    Raises:
        ConfigError: it is no invitation, or a part is missing; the text says which.
        InvalidRealm: the realm's name or fingerprint can't be one.
        InvalidAddress: an address can't be one.
    """
    text = line.strip()
    if len(text) > MAX_INVITATION:
        raise ConfigError(f"an invitation has at most {MAX_INVITATION} characters, and this has {len(text)}")
    if not text.startswith(SCHEME):
        raise ConfigError(f"{text[:40]!r} is no invitation: one begins with {SCHEME!r}, and looks like {_FORM}")
    parts = text.removeprefix(SCHEME).split("/")
    if len(parts) != 4:
        raise ConfigError(
            f"the invitation has {len(parts)} parts between its slashes, and should have 4: {_FORM}; "
            "was it copied as a whole?"
        )
    realm, fingerprint, switchboards, authorities = parts
    try:
        check_realm(realm)
        root = parse_fingerprint(fingerprint)
    except InvalidRealm as error:
        raise InvalidRealm(error.realm, f"{error.reason}; was the invitation copied as a whole?") from None
    return Invitation(
        realm,
        root,
        _addresses("switchboard server", switchboards, DEFAULT_PORT),
        _addresses("authority", authorities, AUTHORITY_PORT),
    )


def _addresses(kind: str, text: str, default_port: int) -> tuple[Address, ...]:
    parts = [part for part in text.split(",") if part]
    _check_count(kind, len(parts))
    return tuple(_parse_address(part, default_port) for part in parts)


def _check_count(kind: str, count: int) -> None:
    if not 1 <= count <= MAX_SERVERS:
        problem = f"no {kind}" if count == 0 else f"{count} addresses of kind {kind}"
        raise ConfigError(f"the invitation names {problem}; it takes 1 to {MAX_SERVERS}")


def _address_text(address: Address) -> str:
    host = f"+{address.host}+" if ":" in address.host else address.host
    return f"{host}:{address.port}"


def _parse_address(text: str, default_port: int) -> Address:
    bracketed = re.sub(r"\+([^+]*)\+", r"[\1]", text, count=1)
    address = Address.parse(bracketed, default_port)
    if not _HOST.fullmatch(address.host) or address.port == 0:
        raise InvalidAddress(text, "an invitation has addresses as 192.0.2.7:7117 or +2001:db8::7+:7117")
    return address
