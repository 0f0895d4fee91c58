"""``trunkline bench``: a quick measurement on this machine."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from trunkline.cli.common import Common, columns

if TYPE_CHECKING:
    from trunkline.cli.measure import Meetings, Messages, Stream

WIDTHS: Final = (1, 32)
SERVERS: Final = (1, 2, 3, 5)


def bench(
    ctx: typer.Context,
    count: Annotated[int, typer.Option(metavar="N", min=10, help="Meetings to measure, one at a time and 32.")] = 500,
    seconds: Annotated[float, typer.Option(metavar="S", min=0.1, help="How long each stream runs.")] = 2.0,
    spin: Annotated[
        float, typer.Option(metavar="US", min=0, max=1000, help="Microseconds that the server polls before it sleeps.")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure meetings, messages and a stream on this machine.

    It starts a server and programs of its own on loopback, and ends them. For figures to compare, use a quiet machine
    and several runs.

    \b
    Example:
      trunkline bench --spin 100
    """
    from trunkline.cli import measure
    from trunkline.cli.common import run

    common: Common = ctx.obj
    counted = measure.messages(SERVERS)
    with measure.running() as programs:
        address = programs.server(spin)
        programs.part("echo")
        meetings = run(measure.meetings(address, count, WIDTHS))
        stream = measure.stream(programs, seconds)
    if as_json:
        common.tell_json(
            {
                "meetings": [each._asdict() for each in meetings],
                "messages": [each._asdict() for each in counted],
                "stream": stream._asdict(),
            }
        )
    else:
        common.tell(_tables(meetings, counted, stream))


def _tables(meetings: "list[Meetings]", counted: "list[Messages]", stream: "Stream") -> str:
    met = columns(
        ("MEETINGS WITH A POST", "P50", "P99", "A SECOND"),
        [
            (
                f"{m.at_once} at a time, {m.meetings} in all",
                f"{m.p50 * 1e3:.2f} ms",
                f"{m.p99 * 1e3:.2f} ms",
                f"{m.rate:.0f}",
            )
            for m in meetings
        ],
    )
    counts = columns(
        ("MESSAGES FOR A CONNECTION", "SERVERS", "MESSAGES", "AT MOST"),
        [(m.case, str(m.servers), str(m.messages), str(m.budget)) for m in counted],
    )
    rows = [("straight over loopback", stream.straight), ("through reach and expose", stream.relayed)]
    streamed = columns(
        ("ONE STREAM", "MB/S", "OF STRAIGHT"),
        [(what, f"{rate / 1e6:.0f}", f"{rate / stream.straight:.2f}") for what, rate in rows],
    )
    return f"{met}\n\n{counts}\n\n{streamed}"
