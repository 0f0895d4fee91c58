"""Matching by one server and by several, as traces of the paper's figures, with their messages counted."""

from itertools import permutations
from typing import Any

import pytest

from tests.switchboard.pair import Mesh, meet, post
from trunkline.errors import Displaced, NameTaken
from trunkline.switchboard.entries import PostEntry, handle
from trunkline.switchboard.events import Received
from trunkline.wire.messages import Matched, Posted, Propose, Refused, Settled, Withdraw


def matched(mesh: Mesh, a: int, b: int) -> None:
    one, two = mesh.take(a, Matched), mesh.take(b, Matched)
    assert one.match == two.match
    assert one.token == two.token
    assert one.active != two.active


class TestFigure1OneServer:
    def test_two_requests_two_answers(self) -> None:
        mesh = Mesh()
        a, b = mesh.client("a"), mesh.client("a")
        mesh.say(a, meet("ann", "ben"))
        mesh.say(b, meet("ben", "ann"))
        matched(mesh, a, b)
        assert mesh.paper_count() == 4

    def test_post(self) -> None:
        mesh = Mesh()
        p, c = mesh.client("a"), mesh.client("a")
        mesh.say(p, post("printer"))
        assert mesh.take(p, Posted).generation == 0
        for n in range(3):
            mesh.say(c, meet("ann", "printer", n=n + 1))
            matched(mesh, p, c)


@pytest.mark.parametrize("names", ["ab", "abc", "abcd", "abcde"])
class TestFigure2SeveralServers:
    def test_one_waits(self, names: str) -> None:
        for first, second in ((names[0], names[-1]), (names[-1], names[0])):
            mesh = Mesh(names)
            a, b = mesh.client(first), mesh.client(second)
            mesh.counted.clear()
            mesh.say(a, meet("ann", "ben"))
            mesh.say(b, meet("ben", "ann"))
            matched(mesh, a, b)
            assert mesh.paper_count() <= 6 + 2 * (len(names) - 1), mesh.counted

    def test_race(self, names: str) -> None:
        mesh = Mesh(names)
        a, b = mesh.client(names[0]), mesh.client(names[-1])
        mesh.counted.clear()
        mesh.say_at_once((a, meet("ann", "ben")), (b, meet("ben", "ann")))
        matched(mesh, a, b)
        assert mesh.paper_count() <= 6 + 3 * (len(names) - 1), mesh.counted

    def test_known_post(self, names: str) -> None:
        mesh = Mesh(names)
        p, c = mesh.client(names[0]), mesh.client(names[-1])
        mesh.say(p, post("printer"))
        mesh.counted.clear()
        mesh.say(c, meet("ann", "printer"))
        matched(mesh, p, c)
        assert mesh.paper_count() <= 6, mesh.counted


def tables_are_empty(mesh: Mesh) -> bool:
    mesh.pass_time(2.0)  # removals may wait for a heartbeat
    return all(server._matcher.table.counts() == (0, 0, 0) for server in mesh.servers.values())


class TestOrder:
    def test_same_pair_queues_in_order_of_arrival(self) -> None:
        mesh = Mesh()
        clients = [mesh.client("a") for _ in range(3)]
        for number, client in enumerate(clients):
            mesh.say(client, meet("ann", "ben", rid=bytes([number]) * 16))
        b = mesh.client("a")
        mesh.say(b, meet("ben", "ann"))
        matched(mesh, clients[0], b)
        assert not mesh.got(clients[1], Matched)

    def test_an_explicit_partner_comes_before_a_post(self) -> None:
        mesh = Mesh("ab")
        p, x, c = mesh.client("b"), mesh.client("a"), mesh.client("b")
        mesh.say(x, meet("printer", "ann"))
        mesh.say(p, post("printer"))
        mesh.say(c, meet("ann", "printer"))
        matched(mesh, x, c)
        assert not mesh.got(p, Matched)

    def test_streams_and_datagrams_do_not_mix(self) -> None:
        mesh = Mesh()
        a, b = mesh.client("a"), mesh.client("a")
        mesh.say(a, meet("ann", "ben", datagram=True))
        mesh.say(b, meet("ben", "ann"))
        assert not mesh.got(b, Matched)
        mesh.say(b, meet("ben", "ann", rid=b"d" * 16, datagram=True))
        matched(mesh, a, b)

    def test_waiting_meets_get_a_new_post_wherever_it_is(self) -> None:
        for home in "abc":
            mesh = Mesh("abc")
            clients = [mesh.client(server) for server in "abc"]
            for number, client in enumerate(clients):
                mesh.say(client, meet("ann", "printer", rid=bytes([number]) * 16))
            p = mesh.client(home)
            mesh.say(p, post("printer"))
            for client in clients:
                assert mesh.take(client, Matched).active
                assert not mesh.take(p, Matched).active


class TestRaces:
    @pytest.mark.parametrize("order", list(permutations("abc")))
    def test_three_want_one_partner(self, order: tuple[str, ...]) -> None:
        """The case that greater id alone does not decide: two partners at two servers for one request at a third."""
        mesh = Mesh("abc")
        a, b, c = (mesh.client(server) for server in order)
        mesh.say_at_once(
            (a, meet("ann", "ben")),
            (b, meet("ben", "ann", rid=b"1" * 16)),
            (c, meet("ben", "ann", rid=b"2" * 16)),
        )
        winners = [client for client in (b, c) if mesh.got(client, Matched)]
        assert len(winners) == 1
        matched(mesh, a, winners[0])
        late = mesh.client("a")
        mesh.say(late, meet("ann", "ben", rid=b"3" * 16))
        loser = c if winners == [b] else b
        matched(mesh, late, loser)
        assert tables_are_empty(mesh)

    def test_four_servers_two_pairs_each_way(self) -> None:
        mesh = Mesh("abcd")
        clients = {server: mesh.client(server) for server in "abcd"}
        mesh.say_at_once(
            (clients["a"], meet("ann", "ben", rid=b"1" * 16)),
            (clients["b"], meet("ben", "ann", rid=b"2" * 16)),
            (clients["c"], meet("ann", "ben", rid=b"3" * 16)),
            (clients["d"], meet("ben", "ann", rid=b"4" * 16)),
        )
        assert all(mesh.got(client, Matched) for client in clients.values())
        assert tables_are_empty(mesh)


class TestAttempts:
    def test_greater_attempt_supersedes_everywhere(self) -> None:
        mesh = Mesh("abc")
        old, new, b = mesh.client("a"), mesh.client("b"), mesh.client("c")
        rid = b"r" * 16
        mesh.say(old, meet("ann", "ben", rid=rid, n=1))
        mesh.say(new, meet("ann", "ben", rid=rid, n=2))
        mesh.say(b, meet("ben", "ann"))
        assert not mesh.got(old, Matched)
        matched(mesh, new, b)
        assert tables_are_empty(mesh)

    def test_lesser_or_same_attempt_is_ignored(self) -> None:
        mesh = Mesh("ab")
        a, b = mesh.client("a"), mesh.client("b")
        mesh.say(a, meet("ann", "ben", rid=b"r" * 16, n=3))
        for client in (a, b):
            mesh.say(client, meet("ann", "ben", rid=b"r" * 16, n=2))
        mesh.say(a, meet("ann", "ben", rid=b"r" * 16, n=3))
        assert mesh.servers["a"]._matcher.table.counts() == (1, 0, 0)
        assert mesh.servers["b"]._matcher.table.counts() == (0, 0, 1)

    def test_the_same_attempt_at_two_servers_is_matched_once(self) -> None:
        mesh = Mesh("abc")
        here, there, b = mesh.client("a"), mesh.client("b"), mesh.client("c")
        for client in (here, there):
            mesh.say(client, meet("ann", "ben", rid=b"r" * 16))
        mesh.say(b, meet("ben", "ann"))
        assert mesh.got(here, Matched) != mesh.got(there, Matched)
        assert tables_are_empty(mesh)

    def test_withdrawn_is_gone_everywhere(self) -> None:
        mesh = Mesh("abc")
        a = mesh.client("b")
        request = meet("ann", "ben")
        mesh.say(a, request, Withdraw(request.rid, 1))
        assert tables_are_empty(mesh)

    def test_nobody_withdraws_anothers_request(self) -> None:
        mesh = Mesh()
        a, thief = mesh.client("a"), mesh.client("a")
        request = meet("ann", "ben")
        mesh.say(a, request)
        mesh.say(thief, Withdraw(request.rid, 9))
        assert mesh.servers["a"]._matcher.table.counts() == (1, 0, 0)


class TestLosses:
    def test_lost_client_leaves_nothing(self) -> None:
        mesh = Mesh("ab")
        a = mesh.client("a")
        mesh.say(a, meet("ann", "ben"), post("printer"))
        mesh.drop(a)
        assert tables_are_empty(mesh)

    def test_crashed_server_takes_its_entries_with_it(self) -> None:
        mesh = Mesh("abc")
        a = mesh.client("a")
        mesh.say(a, meet("ann", "ben"), post("printer"))
        mesh.crash("a")
        assert tables_are_empty(mesh)

    def test_recovered_server_learns_what_waits(self) -> None:
        """Figure 3."""
        mesh = Mesh("abc")
        b = mesh.client("b")
        mesh.say(b, meet("ben", "ann"), post("printer"))
        mesh.crash("a")
        mesh.start("a", join="c", incarnation=2)
        assert mesh.servers["a"]._matcher.table.counts() == (0, 0, 2)
        a = mesh.client("a")
        mesh.say(a, meet("ann", "ben"), meet("ann", "printer"))
        assert mesh.take(b, Matched).peer == mesh.take(b, Matched).peer == "ann"

    def test_healed_link_matches_what_both_sides_hold(self) -> None:
        for first, second in ("ab", "ba"):
            mesh = Mesh("ab")
            a, b = mesh.client(first), mesh.client(second)
            mesh.cut("a", "b")
            mesh.say(a, meet("ann", "ben"))
            mesh.say(b, meet("ben", "ann"))
            assert not mesh.got(a, Matched)
            mesh.heal("a", "b")
            mesh.pass_time(20)
            matched(mesh, a, b)

    def test_mate_lost_with_a_proposal_out(self) -> None:
        mesh = Mesh("abc")
        a, b = mesh.client("a"), mesh.client("b")
        mesh.say(a, meet("ann", "ben"))
        mesh.step("b", Received(b, meet("ben", "ann")))
        assert mesh.servers["b"]._matcher.proposals
        mesh.cut("a", "b")
        assert not mesh.servers["b"]._matcher.proposals
        c = mesh.client("c")
        mesh.say(c, meet("ann", "ben", rid=b"c" * 16))
        matched(mesh, b, c)


class TestPools:
    def test_spread_over_the_pool(self) -> None:
        mesh = Mesh("ab")
        posts = [mesh.client(server) for server in "aab"]
        for number, client in enumerate(posts):
            mesh.say(client, post("printer", rid=bytes([number]) * 16))
        c = mesh.client("a")
        for number in range(9):
            mesh.say(c, meet("ann", "printer", rid=bytes([9, number]) * 8))
        assert [sum(isinstance(m, Matched) for m in mesh.inbox[client]) for client in posts] == [3, 3, 3]

    def test_fewest_unaccepted_first(self) -> None:
        mesh = Mesh()
        busy, idle, c = mesh.client("a"), mesh.client("a"), mesh.client("a")
        mesh.say(busy, post("printer", rid=b"1" * 16))
        mesh.say(idle, post("printer", rid=b"2" * 16))
        for number in range(6):
            mesh.say(c, meet("ann", "printer", rid=bytes([number]) * 16))
            mesh.say(idle, Settled(b"2" * 16, 1, number))
        assert sum(isinstance(m, Matched) for m in mesh.inbox[idle]) > sum(
            isinstance(m, Matched) for m in mesh.inbox[busy]
        )

    @pytest.mark.parametrize("home", ["a", "b"])
    def test_full_post_lets_others_wait(self, home: str) -> None:
        mesh = Mesh("ab")
        p, c = mesh.client("a"), mesh.client(home)
        mesh.say(p, post("printer", backlog=2))
        for number in range(5):
            mesh.say(c, meet("ann", "printer", rid=bytes([number]) * 16))
        assert sum(isinstance(m, Matched) for m in mesh.inbox[c]) == 2
        mesh.say(p, Settled(post("printer").rid, 1, 2))
        assert sum(isinstance(m, Matched) for m in mesh.inbox[c]) == 4
        mesh.say(p, Settled(post("printer").rid, 1, 3))
        assert sum(isinstance(m, Matched) for m in mesh.inbox[c]) == 5


class TestUniqueNames:
    def test_second_is_refused(self) -> None:
        for here, there in ("aa", "ab", "ba"):
            mesh = Mesh("ab")
            first, second = mesh.client(here), mesh.client(there)
            mesh.say(first, post("vault", unique=True, secret=b"s" * 16))
            mesh.say(second, post("vault", rid=b"2" * 16, unique=True, secret=b"other" * 3))
            assert mesh.take(second, Refused).code == NameTaken.code
            mesh.say(second, post("vault", rid=b"3" * 16))
            assert mesh.take(second, Refused).code == NameTaken.code

    def test_its_secret_takes_it_over_and_raises_the_generation(self) -> None:
        for here, there in ("aa", "ab", "ba"):
            mesh = Mesh("ab")
            first, second, c = mesh.client(here), mesh.client(there), mesh.client("a")
            mesh.say(first, post("vault", unique=True, secret=b"s" * 16))
            before = mesh.take(first, Posted).generation
            mesh.say(second, post("vault", rid=b"2" * 16, unique=True, secret=b"s" * 16))
            after = mesh.take(second, Posted).generation
            assert after > before > 0
            assert mesh.take(first, Refused).code == Displaced.code
            mesh.say(c, meet("ann", "vault"))
            assert mesh.take(c, Matched).generation == after
            assert mesh.got(second, Matched)

    @pytest.mark.parametrize("there", ["a", "b"])
    def test_a_generation_proves_nothing(self, there: str) -> None:
        mesh = Mesh("ab")
        holder, thief = mesh.client("a"), mesh.client(there)
        mesh.say(holder, post("vault", unique=True, secret=b"s" * 16))
        mesh.say(thief, post("vault", rid=b"2" * 16, unique=True, secret=b"t" * 16, generation=(1 << 53) - 1))
        assert mesh.take(thief, Refused).code == Displaced.code
        assert not mesh.got(holder, Refused)

    def test_a_generation_cannot_be_pushed_beyond_what_a_message_carries(self) -> None:
        mesh = Mesh()
        for number in range(3):
            holder = mesh.client("a")
            most = (1 << 53) - 1
            mesh.say(holder, post("vault", rid=bytes([number]) * 16, unique=True, secret=b"s" * 16, generation=most))
            assert mesh.take(holder, Posted).generation < 10_000  # near the wall clock, which began at 1000 here

    def test_who_was_succeeded_does_not_come_back_by_its_secret(self) -> None:
        """A holder that was frozen, lost its connection, and lodges anew before it hears of its successor."""
        for here, there in ("aa", "ab", "ba"):
            mesh = Mesh("ab")
            first, second = mesh.client(here), mesh.client(there)
            mesh.say(first, post("vault", rid=b"1" * 16, unique=True, secret=b"s" * 16))
            before = mesh.take(first, Posted).generation
            mesh.say(second, post("vault", rid=b"2" * 16, unique=True, secret=b"s" * 16))
            mesh.drop(first)
            again = mesh.client(here)
            mesh.say(again, post("vault", rid=b"1" * 16, n=2, unique=True, secret=b"s" * 16, generation=before))
            assert mesh.take(again, Refused).code == Displaced.code
            assert not mesh.got(second, Refused)

    def test_its_own_entry_that_is_not_gone_yet_does_not_stand_in_its_way(self) -> None:
        mesh = Mesh("ab")
        first = mesh.client("a")
        mesh.say(first, post("vault", rid=b"1" * 16, unique=True, secret=b"s" * 16))
        held = mesh.take(first, Posted).generation
        mesh.pass_time(3)
        mesh.say(first, post("vault", rid=b"1" * 16, n=2, unique=True, secret=b"s" * 16, generation=held))
        assert mesh.take(first, Posted).generation > held  # and this answer is lost
        again = mesh.client("b")
        mesh.say(again, post("vault", rid=b"1" * 16, n=3, unique=True, secret=b"s" * 16, generation=held))
        assert mesh.got(again, Posted)
        assert not mesh.got(again, Refused)

    def test_race_leaves_one(self) -> None:
        mesh = Mesh("ab")
        first, second = mesh.client("a"), mesh.client("b")
        mesh.say_at_once(
            (first, post("vault", unique=True, secret=b"1" * 16)),
            (second, post("vault", rid=b"2" * 16, unique=True, secret=b"2" * 16)),
        )
        assert mesh.take(first, Refused).code == Displaced.code  # same generation: the greater server id stays
        assert not mesh.got(second, Refused)
        assert sum(s._matcher.table.counts()[1] for s in mesh.servers.values()) == 1

    def test_healed_partition_leaves_the_greatest_generation(self) -> None:
        mesh = Mesh("ab")
        first, second = mesh.client("a"), mesh.client("b")
        mesh.cut("a", "b")
        mesh.say(second, post("vault", unique=True, secret=b"2" * 16))
        mesh.pass_time(3)
        mesh.say(first, post("vault", rid=b"1" * 16, unique=True, secret=b"1" * 16))
        mesh.heal("a", "b")
        mesh.pass_time(20)
        assert mesh.take(second, Refused).code == Displaced.code
        assert not mesh.got(first, Refused)

    def test_generation_is_remembered_when_nobody_holds_the_name(self) -> None:
        mesh = Mesh()
        first = mesh.client("a")
        mesh.say(first, post("vault", unique=True, secret=b"1" * 16))
        held = mesh.take(first, Posted).generation
        mesh.drop(first)
        second = mesh.client("a")
        mesh.say(second, post("vault", rid=b"2" * 16, unique=True))
        assert mesh.take(second, Posted).generation > held


class TestSnapshot:
    def test_restored_server_goes_on_alike(self) -> None:
        mesh = Mesh("ab")
        a, p = mesh.client("a"), mesh.client("b")
        mesh.say(a, meet("ann", "ben"), meet("ann", "printer"))
        mesh.say(p, post("printer", unique=True), post("lpr"))
        for server in mesh.servers.values():
            before = server.snapshot()
            hash(before)
            server.restore(before)
            assert server.snapshot() == before
            assert any(isinstance(e, PostEntry) for e in (*server._matcher.table.own.values(), None)) == (
                server.config.id == "b"
            )
        b = mesh.client("b")
        mesh.say(b, meet("ben", "ann"))
        assert mesh.got(a, Matched)


ANN, BEN = {"user": "ann", "peer_user": "ben"}, {"user": "ben", "peer_user": "ann"}


@pytest.mark.parametrize(("here", "there"), ["aa", "ab", "ba"])
class TestUsers:
    def test_users_that_agree_meet(self, here: str, there: str) -> None:
        mesh = Mesh("ab")
        a, b = mesh.client(here), mesh.client(there)
        mesh.say(a, meet("a", "b", rid=b"a" * 16, **ANN))
        mesh.say(b, meet("b", "a", rid=b"b" * 16, **BEN))
        one, two = mesh.take(a, Matched), mesh.take(b, Matched)
        assert one.match == two.match
        assert (one.peer_user, two.peer_user) == ("ben", "ann")
        assert (one.partner, two.partner) == (handle(b"b" * 16), handle(b"a" * 16))
        assert tables_are_empty(mesh)

    @pytest.mark.parametrize(
        "other", [{}, {"user": "eve", "peer_user": "ann"}, {"user": "ben", "peer_user": "zoe"}], ids=str
    )
    def test_others_do_not(self, here: str, there: str, other: dict[str, str]) -> None:
        mesh = Mesh("ab")
        a, b = mesh.client(here), mesh.client(there)
        mesh.say_at_once((a, meet("a", "b", **ANN)), (b, meet("b", "a", **other)))
        mesh.pass_time(5.0)
        assert not mesh.got(a, Matched)
        assert not mesh.got(b, Matched)
        c = mesh.client(there)
        mesh.say(c, meet("b", "a", rid=b"c" * 16, **BEN))
        matched(mesh, a, c)

    def test_a_post_takes_whom_it_allows(self, here: str, there: str) -> None:
        mesh = Mesh("ab")
        p, c = mesh.client(here), mesh.client(there)
        wanted = [
            meet("x", "vault", rid=b"1" * 16),
            meet("x", "vault", rid=b"2" * 16, user="eve", peer_user="ben"),
            meet("x", "vault", rid=b"3" * 16, user="ann", peer_user="zoe"),
            meet("x", "vault", rid=b"4" * 16, user="ops/ann", peer_user="ben"),
        ]
        mesh.say(c, *wanted[:2])
        mesh.say(p, post("vault", user="ben", allow=("ops/*",)))
        mesh.say(c, *wanted[2:])
        told = mesh.take(c, Matched)
        assert (told.rid, told.peer_user, told.partner) == (b"4" * 16, "ben", handle(post("vault").rid))
        assert mesh.take(p, Matched).peer_user == "ops/ann"
        mesh.pass_time(5.0)
        assert not mesh.got(c, Matched)
        assert not mesh.got(p, Matched)

    def test_plain_clients_of_a_plain_post_are_not_held_up(self, here: str, there: str) -> None:
        mesh = Mesh("ab")
        p, q, c = mesh.client(here), mesh.client(there), mesh.client(there)
        mesh.say(p, post("vault", user="ben", allow=("*",)))
        mesh.say(q, post("vault", rid=b"q" * 16))
        mesh.say(c, meet("x", "vault"))
        matched(mesh, q, c)
        assert not mesh.got(p, Matched)

    def test_who_failed_is_avoided_and_the_next_is_taken(self, here: str, there: str) -> None:
        mesh = Mesh("ab")
        a, squatter, ben = mesh.client(here), mesh.client(there), mesh.client(there)
        mesh.say(squatter, meet("b", "a", rid=b"s" * 16, **BEN))
        mesh.say(a, meet("a", "b", **ANN))
        matched(mesh, a, squatter)
        mesh.say(squatter, meet("b", "a", rid=b"s" * 16, n=2, **BEN))
        mesh.say(a, meet("a", "b", n=2, avoid=(handle(b"s" * 16),), **ANN))
        mesh.pass_time(5.0)
        assert not mesh.got(a, Matched)
        mesh.say(ben, meet("b", "a", rid=b"b" * 16, **BEN))
        matched(mesh, a, ben)
        mesh.pass_time(5.0)
        assert not mesh.got(squatter, Matched)

    def test_who_comes_later_is_avoided_by_who_waits(self, here: str, there: str) -> None:
        mesh = Mesh("ab")
        a, squatter = mesh.client(here), mesh.client(there)
        mesh.say(a, meet("a", "b", avoid=(handle(b"s" * 16),), **ANN))
        mesh.say(squatter, meet("b", "a", rid=b"s" * 16, **BEN))
        mesh.pass_time(5.0)
        assert not mesh.got(a, Matched)

    def test_a_post_that_failed_is_avoided(self, here: str, there: str) -> None:
        mesh = Mesh("ab")
        p, q, a = mesh.client(here), mesh.client(there), mesh.client(there)
        mesh.say(p, post("vault", rid=b"p" * 16, user="ben", allow=("ann",)))
        mesh.say(a, meet("a", "vault", avoid=(handle(b"p" * 16),), **ANN))
        mesh.pass_time(5.0)
        assert not mesh.got(p, Matched)
        mesh.say(q, post("vault", rid=b"q" * 16, user="ben", allow=("ann",)))
        matched(mesh, q, a)

    def test_a_unique_name_is_the_users_own(self, here: str, there: str) -> None:
        mesh = Mesh("ab")
        squatter, ben, a = mesh.client(here), mesh.client(there), mesh.client(here)
        mesh.say(squatter, post("vault", rid=b"s" * 16, unique=True, user="eve", allow=("*",)))
        mesh.say(ben, post("vault", rid=b"b" * 16, unique=True, user="ben", allow=("ann",)))
        assert mesh.take(squatter, Posted).generation
        generation = mesh.take(ben, Posted).generation
        mesh.say(a, meet("a", "vault", **ANN))
        assert mesh.take(a, Matched).generation == generation
        again = mesh.client(there)
        mesh.say(again, post("vault", rid=b"c" * 16, unique=True, user="ben", allow=("ann",)))
        assert mesh.take(again, Refused).code == NameTaken.code


@pytest.mark.parametrize(
    "proposed",
    [{}, {"user": "ben", "peer_user": "zoe"}, {"user": "eve", "peer_user": "ann"}, {"rid": b"s" * 16, **BEN}],
    ids=str,
)
def test_a_mate_cannot_have_a_match_that_does_not_fit(proposed: dict[str, Any]) -> None:
    """A mate of an older version, say, which does not know users and so takes all for plain."""
    mesh = Mesh("ab")
    a = mesh.client("a")
    mesh.say(a, meet("a", "b", rid=b"a" * 16, avoid=(handle(b"s" * 16),), **ANN))
    mesh.counted.clear()
    values = {"rid": b"b" * 16, "n": 1, "me": "b", "candidates": b"", "active": True} | proposed
    link = mesh.servers["a"]._mesh.links["b"]
    mesh.step("a", Received(link, Propose(b"m" * 8, b"t" * 16, b"a" * 16, 1, **values)))
    mesh.run()
    assert not mesh.got(a, Matched)
    assert mesh.counted["Declined"] == 1


def test_a_mate_cannot_send_a_post_whom_it_does_not_allow() -> None:
    mesh = Mesh("ab")
    p = mesh.client("a")
    mesh.say(p, post("vault", rid=b"p" * 16, user="ben", allow=("ann",)))
    link = mesh.servers["a"]._mesh.links["b"]
    for user, peer_user in (("", ""), ("eve", "ben"), ("ann", "zoe"), ("ann", "ben")):
        assert not mesh.got(p, Matched)
        values = (b"c" * 16, 1, "c", b"", True, 0, user, peer_user)
        mesh.step("a", Received(link, Propose(b"m" * 8, b"t" * 16, b"p" * 16, 1, *values)))
        mesh.run()
    assert mesh.take(p, Matched).peer_user == "ann"
