"""``trunkline expose``: a local service under a name."""

import logging
from typing import TYPE_CHECKING, Annotated, Final

import typer

from trunkline.cli.common import Common, more_descriptors, run_service
from trunkline.cli.secured import Allow, OurUser, Plain, Security, security, shown

if TYPE_CHECKING:
    from trunkline.drivers.endpoints import Endpoint
    from trunkline.drivers.secure_sockets import SecureConnection
    from trunkline.drivers.sockets import Connection

_log: Final = logging.getLogger("trunkline")


def expose(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to be called.", show_default=False)],
    service: Annotated[
        str,
        typer.Argument(metavar="SERVICE", help="tcp:HOST:PORT or unix:PATH of the service.", show_default=False),
    ],
    unique: Annotated[
        bool, typer.Option("--unique", help="Be the only one under this name; otherwise clients are spread.")
    ] = False,
    backlog: Annotated[
        int, typer.Option(metavar="N", min=1, max=4096, help="Most clients on their way to us at once.")
    ] = 128,
    user: OurUser = None,
    allow: Allow = None,
    plain: Plain = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say as JSON that the name stands.")] = False,
) -> None:
    """Give a local service a name, under which others reach it.

    It goes on until it is interrupted, whichever switchboard servers come and go. Several processes may expose
    the same name: clients are spread over them. In a realm only those come whom --allow names.

    \b
    Examples:
      trunkline expose web tcp:127.0.0.1:8000
      trunkline expose db unix:/run/postgresql/.s.PGSQL.5432 --allow ben --allow 'ops/*'
    """
    from trunkline.drivers.endpoints import Endpoint

    common: Common = ctx.obj
    endpoint = Endpoint.parse(service)
    common.start_logs(logging.INFO)
    more_descriptors()
    how = security(common, user=user, allow=allow, plain=plain)
    run_service(_expose(common, how, name, endpoint, unique=unique, backlog=backlog, as_json=as_json))


async def _expose(
    common: Common, how: Security, name: str, endpoint: "Endpoint", *, unique: bool, backlog: int, as_json: bool
) -> None:
    import asyncio

    async with (
        common.switchboard() as switchboard,
        how.post(switchboard, name, unique=unique, backlog=backlog) as post,
        asyncio.TaskGroup() as clients,
    ):
        if as_json:
            about = {"user": how.user, "allow": how.peers} if how.user else {}
            common.tell_json({"event": "exposed", "name": name, "service": str(endpoint)} | about)
        else:
            of = f" --peer-user {how.user}" if how.user else ""
            common.tell(f"{name!r} leads to {endpoint}; reach it with `trunkline reach {name} --listen HOST:PORT{of}`")
            if how.user:
                common.say(f"who may come: {', '.join(how.peers)}")
        while True:
            conn = await post.accept_socket()
            clients.create_task(_serve(conn, endpoint))


async def _serve(conn: "Connection | SecureConnection", endpoint: "Endpoint") -> None:
    from trunkline.cli.relay import relay
    from trunkline.drivers.endpoints import dial
    from trunkline.errors import ServiceUnreachable

    peer = shown(conn.peer) if conn.peer.user else conn.peer.name
    try:
        service = await dial(endpoint)
    except ServiceUnreachable as error:
        conn.close()
        _log.warning("%s: turned away: %s", peer, error)
        return
    except BaseException:
        conn.close()
        raise
    await relay(peer, service, conn, to=str(endpoint))
