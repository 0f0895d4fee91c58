"""``trunkline switchboard``: one server of the mesh."""

import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trunkline.cli.common import Common, more_descriptors, run_service

if TYPE_CHECKING:
    from trunkline.drivers.membership import Membership
    from trunkline.drivers.server_aio import SwitchboardServer
    from trunkline.names import Address
    from trunkline.switchboard.config import ServerConfig
    from trunkline.switchboard.policy import Policy

Spin = Annotated[
    float | None,
    typer.Option(
        metavar="US",
        min=0,
        max=1000,
        help="Poll for up to so many microseconds before sleeping, when that pays: quicker answers for some CPU "
        "[default: TRUNKLINE_SPIN, else 0].",
    ),
]
Metrics = Annotated[str | None, typer.Option(metavar="H:P", help="Serve /metrics for Prometheus there.")]


def switchboard(
    ctx: typer.Context,
    listen: Annotated[
        list[str] | None,
        typer.Option(metavar="H:P", help="Where to listen; may be repeated; port 0 for any free one. [127.0.0.1:7117]"),
    ] = None,
    join: Annotated[
        list[str] | None,
        typer.Option(metavar="H:P", help="A server of the mesh to join; may be repeated: any that answers will do."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--id", metavar="NAME", help="Unique in the mesh [default: the advertised address].")
    ] = None,
    advertise: Annotated[
        str | None, typer.Option(metavar="H:P", help="Where others reach it [default: the first --listen].")
    ] = None,
    heartbeat: Annotated[
        float, typer.Option(metavar="S", min=0.05, max=3600, help="Who is silent for three times this is dropped.")
    ] = 2.0,
    max_clients: Annotated[int, typer.Option(metavar="N", min=1, help="Most clients at once.")] = 20_000,
    user: Annotated[
        str | None,
        typer.Option(
            metavar="switchboard/NAME",
            help="In a home with a realm: whose certificate it shows [default: the only switchboard/... key there].",
        ),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="No TLS, although the home has a realm: nobody is proven.")
    ] = False,
    metrics: Metrics = None,
    spin: Spin = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say as JSON where it listens.")] = False,
) -> None:
    """Run a switchboard server, alone or joined to others.

    In a home with a realm it is secured: it speaks TLS, shows a certificate of a user switchboard/NAME, knows the
    users of its clients, and keeps to policy.toml there, if there is one. Such servers join only each other.

    It writes one line when it listens, and then a line on stderr for each event. SIGTERM makes it leave in good
    order: its clients go to another server at once.

    \b
    Examples:
      trunkline switchboard --listen 10.0.0.1:7117
      trunkline switchboard --listen 10.0.0.2:7117 --join 10.0.0.1:7117
      trunkline key new switchboard/a1; trunkline key insert switchboard/a1     then: key approve switchboard/a1
    """
    from trunkline.names import DEFAULT_PORT, Address

    common: Common = ctx.obj
    member, policy = realm_of(common, user, plain=plain)
    at = [Address.parse(text) for text in listen or [f"127.0.0.1:{DEFAULT_PORT}"]]
    config = make_config(
        address=Address.parse(advertise) if advertise else at[0],
        server_id=name or "",
        join=tuple(Address.parse(text) for text in join or ()),
        heartbeat=heartbeat,
        max_clients=max_clients,
        policy=policy,
    )

    def announce(server: "SwitchboardServer") -> None:
        bound = [str(address) for address in server.bound]
        if as_json:
            said: dict[str, Any] = {
                "event": "listening",
                "id": server.config.id,
                "address": str(server.address),
                "listen": bound,
            }
            if member is not None:
                said |= {"realm": member.realm, "user": member.user, "plain": policy.plain}
            common.tell_json(said)
        else:
            at = "" if bound == [str(server.address)] else f", for others at {server.address}"
            called = "" if server.config.id == str(server.address) else f" {server.config.id}"
            common.tell(f"switchboard{called} listens on {', '.join(bound)}{at}{_secured(member, policy)}")

    serve(common, config, at, announce=announce, metrics=metrics, spin=spin, member=member)


def realm_of(common: Common, user: str | None, *, plain: bool) -> "tuple[Membership | None, Policy]":
    """Return what a server of this home is: a member of its realm, and the policy; no member if it is not secured.

    Raises:
        ConfigError: it is to be secured, and has no realm, no key, or more than one; or ``policy.toml`` is bad.
    """
    from trunkline.drivers.home import Home
    from trunkline.drivers.policyfile import read_policy
    from trunkline.errors import ConfigError
    from trunkline.switchboard.policy import SERVICE, Policy

    home = Home(common.home)
    if plain or not home.in_realm:
        if user is not None:
            raise ConfigError("--user is for a secured server: leave --plain out, and join a realm (`trunkline join`)")
        # With --plain the policy is left alone as well: its rules are about users, and nobody can prove one.
        return None, Policy() if plain else read_policy(home.path, "")
    from trunkline.drivers.membership import Membership
    from trunkline.drivers.realm_home import RealmHome

    realm = RealmHome(home.path)
    if user is None:
        users = [each for each in realm.users() if each.startswith(SERVICE)]
        if not users:
            raise ConfigError(
                f"{home.path} has a realm, and no key of a server: make one with `trunkline key new {SERVICE}NAME` and "
                "have it approved, or say --plain"
            )
        if len(users) > 1:
            raise ConfigError(f"there are keys of several servers here: say --user with one of {', '.join(users)}")
        user = users[0]
    member = Membership.open(realm, user)
    return member, read_policy(home.path, member.realm)


def _secured(member: "Membership | None", policy: "Policy") -> str:
    if member is None:
        return ", not secured: nobody is proven, nothing is encrypted"
    asked = ", every client proves its user" if policy.require_user else ""
    plain = ", plain clients come in too" if policy.plain else ""
    return f", secured by the realm {member.realm} as {member.user}{asked}{plain}"


def make_config(
    *,
    address: "Address",
    server_id: str = "",
    join: "tuple[Address, ...]" = (),
    heartbeat: float = 2.0,
    max_clients: int = 20_000,
    policy: "Policy | None" = None,
) -> "ServerConfig":
    """Return a server's settings."""
    from trunkline.names import check_name
    from trunkline.switchboard.config import ServerConfig
    from trunkline.switchboard.policy import Policy

    if server_id:
        check_name(server_id)
    return ServerConfig(
        id=server_id,
        address=address,
        join=join,
        heartbeat=heartbeat,
        max_clients=max_clients,
        policy=policy or Policy(),
    )


def serve(
    common: Common,
    config: "ServerConfig",
    listen: "list[Address]",
    *,
    announce: "Callable[[SwitchboardServer], None]",
    metrics: str | None,
    spin: float | None,
    member: "Membership | None" = None,
) -> None:
    """Serve until SIGTERM; tell when it listens."""
    from trunkline.cli.metrics import check_metrics

    if metrics is not None:
        check_metrics()
    common.start_logs(logging.INFO)
    more_descriptors()
    run_service(_serve(config, listen, announce, metrics, member), spin=(spin or 0.0) * 1e-6)


async def _serve(
    config: "ServerConfig",
    listen: "list[Address]",
    announce: "Callable[[SwitchboardServer], None]",
    metrics: str | None,
    member: "Membership | None",
) -> None:
    from trunkline.cli.metrics import serving_metrics, switchboard_metrics
    from trunkline.drivers.server_aio import SwitchboardServer

    with contextlib.nullcontext() if member is None else member:
        if member is not None:
            await member.ready_async()
        async with (
            SwitchboardServer(config, listen=listen, member=member) as server,
            serving_metrics(lambda: switchboard_metrics(server), metrics),
        ):
            announce(server)
            await server.serve_forever(signals=())
