"""``trunkline status``: how all known servers are."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Final

import typer

from trunkline.cli.common import Common, columns, run
from trunkline.errors import NoSwitchboard

if TYPE_CHECKING:
    from trunkline.names import Address
    from trunkline.wire.messages import ServerStatus

ANSWER_TIMEOUT: Final = 4.0
"""Seconds that one server has for its answer."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What is known of one server. Of one that is down, its address and why."""

    address: str
    up: bool
    reason: str = ""
    id: str = ""
    clients: int = 0
    meets: int = 0
    posts: int = 0
    matches: int = 0
    uptime: float = 0.0
    """In seconds."""
    round_trip: float = 0.0
    """In seconds."""
    mates: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def cells(self) -> tuple[str, ...]:
        if not self.up:
            return (self.id or "-", self.address, f"down: {self.reason}", *("-" * 7))
        counts = (self.clients, self.meets, self.posts, self.matches)
        missing = ", ".join(self.missing) or "-"
        trip = f"{self.round_trip * 1e3:.2f} ms"
        return (self.id, self.address, "up", *map(str, counts), str(len(self.mates)), missing, trip)


HEAD: Final = ("ID", "ADDRESS", "STATE", "CLIENTS", "MEETS", "POSTS", "MATCHES", "MATES", "MISSING", "ROUND TRIP")


def status(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how the switchboard servers are that we know of.

    Servers that those know of are asked too. The exit code is 1 if none is up.

    \b
    Example:
      trunkline status
    """
    common: Common = ctx.obj
    common.start_logs()
    rows = run(_status(common))
    if as_json:
        common.tell_json([dataclasses.asdict(row) for row in rows])
    elif rows:
        common.tell(columns(HEAD, [row.cells() for row in rows]))
    if not any(row.up for row in rows):
        raise NoSwitchboard([(row.address, row.reason) for row in rows])


async def _status(common: Common) -> list[Row]:
    import asyncio

    from trunkline.drivers.home import Home
    from trunkline.errors import InvalidAddress
    from trunkline.names import Address

    rows: dict[str, Row] = {}
    seen: set[Address] = set()
    servers = common.servers()
    found = list(Home(common.home).switchboards() if servers is None else servers)
    ids: dict[str, str] = {}
    while found:
        asked, found = list(dict.fromkeys(found)), []
        seen.update(asked)
        for address, answer in zip(asked, await asyncio.gather(*map(ask, asked)), strict=True):
            if isinstance(answer, str):
                rows[str(address)] = Row(str(address), up=False, reason=answer, id=ids.get(str(address), ""))
                continue
            status, trip = answer
            # One server may be known under several addresses: it gets one row.
            rows.setdefault(f"{status.server}\0{status.incarnation}", _row(status, trip))
            for member in (*status.connected, *status.missing):
                ids[member.address] = member.id
                try:
                    at = Address.parse(member.address)
                except InvalidAddress:
                    continue
                if at not in seen:
                    found.append(at)
    return sorted(rows.values(), key=lambda row: (row.id or "~", row.address))


def _row(status: "ServerStatus", trip: float) -> Row:
    return Row(
        status.address,
        up=True,
        id=status.server,
        clients=status.clients - 1,  # without us, who ask
        meets=status.meets,
        posts=status.posts,
        matches=status.matches,
        uptime=status.uptime,
        round_trip=trip,
        mates=tuple(member.id for member in status.connected),
        missing=tuple(member.id for member in status.missing),
    )


async def ask(address: "Address") -> "tuple[ServerStatus, float] | str":
    """Return a server's status and the seconds of a round trip to it, or why there is no answer."""
    import time

    from trunkline.drivers.addresses import place
    from trunkline.drivers.client_aio import AsyncClient
    from trunkline.errors import TrunklineError
    from trunkline.switchboard.config import ClientConfig
    from trunkline.wire.messages import AskStatus, ServerStatus

    # A client of its own for each, which has only this server to go to and remembers nothing.
    client = AsyncClient(ClientConfig(servers=(address,), place=place()), remember=lambda _: None)
    try:
        await client.ask(AskStatus, ANSWER_TIMEOUT)
        began = time.perf_counter()
        answer = await client.ask(AskStatus, ANSWER_TIMEOUT)
        trip = time.perf_counter() - began
    except NoSwitchboard as error:
        return error.tried[0][1] if error.tried else f"no answer within {ANSWER_TIMEOUT:g} s"
    except TrunklineError as error:
        return str(error)
    finally:
        client.close()
    assert isinstance(answer, ServerStatus), "the machine lets no other answer through"
    return answer, trip
