"""Clients that misbehave: what they say is refused, what they hold is bounded, and nobody else has to wait for them."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from tests.drivers.authoritykit import PATIENCE, Client, authority
from tests.realmkit import Realm
from trunkline.authority.codec import encode
from trunkline.authority.messages import MAX_REQUEST, AskRoot, Denied, Get, RootIs
from trunkline.drivers import authority_channel, authority_server
from trunkline.drivers.authority_channel import MAX_UNANSWERED, PAUSE_OUTPUT
from trunkline.errors import ConfigError, FrameTooLarge, MalformedMessage, NotTrunkline
from trunkline.names import Address


@pytest.fixture(scope="module")
def realm() -> Realm:
    return Realm()


async def eof(reader: asyncio.StreamReader) -> None:
    """Wait until the other side has closed."""
    with contextlib.suppress(OSError):
        async with asyncio.timeout(PATIENCE):
            while await reader.read(1 << 16):
                pass


@pytest.mark.parametrize(
    ("preamble", "said", "error"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"", NotTrunkline),
        (b"TRUNKA/1\n", (MAX_REQUEST + 1).to_bytes(4, "big"), FrameTooLarge),
        (b"TRUNKA/1\n", b"\xff\xff\xff\xff", FrameTooLarge),
        (b"TRUNKA/1\n", b"\0\0\0\1\xc1", MalformedMessage),
        (b"TRUNKA/1\n", encode(Denied(1, 36, "no")), MalformedMessage),
    ],
)
def test_whoever_breaks_the_protocol_is_told_so_and_closed(
    realm: Realm, tmp_path: Path, preamble: bytes, said: bytes, error: Any
) -> None:
    async def main() -> None:
        async with authority(realm, tmp_path) as server:
            async with Client(realm, server.address, preamble=preamble) as client:
                client.writer.write(said)
                if preamble != b"TRUNKA/1\n":
                    await client.reader.readexactly(9)
                answer = await client.receive()
                assert isinstance(answer, Denied)
                assert (answer.query, answer.code) == (0, error.code)
                await client.is_closed()
            async with Client(realm, server.address) as client:
                assert isinstance(await client.ask(AskRoot(1)), RootIs)

    asyncio.run(main())


def test_who_does_not_speak_tls_is_closed(realm: Realm, tmp_path: Path) -> None:
    async def main() -> None:
        async with authority(realm, tmp_path) as server:
            for said in (b"TRUNKA/1\n" * 10, b"\x16\x03\x01\xff\xff" + bytes(100), bytes(50_000)):
                reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
                writer.write(said)
                writer.write_eof()
                await eof(reader)
                writer.transport.abort()
            async with Client(realm, server.address) as client:
                assert isinstance(await client.ask(AskRoot(1)), RootIs)

    asyncio.run(main())


@pytest.mark.parametrize("stage", ["connected", "shaking hands", "inside", "in a message", "idle"])
def test_who_is_slow_or_silent_is_dropped(
    realm: Realm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(authority_server, "SWEEP", 0.02)
    for name in ("HANDSHAKE_TIMEOUT", "MESSAGE_TIMEOUT", "IDLE_TIMEOUT"):
        monkeypatch.setattr(authority_channel, name, 2.0)
    short = {"in a message": "MESSAGE_TIMEOUT", "idle": "IDLE_TIMEOUT"}.get(stage, "HANDSHAKE_TIMEOUT")
    monkeypatch.setattr(authority_channel, short, 0.3)

    async def main() -> None:
        async with authority(realm, tmp_path) as server:
            if stage in ("connected", "shaking hands"):
                reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
                if stage == "shaking hands":
                    writer.write(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
                await eof(reader)
                writer.transport.abort()
            else:
                async with Client(
                    realm, server.address, preamble=b"TRU" if stage == "inside" else b"TRUNKA/1\n"
                ) as slow:
                    if stage != "inside":
                        assert isinstance(await slow.ask(AskRoot(1)), RootIs)
                    if stage == "in a message":
                        slow.writer.write(encode(AskRoot(2))[:3])
                    await slow.is_closed()
            assert server.status().clients == 0

    asyncio.run(main())


def test_who_asks_and_does_not_read_costs_a_bounded_buffer(
    realm: Realm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 12_000

    async def main() -> None:
        async with authority(realm, tmp_path) as server, Client(realm, server.address) as greedy:
            greedy.writer.transport.pause_reading()
            greedy.writer.write(encode(AskRoot(1)) * asked)  # more than the kernel keeps
            channel = None
            async with Client(realm, server.address) as other:
                answer = len(encode(await other.ask(AskRoot(1))))
                (channel, _) = server._channels.values()
                while not (channel.output and channel.crowded):
                    await other.ask(AskRoot(1))  # who does not have to wait for that
                assert channel.output <= PAUSE_OUTPUT + MAX_UNANSWERED * answer
            greedy.writer.transport.resume_reading()
            for _ in range(asked):
                assert isinstance(await greedy.receive(), RootIs)

    asyncio.run(main())


def test_who_never_reads_is_dropped(realm: Realm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority_server, "SWEEP", 0.02)
    monkeypatch.setattr(authority_channel, "OUTPUT_TIMEOUT", 0.3)

    async def main() -> None:
        async with authority(realm, tmp_path) as server, Client(realm, server.address) as greedy:
            greedy.writer.transport.pause_reading()
            greedy.writer.write(encode(AskRoot(1)) * 20_000)
            async with Client(realm, server.address) as other:
                while server.status().clients > 1:
                    await other.ask(AskRoot(1))

    asyncio.run(main())


def test_all_that_waits_for_all_clients_is_bounded(
    realm: Realm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(authority_server, "SWEEP", 0.02)
    monkeypatch.setattr(authority_server, "MAX_OUTPUT", 20_000)
    caplog.set_level("INFO", "trunkline")

    async def main() -> None:
        async with authority(realm, tmp_path) as server, Client(realm, server.address) as greedy:
            greedy.writer.transport.pause_reading()
            greedy.writer.write(encode(AskRoot(1)) * 20_000)
            async with Client(realm, server.address) as other:
                while server.status().clients > 1:
                    await other.ask(AskRoot(1))

    asyncio.run(main())
    assert "bytes wait for it" in caplog.text


def test_for_one_client_too_many_an_idle_one_gives_way(realm: Realm, tmp_path: Path) -> None:
    async def main() -> None:
        async with authority(realm, tmp_path, max_clients=2) as server, contextlib.AsyncExitStack() as stack:
            first, second, third = (Client(realm, server.address) for _ in range(3))
            for client in (first, second):
                await stack.enter_async_context(client)
                assert isinstance(await client.ask(AskRoot(1)), RootIs)
            await first.ask(AskRoot(1))
            await stack.enter_async_context(third)
            assert isinstance(await third.ask(AskRoot(1)), RootIs)
            await second.is_closed()
            assert isinstance(await first.ask(AskRoot(1)), RootIs)

    asyncio.run(main())


def test_when_all_are_busy_one_more_is_turned_away(realm: Realm, tmp_path: Path) -> None:
    async def main() -> None:
        async with authority(realm, tmp_path, max_clients=1) as server, Client(realm, server.address) as busy:
            busy.writer.write(encode(AskRoot(1)) + encode(AskRoot(2))[:3])  # one record: half of the second is there
            assert isinstance(await busy.receive(), RootIs)
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                async with Client(realm, server.address):
                    pass
            busy.writer.write(encode(AskRoot(2))[3:])
            assert isinstance(await busy.receive(), RootIs)

    asyncio.run(main())


def test_who_does_not_shake_hands_gives_way_to_the_next(realm: Realm, tmp_path: Path) -> None:
    async def main() -> None:
        async with authority(realm, tmp_path, max_clients=1) as server:
            reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
            while not server.status().clients:
                await asyncio.sleep(0)
            async with Client(realm, server.address) as client:
                assert isinstance(await client.ask(AskRoot(1)), RootIs)
            await eof(reader)
            writer.close()

    asyncio.run(main())


def test_pieces_of_any_size_make_a_message(realm: Realm, tmp_path: Path) -> None:
    async def main() -> None:
        async with authority(realm, tmp_path) as server, Client(realm, server.address) as client:
            for byte in encode(Get(5, "ann")):
                client.writer.write(bytes([byte]))
                await client.writer.drain()
            assert (await client.receive()).query == 5

    asyncio.run(main())


def test_an_address_that_is_taken_is_said_so(realm: Realm, tmp_path: Path) -> None:
    async def main() -> None:
        async with authority(realm, tmp_path / "a") as server:
            other = authority(realm, tmp_path / "b")
            other._listen = (Address("127.0.0.1", server.address.port),)
            with pytest.raises(ConfigError, match="can't be listened on"):
                await other.start()
            with pytest.raises(ConfigError, match="in use by another authority"):
                await authority(realm, tmp_path / "a").start()
            async with Client(realm, server.address) as client:
                assert await client.insert("ann") == 0

    asyncio.run(main())
