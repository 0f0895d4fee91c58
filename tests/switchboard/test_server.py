"""Who may say what, who is still alive, and the questions that a server answers."""

from itertools import product
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.switchboard.pair import Mesh, meet, post
from trunkline.errors import MessageNotAllowed, TooMany
from trunkline.switchboard.events import Close, Lost, Opened, Received, Send, Tick
from trunkline.switchboard.server import ADMISSION, GREETING_TIME, Role
from trunkline.wire.limits import MAX_MEMBERS
from trunkline.wire.messages import (
    Alive,
    AnyMessage,
    AskStatus,
    Broadcast,
    Explain,
    Explanation,
    Goodbye,
    Hello,
    ListNames,
    NameList,
    Notice,
    Refused,
    ServerStatus,
)

EXAMPLES: dict[str, Any] = {
    "bytes": b"x" * 16,
    "str": "name",
}


def example(kind: type) -> Any:
    """Make some message of a kind, with every field at a legal value."""
    values: list[Any] = []
    for field in msgspec.structs.fields(kind):
        info = msgspec.inspect.type_info(field.type)
        match info:
            case msgspec.inspect.BytesType(min_length=least):
                values.append(b"x" * (least or 0))
            case msgspec.inspect.StrType(min_length=least):
                values.append(("you" if field.name == "you" else "me") if not least else "id")
            case msgspec.inspect.IntType():
                values.append(1)
            case msgspec.inspect.FloatType():
                values.append(1.0)
            case msgspec.inspect.BoolType():
                values.append(False)
            case msgspec.inspect.VarTupleType():
                values.append(())
            case msgspec.inspect.StructType(cls=inner):
                values.append(example(inner))
            case _:
                raise AssertionError(info)
    return kind(*values)


KINDS = get_args(AnyMessage)


class TestAdmission:
    @pytest.mark.parametrize(("kind", "role"), list(product(KINDS, Role)), ids=lambda x: getattr(x, "__name__", str(x)))
    def test_every_message_in_every_role_is_legal_or_named_illegal(self, kind: type, role: Role) -> None:
        mesh = Mesh("ab")
        server = mesh.servers["a"]
        if role is Role.CLIENT:
            conn = mesh.client("a")
        elif role is Role.MATE:
            conn = server._mesh.links["b"]
        elif role is Role.NEWCOMER:
            conn = -1000
            server.step(Opened(conn, "somebody"), mesh.now)
        else:
            mesh.crash("b")
            server._mesh.targets["b:7117"].due = 0.0
            effects = server.step(Tick(), mesh.now)
            conn = next(effect.conn for effect in effects if hasattr(effect, "address"))
            server.step(Opened(conn, "b"), mesh.now)
        effects = server.step(Received(conn, example(kind)), mesh.now)
        refusals = [e for e in effects if isinstance(e, Send) and isinstance(e.message, Goodbye)]
        is_legal = kind in ADMISSION and role in ADMISSION[kind][1]
        if is_legal:
            assert not any(e.message.code == MessageNotAllowed.code for e in refusals)
        else:
            assert [e.message.code for e in refusals] == [MessageNotAllowed.code]
            assert kind.__name__ in refusals[0].message.text
            assert any(isinstance(e, Close) and e.conn == conn for e in effects)


class TestLiveness:
    def test_a_silent_client_is_dropped_with_all_that_it_lodged(self) -> None:
        mesh = Mesh(heartbeat=1.0)
        c = mesh.client("a")
        mesh.say(c, meet("ann", "ben"))
        server = mesh.servers["a"]
        for tenth in range(40):
            mesh.now = tenth / 10
            mesh.step("a", Tick())
        mesh.run()
        assert mesh.take(c, Goodbye).text.startswith("nothing was heard")
        assert server._matcher.table.counts() == (0, 0, 0)

    def test_a_talking_client_is_kept_and_hears_heartbeats(self) -> None:
        mesh = Mesh(heartbeat=1.0)
        c = mesh.client("a")
        mesh.pass_time(20)
        assert not mesh.got(c, Goodbye)
        assert mesh.got(c, Alive)

    def test_a_silent_newcomer_is_dropped(self) -> None:
        mesh = Mesh()
        server = mesh.servers["a"]
        server.step(Opened(-5, "slowloris"), 0.0)
        effects = []
        while (due := server.next_deadline()) is not None and due < GREETING_TIME + 3:
            effects += server.step(Tick(), due)
        assert any(isinstance(e, Close) and e.conn == -5 for e in effects)
        assert not server._parties

    def test_an_idle_server_sets_no_timer(self) -> None:
        assert Mesh().servers["a"].next_deadline() is None


class TestCaps:
    def test_requests_of_one_client(self) -> None:
        mesh = Mesh(max_requests=3)
        greedy, modest = mesh.client("a"), mesh.client("a")
        for number in range(100):
            mesh.say(greedy, meet("ann", "ben", rid=bytes([number]) * 16))
        refused = mesh.take(greedy, Refused)
        assert refused.code == TooMany.code
        assert "3" in refused.text
        mesh.say(modest, meet("ben", "ann"))
        assert not mesh.got(modest, Refused)

    def test_clients(self) -> None:
        mesh = Mesh(max_clients=1)
        mesh.client("a")
        server = mesh.servers["a"]
        assert server.step(Opened(-9, "perhaps a server"), 0.0) == []
        effects = server.step(Received(-9, Hello("one too many")), 0.0)
        assert any(isinstance(e, Send) and e.message.code == TooMany.code for e in effects)
        assert server._clients == 1

    def test_connections(self) -> None:
        mesh = Mesh(max_clients=1)
        server = mesh.servers["a"]
        for number in range(1 + MAX_MEMBERS):
            assert server.step(Opened(-9 - number, "silent"), 0.0) == []
        effects = server.step(Opened(-1000, "one too many"), 0.0)
        assert any(isinstance(e, Send) and e.message.code == TooMany.code for e in effects)

    def test_broadcasts(self) -> None:
        mesh = Mesh("ab", notice_rate=1.0)
        loud = mesh.client("a")
        ears = [mesh.client(server, notices=True) for server in "ab"]
        for _ in range(50):
            mesh.say(loud, Broadcast(b"hear"))
        assert all(sum(isinstance(m, Notice) for m in mesh.inbox[ear]) == 10 for ear in ears)
        assert not mesh.got(loud, Notice)


class TestQuestions:
    def test_status(self) -> None:
        mesh = Mesh("abc")
        c, p = mesh.client("a"), mesh.client("b")
        mesh.say(p, post("printer"))
        mesh.crash("c")
        mesh.say(c, meet("ann", "ben"), AskStatus(7))
        status = mesh.take(c, ServerStatus)
        assert (status.query, status.server, status.clients) == (7, "a", 1)
        assert (status.meets, status.posts, status.foreign) == (1, 0, 1)
        assert [m.id for m in status.connected] == ["b"]
        assert [m.id for m in status.missing] == ["c"]

    def test_names_by_prefix_in_pages(self) -> None:
        mesh = Mesh("ab", max_requests=1000)
        p, c = mesh.client("a"), mesh.client("b")
        wanted = sorted(f"lab/{number}" for number in range(450))
        for name in [*wanted, "la", "lab", "lac/1"]:
            mesh.say(p, post(name, rid=name.encode().ljust(16, b".")))
        mesh.say(c, meet("ann", "lab/none"))
        found: list[str] = []
        more = True
        while more:
            mesh.say(c, ListNames(1, "lab/", found[-1] if found else ""))
            answer = mesh.take(c, NameList)
            found += [line.name for line in answer.names]
            more = answer.more
        assert found == wanted

    def test_explain(self) -> None:
        mesh = Mesh()
        p, c = mesh.client("a"), mesh.client("a")
        mesh.say(p, post("Printer"))
        mesh.say(c, meet("ann", "printer"), Explain(3, "ann", "printer"))
        lines = mesh.take(c, Explanation).lines
        assert any("'Printer' is posted; it differs from 'printer' by case only" in line for line in lines)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(["say", "drop", "tick", "new"]),
            st.sampled_from(KINDS),
            st.integers(0, 3),
        ),
        max_size=60,
    )
)
def test_no_order_of_messages_breaks_a_server(script: list[tuple[int, str, type, int]]) -> None:
    """Legal and illegal messages from clients and mates, in any order: no exception, and in the end empty tables."""
    mesh = Mesh("ab")
    server = mesh.servers["a"]
    conns: list[int] = []
    fresh = -100
    now = 0.0
    for which, what, kind, number in script:
        now += 0.3
        if what == "new" or not conns:
            fresh -= 1
            conns.append(fresh)
            server.step(Opened(fresh, "somebody"), now)
            server.step(Received(fresh, Hello("test") if number else example(kind)), now)
            continue
        conn = conns[which % len(conns)]
        if what == "drop":
            conns.remove(conn)
            server.step(Lost(conn, "gone"), now)
        elif what == "tick":
            server.step(Tick(), now)
        else:
            message = example(kind)
            if hasattr(message, "n"):
                message = msgspec.structs.replace(message, n=number)
            server.step(Received(conn, message), now)
    for conn in conns:
        server.step(Lost(conn, "gone"), now)
    server.step(Lost(server._mesh.links.get("b", 0), "gone"), now)
    assert server._matcher.table.counts() == (0, 0, 0)
    assert not server._matcher.lodged
    assert not server._matcher.proposals
    assert not server._parties
