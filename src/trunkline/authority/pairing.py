"""Into a realm by three spoken words: what two machines say to each other (docs/spec/authority.md section 13).

    joiner                              inviter
    share of SPAKE2            ────▶
                               ◀────    share of SPAKE2
    confirmation               ────▶    wrong: the code is spent
                               ◀────    confirmation, sealed Offer (which realm)
    sealed Ask (our key)       ────▶    the administrator looks at it
                               ◀────    sealed Outcome

Rules.

1. The joiner confirms first. Until then it has learned nothing that a guess can be checked against, so a stranger who
   connects and leaves costs the code nothing; a wrong confirmation is a guess, and ends it. So an attacker who may
   speak to either side has one guess of 2**33 for each time that a person makes a code.
2. Each frame says its kind, each state takes one kind, and each kind has one sender: two sides of the same role, or
   one that hears itself, end at the first frame.
3. What follows the confirmations is sealed with a key for each direction, in sequence.
"""

import struct
from collections import deque
from enum import Enum
from typing import Annotated, ClassVar, Final, NoReturn, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from msgspec import Meta
from spake2 import SPAKE2_A, SPAKE2_B, SPAKEError  # type: ignore[import-untyped]
from spake2.ed25519_basic import NotOnCurve  # type: ignore[import-untyped]

from trunkline.authority.invitation import MAX_INVITATION
from trunkline.authority.messages import Certificate, Text
from trunkline.authority.statements import MAX_STATEMENT, Signed
from trunkline.errors import (
    BadSignature,
    FrameTooLarge,
    LinkClosed,
    MalformedMessage,
    MessageNotAllowed,
    NotTrunkline,
    RemoteError,
    SilentPeer,
    TrunklineError,
    VersionMismatch,
    WrongCode,
)
from trunkline.names import Draw, Secret

PREAMBLE: Final = b"TRUNKJ/1\n"
MAGIC: Final = b"TRUNKJ/"

EXCHANGE_TIMEOUT: Final = 15.0
"""Seconds for each answer that needs no person."""

ASK_TIMEOUT: Final = 60.0
"""Seconds that the joiner has to make its key and say its name."""

DECISION_TIMEOUT: Final = 300.0
"""Seconds that the inviter's person has to say yes."""

SHARE_SIZE: Final = 33
"""A side's letter and a point of the curve, as the spake2 package writes them."""

CONFIRMATION_SIZE: Final = 32
_TAG_SIZE: Final = 16
_CONTEXT: Final = b"trunkline pairing v1\0"
_INVITER, _JOINER = b"trunkline inviter", b"trunkline joiner"
_HEAD: Final = struct.Struct("!HB")


class Kind(Enum):
    """What a frame is."""

    JOINER_SHARE = 1
    INVITER_SHARE = 2
    JOINER_CONFIRMATION = 3
    INVITER_CONFIRMATION = 4
    OFFER = 5
    ASK = 6
    OUTCOME = 7
    REFUSAL = 8


LIMITS: Final = {
    Kind.JOINER_SHARE: SHARE_SIZE,
    Kind.INVITER_SHARE: SHARE_SIZE,
    Kind.JOINER_CONFIRMATION: CONFIRMATION_SIZE,
    Kind.INVITER_CONFIRMATION: CONFIRMATION_SIZE,
    Kind.OFFER: MAX_INVITATION + 8192 + 512,
    Kind.ASK: MAX_STATEMENT + 512,
    Kind.OUTCOME: 4 * 1024 + 256,
    Kind.REFUSAL: 4 * 1024 + 256,
}
"""Largest body of each kind, in bytes: checked before the body is waited for."""


class Offer(msgspec.Struct, frozen=True, array_like=True):
    """What the inviter gives: the realm, and who the joiner is to be."""

    invitation: Annotated[str, Meta(max_length=MAX_INVITATION)]
    root: Certificate
    """X.509, DER: its fingerprint is the invitation's."""
    user: Annotated[str, Meta(max_length=255)] = ""
    """The user name that the joiner is to take; empty: it chooses."""


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """What the joiner asks for: that this Insert be stored, and its key approved."""

    statement: Signed


APPROVED: Final = 1
STORED: Final = 2
REFUSED: Final = 3


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What became of it."""

    result: Annotated[int, Meta(ge=1, le=3)]
    """`APPROVED`, `STORED` (an administrator has yet to approve it) or `REFUSED`."""
    text: Text = ""
    """For people."""


class _Refusal(msgspec.Struct, frozen=True, array_like=True):
    """Why a side ends it; in the clear, so it explains and proves nothing."""

    code: Annotated[int, Meta(ge=0, lt=1 << 16)]
    text: Text


_M = TypeVar("_M", bound=Offer | Ask | Outcome | _Refusal)


class _Side:
    """What both sides share: frames in and out, the keys, the deadline. A Link machine.

    Args:
        code: the words, as `trunkline.drivers.words` gives them.
        draw: randomness for this one exchange.
        now: seconds, by the driver's clock.
    """

    _name: ClassVar[str]
    _other: ClassVar[str]
    _steps: ClassVar[dict[Kind, tuple[Kind | None, float]]]
    """What is expected -> what is expected after it, and for how long; None: nothing more."""

    def __init__(self, code: Secret, draw: Draw, now: float) -> None:
        side = SPAKE2_A if self._name == "inviter" else SPAKE2_B
        password = _CONTEXT + code.reveal()
        self._spake = side(password, idA=_INVITER, idB=_JOINER, entropy_f=draw.bytes)
        self._expected: Kind | None = next(iter(self._steps))
        self._patience = EXCHANGE_TIMEOUT
        self._deadline: float | None = now + self._patience
        self._buffer = bytearray()
        self._begun = False
        self._out: list[bytes] = [PREAMBLE]
        self._events: deque[Offer | Ask | Outcome] = deque()
        self._confirmations: dict[str, bytes] = {}
        self._keys: dict[str, ChaCha20Poly1305] = {}
        self._sealed = {"inviter": 0, "joiner": 0}
        self.confirmed = False
        """Whether the other side has proved that it knows the code, which is used up then."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} expects {self._expected.name if self._expected else 'nothing more'}>"

    @property
    def done(self) -> bool:
        """Whether everything is said, or the exchange has failed."""
        return self._expected is None

    def data_to_send(self) -> bytes:
        """Return what is to be sent; also after an error, so that the other side learns why."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def next_event(self) -> Offer | Ask | Outcome | None:
        """Return what the other side said last; None if there is nothing new."""
        return self._events.popleft() if self._events else None

    def next_deadline(self) -> float | None:
        """Return when `handle_timer` wants to be called; None while it is our turn."""
        return self._deadline

    def handle_timer(self, now: float) -> None:
        """See whether the other side is late.

        Raises:
            SilentPeer: it is.
        """
        if self._deadline is not None and now >= self._deadline:
            self._fail(SilentPeer(self._patience))

    def receive_eof(self) -> None:
        """The other side has closed.

        Raises:
            LinkClosed: before everything was said.
        """
        if not self.done:
            self._expected = self._deadline = None
            raise LinkClosed(f"the {self._other} hung up before everything was said")

    def receive_data(self, data: bytes, now: float) -> None:
        """Take what has come, as much at a time as there is.

        Raises:
            WrongCode: the two sides have different words; the code is spent.
            BadSignature: what was sealed was altered on the way.
            RemoteError: the other side does not keep to the protocol.
            TrunklineError: the other side ended it, and said why.
        """
        self._buffer += data
        while self._expected is not None and (frame := self._next_frame()) is not None:
            kind, body = frame
            if kind is Kind.REFUSAL:
                self._refused(self._decode(body, _Refusal))
            self._expected, patience = self._steps[kind]
            self._patience = patience
            self._deadline = now + patience if self._expected is not None else None
            self._handle(kind, body)

    def _next_frame(self) -> tuple[Kind, bytes] | None:
        buffer = self._buffer
        if not self._begun:
            start = bytes(buffer[: len(PREAMBLE)])
            if start != PREAMBLE:
                if not start.startswith(MAGIC[: len(start)]):
                    self._fail(NotTrunkline(start))
                if len(start) == len(PREAMBLE):
                    self._fail(VersionMismatch(start.decode("ascii", "replace").strip(), PREAMBLE.decode().strip()))
                return None
            self._begun = True
            del buffer[: len(PREAMBLE)]
        if len(buffer) < _HEAD.size:
            return None
        size, number = _HEAD.unpack_from(buffer)
        kind = self._admit(number, size)
        if len(buffer) < _HEAD.size + size:
            return None
        body = bytes(buffer[_HEAD.size : _HEAD.size + size])
        del buffer[: _HEAD.size + size]
        return kind, body

    def _admit(self, number: int, size: int) -> Kind:
        kind = Kind(number) if 1 <= number <= len(Kind) else None
        if kind is None or kind not in (self._expected, Kind.REFUSAL):
            name = kind.name.lower() if kind else f"frame of kind {number}"
            self._fail(MessageNotAllowed(name, "side that joins" if self._other == "joiner" else "side that invites"))
        if size > LIMITS[kind]:
            self._fail(FrameTooLarge(size, LIMITS[kind]))
        return kind

    def _handle(self, kind: Kind, body: bytes) -> None:
        raise NotImplementedError

    # ---- the keys ----

    def _share(self) -> bytes:
        return bytes(self._spake.start())

    def _agree(self, share: bytes) -> None:
        """Derive the keys from the other side's share."""
        try:
            key = self._spake.finish(share)
        except (SPAKEError, NotOnCurve, ValueError):
            self._fail(MalformedMessage("a share that is no point of the curve, or one of our own"))
        for name in ("inviter", "joiner"):
            keys = HKDFExpand(SHA256(), 64, _CONTEXT + name.encode()).derive(key)
            self._confirmations[name] = keys[:32]
            self._keys[name] = ChaCha20Poly1305(keys[32:])

    def _confirmation(self, name: str) -> HMAC:
        mac = HMAC(self._confirmations[name], SHA256())
        mac.update(_CONTEXT + name.encode())
        return mac

    def _check_confirmation(self, body: bytes) -> None:
        try:
            self._confirmation(self._other).verify(body)
        except InvalidSignature:
            self._fail(WrongCode(_WRONG[self._name]))
        self.confirmed = True

    # ---- frames out ----

    def _send(self, kind: Kind, body: bytes) -> None:
        assert len(body) <= LIMITS[kind], f"a {kind.name} of {len(body)} bytes: its fields' limits don't add up"
        self._out.append(_HEAD.pack(len(body), kind.value) + body)

    def _send_sealed(self, kind: Kind, message: Offer | Ask | Outcome) -> None:
        clear = msgspec.msgpack.encode(message)
        self._send(kind, self._keys[self._name].encrypt(self._nonce(self._name), clear, bytes((kind.value,))))

    def _open(self, kind: Kind, body: bytes) -> bytes:
        try:
            return self._keys[self._other].decrypt(self._nonce(self._other), body, bytes((kind.value,)))
        except InvalidTag:
            self._fail(BadSignature(f"what the {self._other} said was altered on the way"))

    def _nonce(self, name: str) -> bytes:
        self._sealed[name] += 1
        return self._sealed[name].to_bytes(12, "big")

    def _decode(self, body: bytes, kind: type[_M]) -> _M:
        try:
            return msgspec.msgpack.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._fail(MalformedMessage(str(error)))

    # ---- ends ----

    def _fail(self, error: TrunklineError) -> NoReturn:
        """End it: tell the other side, and raise."""
        self._expected = self._deadline = None
        code = getattr(error, "code", RemoteError.code)
        self._send(Kind.REFUSAL, msgspec.msgpack.encode(_Refusal(code, _clear(str(error))[:1000])))
        raise error from None

    def _refused(self, refusal: _Refusal) -> NoReturn:
        self._expected = self._deadline = None
        if refusal.code == WrongCode.code:
            raise WrongCode(_WRONG[self._name])
        raise LinkClosed(f"the {self._other} ended it: {_clear(refusal.text)}")


_WRONG: Final = {
    "inviter": "somebody tried another code: this one is spent. If it was a slip of the tongue, make a new one with "
    "`trunkline invite --code`; if nobody you know was there, somebody guessed (and had one chance in 2**33)",
    "joiner": "the code is wrong, and it is spent now: ask for a new one, and check the words as you type them",
}


def _clear(text: str) -> str:
    """Return text in which nothing is that a terminal obeys."""
    return "".join(c if c.isprintable() else "?" for c in text)


class Inviter(_Side):
    """The side that made the code."""

    _name = "inviter"
    _other = "joiner"
    _steps: ClassVar = {
        Kind.JOINER_SHARE: (Kind.JOINER_CONFIRMATION, EXCHANGE_TIMEOUT),
        Kind.JOINER_CONFIRMATION: (Kind.ASK, ASK_TIMEOUT),
        Kind.ASK: (None, 0.0),
    }

    def __init__(self, code: Secret, offer: Offer, draw: Draw, now: float) -> None:
        super().__init__(code, draw, now)
        self._offer = offer

    def _handle(self, kind: Kind, body: bytes) -> None:
        if kind is Kind.JOINER_SHARE:
            share = self._share()
            self._agree(body)
            self._send(Kind.INVITER_SHARE, share)
        elif kind is Kind.JOINER_CONFIRMATION:
            self._check_confirmation(body)
            self._send(Kind.INVITER_CONFIRMATION, self._confirmation("inviter").finalize())
            self._send_sealed(Kind.OFFER, self._offer)
        else:
            assert kind is Kind.ASK, "nothing else is in the table"
            self._events.append(self._decode(self._open(kind, body), Ask))

    def decide(self, outcome: Outcome) -> None:
        """Answer the joiner's Ask, once."""
        self._send_sealed(Kind.OUTCOME, outcome)


class Joiner(_Side):
    """The side that was told the code."""

    _name = "joiner"
    _other = "inviter"
    _steps: ClassVar = {
        Kind.INVITER_SHARE: (Kind.INVITER_CONFIRMATION, EXCHANGE_TIMEOUT),
        Kind.INVITER_CONFIRMATION: (Kind.OFFER, EXCHANGE_TIMEOUT),
        Kind.OFFER: (Kind.OUTCOME, DECISION_TIMEOUT),
        Kind.OUTCOME: (None, 0.0),
    }

    def __init__(self, code: Secret, draw: Draw, now: float) -> None:
        super().__init__(code, draw, now)
        self._send(Kind.JOINER_SHARE, self._share())

    def _handle(self, kind: Kind, body: bytes) -> None:
        if kind is Kind.INVITER_SHARE:
            self._agree(body)
            self._send(Kind.JOINER_CONFIRMATION, self._confirmation("joiner").finalize())
        elif kind is Kind.INVITER_CONFIRMATION:
            self._check_confirmation(body)
        elif kind is Kind.OFFER:
            self._deadline = None  # our turn
            self._events.append(self._decode(self._open(kind, body), Offer))
        else:
            assert kind is Kind.OUTCOME, "nothing else is in the table"
            self._events.append(self._decode(self._open(kind, body), Outcome))

    def ask(self, statement: Signed, now: float) -> None:
        """Answer the inviter's Offer, once."""
        self._deadline = now + self._patience
        self._send_sealed(Kind.ASK, Ask(statement))
