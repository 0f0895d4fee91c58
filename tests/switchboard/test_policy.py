"""Who may do what: rules alone, and a server that keeps to them, as traces."""

from typing import Any

import pytest

from tests.switchboard.pair import Mesh, meet, post
from trunkline.errors import NotAllowed
from trunkline.switchboard.events import Close, Log, Lost, Opened, Received, Send
from trunkline.switchboard.policy import CHECKS, Policy, Rule, covers
from trunkline.wire.messages import (
    Broadcast,
    Explain,
    Explanation,
    Goodbye,
    Hello,
    ListNames,
    Matched,
    MateHello,
    Meet,
    Member,
    Message,
    NameList,
    Notice,
    Post,
    Posted,
    Refused,
    Settled,
)

RULES = (
    Rule(("ann",), meet=("db", "mail"), post=("ann",)),
    Rule(("ops/*",), meet=("",), post=("db",), call=("ops",)),
    Rule(("*",), meet=("lobby",)),
)
LAB = Policy(realm="lab.example", rules=RULES)


@pytest.mark.parametrize(
    ("prefixes", "name", "so"),
    [
        (("db",), "db", True),
        (("db",), "db/x", True),
        (("db",), "dbx", False),
        (("db/x",), "db", False),
        (("a", "db"), "db/x/y", True),
        (("",), "anything", True),
        ((), "anything", False),
    ],
)
def test_prefixes_are_whole_levels(prefixes: tuple[str, ...], name: str, so: bool) -> None:
    assert covers(prefixes, name) is so


def check(policy: Policy, user: str, message: Message) -> str:
    try:
        policy.check(user, message)
    except NotAllowed as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("user", "message", "why"),
    [
        ("ann", meet("x", "db/main"), ""),
        ("ann", meet("x", "dbx"), "not allowed"),
        ("ann", post("ann/files"), ""),
        ("ann", post("db/main"), "the user 'ann' may not post 'db/main'; what it may post is 'ann'"),
        ("ann", post("vault"), "not allowed"),
        ("ann", meet("x", "lobby"), ""),
        ("ann", meet("x", "ann/y"), "the user 'ann' may not meet 'ann/y'; what it may meet is 'db', 'lobby', 'mail'"),
        ("ops/joe", meet("ops", "vault"), ""),
        ("ops/joe", meet("db", "vault"), "the user 'ops/joe' may ask for 'vault' only under the names 'ops'"),
        ("ops/joe", post("db"), ""),
        ("ops/joe/x", post("db"), "not allowed"),
        ("", meet("x", "lobby"), ""),
        ("", meet("x", "db"), "not allowed"),
        ("", post("lobby"), "a client that proved no user may not post 'lobby'; what it may post is nothing"),
        ("ann", Explain(1, "x", "vault"), "not allowed"),
        ("ann", Explain(1, "x", "db"), ""),
        ("ann", ListNames(1, ""), ""),
        ("ann", Settled(b"r" * 16, 1, 1), ""),
    ],
    ids=str,
)  # fmt: skip
def test_rules(user: str, message: Message, why: str) -> None:
    assert check(LAB, user, message) == why


@pytest.mark.parametrize("realm", ["", "lab.example"])
def test_without_rules_everybody_may_everything(realm: str) -> None:
    policy = Policy(realm=realm)
    for message in (meet("a", "b"), post("b"), Explain(1, "a", "b"), Broadcast(b"x")):
        assert check(policy, "", message) == ""
    assert policy.may_see("", "anything")


def test_who_proved_no_user() -> None:
    policy = Policy(realm="lab.example", require_user=True)
    for message in (meet("a", "b"), post("b"), Explain(1, "a", "b"), Broadcast(b"x")):
        assert "asks for a proven user" in check(policy, "", message)
        assert check(policy, "ann", message) == ""
    assert not policy.may_see("", "lobby")
    assert not Policy(realm="lab.example", require_user=True, rules=RULES).may_see("", "lobby")


@pytest.mark.parametrize(
    "message",
    [
        meet("a", "b", user="ben", peer_user="ann"),
        post("b", user="ben", allow=("ann",)),
        Explain(1, "a", "b", user="ben", peer_user="ann"),
    ],
)
def test_who_claims_to_be_another(message: Message) -> None:
    policy = Policy(realm="lab.example")
    assert check(policy, "ben", message) == ""
    for proven in ("eve", ""):
        assert "this connection proved" in check(policy, proven, message)
    assert check(Policy(), "", message) == ""  # nobody can prove anything there; the peers do it themselves


def test_servers() -> None:
    hello = MateHello(Member("b", 1, "b:1"), ())
    for user in ("", "ann", "switchboards/x"):
        assert "is no switchboard server" in check(LAB, user, hello)
        assert check(Policy(), user, hello) == ""
    assert check(LAB, "switchboard/b", hello) == ""


def test_everything_that_asks_for_something_is_checked() -> None:
    """A message that is added some day and is about names has to be looked at here."""
    about_names = {kind for kind in (Meet, Post, Explain) if kind in CHECKS}
    assert about_names == {Meet, Post, Explain}


# ---- a server that keeps to it -----------------------------------------------------------------------------------


def secured(**more: Any) -> Mesh:
    return Mesh(policy=Policy(**({"realm": "lab.example", "rules": RULES} | more)))


def client(mesh: Mesh, user: str, **hello: Any) -> int:
    """Connect a client that has proven to be ``user``."""
    mesh._conn -= 1
    conn = mesh._conn
    mesh.home[conn] = "a"
    mesh.inbox[conn] = []
    mesh.step("a", Opened(conn, "client", user))
    mesh.say(conn, Hello("test", **hello))
    mesh.inbox[conn].clear()
    return conn


def test_what_is_allowed_is_done_and_what_is_not_is_refused() -> None:
    mesh = secured()
    ann, joe = client(mesh, "ann"), client(mesh, "ops/joe")
    mesh.say(joe, post("db/main"))
    assert mesh.got(joe, Posted)
    mesh.say(ann, meet("x", "db/main"))
    assert mesh.got(ann, Matched)
    mesh.say(ann, post("db/other", rid=b"o" * 16))
    refused = mesh.take(ann, Refused)
    assert (refused.rid, refused.n, refused.code) == (b"o" * 16, 1, NotAllowed.code)
    assert mesh.servers["a"]._matcher.table.counts() == (0, 1, 0)
    assert any("not allowed: the user 'ann' at client: Post 'db/other'" in line for line in mesh.logs)


def test_a_refusal_does_not_tell_whether_the_name_is_there() -> None:
    mesh = secured()
    ann, joe = client(mesh, "ann"), client(mesh, "ops/joe")
    said = []
    for _ in range(2):
        mesh.say(ann, meet("x", "vault"))
        said.append(mesh.take(ann, Refused).text)
        mesh.say(joe, meet("ops", "vault"))
    assert said == ["not allowed", "not allowed"]


def test_names_are_listed_for_those_who_may_see_them() -> None:
    mesh = secured()
    ann, joe, guest = client(mesh, "ann"), client(mesh, "ops/joe"), client(mesh, "")
    mesh.say(joe, post("db"))
    mesh.say(ann, post("ann/x"))
    listed = {}
    for conn in (ann, joe, guest):
        mesh.say(conn, ListNames(1, ""))
        listed[conn] = [entry.name for entry in mesh.take(conn, NameList).names]
    assert listed == {ann: ["ann/x", "db"], joe: ["ann/x", "db"], guest: []}


def test_explanations_are_for_those_who_may_meet() -> None:
    mesh = secured()
    ann, joe = client(mesh, "ann"), client(mesh, "ops/joe")
    mesh.say(joe, post("db1", rid=b"1" * 16))
    mesh.say(joe, post("db/main", rid=b"2" * 16))
    mesh.say(ann, Explain(1, "x", "vault"))
    assert mesh.take(ann, Explanation).lines == ("not allowed",)
    mesh.say(ann, Explain(2, "x", "db/mian"))
    assert any("'db/main' is posted" in line for line in mesh.take(ann, Explanation).lines)


def test_a_broadcast_of_nobody_is_dropped() -> None:
    mesh = secured(require_user=True)
    ann, guest = client(mesh, "ann", notices=True), client(mesh, "")
    mesh.say(guest, Broadcast(b"x"))
    assert not mesh.got(ann, Notice)
    mesh.say(client(mesh, "ben"), Broadcast(b"y"))
    assert mesh.take(ann, Notice).payload == b"y"


def test_a_flood_of_refusals_does_not_fill_the_log() -> None:
    mesh = secured()
    guest = client(mesh, "")
    for number in range(100):
        mesh.say(guest, meet("x", "vault", rid=number.to_bytes(16, "big")))
    assert len([line for line in mesh.logs if "not allowed" in line]) == 10
    assert len([message for message in mesh.inbox[guest] if isinstance(message, Refused)]) == 100


@pytest.mark.parametrize("user", ["", "ann"])
def test_who_is_no_server_does_not_join(user: str) -> None:
    mesh = secured()
    server = mesh.servers["a"]
    server.step(Opened(-99, "there", user), 0.0)
    effects = server.step(Received(-99, MateHello(Member("b", 1, "b:1"), ())), 0.0)
    log, goodbye, close = effects
    assert isinstance(log, Log)
    assert isinstance(goodbye, Send)
    assert isinstance(goodbye.message, Goodbye)
    assert goodbye.message.code == NotAllowed.code
    assert isinstance(close, Close)
    assert server.step(Lost(-99, "late"), 0.0) == []
    assert not server.status(0.0).connected


def test_servers_of_the_realm_join() -> None:
    mesh = secured()
    server = mesh.servers["a"]
    server.step(Opened(-99, "there", "switchboard/b"), 0.0)
    server.step(Received(-99, MateHello(Member("b", 1, "b:1"), ())), 0.0)
    assert [member.id for member in server.status(0.0).connected] == ["b"]
