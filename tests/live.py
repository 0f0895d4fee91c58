"""A switchboard server for tests of the faces: a real one, on a loop in a thread of the test's process."""

import asyncio
import threading
from types import TracebackType
from typing import Self

from tests.realmkit import Realm
from trunkline.drivers.membership import Membership
from trunkline.drivers.server_aio import SwitchboardServer
from trunkline.names import Address
from trunkline.switchboard.config import ServerConfig
from trunkline.switchboard.policy import Policy


class LiveServer:
    """A server on a free port of 127.0.0.1. It can be stopped, and started again at the same address.

    With ``member`` (`tests.realmkit`) it is secured; ``policy`` then has to be of its realm.
    """

    def __init__(self, *, member: Membership | None = None, **settings: object) -> None:
        self._settings = settings
        self._member = member
        self._port = 0
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, realm: Realm) -> Self:
        """Return a server of this realm, where everybody may do everything."""
        return cls(member=realm.membership("switchboard/live"), policy=Policy(realm=realm.name))

    def start(self) -> Self:
        """Return once it listens."""
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(started)), name="live-server")
        self._thread.start()
        started.wait()
        return self

    def stop(self) -> None:
        """Return once it has said goodbye to everybody and is gone."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()
            self._thread = None

    @property
    def address(self) -> str:
        """Where clients find it."""
        return f"127.0.0.1:{self._port}"

    async def _main(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        config = ServerConfig(id="", address=Address("127.0.0.1", self._port), **self._settings)  # type: ignore[arg-type]
        async with SwitchboardServer(config, member=self._member) as server:
            self._port = server.address.port
            started.set()
            await self._end.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
