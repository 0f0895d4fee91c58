"""``trunkline send``: files to whoever takes them."""

from pathlib import Path
from typing import Annotated

import typer

from trunkline.cli.common import Common
from trunkline.cli.meet import Me, You
from trunkline.cli.secured import OurUser, PeerUser, Plain, security
from trunkline.cli.transferring import AsJson, Timeout, transfer


def send(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Files and folders.", show_default=False)],
    me: Me,
    you: You,
    timeout: Timeout = None,
    user: OurUser = None,
    peer_user: PeerUser = None,
    plain: Plain = False,
    as_json: AsJson = False,
) -> None:
    """Send files and folders to the process that takes them.

    They are checked by SHA-256. When the connection breaks it meets the other side again and goes on where it was.

    \b
    Example:
      trunkline send photos/ report.pdf attic desk       and there: trunkline take desk attic
    """
    from trunkline.drivers.files import Sending
    from trunkline.names import check_pair

    common: Common = ctx.obj
    check_pair(me, you)
    common.start_logs()
    how = security(common, user=user, peer_user=peer_user, plain=plain)
    sending = Sending(files)
    transfer(
        common,
        how,
        me,
        you,
        lambda sock, on_progress: sending.run(sock, on_progress=on_progress),
        lambda: sending.outcome,
        timeout=timeout,
        as_json=as_json,
        moved="sent",
    )
