"""The asyncio face's secure side, with memberships of homes on disk: no authority is there to be asked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.drivers.aiokit import LOOPS, run, server
from tests.homes import REALM, home
from tests.realmkit import LiveAuthority
from trunkline import aio
from trunkline.aio import Switchboard
from trunkline.drivers.memberships import Memberships
from trunkline.drivers.server_aio import SwitchboardServer
from trunkline.errors import (
    ConfigError,
    InvalidName,
    InvalidUser,
    MeetTimeout,
    NoAuthority,
    TrunklineError,
    TrustError,
)
from trunkline.switchboard.policy import Policy

Loop = Callable[[], asyncio.AbstractEventLoop]
either_loop = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)


def secured() -> SwitchboardServer:
    """Return a server of the realm: members speak to no other."""
    return server(member=REALM.membership("switchboard/s"), policy=Policy(realm=REALM.name))


@contextlib.asynccontextmanager
async def world(folder: Path) -> AsyncIterator[tuple[Switchboard, Switchboard]]:
    """A server, ann's switchboard and ben's."""
    async with (
        secured() as s,
        Switchboard(s.address, home=home(folder / "ann", "ann", default="ann")) as ann,
        Switchboard(s.address, home=home(folder / "ben", "ben", "ops/cy")) as ben,
    ):
        yield ann, ben


@either_loop
def test_two_users_meet(tmp_path: Path, loop: Loop) -> None:
    async def main() -> None:
        async with world(tmp_path) as (ann, ben):
            (reader, writer, peer), (reader2, writer2, peer2) = await asyncio.gather(
                ann.secure_meet("a", "b", peer_user="ben"),
                ben.secure_meet("b", "a", user="ben", peer_user="ann", timeout=30),
            )
            assert (peer.name, peer.user, peer2.name, peer2.user) == ("b", "ben", "a", "ann")
            assert peer.public_key == REALM.key("ben").public.signing
            assert writer.get_extra_info("peer") is peer
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
            writer.write(b"there")
            assert await reader2.readexactly(5) == b"there"
            writer2.close()
            assert await reader.read() == b""
            writer.close()
            await asyncio.gather(writer.wait_closed(), writer2.wait_closed())

    run(main, loop)


@either_loop
def test_a_post_for_some(tmp_path: Path, loop: Loop) -> None:
    async def main() -> None:
        async with world(tmp_path) as (ann, ben):
            async with ann.secure_post("vault", allow=["ben", "ops/*"]) as post:

                async def serve() -> None:
                    async for reader, writer, peer in post:
                        writer.write(str(peer.user).encode() + await reader.readexactly(1))
                        writer.close()

                serving = asyncio.create_task(serve())
                for user in ("ben", "ops/cy", "ben"):
                    with await ben.secure_meet_socket("x", "vault", user=user, peer_user="ann") as conn:
                        assert conn.gettimeout() == 0.0
                        conn.send(b"!")
                        got = b""
                        while not got.endswith(b"!"):
                            with contextlib.suppress(OSError):  # it would block
                                got += conn.recv(99)
                            await asyncio.sleep(0)
                        assert got == user.encode() + b"!"
            await serving

    run(main, loop)


def test_who_is_not_allowed_never_gets_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as (ann, ben), ann.secure_post("vault", allow="ops/*") as post:
            with pytest.raises(MeetTimeout, match="'ben' is not allowed"):
                await ben.secure_meet("x", "vault", user="ben", peer_user="ann", timeout=2.0)
            assert any(
                "is not allowed" in line for line in await ben.explain("x", "vault", user="ben", peer_user="ann")
            )
            with pytest.raises(MeetTimeout):
                await post.accept(timeout=0)

    run(main)


def test_secure_and_plain_never_meet(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as (ann, ben), ben.post("p"):
            with pytest.raises(MeetTimeout, match="plain"):
                await ann.secure_meet("a", "p", peer_user="ben", timeout=2.0)

    run(main)


def test_wrong_names(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as (ann, _):
            with pytest.raises(InvalidName):
                await ann.secure_meet("a", "a", peer_user="ben")
            for users in ({"peer_user": "b//n"}, {"peer_user": "ben", "user": "a b"}):
                with pytest.raises(InvalidUser):
                    await ann.secure_meet("a", "b", **users)
            with pytest.raises(InvalidName):
                ann.secure_post("", allow="ben")
            with pytest.raises(InvalidUser):
                ann.secure_post("p", allow="b**n")
            with pytest.raises(ValueError, match="1 to"):
                ann.secure_post("p", allow="ben", backlog=0)
            for allow in ([], ["ben"] * 17):
                with pytest.raises(ConfigError, match="1 to 16"):
                    await ann.secure_post("p", allow=allow)

    run(main)


def test_homes_that_will_not_do(tmp_path: Path) -> None:
    async def main() -> None:
        async with secured() as s:
            async with Switchboard(s.address, home=tmp_path / "none") as board:
                with pytest.raises(ConfigError, match="belongs to no realm"):
                    await board.secure_meet("a", "b", user="ann", peer_user="ben")
            async with Switchboard(s.address, home=home(tmp_path / "keyless")) as board:
                with pytest.raises(ConfigError):
                    await board.secure_meet("a", "b", user="ann", peer_user="ben")
                with pytest.raises(TrunklineError, match="user"):
                    await board.secure_meet("a", "b", peer_user="ben")
            async with Switchboard(s.address, home=home(tmp_path / "bare", "ann", certified=False)) as board:
                with pytest.raises(TrustError, match="no certificate for 'ann'"):
                    await board.secure_meet("a", "b", user="ann", peer_user="ben")
                with pytest.raises(TrustError, match="no certificate for 'ann'"):
                    await board.secure_post("a", user="ann", allow="ben")
                with pytest.raises(NoAuthority):
                    await board.encrypt(b"x", to="ben", user="ann")
                with pytest.raises(TrunklineError):
                    await board.decrypt(b"x", user="ann")

    run(main)


def test_the_functions_use_the_home_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_HOME", str(home(tmp_path, "ann", "ben", default="ann")))
    monkeypatch.setattr(aio.default, "_memberships", Memberships())

    async def main() -> None:
        async with secured() as s:
            monkeypatch.setenv("TRUNKLINE_SWITCHBOARDS", str(s.address))
            async with aio.secure_post("p", user="ben", allow="ann") as post:
                _, writer, _ = await aio.secure_meet("a", "p", peer_user="ben")
                _, writer2, peer = await post.accept()
                assert peer.user == "ann"
                writer.close()
                writer2.close()
                (await aio.secure_meet_socket("b", "p", peer_user="ben")).close()
        # and no close: the end of the loop closes memberships, too

    run(main)
    assert not aio.default._memberships._opened


def test_first_certificates_come_by_themselves(tmp_path: Path) -> None:
    async def main(address: str) -> None:
        homes = [REALM.home(tmp_path / user, user, address).path for user in ("ann", "ben")]
        async with (
            secured() as s,
            Switchboard(s.address, home=homes[0]) as ann,
            Switchboard(s.address, home=homes[1]) as ben,
        ):
            assert (await ann.status()).clients == 1
            async with ben.secure_post("p", allow="ann") as post:
                (_, writer, peer), (_, writer2, peer2) = await asyncio.gather(
                    ann.secure_meet("a", "p", peer_user="ben"), post.accept()
                )
                assert (peer.user, peer2.user) == ("ben", "ann")
                writer.close()
                writer2.close()

    with LiveAuthority(REALM, tmp_path) as live:
        REALM.approve(live, "ann", "ben")
        run(lambda: main(live.address))
