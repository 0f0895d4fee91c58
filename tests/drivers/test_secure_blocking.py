import select
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.leaks import no_leaks
from tests.live import LiveServer
from tests.securekit import Lone, TinyRealm, new_key
from trunkline.drivers.addresses import place
from trunkline.drivers.client_blocking import BlockingClient
from trunkline.drivers.offers import Offer
from trunkline.drivers.secure_blocking import secure_meet
from trunkline.drivers.secure_sockets import SecureConnection, Suspects
from trunkline.errors import ClosedError, ForkedHistory, InvalidUser, MeetTimeout, NotAllowed, StaleHead
from trunkline.names import Address
from trunkline.switchboard.config import ClientConfig

SOON = 20.0
"""A deadline that only a failing test meets."""


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer() as server:
        yield server


@pytest.fixture(scope="module")
def realm() -> TinyRealm:
    return TinyRealm()


@pytest.fixture
def ann(realm: TinyRealm) -> Lone:
    return realm.member("ann")


@pytest.fixture
def ben(realm: TinyRealm) -> Lone:
    return realm.member("ben")


@pytest.fixture(autouse=True)
def nothing_left(server: LiveServer) -> Iterator[None]:
    with no_leaks():
        yield


NewClient = Callable[[], BlockingClient]


@pytest.fixture
def new_client(server: LiveServer) -> Iterator[NewClient]:
    made: list[BlockingClient] = []

    def new() -> BlockingClient:
        config = ClientConfig(servers=(Address.parse(server.address),), place=place())
        client = BlockingClient(lambda: (config, (), None), lambda servers: None)
        made.append(client)
        return client

    yield new
    for client in made:
        client.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as pool:
        yield pool


def post(client: BlockingClient, member: Lone, name: str = "vault", allow: tuple[str, ...] = ("ann",)) -> Offer:
    return client.post(name, unique=False, secret=None, backlog=64, member=member, allow=allow)


def accept(client: BlockingClient, offer: Offer, timeout: float = SOON) -> SecureConnection:
    conn = client.accept(offer, timeout)
    assert isinstance(conn, SecureConnection)
    return conn


# ---- meetings --------------------------------------------------------------------------------------------------------


def test_two_meet_and_each_knows_who_the_other_is(new_client, pool, ann, ben):
    bob = pool.submit(secure_meet, new_client(), ben, "bob", "alice", "ann", SOON)
    with secure_meet(new_client(), ann, "alice", "bob", "ben", SOON) as conn, bob.result() as other:
        assert (conn.peer.name, conn.peer.user) == ("bob", "ben")
        assert (other.peer.name, other.peer.user) == ("alice", "ann")
        assert conn.peer.match == other.peer.match
        conn.sendall(b"x")
        assert other.recv(1) == b"x"
        assert conn.getblocking()


def test_within_one_process(new_client, pool, ann, ben):
    client = new_client()
    bob = pool.submit(secure_meet, client, ben, "bob", "alice", "ann", SOON)
    with secure_meet(client, ann, "alice", "bob", "ben", SOON) as conn, bob.result() as other:
        assert conn.peer.user == "ben"
        assert other.peer.user == "ann"


def test_secure_and_plain_do_not_meet(new_client, pool, ann, ben):
    """A downgrade: somebody who meets ann without proving anything."""
    plain = pool.submit(new_client().meet, "bob", "alice", 0.5)
    with pytest.raises(MeetTimeout):
        secure_meet(new_client(), ann, "alice", "bob", "ben", 0.5)
    with pytest.raises(MeetTimeout):
        plain.result()


def test_other_users_do_not_meet(new_client, pool, ann, ben):
    other = pool.submit(secure_meet, new_client(), ben, "bob", "alice", "zoe", 0.5)
    with pytest.raises(MeetTimeout):
        secure_meet(new_client(), ann, "alice", "bob", "ben", 0.5)
    with pytest.raises(MeetTimeout):
        other.result()


def test_a_user_that_can_not_be(new_client, ann):
    with pytest.raises(InvalidUser):
        secure_meet(new_client(), ann, "alice", "bob", "b e n", SOON)


# ---- squatters -------------------------------------------------------------------------------------------------------


def squatter(realm: TinyRealm, user: str = "ben", really: str = "eve") -> Lone:
    """Somebody who says to be ``user`` and has another's certificate."""
    key = new_key()
    return realm.impostor(user, realm.chain(really, key), key)


def test_the_rightful_peer_still_meets_and_the_squatter_does_not(new_client, pool, realm, ann, ben):
    """Eve waits under bob's name, and says to be ben, before bob does; refused, she comes again each time."""
    hers = new_client()
    eve = pool.submit(secure_meet, hers, squatter(realm), "bob", "alice", "ann", SOON)
    call = pool.submit(secure_meet, new_client(), ann, "alice", "bob", "ben", SOON)
    with secure_meet(new_client(), ben, "bob", "alice", "ann", SOON) as other, call.result() as conn:
        assert conn.peer.user == "ben"
        conn.sendall(b"x")
        assert other.recv(1) == b"x"
    hers.close()
    with pytest.raises(ClosedError):
        eve.result()


def test_squatters_are_reported(new_client, pool, realm, ann):
    eve = pool.submit(secure_meet, new_client(), squatter(realm), "bob", "alice", "ann", 1.0)
    with pytest.raises(MeetTimeout) as raised:
        secure_meet(new_client(), ann, "alice", "bob", "ben", 1.0)
    with pytest.raises(MeetTimeout) as hers:
        eve.result()
    told = "\n".join(raised.value.explanation)
    assert "somebody under the name 'bob' could not prove to be 'ben' (certificate: it is of 'eve'" in told
    assert "the peer refuses" in "\n".join(hers.value.explanation)


def test_a_squatter_that_says_nothing_costs_no_more_than_the_call(new_client, pool, ann):
    """It takes part in the plain exchange and is silent then."""
    config = {"user": "ben", "peer_user": "ann"}
    mute = pool.submit(new_client().meet_once, "bob", "alice", SOON, None, **config)
    with pytest.raises(MeetTimeout) as raised:
        secure_meet(new_client(), ann, "alice", "bob", "ben", 0.7)
    told = "\n".join(raised.value.explanation)
    assert "could not prove to be 'ben' (nothing was heard for" in told
    mute.result()[0].close()


# ---- posts -----------------------------------------------------------------------------------------------------------


def test_clients_of_a_post_are_known(new_client, pool, realm, ann, ben):
    client = new_client()
    offer = post(client, ben, allow=("ann", "ops/*"))
    for member in (ann, realm.member("ops/joe")):
        call = pool.submit(secure_meet, new_client(), member, "alice", "vault", "ben", SOON)
        with accept(client, offer) as conn, call.result() as other:
            assert conn.peer.user == member.user
            assert other.peer.user == "ben"
    client.close_post(offer)


def test_who_is_not_allowed_never_meets_the_post(new_client, realm, ben):
    client = new_client()
    offer = post(client, ben)
    with pytest.raises(MeetTimeout):
        secure_meet(new_client(), realm.member("eve"), "alice", "vault", "ben", 0.5)
    with pytest.raises(MeetTimeout):
        client.accept(offer, 0)


def test_who_claims_to_be_allowed_is_found_out_and_reported(new_client, pool, realm, ann, ben):
    client = new_client()
    offer = post(client, ben)
    lying = pool.submit(secure_meet, new_client(), squatter(realm, "ann"), "alice", "vault", "ben", 1.0)
    with pytest.raises(MeetTimeout) as raised:
        client.accept(offer, 1.0)
    assert "'alice', who is said to be 'ann', could not prove it (the user 'eve' may not come" in str(raised.value)
    call = pool.submit(secure_meet, new_client(), ann, "alice", "vault", "ben", SOON)
    with accept(client, offer) as conn, call.result():
        assert conn.peer.user == "ann"
    with pytest.raises(MeetTimeout, match="may not come"):
        lying.result()


def test_clients_prove_themselves_while_the_owner_computes(new_client, ann, ben):
    client = new_client()
    offer = post(client, ben)
    calls = [secure_meet(new_client(), ann, "alice", "vault", "ben", SOON) for _ in range(2)]
    assert select.select([client.bell(offer)], [], [], SOON)[0]
    for call in calls:
        with call, client.accept(offer, 0):
            pass
    assert not select.select([client.bell(offer)], [], [], 0)[0]
    client.close_post(offer)


def test_a_slow_client_holds_up_nobody(new_client, pool, ann, ben):
    client, slow = new_client(), new_client()
    offer = post(client, ben)
    mute, told = slow.meet_once("alice", "vault", SOON, None, user="ann", peer_user="ben")
    call = pool.submit(secure_meet, new_client(), ann, "alice", "vault", "ben", SOON)
    with accept(client, offer) as conn, call.result():
        assert conn.peer.match != told.peer.match
    mute.close()


def test_many_at_once(new_client, pool, ann, ben):
    server, client = new_client(), new_client()
    offer = post(server, ben)
    served = threading.Thread(target=lambda: [accept(server, offer).close() for _ in range(24)])
    served.start()
    calls = [pool.submit(secure_meet, client, ann, f"a{n}", "vault", "ben", SOON) for n in range(24)]
    for call in calls:
        with call.result() as conn:
            assert conn.peer.user == "ben"
    served.join()


def test_closing_a_post_hangs_up_on_who_has_not_proved_anything_yet(new_client, ben):
    client, slow = new_client(), new_client()
    offer = post(client, ben)
    mute, _ = slow.meet_once("alice", "vault", SOON, None, user="ann", peer_user="ben")
    with mute:
        mute.settimeout(SOON)
        client.close_post(offer)
        assert mute.recv(1) == b""
    with pytest.raises(ClosedError):
        client.accept(offer, SOON)


def test_closing_everything_hangs_up_too(new_client, ben):
    client, slow = new_client(), new_client()
    post(client, ben)
    mute, _ = slow.meet_once("alice", "vault", SOON, None, user="ann", peer_user="ben")
    with mute:
        mute.settimeout(SOON)
        client.close()
        assert mute.recv(1) == b""


def test_closing_everything_ends_a_meet_that_is_in_its_handshake(new_client, pool, ann):
    """The peer has committed and says nothing; without that the call would wait for it, and then begin anew."""
    client = new_client()
    mute = pool.submit(new_client().meet_once, "bob", "alice", SOON, None, user="ben", peer_user="ann")
    call = pool.submit(secure_meet, client, ann, "alice", "bob", "ben", None)
    conn, _ = mute.result()
    with conn:
        client.close()
        with pytest.raises(ClosedError, match="closed meanwhile"):
            call.result(SOON)
        assert client._crew.reactor is None, "nothing was begun anew"


def test_closing_everything_ends_a_meet_that_pauses_between_impostors(new_client, pool, realm, ann, monkeypatch):
    pausing = threading.Event()
    pause = Suspects.pause

    def long_pause(self: Suspects) -> float:
        pause(self)
        pausing.set()
        return SOON

    monkeypatch.setattr(Suspects, "pause", long_pause)
    client, hers = new_client(), new_client()
    eve = pool.submit(secure_meet, hers, squatter(realm), "bob", "alice", "ann", SOON)
    call = pool.submit(secure_meet, client, ann, "alice", "bob", "ben", None)
    assert pausing.wait(SOON)
    for each in (client, hers):
        each.close()
    for each in (call, eve):
        with pytest.raises(ClosedError):
            each.result(SOON)


# ---- what ends the call ----------------------------------------------------------------------------------------------


def test_an_authority_that_tells_two_histories_ends_the_call(new_client, pool, ann, ben):
    ben.forked = True
    client = new_client()
    offer = post(client, ben)
    call = pool.submit(secure_meet, new_client(), ann, "alice", "vault", "ben", 1.0)
    with pytest.raises(ForkedHistory):
        client.accept(offer, SOON)
    with pytest.raises(MeetTimeout, match="the peer refuses: heads"):
        call.result()
    ann.forked, ben.forked = True, False
    with pytest.raises(ForkedHistory):
        secure_meet(new_client(), ann, "alice", "vault", "ben", SOON)
    accept(client, offer).close()  # it had confirmed, and reads EOF


def test_without_a_head_of_our_own_nobody_is_met(new_client, pool, ann, ben):
    def none() -> None:
        raise StaleHead("no head was ever seen")

    client = new_client()
    offer = post(client, ben)
    ben.head = none  # type: ignore[method-assign, assignment]
    call = pool.submit(secure_meet, new_client(), ann, "alice", "vault", "ben", 1.0)
    with pytest.raises(StaleHead):
        client.accept(offer, SOON)
    with pytest.raises(MeetTimeout):
        call.result()
    ann.head = none  # type: ignore[method-assign, assignment]
    with pytest.raises(StaleHead):
        secure_meet(new_client(), ann, "alice", "vault", "ben", SOON)


def test_without_a_user_of_our_own(new_client, ann):
    ann.user = None  # type: ignore[assignment]
    with pytest.raises(NotAllowed, match="trunkline key new"):
        secure_meet(new_client(), ann, "alice", "bob", "ben", SOON)
    with pytest.raises(NotAllowed, match="trunkline key new"):
        post(new_client(), ann)


# ---- sessions --------------------------------------------------------------------------------------------------------


def test_the_second_meeting_resumes_the_first(new_client, ann, ben):
    server, client = new_client(), new_client()
    offer = post(server, ben)
    reused = []
    for _ in range(3):
        with secure_meet(client, ann, "alice", "vault", "ben", SOON) as conn, accept(server, offer):
            reused.append(conn.session_reused)
            assert isinstance(conn, socket.socket)
    assert reused == [False, True, True]


def test_closing_a_post_hangs_up_on_who_was_not_accepted(new_client, ann, ben):
    client = new_client()
    offer = post(client, ben)
    with secure_meet(new_client(), ann, "alice", "vault", "ben", SOON) as conn:
        assert select.select([client.bell(offer)], [], [], SOON)[0]
        client.close_post(offer)
        assert conn.recv(1) == b""
