import asyncio
import socket

import pytest

from tests.deaf import deaf_listener
from tests.drivers.aiokit import run, until
from trunkline.drivers.dials_aio import Dials, connect
from trunkline.names import Address


def test_connecting() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            with await connect(loop, Address("127.0.0.1", port), 30) as sock:
                assert sock.gettimeout() == 0.0
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            with await connect(loop, Address("localhost", port), 30):
                pass
        with pytest.raises(OSError, match="refused"):
            await connect(loop, Address("127.0.0.1", port), 30)

    run(main)


def test_connecting_takes_no_longer_than_allowed() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with deaf_listener() as address:
            with pytest.raises(OSError, match=r"answer within 0\.01 s"):
                await connect(loop, address, 0.01)
            dialling = asyncio.create_task(connect(loop, address, 30))
            for _ in range(5):
                await asyncio.sleep(0)  # wherever it is by now, it can be cancelled there
            dialling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialling

    run(main)


def test_a_name_has_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            entries = [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", address)
                for address in (("127.0.0.1", 1), listener.getsockname())
            ]

            async def resolve(*args: object, **kwargs: object) -> list[object]:
                return entries

            monkeypatch.setattr(loop, "getaddrinfo", resolve)
            (await connect(loop, Address("any", 1), 30)).close()
            entries.clear()
            with pytest.raises(OSError, match="no address"):
                await connect(loop, Address("any", 1), 30)

    run(main)


def test_a_resolver_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def resolve(*args: object, **kwargs: object) -> None:
            await loop.create_future()

        monkeypatch.setattr(loop, "getaddrinfo", resolve)
        with pytest.raises(OSError, match="resolver did not answer"):
            await connect(loop, Address("any", 1), 0.001)

    run(main)


class Log:
    """Dials, and what was told of them."""

    def __init__(self) -> None:
        self.opened: list[tuple[int, Address]] = []
        self.failed: list[tuple[int, str]] = []
        self.dials = Dials(
            asyncio.get_running_loop(), 30.0, opened=self._opened, failed=lambda *told: self.failed.append(told)
        )

    def _opened(self, conn: int, sock: socket.socket, address: Address) -> None:
        sock.close()
        self.opened.append((conn, address))


def test_what_becomes_of_dials_is_told() -> None:
    async def main() -> None:
        log = Log()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            here = Address(*listener.getsockname())
            log.dials.dial(1, here)
            await until(lambda: log.opened)
        log.dials.dial(2, here)
        await until(lambda: log.failed)
        assert (log.opened, log.failed) == ([(1, here)], [(2, "connection refused")])
        assert log.dials.tasks == {}

    run(main)


def test_a_dial_that_somebody_cancels_has_failed() -> None:
    async def main() -> None:
        log = Log()
        with deaf_listener() as address:
            log.dials.dial(1, address)
            log.dials.tasks[1].cancel()  # before it has begun
            log.dials.dial(2, address)
            for _ in range(5):
                await asyncio.sleep(0)  # let it begin
            log.dials.tasks[2].cancel()
            await until(lambda: len(log.failed) == 2)
        assert log.failed == [(1, "the dial was cancelled"), (2, "the dial was cancelled")]

    run(main)


def test_a_dial_that_is_given_up_is_not_spoken_of() -> None:
    async def main() -> None:
        log = Log()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            here = Address(*listener.getsockname())
            log.dials.dial(1, here)
            log.dials.give_up(1)
            log.dials.give_up(1)
            log.dials.dial(2, here)
            made = log.dials.tasks.pop(2)  # given up in the very turn in which it is made
            await asyncio.wait([made])
            log.dials.dial(3, here)
            refused = log.dials.tasks.pop(3)
            listener.close()
            await asyncio.wait([refused])
            log.dials.dial(4, here)
            log.dials.close()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert (log.opened, log.failed) == ([], [])

    run(main)
