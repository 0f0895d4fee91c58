"""From a fuzzer's bytes to legal and nearly legal messages.

Random bytes hardly ever get past MessagePack. So the bytes are decisions: which message, and for each of its
fields which value of a small pool. Small pools make names and ids collide, which is where machines break.
"""

import math
from collections.abc import Sequence
from typing import Any, Final, TypeVar, get_args

import msgspec

from trunkline.errors import LocalError, TrunklineError
from trunkline.names import Candidate, Candidates
from trunkline.switchboard.entries import handle
from trunkline.wire.codec import encode_candidates
from trunkline.wire.messages import AnyMessage, ClientMessage, MateMessage, Message, Post, Propagated, ServerMessage

T = TypeVar("T")

FROM_CLIENTS: Final[tuple[type, ...]] = get_args(ClientMessage)
FROM_SERVERS: Final[tuple[type, ...]] = get_args(ServerMessage)
FROM_MATES: Final[tuple[type, ...]] = get_args(MateMessage)
ALL: Final[tuple[type, ...]] = get_args(AnyMessage)

HOME: Final = b"homehome"
"""The place where the fuzzed clients live."""

_CANDIDATES: Final = (
    encode_candidates(Candidates(HOME, (Candidate("tcp4", "127.0.0.1", 1),))),
    encode_candidates(Candidates(HOME, (Candidate("unix", "/s"), Candidate("tcp6", "::1", 2)))),
    encode_candidates(Candidates(b"elsewhere", tuple(Candidate("tcp4", "192.0.2.1", port) for port in range(20)))),
    encode_candidates(Candidates(b"", (Candidate("pigeon", "roof", -1),))),
    encode_candidates(Candidates(HOME, (Candidate("tcp4", "", 1 << 40), Candidate("unix", "\0")))),
    b"",
    b"\xc1 no MessagePack",
)
_PAIRS: Final = (("ann", "ben"), ("ben", "ann"), ("ann", "post"), ("ben", "post"))
_USERS: Final = (("ann", "ben"), ("ben", "ann"), ("ann", "ann"), ("ann", "ops/eve"), ("ann", ""), ("a//b", "*"))
_ALLOW: Final = (("ben",), ("ops/*", "ann"), ("*",), (), ("*/*/",))
_NUMBERS: Final = (1, 0, 2, 3, 4, 5, 128, 1 << 20, (1 << 53) - 1)
_FLOATS: Final = (1.0, 0.5, 0.0, -1.0, 1e-9, 1e300, math.inf, -math.inf, math.nan)
_SECRETS: Final = (b"", b"secret", b"another", b"s" * 64)


class Draws:
    """Decisions out of bytes. When these run out, every decision is the first choice."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._at

    def byte(self) -> int:
        """Return a number below 256."""
        if self._at >= len(self._data):
            return 0
        self._at += 1
        return self._data[self._at - 1]

    def below(self, limit: int) -> int:
        """Return a number below ``limit``, which is at most 256."""
        return self.byte() % limit

    def choice(self, options: Sequence[T]) -> T:
        """Return one of the options."""
        return options[self.below(len(options))]

    def bytes(self, size: int) -> bytes:
        """Return up to ``size`` of the bytes that are left."""
        taken = self._data[self._at : self._at + size]
        self._at += len(taken)
        return taken


class Pools:
    """The values that fields are drawn from. Ids that a machine made up are added while it runs."""

    def __init__(self) -> None:
        self.rids = [bytes([number]) * 16 for number in range(4)]
        self.matches = [bytes([number]) * 8 for number in range(2)]
        self.tokens = [bytes([number]) * 16 for number in range(2)]
        self.queries = [0, 1, 2]
        self.names = ["ann", "ben", "post"]
        self.odd_names = ["Post", "näme", "ann ", "x" * 255, "", "a\nb"]
        self.servers = ["a", "m", "z", "me", ""]
        self.addresses = ["a:1", "m:1", "z:1", "me:7117", "[::1]:7", "no:address:at:all", "b:99999", ""]

    def saw(self, pool: list[Any], value: object) -> None:
        """Add a value of the machine's; the pool keeps the last few."""
        if value not in pool:
            pool.append(value)
            if len(pool) > 12:
                del pool[4]

    def learn(self, message: Message) -> None:
        """Add what a machine's message makes known to its receiver."""
        for name, pool in (("rid", self.rids), ("match", self.matches), ("token", self.tokens)):
            value = getattr(message, name, None)
            if value is not None:
                self.saw(pool, value)
        if (query := getattr(message, "query", None)) is not None:
            self.saw(self.queries, query)

    def message(self, draws: Draws, kinds: Sequence[type]) -> Any:
        """Make a message of one of these kinds. It may be beyond what the wire allows here and there."""
        return self.build(draws, draws.choice(kinds))

    def build(self, draws: Draws, kind: type) -> Any:
        """Make a struct of this kind, field by field."""
        fields = msgspec.structs.fields(kind)
        values = {field.name: self._value(draws, field.name, msgspec.inspect.type_info(field.type)) for field in fields}
        if "you" in values and draws.below(8):  # two names that fit each other, since chance seldom gives them
            values["me"], values["you"] = draws.choice(_PAIRS)
            if kind is Propagated and not draws.below(3):
                values["me"], values["you"] = "post", ""
        self._agree(draws, kind, values)
        return kind(**values)

    def _agree(self, draws: Draws, kind: type, values: dict[str, Any]) -> None:
        """Let the users fit each other, as the codec demands: plain, or both, or one and a list."""
        if "peer_user" not in values and "allow" not in values:
            return
        is_offer = kind is Post or values.get("you") == ""
        users = draws.choice(_USERS) if draws.below(2) else ("", "")
        for name, value in (
            ("user", users[0]),
            ("peer_user", "" if is_offer else users[1]),
            ("allow", draws.choice(_ALLOW) if is_offer and users[0] else ()),
        ):
            if name in values:
                values[name] = value

    def name(self, draws: Draws) -> str:
        """Return a name, odd ones now and then."""
        return draws.choice(self.names) if draws.below(16) else draws.choice(self.odd_names)

    def _value(self, draws: Draws, name: str, info: Any) -> Any:
        match info:
            case msgspec.inspect.BoolType():
                return bool(draws.below(2))
            case msgspec.inspect.FloatType():
                return draws.choice(_FLOATS)
            case msgspec.inspect.IntType():
                if name == "query":
                    return draws.choice(self.queries)
                return draws.choice(_NUMBERS if draws.below(4) == 3 else _NUMBERS[:3])
            case msgspec.inspect.StrType():
                match name:
                    case "id" | "server":
                        return draws.choice(self.servers)
                    case "address":
                        return draws.choice(self.addresses)
                    case _:
                        return self.name(draws)
            case msgspec.inspect.BytesType():
                return self._bytes(draws, name)
            case msgspec.inspect.StructType(cls=inner):
                return self.build(draws, inner)
            case msgspec.inspect.VarTupleType(item_type=item):
                return tuple(self._value(draws, name, item) for _ in range(draws.below(4)))
            case _:
                raise AssertionError(info)

    def _bytes(self, draws: Draws, name: str) -> bytes:
        match name:
            case "rid" | "target" | "partner":
                return draws.choice(self.rids)
            case "avoid":
                return handle(draws.choice(self.rids))
            case "match":
                return draws.choice(self.matches)
            case "token":
                return draws.choice(self.tokens)
            case "candidates":
                return draws.choice(_CANDIDATES)
            case "claim":
                return draws.choice((b"", bytes(16), b"c" * 16))
            case "secret":
                return draws.choice(_SECRETS)
            case _:
                return draws.bytes(draws.below(8))


def stated(error: TrunklineError, *, local: bool = False) -> None:
    """See that an error is not our caller's own (unless it may be), and can be shown on a terminal."""
    assert local or not isinstance(error, LocalError), error
    assert str(error)
    assert "\x1b" not in str(error)


def fed(draws: Draws, data: bytes) -> list[bytes]:
    """Cut data into pieces, as a network may."""
    match draws.below(4):
        case 0 | 1:
            return [data]
        case 2:
            at = draws.byte()
            return [piece for piece in (data[:at], data[at:]) if piece]
        case _:
            return [data[at : at + 1] for at in range(len(data))]
