"""encrypt, decrypt and secure datagrams as callers of the faces hold them: homes on disk, an authority, a server."""

import asyncio
import concurrent.futures
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.leaks import no_leaks
from tests.live import LiveServer
from tests.realmkit import LiveAuthority, Realm
from trunkline import ConfigError, DecryptError, InvalidUser, NotAllowed, aio, connect
from trunkline.connect import Switchboard

PATIENCE = 6.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Homes of ann and ben, whose keys are approved by an authority that runs; and where the server is."""
    folder = tmp_path_factory.mktemp("realm")
    realm = Realm()
    with no_leaks(), LiveAuthority(realm, folder) as authority, LiveServer.of(realm) as server:
        realm.approve(authority, "ann", "ben")
        for user in ("ann", "ben"):
            realm.home(folder / user, user, authority.address)
        Path(folder, "server").write_text(server.address)
        yield folder


def board(folder: Path, user: str) -> Switchboard:
    return Switchboard(Path(folder, "server").read_text(), home=folder / user)


@pytest.fixture
def ann(folder: Path) -> Iterator[Switchboard]:
    with board(folder, "ann") as board_:
        yield board_


@pytest.fixture
def ben(folder: Path) -> Iterator[Switchboard]:
    with board(folder, "ben") as board_:
        yield board_


@pytest.fixture
def pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        yield pool


def test_what_is_encrypted_is_decrypted(ann: Switchboard, ben: Switchboard) -> None:
    blob = ann.encrypt(b"hello", to="ben")
    assert ben.decrypt(blob) == (b"hello", "ann")
    assert ben.decrypt(ann.encrypt(b"hello", to="ben", user="ann"), user="ben") == (b"hello", "ann")
    with pytest.raises(DecryptError, match="for 'ben'"):
        ann.decrypt(blob)


def test_refusals(ann: Switchboard) -> None:
    with pytest.raises(NotAllowed, match="no such user"):
        ann.encrypt(b"hello", to="nobody")
    with pytest.raises(InvalidUser):
        ann.encrypt(b"hello", to="no user")
    with pytest.raises(ConfigError):
        ann.encrypt(b"hello", to="ann", user="ben")


def test_the_membership_is_there_for_the_rest(ann: Switchboard) -> None:
    assert ann.membership() is ann.membership()
    assert ann.membership().user == "ann"
    assert ann.membership().get("nobody") is None


def test_asynchronously(folder: Path) -> None:
    server = Path(folder, "server").read_text()

    async def main() -> None:
        async with (
            aio.Switchboard(server, home=folder / "ann") as ann,
            aio.Switchboard(server, home=folder / "ben") as ben,
        ):
            assert await ben.decrypt(await ann.encrypt(b"hello", to="ben")) == (b"hello", "ann")
            one, two = await asyncio.gather(
                ann.secure_meet_datagram("a", "b", peer_user="ben", timeout=PATIENCE),
                ben.secure_meet_datagram("b", "a", peer_user="ann", timeout=PATIENCE),
            )
            with one, two:
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(one, b"there")
                assert await loop.sock_recv(two, 100) == b"there"
            async with ben.secure_post("p", allow="ann", datagram=True) as post:
                one, two = await asyncio.gather(
                    ann.secure_meet_datagram("a", "p", peer_user="ben", timeout=PATIENCE),
                    post.accept_datagram(PATIENCE),
                )
                with one, two:
                    assert (one.peer.user, two.peer.user) == ("ben", "ann")

    asyncio.run(main())


def test_datagrams(ann: Switchboard, ben: Switchboard, pool) -> None:
    other = pool.submit(ben.secure_meet_datagram, "b", "a", peer_user="ann", timeout=PATIENCE)
    with ann.secure_meet_datagram("a", "b", peer_user="ben", timeout=PATIENCE) as one, other.result() as two:
        assert (one.peer.user, two.peer.user) == ("ben", "ann")
        two.settimeout(PATIENCE)
        one.send(b"there")
        assert two.recv() == b"there"


def test_a_post_of_datagrams(ann: Switchboard, ben: Switchboard, pool) -> None:
    with ben.secure_post("p", allow="ann", datagram=True) as post:
        other = pool.submit(ann.secure_meet_datagram, "a", "p", peer_user="ben", timeout=PATIENCE)
        with post.accept_datagram(PATIENCE) as one, other.result() as two:
            assert (one.peer.user, two.peer.user) == ("ann", "ben")
        with pytest.raises(ConfigError, match="datagrams"):
            post.accept()
    with ben.secure_post("q", allow="ann") as post, pytest.raises(ConfigError, match="streams"):
        post.accept_datagram()


def test_the_functions_use_the_default_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_HOME", str(folder / "ann"))
    try:
        assert connect.decrypt(connect.encrypt(b"hello", to="ann")) == (b"hello", "ann")
    finally:
        connect.default.close()
