"""An authority that runs in a thread of the test, and the commands run in this process, as a user of one home would."""

import asyncio
import contextlib
import io
import threading
from pathlib import Path
from typing import Self

from trunkline.authority.certificates import fingerprint_text
from trunkline.cli import main
from trunkline.drivers.authority_aio import AuthorityServer
from trunkline.drivers.authority_home import AuthorityHome
from trunkline.drivers.disk import open_store
from trunkline.drivers.home import Home
from trunkline.drivers.realm_home import RealmHome, RealmSettings
from trunkline.names import Address


class LiveAuthority:
    """The authority in ``home`` listens while the block runs."""

    def __init__(self, home: Path) -> None:
        self.home = AuthorityHome(home)
        self.address = ""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event

    async def _main(self) -> None:
        loaded = self.home.load()
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        opened = lambda: open_store(self.home.store, loaded.issuer.fingerprint)  # noqa: E731
        async with AuthorityServer(loaded, opened, listen=[Address("127.0.0.1", 0)]) as server:
            self.address = str(server.address)
            self._started.set()
            await self._stop.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)


class Person:
    """Whoever types: a home, and what the commands said."""

    def __init__(self, home: Path) -> None:
        self.home = RealmHome(home, {})

    def says(self, *words: object, code: int = 0) -> str:
        """Run a command in this process, and return its stdout; stderr is in `errors`."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            got = main(["--home", str(self.home.path), *map(str, words)])
        self.errors = err.getvalue()
        assert got == code, f"{words}: exit code {got}\n{out.getvalue()}\n{self.errors}"
        return out.getvalue()


class World:
    """A realm with a live authority; ``ann`` is its administrator."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ann = Person(path / "ann")
        self.ann.says("authority", "init", "lab.example")
        self.authority = LiveAuthority(path / "ann")

    def settle(self) -> None:
        root = self.authority.home.admin_root()
        settings = RealmSettings("lab.example", fingerprint_text(root.key_id), (self.authority.address,), "ann")
        (self.ann.home.path / "realm.toml").unlink(missing_ok=True)
        self.ann.home.join(root.certificate, settings)
        Home(self.ann.home.path).remember([Address("127.0.0.1", 7117)])

    def person(self, name: str) -> Person:
        return Person(self.path / name)
