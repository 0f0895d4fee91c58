import asyncio
import contextlib
import socket
from collections.abc import Coroutine

import pytest

from trunkline.drivers import endpoints
from trunkline.drivers.endpoints import Endpoint, Listening, dial
from trunkline.errors import ConfigError, InvalidAddress, ServiceUnreachable
from trunkline.names import Address


def run(main: Coroutine[object, object, None]) -> None:
    async def guarded() -> None:
        async with asyncio.timeout(30):
            await main

    asyncio.run(guarded())


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("tcp:127.0.0.1:80", Endpoint(Address("127.0.0.1", 80))),
        ("127.0.0.1:0", Endpoint(Address("127.0.0.1", 0))),
        ("tcp:[::1]:80", Endpoint(Address("::1", 80))),
        ("unix:/run/x", Endpoint(path="/run/x")),
    ],
)
def test_parse(text, endpoint):
    assert Endpoint.parse(text) == endpoint
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("127.0.0.1", "the port is missing; write host:port, as in tcp:127.0.0.1:8000 or unix:/run/web.sock"),
        ("tcp:", "the host is missing"),
        ("unix:", "1 to 107 bytes"),
        ("unix:" + "x" * 108, "1 to 107 bytes"),
        ("unix:a\0b", "1 to 107 bytes"),
    ],
)
def test_parse_refuses(text, why):
    with pytest.raises(InvalidAddress, match=why):
        Endpoint.parse(text)


@pytest.mark.parametrize("kind", ["tcp4", "tcp6", "name", "unix"])
def test_dial_what_is_listened_on(kind, tmp_path):
    at = {"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0", "name": "localhost:0", "unix": f"unix:{tmp_path}/socket"}[kind]

    async def main() -> None:
        came: asyncio.Queue[socket.socket] = asyncio.Queue()
        listening = Listening(Endpoint.parse(at), came.put_nowait)
        ours = await dial(listening.bound)
        theirs = await came.get()
        with ours, theirs:
            assert ours.gettimeout() == theirs.gettimeout() == 0.0
            ours.send(b"x")
            assert await asyncio.get_running_loop().sock_recv(theirs, 1) == b"x"
        listening.close()
        with pytest.raises(ServiceUnreachable, match=r"does not answer: (connection refused|no such file)"):
            await dial(listening.bound)

    run(main())


def test_the_socket_that_a_dead_process_left_is_replaced(tmp_path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def main() -> None:
        listening = Listening(Endpoint(path=str(path)), lambda sock: sock.close())
        (await dial(listening.bound)).close()
        listening.close()
        assert not path.exists()

    run(main())


def test_what_is_there_stays(tmp_path):
    file, live = tmp_path / "file", tmp_path / "live"
    file.write_text("precious")

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(live))
            other.listen()
            for path in (file, live, tmp_path / "no" / "folder"):
                with pytest.raises(ConfigError, match=f"unix:{path} can't be listened on: "):
                    Listening(Endpoint(path=str(path)), lambda sock: sock.close())
        assert file.read_text() == "precious"
        assert live.exists()

    run(main())


def test_a_socket_that_another_has_made_since_is_not_removed(tmp_path):
    path = tmp_path / "socket"

    async def main() -> None:
        listening = Listening(Endpoint(path=str(path)), lambda sock: sock.close())
        path.unlink()
        path.write_text("another's")
        listening.close()
        assert path.exists()

    run(main())


def test_a_port_that_is_taken():
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            at = Endpoint(Address("127.0.0.1", other.getsockname()[1]))
            with pytest.raises(ConfigError, match="can't be listened on: address already in use"):
                Listening(at, lambda sock: sock.close())

    run(main())


@pytest.mark.parametrize("patient", [True, False])
def test_a_service_whose_queue_is_full(patient, monkeypatch, tmp_path):
    if not patient:
        monkeypatch.setattr(endpoints, "DIAL_TIMEOUT", 0.01)
    path = str(tmp_path / "socket")

    async def main() -> None:
        with contextlib.ExitStack() as stack:
            service = stack.enter_context(socket.socket(socket.AF_UNIX))
            service.bind(path)
            service.listen(0)
            queued = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    client = stack.enter_context(socket.socket(socket.AF_UNIX))
                    client.setblocking(False)
                    client.connect(path)
                    queued += 1
            if not patient:
                with pytest.raises(ServiceUnreachable, match=r"too busy to accept within 0\.01 s"):
                    await dial(Endpoint(path=path))
                return
            dialling = asyncio.create_task(dial(Endpoint(path=path)))
            await asyncio.sleep(0)
            for _ in range(queued):
                service.accept()[0].close()
            ours = stack.enter_context(await dialling)
            theirs = stack.enter_context(service.accept()[0])
            theirs.send(b"x")
            assert await asyncio.get_running_loop().sock_recv(ours, 1) == b"x"

    run(main())
