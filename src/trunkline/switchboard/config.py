"""What the switchboard's machines are told when they are made."""

import msgspec

from trunkline.names import Address
from trunkline.switchboard.policy import Policy


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one switchboard server."""

    id: str
    """Unique in the mesh; by default the advertised address. Of two servers, the greater id arbitrates."""
    address: Address
    """Where clients and other servers can reach this one."""
    join: tuple[Address, ...] = ()
    """Servers to join; any one that answers is enough."""
    heartbeat: float = 2.0
    """Seconds of silence after which Alive is sent. After three times this a silent connection is closed."""
    max_clients: int = 20_000
    """Most client connections at once."""
    max_requests: int = 1024
    """Most requests that one client connection may have lodged."""
    notice_rate: float = 10.0
    """Broadcasts that one client may send in a second, on average; ten times this at once."""
    name_memory: float = 3600.0
    """Seconds for which the generation of a unique name is remembered after its last holder is gone."""
    policy: Policy = Policy()
    """The server's realm, and who may do what."""


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one process's client."""

    servers: tuple[Address, ...] = ()
    """Where to look for a server, best first (the last that answered, then the rest)."""
    place: bytes = b""
    """8 bytes that name this network stack; see `trunkline.names.Candidates`."""
    software: str = "trunkline"
    notices: bool = False
    """Whether the broadcasts of others are wanted."""
    probe_stagger: float = 0.25
    """Seconds before the next server is tried while the last has not answered (RFC 8305 section 5 suggests this)."""
    dial_timeout: float = 3.0
    """Seconds after which one attempt to reach a server or a peer is given up."""
    confirm_timeout: float = 5.0
    """Seconds from a match to its confirmation; then the attempt lapses and the next is lodged."""
    patience: float = 30.0
    """Seconds for which a request that was lodged before goes on looking when no server answers at all."""
    jitter: float = 0.2
    """Most seconds that a client waits, drawn at random, before it goes to another server when its own was lost."""
    max_strangers: int = 64
    """Most inbound connections that have not yet shown a token; the oldest goes when one more comes."""
