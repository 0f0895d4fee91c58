"""What is kept between runs: the settings file and the host list (docs/operating.md).

TRUNKLINE_HOME      the folder of both (default: the platform's folder for settings)
    config.toml     written by people; a mistake in it is an error that says where
    switchboards    the host list: written by us, one address a line, the last that answered first

The host list only saves time. A full disk, a read-only folder or garbage in it is warned of once, and never
keeps two processes from meeting.
"""

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import platformdirs

from trunkline.errors import ConfigError, InvalidAddress
from trunkline.names import DEFAULT_PORT, Address

MAX_REMEMBERED: Final = 64
"""Most addresses in the host list: as many as a mesh has servers."""

MAX_FILE: Final = 64 * 1024
"""Most bytes that are read of either file."""

_LOCAL: Final = Address("127.0.0.1", DEFAULT_PORT)
_HEAD: Final = "# Switchboard servers that were seen, the last that answered first. Written by Trunkline.\n"
_log: Final = logging.getLogger("trunkline")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``config.toml`` may say."""

    switchboards: tuple[str, ...] = ()
    """Servers to look for, ``host:port`` each; TRUNKLINE_SWITCHBOARDS goes before it."""
    advertise: tuple[str, ...] | None = None
    """Addresses at which peers on other hosts can dial this one, instead of what the kernel says."""


class Home:
    """The folder of this user's settings and host list."""

    def __init__(self, path: Path | str | None = None, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        chosen = path or environ.get("TRUNKLINE_HOME")
        self.path = Path(chosen) if chosen else platformdirs.user_config_path("trunkline", appauthor=False)
        self._kept: tuple[Address, ...] | None = None
        self._warned = False

    @property
    def in_realm(self) -> bool:
        """Whether this home belongs to a realm (`trunkline.drivers.realm_home`): then servers are spoken to in TLS."""
        return (self.path / "realm.toml").exists()

    def settings(self) -> Settings:
        """Read ``config.toml``; if there is none, everything has its default.

        Raises:
            ConfigError: it can't be read, or says something that no setting is.
        """
        file = self.path / "config.toml"
        try:
            with file.open("rb") as stream:
                text = stream.read(MAX_FILE + 1)
        except FileNotFoundError:
            return Settings()
        except OSError as error:
            raise ConfigError(f"{file} can't be read: {error.strerror}") from error
        if len(text) > MAX_FILE:
            raise ConfigError(f"{file} is larger than {MAX_FILE} bytes: that is no settings file of ours")
        try:
            return msgspec.toml.decode(text, type=Settings)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} can't be used: {error}") from None

    def switchboards(self, *, guess: bool = True) -> tuple[Address, ...]:
        """Return where to look for a server, best first.

        What TRUNKLINE_SWITCHBOARDS or else ``config.toml`` names, then the rest of the host list; of those
        named, one that the host list has goes first. If nothing is named, this host is tried last.

        Args:
            guess: whether this host is to be tried though nobody has named it.

        Raises:
            ConfigError: TRUNKLINE_SWITCHBOARDS or ``config.toml`` can't be used.
        """
        named = self._named()
        kept = self.remembered()
        last_good_first = [address for address in kept if address in named]
        guessed = [_LOCAL] if guess and not named else []
        return tuple(dict.fromkeys([*last_good_first, *(named or ()), *kept, *guessed]))

    def _named(self) -> tuple[Address, ...]:
        text = self._environ.get("TRUNKLINE_SWITCHBOARDS", "")
        parts = [part for part in text.split(",") if part.strip()]
        where = "TRUNKLINE_SWITCHBOARDS"
        if not parts:
            parts = list(self.settings().switchboards)
            where = str(self.path / "config.toml")
        try:
            return tuple(Address.parse(part) for part in parts)
        except InvalidAddress as error:
            raise ConfigError(f"{where}: {error}; write host:port,host:port") from error

    def remembered(self) -> tuple[Address, ...]:
        """Read the host list; what can't be read is left out."""
        file = self.path / "switchboards"
        try:
            with file.open("rb") as stream:
                text = stream.read(MAX_FILE).decode(errors="replace")
        except FileNotFoundError:
            return ()
        except OSError as error:
            self._warn("the host list %s can't be read: %s", file, error.strerror)
            return ()
        found: dict[Address, None] = {}
        for line in text.splitlines():
            entry = line.strip()
            if not entry or entry.startswith("#"):
                continue
            try:
                found[Address.parse(entry)] = None
            except InvalidAddress as error:
                self._warn("a line of the host list %s is left out: %s", file, error)
        return tuple(found)[:MAX_REMEMBERED]

    def remember(self, servers: Iterable[Address]) -> None:
        """Write the host list, the best first. Failing is no error: it is warned of once."""
        wanted = tuple(dict.fromkeys(servers))[:MAX_REMEMBERED]
        if wanted == self._kept:
            return
        self._kept = wanted
        file = self.path / "switchboards"
        # A name of this process's own, so that two that write at once don't mix; the last one stays.
        draft = self.path / f".switchboards.{os.getpid()}"
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.write_text(_HEAD + "".join(f"{address}\n" for address in wanted), "utf-8")
            draft.replace(file)
        except OSError as error:
            self._warn("the host list %s can't be written (%s): going on without", file, error.strerror)
            self._discard(draft)

    @staticmethod
    def _discard(draft: Path) -> None:
        try:
            draft.unlink(missing_ok=True)
        except OSError:
            return  # the folder is read-only: then there is no draft either

    def _warn(self, text: str, *about: object) -> None:
        _log.log(logging.DEBUG if self._warned else logging.WARNING, text, *about)
        self._warned = True


def given_servers(servers: Iterable[str | Address] | str | Address | None) -> tuple[Address, ...] | None:
    """Return the servers that a caller named, best first; None if it named none and the settings are to be used.

    Raises:
        ConfigError: the list is empty.
        InvalidAddress: with the reason.
    """
    if servers is None:
        return None
    given = [servers] if isinstance(servers, str | Address) else list(servers)
    if not given:
        raise ConfigError("the list of servers is empty; leave it out to use the settings")
    return tuple(Address.parse(server) if isinstance(server, str) else server for server in given)


def to_toml(settings: msgspec.Struct, comment: str) -> bytes:
    """Return a settings file that reads back as ``settings``, which holds strings, numbers and lists of these.

    Those are written alike in TOML and in JSON; so no library for writing TOML is needed.
    """
    fields: dict[str, object] = msgspec.to_builtins(settings)
    lines = [f"{name} = {msgspec.json.encode(value).decode()}\n" for name, value in fields.items()]
    return "".join([f"# {comment}\n", *lines]).encode()
