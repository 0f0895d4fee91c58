"""What goes into the machines of the authority and comes out: closed sets (docs/spec/authority.md section 10).

`Directory` and `Replica` are of the Server shape: ``step(event, now) -> list[Effect]`` and ``next_deadline()``. They
know no connections: a driver decodes requests, hands over all that are there at once, and bounds how many each
connection may have unanswered.

One save is under way at a time. While it is, the driver may hand over more requests; they wait in the machine, and all
writes among them make the next save. A save that fails ends the machine: a new one starts from what is on disk.
"""

import msgspec

from trunkline.authority.issuing import BACKDATED, LEAF_LIFETIME
from trunkline.authority.messages import Answer, Certificate, Request
from trunkline.authority.store import Batch
from trunkline.errors import TrunklineError


class Event(msgspec.Struct, frozen=True, gc=False):
    """The base of what goes in."""


class Effect(msgspec.Struct, frozen=True, gc=False):
    """The base of what comes out."""


class Received(Event, frozen=True):
    """Requests came: pairs of connection and request, in order, all that the driver has."""

    requests: tuple[tuple[int, Request], ...]


class Saved(Event, frozen=True):
    """The last `Save` is on disk, and reads see it."""


class Tick(Event, frozen=True):
    """The time that `next_deadline` gave has come."""


class Answered(Event, frozen=True):
    """Of a replica: its upstream answered the last `Ask`."""

    answer: Answer


class Failed(Event, frozen=True):
    """Of a replica: the last `Ask` will not be answered; the driver connects anew at the next."""

    error: TrunklineError


class Save(Effect, frozen=True):
    """Write this in one transaction, then say `Saved`. Nothing that depends on it was said before."""

    batch: Batch


class Send(Effect, frozen=True):
    """Answer a connection; one that is gone swallows it."""

    conn: int
    answer: Answer


class Ask(Effect, frozen=True):
    """Of a replica: ask the upstream this; answered by `Answered` or `Failed`. One at a time."""

    request: Request


class Accuse(Effect, frozen=True):
    """Of a replica: the upstream said what can't be true. Keep the evidence for people; it is not asked to go on."""

    error: TrunklineError
    evidence: tuple[bytes, ...]
    """MessagePack of signed heads and statements, as they came."""


class Log(Effect, frozen=True):
    """One line for the operator: what happened, about what."""

    what: str
    about: str = ""


DirectoryEvent = Received | Saved | Tick
DirectoryEffect = Save | Send | Log
ReplicaEvent = Received | Saved | Tick | Answered | Failed
ReplicaEffect = Save | Send | Ask | Accuse | Log


class DirectoryConfig(msgspec.Struct, frozen=True):
    """Settings of an authority and of its replicas."""

    root: Certificate
    """The realm's root certificate, DER."""
    authorities: tuple[Certificate, ...]
    """The intermediates' certificates, DER, newest first: the first is the one that signs. Empty for a replica."""
    epoch: float
    """The wall clock, in seconds since 1970, at ``now`` = 0."""
    head_refresh: float = 60.0
    """A head that is older than this, in seconds, is signed anew when it is asked for."""
    lifetime: int = LEAF_LIFETIME
    """Seconds for which a certificate is valid."""
    backdated: int = BACKDATED
    """Seconds by which it is valid before it was asked for."""
    skew: int = 120
    """Seconds by which the clock of who asks for a certificate may differ from ours."""
    max_certificates: int = 1024
    """Most unexpired certificates of one user."""
    sweep: float = 600.0
    """Seconds between two looks for what has expired."""
    poll: float = 1.0
    """Of a replica: seconds between two questions for a newer head."""
    writer: str = ""
    """Of a replica: where writes go, for people (host:port)."""
