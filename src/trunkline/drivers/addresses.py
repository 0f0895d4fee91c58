"""At which addresses this process can be dialled, and on which network stack it lives.

On Linux the kernel's own tables are read: no package is needed. Elsewhere, and where `/proc` is hidden, the
resolver and a UDP socket that is connected but never sends say what they know.
"""

import ipaddress
import platform
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from trunkline.names import Candidate, Candidates, digest
from trunkline.wire.codec import encode_candidates
from trunkline.wire.limits import MAX_CANDIDATES

MAX_ADDRESSES: Final = 8
"""Most addresses of one family that are offered: a host full of bridges has many that lead nowhere."""

_FIB_TRIE: Final = Path("/proc/net/fib_trie")
_IF_INET6: Final = Path("/proc/net/if_inet6")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_NETNS: Final = Path("/proc/self/ns/net")

_LOCAL_V4: Final = re.compile(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL")
_SCOPE_GLOBAL: Final = 0
_UNUSABLE: Final = 0x08 | 0x40
"""IFA_F_DADFAILED and IFA_F_TENTATIVE (linux/if_addr.h): the address is not ours (yet)."""

_FAR_V4: Final = ("192.0.2.1", 9)
_FAR_V6: Final = ("2001:db8::1", 9)
"""Documentation addresses (RFC 5737, RFC 3849). A UDP socket "connected" there sends nothing, but chooses the
local address of the route."""


def place() -> bytes:
    """Return 8 bytes that name this network stack: equal in processes that reach each other by loopback."""
    try:
        boot = _BOOT_ID.read_bytes().strip()
        inode = _NETNS.stat().st_ino
    except OSError:
        return digest(f"{socket.gethostname()}\0{platform.node()}\0{platform.system()}".encode(), 8)
    return digest(boot + inode.to_bytes(8, "big"), 8)


def local_addresses() -> tuple[str, ...]:
    """Return the addresses of this host that others may dial (no loopback, no link-local), best first."""
    found = [*_preferred(), *_kernel_v4(), *_kernel_v6()] or [*_resolved()]
    return tuple(dict.fromkeys(text for text in found if _dialable(text)))


def candidates(
    tcp_port: int, unix_path: str | None = None, *, v6: bool = True, addresses: Iterable[str] | None = None
) -> Candidates:
    """Return where a listener of this process can be dialled, best first.

    Args:
        tcp_port: the port on which it listens, on all interfaces.
        unix_path: its Unix socket, if it has one; a leading ``@`` stands for Linux's abstract name space.
        v6: whether it listens on IPv6 as well.
        addresses: offer these instead of `local_addresses`.
    """
    at = [Candidate("unix", unix_path)] if unix_path else []
    at.append(Candidate("tcp4", "127.0.0.1", tcp_port))
    if v6:
        at.append(Candidate("tcp6", "::1", tcp_port))
    room = {"tcp4": MAX_ADDRESSES, "tcp6": MAX_ADDRESSES if v6 else 0}
    for text in local_addresses() if addresses is None else addresses:
        kind = "tcp6" if ":" in text else "tcp4"
        if room[kind] > 0:
            room[kind] -= 1
            at.append(Candidate(kind, text, tcp_port))
    offer = Candidates(place(), tuple(at))
    while len(encode_candidates(offer)) > MAX_CANDIDATES and len(offer.at) > 1:
        offer = Candidates(offer.place, offer.at[:-1])
    return offer


def _preferred() -> Iterator[str]:
    for family, far in ((socket.AF_INET, _FAR_V4), (socket.AF_INET6, _FAR_V6)):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(far)
                yield str(probe.getsockname()[0])
        except OSError:
            continue  # no such family here, or no route


def _kernel_v4() -> Iterator[str]:
    try:
        text = _FIB_TRIE.read_text("ascii", "replace")
    except OSError:
        return
    for match in _LOCAL_V4.finditer(text):
        yield match[1]


def _kernel_v6() -> Iterator[str]:
    try:
        lines = _IF_INET6.read_text("ascii", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if len(fields) != 6 or len(fields[0]) != 32:
            continue
        try:
            address = ipaddress.IPv6Address(int(fields[0], 16))
            scope, flags = int(fields[3], 16), int(fields[4], 16)
        except ValueError:
            continue
        if scope == _SCOPE_GLOBAL and not flags & _UNUSABLE:
            yield str(address)


def _resolved() -> Iterator[str]:
    try:
        for *_, address in socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM):
            yield str(address[0])
    except OSError:
        return


def _dialable(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast)
