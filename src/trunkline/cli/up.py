"""``trunkline up``: everything that one host needs, in one process; for now that is a switchboard."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from trunkline.cli.common import Common
from trunkline.cli.switchboard import Metrics, Spin, make_config, serve

if TYPE_CHECKING:
    from trunkline.drivers.server_aio import SwitchboardServer
    from trunkline.names import Address

NEXT: Final = """\
Try it, in two other terminals:
  trunkline meet alice bob{hint}
  trunkline meet bob alice{hint}
or give a service a name, and reach it:
  trunkline expose web tcp:127.0.0.1:8000{hint}
  trunkline reach web --listen 127.0.0.1:9000{hint}
{network}Ctrl-C stops it."""

OPEN_IT: Final = """\
Only this host reaches it. For others: trunkline up --listen 0.0.0.0
"""

FROM_OTHERS: Final = """\
On other hosts: export TRUNKLINE_SWITCHBOARDS={address}
"""


def up(
    ctx: typer.Context,
    listen: Annotated[
        str, typer.Option(metavar="H:P", help="Where to listen; 0.0.0.0 opens it to the network.")
    ] = "127.0.0.1:7117",
    metrics: Metrics = None,
    spin: Spin = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say as JSON where it listens.")] = False,
) -> None:
    """Start a switchboard for the programs of this host.

    They find it by themselves. It runs until it is interrupted.

    \b
    Examples:
      trunkline up                      for this host alone
      trunkline up --listen 0.0.0.0     for the network too
    """
    from trunkline.drivers.home import Home
    from trunkline.errors import ConfigError
    from trunkline.names import Address

    common: Common = ctx.obj
    at = Address.parse(listen)
    home = Home(common.home)

    def announce(server: "SwitchboardServer") -> None:
        # Clients on this host go there first; what else was known stays known.
        home.remember([_local(server.bound[0]), *home.remembered()])
        if as_json:
            bound = [str(address) for address in server.bound]
            common.tell_json(
                {"event": "listening", "id": server.config.id, "address": str(server.address), "listen": bound}
            )
            return
        alone = _is_loopback(server.bound[0].host)
        network = OPEN_IT if alone else FROM_OTHERS.format(address=server.address)
        hint = f" --home {common.home}" if common.home else ""
        common.tell(f"A switchboard is up at {server.address}.\n" + NEXT.format(hint=hint, network=network))

    try:
        serve(common, make_config(address=at), [at], announce=announce, metrics=metrics, spin=spin)
    except ConfigError:
        if at.port == 0 or not _is_up(_local(at)):
            raise
        home.remember([_local(at), *home.remembered()])
        common.tell(f"A switchboard is up already at {_local(at)}.")


def _is_up(address: "Address") -> bool:
    from trunkline.cli.common import run
    from trunkline.cli.status import ask

    return not isinstance(run(ask(address)), str)


def _local(bound: "Address") -> "Address":
    from trunkline.names import Address

    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound to
    return Address(everywhere.get(bound.host, bound.host), bound.port)


def _is_loopback(host: str) -> bool:
    import ipaddress

    return ipaddress.ip_address(host).is_loopback
