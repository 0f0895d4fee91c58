"""``trunkline names``: what is posted."""

from typing import TYPE_CHECKING, Annotated

import typer

from trunkline.cli.common import Common, columns, run

if TYPE_CHECKING:
    from trunkline.wire.messages import PostedName


def names(
    ctx: typer.Context,
    prefix: Annotated[
        str, typer.Argument(metavar="PREFIX", help="Only names that begin with it.", show_default=False)
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the names that are posted, by whom, and by how many processes.

    \b
    Example:
      trunkline names printers/
    """
    common: Common = ctx.obj
    common.start_logs()
    found = run(_names(common, prefix))
    if as_json:
        common.tell_json(
            [
                {"name": n.name, "user": n.user, "holders": n.holders, "unique": n.unique, "datagram": n.datagram}
                for n in found
            ]
        )
    elif found:
        kinds = ("stream", "datagram")
        rows = [(n.name, n.user or "-", str(n.holders), kinds[n.datagram], "unique" * n.unique) for n in found]
        common.tell(columns(("NAME", "USER", "HOLDERS", "KIND", ""), rows))
    else:
        common.say(f"no name that begins with {prefix!r} is posted" if prefix else "no name is posted")


async def _names(common: Common, prefix: str) -> "list[PostedName]":
    async with common.switchboard() as switchboard:
        return await switchboard.names(prefix)
