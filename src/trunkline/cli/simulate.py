"""``trunkline simulate``: every order of events in small worlds, and chance in larger ones."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from trunkline.cli.common import FAILED, Common, columns

if TYPE_CHECKING:
    from trunkline.sim.report import Report

ALL: Final = "all"
RANDOM: Final = "random"


def simulate(
    ctx: typer.Context,
    worlds: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORLD", help="Worlds to explore; all; random.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of the (first) random world; for others, of the search's order.")
    ] = None,
    runs: Annotated[int, typer.Option(metavar="N", min=1, help="How many random worlds, each with the next seed.")] = 1,
    faults: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Crashes and losses that may come in one run.")
    ] = None,
    slack: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="After a fault, leave the usual order at most N times. Else: all orders."
        ),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Servers that crashed may come back.")] = False,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help="One fault, restarts, no bounds on time and states (all worlds, if none is named); large random ones.",
        ),
    ] = False,
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Run a recorded failure again.", show_default=False)
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Record the first failure there.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each world.")] = False,
) -> None:
    """Check the protocol in simulated worlds.

    The machines of switchboards, authorities and secure meetings run in a world with its own clock and network. An
    exploration tries every order of deliveries, and every fault at every point. It is exhaustive only if it says so.
    The exit code is 1 if an invariant broke. Without a world it lists them.

    \b
    Examples:
      trunkline simulate a --faults 1
      trunkline simulate realm replica-behind secure-eve
      trunkline simulate random --seed 17 --runs 100
      trunkline simulate --replay failure.json --verbose
    """
    common: Common = ctx.obj
    names = worlds or ([ALL] if deep else [])
    if not names and replay is None:
        _list_worlds(common, as_json=as_json)
        return
    broken = False
    options = {"deep": deep, "faults": faults, "slack": slack, "restart": restart or None, "seed": seed or 0}
    told = common.tell if common.verbose and not as_json else None
    for report in _reports(names, replay, runs, options, told):
        if report.recording is not None and save is not None and not save.exists():
            report.recording.save(save)
        if as_json:
            common.tell(report.to_json().decode())
        else:
            common.tell(str(report))
        broken |= not report.ok
    if broken:
        raise typer.Exit(FAILED)


def _list_worlds(common: Common, *, as_json: bool) -> None:
    from trunkline.sim.catalogue import ABOUT

    if as_json:
        common.tell_json([{"name": name, "about": about} for name, about in ABOUT.items()])
        return
    rows = list(ABOUT.items())
    rows += [(ALL, "all of these"), (RANDOM, "more servers, clients and faults, drawn from --seed")]
    common.tell(columns(("WORLD", "WHAT IT IS"), rows))


def _reports(
    names: list[str],
    file: Path | None,
    runs: int,
    options: dict[str, Any],
    told: "Callable[[str], None] | None",
) -> "Iterator[Report]":
    import itertools

    import msgspec

    from trunkline.errors import ConfigError
    from trunkline.sim.catalogue import ABOUT, explore_any
    from trunkline.sim.plan import LARGE, SMALL
    from trunkline.sim.randomworld import run_random
    from trunkline.sim.replay import replay

    unknown = [name for name in names if name not in (*ABOUT, ALL, RANDOM)]
    if unknown:
        raise typer.BadParameter(f"there is no world {unknown[0]!r}: `trunkline simulate` lists them")
    if file is not None:
        try:
            yield replay(file, write=told)
        except msgspec.DecodeError as error:
            raise ConfigError(f"{file} is no recording: {error}") from None
    for name in dict.fromkeys(itertools.chain.from_iterable(ABOUT if each == ALL else [each] for each in names)):
        if name == RANDOM:
            for number in range(options["seed"], options["seed"] + runs):
                yield run_random(number, LARGE if options["deep"] else SMALL)
        else:
            yield explore_any(name, **options)
