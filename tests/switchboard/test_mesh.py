"""Membership: joining, doubles, impostors, losses, and what clients are told of it."""

import pytest

from tests.switchboard.pair import Mesh, meet
from trunkline.errors import NameTaken
from trunkline.names import Address
from trunkline.switchboard.config import ServerConfig
from trunkline.switchboard.events import Dial, Lost, Opened, Received, Tick
from trunkline.switchboard.mesh import FORGET
from trunkline.switchboard.server import Server
from trunkline.wire.limits import MAX_MEMBERS
from trunkline.wire.messages import Elsewhere, Matched, MateHello, Member, Members


def is_full(mesh: Mesh) -> bool:
    everyone = set(mesh.servers)
    return all(set(server._mesh.links) == everyone - {name} for name, server in mesh.servers.items())


class TestJoining:
    @pytest.mark.parametrize("names", ["ab", "abc", "ba", "cab", "abcdefgh"])
    def test_everyone_is_connected_to_everyone(self, names: str) -> None:
        assert is_full(Mesh(names))

    def test_two_join_at_once_by_different_members(self) -> None:
        mesh = Mesh("ab")
        run, mesh.run = mesh.run, lambda: None  # hold deliveries back until both have dialled
        mesh.start("c", join="a")
        mesh.start("d", join="b")
        mesh.run = run
        mesh.run()
        mesh.pass_time(10)
        assert is_full(mesh)

    def test_two_that_dial_each_other_keep_one_link(self) -> None:
        mesh = Mesh("a")
        for name, other in (("x", "y"), ("y", "x")):
            config = ServerConfig(id=name, address=Address(name, 7117), join=(Address(other, 7117),))
            mesh.servers[name] = Server(config, seed=name.encode() * 16, incarnation=1, epoch=0, now=0)
        for name in "xy":
            mesh.step(name, Tick())
        mesh.run()
        mesh.pass_time(30)
        x, y = mesh.servers["x"]._mesh, mesh.servers["y"]._mesh
        assert mesh.wires["x", x.links["y"]] == ("y", y.links["x"])
        assert not x.targets
        assert not y.targets

    def test_a_join_list_that_names_itself(self) -> None:
        mesh = Mesh("a")
        config = ServerConfig(id="me", address=Address("elsewhere", 1), join=(Address("me", 7117), Address("a", 7117)))
        mesh.servers["me"] = Server(config, seed=b"m" * 16, incarnation=1, epoch=0, now=0)
        mesh.step("me", Tick())
        mesh.run()
        mesh.pass_time(30)
        assert set(mesh.servers["me"]._mesh.links) == {"a"}
        assert not mesh.servers["me"]._mesh.targets

    def test_a_taken_id_is_refused_and_says_by_whom(self) -> None:
        mesh = Mesh("ab")
        config = ServerConfig(id="b", address=Address("impostor", 1), join=(Address("a", 7117),))
        mesh.servers["impostor"] = Server(config, seed=b"m" * 16, incarnation=9, epoch=0, now=0)
        mesh.step("impostor", Tick())
        mesh.run()
        error = mesh.halted["impostor"]
        assert isinstance(error, NameTaken)
        assert "b:7117" in str(error)
        assert set(mesh.servers["a"]._mesh.links) == {"b"}

    def test_even_if_both_started_at_the_same_moment(self) -> None:
        mesh = Mesh("b")
        mesh.start("x", join="b")
        config = ServerConfig(id="b", address=Address("impostor", 1), join=(Address("b", 7117),))
        mesh.servers["impostor"] = Server(config, seed=b"m" * 16, incarnation=1, epoch=0, now=0)
        mesh.step("impostor", Tick())
        mesh.run()
        assert isinstance(mesh.halted["impostor"], NameTaken)

    def test_a_mesh_has_a_limit(self) -> None:
        mesh = Mesh("a")
        from trunkline.wire import limits

        members = mesh.servers["a"]._mesh.members
        for number in range(limits.MAX_MEMBERS - 1):
            members[f"filler-{number}"] = mesh.servers["a"]._mesh.me
        mesh.start("z", join="a")
        assert not mesh.servers["z"]._mesh.links


class TestLosing:
    def test_crashed_server_is_dialled_until_it_is_back(self) -> None:
        mesh = Mesh("abc")
        mesh.crash("b")
        mesh.pass_time(30)
        assert set(mesh.servers["a"]._mesh.missing) == {"b"}
        mesh.start("b", incarnation=2)
        mesh.pass_time(10)
        assert is_full(mesh)
        assert not mesh.servers["a"]._mesh.missing

    def test_a_restart_is_believed_before_the_crash_is_noticed(self) -> None:
        mesh = Mesh("ab")
        for key in [key for key in mesh.wires if key[0] == "b"]:
            del mesh.wires[mesh.wires.pop(key)]
        del mesh.servers["b"]
        mesh.start("b", join="a", incarnation=2)
        assert set(mesh.servers["a"]._mesh.links) == {"b"}
        assert mesh.servers["a"]._mesh.members["b"].incarnation == 2

    def test_whoever_leaves_is_not_missed(self) -> None:
        mesh = Mesh("abc")
        mesh.stop("c")
        del mesh.servers["c"]
        mesh.pass_time(5)
        assert not mesh.servers["a"]._mesh.missing
        assert set(mesh.servers["a"]._mesh.members) == {"b"}

    def test_missing_for_long_is_forgotten(self) -> None:
        mesh = Mesh("ab")
        mesh.crash("b")
        mesh.pass_time(FORGET + 20)
        assert not mesh.servers["a"]._mesh.targets
        assert not mesh.servers["a"]._mesh.members


class TestClientsAreTold:
    def test_of_new_members(self) -> None:
        mesh = Mesh("a")
        c = mesh.client("a")
        mesh.start("b", join="a")
        assert {m.id for m in mesh.take(c, Members).members} == {"a", "b"}

    def test_where_else_to_lodge_when_a_mate_is_missed(self) -> None:
        """DESIGN 4: two clients whose servers can't see each other still meet through a third."""
        mesh = Mesh("abc")
        x, y = mesh.client("a"), mesh.client("b")
        mesh.cut("a", "b")
        requests = {x: meet("ann", "ben"), y: meet("ben", "ann")}
        for client, request in requests.items():
            mesh.say(client, request)
        mesh.pass_time(6)
        copies = {}
        for client, request in requests.items():
            assert "c" in {m.id for m in mesh.take(client, Elsewhere).members}
            copies[client] = mesh.client("c")
            mesh.say(copies[client], request)  # the same attempt
        assert all(mesh.got(copy, Matched) for copy in copies.values())
        mesh.pass_time(2)
        assert all(server._matcher.table.counts() == (0, 0, 0) for server in mesh.servers.values())

    def test_of_a_server_to_join_that_was_never_reached(self) -> None:
        mesh = Mesh()
        mesh.start("b", join="c")
        c = mesh.client("b")
        mesh.say(c, meet("ann", "ben"))
        mesh.pass_time(6)
        assert [member.address for member in mesh.take(c, Elsewhere).members] == ["c:7117"]
        mesh.start("c")
        mesh.pass_time(20)
        assert mesh.take(c, Elsewhere).members == ()

    def test_but_not_for_ever(self) -> None:
        mesh = Mesh()
        mesh.start("b", join="c")
        mesh.pass_time(FORGET + 20)
        c = mesh.client("b")
        mesh.say(c, meet("ann", "ben"))
        mesh.pass_time(6)
        assert not mesh.got(c, Elsewhere)

    def test_and_that_it_is_over_when_the_mate_is_back(self) -> None:
        mesh = Mesh("ab")
        c = mesh.client("a")
        mesh.cut("a", "b")
        mesh.say(c, meet("ann", "ben"))
        mesh.pass_time(6)
        assert mesh.take(c, Elsewhere).members
        mesh.heal("a", "b")
        mesh.pass_time(10)
        assert mesh.take(c, Elsewhere).members == ()

    def test_not_when_nothing_of_theirs_waits(self) -> None:
        mesh = Mesh("abc")
        c = mesh.client("a")
        mesh.cut("a", "b")
        mesh.pass_time(6)
        assert not mesh.got(c, Elsewhere)


class TestLies:
    """What strangers say of servers that are not there."""

    @pytest.mark.parametrize("address", ["no:address:at:all", "a:7117"])
    def test_a_server_that_cannot_be_dialled_is_forgotten(self, address: str) -> None:
        server = Mesh("a").servers["a"]
        server.step(Opened(-9, "liar"), 0.0)
        server.step(Received(-9, MateHello(Member("liar", 1, address), ())), 0.0)
        server.step(Lost(-9, "gone"), 0.3)
        assert server._mesh.missing
        due = server.next_deadline()
        assert due is not None
        server.step(Tick(), 0.3 + FORGET)
        assert not server._mesh.members
        assert server.next_deadline() is None

    def test_addresses_that_were_made_up_are_few_and_forgotten(self) -> None:
        server = Mesh("a").servers["a"]
        for liar in range(50):
            lies = tuple(Member(f"{liar} {number}", 1, f"h{liar}-{number}:1") for number in range(60))
            server.step(Opened(-9 - liar, "liar"), 0.0)
            server.step(Received(-9 - liar, MateHello(Member("liar", liar, "liar:1"), lies)), 0.0)
        assert len(server._mesh.targets) == MAX_MEMBERS
        server.step(Lost(-58, "gone"), 0.0)
        now = 0.0
        while (due := server.next_deadline()) is not None and now < 2 * FORGET:
            now = due
            for effect in server.step(Tick(), now):
                if isinstance(effect, Dial):
                    server.step(Lost(effect.conn, "no such host"), now)
        assert not server._mesh.targets
        assert not server._mesh.members
