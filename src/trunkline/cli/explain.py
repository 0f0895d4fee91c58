"""``trunkline explain``: why a meeting would wait."""

from typing import TYPE_CHECKING, Annotated

import typer

from trunkline.cli.common import Common, run
from trunkline.cli.meet import Me, You

if TYPE_CHECKING:
    from collections.abc import Sequence


def explain(
    ctx: typer.Context,
    me: Me,
    you: You,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say why ME waits for YOU.

    Nobody has that name, or somebody has one that is nearly the same, or it does not accept.

    \b
    Example:
      trunkline explain alice bob
    """
    common: Common = ctx.obj
    common.start_logs()
    lines = run(_explain(common, me, you))
    if as_json:
        common.tell_json({"me": me, "you": you, "lines": lines})
    else:
        common.tell("\n".join(lines))


async def _explain(common: Common, me: str, you: str) -> "Sequence[str]":
    async with common.switchboard() as switchboard:
        return await switchboard.explain(me, you)
