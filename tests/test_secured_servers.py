"""The faces in a home with a realm: servers are spoken to in TLS, and each user speaks for itself."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.leaks import no_leaks
from tests.live import LiveServer
from tests.realmkit import Realm
from trunkline import aio, connect
from trunkline.errors import NoSwitchboard
from trunkline.switchboard.policy import Policy, Rule

REALM = Realm("lab.example")
POLICY = Policy(
    realm=REALM.name,
    require_user=True,
    rules=(Rule(("ann",), meet=("b",)), Rule(("ben",), meet=("a",), post=("vault",))),
)


@pytest.fixture
def server() -> Iterator[LiveServer]:
    with LiveServer(member=REALM.membership("switchboard/a"), policy=POLICY) as live:
        yield live


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home of ann's, in which there are keys of ben too."""
    made = REALM.home(tmp_path, "ann")
    made.keep_state(REALM.trust().state())
    made.save_key("ben", REALM.key("ben"))
    for user in ("ann", "ben"):
        made.keep_credential(user, REALM.credential(user))
    return tmp_path


def test_blocking(server: LiveServer, home: Path) -> None:
    with no_leaks(), connect.Switchboard(server.address, home=home) as switchboard:
        assert switchboard.status().clients == 1
        outcome: list[str | None] = []

        def other() -> None:
            with switchboard.secure_meet("b", "a", user="ben", peer_user="ann", timeout=30) as conn:
                outcome.append(conn.peer.user)

        thread = threading.Thread(target=other)
        thread.start()
        with switchboard.secure_meet("a", "b", peer_user="ben", timeout=30) as conn:
            assert conn.peer.user == "ben"
        thread.join()
        assert outcome == ["ann"]
        with switchboard.secure_post("vault", user="ben", allow=["ann"]):
            assert switchboard.status().clients == 2
        (line,) = switchboard.explain("a", "b", user="ann", peer_user="ben")
        assert line == "nobody has posted 'b', and nobody waits under that name for 'a'"
        (line,) = switchboard.explain("b", "vault", user="ben", peer_user="ann")
        assert line == "the user 'ben' may not meet 'vault'; what it may meet is 'a'"
        assert switchboard.explain("a", "vault", user="ann", peer_user="ben") == ("not allowed",)


def test_asynchronous(server: LiveServer, home: Path) -> None:
    async def main() -> None:
        async with aio.Switchboard(server.address, home=home) as switchboard:
            assert (await switchboard.status()).clients == 1
            one, other = await asyncio.gather(
                switchboard.secure_meet_socket("a", "b", peer_user="ben", timeout=30),
                switchboard.secure_meet_socket("b", "a", user="ben", peer_user="ann", timeout=30),
            )
            assert (one.peer.user, other.peer.user) == ("ben", "ann")
            assert (await switchboard.status()).clients == 2
            assert await switchboard.explain("a", "vault", user="ann", peer_user="ben") == ("not allowed",)
            one.close()
            other.close()

    with no_leaks():
        asyncio.run(main())


def test_a_plain_server_is_refused(home: Path) -> None:
    with LiveServer() as live:
        with connect.Switchboard(live.address, home=home) as switchboard:
            with pytest.raises(NoSwitchboard, match="it is no secured server"):
                switchboard.status()
