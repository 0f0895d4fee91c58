"""Pairing over real connections: who knows the code, who does not, and who never meant to come."""

import socket
import threading
from collections.abc import Callable

import pytest

from trunkline.authority.pairing import APPROVED, MAGIC, PREAMBLE, Ask, Offer, Outcome
from trunkline.authority.statements import Signed
from trunkline.drivers.pairing import Inviting, join_by_code
from trunkline.errors import ConfigError, LinkClosed, NoAuthority, TrunklineError, WrongCode
from trunkline.names import Address, Secret

CODE = Secret(b"river-candle-otter")
OFFER = Offer("trunkline:lab/…", b"root")
STATEMENT = Signed(b"insert", b"signature")
WELCOME = Outcome(APPROVED, "welcome")
ANY = Address("127.0.0.1", 0)


class Waiting:
    """Somebody who invites, in a thread."""

    def __init__(self, decide: Callable[[Ask], Outcome] = lambda _: WELCOME, timeout: float = 20) -> None:
        self.result: Outcome | TrunklineError | None = None
        self._inviting = Inviting(CODE, OFFER, ANY)
        self.address = self._inviting.bound
        self._thread = threading.Thread(target=self._run, args=(decide, timeout))
        self._thread.start()

    def _run(self, decide: Callable[[Ask], Outcome], timeout: float) -> None:
        with self._inviting:
            try:
                self.result = self._inviting.wait(decide, timeout)
            except TrunklineError as error:
                self.result = error

    def end(self) -> Outcome | TrunklineError | None:
        self._thread.join(30)
        return self.result


def test_who_knows_the_code_comes_in() -> None:
    asked: list[Ask] = []
    offered: list[Offer] = []

    def decide(ask: Ask) -> Outcome:
        asked.append(ask)
        return WELCOME

    def answer(offer: Offer) -> Signed:
        offered.append(offer)
        return STATEMENT

    waiting = Waiting(decide)
    assert join_by_code(CODE, waiting.address, answer) == WELCOME
    assert waiting.end() == WELCOME
    assert (asked, offered) == ([Ask(STATEMENT)], [OFFER])


def test_one_wrong_guess_ends_the_code_for_both() -> None:
    waiting = Waiting()
    with pytest.raises(WrongCode, match="ask for a new one"):
        join_by_code(Secret(b"river-candle-badger"), waiting.address, lambda _: STATEMENT)
    result = waiting.end()
    assert isinstance(result, WrongCode)
    with pytest.raises(NoAuthority, match="connection refused"):
        join_by_code(CODE, waiting.address, lambda _: STATEMENT)


def test_strangers_cost_the_code_nothing() -> None:
    waiting = Waiting()
    for said in (b"", b"GET / HTTP/1.0\r\n\r\n", PREAMBLE, MAGIC + b"2\n", PREAMBLE + b"\xff\xff\x02"):
        with socket.create_connection((waiting.address.host, waiting.address.port)) as stranger:
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(4096):
                pass
    assert join_by_code(CODE, waiting.address, lambda _: STATEMENT) == WELCOME
    assert waiting.end() == WELCOME


def test_nobody_comes() -> None:
    result = Waiting(timeout=0.05).end()
    assert isinstance(result, ConfigError)
    assert "nobody came with the code within 0.05 s" in str(result)


def test_one_who_breaks_off_after_the_code_was_right_has_used_it_up() -> None:
    waiting = Waiting()

    def refuse(_: Offer) -> Signed:
        raise ConfigError("not into that realm")

    with pytest.raises(ConfigError, match="not into that realm"):
        join_by_code(CODE, waiting.address, refuse)
    result = waiting.end()
    assert isinstance(result, LinkClosed)
    assert "hung up before everything was said" in str(result)


def test_where_it_can_not_listen() -> None:
    with Inviting(CODE, OFFER, ANY) as first, pytest.raises(ConfigError, match="name another with --listen"):
        Inviting(CODE, OFFER, first.bound)
