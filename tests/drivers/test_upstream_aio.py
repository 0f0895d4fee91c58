"""Asking an authority: it answers, or the error says why not; and the next question connects anew."""

import asyncio
from pathlib import Path

import pytest

from tests.drivers.authoritykit import authority
from tests.realmkit import Realm
from trunkline.authority.messages import PREAMBLE, AskRoot, RootIs
from trunkline.drivers import upstream_aio
from trunkline.drivers.tls import server_context
from trunkline.drivers.upstream_aio import Upstream
from trunkline.errors import FrameTooLarge, NoAuthority, VersionMismatch
from trunkline.names import Address


@pytest.fixture(scope="module")
def realm() -> Realm:
    return Realm()


def test_it_connects_anew_after_a_failure(realm: Realm, tmp_path: Path) -> None:
    async def main() -> None:
        async with authority(realm, tmp_path) as first:
            upstream = Upstream(first.address, realm.root)
            assert isinstance(await upstream.ask(AskRoot(1)), RootIs)
            assert isinstance(await upstream.ask(AskRoot(2)), RootIs)
        with pytest.raises(NoAuthority):
            await upstream.ask(AskRoot(3))
        async with authority(realm, tmp_path) as second:
            upstream.address = second.address
            assert isinstance(await upstream.ask(AskRoot(4)), RootIs)
            await upstream.close()

    asyncio.run(main())


def test_another_realms_authority_is_not_asked(realm: Realm, tmp_path: Path) -> None:
    async def main() -> None:
        async with authority(Realm(), tmp_path) as server, Upstream(server.address, realm.root) as upstream:
            with pytest.raises(NoAuthority, match="unable to get local issuer certificate"):
                await upstream.ask(AskRoot(1))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("said", "error"),
    [(b"", NoAuthority), (b"HTTP/1.1 ", VersionMismatch), (PREAMBLE + b"\xff\xff\xff\xff", FrameTooLarge)],
)
def test_garbage_and_silence_are_errors(
    realm: Realm, monkeypatch: pytest.MonkeyPatch, said: bytes, error: type[Exception]
) -> None:
    monkeypatch.setattr(upstream_aio, "TIMEOUT", 0.5)

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await reader.read()
        writer.close()

    async def main() -> None:
        context = server_context(realm.root, realm.credential("authority/main"), required=False)
        async with await asyncio.start_server(say, "127.0.0.1", 0, ssl=context) as server:
            address = Address(*server.sockets[0].getsockname()[:2])
            async with Upstream(address, realm.root) as upstream:
                with pytest.raises(error):
                    await upstream.ask(AskRoot(1))

    asyncio.run(main())
