import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.drivers.aiokit import LOOPS, run, server, until
from tests.securekit import Lone, TinyRealm, new_key
from trunkline.aio import Switchboard
from trunkline.drivers import secure_aio
from trunkline.drivers.meetings_aio import Meeting
from trunkline.drivers.secure_aio import SecurePost, secure_meet, secure_streams
from trunkline.drivers.secure_sockets import SecureConnection
from trunkline.drivers.server_aio import SwitchboardServer
from trunkline.drivers.sockets import Connection
from trunkline.errors import ClosedError, Displaced, ForkedHistory, MeetTimeout, NotAllowed, StaleHead
from trunkline.names import Secret

REALM = TinyRealm()
Loop = Callable[[], asyncio.AbstractEventLoop]
either_loop = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)


class World:
    """A server, and a member and a switchboard for each user."""

    def __init__(self, server: SwitchboardServer, ann: Switchboard, ben: Switchboard) -> None:
        self.server = server
        self.boards = {"ann": ann, "ben": ben}
        self.members = {"ann": REALM.member("ann"), "ben": REALM.member("ben")}

    async def meet(self, user: str, me: str, you: str, peer_user: str, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        client = self.boards[user].client()
        return await secure_meet(client, self.members[user], me, you, peer_user, timeout)

    def post(self, *allow: str, backlog: int = 128, secret: Secret | None = None) -> SecurePost:
        """Ben's post p."""
        client = self.boards["ben"].client
        unique = secret is not None
        return SecurePost(client, "p", self.members["ben"], allow, unique=unique, secret=secret, backlog=backlog)

    async def pretend(self, me: str = "a") -> Connection:
        """Meet ben's post as somebody who says to be ann, and stop where TLS begins."""
        client = self.boards["ann"].client()
        sink = Meeting(client.loop, streams=False)
        client.meet(sink, me, "p", seconds=None, user="ann", peer_user="ben")
        conn = await sink.future
        assert isinstance(conn, Connection)
        return conn

    async def nothing_waits(self) -> None:
        while (status := await self.boards["ann"].status()).meets or status.posts:
            pass


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with server() as s, Switchboard(s.address) as ann, Switchboard(s.address) as ben:
        yield World(s, ann, ben)


async def echoes(one: SecureConnection, two: SecureConnection) -> None:
    """Check that bytes go both ways, by streams, and that the end is told."""
    (reader, writer, _), (reader2, writer2, _) = secure_streams(one), secure_streams(two)
    writer.write(b"there")
    assert await reader2.readexactly(5) == b"there"
    writer2.write(b"back")
    assert await reader.readexactly(4) == b"back"
    writer.close()
    assert await reader2.read() == b""
    writer2.close()
    await asyncio.gather(writer.wait_closed(), writer2.wait_closed())


# ---- meeting --------------------------------------------------------------------------------------------------


@either_loop
def test_two_users_meet(loop: Loop) -> None:
    async def main() -> None:
        async with world() as w:
            one, two = await asyncio.gather(w.meet("ann", "a", "b", "ben"), w.meet("ben", "b", "a", "ann"))
            assert (one.peer.name, one.peer.user, two.peer.name, two.peer.user) == ("b", "ben", "a", "ann")
            assert one.peer.match == two.peer.match
            assert one.peer.public_key == REALM.identity_of("ben")
            assert one.version() == "TLSv1.3"
            assert one.gettimeout() == 0.0
            await echoes(one, two)

    run(main, loop)


def test_the_next_meeting_resumes() -> None:
    async def main() -> None:
        async with world() as w, w.post("ann") as post:
            for again in (False, True, True):
                one, two = await asyncio.gather(w.meet("ann", "a", "p", "ben"), post.accept_socket())
                assert one.session_reused is two.session_reused is again
                await echoes(one, two)

    run(main)


def test_an_impostor_does_not_end_the_call(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trunkline")

    async def main() -> None:
        async with world() as w, Switchboard(w.server.address) as board:
            key = new_key()
            eve = REALM.impostor("ben", REALM.chain("eve", key), key)
            lying = asyncio.create_task(secure_meet(board.client(), eve, "b", "a", "ann", None))
            while (await board.status()).meets != 1:
                pass
            wanting = asyncio.create_task(w.meet("ann", "a", "b", "ben"))
            await until(lambda: any("eve" in record.getMessage() for record in caplog.records))
            two = await w.meet("ben", "b", "a", "ann")
            await echoes(await wanting, two)
            lying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await lying

    run(main)


def test_a_deadline_tells_of_impostors() -> None:
    async def main() -> None:
        async with world() as w, Switchboard(w.server.address) as board:
            key = new_key()
            eve = REALM.impostor("ben", REALM.chain("eve", key), key)
            lying = asyncio.create_task(secure_meet(board.client(), eve, "b", "a", "ann", None))
            with pytest.raises(MeetTimeout, match=r"within 0\.5 s") as caught:
                await w.meet("ann", "a", "b", "ben", timeout=0.5)
            assert "it is of 'eve', and 'ben' was asked for" in str(caught.value)
            lying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await lying
            await w.nothing_waits()

    run(main)


def test_many_impostors_are_met_ever_more_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def sleeping(seconds: float) -> None:
        if seconds:
            pauses.append(seconds)
        await sleep(0)

    async def main() -> None:
        async with world() as w, contextlib.AsyncExitStack() as stack:
            key = new_key()
            eve = REALM.impostor("ben", REALM.chain("eve", key), key)
            lying = []
            for _ in range(4):
                board = await stack.enter_async_context(Switchboard(w.server.address))
                lying.append(asyncio.create_task(secure_meet(board.client(), eve, "b", "a", "ann", None)))
            while (await w.boards["ann"].status()).meets != 4:
                pass
            wanting = asyncio.create_task(w.meet("ann", "a", "b", "ben"))
            while len(pauses) < 2:
                await sleep(0)
            wanting.cancel()
            for task in lying:
                task.cancel()
            await asyncio.gather(wanting, *lying, return_exceptions=True)

    monkeypatch.setattr(secure_aio.asyncio, "sleep", sleeping)
    run(main)
    assert pauses[0] == 0.05
    assert pauses[1] == 0.1


def test_two_histories_end_the_call() -> None:
    async def main() -> None:
        async with world() as w:
            w.members["ann"].forked = True
            other = asyncio.create_task(w.meet("ben", "b", "a", "ann"))
            with pytest.raises(ForkedHistory):
                await w.meet("ann", "a", "b", "ben")
            other.cancel()
            with pytest.raises(asyncio.CancelledError):
                await other

    run(main)


def stale(member: Lone) -> None:
    def head() -> None:
        raise StaleHead("no head is new enough")

    member.head = head  # type: ignore[method-assign, assignment]


def test_our_own_side_ends_the_call() -> None:
    async def main() -> None:
        async with world() as w:
            stale(w.members["ann"])
            other = asyncio.create_task(w.meet("ben", "b", "a", "ann"))
            with pytest.raises(StaleHead):
                await w.meet("ann", "a", "b", "ben")
            other.cancel()
            with pytest.raises(asyncio.CancelledError):
                await other
            w.members["ann"].user = None  # type: ignore[assignment]
            with pytest.raises(NotAllowed, match="a user of our own"):
                await w.meet("ann", "a", "b", "ben")

    run(main)


def test_a_post_is_told_that_our_side_can_not_go_on() -> None:
    async def main() -> None:
        async with world() as w, w.post("ann") as post:
            stale(w.members["ben"])
            meeting = asyncio.create_task(w.meet("ann", "a", "p", "ben"))
            for _ in range(2):  # each time that somebody comes
                with pytest.raises(StaleHead):
                    await post.accept()
                meeting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await meeting
                meeting = asyncio.create_task(w.meet("ann", "a", "p", "ben"))
            meeting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await meeting

    run(main)


# ---- posts ----------------------------------------------------------------------------------------------------


@either_loop
def test_a_post_serves_many_at_once(loop: Loop) -> None:
    async def main() -> None:
        async with world() as w:
            async with w.post("ann") as post:

                async def serve() -> None:
                    async for reader, writer, peer in post:
                        assert peer.user == "ann"
                        assert writer.get_extra_info("peer") is peer
                        writer.write(peer.name.encode() + await reader.readexactly(1))
                        writer.close()

                async def one(me: str) -> None:
                    reader, writer, _ = secure_streams(await w.meet("ann", me, "p", "ben"))
                    writer.write(b"!")
                    assert await reader.read() == me.encode() + b"!"
                    writer.close()

                serving = asyncio.create_task(serve())
                await asyncio.gather(*(one(f"a{i}") for i in range(10)))
                assert repr(post) == "<SecurePost 'p' of 'ben'>"
            await serving
            await w.nothing_waits()

    run(main, loop)


def test_silent_and_hostile_clients_hold_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trunkline")

    async def main() -> None:
        async with world() as w, w.post("ann", backlog=6) as post:
            silent = [await w.pretend(f"s{i}") for i in range(4)]
            for i in range(8):  # more than there is room for: each makes room again
                with await w.pretend(f"h{i}") as hostile:
                    hostile.send(b"GET / HTTP/1.0\r\n\r\n")
                    await until(lambda i=i: f"h{i} at p: " in caplog.text)
            one, two = await asyncio.gather(w.meet("ann", "a", "p", "ben"), post.accept_socket())
            await echoes(one, two)
            with pytest.raises(MeetTimeout, match="'h7', who is said to be 'ann', could not prove it"):
                await post.accept(timeout=0)
            for sock in silent:
                sock.close()

    run(main)


def test_a_silent_client_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secure_aio, "HANDSHAKE_TIMEOUT", 0.05)

    async def main() -> None:
        async with world() as w, w.post("ann") as post:
            with await w.pretend() as silent:
                assert await asyncio.get_running_loop().sock_recv(silent, 9) == b""
            with pytest.raises(MeetTimeout, match=r"nothing was heard for 0\.05 s"):
                await post.accept(timeout=0)

    run(main)


def test_who_may_come_is_judged_by_the_certificate() -> None:
    async def main() -> None:
        async with world() as w, w.post("ann") as post:
            key = new_key()
            w.members["ann"] = REALM.impostor("ann", REALM.chain("eve", key), key)
            with pytest.raises(MeetTimeout, match="the user 'eve' may not come to 'p'"):
                await w.meet("ann", "a", "p", "ben", timeout=0.5)
            with pytest.raises(MeetTimeout, match="'eve'"):
                await post.accept(timeout=0)

    run(main)


def test_closing_a_post_closes_what_is_under_way() -> None:
    async def main() -> None:
        async with world() as w:
            loop = asyncio.get_running_loop()
            async with w.post("ann"):
                under_way = await w.pretend()
                done = await w.meet("ann", "b", "p", "ben")
            with under_way, done:
                assert await loop.sock_recv(under_way, 9) == b""
                reader, writer, _ = secure_streams(done)
                assert await reader.read() == b""
                writer.close()
                await writer.wait_closed()

    run(main)


def test_a_unique_secure_name_changes_hands() -> None:
    async def main() -> None:
        async with world() as w:
            async with w.post("ann", secret=Secret(b"s")) as first:
                under_way = await w.pretend()
                async with w.post("ann", secret=Secret(b"s")) as second:
                    with pytest.raises(Displaced):
                        await first.accept()
                    with under_way:
                        assert await asyncio.get_running_loop().sock_recv(under_way, 9) == b""
                    assert second.generation > first.generation

    run(main)


# ---- cancellation, at every step -------------------------------------------------------------------------------


async def cancelled_at(step: int, task: asyncio.Task[Any]) -> bool:
    """Cancel after so many turns of the loop; say whether that was soon enough."""
    for _ in range(step):
        await asyncio.sleep(0)
        if task.done():
            return False
    task.cancel()
    return True


def test_a_meet_cancelled_anywhere_leaves_nothing() -> None:
    async def main() -> None:
        async with world() as w, w.post("ann") as post:
            for step in range(1000):
                w.members["ann"].sessions.kept.clear()
                task = asyncio.create_task(w.meet("ann", "a", "p", "ben"))
                if not await cancelled_at(step, task):
                    (await task).close()
                    break
                with contextlib.suppress(asyncio.CancelledError):
                    (await task).close()
                while (await w.boards["ann"].status()).meets:
                    pass
            assert step > 5
            await until(lambda: not post._proofs)  # whoever was half way there has failed

    run(main)


def test_an_accept_cancelled_anywhere_loses_nobody() -> None:
    async def main() -> None:
        async with world() as w, w.post("ann") as post:
            for step in range(1000):
                meeting = asyncio.create_task(w.meet("ann", "a", "p", "ben"))
                task = asyncio.create_task(post.accept_socket())
                soon = await cancelled_at(step, task)
                try:
                    conn = await task
                except asyncio.CancelledError:
                    conn = await post.accept_socket()
                await echoes(await meeting, conn)
                if not soon:
                    break
            assert step > 5

    run(main)


def test_a_post_closed_anywhere_leaves_nothing() -> None:
    async def main() -> None:
        async with world() as w:
            for step in range(1000):
                post = await w.post("ann")
                meeting = asyncio.create_task(w.meet("ann", "a", "p", "ben"))
                for _ in range(step):
                    await asyncio.sleep(0)
                ready = bool(post._ready)
                await post.close()
                with pytest.raises(ClosedError):
                    await post.accept()
                assert not post._proofs
                meeting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    (await meeting).close()
                await w.nothing_waits()
                if ready:
                    break
            assert step > 5

    run(main)


def test_delivered_after_the_caller_has_left() -> None:
    async def main() -> None:
        async with world() as w, w.post("ann") as post:
            meeting = secure_aio.SecureMeeting(asyncio.get_running_loop(), w.members["ann"], "a", "p", "ben", None)
            rid = w.boards["ann"].client().meet(meeting, "a", "p", seconds=None, user="ann", peer_user="ben")
            meeting.future.cancel()
            await until(lambda: rid not in w.boards["ann"].client()._sinks)
            meeting.failed(ClosedError("ignored"))
            meeting.drop()
            with pytest.raises(AssertionError, match="only posts stand"):
                meeting.stands(1)
            with pytest.raises(MeetTimeout):
                await post.accept(timeout=0)

    run(main)
