"""What a world is made of: how many servers, which clients, what they want, and what may go wrong."""

from typing import Final

import msgspec

FAULTS: Final = ("crash", "lose", "cut", "early")
"""Kinds of faults: a site dies; a connection breaks; a link is cut; timers fire although messages are under way."""


class Want(msgspec.Struct, frozen=True):
    """What one caller wants: ``meet(me, you)``, or a post under ``me`` when ``you`` is empty."""

    me: str
    you: str = ""
    within: float | None = None
    """Seconds that the caller waits."""
    datagram: bool = False
    unique: bool = False
    backlog: int = 128
    user: str = ""
    """Whose the request is; empty if it is plain."""
    peer_user: str = ""
    allow: tuple[str, ...] = ()
    """Who may meet a secure post."""


class ClientSpec(msgspec.Struct, frozen=True):
    """One client process."""

    servers: tuple[int, ...]
    """The servers that it tries, in this order."""
    wants: tuple[Want, ...]


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """One world."""

    name: str
    about: str
    servers: int
    clients: tuple[ClientSpec, ...]
    cuts: tuple[tuple[int, int], ...] = ()
    """Links between servers that are cut from the start."""
    formed: bool = True
    """Whether the servers form their mesh in peace first; otherwise that is explored too."""
    faults: int = 0
    """How many faults may happen in one run."""
    kinds: tuple[str, ...] = ("crash", "lose")
    deep_slack: int | None = 0
    """How much slack a deep exploration leaves after a fault (`trunkline.sim.explore`); None: every order."""
    restart: bool = False
    """Whether a server that crashed may come back, at any time after."""
    heartbeat: float = 3600.0
    """Seconds; this large they never come in an explored world."""
    eager: bool = False
    """Whether heartbeats arrive at once, and timers that are due together fire in the order of sites: a bound on what
    is explored, for worlds that need heartbeats. A report says so."""
    counting: bool = False
    """Whether the messages are counted and held against the budget (S5)."""
    budget: int = 0
    """Most messages, when they are counted."""
    settle: float = 60.0
    """Seconds after the last fault within which S3 must hold."""


def _meet(servers: str, *pairs: str) -> ClientSpec:
    """Return a client: ``_meet("01", "ab")`` tries server 0 first, then 1, and calls meet("a", "b")."""
    wants = tuple(Want(pair[0], pair[1]) if len(pair) == 2 else Want(pair) for pair in pairs)
    return ClientSpec(tuple(int(c) for c in servers), wants)


def _named(*specs: Spec) -> dict[str, Spec]:
    return {spec.name: spec for spec in specs}


def budget_world(servers: int) -> Spec:
    """Return the world in which the messages of one meeting are counted, whatever the order (S5)."""
    order = "".join(str(i) for i in range(servers))
    return Spec(
        name=f"budget-{servers}",
        about=f"{servers} server(s), 2 clients at the first and the last, messages counted",
        servers=servers,
        clients=(_meet(order, "ab"), _meet(order[::-1], "ba")),
        counting=True,
        budget=4 if servers == 1 else 6 + 3 * (servers - 1),
    )


WORLDS: Final = _named(
    Spec(
        name="one",
        deep_slack=None,
        about="1 server, 2 clients",
        servers=1,
        clients=(_meet("0", "ab"), _meet("0", "ba")),
    ),
    Spec(
        name="a",
        deep_slack=None,
        about="2 servers, 2 clients, one at each",
        servers=2,
        clients=(_meet("01", "ab"), _meet("10", "ba")),
    ),
    Spec(
        name="a-same",
        deep_slack=None,
        about="2 servers, 2 clients, both at the lesser server",
        servers=2,
        clients=(_meet("01", "ab"), _meet("01", "ba")),
    ),
    Spec(
        name="a-forming",
        deep_slack=1,
        about="2 servers that are only just finding each other, 2 clients",
        servers=2,
        clients=(_meet("01", "ab"), _meet("10", "ba")),
        formed=False,
    ),
    Spec(
        name="b",
        deep_slack=1,
        about="3 servers, 2 clients at different ones",
        servers=3,
        clients=(_meet("012", "ab"), _meet("120", "ba")),
    ),
    Spec(
        name="c",
        about="3 servers, 3 clients; a wants b twice, b wants a once, each at its own server",
        servers=3,
        clients=(_meet("012", "ab"), _meet("120", "ba"), _meet("201", "ab")),
    ),
    Spec(
        name="c-low",
        about="like c, with the single b at the greatest server",
        servers=3,
        clients=(_meet("012", "ab"), _meet("201", "ba"), _meet("120", "ab")),
    ),
    Spec(
        name="c-both",
        about="3 servers; a wants b twice at one server, b wants a once",
        servers=3,
        clients=(_meet("012", "ab", "ab"), _meet("120", "ba")),
    ),
    Spec(
        name="d",
        deep_slack=1,
        about="3 servers, the link between two of them cut, one client at each of these",
        servers=3,
        clients=(_meet("012", "ab"), _meet("120", "ba")),
        cuts=((0, 1),),
        heartbeat=2.0,
        eager=True,
    ),
    Spec(
        name="d-cutting",
        deep_slack=1,
        about="3 servers, 2 clients; a link between servers may be cut at any time",
        servers=3,
        clients=(_meet("012", "ab"), _meet("120", "ba")),
        kinds=("cut",),
        heartbeat=2.0,
        eager=True,
    ),
    Spec(
        name="e",
        about="2 servers, a post at one, a client at each",
        servers=2,
        clients=(_meet("01", "p"), _meet("01", "ap"), _meet("10", "bp")),
    ),
    Spec(
        name="users",
        about="2 servers; ann's a wants ben's b, who wants ann's a; and eve calls herself b and wants it too",
        servers=2,
        clients=(
            ClientSpec((0, 1), (Want("a", "b", user="ann", peer_user="ben"),)),
            ClientSpec((1, 0), (Want("b", "a", user="ben", peer_user="ann"),)),
            ClientSpec((0, 1), (Want("b", "a", user="eve", peer_user="ann"),)),
        ),
    ),
    Spec(
        name="users-post",
        about="2 servers, ben's post p for ann at one; at the other ann, and a plain client that wants p",
        servers=2,
        clients=(
            ClientSpec((0, 1), (Want("p", user="ben", allow=("ann",)),)),
            ClientSpec((1, 0), (Want("a", "p", user="ann", peer_user="ben"),)),
            ClientSpec((1, 0), (Want("x", "p"),)),
        ),
    ),
    *(budget_world(servers) for servers in range(1, 6)),
)
"""The small worlds that are explored; docs/spec/switchboard.md section 12 lists them."""
