"""``trunkline up``: everything that one host needs, in one process: a realm of its own, and a switchboard."""

import logging
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from trunkline.cli.common import Common, more_descriptors, run_service
from trunkline.cli.realm import login_name, passphrase_for
from trunkline.cli.switchboard import Metrics, Spin, make_config, serve

if TYPE_CHECKING:
    from trunkline.drivers.own_realm import OwnRealm
    from trunkline.drivers.server_aio import SwitchboardServer
    from trunkline.names import Address

SECURE: Final = """\
The realm {realm} is up: you are {user}, and what you start here is secure without another word.
"""

PLAIN: Final = """\
A switchboard is up at {address}, without a realm: nobody is proven, nothing is encrypted.
"""

NEXT: Final = """\
Try it, in two other terminals:
  trunkline meet alice bob{hint}
  trunkline meet bob alice{hint}
or give a service a name, and reach it:
  trunkline expose web tcp:127.0.0.1:8000{hint}
  trunkline reach web --listen 127.0.0.1:9000{hint}
"""

ONLY_HERE: Final = """\
Only this host reaches it. For others: trunkline up --listen 0.0.0.0{plain}
"""

INVITE: Final = """\
Bring in another machine or person: trunkline invite{hint}
"""

FROM_OTHERS: Final = """\
On other hosts: export TRUNKLINE_SWITCHBOARDS={address}
"""


def up(
    ctx: typer.Context,
    listen: Annotated[
        str, typer.Option(metavar="H:P", help="Where the switchboard listens; 0.0.0.0 opens it to the network.")
    ] = "127.0.0.1:7117",
    authority: Annotated[
        str | None,
        typer.Option(metavar="H:P", help="Where the authority listens [default: the same host, port 7118]."),
    ] = None,
    user: Annotated[
        str | None, typer.Option(metavar="USER", help="At the first start: who you are [default: your login name].")
    ] = None,
    realm: Annotated[
        str | None, typer.Option(metavar="REALM", help="At the first start: the realm's name [default: this host's].")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="A switchboard alone, without a realm or TLS.")] = False,
    metrics: Metrics = None,
    spin: Spin = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say as JSON where it listens.")] = False,
) -> None:
    """Start all that this host needs, secure from the first minute.

    That is an authority and a switchboard. The first start makes a realm: a root key, which is the administrator's,
    and a key for you, approved. Later ones use it. Programs of this home find all that by themselves. It runs until
    it is interrupted.

    \b
    Examples:
      trunkline up                      for this host alone
      trunkline up --listen 0.0.0.0     for the network too; then: trunkline invite
    """
    from trunkline.drivers.home import Home
    from trunkline.drivers.own_realm import OwnRealm
    from trunkline.errors import ConfigError
    from trunkline.names import Address

    common: Common = ctx.obj
    at = Address.parse(listen)
    home = Home(common.home)
    if plain:
        if home.in_realm:
            raise ConfigError(
                f"{home.path} is in a realm, and its programs speak to servers of that realm only: "
                "use another --home for a server without one"
            )
        _plain(common, at, metrics=metrics, spin=spin, as_json=as_json)
        return
    own = OwnRealm(home.path, passphrase_for(home.path / "admin" / "root.key"))
    if own.is_elsewhere:
        raise ConfigError(
            f"{home.path} is in the realm {own.home.settings().realm!r}, whose authority is on another machine: run a "
            "server of that realm with `trunkline switchboard`, or make a realm of this machine's own with --home DIR"
        )
    _check_first(own, user, realm)
    beside = (
        Address.parse(authority, AUTHORITY_PORT) if authority else Address(at.host, AUTHORITY_PORT if at.port else 0)
    )
    common.start_logs(logging.INFO)
    more_descriptors()
    try:
        own.make(realm or own_name(), user or login_name())
        run_service(_serve(common, own, at, beside, metrics, as_json=as_json), spin=(spin or 0.0) * 1e-6)
    except ConfigError:
        if at.port == 0 or not _is_up(common, _local(at)):
            raise
        home.remember([_local(at), *home.remembered()])
        common.tell(f"A switchboard is up already at {_local(at)}.")


AUTHORITY_PORT: Final = 7118


def own_name() -> str:
    """Return what a realm of this host is called by default."""
    from trunkline.drivers.own_realm import host_name

    return host_name()


def _check_first(own: "OwnRealm", user: str | None, realm: str | None) -> None:
    from trunkline.errors import ConfigError
    from trunkline.users import check_realm, check_user

    if realm is not None:
        check_realm(realm)
    if user is not None:
        check_user(user)
    if not own.exists:
        return
    settings = own.home.settings()
    for what, wanted, there in (("realm", realm, settings.realm), ("user", user, settings.user)):
        if wanted is not None and wanted != there:
            raise ConfigError(
                f"the {what} here is {there!r} since the first start: leave --{what} out, or use another --home"
            )


async def _serve(
    common: Common, own: "OwnRealm", at: "Address", beside: "Address", metrics: str | None, *, as_json: bool
) -> None:
    """Serve as authority and as switchboard until cancelled."""
    import asyncio

    from trunkline.cli.metrics import serving_metrics, switchboard_metrics
    from trunkline.drivers.authority_aio import AuthorityServer
    from trunkline.drivers.membership import Membership
    from trunkline.drivers.policyfile import read_policy
    from trunkline.drivers.server_aio import SwitchboardServer

    async with AuthorityServer(own.load(), own.open_store, listen=[beside]) as authority:
        own.found_at([_local(authority.bound[0])])
        # These ask over the network as anybody would, so in a thread: it is our loop that answers.
        await asyncio.to_thread(own.enter_keys)
        with Membership.open(own.home, own.server_user) as member:
            await member.ready_async()
            policy = read_policy(own.home.path, member.realm)
            config = make_config(address=at, policy=policy)
            async with (
                SwitchboardServer(config, listen=[at], member=member) as server,
                serving_metrics(lambda: switchboard_metrics(server), metrics),
            ):
                if not _is_loopback(server.bound[0].host):
                    own.found_at([_local(authority.bound[0]), _as(server.address, authority.bound[0].port)])
                _announce(common, server, own, as_json=as_json)
                await server.serve_forever(signals=())


def _as(address: "Address", port: int) -> "Address":
    from trunkline.names import Address

    return Address(address.host, port)


def _announce(common: Common, server: "SwitchboardServer", own: "OwnRealm | None", *, as_json: bool) -> None:
    from trunkline.drivers.home import Home

    home = Home(common.home)
    # Clients on this host go there first; what else was known stays known.
    reached = [server.address] if not _is_loopback(server.bound[0].host) else []
    home.remember([_local(server.bound[0]), *reached, *home.remembered()])
    settings = own.home.settings() if own is not None else None
    if as_json:
        about: dict[str, Any] = {"event": "listening", "id": server.config.id, "address": str(server.address)}
        about |= {"listen": [str(address) for address in server.bound]}
        if settings is not None:
            about |= {"realm": settings.realm, "user": settings.user, "authorities": list(settings.authorities)}
        common.tell_json(about)
        return
    alone = _is_loopback(server.bound[0].host)
    hint = f" --home {common.home}" if common.home else ""
    head = PLAIN.format(address=server.address)
    if settings is not None:
        head = SECURE.format(realm=settings.realm, user=settings.user)
    tail = INVITE.format(hint=hint) if settings is not None else FROM_OTHERS.format(address=server.address)
    if alone:
        tail = ONLY_HERE.format(plain="" if settings is not None else " --plain")
    common.tell(head + NEXT.format(hint=hint) + tail + "Ctrl-C stops it.")


def _plain(common: Common, at: "Address", *, metrics: str | None, spin: float | None, as_json: bool) -> None:
    from trunkline.drivers.home import Home
    from trunkline.errors import ConfigError

    def announce(server: "SwitchboardServer") -> None:
        _announce(common, server, None, as_json=as_json)

    try:
        serve(common, make_config(address=at), [at], announce=announce, metrics=metrics, spin=spin)
    except ConfigError:
        if at.port == 0 or not _is_up(common, _local(at)):
            raise
        home = Home(common.home)
        home.remember([_local(at), *home.remembered()])
        common.tell(f"A switchboard is up already at {_local(at)}.")


def _is_up(common: Common, address: "Address") -> bool:
    from trunkline.cli.common import run
    from trunkline.cli.status import ask_one

    return not isinstance(run(ask_one(common, address)), str)


def _local(bound: "Address") -> "Address":
    from trunkline.names import Address

    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound to
    return Address(everywhere.get(bound.host, bound.host), bound.port)


def _is_loopback(host: str) -> bool:
    import ipaddress

    return ipaddress.ip_address(host).is_loopback
