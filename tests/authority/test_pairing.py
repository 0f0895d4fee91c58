"""Into a realm by three spoken words, and the attacks on it. Two machines and no network; now and then a third."""

from collections.abc import Callable

import pytest

from trunkline.authority.pairing import (
    APPROVED,
    ASK_TIMEOUT,
    DECISION_TIMEOUT,
    EXCHANGE_TIMEOUT,
    LIMITS,
    PREAMBLE,
    Ask,
    Inviter,
    Joiner,
    Kind,
    Offer,
    Outcome,
)
from trunkline.authority.statements import Signed
from trunkline.errors import (
    BadSignature,
    FrameTooLarge,
    LinkClosed,
    MalformedMessage,
    MessageNotAllowed,
    NotTrunkline,
    SilentPeer,
    TrunklineError,
    VersionMismatch,
    WrongCode,
)
from trunkline.names import Draw, Secret

CODE = Secret(b"river-candle-otter")
OFFER = Offer("trunkline:lab/…", b"root certificate", "ben")
STATEMENT = Signed(b"insert", b"signature")
WELCOME = Outcome(APPROVED, "welcome")
HEAD = 3

Tap = Callable[[str, int, bytes], bytes]
"""(who says it, which of its frames, the frame) -> what arrives instead."""


def inviter(code: Secret = CODE, seed: bytes = b"i") -> Inviter:
    return Inviter(code, OFFER, Draw(seed), 0.0)


def joiner(code: Secret = CODE, seed: bytes = b"j") -> Joiner:
    return Joiner(code, Draw(seed), 0.0)


def frames(data: bytes) -> list[bytes]:
    found = []
    if data.startswith(PREAMBLE):
        found.append(data[: len(PREAMBLE)])
        data = data[len(PREAMBLE) :]
    while data:
        size = HEAD + int.from_bytes(data[:2], "big")
        found.append(data[:size])
        data = data[size:]
    return found


class Wire:
    """Carries everything both ways until nobody says anything more; what is raised is kept for each side."""

    def __init__(self, a: Inviter, b: Joiner, tap: Tap | None = None) -> None:
        self.inviter, self.joiner = a, b
        self.errors: dict[str, TrunklineError] = {}
        self.said: list[str] = []
        self.asked: list[Ask] = []
        self.outcomes: list[Outcome] = []
        self._tap = tap or (lambda _who, _number, frame: frame)
        self._counts = {"inviter": 0, "joiner": 0}

    def run(self) -> "Wire":
        while self._carry("joiner", self.joiner, self.inviter) | self._carry("inviter", self.inviter, self.joiner):
            pass
        return self

    def _carry(self, who: str, source: Inviter | Joiner, sink: Inviter | Joiner) -> bool:
        other = "inviter" if who == "joiner" else "joiner"
        data = source.data_to_send()
        for frame in frames(data):
            arrives = self._tap(who, self._counts[who], frame)
            self._counts[who] += 1
            if not arrives.startswith(b"TRUNK"):
                self.said.append(f"{who}: {Kind(frame[2]).name}")
            try:
                for at in range(0, len(arrives), 7):  # in pieces, as a network may have it
                    sink.receive_data(arrives[at : at + 7], 1.0)
            except TrunklineError as error:
                self.errors[other] = error
        self._answer()
        return bool(data)

    def _answer(self) -> None:
        while (event := self.joiner.next_event()) is not None:
            if isinstance(event, Offer):
                assert event == OFFER
                self.joiner.ask(STATEMENT, 1.0)
            else:
                assert isinstance(event, Outcome)
                self.outcomes.append(event)
        while (event := self.inviter.next_event()) is not None:
            assert isinstance(event, Ask)
            self.asked.append(event)
            self.inviter.decide(WELCOME)


def test_who_knows_the_words_gets_the_offer_and_the_answer() -> None:
    wire = Wire(inviter(), joiner()).run()
    assert wire.errors == {}
    assert wire.asked == [Ask(STATEMENT)]
    assert wire.outcomes == [WELCOME]
    assert wire.inviter.done
    assert wire.joiner.done
    assert wire.said == [
        "joiner: JOINER_SHARE",
        "inviter: INVITER_SHARE",
        "joiner: JOINER_CONFIRMATION",
        "inviter: INVITER_CONFIRMATION",
        "inviter: OFFER",
        "joiner: ASK",
        "inviter: OUTCOME",
    ]


def test_a_wrong_code_is_said_to_be_wrong_on_both_sides_and_learns_nothing() -> None:
    wire = Wire(inviter(), joiner(Secret(b"river-candle-badger"))).run()
    assert isinstance(wire.errors["inviter"], WrongCode)
    assert isinstance(wire.errors["joiner"], WrongCode)
    assert "this one is spent" in str(wire.errors["inviter"])
    assert "ask for a new one" in str(wire.errors["joiner"])
    assert wire.asked == []
    assert "inviter: INVITER_CONFIRMATION" not in wire.said
    assert "inviter: OFFER" not in wire.said
    assert wire.inviter.done
    assert not wire.inviter.confirmed


def test_who_leaves_before_confirming_has_made_no_guess() -> None:
    for frames_sent in (0, 1, 2):
        machine = inviter()
        stranger = joiner(Secret(b"no-such-words"))
        for frame in frames(stranger.data_to_send())[:frames_sent]:
            machine.receive_data(frame, 0.0)
        with pytest.raises(LinkClosed, match="joiner hung up"):
            machine.receive_eof()
        assert not machine.confirmed


@pytest.mark.parametrize("who", ["inviter", "joiner"])
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_altered_in_any_message_it_ends_in_an_error_of_ours(who: str, number: int, bit: int, where: str) -> None:
    def tap(from_whom: str, count: int, frame: bytes) -> bytes:
        if (from_whom, count) != (who, number):
            return frame
        at = {"first": HEAD, "middle": (HEAD + len(frame)) // 2, "last": len(frame) - 1}[where]
        changed = bytearray(frame)
        changed[at] ^= 1 << bit
        return bytes(changed)

    wire = Wire(inviter(), joiner(), tap).run()
    noticed = WrongCode | BadSignature | MalformedMessage
    assert any(isinstance(error, noticed) for error in wire.errors.values())
    assert all(isinstance(error, noticed | LinkClosed) for error in wire.errors.values()), "the other side was told"
    assert wire.outcomes == []
    if number < 3:
        assert wire.asked == []


def test_an_altered_answer_is_not_taken_for_one() -> None:
    wire = Wire(inviter(), joiner(), lambda who, n, frame: frame[:-1] + b"\0" if (who, n) == ("inviter", 4) else frame)
    wire.run()
    assert isinstance(wire.errors["joiner"], BadSignature)
    assert wire.outcomes == []


def test_each_frame_in_place_of_each_other_is_refused() -> None:
    whole: dict[str, list[bytes]] = {"inviter": [], "joiner": []}

    def record(who: str, _: int, frame: bytes) -> bytes:
        whole[who].append(frame)
        return frame

    Wire(inviter(), joiner(), record).run()
    sent = [frame for who in whole for frame in whole[who][1:]]
    for who, honest in whole.items():
        for place in range(1, len(honest)):
            for other in sent:
                if other == honest[place]:
                    continue

                def tap(from_whom: str, n: int, frame: bytes, who=who, place=place, other=other) -> bytes:
                    return other if (from_whom, n) == (who, place) else frame

                wire = Wire(inviter(), joiner(), tap).run()
                assert any(isinstance(error, MessageNotAllowed) for error in wire.errors.values())
                assert not (wire.asked and wire.outcomes)


def test_what_was_said_once_can_not_be_said_again() -> None:
    recorded: list[bytes] = []

    def record(who: str, _: int, frame: bytes) -> bytes:
        recorded.extend([frame] if who == "joiner" else [])
        return frame

    Wire(inviter(), joiner(), record).run()
    later = inviter(seed=b"another exchange, the same code")
    with pytest.raises(WrongCode):
        for frame in recorded:
            later.receive_data(frame, 0.0)
    assert later.next_event() is None


def test_two_of_one_role_end_at_the_first_frame() -> None:
    one, two = joiner(), joiner(seed=b"k")
    with pytest.raises(MessageNotAllowed, match="a side that invites may not send joiner_share"):
        two.receive_data(one.data_to_send(), 0.0)
    # Two inviters wait for a joiner, both, until their time is over.
    one_i, two_i = inviter(), inviter(seed=b"k")
    two_i.receive_data(one_i.data_to_send(), 0.0)
    with pytest.raises(SilentPeer):
        two_i.handle_timer(EXCHANGE_TIMEOUT)


def test_who_hears_itself_ends() -> None:
    machine = joiner()
    with pytest.raises(MessageNotAllowed):
        machine.receive_data(machine.data_to_send(), 0.0)


def test_our_own_point_sent_back_under_the_other_letter_is_refused() -> None:
    machine = joiner()
    share = frames(machine.data_to_send())[1][HEAD + 1 :]
    with pytest.raises(MalformedMessage, match="one of our own"):
        machine.receive_data(PREAMBLE + frame(Kind.INVITER_SHARE, b"A" + share), 0.0)


@pytest.mark.parametrize("body", [b"", b"A", b"A" + bytes(32), b"A" + b"\xff" * 32, b"B" + bytes(32), bytes(33)])
def test_a_share_that_is_none_is_refused(body: bytes) -> None:
    machine = joiner()
    with pytest.raises(MalformedMessage, match="no point of the curve"):
        machine.receive_data(PREAMBLE + frame(Kind.INVITER_SHARE, body), 0.0)


def frame(kind: Kind, body: bytes) -> bytes:
    return len(body).to_bytes(2, "big") + bytes([kind.value]) + body


@pytest.mark.parametrize("kind", LIMITS)
def test_no_body_above_its_limit_is_waited_for(kind: Kind) -> None:
    for machine in (inviter(), joiner()):
        size = LIMITS[kind] + 1
        with pytest.raises((FrameTooLarge, MessageNotAllowed)):
            machine.receive_data(PREAMBLE + size.to_bytes(2, "big") + bytes([kind.value]), 0.0)
        assert machine.done


def test_a_kind_that_does_not_exist_is_refused() -> None:
    with pytest.raises(MessageNotAllowed, match="frame of kind 99"):
        inviter().receive_data(PREAMBLE + b"\0\0\x63", 0.0)


def test_somebody_who_speaks_something_else_is_told() -> None:
    machine = inviter()
    with pytest.raises(NotTrunkline):
        machine.receive_data(b"GET / HTTP/1.1\r\n", 0.0)
    told = joiner()
    with pytest.raises(LinkClosed, match="the inviter ended it: the other side does not speak Trunkline"):
        told.receive_data(machine.data_to_send(), 0.0)
    with pytest.raises(VersionMismatch, match="TRUNKJ/2"):
        inviter().receive_data(b"TRUNKJ/2\n", 0.0)


def test_a_refusal_that_is_none_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        inviter().receive_data(PREAMBLE + frame(Kind.REFUSAL, b"\xc1"), 0.0)


def test_what_a_stranger_says_does_not_reach_the_terminal_as_it_is() -> None:
    with pytest.raises(LinkClosed) as caught:
        joiner().receive_data(PREAMBLE + frame(Kind.REFUSAL, b"\x92\x01\xa6a\x1b[2Jb"), 0.0)
    assert "\x1b" not in str(caught.value)
    assert "a?[2Jb" in str(caught.value)


def test_nobody_waits_for_ever() -> None:
    asking, told = inviter(), joiner()
    assert asking.next_deadline() == told.next_deadline() == EXCHANGE_TIMEOUT
    asking.handle_timer(EXCHANGE_TIMEOUT - 1)
    asking.receive_data(told.data_to_send(), 5.0)
    assert asking.next_deadline() == 5.0 + EXCHANGE_TIMEOUT
    told.receive_data(asking.data_to_send(), 5.0)
    asking.receive_data(told.data_to_send(), 6.0)
    assert asking.next_deadline() == 6.0 + ASK_TIMEOUT
    told.receive_data(asking.data_to_send(), 7.0)
    assert told.next_event() == OFFER
    assert told.next_deadline() is None, "it is our turn"
    told.handle_timer(1e9)
    told.ask(STATEMENT, 8.0)
    assert told.next_deadline() == 8.0 + DECISION_TIMEOUT
    asking.receive_data(told.data_to_send(), 9.0)
    assert asking.next_deadline() is None
    with pytest.raises(SilentPeer, match="nothing was heard for 300 s"):
        told.handle_timer(8.0 + DECISION_TIMEOUT)
    told.receive_eof()  # it is over: nothing more is wrong


def test_nothing_shows_the_code_or_the_keys() -> None:
    machine = inviter()
    machine.receive_data(joiner().data_to_send(), 0.0)
    shown = repr(machine) + repr(vars(machine)["_events"])
    assert "river" not in shown
    assert repr(machine) == "<Inviter expects JOINER_CONFIRMATION>"
