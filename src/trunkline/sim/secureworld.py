"""Two confirm a secure meeting, or one of them is eve (docs/spec/secure-meeting.md section 3).

The machines are those of `trunkline.meeting.confirmation`. TLS is taken as ideal: a channel has two ends, nobody but
they can say anything in it, and each is told truthfully which user is at the other (but for a world that says
otherwise). It is not assumed that TLS compares that user with the one who was asked for; the driver does, and so does
the machine. A post asks its list, as its driver does, before there is a machine.

Eve is a user of the realm. On a channel of her own she says any frame that can be made of all values that there are in
the world, which is more than she can know. A switchboard that lies gives out any roles, matches and names.

S6  Nobody returns unless the user at the other end is whom it wants and wants it, and if it is honest has the other
    role in the same match under the same names. If the active side returned, the passive side had accepted. If only
    one side returned, the other has a reason and the one reads EOF. If both did, each reads the other's bytes, and no
    others.
"""

import copy
import itertools
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Final

from trunkline.authority.messages import SignedHead
from trunkline.errors import LocalError, TrunklineError, TrustError
from trunkline.meeting.confirmation import Confirm, Confirmation, Meeting, State, frame, refusal
from trunkline.meeting.handshake import Role
from trunkline.sim.invariants import MACHINE_FAULT, Violation
from trunkline.sim.securespec import SecureSpec, Wish
from trunkline.users import user_matches
from trunkline.wire.limits import MATCH_SIZE

EVE: Final = "eve"
ENDS: Final = (0, 1)
MATCHES: Final = (b"1" * MATCH_SIZE, b"2" * MATCH_SIZE)
TIMEOUT: Final = 10.0

_HEAD: Final = SignedHead(b"head", b"signature")  # the machine leaves it to its owner, who takes it or refuses
_SAID: Final = (b"from the left", b"from the right")
"""What the users say once they have the connection."""

Action = tuple[Any, ...]


class SecureWorld:
    """One state of a world: a channel, and what is at its ends."""

    def __init__(self, spec: SecureSpec, machine: type[Confirmation] = Confirmation) -> None:
        self.spec = spec
        self.machine = machine
        self.beginnings = tuple(_begin_all(spec))
        self.frames = () if spec.right else tuple(_say_all(spec))
        self.wishes: list[Wish | None] = [None, None]
        """Who is at each end; None: eve."""
        self.meetings: list[Meeting | None] = [None, None]
        self.machines: list[Confirmation | None] = [None, None]
        self.pipes = [b"", b""]
        """What is on its way to each end."""
        self.closed = [False, False]
        """Whether EOF follows on that."""
        self.returned = [False, False]
        self.over = ["", ""]
        """Why each end gave up."""
        self.broken = False
        """Whether nothing that is said from now on arrives."""
        self.disturbed = spec.lies or spec.misled
        """Whether something went wrong, or somebody refused: then it may come to nothing."""
        self.left = int(spec.losses)
        self.begun = False

    def copy(self) -> "SecureWorld":
        other = object.__new__(SecureWorld)
        other.__dict__.update(self.__dict__)
        for name in ("wishes", "meetings", "machines", "pipes", "closed", "returned", "over"):
            setattr(other, name, list(getattr(self, name)))
        return other

    def key(self) -> Hashable:
        """Return what tells this state from others."""
        states = tuple(each and tuple(getattr(each, name) for name in Confirmation.__slots__) for each in self.machines)
        return (
            self.begun,
            states,
            (*self.wishes, *self.meetings, *self.pipes, *self.closed, *self.returned, *self.over),
            (self.broken, self.disturbed, self.left),
        )

    # ---- what can happen ---------------------------------------------------------------------------------------

    def steps(self) -> list[Action]:
        """Return what can happen without a fault."""
        if not self.begun:
            return [("begin", place) for place in range(len(self.beginnings))]
        found: list[Action] = []
        for end in ENDS:
            machine = self.machines[end]
            if machine is None:
                continue
            if machine.state is State.JUDGING:
                found += [("accept", end), ("refuse", end)]
            elif machine.state is State.EXPECTING:
                if self.pipes[end] or self.closed[end]:
                    found.append(("read", end))
                elif self.wishes[1 - end] is None:
                    found += [("timeout", end), *(("say", place) for place in range(len(self.frames)))]
        waiting = [end for end in ENDS if _deadline(self.machines[end]) is not None]
        return found or [("timeout", end) for end in waiting]

    def faults(self) -> list[Action]:
        """Return what can go wrong."""
        if not self.left or not self.begun:
            return []
        found: list[Action] = [("early", end) for end in ENDS if _deadline(self.machines[end]) is not None]
        found += [("hang-up", end) for end in ENDS if not self.over[end]]
        sizes = [len(pipe) for pipe in self.pipes]
        kept = {(left, right) for left in range(sizes[0] + 1) for right in (0, sizes[1])}
        kept |= {(left, right) for left in (0, sizes[0]) for right in range(sizes[1] + 1)}
        return found + [("break", left, right) for left, right in sorted(kept)]

    def apply(self, action: Action) -> None:
        """Do it.

        Raises:
            Violation: S6 is broken.
        """
        kind, *about = action
        if kind in ("early", "hang-up", "break"):
            self.left -= 1
            self.disturbed = True
        getattr(self, "_" + kind.replace("-", "_"))(*about)

    def _begin(self, place: int) -> None:
        self.begun = True
        wishes, meetings = self.beginnings[place]
        self.wishes, self.meetings = list(wishes), list(meetings)
        for end in ENDS:
            wish, meeting = wishes[end], meetings[end]
            if wish is None or meeting is None:
                continue
            proved = _user(wishes[1 - end]) if not (self.spec.misled and end == 0) else EVE
            if wish.allow and not _wants(wish, proved):
                self._give_up(end, f"{proved} is not on the list")
                continue
            self.machines[end] = self.machine(meeting, proved, _HEAD, now=0.0, timeout=TIMEOUT)
            self._flush(end)

    def _say(self, place: int) -> None:
        self.pipes[0] += self.frames[place]

    def _read(self, end: int) -> None:
        machine = self._take(end)
        data = self.pipes[end][: machine.bytes_wanted]
        self.pipes[end] = self.pipes[end][len(data) :]
        if data:
            self._try(end, machine.receive_data, data, 0.0)
        else:
            self._try(end, machine.receive_eof, 0.0)

    def _accept(self, end: int) -> None:
        self._try(end, self._take(end).accept)

    def _refuse(self, end: int) -> None:
        self.disturbed = True
        self._try(end, self._take(end).refuse, TrustError("two histories"))

    def _timeout(self, end: int) -> None:
        self._try(end, self._take(end).handle_timer, TIMEOUT)

    # ---- faults ------------------------------------------------------------------------------------------------

    def _early(self, end: int) -> None:
        """Time runs out, whatever is on its way."""
        self._timeout(end)

    def _hang_up(self, end: int) -> None:
        """The process dies, or its user closes what it has."""
        self.machines[end] = None
        self._give_up(end, "gone")

    def _break(self, left: int, right: int) -> None:
        """The channel breaks, and so many of the bytes in it arrive."""
        self.broken = True
        self.pipes = [self.pipes[0][:left], self.pipes[1][:right]]
        self.closed = [True, True]

    # ---- inside ------------------------------------------------------------------------------------------------

    def _take(self, end: int) -> Confirmation:
        machine = self.machines[end]
        assert machine is not None, "only a machine does something"
        self.machines[end] = machine = copy.copy(machine)
        return machine

    def _try(self, end: int, what: Any, *about: Any) -> None:
        machine = self.machines[end]
        assert machine is not None, "only a machine does something"
        why = ""
        try:
            what(*about)
            machine.next_event()
        except LocalError as error:
            raise Violation(MACHINE_FAULT, f"what may be done is refused: {error}") from error
        except TrunklineError as error:
            why = str(error)
        except Exception as error:
            raise Violation(MACHINE_FAULT, f"the confirmation failed: {error!r}") from error
        self._flush(end)
        if machine.state is State.CONFIRMED:
            self.returned[end] = True
            self._check_return(end)
            self._send(end, _SAID[end])
        elif machine.state is State.BROKEN:
            self._give_up(end, why or "it refused")

    def _flush(self, end: int) -> None:
        machine = self.machines[end]
        assert machine is not None, "only a machine does something"
        self._send(end, machine.data_to_send())

    def _send(self, end: int, data: bytes) -> None:
        if not self.broken and not self.over[1 - end] and self.wishes[1 - end] is not None:
            self.pipes[1 - end] += data

    def _give_up(self, end: int, why: str) -> None:
        self.over[end] = why
        self.pipes[end] = b""
        self.closed[1 - end] = True

    def describe(self) -> str:
        """Return this state in one line, for people."""
        parts: list[str] = []
        for end, where in enumerate(("left", "right")):
            machine = self.machines[end]
            state = self.over[end] or (machine.state.name.lower() if machine else "eve")
            parts.append(f"{where}: {state}, {len(self.pipes[end])} bytes to it{', EOF' if self.closed[end] else ''}")
        return "; ".join(parts)

    # ---- S6 ----------------------------------------------------------------------------------------------------

    def _check_return(self, end: int) -> None:
        ours, theirs = self.meetings[end], self.meetings[1 - end]
        wish, other = self.wishes[end], self.wishes[1 - end]
        assert wish is not None, "eve returns nothing"
        assert ours is not None, "who is honest has a meeting"
        if not _wants(wish, _user(other)):
            raise Violation("S6", f"{wish} returned, and {_user(other)!r} is at the other end")
        if other is None or theirs is None:
            return
        if not _wants(other, wish.user):
            raise Violation("S6", f"{wish} returned, and the other end means to talk to another: {other}")
        if ours.match != theirs.match or ours.role is theirs.role:
            raise Violation("S6", f"{ours} returned, and the other end is in another meeting: {theirs}")
        if (ours.me, ours.you) != (theirs.you, theirs.me):
            raise Violation("S6", f"{ours} returned, and the other end has other names: {theirs}")
        peer = self.machines[1 - end]
        if ours.role is Role.ACTIVE and not self.returned[1 - end]:
            state = "gone" if peer is None else peer.state.name
            raise Violation("S6", f"the active side returned, and the passive side is {state}")

    def finish(self) -> None:
        """Check a world in which nothing is left to happen.

        Raises:
            Violation: S6.
        """
        honest = [end for end in ENDS if self.wishes[end] is not None]
        for end in honest:
            if not self.returned[end] and not self.over[end]:
                raise Violation("S6", f"{self.wishes[end]} waits for ever")
            if not self.returned[end] and not self.disturbed:
                raise Violation("S6", f"nothing went wrong, and {self.wishes[end]} failed: {self.over[end]}")
        if len(honest) < 2 or all(self.over):
            return
        for end in ENDS:
            if not self.returned[end] or self.over[end]:
                continue
            if self.over[1 - end] or self.broken:
                if not self.closed[end] or not _SAID[1 - end].startswith(self.pipes[end]):
                    raise Violation("S6", f"{self.wishes[end]} has {self.pipes[end]!r} to read, and no EOF")
            elif self.pipes[end] != _SAID[1 - end]:
                raise Violation("S6", f"{self.wishes[end]} has {self.pipes[end]!r} to read, and not what was said")


# ---- what a world begins with ------------------------------------------------------------------------------------

_Beginning = tuple[tuple[Wish | None, Wish | None], tuple[Meeting | None, Meeting | None]]


def _begin_all(spec: SecureSpec) -> Iterator[_Beginning]:
    """Return all that the switchboard can have told the two ends."""
    rights: tuple[Wish | None, ...] = spec.right or (None,)
    for left, right in itertools.product(spec.left, rights):
        wishes = (left, right)
        told: Iterable[tuple[Meeting | None, Meeting | None]]
        if spec.lies:
            told = itertools.product(_tell_all(spec, left), _tell_all(spec, right))
        else:
            assert right is not None, "eve has no meeting"
            one = Meeting(Role.ACTIVE, MATCHES[0], left.me, left.you, left.user, left.peer_user)
            other = Meeting(Role.PASSIVE, MATCHES[0], right.me, right.you or left.me, right.user, right.peer_user)
            told = ((one, other),)
        for meetings in told:
            yield wishes, meetings


def _tell_all(spec: SecureSpec, wish: Wish | None) -> list[Meeting | None]:
    if wish is None:
        return [None]
    roles = (Role.PASSIVE,) if wish.allow else (Role.ACTIVE, Role.PASSIVE)  # a post is never dialled out of
    names = (wish.you,) if wish.you else _names(spec)
    return [
        Meeting(role, match, wish.me, you, wish.user, wish.peer_user)
        for role, match, you in itertools.product(roles, MATCHES, names)
    ]


def _say_all(spec: SecureSpec) -> Iterator[bytes]:
    """Return every frame that eve can say: confirmations of all values that there are, a refusal, and rubbish."""
    users = (*sorted({wish.user for wish in spec.left} | {wish.peer_user for wish in spec.left if wish.peer_user}), EVE)
    names = _names(spec)
    for role, match, me, you, user, peer in itertools.product(
        Role, MATCHES, names, names, dict.fromkeys(users), dict.fromkeys(users)
    ):
        yield frame(Confirm(int(role), match, me, you, user, peer, _HEAD))
    yield refusal(TrustError("no"))
    yield b"\0\0"
    yield b"\0\1\xc1"
    yield b"\xff\xff"


def _names(spec: SecureSpec) -> tuple[str, ...]:
    wishes = (*spec.left, *spec.right)
    return tuple(sorted({wish.me for wish in wishes} | {wish.you for wish in wishes if wish.you}))


def _user(wish: Wish | None) -> str:
    return EVE if wish is None else wish.user


def _wants(wish: Wish, user: str) -> bool:
    return any(user_matches(user, each) for each in wish.allow) if wish.allow else user == wish.peer_user


def _deadline(machine: Confirmation | None) -> float | None:
    return None if machine is None else machine.next_deadline()
