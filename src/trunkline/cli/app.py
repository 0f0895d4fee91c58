"""The typer application: all commands by section, and the options that every command takes."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from trunkline.cli.authority import authority
from trunkline.cli.bench import bench
from trunkline.cli.common import Common
from trunkline.cli.explain import explain
from trunkline.cli.expose import expose
from trunkline.cli.invite import invite
from trunkline.cli.join import join
from trunkline.cli.key import key
from trunkline.cli.meet import meet
from trunkline.cli.names import names
from trunkline.cli.reach import reach
from trunkline.cli.send import send
from trunkline.cli.simulate import simulate
from trunkline.cli.status import status
from trunkline.cli.switchboard import switchboard
from trunkline.cli.take import take
from trunkline.cli.up import up

SECTIONS: Final[dict[str, tuple[Callable[..., None] | typer.Typer, ...]]] = {
    "Connect": (meet, expose, reach, send, take),
    "Serve": (up, switchboard, authority),
    "Belong": (invite, join, key),
    "Look": (status, names, explain),
    "Prove and measure": (simulate, bench),
}

ORIENTATION: Final = """\
Trunkline connects processes by name, wherever they run and whichever comes first.

  trunkline up                                  a realm and a switchboard on this host
  trunkline meet alice bob                      in one terminal,
  trunkline meet bob alice                      in another: what you type here comes out there
  trunkline expose web tcp:127.0.0.1:8000       give a local service a name
  trunkline reach web --listen 127.0.0.1:9000   and reach it from any host as a local port
  trunkline send FILE me you                    and `trunkline take you me` at the other end
  trunkline invite                              the line with which other machines join
  trunkline status                              which servers are up, who you are

`trunkline --help` lists everything; `trunkline COMMAND --help` has an example for each.
"""


class _Sections(TyperGroup):
    """Lists the commands by section."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, functions in SECTIONS.items():
            commands = [self.commands[_name(function)] for function in functions]
            with formatter.section(title):
                formatter.write_dl([(str(command.name), command.get_short_help_str(70)) for command in commands])


def _name(command: Callable[..., None] | typer.Typer) -> str:
    return str(command.info.name if isinstance(command, typer.Typer) else command.__name__)


class _Command(TyperCommand):
    """Shows its arguments as people write them: ME, not {ME} and <str>."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [re.sub(r"[{}]", "", piece) for piece in super().collect_usage_pieces(ctx)]

    def get_help(self, ctx: Any) -> str:
        # Spaces for a type, so that the columns stay.
        return re.sub(r" <(str|path|list\[\w+\])>", lambda found: " " * len(found[0]), super().get_help(ctx))


app = typer.Typer(
    cls=_Sections,
    rich_markup_mode=None,  # rich alone takes half of the time that --help may take
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"trunkline {version('trunkline')}")
        raise typer.Exit


@app.callback(invoke_without_command=True, epilog="These options may also stand behind the command's name.")
def trunkline(
    ctx: typer.Context,
    switchboards: Annotated[
        str | None,
        typer.Option(
            metavar="H:P,...",
            help="Switchboard servers to use, best first; otherwise what TRUNKLINE_SWITCHBOARDS, config.toml and "
            "the host list say.",
        ),
    ] = None,
    home: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of config.toml and host list; otherwise TRUNKLINE_HOME."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log on stderr what happens.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Log every message; show where an error comes from.")] = False,
    version: Annotated[  # noqa: ARG001 - its callback does it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Connect processes by name, wherever they run and whichever comes first."""
    common: Common = ctx.obj
    common.switchboards = switchboards
    common.home = home
    common.verbose = verbose
    common.debug = debug
    if ctx.invoked_subcommand is None:
        print(ORIENTATION, end="")


for _commands in SECTIONS.values():
    for _command in _commands:
        if isinstance(_command, typer.Typer):
            for _below in _command.registered_commands:
                _below.cls = _Command
            app.add_typer(_command)
        else:
            app.command(cls=_Command)(_command)
