"""What a seed gives for a random world: who there is, who wants what and when, and which fault strikes when."""

from random import Random
from typing import Any, Final

import msgspec

from trunkline.sim.worlds import ClientSpec, Spec, Want


class Size(msgspec.Struct, frozen=True):
    """Bounds of a random world."""

    servers: int = 3
    clients: int = 6
    faults: int = 6
    calm: float = 20.0
    settle: float = 60.0
    leave: float = 30.0


USERS: Final = ("", "", "ann")
"""Whose a request is, and its peer's user: few, so that most find a partner."""

SMALL: Final = Size()
LARGE: Final = Size(servers=8, clients=50, faults=30, calm=40.0)


class Entry(msgspec.Struct, frozen=True):
    """One line of a plan."""

    at: float
    action: tuple[Any, ...]


class Plan(msgspec.Struct, frozen=True):
    """What a seed gives."""

    seed: int
    spec: Spec
    size: Size
    entries: tuple[Entry, ...]
    last_servers: tuple[int, ...]
    """Servers that live at the end, whatever happened to them before."""


def make_plan(seed: int, size: Size = SMALL) -> Plan:
    """Return the plan of a seed."""
    random = Random(seed)
    servers = random.randint(1, size.servers)
    count = random.randint(2, size.clients)
    names = [f"n{i}" for i in range(max(2, count // 2))]
    clients = tuple(_make_client(random, servers, names) for _ in range(count))
    spec = Spec(
        name=f"random-{seed}",
        about=f"{servers} servers, {count} clients",
        servers=servers,
        clients=clients,
        formed=False,
        faults=size.faults,
        heartbeat=2.0,
        settle=size.settle,
    )
    entries = [Entry(0.0 if random.random() < 0.7 else random.uniform(0, 5), ("begin", i)) for i in range(servers)]
    entries += [
        Entry(random.choice((0.0, random.uniform(0, size.calm / 2))), ("begin", servers + i)) for i in range(count)
    ]
    for _ in range(random.randint(0, size.faults)):
        entries += _make_fault(random, servers, clients, size.calm)
    for i, client in enumerate(clients):
        for place in range(len(client.wants)):
            if random.random() < 0.08:
                entries.append(Entry(random.uniform(0, size.calm), ("cancel", servers + i, place)))
    alive = tuple(i for i in range(servers) if random.random() < 0.7) or (random.randrange(servers),)
    return Plan(seed, spec, size, tuple(sorted(entries, key=lambda e: e.at)), alive)


def _make_client(random: Random, servers: int, names: list[str]) -> ClientSpec:
    order = random.sample(range(servers), random.randint(1, servers))
    wants = []
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        me, you = random.sample(names, 2)
        within = random.choice((None, None, None, random.uniform(0.1, 30)))
        datagram = random.random() < 0.1
        if random.random() < 0.25:
            unique = random.random() < 0.3
            backlog = random.choice((1, 2, 128))
            user = random.choice(USERS)
            wants.append(Want(me, "", None, datagram, unique, backlog, user, allow=("*",) if user else ()))
        else:
            user = random.choice(USERS)
            wants.append(Want(me, you, within, datagram, user=user, peer_user=user))
    return ClientSpec(tuple(order), tuple(wants))


def _make_fault(random: Random, servers: int, clients: tuple[ClientSpec, ...], calm: float) -> list[Entry]:
    """Return one fault, and what ends it before the calm."""
    at = random.uniform(0, calm * 0.9)
    until = random.uniform(at, calm)
    site = random.randrange(servers + len(clients))
    server = random.randrange(servers)
    other = random.randrange(servers)
    kind = random.choice(("crash", "crash", "lose", "lose", "cut", "stall", "freeze", "stop", "client"))
    if kind == "client":
        site = servers + random.randrange(len(clients))
        found = [Entry(at, ("crash", site))]
        return found + ([Entry(until, ("begin", site))] if random.random() < 0.5 else [])
    if kind in ("crash", "stop"):
        found = [Entry(at, (kind, server))]
        return found + ([Entry(until, ("begin", server))] if random.random() < 0.6 else [])
    if kind == "lose":
        return [Entry(at, ("lose-any", random.randrange(1 << 30)))]
    if kind == "freeze":
        return [Entry(at, ("freeze", site)), Entry(until, ("thaw", site))]
    if server == other:
        return []
    return [Entry(at, (kind, server, other)), Entry(until, ("heal", server, other))]
