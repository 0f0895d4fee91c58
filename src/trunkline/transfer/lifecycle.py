"""Who may say what, when (docs/spec/transfer.md section 5).

Rules of this file:

1. The lifecycle is data. A cell `(state, message)` that is not in a table is illegal: from the peer it is
   `MessageNotAllowed`, from the caller a `LocalError` that changes nothing.
2. Both sides run the same tables over the same conversation: whatever one side may say now, the other
   expects now. So there is one `Course`, and each machine applies to it what it says and what it hears.
3. A transfer has one state for the conversation and one for each entry. An entry's turn passes to and
   fro: the two sides never speak of the same entry at once, and so never cross. Only `Stop` may cross
   anything.
4. What a table can't express (an offset within the file, one file at a time) is checked in `Course`,
   before any state changes.
"""

import enum
from typing import assert_never

from trunkline import errors

from . import messages
from .manifest import Manifest
from .messages import Entry, Kind, Verdict


class Role(enum.Enum):
    """The two sides."""

    SENDER = "sender"
    RECEIVER = "receiver"

    @property
    def other(self) -> "Role":
        """The side that this one talks to."""
        return Role.RECEIVER if self is Role.SENDER else Role.SENDER


class LinkState(enum.Enum):
    """Where the conversation stands."""

    OFFERING = enum.auto()
    OFFERED = enum.auto()
    SERVING = enum.auto()
    COMPLETE = enum.auto()
    ENDED = enum.auto()
    STOPPED = enum.auto()


class EntryState(enum.Enum):
    """Where one entry stands."""

    OFFERED = enum.auto()
    COMPARING = enum.auto()
    DIFFERENT = enum.auto()
    WANTED = enum.auto()
    MOVING = enum.auto()
    SAID_SAME = enum.auto()
    SUMMED = enum.auto()
    SPOILED = enum.auto()
    SETTLED = enum.auto()


Said = type[messages.Message]

SAID_BY: dict[Said, frozenset[Role]] = {
    messages.Offer: frozenset({Role.SENDER}),
    messages.OfferEnd: frozenset({Role.SENDER}),
    messages.Ready: frozenset({Role.RECEIVER}),
    messages.Want: frozenset({Role.RECEIVER}),
    messages.Whole: frozenset({Role.RECEIVER}),
    messages.Same: frozenset({Role.SENDER}),
    messages.Differs: frozenset({Role.SENDER}),
    messages.Start: frozenset({Role.SENDER}),
    messages.Run: frozenset({Role.SENDER}),
    messages.Sum: frozenset({Role.SENDER}),
    messages.Spoiled: frozenset({Role.SENDER}),
    messages.Settled: frozenset({Role.RECEIVER}),
    messages.Complete: frozenset({Role.RECEIVER}),
    messages.Done: frozenset({Role.SENDER}),
    messages.Alive: frozenset({Role.SENDER, Role.RECEIVER}),
    messages.Stop: frozenset({Role.SENDER, Role.RECEIVER}),
}

EntryMessage = (
    messages.Want
    | messages.Whole
    | messages.Same
    | messages.Differs
    | messages.Start
    | messages.Run
    | messages.Sum
    | messages.Spoiled
    | messages.Settled
)

ENTRY_TABLE: dict[tuple[EntryState, Said], EntryState] = {
    (EntryState.OFFERED, messages.Want): EntryState.WANTED,
    (EntryState.OFFERED, messages.Whole): EntryState.COMPARING,
    (EntryState.OFFERED, messages.Settled): EntryState.SETTLED,
    (EntryState.COMPARING, messages.Same): EntryState.SAID_SAME,
    (EntryState.COMPARING, messages.Differs): EntryState.DIFFERENT,
    (EntryState.COMPARING, messages.Spoiled): EntryState.SPOILED,
    (EntryState.DIFFERENT, messages.Want): EntryState.WANTED,
    (EntryState.DIFFERENT, messages.Settled): EntryState.SETTLED,
    (EntryState.WANTED, messages.Start): EntryState.MOVING,
    (EntryState.WANTED, messages.Spoiled): EntryState.SPOILED,
    (EntryState.MOVING, messages.Run): EntryState.MOVING,
    (EntryState.MOVING, messages.Sum): EntryState.SUMMED,
    (EntryState.MOVING, messages.Spoiled): EntryState.SPOILED,
    (EntryState.SAID_SAME, messages.Settled): EntryState.SETTLED,
    (EntryState.SUMMED, messages.Settled): EntryState.SETTLED,
    (EntryState.SPOILED, messages.Settled): EntryState.SETTLED,
}

VERDICTS: dict[EntryState, frozenset[Verdict]] = {
    # A receiver can't claim to have what was not sent to it; a directory is made without being sent.
    EntryState.OFFERED: frozenset({Verdict.REFUSED, Verdict.FAILED}),
    EntryState.DIFFERENT: frozenset({Verdict.REFUSED, Verdict.FAILED}),
    EntryState.SAID_SAME: frozenset({Verdict.SAME, Verdict.FAILED}),
    EntryState.SUMMED: frozenset({Verdict.KEPT, Verdict.REFUSED, Verdict.FAILED}),
    EntryState.SPOILED: frozenset({Verdict.FAILED}),
}
DIRECTORY_VERDICTS = frozenset({Verdict.KEPT, Verdict.SAME, Verdict.REFUSED, Verdict.FAILED})

LINK_TABLE: dict[tuple[LinkState, Said], LinkState] = {
    (LinkState.OFFERING, messages.Offer): LinkState.OFFERING,
    (LinkState.OFFERING, messages.OfferEnd): LinkState.OFFERED,
    (LinkState.OFFERED, messages.Ready): LinkState.SERVING,
    **{
        (LinkState.SERVING, said): LinkState.SERVING
        for said in (
            messages.Want,
            messages.Whole,
            messages.Same,
            messages.Differs,
            messages.Start,
            messages.Run,
            messages.Sum,
            messages.Spoiled,
            messages.Settled,
        )
    },
    (LinkState.SERVING, messages.Complete): LinkState.COMPLETE,
    (LinkState.COMPLETE, messages.Done): LinkState.ENDED,
    **{
        (state, messages.Alive): state
        for state in (LinkState.OFFERING, LinkState.OFFERED, LinkState.SERVING, LinkState.COMPLETE)
    },
    **{
        (state, messages.Stop): LinkState.STOPPED
        for state in (LinkState.OFFERING, LinkState.OFFERED, LinkState.SERVING, LinkState.COMPLETE)
    },
}


class Course:
    """One conversation, seen from either side."""

    def __init__(self, manifest: Manifest) -> None:
        self.state = LinkState.OFFERING
        self.manifest = manifest
        """Empty at first; grows by `Offer`."""
        self.current: int | None = None
        """The entry whose bytes move now; one at a time."""
        self.position = 0
        """The offset in that file up to which bytes were announced."""
        self.unsettled = 0
        """Entries that are offered and not settled."""
        self.in_hand = 0
        """Entries that the receiver has answered and not settled: at most MAX_WINDOW."""
        self._states: list[EntryState] = []
        self._asked: dict[int, int] = {}

    def entry_state(self, index: int) -> EntryState:
        """Where an entry stands."""
        return self._states[index]

    def apply(self, message: messages.Message, by: Role) -> None:
        """Take account of what one side said; if it raises, nothing has changed.

        Raises:
            MessageNotAllowed: not from that side, or not now.
            MalformedMessage: a number that doesn't fit what was said before.
        """
        said = type(message)
        state = LINK_TABLE.get((self.state, said))
        if by not in SAID_BY[said] or state is None:
            raise errors.MessageNotAllowed(said.__name__, by.value)
        match message:
            case messages.Offer():
                self._offer(message.entries)
            case messages.OfferEnd():
                self._offer_end(message)
            case messages.Complete():
                if self.unsettled:
                    raise errors.MalformedMessage(f"Complete while {self.unsettled} entries are not settled")
            case messages.Ready() | messages.Done() | messages.Alive() | messages.Stop():
                pass
            case (
                messages.Want()
                | messages.Whole()
                | messages.Same()
                | messages.Differs()
                | messages.Start()
                | messages.Run()
                | messages.Sum()
                | messages.Spoiled()
                | messages.Settled()
            ):
                self._apply_to_entry(message, by)
            case _:
                assert_never(message)
        self.state = state

    def _offer(self, entries: list[Entry]) -> None:
        for entry in entries:
            if entry.kind is Kind.DIRECTORY and entry.size:
                raise errors.MalformedMessage(f"the directory {entry.name!r} has a size")
            try:
                self.manifest.add(entry)
            except (errors.InvalidName, errors.TooMany) as error:
                raise errors.MalformedMessage(str(error)) from error
            self._states.append(EntryState.OFFERED)
            self.unsettled += 1

    def _offer_end(self, message: messages.OfferEnd) -> None:
        if (message.entries, message.size) != (len(self.manifest.entries), self.manifest.size):
            raise errors.MalformedMessage(
                f"the manifest has {len(self.manifest.entries)} entries of {self.manifest.size} bytes, "
                f"and was closed as {message.entries} of {message.size}"
            )

    def _apply_to_entry(self, message: EntryMessage, by: Role) -> None:
        index = message.index
        if index >= len(self._states):
            raise errors.MalformedMessage(f"entry {index} of {len(self._states)}")
        before = self._states[index]
        after = ENTRY_TABLE.get((before, type(message)))
        if after is None:
            raise errors.MessageNotAllowed(f"{type(message).__name__} of an entry that is {before.name}", by.value)
        entry = self.manifest.entries[index]
        self._check(message, before, entry)
        if before is EntryState.OFFERED and after is not EntryState.SETTLED:
            self.in_hand += 1
        match message:
            case messages.Want():
                self._asked[index] = message.offset
            case messages.Start():
                del self._asked[index]
                self.current, self.position = index, message.offset
            case messages.Run():
                self.position += message.length
            case messages.Sum() | messages.Spoiled():
                self._asked.pop(index, None)
                if self.current == index:
                    self.current = None
            case messages.Settled():
                self.unsettled -= 1
                if before is not EntryState.OFFERED:
                    self.in_hand -= 1
            case messages.Whole() | messages.Same() | messages.Differs():
                pass
            case _:
                assert_never(message)
        self._states[index] = after

    def _check(self, message: EntryMessage, before: EntryState, entry: Entry) -> None:
        match message:
            case messages.Want() | messages.Whole() if entry.kind is Kind.DIRECTORY:
                raise errors.MalformedMessage(f"{entry.name!r} is a directory: it has no bytes to send")
            case messages.Want() | messages.Whole() if (
                before is EntryState.OFFERED and self.in_hand >= messages.MAX_WINDOW
            ):
                raise errors.MalformedMessage(f"more than {messages.MAX_WINDOW} files in hand")
            case messages.Want() if message.offset > entry.size:
                raise errors.MalformedMessage(f"{entry.name!r} wanted from {message.offset}, it has {entry.size} bytes")
            case messages.Want() if before is EntryState.DIFFERENT and message.offset:
                raise errors.MalformedMessage(f"{entry.name!r} differs, and can be wanted from 0 only")
            case messages.Start() if self.current is not None:
                raise errors.MalformedMessage(f"{entry.name!r} starts before the file ahead of it has ended")
            case messages.Start() if message.offset not in (0, self._asked[message.index]):
                raise errors.MalformedMessage(
                    f"{entry.name!r} starts at {message.offset}, {self._asked[message.index]} was asked for"
                )
            case messages.Run() if message.offset != self.position:
                raise errors.MalformedMessage(f"{entry.name!r}: bytes from {message.offset}, {self.position} is next")
            case messages.Run() if self.position + message.length > entry.size:
                raise errors.MalformedMessage(
                    f"{entry.name!r}: {self.position + message.length} bytes, and {entry.size} were offered"
                )
            case messages.Sum() if self.position != entry.size:
                raise errors.MalformedMessage(f"{entry.name!r}: {self.position} bytes, and {entry.size} were offered")
            case messages.Settled():
                directory = entry.kind is Kind.DIRECTORY
                if message.verdict not in (DIRECTORY_VERDICTS if directory else VERDICTS[before]):
                    raise errors.MalformedMessage(
                        f"{entry.name!r} settled as {message.verdict.name} while {before.name}"
                    )
            case _:
                pass
