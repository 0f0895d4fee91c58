"""What two matched peers say: no byte of the user's is read, and nobody returns alone.

First two honest sides over connections that are cut up and cut off; then one side and a liar.
"""

from fuzz.grammar import Draws
from trunkline.errors import LocalError
from trunkline.meeting.handshake import (
    COMMIT,
    DIAL,
    READY,
    ActiveHandshake,
    Broken,
    Committed,
    DialShown,
    PassiveHandshake,
    PeerReady,
    State,
)

MAX_LEN = 256
_TOKEN = b"t" * 16
_USERS = b"TRUNKC/1 said by the user"


def fuzz_one(data: bytes) -> None:
    """Run one input."""
    draws = Draws(data)
    if draws.below(2):
        _honest(draws)
    else:
        _liar(draws)


def _honest(draws: Draws) -> None:
    sides = (ActiveHandshake(_TOKEN, 7), PassiveHandshake(deadline=5.0))
    active, passive = sides
    on_the_way = [active.data_to_send(), b""]  # to the passive side, to the active side
    user_bytes = b""
    for _ in range(64):
        what = draws.below(16)
        to = what % 2
        side = sides[1 - to]
        if what == 15:
            for each in sides:
                if each.bytes_wanted:
                    each.receive_eof(0.0)
            break
        if what == 14 and passive.next_deadline() is not None:
            passive.handle_timer(draws.choice((1.0, 6.0)))
        size = min(side.bytes_wanted, draws.below(32))
        if side.bytes_wanted and size and on_the_way[to]:
            side.receive_data(on_the_way[to][:size], 0.0)
            on_the_way[to] = on_the_way[to][size:]
        match side.next_event():
            case DialShown(token=token, udp_port=port):
                assert (token, port) == (_TOKEN, 7)
                passive.send_ready(9)
                on_the_way[1] += passive.data_to_send()
            case PeerReady(udp_port=port):
                assert port == 9
                active.send_commit()
                user_bytes = _USERS
                on_the_way[0] += active.data_to_send() + user_bytes
            case Committed() | Broken() | None:
                pass
    if passive.state is State.COMMITTED:
        assert active.state is State.COMMITTED, "the passive side returned alone"
        assert on_the_way[0] == user_bytes, "the user's bytes were read"


def _liar(draws: Draws) -> None:
    side: ActiveHandshake | PassiveHandshake
    side = ActiveHandshake(_TOKEN) if draws.below(2) else PassiveHandshake()
    said = side.data_to_send()
    lie = b""
    while draws.left:
        lie += draws.choice((DIAL, READY, COMMIT, _TOKEN, b"\0\0", draws.bytes(4)))
    over = False
    while lie or not over:
        wanted = side.bytes_wanted
        size = min(max(wanted, 1), 1 + draws.below(8)) if wanted else 3
        data, lie = lie[:size], lie[size:]
        if not data:
            break
        try:
            side.receive_data(data, 0.0)
        except LocalError:
            assert side.state in (State.COMMITTED, State.BROKEN)
            break
        event = side.next_event()
        if isinstance(event, DialShown):
            side.send_ready()  # type: ignore[union-attr]
        elif isinstance(event, PeerReady):
            assert said.startswith(DIAL)
            side.send_commit()  # type: ignore[union-attr]
        elif isinstance(event, Broken):
            str(event.error)
            assert not side.bytes_wanted
            over = True
        assert len(side._buffer) < 26
        assert side.snapshot() == _copied(side).snapshot() if not side._out else side.data_to_send()


def _copied(side: ActiveHandshake | PassiveHandshake) -> ActiveHandshake | PassiveHandshake:
    copy = ActiveHandshake(_TOKEN) if isinstance(side, ActiveHandshake) else PassiveHandshake()
    copy.restore(side.snapshot())
    return copy
