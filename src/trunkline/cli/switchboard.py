"""``trunkline switchboard``: one server of the mesh."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from trunkline.cli.common import Common, more_descriptors, run_service

if TYPE_CHECKING:
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
    metrics: Metrics = None,
    spin: Spin = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say as JSON where it listens.")] = False,
) -> None:
    """Run a switchboard server, alone or joined to others.

    It writes one line when it listens, and then a line on stderr for each event. SIGTERM makes it leave in good
    order: its clients go to another server at once.

    \b
    Examples:
      trunkline switchboard --listen 10.0.0.1:7117
      trunkline switchboard --listen 10.0.0.2:7117 --join 10.0.0.1:7117
    """
    from trunkline.names import DEFAULT_PORT, Address

    common: Common = ctx.obj
    at = [Address.parse(text) for text in listen or [f"127.0.0.1:{DEFAULT_PORT}"]]
    config = make_config(
        address=Address.parse(advertise) if advertise else at[0],
        server_id=name or "",
        join=tuple(Address.parse(text) for text in join or ()),
        heartbeat=heartbeat,
        max_clients=max_clients,
    )

    def announce(server: "SwitchboardServer") -> None:
        bound = [str(address) for address in server.bound]
        if as_json:
            common.tell_json(
                {"event": "listening", "id": server.config.id, "address": str(server.address), "listen": bound}
            )
        else:
            at = "" if bound == [str(server.address)] else f", for others at {server.address}"
            called = "" if server.config.id == str(server.address) else f" {server.config.id}"
            common.tell(f"switchboard{called} listens on {', '.join(bound)}{at}")

    serve(common, config, at, announce=announce, metrics=metrics, spin=spin)


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
) -> None:
    """Serve until SIGTERM; tell when it listens."""
    from trunkline.cli.metrics import check_metrics

    if metrics is not None:
        check_metrics()
    common.start_logs(logging.INFO)
    more_descriptors()
    run_service(_serve(config, listen, announce, metrics), spin=(spin or 0.0) * 1e-6)


async def _serve(
    config: "ServerConfig",
    listen: "list[Address]",
    announce: "Callable[[SwitchboardServer], None]",
    metrics: str | None,
) -> None:
    from trunkline.cli.metrics import serving_metrics, switchboard_metrics
    from trunkline.drivers.server_aio import SwitchboardServer

    async with (
        SwitchboardServer(config, listen=listen) as server,
        serving_metrics(lambda: switchboard_metrics(server), metrics),
    ):
        announce(server)
        await server.serve_forever(signals=())
