"""``trunkline status``: how all known servers are, and who we are in the realm."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from trunkline.cli.common import Common, columns, run
from trunkline.errors import NoSwitchboard

if TYPE_CHECKING:
    from trunkline.drivers.membership import Membership
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
    """Show which servers are up, and who you are.

    Servers that those know of are asked too. In a realm it shows your user, how long the certificate is good, and
    how old the newest signed head is. The exit code is 1 if no server is up.

    \b
    Example:
      trunkline status
    """
    common: Common = ctx.obj
    common.start_logs()
    with member(common) as who:
        rows = run(_status(common, who))
        standing = None if who is None else _standing(common, who)
    if as_json:
        common.tell_json({"realm": standing, "servers": [dataclasses.asdict(row) for row in rows]})
    else:
        if standing is not None:
            common.tell(_said(standing))
        if rows:
            common.tell(columns(HEAD, [row.cells() for row in rows]))
    if not any(row.up for row in rows):
        raise NoSwitchboard([(row.address, row.reason) for row in rows])


@contextlib.contextmanager
def member(common: Common) -> "Iterator[Membership | None]":
    """Give what this home is in its realm, with a certificate or without yet; None if it is in none."""
    from trunkline.cli.realm import realm_home
    from trunkline.drivers.membership import Membership

    home = realm_home(common)
    if not home.has_realm:
        yield None
        return
    with Membership.open(home) as opened:
        yield opened


def _standing(common: Common, who: "Membership") -> dict[str, Any]:
    """Return who we are in the realm, for programs: nothing in it is secret."""
    import time

    from trunkline.authority.certificates import fingerprint_text, key_text
    from trunkline.cli.realm import realm_home
    from trunkline.errors import TrunklineError

    trouble = ""
    try:
        who.ready(ANSWER_TIMEOUT)
    except TrunklineError as error:
        trouble = str(error)
    until, seen = who.expires, who.head_time
    return {
        "realm": who.realm,
        "fingerprint": fingerprint_text(who.fingerprint),
        "user": who.user,
        "key": key_text(who.key.public.signing) if who.user else None,
        "certificate_until": until,
        "head_age": None if seen is None else max(0, round(time.time() - seen)),
        "authorities": list(realm_home(common).settings().authorities),
        "trouble": trouble,
    }


def _said(standing: dict[str, Any]) -> str:
    from trunkline.cli.realm import day

    user = f"{standing['user']}  {standing['key']}" if standing["user"] else "none: this home only verifies others"
    until, age = standing["certificate_until"], standing["head_age"]
    lines = [
        f"realm        {standing['realm']}  {standing['fingerprint']}",
        f"user         {user}",
        f"certificate  {'good until ' + day(until) if until else 'none'}",
        f"head         {f'{age} s old' if age is not None else 'none was ever seen'}",
        f"authorities  {', '.join(standing['authorities']) or 'none is known'}",
    ]
    if standing["trouble"]:
        lines.append(f"trouble      {standing['trouble']}")
    return "\n".join(lines) + "\n"


async def _status(common: Common, who: "Membership | None") -> list[Row]:
    import asyncio
    import functools

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
        for address, answer in zip(asked, await asyncio.gather(*map(functools.partial(ask, who), asked)), strict=True):
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


async def ask_one(common: Common, address: "Address") -> "tuple[ServerStatus, float] | str":
    """Ask one server, as this home does."""
    with member(common) as who:
        return await ask(who, address)


async def ask(who: "Membership | None", address: "Address") -> "tuple[ServerStatus, float] | str":
    """Return a server's status and the seconds of a round trip to it, or why there is no answer."""
    import time

    from trunkline.drivers.addresses import place
    from trunkline.drivers.client_aio import AsyncClient
    from trunkline.errors import TrunklineError
    from trunkline.switchboard.config import ClientConfig
    from trunkline.wire.messages import AskStatus, ServerStatus

    # A client of its own for each, which has only this server to go to and remembers nothing.
    config = ClientConfig(servers=(address,), place=place())
    try:
        if who is not None:
            await who.ready_async()
        client = AsyncClient(config, remember=lambda _: None, member=who)
    except TrunklineError as error:
        return str(error)
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
