"""Blobs and datagrams in the hands of somebody who alters, cuts, crosses and repeats them.

A blob is opened if it is, byte for byte, one that was sealed for this user by a sender who is in order; otherwise
DecryptError is raised, and nothing else. A datagram is opened once, if it was sealed for this direction of this session
and is within the window.
"""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

from fuzz.grammar import Draws
from trunkline.authority import sealing
from trunkline.authority.statements import APPROVED, DELETED, NOTHING, TENTATIVE, X25519, X25519_MLKEM768, Record
from trunkline.drivers.keys import UserKey
from trunkline.errors import DecryptError, InvalidUser
from trunkline.meeting.datagram_keys import derive
from trunkline.meeting.datagrams import LAST_SEQUENCE, WINDOW, Opener, Sealer
from trunkline.meeting.handshake import Role
from trunkline.names import Secret, digest

MAX_LEN = 512
_REALM = bytes(32)
_USERS = ("ann", "ben", "ops/eve")


def _key(word: str, suite: int) -> UserKey:
    seed = word.encode()
    return UserKey(
        Ed25519PrivateKey.from_private_bytes(digest(seed, 32)),
        X25519PrivateKey.from_private_bytes(digest(seed + b"!", 32)),
        MLKEM768PrivateKey.from_seed_bytes(digest(seed + b"?", 64)) if suite == X25519_MLKEM768 else None,
    )


def _private(key: UserKey) -> sealing.PrivateKey:
    return key.x25519 if key.mlkem768 is None else MLKEM768X25519PrivateKey(key.mlkem768, key.x25519)


def _record(user: str, key: UserKey, state: int = APPROVED) -> Record:
    return Record(user, state, key.public, 0, NOTHING)


def _seal(sender: str, to: str, clear: bytes) -> bytes:
    header = sealing.build_header(_REALM, sender, _KEYS[sender].public.signing, _record(to, _KEYS[to]))
    public = sealing.encryption_key(_KEYS[to].public)
    sealed = sealing.SUITES[_KEYS[to].suite].encrypt(clear, public, sealing.info(header))
    return sealing.finish(header, sealed, _KEYS[sender].sign)


_KEYS = {"ann": _key("ann", X25519), "ben": _key("ben", X25519_MLKEM768), "ops/eve": _key("eve", X25519)}
_OTHER = _key("another", X25519)
_SEALED = {
    _seal(sender, to, f"from {sender} for {to}".encode()): (sender, to)
    for sender in _USERS
    for to in _USERS
    if sender != to
}
_BLOBS = sorted(_SEALED, key=_SEALED.__getitem__)


def fuzz_one(data: bytes) -> None:
    """Run one input."""
    draws = Draws(data)
    draws.choice((_altered, _signed_rubbish, _datagrams))(draws)


def _altered(draws: Draws) -> None:
    blob = bytearray(draws.choice(_BLOBS))
    for _ in range(draws.below(4)):
        at = (draws.byte() << 8 | draws.byte()) % (len(blob) + 1)
        match draws.below(5):
            case 0:
                blob[at : at + 1] = bytes(byte ^ (1 << draws.below(8)) for byte in blob[at : at + 1])
            case 1:
                del blob[at:]
            case 2:
                blob[at:at] = draws.bytes(1 + draws.below(40))
            case 3:
                del blob[at : at + 1 + draws.below(40)]
            case _:
                other = draws.choice(_BLOBS)  # the rest of another: headers and signatures crossed
                blob[at:] = other[at:]
    user = draws.choice(_USERS)
    state = draws.choice((APPROVED, APPROVED, TENTATIVE, DELETED))
    changed = not draws.below(8)
    _open(bytes(blob), user, state, changed=changed)


def _open(blob: bytes, user: str, state: int, *, changed: bool) -> None:
    sealed = _SEALED.get(blob)
    fine = sealed is not None and sealed[1] == user and state == APPROVED and not changed
    try:
        envelope = sealing.parse(blob)
        sealing.check_addressee(envelope, _REALM, user, _KEYS[user].public)
        key = _OTHER if changed else _KEYS.get(envelope.sender)
        entry = None if key is None else _record(envelope.sender, key, state)
        clear = sealing.unseal(envelope, entry, _private(_KEYS[user]))
    except DecryptError as error:
        if fine or "step" not in str(error):
            raise AssertionError("what is in order was refused, or not in words") from error
    else:
        assert fine, "what is not in order was opened"
        assert sealed is not None
        assert clear == f"from {sealed[0]} for {sealed[1]}".encode()


def _signed_rubbish(draws: Draws) -> None:
    """A sender in good standing signs whatever they like."""
    user = draws.choice(_USERS)
    try:
        header = sealing.build_header(_REALM, "ops/eve", _KEYS["ops/eve"].public.signing, _record(user, _KEYS[user]))
    except InvalidUser as error:
        raise AssertionError from error
    stolen = sealing.parse(draws.choice(_BLOBS)).sealed
    rubbish = draws.choice((bytes(stolen), bytes(1200), b"\xff" * 1200, draws.bytes(200)))
    if draws.below(2):
        header = header[: draws.byte()] + draws.bytes(4) + header[draws.byte() :]
    blob = sealing.finish(header, rubbish, _KEYS["ops/eve"].sign)
    if blob not in _SEALED:
        _open(blob, user, APPROVED, changed=False)


def _datagrams(draws: Draws) -> None:
    one, two = Secret(bytes(32)), Secret(b"\1" * 32)
    ours, theirs = derive(Role.ACTIVE, b"match id", one, two), derive(Role.PASSIVE, b"match id", two, one)
    sealer, opener = Sealer(ours), Opener(theirs)
    foreign = (Sealer(theirs), Sealer(derive(Role.ACTIVE, b"another!", one, two)))
    sent: dict[bytes, int] = {}
    seen: set[int] = set()
    while draws.left:
        match draws.below(6):
            case 0:
                sealer.sequence += draws.choice((0, 1, WINDOW - 1, WINDOW, 1 << 40))
                number = sealer.sequence
                sent[sealer.seal(b"%d" % number)] = number
                continue
            case 1 | 2 if sent:
                datagram = draws.choice(list(sent)[-200:])
            case 3 if sent:
                datagram = draws.choice(list(sent)[-200:])
                datagram = datagram[: draws.byte()] + draws.bytes(draws.below(4)) + datagram[draws.byte() :]
            case 4:
                other = draws.choice(foreign)
                other.sequence = draws.choice((0, 5, LAST_SEQUENCE))
                datagram = other.seal(draws.bytes(4))
            case _:
                datagram = draws.bytes(64)
        was = sent.get(datagram)
        fine = was is not None and was not in seen and max(seen, default=0) - was < WINDOW
        before = opener.dropped.total()
        try:
            clear = opener.open(datagram)
        except DecryptError:
            assert not fine, "a good datagram was dropped"
            assert opener.dropped.total() == before + 1
        else:
            assert fine, "a bad datagram was opened"
            assert was is not None
            assert clear == b"%d" % was
            seen.add(was)
        assert opener._seen.bit_length() <= WINDOW
