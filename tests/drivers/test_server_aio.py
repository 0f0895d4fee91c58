import asyncio
import errno
import logging
import os
import signal
import socket

import pytest

from tests.drivers.aiokit import LOOPS, Raw, run, server, until
from trunkline.drivers import signals_aio
from trunkline.drivers.server_aio import SwitchboardServer
from trunkline.errors import ConfigError, NameTaken, SilentPeer
from trunkline.names import Address
from trunkline.switchboard import server as machine
from trunkline.switchboard.config import ServerConfig
from trunkline.wire.codec import PREAMBLE, encode
from trunkline.wire.limits import MAX_FRAME
from trunkline.wire.messages import (
    Alive,
    AskStatus,
    Goodbye,
    Hello,
    Matched,
    Meet,
    Refused,
    ServerStatus,
    Welcome,
)


def meet(number: int, me: str, you: str) -> Meet:
    return Meet(number.to_bytes(16, "big"), 1, me, you, b"")


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_two_clients_are_matched(loop: type[asyncio.SelectorEventLoop]) -> None:
    async def main() -> None:
        async with server() as s:
            a, b = await Raw.hello(s.address), await Raw.hello(s.address)
            a.send(meet(1, "a", "b"))
            b.send(meet(2, "b", "a"))
            left, right = await a.receive(), await b.receive()
            assert isinstance(left, Matched)
            assert isinstance(right, Matched)
            assert left.token == right.token
            await a.close()
            await b.close()

    run(main, loop)


def test_the_greeting_names_the_server() -> None:
    async def main() -> None:
        async with server() as s:
            assert s.config.id == str(s.address)
            assert s.address.port == s.bound[0].port != 0
            raw = await Raw.dial(s.address)
            raw.send_bytes(PREAMBLE + encode(Hello("test")))
            welcome = await raw.receive()
            assert isinstance(welcome, Welcome)
            assert welcome.server == s.config.id
            await raw.close()

    run(main)


def test_bytes_may_come_one_at_a_time() -> None:
    async def main() -> None:
        async with server() as s:
            raw = await Raw.dial(s.address)
            for byte in PREAMBLE + encode(Hello("test")) + encode(AskStatus(7)):
                raw.send_bytes(bytes([byte]))
                await asyncio.sleep(0)
            assert isinstance(await raw.receive(), Welcome)
            assert isinstance(await raw.receive(), ServerStatus)
            await raw.close()

    run(main)


def test_several_addresses_and_all_interfaces() -> None:
    async def main() -> None:
        config = ServerConfig(id="s", address=Address("0.0.0.0", 0))
        listen = [Address("0.0.0.0", 0), Address("127.0.0.1", 0)]
        async with SwitchboardServer(config, listen=listen) as s:
            assert len(s.bound) == 2
            assert s.config.id == "s"
            assert s.address.host != "0.0.0.0"
            assert s.address.port == s.bound[0].port
            for address in s.bound:
                await (await Raw.hello(Address("127.0.0.1", address.port))).close()

    run(main)


def test_all_interfaces_but_one_is_bound() -> None:
    async def main() -> None:
        config = ServerConfig(id="", address=Address("0.0.0.0", 0))
        async with SwitchboardServer(config, listen=[Address("127.0.0.1", 0)]) as s:
            assert s.address == s.bound[0]

    run(main)


def test_an_address_that_is_taken() -> None:
    async def main() -> None:
        async with server() as s:
            with pytest.raises(ConfigError, match=r"can't be listened on \(.*in use\)"):
                await server(address=s.address).start()
        with pytest.raises(ConfigError, match="can't be listened on"):
            await SwitchboardServer(s.config, listen=[Address("127.0.0.1", 0), Address("no.invalid", 1)]).start()

    run(main)


VERSION_2 = b"TRUNK/2\n"


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 2, "does not speak Trunkline"),
        (VERSION_2, 3, "speaks TRUNK/2, this side speaks TRUNK/1"),
        (PREAMBLE + (MAX_FRAME + 1).to_bytes(4, "big"), 4, f"exceeds the limit of {MAX_FRAME}"),
        (PREAMBLE + b"\x00\x00\x00\x01\xc1", 5, "malformed"),
        (PREAMBLE + b"\x00\x00\x00\x03\x92\xcc\xfa", 5, "malformed"),
        (PREAMBLE + b"\x00\x00\x00\x03\x91\xcc\xfa", 6, "unknown message 250"),
        (PREAMBLE + encode(Welcome("x", 1, 1.0, ())), 7, "may not send Welcome"),
        (PREAMBLE + encode(AskStatus(1)), 7, "may not send AskStatus"),
        (PREAMBLE + encode(Hello("x")) + encode(Hello("x")), 7, "may not send Hello"),
    ],
)
def test_who_breaks_the_protocol_is_told_and_dropped(data: bytes, code: int, said: str) -> None:
    async def main() -> None:
        async with server() as s:
            other = await Raw.hello(s.address)
            raw = await Raw.dial(s.address)
            raw.send_bytes(data)
            answer = await raw.receive()
            if isinstance(answer, Welcome):
                answer = await raw.receive()
            assert isinstance(answer, Goodbye)
            assert answer.code == code
            assert said in answer.text
            assert await raw.receive() is None
            await raw.close()
            other.send(AskStatus(1))
            status = await other.receive()
            assert isinstance(status, ServerStatus)
            assert status.clients == 1
            await other.close()

    run(main)


def test_last_words_reach_who_still_talks() -> None:
    async def main() -> None:
        async with server() as s:
            raw = await Raw.dial(s.address)
            raw.send_bytes(b"\xff" * 1_000_000)
            answer = await raw.receive()
            assert isinstance(answer, Goodbye)
            await raw.close()

    run(main)


def test_who_stays_silent_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "GREETING_TIME", 0.01)

    async def main() -> None:
        async with server(heartbeat=0.05) as s:
            raw = await Raw.dial(s.address)
            answer = await raw.receive()
            assert isinstance(answer, Goodbye)
            assert answer.code == SilentPeer.code
            assert await raw.receive() is None
            await raw.close()

    run(main)


def test_a_slow_greeting_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "GREETING_TIME", 0.01)

    async def main() -> None:
        async with server(heartbeat=0.05) as s:
            raw = await Raw.dial(s.address)
            raw.send_bytes(PREAMBLE + b"\x00\x00")
            assert isinstance(await raw.receive(), Goodbye)
            assert await raw.receive() is None
            await raw.close()

    run(main)


def test_a_client_that_never_reads_is_dropped() -> None:
    async def main() -> None:
        async with server(heartbeat=0.1) as s:
            loop = asyncio.get_running_loop()
            with socket.create_connection((s.address.host, s.address.port)) as deaf:
                deaf.setblocking(False)
                await loop.sock_sendall(deaf, PREAMBLE + encode(Hello("deaf")))
                questions = encode(AskStatus(1)) * 1000
                with pytest.raises(ConnectionError):
                    while True:
                        await loop.sock_sendall(deaf, questions)
            other = await Raw.hello(s.address)
            other.send(AskStatus(1))
            status = await other.receive()
            assert isinstance(status, ServerStatus)
            assert status.clients == 1
            await other.close()

    run(main)


def test_very_many_requests_on_one_connection() -> None:
    number, cap = 20_000, 8

    async def main() -> None:
        async with server(max_requests=cap, heartbeat=60.0) as s:  # the other client is silent for long
            greedy, other = await Raw.hello(s.address), await Raw.hello(s.address)

            async def ask() -> None:
                for i in range(number):
                    greedy.send(meet(i, "a", "b"))
                    await greedy.writer.drain()

            asking = asyncio.create_task(ask())
            refused = 0
            asked_between = 0
            while refused < number - cap:
                answer = await greedy.receive()
                if isinstance(answer, Refused):
                    assert answer.limit == cap
                    assert "too many requests" in answer.text
                    refused += 1
                    if refused % 4000 == 0:
                        other.send(AskStatus(refused))
                        status = await other.receive()
                        assert isinstance(status, ServerStatus)
                        assert status.meets == cap
                        asked_between += 1
            await asking
            assert asked_between == 4
            await greedy.close()
            await other.close()

    run(main)


def test_two_servers_join() -> None:
    async def main() -> None:
        async with server() as one, server(join=(one.address,)) as two:
            a, b = await Raw.hello(one.address), await Raw.hello(two.address)
            while True:
                a.send(AskStatus(1))
                status = await a.receive()
                if isinstance(status, ServerStatus) and status.connected:
                    break
            a.send(meet(1, "a", "b"))
            b.send(meet(2, "b", "a"))
            assert isinstance(await next_match(a), Matched)
            assert isinstance(await next_match(b), Matched)
            await a.close()
            await b.close()

    async def next_match(raw: Raw) -> Matched:
        while not isinstance(message := await raw.receive(), Matched):
            assert message is not None
        return message

    run(main)


def test_servers_with_much_to_tell_each_other_read_while_they_write() -> None:
    """Megabytes each way, more than the kernel's buffers hold: neither may wait for the other to read first."""
    clients, each = 4, 1000

    async def main() -> None:
        async with server(heartbeat=30.0) as one, server(heartbeat=30.0) as two:
            raws = []
            for where in (one, two):
                for _ in range(clients):
                    raw = await Raw.hello(where.address)
                    first = len(raws) * each
                    raw.send(
                        *(Meet(n.to_bytes(16), 1, f"a{n}", f"b{n}", b"c" * 1024) for n in range(first, first + each))
                    )
                    raws.append(raw)
            async with server(heartbeat=30.0, join=(one.address, two.address)):
                for raw in (raws[0], raws[-1]):
                    while True:
                        raw.send(AskStatus(1))
                        status = await raw.receive()
                        assert isinstance(status, ServerStatus)
                        if status.foreign == clients * each:
                            break
                for raw in raws:
                    await raw.close()

    run(main)


def test_a_mate_that_is_not_there_is_tried_again(unused_port: int) -> None:
    async def main() -> None:
        there = Address("127.0.0.1", unused_port)
        async with server(join=(there,), heartbeat=0.1) as one, server(address=there):
            raw = await Raw.hello(one.address)
            while True:
                raw.send(AskStatus(1))
                status = await raw.receive()
                if isinstance(status, ServerStatus) and status.connected:
                    break
            await raw.close()

    run(main)


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_server_with_a_taken_id_does_not_go_on() -> None:
    async def main() -> None:
        async with server(id="same") as one:
            with pytest.raises(NameTaken):
                await server(id="same", join=(one.address,)).serve_forever()

    run(main)


def test_stopping_while_dialling() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            async with server(join=(Address("127.0.0.1", silent.getsockname()[1]),)):
                pass

    run(main)


def test_clients_are_told_that_it_stops() -> None:
    async def main() -> None:
        async with server() as s:
            raw = await Raw.hello(s.address)
        answer = await raw.receive()
        assert isinstance(answer, Goodbye)
        assert await raw.receive() is None
        await raw.close()
        await s.stop()

    run(main)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_it(number: signal.Signals) -> None:
    async def main() -> None:
        s = server()
        serving = asyncio.create_task(s.serve_forever())
        await until(lambda: s.bound)
        raw = await Raw.hello(s.address)
        os.kill(os.getpid(), number)
        assert isinstance(await raw.receive(), Goodbye)
        await raw.close()
        await serving

    run(main)


def test_stop_ends_serve_forever() -> None:
    async def main() -> None:
        async with server() as s:
            serving = asyncio.create_task(s.serve_forever())
            await s.stop()
            await serving
        await server().stop()  # never started

    run(main)


def test_on_another_thread_no_signal_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(signals_aio.threading, "main_thread", lambda: None)
        async with server() as s:
            serving = asyncio.create_task(s.serve_forever())
            await asyncio.sleep(0)
            await s.stop()
            await serving

    run(main)


def test_a_fault_of_ours_costs_one_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with server() as s:
            unlucky, other = await Raw.hello(s.address), await Raw.hello(s.address)

            def fail(*_: object) -> None:
                raise ZeroDivisionError

            rules = {**machine.ADMISSION, Meet: (fail, machine.ADMISSION[Meet][1])}
            monkeypatch.setattr(machine, "ADMISSION", rules)
            unlucky.send(meet(1, "a", "b"))
            answer = await unlucky.receive()
            assert isinstance(answer, Goodbye)
            assert answer.code == 1
            other.send(AskStatus(1))
            assert isinstance(await other.receive(), ServerStatus)
            await unlucky.close()
            await other.close()

    run(main)
    assert "ZeroDivisionError" in caplog.text


def test_every_event_and_effect_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with server() as s:
            raw = await Raw.hello(s.address)
            raw.send(Alive())
            raw.send(AskStatus(1))
            await raw.receive()
            await raw.close()
            await until(lambda: "lost" in caplog.text)

    caplog.set_level(logging.DEBUG, "trunkline")
    run(main)
    lines = [record.getMessage() for record in caplog.records if record.name == "trunkline"]
    assert any(line.startswith("< -1 Hello(") for line in lines)
    assert any(line.startswith("> -1 Welcome(") for line in lines)
    assert any(line.startswith("< -1 Alive(") for line in lines)


def test_no_descriptor_left(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with server() as s:
            real = socket.socket.accept
            failures = 0

            def accept(sock: socket.socket) -> object:
                nonlocal failures
                if not failures:
                    failures += 1
                    raise OSError(errno.EMFILE, "Too many open files")
                return real(sock)

            monkeypatch.setattr(socket.socket, "accept", accept)
            monkeypatch.setattr("trunkline.drivers.accept_aio.REST", 0.01)
            await (await Raw.hello(s.address)).close()
            assert failures == 1

    run(main)
