"""``trunkline take``: files from whoever sends them."""

from pathlib import Path
from typing import Annotated

import typer

from trunkline.cli.common import Common
from trunkline.cli.meet import Me, You
from trunkline.cli.secured import OurUser, PeerUser, Plain, security
from trunkline.cli.transferring import AsJson, Timeout, transfer


def take(
    ctx: typer.Context,
    me: Me,
    you: You,
    into: Annotated[Path, typer.Option(metavar="DIR", help="An existing folder.", show_default="here")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there and differ.")] = False,
    timeout: Timeout = None,
    user: OurUser = None,
    peer_user: PeerUser = None,
    plain: Plain = False,
    as_json: AsJson = False,
) -> None:
    """Take the files that the other side sends.

    They are checked by SHA-256. Nothing that is there is overwritten without --force, and no name leads out of the
    folder. What broke off goes on where it was, in this run or in the next.

    \b
    Example:
      trunkline take desk attic --into ~/Downloads       and there: trunkline send report.pdf attic desk
    """
    from trunkline.drivers.files import Taking
    from trunkline.names import check_pair

    common: Common = ctx.obj
    check_pair(me, you)
    common.start_logs()
    how = security(common, user=user, peer_user=peer_user, plain=plain)
    with Taking(into, overwrite=force) as taking:
        transfer(
            common,
            how,
            me,
            you,
            lambda sock, on_progress: taking.run(sock, on_progress=on_progress),
            lambda: taking.outcome,
            timeout=timeout,
            as_json=as_json,
            moved="taken",
        )
