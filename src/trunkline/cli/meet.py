"""``trunkline meet``: a pipe to another process, like nc by name."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from trunkline.cli.common import Common, run

if TYPE_CHECKING:
    from trunkline.aio import Switchboard
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
    Either side may come first.

    \b
    Examples:
      tar c photos | trunkline meet desk attic      and there: trunkline meet attic desk | tar x
      trunkline meet time me --exec date            and there: trunkline meet me time
    """
    import shlex

    from trunkline.names import check_pair

    common: Common = ctx.obj
    check_pair(me, you)
    common.start_logs()
    code = run(_meet(common, me, you, timeout, None if exec_ is None else shlex.split(exec_)))
    raise typer.Exit(code)


async def _meet(common: Common, me: str, you: str, timeout: float | None, command: list[str] | None) -> int:  # noqa: ASYNC109
    from trunkline.drivers.stdio import join_process, join_stdio
    from trunkline.errors import LinkClosed

    async with common.switchboard() as switchboard:
        conn = await patiently(common, switchboard, me, you, timeout)
    if command is not None:
        return await join_process(conn, command)
    joined = await join_stdio(conn)
    if joined.error is not None:
        raise LinkClosed(f"the connection to {you!r} broke: {joined.error.strerror or joined.error}")
    return 0


async def patiently(
    common: Common,
    switchboard: "Switchboard",
    me: str,
    you: str,
    timeout: float | None,  # noqa: ASYNC109
) -> "Connection":
    """Meet; if it takes long, say whom we wait for and what the switchboard knows, and then who came."""
    import asyncio

    async def complain() -> None:
        await asyncio.sleep(PATIENCE)
        common.say(f"{me!r} waits for {you!r} …")
        for line in await switchboard.explain(me, you):
            common.say(f"  - {line}")

    complaint = asyncio.create_task(complain())
    try:
        conn = await switchboard.meet_socket(me, you, timeout=timeout)
    finally:
        told = complaint.done()
        complaint.cancel()
        await asyncio.gather(complaint, return_exceptions=True)
    if told or common.verbose:
        common.say(f"{conn.peer.name!r} came")
    return conn
