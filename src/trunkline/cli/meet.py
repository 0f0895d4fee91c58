"""``trunkline meet``: a pipe to another process, like nc by name."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from trunkline.cli.common import Common, run
from trunkline.cli.secured import OurUser, PeerUser, Plain, Security, security, shown

if TYPE_CHECKING:
    from trunkline.aio import Switchboard
    from trunkline.drivers.secure_sockets import SecureConnection
    from trunkline.drivers.sockets import Connection

PATIENCE: Final = 1.0
"""Seconds of waiting after which the user is told whom we wait for."""

Me = Annotated[str, typer.Argument(metavar="ME", help="What this side is called.", show_default=False)]
You = Annotated[str, typer.Argument(metavar="YOU", help="What the other side is called.", show_default=False)]


def meet(
    ctx: typer.Context,
    me: Me,
    you: You,
    timeout: Annotated[
        float | None, typer.Option(metavar="S", min=0, help="Give up after so many seconds [default: never].")
    ] = None,
    user: OurUser = None,
    peer_user: PeerUser = None,
    plain: Plain = False,
    exec_: Annotated[
        str | None,
        typer.Option(
            "--exec",
            metavar="CMD...",
            help="Connect the peer to this command's input and output; everything behind it belongs to the command, "
            "whose exit code becomes ours.",
        ),
    ] = None,
) -> None:
    """Pipe to and from the process called YOU, wherever it is.

    It is joined with whoever runs `trunkline meet YOU ME`, or with the service that `trunkline expose YOU` offers.
    Either side may come first. In a realm the other has to be of the user that --peer-user says, and nobody else can
    listen.

    \b
    Examples:
      tar c photos | trunkline meet desk attic      and there: trunkline meet attic desk | tar x
      trunkline meet time me --exec date            and there: trunkline meet me time
      trunkline meet desk attic --peer-user ben     and ben, there: trunkline meet attic desk --peer-user ann
    """
    import shlex

    from trunkline.names import check_pair

    common: Common = ctx.obj
    check_pair(me, you)
    common.start_logs()
    how = security(common, user=user, peer_user=peer_user, plain=plain)
    code = run(_meet(common, how, me, you, timeout, None if exec_ is None else shlex.split(exec_)))
    raise typer.Exit(code)


async def _meet(
    common: Common,
    how: Security,
    me: str,
    you: str,
    timeout: float | None,  # noqa: ASYNC109
    command: list[str] | None,
) -> int:
    from trunkline.drivers.stdio import join_process, join_stdio
    from trunkline.errors import LinkClosed

    async with common.switchboard() as switchboard:
        conn = await patiently(common, switchboard, how, me, you, timeout)
    if command is not None:
        return await join_process(conn, command)
    joined = await join_stdio(conn)
    if joined.error is not None:
        raise LinkClosed(f"the connection to {you!r} broke: {joined.error.strerror or joined.error}")
    return 0


async def patiently(
    common: Common,
    switchboard: "Switchboard",
    how: Security,
    me: str,
    you: str,
    timeout: float | None,  # noqa: ASYNC109
) -> "Connection | SecureConnection":
    """Meet; if it takes long, say whom we wait for and what the switchboard knows, and then who came."""
    import asyncio

    async def complain() -> None:
        await asyncio.sleep(PATIENCE)
        of = f" of {how.peers[0]}" if how.user else ""
        common.say(f"{me!r} waits for {you!r}{of} …")
        for line in await how.explain(switchboard, me, you):
            common.say(f"  - {line}")

    complaint = asyncio.create_task(complain())
    try:
        conn = await how.meet(switchboard, me, you, timeout)
    finally:
        told = complaint.done()
        complaint.cancel()
        await asyncio.gather(complaint, return_exceptions=True)
    if told or common.verbose:
        common.say(f"{shown(conn.peer)} came")
    return conn
