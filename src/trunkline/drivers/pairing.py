"""`trunkline invite --code` and `trunkline join --code`: the pairing machines over TCP, blocking.

One stranger at a time is heard. With several at once each might guess before the first wrong guess ends the code.
"""

import contextlib
import errno
import logging
import secrets
import socket
from collections.abc import Callable
from typing import Final, Self

from trunkline.authority.pairing import Ask, Inviter, Joiner, Offer, Outcome
from trunkline.authority.statements import Signed
from trunkline.drivers.clock import now
from trunkline.errors import ConfigError, LinkClosed, NoAuthority, TrunklineError, WrongCode
from trunkline.names import Address, Draw, Secret

DEFAULT_PORT: Final = 7119
"""Where `trunkline invite --code` listens, if nothing else is said."""

CHUNK: Final = 64 * 1024
_log: Final = logging.getLogger("trunkline")


class Inviting:
    """Waits, under a code, for the one who knows it. Use it in ``with``.

    Args:
        code: what was said (`trunkline.drivers.words.new_code`).
        offer: what the one who knows it gets.
        listen: where; port 0 for any free one.

    Raises:
        ConfigError: it can't be listened on.
    """

    def __init__(self, code: Secret, offer: Offer, listen: Address) -> None:
        self._code = code
        self._offer = offer
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        try:
            self._listener = socket.create_server((listen.host, listen.port), family=family)
        except OSError as error:
            fix = ": name another with --listen" if error.errno == errno.EADDRINUSE else ""
            raise ConfigError(
                f"{listen} can't be listened on: {(error.strerror or str(error)).lower()}{fix}"
            ) from error
        self.bound = Address(*self._listener.getsockname()[:2])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def wait(self, decide: Callable[[Ask], Outcome], timeout: float) -> Outcome:
        """Wait for the one who knows the code, decide, and return what was answered. The code is used up then.

        Args:
            decide: says what becomes of what was asked for; may ask a person.
            timeout: seconds until the code ends unused.

        Raises:
            WrongCode: somebody had other words.
            ConfigError: nobody came in time.
            TrunklineError: whoever knew the code then broke off, or asked for what can't be.
        """
        ends = now() + timeout
        while True:
            left = ends - now()
            self._listener.settimeout(max(left, 0.001))
            try:
                sock, remote = self._listener.accept()
            except TimeoutError:
                raise ConfigError(f"nobody came with the code within {timeout:g} s: it is spent") from None
            machine = Inviter(self._code, self._offer, Draw(secrets.token_bytes(32)), now())
            try:
                with sock:
                    return self._serve(sock, machine, decide)
            except WrongCode:
                raise
            except (TrunklineError, OSError) as error:
                if machine.confirmed:
                    raise
                _log.warning("%s is not who was invited: %s", remote[0], error)

    def _serve(self, sock: socket.socket, machine: Inviter, decide: Callable[[Ask], Outcome]) -> Outcome:
        asked = _next_event(sock, machine)
        assert isinstance(asked, Ask), "an inviter is told nothing else"
        outcome = decide(asked)
        machine.decide(outcome)
        sock.sendall(machine.data_to_send())
        return outcome


def join_by_code(code: Secret, address: Address, answer: Callable[[Offer], Signed], timeout: float = 10.0) -> Outcome:
    """Go to the one who invites, prove that we know the code, and have our key entered.

    Args:
        answer: gets what is offered, and returns our Insert.
        timeout: seconds for the connection.

    Raises:
        WrongCode: the words are others.
        NoAuthority: nobody is there.
        TrunklineError: it broke off, with the reason.
    """
    try:
        sock = socket.create_connection((address.host, address.port), timeout)
    except OSError as error:
        raise NoAuthority([(str(address), (error.strerror or str(error)).lower())]) from error
    with sock:
        machine = Joiner(code, Draw(secrets.token_bytes(32)), now())
        offered = _next_event(sock, machine)
        assert isinstance(offered, Offer), "it comes first"
        machine.ask(answer(offered), now())
        outcome = _next_event(sock, machine)
        assert isinstance(outcome, Outcome), "it comes last"
        return outcome


def _next_event(sock: socket.socket, machine: Inviter | Joiner) -> Offer | Ask | Outcome:
    """Carry bytes until the machine has something to tell.

    Raises:
        TrunklineError: what the machine raises; the other side has been told.
        LinkClosed: the connection is gone.
    """
    try:
        while True:
            sock.settimeout(None)
            sock.sendall(machine.data_to_send())
            event = machine.next_event()
            if event is not None:
                return event
            deadline = machine.next_deadline()
            assert deadline is not None, "while nothing was told, something is waited for"
            sock.settimeout(max(deadline - now(), 0.001))
            try:
                data = sock.recv(CHUNK)
            except TimeoutError:
                machine.handle_timer(now())
                continue
            if data:
                machine.receive_data(data, now())
            else:
                machine.receive_eof()
    except TrunklineError:
        with contextlib.suppress(OSError):
            sock.sendall(machine.data_to_send())
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(1.0)
            while sock.recv(CHUNK):  # or what it says last is lost to a reset
                pass
        raise
    except OSError as error:
        raise LinkClosed(f"the connection is gone: {(error.strerror or str(error)).lower()}") from error
