"""Trunkline connects processes by name, across machines, and keeps doing so while servers die.

The layers, each a client of the one below (docs/design.md):

    connect, aio, classic   what users hold: blocking, asynchronous, and under the paper's names
    drivers                 sockets, clock, disk: the only package that touches the operating system
    switchboard, transfer   PURE  pending requests, matching, the mesh, the client side; files by name
    meeting                 PURE  what two peers say to each other before a connection is theirs
    authority               PURE  whose process is that: directory, log, certificates, trust
    wire                    PURE  frames, message catalogue, limits
    names, users, errors    PURE  values and the error tree that every layer shares

``trunkline.meet`` is the whole of it for most programs; ``from trunkline import aio`` for asyncio.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from trunkline.connect import (
        Post,
        SecurePost,
        Switchboard,
        broadcast,
        decrypt,
        encrypt,
        explain,
        meet,
        meet_datagram,
        names,
        post,
        secure_meet,
        secure_meet_datagram,
        secure_post,
        status,
    )
    from trunkline.drivers.secure_datagram import SecureDatagramSocket
    from trunkline.drivers.secure_sockets import SecureConnection
    from trunkline.drivers.sockets import Connection
    from trunkline.errors import (
        BadProof,
        BadSignature,
        ClosedError,
        ConfigError,
        DecryptError,
        DeniedError,
        Displaced,
        ForkedHistory,
        InvalidAddress,
        InvalidName,
        InvalidRealm,
        InvalidUser,
        LinkClosed,
        LocalError,
        MeetTimeout,
        NameTaken,
        NoAuthority,
        NoSwitchboard,
        NotAllowed,
        NotThatUser,
        NotWritable,
        RemoteError,
        Revoked,
        ServiceUnreachable,
        StaleHead,
        StoreFailed,
        TooMany,
        TransferFailed,
        TrunklineError,
        TrustError,
    )
    from trunkline.names import Address, Peer, Secret

__all__ = [
    "Address",
    "BadProof",
    "BadSignature",
    "ClosedError",
    "ConfigError",
    "Connection",
    "DecryptError",
    "DeniedError",
    "Displaced",
    "ForkedHistory",
    "InvalidAddress",
    "InvalidName",
    "InvalidRealm",
    "InvalidUser",
    "LinkClosed",
    "LocalError",
    "MeetTimeout",
    "NameTaken",
    "NoAuthority",
    "NoSwitchboard",
    "NotAllowed",
    "NotThatUser",
    "NotWritable",
    "Peer",
    "Post",
    "RemoteError",
    "Revoked",
    "Secret",
    "SecureConnection",
    "SecureDatagramSocket",
    "SecurePost",
    "ServiceUnreachable",
    "StaleHead",
    "StoreFailed",
    "Switchboard",
    "TooMany",
    "TransferFailed",
    "TrunklineError",
    "TrustError",
    "broadcast",
    "decrypt",
    "encrypt",
    "explain",
    "meet",
    "meet_datagram",
    "names",
    "post",
    "secure_meet",
    "secure_meet_datagram",
    "secure_post",
    "status",
]

_WHERE: Final = {
    "trunkline.connect": (
        "Post",
        "SecurePost",
        "Switchboard",
        "broadcast",
        "decrypt",
        "encrypt",
        "explain",
        "meet",
        "meet_datagram",
        "names",
        "post",
        "secure_meet",
        "secure_meet_datagram",
        "secure_post",
        "status",
    ),
    "trunkline.drivers.secure_datagram": ("SecureDatagramSocket",),
    "trunkline.drivers.secure_sockets": ("SecureConnection",),
    "trunkline.drivers.sockets": ("Connection",),
    "trunkline.errors": (
        "BadProof",
        "BadSignature",
        "ClosedError",
        "ConfigError",
        "DecryptError",
        "DeniedError",
        "Displaced",
        "ForkedHistory",
        "InvalidAddress",
        "InvalidName",
        "InvalidRealm",
        "InvalidUser",
        "LinkClosed",
        "LocalError",
        "MeetTimeout",
        "NameTaken",
        "NoAuthority",
        "NoSwitchboard",
        "NotAllowed",
        "NotThatUser",
        "NotWritable",
        "RemoteError",
        "Revoked",
        "ServiceUnreachable",
        "StaleHead",
        "StoreFailed",
        "TooMany",
        "TransferFailed",
        "TrunklineError",
        "TrustError",
    ),
    "trunkline.names": (
        "Address",
        "Peer",
        "Secret",
    ),
}
"""Module -> what comes from there when it is first used: the commands need little of it, and are to start quickly."""


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            value = globals()[name] = getattr(import_module(module), name)
            return value
    raise AttributeError(f"module 'trunkline' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps ``trunkline.names`` the function: importing the submodule of that name would put itself there."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name == "names" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
