"""An authority inside the test's own loop, and a client that says whatever it likes."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.realmkit import Realm
from trunkline.authority import requests
from trunkline.authority.codec import decode_answer, encode, frame_size
from trunkline.authority.messages import PREAMBLE, Answer, Found, Get, Request, Stored, Submit
from trunkline.authority.statements import Signed
from trunkline.authority.trust import Trust
from trunkline.drivers.authority_aio import AuthorityServer
from trunkline.drivers.authority_home import Authority, Settings
from trunkline.drivers.disk import Store, open_store
from trunkline.drivers.tls import client_context
from trunkline.names import Address

HERE = Address("127.0.0.1", 0)
PATIENCE = 30.0


def authority(realm: Realm, folder: Path, kind: type[AuthorityServer] = AuthorityServer, **options: Any) -> Any:
    """Return an authority that is to be started, with its store in a folder."""
    about = Authority("main", realm.issuer, (realm.issuer.authority.certificate,), Settings())
    return kind(about, opening(realm, folder / "directory.sqlite"), listen=[HERE], **options)


def opening(realm: Realm, file: Path) -> Callable[[], Store]:
    return lambda: open_store(file, realm.issuer.fingerprint, create=True)


class Client:
    """A client inside TLS; ``async with`` connects it."""

    def __init__(self, realm: Realm, address: Address, *, preamble: bytes = PREAMBLE) -> None:
        self.realm = realm
        self.address = address
        self.trust = Trust(realm.name, realm.root)
        self.trust.learn((realm.issuer.authority.certificate,))
        self._preamble = preamble

    async def __aenter__(self) -> Self:
        context = client_context(self.realm.root, None)
        self.reader, self.writer = await asyncio.open_connection(self.address.host, self.address.port, ssl=context)
        self.writer.write(self._preamble)
        if self._preamble == PREAMBLE:
            assert await self.reader.readexactly(len(PREAMBLE)) == PREAMBLE
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def ask(self, request: Request) -> Answer:
        self.writer.write(encode(request))
        return await self.receive()

    async def receive(self) -> Answer:
        async with asyncio.timeout(PATIENCE):
            size = frame_size(await self.reader.readexactly(4))
            return decode_answer(await self.reader.readexactly(size))

    async def is_closed(self) -> None:
        """Wait until the other side has closed."""
        async with asyncio.timeout(PATIENCE):
            try:
                while await self.reader.read(1 << 16):
                    pass
            except OSError:
                pass

    async def record(self, user: str) -> Any:
        """Return a record, proven."""
        found = await self.ask(Get(1, user, self.trust.size))
        assert isinstance(found, Found), found
        return self.trust.check_found(found, user, self.realm.wall)

    async def submit(self, signed: Signed) -> int:
        stored = await self.ask(Submit(1, signed))
        assert isinstance(stored, Stored), stored
        return stored.index

    async def insert(self, user: str) -> int:
        key = self.realm.key(user)
        return await self.submit(requests.insert(self.realm.issuer.fingerprint, user, key.public, key.sign))

    async def approve(self, user: str) -> int:
        record = await self.record(user)
        return await self.submit(requests.approve(self.realm.issuer.fingerprint, record, self.realm.administrator))
