"""``trunkline explain``: why a meeting would wait."""

from typing import TYPE_CHECKING, Annotated

import typer

from trunkline.cli.common import Common, run
from trunkline.cli.meet import Me, You
from trunkline.cli.secured import OurUser, PeerUser, Plain, security

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trunkline.cli.secured import Security


def explain(
    ctx: typer.Context,
    me: Me,
    you: You,
    user: OurUser = None,
    peer_user: PeerUser = None,
    plain: Plain = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say why ME waits for YOU.

    Nobody has that name, or somebody has one that is nearly the same, or it does not accept, or asks for another user.

    \b
    Example:
      trunkline explain alice bob
    """
    common: Common = ctx.obj
    common.start_logs()
    how = security(common, user=user, peer_user=peer_user, plain=plain)
    lines = run(_explain(common, how, me, you))
    if as_json:
        common.tell_json({"me": me, "you": you, "user": how.user, "peer_user": "".join(how.peers), "lines": lines})
    else:
        if how.user:
            common.say(f"as {how.user}, for {how.peers[0]}:")
        common.tell("\n".join(lines))


async def _explain(common: Common, how: "Security", me: str, you: str) -> "Sequence[str]":
    async with common.switchboard() as switchboard:
        return await how.explain(switchboard, me, you)
