import asyncio
import errno
import socket

import pytest

from tests.drivers.aiokit import run, until
from trunkline.drivers import accept_aio
from trunkline.drivers.accept_aio import Acceptor


class Odd(socket.socket):
    """A listener whose next accepts fail with these."""

    def __init__(self) -> None:
        super().__init__(socket.AF_INET)
        self.bind(("127.0.0.1", 0))
        self.listen()
        self.setblocking(False)
        self.failures: list[int] = []
        self.asked = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.asked += 1
        if self.failures:
            number = self.failures.pop()
            raise OSError(number, "as the test wants")
        return super().accept()


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.mark.parametrize("at_once", [1, 64])
def test_all_that_dial_are_accepted(at_once: int) -> None:
    async def main() -> None:
        came: list[socket.socket] = []
        listener = Odd()

        def accepted(sock: socket.socket, remote: object) -> None:
            assert sock.gettimeout() == 0.0
            assert remote == dialled[len(came)].getsockname()
            came.append(sock)

        dialled = [socket.create_connection(listener.getsockname()) for _ in range(5)]
        acceptor = Acceptor(asyncio.get_running_loop(), [listener], accepted, at_once=at_once)
        await until(lambda: len(came) == 5)
        assert listener.asked == (5 if at_once == 1 else 6)
        acceptor.close()
        acceptor.close()
        for sock in came + dialled:
            sock.close()

    run(main)


def test_without_descriptors_it_rests(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        came: list[socket.socket] = []
        listener = Odd()
        listener.failures = [errno.EMFILE]
        monkeypatch.setattr(accept_aio, "REST", 60.0)
        acceptor = Acceptor(asyncio.get_running_loop(), [listener], lambda sock, remote: came.append(sock))
        with socket.create_connection(listener.getsockname()):
            await turns(10)
            assert listener.asked == 1  # it does not spin
            (handle,) = acceptor._resting.values()
            handle.cancel()
            acceptor._resume(listener)
            await until(lambda: came)
        acceptor.close()
        came[0].close()

    run(main)
    assert "no connection is accepted for 60 s: as the test wants" in caplog.text


def test_it_may_be_closed_at_rest() -> None:
    async def main() -> None:
        listener = Odd()
        listener.failures = [errno.ENFILE]
        acceptor = Acceptor(asyncio.get_running_loop(), [listener], lambda sock, remote: sock.close())
        with socket.create_connection(listener.getsockname()):
            await turns(5)
        acceptor.close()

    run(main)


def test_one_that_went_away_again_is_no_matter() -> None:
    async def main() -> None:
        came: list[socket.socket] = []
        listener = Odd()
        listener.failures = [errno.ECONNABORTED]
        acceptor = Acceptor(asyncio.get_running_loop(), [listener], lambda sock, remote: came.append(sock))
        with socket.create_connection(listener.getsockname()):
            await until(lambda: came)
        assert listener.asked == 2
        acceptor.close()
        came[0].close()

    run(main)


def test_closed_by_what_a_connection_brought_about() -> None:
    async def main() -> None:
        listener = Odd()

        def accepted(sock: socket.socket, remote: object) -> None:
            sock.close()
            acceptor.close()

        acceptor = Acceptor(asyncio.get_running_loop(), [listener], accepted, at_once=64)
        with socket.create_connection(listener.getsockname()):
            await until(lambda: listener.asked)
        assert listener.asked == 1

    run(main)
