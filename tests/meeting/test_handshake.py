"""The handshake of two peers: the table, every byte boundary, and the two roles against each other."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import LinkClosed, LocalError, MalformedMessage, NotTrunkline, VersionMismatch
from trunkline.meeting.handshake import (
    COMMIT,
    COMMIT_SIZE,
    DIAL,
    DIAL_SIZE,
    ILLEGAL,
    READY,
    READY_SIZE,
    SENDER,
    TABLE,
    ActiveHandshake,
    Broken,
    Committed,
    DialShown,
    Input,
    PassiveHandshake,
    PeerReady,
    Role,
    State,
)

TOKEN = bytes(range(16))
Either = ActiveHandshake | PassiveHandshake


def at(role: Role, state: State) -> Either:
    """Return a handshake of that role in that state, its events taken."""
    if role is Role.ACTIVE:
        assert state is not State.EXPECTING
        shake: Either = ActiveHandshake(TOKEN)
        if state in (State.READY, State.COMMITTED):
            shake.receive_data(READY + b"\0\0", 0.0)
        if state is State.COMMITTED:
            shake.send_commit()
    else:
        shake = PassiveHandshake()
        if state in (State.SHOWN, State.READY, State.COMMITTED):
            shake.receive_data(DIAL + TOKEN + b"\0\0", 0.0)
        if state in (State.READY, State.COMMITTED):
            shake.send_ready()
        if state is State.COMMITTED:
            shake.receive_data(COMMIT, 0.0)
    if state is State.BROKEN:
        shake.receive_eof(0.0)
    shake.next_event()
    shake.data_to_send()
    assert shake.state is state
    return shake


def apply(shake: Either, role: Role, given: Input) -> None:
    """Let the input happen to the handshake, by the means that its role has for it."""
    match role, given:
        case Role.ACTIVE, Input.READY:
            shake.receive_data(READY + b"\0\0", 0.0)
        case Role.PASSIVE, Input.DIAL:
            shake.receive_data(DIAL + TOKEN + b"\0\0", 0.0)
        case Role.PASSIVE, Input.COMMIT:
            shake.receive_data(COMMIT, 0.0)
        case Role.ACTIVE, Input.COMMIT:
            assert isinstance(shake, ActiveHandshake)
            shake.send_commit()
        case Role.PASSIVE, Input.READY:
            assert isinstance(shake, PassiveHandshake)
            shake.send_ready()
        case _, Input.GARBAGE:
            shake.receive_data(b"GET / HTTP/1.1\r\n\r\n" * 3, 0.0)
        case _, Input.EOF:
            shake.receive_eof(0.0)
        case _, Input.TIMEOUT:
            shake.deadline = 1.0
            shake.handle_timer(1.0)
        case _:
            raise AssertionError("the active side's Dial is sent by making it")


def test_every_state_and_input_is_legal_or_named_illegal() -> None:
    for state, what in itertools.product(State, Input):
        assert (what in TABLE[state]) != ((state, what) in ILLEGAL), (state, what)
        if (state, what) in ILLEGAL:
            assert ILLEGAL[state, what]


CELLS = [
    (role, state, what)
    for role, state, what in itertools.product(Role, State, Input)
    if (role, state) != (Role.ACTIVE, State.EXPECTING) and (role, what) != (Role.ACTIVE, Input.DIAL)
]


@pytest.mark.parametrize(("role", "state", "what"), CELLS)
def test_the_machine_follows_the_table(role: Role, state: State, what: Input) -> None:
    shake = at(role, state)
    received = what in SENDER and SENDER[what] is not role
    if what in TABLE[state]:
        apply(shake, role, what)
        assert shake.state is TABLE[state][what]
    elif received and not TABLE[state]:
        with pytest.raises(LocalError):
            apply(shake, role, what)
        assert shake.state is state
    elif received:
        # A peer that says the wrong thing is garbage to us.
        apply(shake, role, what)
        assert shake.state is State.BROKEN
    elif what is Input.TIMEOUT:
        apply(shake, role, what)  # no timer runs when it is over: nothing happens
        assert shake.state is state
        assert shake.next_deadline() is None
    else:
        with pytest.raises(LocalError, match=ILLEGAL[state, what]):
            apply(shake, role, what)
        assert shake.state is state
        assert shake.next_event() is None
        assert shake.data_to_send() == b""


def test_lengths() -> None:
    assert (DIAL_SIZE, READY_SIZE, COMMIT_SIZE) == (26, 10, 8)


@given(st.lists(st.integers(1, 26), min_size=26, max_size=26), st.integers(0, 65535), st.integers(0, 65535))
def test_both_roles_in_any_pieces(pieces: list[int], mine: int, theirs: int) -> None:
    """However the bytes are cut, the two meet, and never is one byte wanted beyond the message awaited."""
    cut = itertools.cycle(pieces)
    active, passive = ActiveHandshake(TOKEN, mine), PassiveHandshake()

    def carry(source: Either, target: Either) -> None:
        data = source.data_to_send()
        assert source.data_to_send() == b""
        while data:
            size = min(next(cut), target.bytes_wanted)
            assert size, "the target wants what the source sent"
            assert target.next_event() is None
            target.receive_data(data[:size], 0.0)
            data = data[size:]
        assert target.bytes_wanted == 0, "nothing beyond the message"

    carry(active, passive)
    assert passive.next_event() == DialShown(TOKEN, mine)
    passive.send_ready(theirs)
    assert passive.bytes_wanted == COMMIT_SIZE
    carry(passive, active)
    assert active.next_event() == PeerReady(theirs)
    active.send_commit()
    assert active.bytes_wanted == 0
    carry(active, passive)
    assert passive.next_event() == Committed()
    assert passive.next_event() is None
    assert active.state is passive.state is State.COMMITTED


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (b"GET / HT", NotTrunkline, "GET / HT"),
        (b"X", NotTrunkline, "X"),
        (b"TRUNKD/2", VersionMismatch, "TRUNKD/2"),
        (DIAL + TOKEN + b"\0\0!", MalformedMessage, "27 bytes where 26 are due"),
        (b"TRUNKD/2" + TOKEN + b"\0\0", VersionMismatch, "TRUNKD/1"),
        (COMMIT, NotTrunkline, "TRUNKC/1"),
    ],
)
def test_what_is_no_dial(data: bytes, error: type[Exception], text: str) -> None:
    shake = PassiveHandshake()
    shake.receive_data(data, 0.0)
    event = shake.next_event()
    assert isinstance(event, Broken)
    assert type(event.error) is error
    assert text in str(event.error)
    assert shake.bytes_wanted == 0


def test_bytes_out_of_turn_break_it_off() -> None:
    shake = at(Role.PASSIVE, State.SHOWN)
    assert shake.bytes_wanted == 0
    shake.receive_data(b"!", 0.0)
    event = shake.next_event()
    assert isinstance(event, Broken)
    assert "out of turn" in str(event.error)


def test_the_end_of_the_connection_is_told_with_its_reason() -> None:
    shake = ActiveHandshake(TOKEN)
    shake.receive_eof(0.0, "connection reset")
    event = shake.next_event()
    assert isinstance(event, Broken)
    assert isinstance(event.error, LinkClosed)
    assert "connection reset" in str(event.error)
    assert shake.data_to_send() == b""


def test_the_deadline_is_the_owners() -> None:
    shake = PassiveHandshake(deadline=5.0)
    assert shake.next_deadline() == 5.0
    shake.handle_timer(4.9)
    assert shake.state is State.EXPECTING
    shake.deadline = None
    shake.handle_timer(6.0)
    assert shake.state is State.EXPECTING
    shake.deadline = 7.0
    shake.handle_timer(7.0)
    assert isinstance(shake.next_event(), Broken)
    assert shake.next_deadline() is None


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", State)
def test_a_snapshot_is_the_whole_state(role: Role, state: State) -> None:
    if (role, state) == (Role.ACTIVE, State.EXPECTING):
        return
    shake = at(role, state)
    if shake.bytes_wanted:
        shake.receive_data(b"TRUNK", 0.0)
    snapshot = shake.snapshot()
    other: Either = ActiveHandshake(TOKEN) if role is Role.ACTIVE else PassiveHandshake()
    other.restore(snapshot)
    assert hash(other.snapshot()) == hash(snapshot)
    assert other.snapshot() == snapshot
    assert other.bytes_wanted == shake.bytes_wanted
    assert other.data_to_send() == b""
