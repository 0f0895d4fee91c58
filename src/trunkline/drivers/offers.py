"""A post as the blocking driver keeps it."""

from collections import deque

from trunkline.drivers.crew import Arrival, Waiter
from trunkline.drivers.secure_sockets import Member
from trunkline.errors import TrunklineError
from trunkline.names import Secret
from trunkline.switchboard.requests import MAX_NOTES

Patterns = tuple[str, ...]


class Offer:
    """A post as the driver keeps it: what was delivered, and who waits for it."""

    __slots__ = (
        "acceptors",
        "allow",
        "bell",
        "datagram",
        "error",
        "generation",
        "member",
        "name",
        "notes",
        "ready",
        "rid",
        "secret",
        "standing",
    )

    def __init__(
        self,
        rid: bytes,
        name: str,
        secret: Secret | None,
        member: Member | None = None,
        allow: Patterns = (),
        *,
        datagram: bool = False,
    ) -> None:
        self.rid = rid
        self.name = name
        self.secret = secret
        self.datagram = datagram
        self.member = member
        """Our user, if the post is secure."""
        self.allow = allow
        self.notes: deque[str] = deque(maxlen=MAX_NOTES)
        """What is known about clients that could not prove who they are."""
        self.generation = 0
        self.standing: Waiter | None = Waiter()
        self.ready: deque[tuple[Arrival, bool]] = deque()
        """What nobody has taken yet, and whether the machine was told that it is taken."""
        self.acceptors: deque[Waiter] = deque()
        self.error: Exception | None = None
        self.bell = -1

    def close_ready(self) -> None:
        """Close what nobody has taken."""
        while self.ready:
            arrival, _ = self.ready.popleft()
            if not isinstance(arrival, TrunklineError):
                arrival.close()
