"""Into a realm: an invitation's line, whatever was pasted; and a pairing by three words with somebody on the wire.

Who does not know the words learns nothing and enters no key; who changes a byte of what was sealed is found out; all
ends in one of our errors.
"""

from fuzz.grammar import Draws, stated
from trunkline.authority.invitation import Invitation, parse_invitation
from trunkline.authority.pairing import APPROVED, LIMITS, PREAMBLE, Ask, Inviter, Joiner, Offer, Outcome
from trunkline.authority.statements import Signed
from trunkline.errors import ConfigError, InvalidAddress, InvalidRealm, TrunklineError
from trunkline.names import Address, Draw, Secret

MAX_LEN = 256
_LINE = str(Invitation("lab.example", bytes(32), (Address("192.0.2.7", 7117),), (Address("2001:db8::7", 7118),)))
_WORDS = (Secret(b"river-candle-otter"), Secret(b"river-candle-other"))
_OFFER = Offer(_LINE, b"root certificate", "ben")
_STATEMENT = Signed(b"insert", b"signature")
_WELCOME = Outcome(APPROVED, "welcome")
_HEAD = 3


def fuzz_one(data: bytes) -> None:
    """Run one input."""
    draws = Draws(data)
    match draws.below(4):
        case 0:
            _pasted(draws)
        case 1:
            _liar(draws)
        case _:
            _tapped(draws)


def _pasted(draws: Draws) -> None:
    line = bytearray(_LINE.encode())
    for _ in range(draws.below(4)):
        at = draws.byte() % len(line)
        line[at : at + draws.below(4)] = draws.bytes(draws.below(8))
    if not draws.below(4):
        line += draws.bytes(200)
    try:
        parsed = parse_invitation(line.decode(errors="replace"))
        assert parse_invitation(str(parsed.check())) == parsed
    except (ConfigError, InvalidRealm, InvalidAddress) as error:
        stated(error, local=True)


def _liar(draws: Draws) -> None:
    side = draws.choice((_inviter, _joiner))(_WORDS[0])
    side.data_to_send()
    lie = (PREAMBLE if draws.below(4) else b"") + draws.bytes(60)
    while draws.left:
        body = draws.bytes(draws.byte())
        lie += len(body).to_bytes(2, "big") + draws.bytes(1) + body
    try:
        while lie and not side.done:
            size = 1 + draws.below(64)
            data, lie = lie[:size], lie[size:]
            side.receive_data(data, 0.0)
            assert len(side._buffer) <= max(LIMITS.values()) + _HEAD + size
            assert side.next_event() is None, "who doesn't know the words is told nothing, and enters nothing"
        side.handle_timer(1e9)
        side.receive_eof()
    except TrunklineError as error:
        stated(error)
    assert side.done, "it would wait for ever"
    assert not side.confirmed


def _inviter(words: Secret) -> Inviter:
    return Inviter(words, _OFFER, Draw(b"i"), 0.0)


def _joiner(words: Secret) -> Joiner:
    return Joiner(words, Draw(b"j"), 0.0)


def _tapped(draws: Draws) -> None:
    """Two who may have the same words; now and then what is on the wire is changed, left out, or said twice."""
    same = bool(draws.below(4))
    sides: tuple[Inviter, Joiner] = (_inviter(_WORDS[0]), _joiner(_WORDS[0 if same else 1]))
    on_the_way = [b"", b""]  # to each of them
    tampered = False
    heard: list[list[object]] = [[], []]
    failed = [False, False]
    for _ in range(24):
        for at, side in enumerate(sides):
            data, on_the_way[at] = on_the_way[at], b""
            for number, other in enumerate(sides):
                on_the_way[1 - number] += other.data_to_send()
            if not data or side.done:
                continue
            if not draws.below(6) and draws.left:
                changed = _changed(draws, data)
                tampered |= changed != data
                data = changed
            try:
                side.receive_data(data, 0.0)
                while (event := side.next_event()) is not None:
                    heard[at].append(event)
                    if isinstance(side, Inviter) and isinstance(event, Ask):
                        side.decide(_WELCOME)
                    elif isinstance(side, Joiner) and isinstance(event, Offer):
                        side.ask(_STATEMENT, 0.0)
            except TrunklineError as error:
                stated(error)
                failed[at] = True
    assert all(event == Ask(_STATEMENT) for event in heard[0]), "another key was entered"
    assert all(event in (_OFFER, _WELCOME) for event in heard[1]), "another realm was joined"
    if not same:
        assert heard == [[], []], "the words were not the same"
    if same and not tampered:
        assert heard == [[Ask(_STATEMENT)], [_OFFER, _WELCOME]], (heard, failed)


def _changed(draws: Draws, data: bytes) -> bytes:
    changed = bytearray(data)
    at = draws.byte() % len(changed)
    match draws.below(4):
        case 0:
            changed[at] ^= 1 << draws.below(8)
        case 1:
            del changed[at:]
        case 2:
            changed[at:at] = changed[:at]
        case _:
            changed[at : at + 4] = draws.bytes(4)
    return bytes(changed)
