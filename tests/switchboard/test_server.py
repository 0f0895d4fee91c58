"""The server as a whole, as traces of the paper's figures: one server, several, races, losses."""

import pytest

from tests.switchboard.pair import Mesh, meet, post
from trunkline.wire.messages import Matched, Posted


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
