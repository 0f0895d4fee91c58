"""What clients are shown by peers, authorities and replicas: it is believed if it is true, and else refused in words.

Certificates, heads, proofs, records, statements and files are altered, cut and crossed. TrustError, or what the
function says that it raises, comes of that; nothing else. What was altered is never believed: signatures cover all of
it.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from fuzz.grammar import Draws, stated
from tests.authority.kit import ADMIN, ISSUER, WALL, Desk, Person, approve, change, insert, issue, leaf
from trunkline.authority import messages as msg
from trunkline.authority.approvals import check_pending, decode_file, encode_file
from trunkline.authority.certificates import parse_intermediate, parse_leaf, parse_root
from trunkline.authority.rules import read_statement
from trunkline.authority.trust import Trust
from trunkline.authority.truststate import decode_evidence, encode_evidence
from trunkline.errors import BadSignature, ConfigError, InvalidUser, NotAllowed, TrustError

MAX_LEN = 512
_ANN, _BEN, _NEW = Person("ann"), Person("ben"), Person("ann", 1)
_SIZES: Final = (0, 2)
"""Of the logs that clients may have seen before."""


def _realm() -> tuple[Desk, dict[int, msg.HeadIs]]:
    desk = Desk()
    desk.add(_ANN)
    early = desk.ask(msg.AskHead(0))
    desk.add(_BEN, approved=False)
    record = desk.get("ann")
    assert record is not None
    desk.submit(change(_ANN, _NEW, record.latest))
    return desk, {0: early, 2: early}


_DESK, _EARLY = _realm()
_HEADS: Final = {size: _DESK.ask(msg.AskHead(0, size)) for size in _SIZES}
_FOUND: Final = {
    (user, size): _DESK.ask(msg.Get(0, user, size)) for user in ("ann", "ben", "nobody") for size in _SIZES
}
_CHAIN: Final = _DESK.ask(issue(_NEW)).chain
_LEAF: Final = _CHAIN[0]
_DERS: Final = (ADMIN.root, ISSUER.authority.certificate, _LEAF)
_STATEMENTS: Final = tuple(signed for _, signed in _DESK.store.statements(0, 99))
_PENDING: Final = encode_file(ADMIN.realm, [insert(_BEN)]).encode()
_ANSWERS: Final[tuple[Any, ...]] = (*_HEADS.values(), *_FOUND.values())


def _trust(size: int) -> Trust:
    trust = Trust("lab.example", ADMIN.root)
    if size:
        trust.update_head(_EARLY[size], WALL)
    return trust


_STATE: Final = _trust(2).state() or b""


def fuzz_one(data: bytes) -> None:
    """Run one input."""
    draws = Draws(data)
    draws.choice((_certificates, _leaf, _head, _found, _compared, _statements, _files))(draws)


def _altered(draws: Draws, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(1 + draws.below(3)):
        at = (draws.byte() << 8 | draws.byte()) % (len(changed) + 1)
        match draws.below(5):
            case 0:
                changed[at : at + 1] = bytes(byte ^ (1 << draws.below(8)) for byte in changed[at : at + 1])
            case 1:
                del changed[at:]
            case 2:
                changed[at:at] = draws.bytes(1 + draws.below(8))
            case 3:
                del changed[at : at + 1 + draws.below(8)]
            case _:
                other = draws.choice(_DERS)
                changed[at:] = other[at:]
    return bytes(changed)


def _certificates(draws: Draws) -> None:
    der = draws.choice(_DERS)
    shown = _altered(draws, der) if draws.below(8) else draws.bytes(MAX_LEN)
    root = parse_root(ADMIN.root)
    for parse in (parse_root, lambda data: parse_intermediate(data, root), parse_leaf):
        _only_trust_errors(parse, shown)
    trust = _trust(0)
    _only_trust_errors(lambda data: trust.learn([data]), shown)
    _only_trust_errors(lambda data: Trust("lab.example", data), shown)


def _only_trust_errors(call: Callable[[bytes], object], data: bytes) -> bool:
    try:
        call(data)
    except TrustError as error:
        stated(error)
        return False
    return True


def _leaf(draws: Draws) -> None:
    trust = _trust(0)
    trust.update_head(_HEADS[0], WALL)
    shown = _altered(draws, _LEAF)
    chain = draws.choice(((), (ISSUER.authority.certificate,), (_altered(draws, ISSUER.authority.certificate),)))
    believed = _only_trust_errors(lambda data: trust.check_leaf(data, WALL, chain), shown)
    assert believed == (shown == _LEAF), "an altered certificate was believed, or a good one was not"


def _head(draws: Draws) -> None:
    size = draws.choice(_SIZES)
    told = _mixed(draws, draws.choice(tuple(_HEADS.values())))
    trust = _trust(size)
    if not _only_trust_errors(lambda _: trust.update_head(told, WALL), b""):
        return
    _check_true(trust, told.head)
    again = Trust("lab.example", ADMIN.root, state=trust.state())
    assert again.signed_head == trust.signed_head


def _found(draws: Draws) -> None:
    user, size = draws.choice(("ann", "ben", "nobody")), draws.choice(_SIZES)
    told = _mixed(draws, draws.choice(tuple(_FOUND.values())))
    trust = _trust(size)
    got: list[Any] = []
    if _only_trust_errors(lambda _: got.append(trust.check_found(told, user, WALL)), b""):
        assert got == [_DESK.get(user)], "it believed what is not so"


def _check_true(trust: Trust, signed: msg.SignedHead) -> None:
    assert trust.signed_head == signed
    assert signed in {answer.head for answer in (*_HEADS.values(), *_EARLY.values())}, "nobody has signed that"


def _mixed(draws: Draws, answer: Any) -> Any:
    """Alter some field, or take it from another answer, as MessagePack allows it."""
    for _ in range(1 + draws.below(2)):
        name = draws.choice(answer.__struct_fields__)
        givers = [each for each in _ANSWERS if hasattr(each, name)]
        taken = getattr(draws.choice(givers), name)
        if draws.below(2):
            encoded = _altered(draws, msgspec.msgpack.encode(taken))
            kind = next(f.type for f in msgspec.structs.fields(type(answer)) if f.name == name)
            try:
                taken = msgspec.msgpack.decode(encoded, type=kind)
            except (msgspec.DecodeError, UnicodeDecodeError):
                return answer
        answer = msgspec.structs.replace(answer, **{name: taken})
    return answer


def _compared(draws: Draws) -> None:
    trust = _trust(2)
    shown = draws.choice((_HEADS[0].head, _EARLY[2].head))
    shown = msg.SignedHead(
        _altered(draws, shown.body) if draws.below(2) else shown.body,
        _altered(draws, shown.signature) if draws.below(2) else shown.signature,
    )
    fine = shown in (_HEADS[0].head, _EARLY[2].head)
    taken = _only_trust_errors(lambda _: trust.compare(shown, WALL), b"")
    # One that names an authority we don't know yet is put by until our next head, and means nothing until then.
    assert fine <= taken
    assert fine or not taken or not trust.knows(shown), "an altered head was believed"
    if fine and trust.puzzled:
        _only_trust_errors(lambda _: trust.connect(shown, _mixed(draws, _HEADS[2]), WALL), b"")
    assert not trust.evidence, "an honest authority stands accused"


def _statements(draws: Draws) -> None:
    signed = draws.choice((*_STATEMENTS, insert(_NEW), approve(_BEN, leaf(insert(_BEN)))))
    body = _altered(draws, signed.body) if draws.below(4) else draws.bytes(200)
    try:
        read_statement(msg.Signed(body, signed.signature, signed.second))
    except (BadSignature, InvalidUser) as error:
        stated(error, local=True)
    try:
        check_pending(msg.Signed(body, signed.signature, signed.second), ADMIN.anchor)
    except (BadSignature, InvalidUser, NotAllowed) as error:
        stated(error, local=True)
    else:
        assert body == signed.body, "an altered statement was believed"


def _files(draws: Draws) -> None:
    match draws.below(3):
        case 0:
            text = _altered(draws, _PENDING).decode(errors="replace")
            try:
                for signed in decode_file(text, ADMIN.realm):
                    read_statement(signed)
            except (ConfigError, TrustError) as error:
                stated(error, local=True)
        case 1:
            state = _altered(draws, _STATE)
            _only_trust_errors(lambda data: Trust("lab.example", ADMIN.root, state=data), state)
        case _:
            kept = _altered(draws, encode_evidence([_HEADS[0].head, _EARLY[2].head]))
            _only_trust_errors(decode_evidence, kept)
