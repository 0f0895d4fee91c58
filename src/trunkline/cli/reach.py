"""``trunkline reach``: a local port that leads to a name."""

import logging
from typing import TYPE_CHECKING, Annotated, Final

import typer

from trunkline.cli.common import Common, more_descriptors, run_service
from trunkline.cli.secured import OurUser, PeerUser, Plain, Security, security

if TYPE_CHECKING:
    import socket

    from trunkline.aio import Switchboard
    from trunkline.drivers.endpoints import Endpoint

_log: Final = logging.getLogger("trunkline")


def reach(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the service is called.", show_default=False)],
    listen: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="HOST:PORT or unix:PATH to listen on; port 0 for any free one."),
    ],
    timeout: Annotated[
        float, typer.Option(metavar="S", min=0.1, help="Close a connection if nobody came for it in so many seconds.")
    ] = 30.0,
    user: OurUser = None,
    peer_user: PeerUser = None,
    plain: Plain = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say as JSON where it listens.")] = False,
) -> None:
    """Listen on a local port that leads to an exposed name.

    Each connection is a meeting of its own: many at once, and each end may be closed alone. The name need not be
    there yet: a connection waits for it. In a realm the service has to be of the user that --peer-user says.

    \b
    Examples:
      trunkline reach web --listen 127.0.0.1:9000     then: curl http://127.0.0.1:9000/
      trunkline reach db --listen unix:/tmp/.s.PGSQL.5432
    """
    from trunkline.drivers.endpoints import Endpoint
    from trunkline.names import check_name

    common: Common = ctx.obj
    check_name(name)
    endpoint = Endpoint.parse(listen)
    common.start_logs(logging.INFO)
    more_descriptors()
    how = security(common, user=user, peer_user=peer_user, plain=plain)
    run_service(_reach(common, how, name, endpoint, timeout, as_json=as_json))


async def _reach(
    common: Common,
    how: Security,
    name: str,
    endpoint: "Endpoint",
    timeout: float,  # noqa: ASYNC109
    *,
    as_json: bool,
) -> None:
    import asyncio
    import contextlib
    import itertools

    from trunkline.drivers.endpoints import Listening

    async with common.switchboard() as switchboard, asyncio.TaskGroup() as clients:
        # Asking is how we know at once that there is a switchboard, and have a warm connection to it.
        await switchboard.status()
        base, numbers = _own_name(), itertools.count(1)

        def accepted(sock: "socket.socket") -> None:
            clients.create_task(_pass_on(switchboard, how, sock, f"{base}/{next(numbers)}", name, timeout))

        with contextlib.closing(Listening(endpoint, accepted)) as listening:
            if as_json:
                common.tell_json({"event": "listening", "name": name, "listen": _plain(listening.bound)})
            else:
                common.tell(f"{_plain(listening.bound)} leads to {name!r}")
            await asyncio.Event().wait()


def _plain(endpoint: "Endpoint") -> str:
    return str(endpoint.address) if endpoint.address else str(endpoint)


def _own_name() -> str:
    """Return a name that no other process uses; it tells a reader of logs where we are."""
    import os
    import secrets
    import socket

    host = "".join(c for c in socket.gethostname() if c.isprintable())[:40]
    return f"reach/{host or 'unknown'}/{os.getpid()}-{secrets.token_hex(4)}"


async def _pass_on(
    switchboard: "Switchboard",
    how: Security,
    sock: "socket.socket",
    me: str,
    name: str,
    timeout: float,  # noqa: ASYNC109
) -> None:
    from trunkline.cli.relay import relay
    from trunkline.drivers.splice import close_abruptly
    from trunkline.errors import TrunklineError

    try:
        conn = await how.meet(switchboard, me, name, timeout)
    except TrunklineError as error:
        close_abruptly(sock)
        _log.warning("%s: turned away: %s", me, str(error).replace("\n", ";"))
        return
    except BaseException:
        close_abruptly(sock)
        raise
    await relay(me, sock, conn, to=repr(name))
