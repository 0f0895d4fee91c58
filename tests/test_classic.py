import concurrent.futures
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.leaks import no_leaks
from tests.live import LiveServer
from tests.realmkit import LiveAuthority, Realm
from trunkline import (
    ClosedError,
    ConfigError,
    InvalidName,
    NameTaken,
    NotAllowed,
    NotThatUser,
    TrustError,
    classic,
    connect,
)
from trunkline.drivers.authority_home import AuthorityHome
from trunkline.drivers.keys import UserKey, generate_p256
from trunkline.drivers.realm_home import RealmHome
from trunkline.switchboard.policy import Policy


@pytest.fixture(autouse=True)
def default_switchboard(tmp_path, monkeypatch) -> Iterator[None]:
    """The paper's routines take no address: they use the default configuration."""
    with no_leaks(), LiveServer() as server:
        monkeypatch.setenv("TRUNKLINE_SWITCHBOARDS", server.address)
        monkeypatch.setenv("TRUNKLINE_HOME", str(tmp_path))
        monkeypatch.setattr(classic, "_registered", None)
        yield
        connect.default.close()


@pytest.fixture
def pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        yield pool


def test_meet(pool):
    future = pool.submit(classic.meet, "you", "me")
    with classic.meet("me", "you") as mine, future.result() as yours:
        mine.sendall(b"hello")
        assert yours.recv(5) == b"hello"


def test_meet_d(pool):
    future = pool.submit(classic.meet_d, "you", "me")
    with classic.meet_d("me", "you") as mine, future.result() as yours:
        mine.send(b"hello")
        yours.settimeout(20)
        assert yours.recv(5) == b"hello"


def test_putserver_and_meetclient(pool):
    classic.putserver("server")
    for n in range(3):
        future = pool.submit(classic.meet, f"client{n}", "server")
        with classic.meetclient() as conn, future.result():
            assert conn.peer.name == f"client{n}"


def test_a_second_putserver_takes_the_place_of_the_first(pool):
    classic.putserver("first")
    classic.putserver("second")
    assert [found.name for found in connect.names()] == ["second"]
    future = pool.submit(classic.meet, "client", "second")
    with classic.meetclient(), future.result():
        pass


def test_meetclient_needs_a_registration():
    with pytest.raises(ClosedError, match="putserver"):
        classic.meetclient()


def test_errors_are_exceptions():
    with pytest.raises(InvalidName):
        classic.meet("me", "me")


# ---- section 2.2 ---------------------------------------------------------------------------------------------------


@pytest.fixture
def realm(tmp_path, monkeypatch) -> Iterator[Realm]:
    """A realm whose authority runs; ann and ben have keys in TRUNKLINE_HOME, and nobody is in the directory."""
    realm = Realm()
    with LiveAuthority(realm, tmp_path) as live, LiveServer.of(realm) as server:
        monkeypatch.setenv("TRUNKLINE_SWITCHBOARDS", server.address)
        realm.home(tmp_path, "ann", live.address).save_key("ben", realm.key("ben"))
        yield realm
        connect.default.close()


def enter(realm: Realm, *users: str) -> None:
    for user in users:
        classic.insertkey(user, realm.key(user), "the help desk")
        classic.markOK(user, realm.root_key)


def test_a_key_from_insertion_to_deletion(realm):
    with pytest.raises(NotAllowed, match="no such user"):
        classic.getkey("ann", "ben")
    classic.insertkey("ann", realm.key("ann"), "the help desk")
    with pytest.raises(NotAllowed, match="tentative"):
        classic.getkey("ann", "ben")
    with pytest.raises(NameTaken):
        classic.insertkey("ann", UserKey.generate(), "eve")
    classic.markOK("ann", realm.root_key)
    key = classic.getkey("ann", "ben")
    assert (key.user, key.keys, key.requester) == ("ann", realm.key("ann").public, "the help desk")

    new = UserKey.generate()
    with pytest.raises(NotAllowed, match="only its owner"):
        classic.changekey("ann", new, "eve", realm.key("ann"))
    with pytest.raises(TrustError):
        classic.changekey("ann", new, "ann", new)  # signed by the new key only
    classic.changekey("ann", new, "ann", realm.key("ann"))
    assert classic.getkey("ann", "ben").keys == new.public

    with pytest.raises(NotAllowed, match="only its owner"):
        classic.deletekey("ann", "ben")
    enter(realm, "ben")
    classic.deletekey("ben", "ben")
    with pytest.raises(NotAllowed, match="deleted"):
        classic.getkey("ben", "ann")


def test_only_the_administrator_marks_a_key(realm):
    classic.insertkey("ann", realm.key("ann"), "ann")
    with pytest.raises(TrustError):
        classic.markOK("ann", generate_p256())


def test_encrypt_and_decrypt(realm):
    enter(realm, "ann", "ben")
    cyphertext = classic.encrypt(b"hello, world", 5, classic.getkey("ben", "ann"))
    assert classic.decrypt(cyphertext + b"more", len(cyphertext), "ben") == (b"hello", "ann")
    mine = classic.encrypt(b"", 0, classic.getkey("ann", "ann"))
    assert classic.decrypt(mine, len(mine)) == (b"", "ann")
    with pytest.raises(ValueError, match="clearlength is 6, and there are 5"):
        classic.encrypt(b"hello", 6, classic.getkey("ben", "ann"))
    with pytest.raises(ValueError, match="cypherlength is -1"):
        classic.decrypt(b"hello", -1)


@pytest.fixture
def ben(realm, tmp_path, monkeypatch) -> Iterator[connect.Switchboard]:
    """Ben's own switchboard; the server is one that a realm's members use."""
    enter(realm, "ann", "ben")
    member, policy = realm.membership("switchboard/a"), Policy(realm=realm.name)
    with LiveServer(member=member, policy=policy) as server:
        monkeypatch.setenv("TRUNKLINE_SWITCHBOARDS", server.address)
        authority = RealmHome().settings().authorities
        with connect.Switchboard(home=realm.home(tmp_path / "ben", "ben", *authority).path) as ben:
            yield ben
        connect.default.close()


def test_securemeet(ben, pool):
    future = pool.submit(ben.secure_meet, "you", "me", peer_user="ann")
    mine, yourkey = classic.securemeet("me", "you", "ann", "ben")
    with mine, future.result() as yours:
        assert yourkey.user == mine.peer.user == "ben"
        assert mine.peer.public_key == yourkey.keys.signing
        mine.sendall(b"hello")
        assert yours.recv(5) == b"hello"


def test_securemeet_with_a_key_that_is_changed_meanwhile(ben, pool, monkeypatch):
    old = classic.getkey("ben", "ann")
    stale = msgspec.structs.replace(old, keys=UserKey.generate().public)
    future = pool.submit(ben.secure_meet, "you", "me", peer_user="ann")
    monkeypatch.setattr(classic, "getkey", lambda username, requestername: stale)
    with pytest.raises(NotThatUser, match="was changed while"):
        classic.securemeet("me", "you", "ann", "ben")
    future.result().close()


def listen(home: Path, at: str) -> None:
    """Say where an authority that is not there yet is to listen."""
    (home / "authority").mkdir(mode=0o700)
    (home / "authority" / "settings.toml").write_text(f'listen = ["{at}"]')


def test_initauth(tmp_path):
    admin = AuthorityHome(tmp_path / "stick")
    root = admin.create_root("lab.example", time.time())
    listen(tmp_path, "127.0.0.1:0")
    server = classic.initauth(root.certificate, admin.root_key())
    try:
        classic.insertkey("ann", UserKey.generate(), "ann")
        classic.markOK("ann", admin.root_key())
        assert classic.getkey("ann", "ann").user == "ann"
        with pytest.raises(ConfigError, match="already"):
            classic.initauth(root.certificate, admin.root_key())
    finally:
        server.terminate()
        server.wait(20)
        connect.default.close()


def test_initauth_with_a_server_that_does_not_start(tmp_path):
    admin = AuthorityHome(tmp_path / "stick")
    root = admin.create_root("lab.example", time.time())
    listen(tmp_path, "192.0.2.1:1")  # not an address of this host
    with pytest.raises(ConfigError, match="did not start: it ended with 1"):
        classic.initauth(root.certificate, admin.root_key())


def test_initauth_with_another_administrators_key(tmp_path):
    root = AuthorityHome(tmp_path / "stick").create_root("lab.example", time.time())
    with pytest.raises(TrustError, match="not the key of the root"):
        classic.initauth(root.certificate, generate_p256())
