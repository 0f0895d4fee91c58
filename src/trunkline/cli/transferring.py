"""What `send` and `take` have in common: meeting again when the connection breaks, the bar, the summary."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from trunkline.cli.common import Common, run
from trunkline.cli.secured import Security
from trunkline.errors import TransferFailed

if TYPE_CHECKING:
    import socket

    from trunkline.drivers.files import OnProgress, Outcome, Progress

LAST_PAUSE: Final = 2.0
"""Greatest pause, in seconds, between connections that break without a byte moved."""

Timeout = Annotated[
    float | None,
    typer.Option(
        metavar="S",
        min=0,
        help="Give up when the other side has not come for so many seconds, first or again [default: never].",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
Attempt = Callable[["socket.socket", "OnProgress"], "Outcome"]


def transfer(
    common: Common,
    how: Security,
    me: str,
    you: str,
    attempt: Attempt,
    outcome: Callable[[], "Outcome"],
    *,
    timeout: float | None,
    as_json: bool,
    moved: str,
) -> None:
    """Run attempts, each on a connection of its own, until one goes through; then print what became of each file.

    Args:
        common: the options.
        how: plainly, or as which user with whom.
        me: what this side is called.
        you: what the other side is called.
        attempt: transfers over one connection, as `Sending.run` does.
        outcome: says how far it is.
        timeout: seconds to wait for the other side, each time.
        as_json: print the summary as JSON.
        moved: what a person reads of a file that went through: "sent" or "taken".

    Raises:
        TransferFailed: some files did not get through, and no new connection would help.
        MeetTimeout: the other side did not come, or not again.
    """
    began = time.monotonic()
    try:
        _go_through(common, how, me, you, attempt, outcome, timeout)
    except KeyboardInterrupt:
        common.say("interrupted: what has arrived is kept; the same command goes on from there")
        raise
    finally:
        result = outcome()
        if as_json:
            common.tell_json(result.as_dict() | {"seconds": round(time.monotonic() - began, 3)})
        elif result.files:
            common.tell(summary(result, time.monotonic() - began, moved))


def _go_through(
    common: Common,
    how: Security,
    me: str,
    you: str,
    attempt: Attempt,
    outcome: Callable[[], "Outcome"],
    timeout: float | None,
) -> None:
    pause = 0.0
    while True:
        sock = run(_meet(common, how, me, you, timeout))
        before = outcome().bytes_moved
        try:
            with sock, _bar() as on_progress:
                sock.setblocking(True)
                attempt(sock, on_progress)
        except TransferFailed as error:
            if not error.again:
                raise
            common.say(f"{error}; meeting {you!r} again")
        else:
            return
        pause = 0.0 if outcome().bytes_moved > before else min(LAST_PAUSE, 2 * pause + 0.1)
        time.sleep(pause)


async def _meet(common: Common, how: Security, me: str, you: str, timeout: float | None) -> "socket.socket":  # noqa: ASYNC109
    from trunkline.cli.meet import patiently

    async with common.switchboard() as switchboard:
        return await patiently(common, switchboard, how, me, you, timeout)


@contextlib.contextmanager
def _bar() -> "Iterator[OnProgress]":
    """Give what draws the progress on a terminal, and does nothing elsewhere."""
    if not sys.stderr.isatty():
        yield _silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    parts: list[Any] = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    ]
    with Bar(*parts, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("offering", total=None)

        def show(progress: "Progress") -> None:
            many = f" ({progress.files_done + 1} of {progress.files_total})" if progress.files_total > 1 else ""
            name = shorten(progress.name)
            what = f"{progress.phase.value} {name}".strip() + many
            bar.update(task, description=what, total=progress.all_total or None, completed=progress.all_done)

        yield show


def _silent(_: "Progress") -> None:
    return


def shorten(name: str, most: int = 40) -> str:
    """Return the end of a long name, with nothing in it that a terminal obeys."""
    clean = "".join(c if c.isprintable() else "?" for c in name)
    return clean if len(clean) <= most else "…" + clean[1 - most :]


def summary(outcome: "Outcome", seconds: float, moved: str = "sent") -> str:
    """Return a line for each file, and one for all."""
    lines = []
    for file in outcome.files:
        resumed = f" from {size(file.resumed_at)} on" if file.resumed_at else ""
        about = file.reason or (f"sha256 {file.sha256[:16]}…" if file.sha256 else "folder" if file.directory else "")
        amount = "" if file.directory else size(file.size)
        became = moved if file.status.value == "sent" else file.status.value
        lines.append(f"{became + resumed:9} {amount:>9}  {shorten(file.name, 200)}  {about}".rstrip())
    files = sum(not file.directory for file in outcome.files)
    rate = f", {size(outcome.bytes_moved / seconds)}/s" if seconds > 0 and outcome.bytes_moved else ""
    again = f", {outcome.connections} connections" if outcome.connections > 1 else ""
    total = f"{files} file{'s' * (files != 1)}, {size(outcome.bytes_moved)} moved in {seconds:.1f} s{rate}{again}"
    return "\n".join([*lines, total])


def size(count: float) -> str:
    """Return a number of bytes as people write it."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
