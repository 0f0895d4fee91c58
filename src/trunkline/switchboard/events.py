"""What goes into the switchboard's machines and what comes out: closed sets (docs/spec/switchboard.md section 1).

Both machines of this package are of the Server shape: ``step(event, now) -> list[Effect]`` and ``next_deadline()``.
A driver (asyncio, blocking, or the simulator's) turns the world into events and carries the effects out, in order.

Connections are integers. Those that a machine opens (`Dial`, `PeerDial`) get theirs from the machine: positive. Those
that come in get theirs from the driver: negative. No number is used twice.
"""

import msgspec

from trunkline.errors import TrunklineError
from trunkline.names import Address, Candidate, Peer, Secret
from trunkline.wire.messages import AnyMessage


class Event(msgspec.Struct, frozen=True, gc=False):
    """The base of what goes in."""


class Effect(msgspec.Struct, frozen=True, gc=False):
    """The base of what comes out."""


# ---- connections that carry messages: of the server, and of a client to its servers ----------------------------


class Opened(Event, frozen=True):
    """A connection is there: one that came in, or the one that `Dial` asked for. Our preamble is sent by the driver."""

    conn: int
    remote: str
    """Where it comes from or goes to, for people."""
    user: str = ""
    """The user that the other side proved by its certificate; empty if it proved none."""


class Received(Event, frozen=True):
    """A message came."""

    conn: int
    message: AnyMessage


class Lost(Event, frozen=True):
    """A connection ended, or could not be made. Not said of those that the machine itself closed."""

    conn: int
    reason: str


class Tick(Event, frozen=True):
    """The time that `next_deadline` gave has come."""


class Stop(Event, frozen=True):
    """Leave in good order: the machine says goodbye where that is due and closes everything."""


class Dial(Effect, frozen=True):
    """Connect to a switchboard server; answered by Opened or Lost. The driver bounds the attempt (`DIAL_TIMEOUT`)."""

    conn: int
    address: Address


class Send(Effect, frozen=True):
    """Send a message; order is kept. A connection that is gone swallows it."""

    conn: int
    message: AnyMessage


class Close(Effect, frozen=True):
    """Close a connection once what was sent is out. The driver forgets it at once."""

    conn: int
    reason: str = ""


class Halt(Effect, frozen=True):
    """The server can't go on: its id is taken, say. The driver closes everything and raises the error."""

    error: TrunklineError


class Log(Effect, frozen=True):
    """One line for the operator: what happened, about what."""

    what: str
    about: str = ""


# ---- what a client's caller wants -------------------------------------------------------------------------------


class MeetWanted(Event, frozen=True):
    """Somebody calls meet(me, you)."""

    rid: bytes
    me: str
    you: str
    candidates: bytes
    deadline: float | None = None
    datagram: bool = False
    user: str = ""
    """Our user, if the meeting is to be secure: it is then matched only with requests that agree about both users."""
    peer_user: str = ""
    avoid: tuple[bytes, ...] = ()
    """What `Delivered.partner` said of those that could not prove to be ``peer_user``; of many, the last count."""
    notes: tuple[str, ...] = ()
    """Remarks about such earlier meetings, for the explanation if time runs out."""


class PostWanted(Event, frozen=True):
    """Somebody posts a name."""

    rid: bytes
    name: str
    candidates: bytes
    datagram: bool = False
    unique: bool = False
    secret: Secret | None = None
    backlog: int = 128
    deadline: float | None = None
    """When to give up if no server took it yet; from then on the post stands until it is cancelled."""
    user: str = ""
    """Our user, if the post is to be secure."""
    allow: tuple[str, ...] = ()
    """Patterns of the users that may meet it, if it is secure."""


class Cancelled(Event, frozen=True):
    """The caller of this request waits no longer, or closes its post."""

    rid: bytes


class Accepted(Event, frozen=True):
    """One delivered connection of this post was handed to its owner."""

    rid: bytes


class Asked(Event, frozen=True):
    """A question for a server: Explain, ListNames or AskStatus; its ``query`` names it."""

    message: AnyMessage
    deadline: float | None = None


class Announced(Event, frozen=True):
    """Somebody broadcasts a notice."""

    payload: bytes


class CandidatesChanged(Event, frozen=True):
    """This process can be dialled elsewhere from now on; attempts lodged from now on say so."""

    candidates: bytes
    datagram: bool = False
    """Whether these are for datagram meetings, or for streams."""


# ---- connections between peers -----------------------------------------------------------------------------------


class PeerDialled(Event, frozen=True):
    """Somebody connected to our listener."""

    conn: int


class PeerOpened(Event, frozen=True):
    """The connection that `PeerDial` asked for is there."""

    conn: int
    udp_port: int = 0
    """For a datagram meeting: the port of the UDP socket that the driver bound to the connection's local address."""


class PeerBound(Event, frozen=True):
    """For a datagram meeting, on the passive side: the answer to `PeerBind`."""

    conn: int
    udp_port: int


class PeerData(Event, frozen=True):
    """Bytes from a peer: never more than `Client.bytes_wanted` allowed."""

    conn: int
    data: bytes


class PeerLost(Event, frozen=True):
    """A peer connection ended, or could not be made."""

    conn: int
    reason: str


class PeerDial(Effect, frozen=True):
    """Connect to a peer's candidate; answered by PeerOpened or PeerLost."""

    conn: int
    candidate: Candidate
    datagram: bool = False
    """Once connected, bind a UDP socket to the connection's local address, and say its port in PeerOpened."""


class PeerSend(Effect, frozen=True):
    """Send bytes to a peer."""

    conn: int
    data: bytes


class PeerBind(Effect, frozen=True):
    """Connect the UDP socket of this meeting to the peer's address and ``udp_port``.

    On the passive side there is none yet: bind one to the connection's local address first. Either way, answer with
    PeerBound, before any later effect is carried out on this connection.
    """

    conn: int
    udp_port: int


class PeerClose(Effect, frozen=True):
    """Close a peer connection at once."""

    conn: int


# ---- what the caller gets ----------------------------------------------------------------------------------------


class Delivered(Effect, frozen=True):
    """The meeting is made: the connection belongs to the caller of ``rid`` from here on.

    For a datagram meeting the caller gets the UDP socket, and the driver closes the stream.
    """

    rid: bytes
    conn: int
    peer: Peer
    """Its ``user`` is None: nothing is proven yet."""
    claimed: str = ""
    """The user that the peer is said to be, on a secure meeting. It has yet to prove it."""
    partner: bytes = b""
    """The handle of the peer's request, for `MeetWanted.avoid`, on a secure meeting."""


class Failed(Effect, frozen=True):
    """The request is over without a meeting, or the post is."""

    rid: bytes
    error: Exception


class PostStands(Effect, frozen=True):
    """A server took the post; said again after each move to another server."""

    rid: bytes
    generation: int


class Answered(Effect, frozen=True):
    """The answer to `Asked`: a message, or why there is none."""

    query: int
    answer: AnyMessage | Exception


class Noticed(Effect, frozen=True):
    """Somebody's broadcast."""

    payload: bytes


class Remember(Effect, frozen=True):
    """Keep these servers for the next start, the last that answered first (the host-list file)."""

    servers: tuple[Address, ...]


ServerEvent = Opened | Received | Lost | Tick | Stop
ServerEffect = Dial | Send | Close | Halt | Log
ClientEvent = (
    Opened
    | Received
    | Lost
    | Tick
    | Stop
    | MeetWanted
    | PostWanted
    | Cancelled
    | Accepted
    | Asked
    | Announced
    | CandidatesChanged
    | PeerDialled
    | PeerOpened
    | PeerBound
    | PeerData
    | PeerLost
)
ClientEffect = (
    Dial
    | Send
    | Close
    | PeerDial
    | PeerSend
    | PeerBind
    | PeerClose
    | Delivered
    | Failed
    | PostStands
    | Answered
    | Noticed
    | Remember
    | Log
)
