"""The life of a client's requests, as tables: state x input -> state (docs/spec/switchboard.md section 5).

A meeting and a post have a table each. What is not in a table is in its list of the illegal, with the reason, so every
state and input is accounted for; the tests enumerate them and the diagram is drawn from them.

A match of a post has no state here: a post can have many at once, and they don't move it (each is a
`trunkline.switchboard.rendezvous.Rendezvous`).
"""

from enum import IntEnum
from typing import Final


class State(IntEnum):
    """Where a request stands."""

    SEEKING = 1
    """No server has it, and it is to be lodged with the first that can be had."""
    WAITING = 2
    """At least one server was sent it."""
    MATCHED = 3
    """A meeting: a server named the partner, and the two try to connect."""
    PAUSING = 4
    """A meeting: the last match lapsed, and the next attempt is lodged after a pause."""
    STANDING = 5
    """A post: at least one server has said that it stands."""
    DONE = 6


class Input(IntEnum):
    """What happens to a request."""

    LODGED = 1
    """It was sent to a server: the first, or one more."""
    POSTED = 2
    """A server said that the post stands."""
    MATCHED = 3
    """A server matched it."""
    LAPSED = 4
    """The match came to nothing."""
    RESUMED = 5
    """The pause is over."""
    UNLODGED = 6
    """The last server that had it is lost."""
    MET = 7
    """The connection is made."""
    REFUSED = 8
    """The server that had it doesn't want it, and no other has it."""
    UNREACHABLE = 9
    """No server can be had."""
    EXPIRED = 10
    """The caller's deadline has passed."""
    CANCELLED = 11
    """The caller waits no longer."""


Table = dict[State, dict[Input, State]]

_GIVEN_UP: Final = {Input.EXPIRED: State.DONE, Input.CANCELLED: State.DONE}

MEET: Final[Table] = {
    State.SEEKING: {Input.LODGED: State.WAITING, Input.UNREACHABLE: State.DONE, **_GIVEN_UP},
    State.WAITING: {
        Input.LODGED: State.WAITING,
        Input.MATCHED: State.MATCHED,
        Input.UNLODGED: State.SEEKING,
        Input.REFUSED: State.DONE,
        **_GIVEN_UP,
    },
    State.MATCHED: {Input.MET: State.DONE, Input.LAPSED: State.PAUSING, **_GIVEN_UP},
    State.PAUSING: {Input.RESUMED: State.SEEKING, **_GIVEN_UP},
    State.DONE: {},
}

POST: Final[Table] = {
    State.SEEKING: {Input.LODGED: State.WAITING, Input.UNREACHABLE: State.DONE, **_GIVEN_UP},
    State.WAITING: {
        Input.LODGED: State.WAITING,
        Input.POSTED: State.STANDING,
        Input.UNLODGED: State.SEEKING,
        Input.REFUSED: State.DONE,
        **_GIVEN_UP,
    },
    State.STANDING: {
        Input.LODGED: State.STANDING,
        Input.POSTED: State.STANDING,
        Input.UNLODGED: State.SEEKING,
        Input.REFUSED: State.DONE,
        Input.CANCELLED: State.DONE,
    },
    State.DONE: {},
}

_NOT_WITH_A_SERVER: Final = "no server has it, so none can say this"
_OUT_OF_THE_QUEUE: Final = "a matched attempt is no longer lodged anywhere"
_MEETINGS_ONLY: Final = "the matches of a post have lives of their own"
_OVER: Final = "the request is over and forgotten"


def _illegal(reasons: dict[State, dict[Input, str]], always: dict[Input, str]) -> dict[tuple[State, Input], str]:
    named = {(state, given): why for state in reasons for given, why in always.items()}
    named.update({(state, given): why for state, inputs in reasons.items() for given, why in inputs.items()})
    named.update({(State.DONE, given): _OVER for given in Input})
    return named


ILLEGAL_MEET: Final = _illegal(
    {
        State.SEEKING: {
            Input.MATCHED: _NOT_WITH_A_SERVER,
            Input.UNLODGED: _NOT_WITH_A_SERVER,
            Input.REFUSED: _NOT_WITH_A_SERVER,
            Input.LAPSED: "there is no match",
            Input.MET: "there is no match",
            Input.RESUMED: "there is no pause",
        },
        State.WAITING: {
            Input.LAPSED: "there is no match",
            Input.MET: "there is no match",
            Input.RESUMED: "there is no pause",
            Input.UNREACHABLE: "a server was reached",
        },
        State.MATCHED: {
            Input.LODGED: _OUT_OF_THE_QUEUE,
            Input.MATCHED: _OUT_OF_THE_QUEUE,
            Input.UNLODGED: _OUT_OF_THE_QUEUE,
            Input.REFUSED: _OUT_OF_THE_QUEUE,
            Input.RESUMED: "there is no pause",
            Input.UNREACHABLE: "it needs no server now",
        },
        State.PAUSING: {
            Input.LODGED: "it waits for its pause",
            Input.MATCHED: _NOT_WITH_A_SERVER,
            Input.UNLODGED: _NOT_WITH_A_SERVER,
            Input.REFUSED: _NOT_WITH_A_SERVER,
            Input.LAPSED: "there is no match",
            Input.MET: "there is no match",
            Input.UNREACHABLE: "it needs no server now",
        },
    },
    {Input.POSTED: "it is no post"},
)
"""What can't happen to a meeting, and why."""

ILLEGAL_POST: Final = _illegal(
    {
        State.SEEKING: {
            Input.POSTED: _NOT_WITH_A_SERVER,
            Input.UNLODGED: _NOT_WITH_A_SERVER,
            Input.REFUSED: _NOT_WITH_A_SERVER,
        },
        State.WAITING: {Input.UNREACHABLE: "a server was reached"},
        State.STANDING: {
            Input.UNREACHABLE: "a server was reached",
            Input.EXPIRED: "the deadline of a post ends when it stands",
        },
    },
    {
        Input.MATCHED: _MEETINGS_ONLY,
        Input.LAPSED: _MEETINGS_ONLY,
        Input.MET: _MEETINGS_ONLY,
        Input.RESUMED: _MEETINGS_ONLY,
    },
)
"""What can't happen to a post, and why. MATCHED and PAUSING are no states of a post."""
