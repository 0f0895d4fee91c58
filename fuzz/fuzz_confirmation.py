"""The round trip after TLS: no byte of the user's is read, and nobody is sure of a meeting that the other is not in.

First two honest sides, whose views of the meeting may differ, over a connection that is cut up and cut off; then one
side and a liar.
"""

from msgspec import structs

from fuzz.grammar import Draws, stated
from trunkline.authority.messages import SignedHead
from trunkline.errors import ForkedHistory, RemoteError, SilentPeer, TrunklineError, TrustError
from trunkline.meeting.confirmation import MAX_CONFIRM, TABLE, Confirmation, Meeting, State, refusal
from trunkline.meeting.handshake import Role

MAX_LEN = 512
_USERS = b"said by the user"
_ANN = Meeting(Role.ACTIVE, b"8 bytes.", "alice", "bob", "ann", "ben")
_BEN = Meeting(Role.PASSIVE, b"8 bytes.", "bob", "alice", "ben", "ann")
_OTHER: dict[str, tuple[object, ...]] = {
    "match": (b"another.",),
    "me": ("carol",),
    "you": ("carol",),
    "user": ("eve",),
    "peer_user": ("eve",),
    "role": (Role.ACTIVE, Role.PASSIVE),
}
_HEAD = SignedHead(b"a head", b"signed")


def fuzz_one(data: bytes) -> None:
    """Run one input."""
    draws = Draws(data)
    if draws.below(2):
        _honest(draws)
    else:
        _liar(draws)


def _side(meeting: Meeting, proved: str) -> Confirmation:
    return Confirmation(meeting, proved, _HEAD, now=0.0, timeout=10.0)


def _honest(draws: Draws) -> None:
    views = [_ANN, structs.replace(_BEN, peer_user="") if draws.below(4) == 3 else _BEN]
    for at in range(2):
        if not draws.below(4):
            name = draws.choice(sorted(_OTHER))
            views[at] = structs.replace(views[at], **{name: draws.choice(_OTHER[name])})
    proved = [draws.choice(("ben", "ben", "ben", "eve")), draws.choice(("ann", "ann", "ann", "eve"))]
    sides = [_side(view, who) for view, who in zip(views, proved, strict=True)]
    on_the_way = [sides[1].data_to_send(), sides[0].data_to_send()]  # to each of them
    for _ in range(64):
        to = draws.below(2)
        side = sides[to]
        size = min(side.bytes_wanted, draws.byte())
        try:
            match draws.below(16):
                case 15:
                    if TABLE[side.state]:
                        side.receive_eof(0.0)
                case 14:
                    side.handle_timer(draws.choice((1.0, 9.9, 10.0)))
                case _ if size and on_the_way[to]:
                    data, on_the_way[to] = on_the_way[to][:size], on_the_way[to][size:]
                    side.receive_data(data, 1.0)
            if side.next_event() is not None:
                if draws.below(8) == 7:
                    side.refuse(ForkedHistory("heads: they don't fit"))
                else:
                    side.accept()
        except TrunklineError as error:
            stated(error)
            assert side.state is State.BROKEN
        if side.state is not State.BROKEN or views[to].role is Role.PASSIVE:
            on_the_way[1 - to] += side.data_to_send()
        if side.state is State.CONFIRMED and views[to].role is Role.ACTIVE and not on_the_way[1 - to]:
            on_the_way[1 - to] += _USERS
    for each, state in zip(views, (side.state for side in sides), strict=True):
        if state is State.CONFIRMED and each.role is Role.ACTIVE:
            other = sides[1 - views.index(each)]
            assert other.state is State.CONFIRMED, "the active side was sure, and the other had not confirmed"
            _check_agree(views, proved)
    assert all(not side.bytes_wanted for side in sides if side.state is not State.EXPECTING)


def _check_agree(views: list[Meeting], proved: list[str]) -> None:
    one, other = views
    assert one.role is not other.role
    assert one.match == other.match
    assert (one.me, one.you) == (other.you, other.me)
    assert (one.user, one.peer_user or proved[0]) == (proved[1], proved[0])
    assert (other.user, other.peer_user or proved[1]) == (proved[0], proved[1])


def _liar(draws: Draws) -> None:
    view, proved = draws.choice(((_ANN, "ben"), (_BEN, "ann"), (structs.replace(_BEN, peer_user=""), "ann")))
    side = _side(view, proved)
    good = _side(structs.replace(_BEN if view is _ANN else _ANN, role=Role.ACTIVE), view.user).data_to_send()
    lie = bytearray()
    while draws.left and len(lie) < 2 * MAX_CONFIRM:
        match draws.below(6):
            case 0:
                lie += good
            case 1:
                lie += refusal(draws.choice((TrustError("no"), ForkedHistory("\x1b[2J no"))))
            case 2:
                lie += draws.bytes(8)
            case 3:
                body = draws.bytes(40)
                lie += len(body).to_bytes(2, "big") + body
            case 4 if lie:
                lie[draws.byte() % len(lie)] ^= 1 << draws.below(8)
            case _:
                lie += (MAX_CONFIRM + draws.below(2)).to_bytes(2, "big") + b"\x97" * draws.byte()
    while lie and side.bytes_wanted:
        size = min(side.bytes_wanted, 1 + draws.byte())
        data, lie = bytes(lie[:size]), lie[size:]
        try:
            side.receive_data(data, 0.0)
        except (RemoteError, TrustError) as error:
            stated(error)
            assert side.state is State.BROKEN
        assert len(side._buffer) <= MAX_CONFIRM + 2
    if side.state is State.EXPECTING:
        try:
            side.handle_timer(10.0)
        except SilentPeer:
            pass
        else:
            raise AssertionError("it would wait for ever")
    if side.state is State.BROKEN:
        assert view.role is Role.PASSIVE or not side.data_to_send(), "the active side only closes"
        assert len(side.data_to_send()) <= MAX_CONFIRM + 2
        assert side.next_event() is None
