"""Who we are and whom we let come: the options that make a meeting secure, and what they come to."""

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from trunkline.cli.common import Common
from trunkline.errors import ConfigError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from trunkline.aio import Switchboard
    from trunkline.drivers.meetings_aio import Post
    from trunkline.drivers.secure_aio import SecurePost
    from trunkline.drivers.secure_sockets import SecureConnection
    from trunkline.drivers.sockets import Connection
    from trunkline.names import Peer

OurUser = Annotated[
    str | None,
    typer.Option("--user", metavar="U", help="Who we are in the realm [default: this home's user]."),
]
PeerUser = Annotated[
    str | None,
    typer.Option("--peer-user", metavar="V", help="Whose process the other has to be, proven [default: our own user]."),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        metavar="V",
        help="Who may come, proven; * stands for one part of a name; may be repeated [default: our own user].",
    ),
]
Plain = Annotated[
    bool, typer.Option("--plain", help="Prove nothing and encrypt nothing, though this home is in a realm.")
]


@dataclasses.dataclass(frozen=True)
class Security:
    """How a command meets: plainly, or as a user of the realm."""

    user: str = ""
    """Who we are; empty: a plain meeting."""
    peers: tuple[str, ...] = ()
    """Whose the other has to be: one user, or for a post patterns of users."""

    async def meet(
        self,
        switchboard: "Switchboard",
        me: str,
        you: str,
        timeout: float | None,  # noqa: ASYNC109
    ) -> "Connection | SecureConnection":
        """Return a connected socket, which doesn't block and has ``peer``."""
        if not self.user:
            return await switchboard.meet_socket(me, you, timeout=timeout)
        return await switchboard.secure_meet_socket(me, you, peer_user=self.peers[0], user=self.user, timeout=timeout)

    def post(
        self, switchboard: "Switchboard", name: str, *, unique: bool, backlog: int
    ) -> "AbstractAsyncContextManager[Post | SecurePost]":
        """Return a post of this kind, to be entered."""
        if not self.user:
            return switchboard.post(name, unique=unique, backlog=backlog)
        return switchboard.secure_post(name, allow=self.peers, user=self.user, unique=unique, backlog=backlog)

    async def explain(self, switchboard: "Switchboard", me: str, you: str) -> tuple[str, ...]:
        """Return why such a meeting waits."""
        return await switchboard.explain(
            me, you, user=self.user or None, peer_user=self.peers[0] if self.user else None
        )


def security(
    common: Common,
    *,
    user: str | None,
    plain: bool,
    peer_user: str | None = None,
    allow: "list[str] | None" = None,
) -> Security:
    """Return what the options and the home come to: secure where the home has a realm and a user, but for --plain.

    Raises:
        ConfigError: the options contradict each other, or ask for a realm that is not there.
        InvalidUser: a user can't be one.
    """
    from trunkline.cli.realm import realm_home
    from trunkline.users import check_pattern, check_user

    asked = {"--user": user, "--peer-user": peer_user, "--allow": allow}
    given = [name for name, value in asked.items() if value]
    if plain:
        if given:
            raise ConfigError(f"--plain proves nobody: leave {' and '.join(given)} out")
        return Security()
    home = realm_home(common)
    if not home.has_realm:
        if given:
            home.settings()  # raises, and says how to get into a realm
        return Security()
    us = user or home.settings().user
    if not us:
        if given:
            raise ConfigError(f"{given[0]} needs to know who we are: say --user, or write `user` into realm.toml")
        return Security()
    check_user(us)
    if allow is not None:
        return Security(us, tuple(check_pattern(each) for each in allow))
    return Security(us, (check_user(peer_user or us),))


def shown(peer: "Peer") -> str:
    """Return who came, for people: the process name, and the user if that is proven."""
    return f"{peer.name!r} of {peer.user}" if peer.user else repr(peer.name)
