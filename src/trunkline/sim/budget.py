"""How many messages a connection takes, against the paper's numbers (docs/design.md section 4, invariant S5).

Left out are heartbeats, acknowledgements, greetings and the peers' own dial; see `trunkline.sim.engine.UNCOUNTED`.
"""

import msgspec

from trunkline.sim.engine import Memo
from trunkline.sim.explore import FORMING, Search
from trunkline.sim.world import World, settle
from trunkline.sim.worlds import ClientSpec, Spec, Want, budget_world


class Row(msgspec.Struct, frozen=True):
    """The messages of one connection with so many servers."""

    servers: int
    one_after_other: int
    """The second request comes when the first is known everywhere."""
    racing_worst: int
    """The most, over every order of deliveries."""
    racing_seen_all: bool
    """Whether every order was seen."""
    with_post: int
    """A meet with a post that is known, held by another server (by the same one, if there is only one)."""

    @property
    def paper(self) -> int:
        """What the paper says (its section 3.1)."""
        return 4 if self.servers == 1 else 6 + 2 * (self.servers - 1)

    @property
    def paper_racing(self) -> int:
        """What the paper's protocol takes when both requests are propagated."""
        return 4 if self.servers == 1 else 6 + 3 * (self.servers - 1)


def count_messages(most_servers: int = 5) -> list[Row]:
    """Count for 1 to ``most_servers`` servers."""
    return [_count(servers) for servers in range(1, most_servers + 1)]


def table(rows: list[Row]) -> str:
    """Return the counts as a table for people."""
    lines = ["servers  in turn  (paper)  racing, worst  (paper)  known post  (bar)"]
    for row in rows:
        note = "" if row.racing_seen_all else "  (not every order was seen)"
        lines.append(
            f"{row.servers:7}  {row.one_after_other:7}  {row.paper:7}  {row.racing_worst:13}  {row.paper_racing:7}  "
            f"{row.with_post:10}  {6:5}{note}"
        )
    return "\n".join(lines)


def _count(servers: int) -> Row:
    spec = budget_world(servers)
    search = Search(spec)
    seen_all, failure = search.run(max_states=500_000, seconds=60)
    assert failure is None, str(failure)
    last = servers - 1
    post = Spec(
        name="post",
        about="a post at the last server, a meet at the first",
        servers=servers,
        clients=(ClientSpec((last,), (Want("p"),)), ClientSpec((0,), (Want("a", "p"),))),
        counting=True,
    )
    return Row(servers, _in_turn(spec), search.most_counted, seen_all, _in_turn(post))


def _in_turn(spec: Spec) -> int:
    """Count when each client comes after the one before has come to rest; what comes before the last client's request
    belongs to the connection only if it was a meet."""
    world = World(spec, Memo(spec))
    for site in range(spec.servers):
        world.begin(site)
    settle(world, FORMING)
    world.now = FORMING
    world.count = 0
    for place, client in enumerate(spec.clients):
        world.begin(spec.servers + place)
        settle(world, world.now + 0.4)
        if not client.wants[0].you:
            world.count = 0  # lodging the post is amortised over all its meetings
    return world.count
