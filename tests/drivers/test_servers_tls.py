"""Servers of a realm and their clients: who gets in, who does not and is told why, and what a client refuses."""

import asyncio
import logging
import ssl
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.drivers.aiokit import LOOPS, Raw, run, server, until
from tests.drivers.test_client_aio import Sink
from tests.live import LiveServer
from tests.realmkit import Realm
from trunkline.drivers.addresses import place
from trunkline.drivers.client_aio import AsyncClient
from trunkline.drivers.client_blocking import BlockingClient
from trunkline.drivers.membership import Membership
from trunkline.drivers.tls import client_context
from trunkline.errors import ConfigError, NoSwitchboard, NotAllowed
from trunkline.names import Address
from trunkline.switchboard.config import ClientConfig
from trunkline.switchboard.policy import Policy, Rule
from trunkline.wire.messages import AskStatus, Goodbye, Matched, MateHello, Meet, Member, Refused, ServerStatus

REALM = Realm("lab.example")
OTHER = Realm("other.example")
DAY = 86400


def secured(name: str = "switchboard/a", realm: Realm = REALM, *, member: Membership | None = None, **settings: Any):
    policy = settings.pop("policy", {})
    chosen = Policy(realm=realm.name, **policy)
    return server(member=member or realm.membership(name), policy=chosen, **settings)


def aio_client(member: Membership | None, *servers: Address) -> AsyncClient:
    config = ClientConfig(servers=servers, place=place())
    return AsyncClient(config, remember=lambda servers: None, addresses=(), member=member)


def blocking_client(member: Membership | None, *servers: str) -> BlockingClient:
    config = ClientConfig(servers=tuple(map(Address.parse, servers)), place=place())
    return BlockingClient(lambda: (config, (), member), lambda servers: None)


def in_thread(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    outcome: list[Any] = []
    thread = threading.Thread(target=lambda: outcome.append(call()))
    thread.start()
    return thread, outcome


async def why_not(address: Address, member: Membership | None) -> str:
    """Ask a server how it is, and return why that came to nothing."""
    c = aio_client(member, address)
    try:
        with pytest.raises(NoSwitchboard) as failed:
            await c.ask(AskStatus, 30)
        return str(failed.value)
    finally:
        c.close()


# ---- who gets in -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_members_are_known_by_their_users(loop: type[asyncio.SelectorEventLoop]) -> None:
    async def main() -> None:
        async with secured() as s:
            a, b = aio_client(REALM.membership("ann"), s.address), aio_client(REALM.membership("ben"), s.address)
            try:
                left, right = Sink(), Sink()
                a.meet(left, "a", "b", seconds=30)
                b.meet(right, "b", "a", seconds=30)
                await until(lambda: left.connections and right.connections)
                users = sorted(party.user for party in s._machine._parties.values())
                assert users == ["ann", "ben"]
                for sink in (left, right):
                    sink.connections[0].close()
            finally:
                a.close()
                b.close()

    run(main, loop)


def test_blocking_clients() -> None:
    with LiveServer(member=REALM.membership("switchboard/a"), policy=Policy(realm=REALM.name)) as live:
        ann, ben = (blocking_client(REALM.membership(user), live.address) for user in ("ann", "ben"))
        try:
            thread, outcome = in_thread(lambda: ben.meet("b", "a", 30))
            with ann.meet("a", "b", 30) as conn:
                thread.join()
                conn.sendall(b"x")
                with outcome[0] as theirs:
                    assert theirs.recv(1) == b"x"
        finally:
            ann.close()
            ben.close()


def test_who_only_verifies_gets_in_unproven() -> None:
    async def main() -> None:
        async with secured() as s:
            c = aio_client(REALM.membership(None), s.address)
            try:
                assert isinstance(await c.ask(AskStatus, 30), ServerStatus)
                assert [party.user for party in s._machine._parties.values()] == [""]
            finally:
                c.close()

    run(main)


def test_servers_join_each_other() -> None:
    async def main() -> None:
        async with secured("switchboard/a", id="a") as a:
            async with secured("switchboard/b", id="b", join=(a.address,)) as b:
                await until(lambda: a.status().connected and b.status().connected)
                ann, ben = (
                    aio_client(REALM.membership("ann"), a.address),
                    aio_client(REALM.membership("ben"), b.address),
                )
                try:
                    left, right = Sink(), Sink()
                    ann.meet(left, "a", "b", seconds=30)
                    ben.meet(right, "b", "a", seconds=30)
                    await until(lambda: left.connections and right.connections)
                    for sink in (left, right):
                        sink.connections[0].close()
                finally:
                    ann.close()
                    ben.close()

    run(main)


def test_large_answers_and_many_messages() -> None:
    """More than one TLS record each way, and more than the kernel takes at once."""

    async def main() -> None:
        async with secured() as s:
            raw = await Raw.hello(s.address, REALM.membership("ann").tls_client())
            count = 3000
            raw.send(*(AskStatus(number) for number in range(count)))
            for number in range(count):
                answer = await raw.receive()
                assert isinstance(answer, ServerStatus)
                assert answer.query == number
            await raw.close()

    run(main)


# ---- who does not ------------------------------------------------------------------------------------------------


def test_a_plain_client_is_turned_away_in_words_that_it_reads() -> None:
    async def main() -> None:
        async with secured() as s:
            assert "speaks TLS only, for the realm 'lab.example'" in await why_not(s.address, None)
            assert s.status().clients == 0

    run(main)


def test_a_policy_may_let_plain_clients_in() -> None:
    async def main() -> None:
        async with secured(policy={"plain": True}) as s:
            raw = await Raw.hello(s.address)
            assert [party.user for party in s._machine._parties.values()] == [""]
            await raw.close()

    run(main)


def test_a_member_is_not_led_to_a_plain_server() -> None:
    """A downgrade: whoever answers in the place of the server speaks no TLS."""

    async def main() -> None:
        async with server() as s:
            why = await why_not(s.address, REALM.membership("ann"))
            assert "it is no secured server, and members of the realm 'lab.example' use no other" in why

    run(main)


def test_a_member_is_not_led_to_a_plain_server_blocking() -> None:
    with LiveServer() as live:
        client = blocking_client(REALM.membership("ann"), live.address)
        try:
            with pytest.raises(NoSwitchboard, match="it is no secured server"):
                client.meet("a", "b", 30)
        finally:
            client.close()


@pytest.mark.parametrize(
    ("begins", "ends", "why"),
    [(-2 * DAY, -DAY, "certificate has expired"), (DAY, 2 * DAY, "certificate is not yet valid")],
)
def test_a_client_whose_certificate_is_out_of_its_dates(
    begins: int, ends: int, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trunkline")
    bad = REALM.credential("ann", not_before=REALM.wall + begins, not_after=REALM.wall + ends)

    async def main() -> None:
        async with secured() as s:
            raw = await Raw.dial(s.address, client_context(REALM.root, bad))
            with pytest.raises(ssl.SSLError, match="ALERT"):
                await raw.receive()
            await raw.close()

    run(main)
    assert why in caplog.text


def test_a_client_of_another_realm() -> None:
    stranger = OTHER.membership("ann")

    async def main() -> None:
        async with secured() as s:
            assert "certificate: the peer's is not good" in await why_not(s.address, stranger)
            # and one that would believe anybody
            context = stranger.tls_client()
            context.verify_mode = ssl.CERT_NONE
            raw = await Raw.dial(s.address, context)
            with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
                await raw.receive()
            await raw.close()

    run(main)


def test_a_revoked_client() -> None:
    realm = Realm("lab.example")
    credential = realm.credential("eve")
    eve = realm.membership("eve", credential=credential)
    realm.revoked.append(serial_of(credential.chain[0]))

    async def main() -> None:
        async with secured(realm=realm) as s:
            assert "revoked" in await why_not(s.address, eve)

    run(main)


def serial_of(certificate: bytes) -> bytes:
    from cryptography import x509

    return x509.load_der_x509_certificate(certificate).serial_number.to_bytes(16, "big")


def test_tls_1_2_is_refused() -> None:
    async def main() -> None:
        async with secured() as s:
            context = REALM.membership("ann").tls_client()
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                await Raw.dial(s.address, context)

    run(main)


def test_a_policy_may_ask_every_client_for_its_user() -> None:
    async def main() -> None:
        async with secured(policy={"require_user": True}) as s:
            assert "certificate required" in await why_not(s.address, REALM.membership(None))
            c = aio_client(REALM.membership("ann"), s.address)
            assert isinstance(await c.ask(AskStatus, 30), ServerStatus)
            c.close()

    run(main)


# ---- servers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["eve", None])
def test_nobody_joins_as_a_server_without_a_servers_certificate(user: str | None) -> None:
    async def main() -> None:
        async with secured() as s:
            raw = await Raw.dial(s.address, REALM.membership(user).tls_client())
            raw.send_bytes(b"TRUNK/1\n")
            raw.send(MateHello(Member("evil", 1, "127.0.0.1:1"), ()))
            goodbye = await raw.receive()
            assert isinstance(goodbye, Goodbye)
            assert goodbye.code == NotAllowed.code
            assert "is no switchboard server of the realm 'lab.example'" in goodbye.text
            assert await raw.receive() is None
            assert not s.status().connected
            await raw.close()

    run(main)


def test_a_user_does_not_pass_for_a_server_to_clients_and_servers() -> None:
    """Eve, a user in good standing, answers in the place of a server."""

    async def main() -> None:
        async with secured("switchboard/a") as fake:
            fake._member = REALM.membership("eve")
            assert "is of 'eve', and a switchboard server of 'lab.example'" in await why_not(
                fake.address, REALM.membership("ann")
            )
            async with secured("switchboard/b", id="b", join=(fake.address,)) as b:
                await until(lambda: not b._dials.tasks and not len(b._handshakes))
                assert not b.status().connected

    run(main)


def test_a_server_of_another_realm_is_not_joined() -> None:
    async def main() -> None:
        async with secured("switchboard/a", OTHER) as theirs:
            async with secured("switchboard/b", join=(theirs.address,)) as b:
                await until(lambda: not b._dials.tasks and not len(b._handshakes))
                assert not b.status().connected
                assert not theirs.status().connected

    run(main)


def test_a_plain_server_is_not_joined_and_does_not_join() -> None:
    async def main() -> None:
        async with secured("switchboard/a", id="a") as a, server(id="p", join=(a.address,)) as plain:
            async with secured("switchboard/b", id="b", join=(plain.address,)) as b:
                await until(lambda: not b._dials.tasks and not len(b._handshakes))
                assert not a.status().connected
                assert not b.status().connected
                assert not plain.status().connected

    run(main)


def test_a_plain_server_does_not_join_by_way_of_a_lax_policy() -> None:
    """Clients may be plain there; servers never."""

    async def main() -> None:
        async with secured(policy={"plain": True}) as s:
            raw = await Raw.dial(s.address)
            raw.send_bytes(b"TRUNK/1\n")
            raw.send(MateHello(Member("evil", 1, "127.0.0.1:1"), ()))
            goodbye = await raw.receive()
            assert isinstance(goodbye, Goodbye)
            assert goodbye.code == NotAllowed.code
            await raw.close()

    run(main)


@pytest.mark.parametrize(
    ("member", "realm", "why"),
    [
        (None, "lab.example", "has no certificate"),
        ("switchboard/a", "", "belongs to 'lab.example'"),
        ("switchboard/a", "other.example", "belongs to 'lab.example'"),
        ("ann", "lab.example", "'ann' is none"),
    ],
)
def test_a_server_that_is_not_what_its_settings_say(member: str | None, realm: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        server(member=member and REALM.membership(member), policy=Policy(realm=realm))


# ---- users -------------------------------------------------------------------------------------------------------


def test_a_client_cannot_claim_another_user_than_it_has_proven() -> None:
    async def main() -> None:
        async with secured() as s:
            for proven, shown in (("eve", "the user 'eve'"), (None, "a client that proved no user")):
                raw = await Raw.hello(s.address, REALM.membership(proven).tls_client())
                raw.send(Meet(b"r" * 16, 1, "b", "a", b"", user="ben", peer_user="ann"))
                refused = await raw.receive()
                assert isinstance(refused, Refused)
                assert refused.code == NotAllowed.code
                assert refused.text == f"the request is for the user 'ben', and this connection proved {shown}"
                await raw.close()

    run(main)


def test_rules_are_kept_and_refusals_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trunkline")
    rules = (Rule(("ann",), meet=("a", "b")), Rule(("ben",), meet=("a",), post=("b",)))

    async def main() -> None:
        async with secured(policy={"rules": rules}) as s:
            raws = [await Raw.hello(s.address, REALM.membership(user).tls_client()) for user in ("ann", "ben")]
            ann, ben = raws
            ann.send(Meet(b"1" * 16, 1, "a", "b", b""))
            ben.send(Meet(b"2" * 16, 1, "b", "a", b""))
            assert isinstance(await ann.receive(), Matched)
            ann.send(Meet(b"3" * 16, 1, "a", "vault", b""))
            refused = await ann.receive()
            assert isinstance(refused, Refused)
            assert refused.text == "not allowed"
            for raw in raws:
                await raw.close()

    run(main)
    assert "the user 'ann'" in caplog.text
    assert "'vault'" in caplog.text


def test_what_a_blocking_client_is_refused_is_its_error() -> None:
    policy = Policy(realm=REALM.name, rules=(Rule(("ann",), meet=("b",)),))
    with LiveServer(member=REALM.membership("switchboard/a"), policy=policy) as live:
        client = blocking_client(REALM.membership("ann"), live.address)
        try:
            with pytest.raises(NotAllowed, match="not allowed"):
                client.meet("a", "vault", 30)
        finally:
            client.close()


# ---- as time goes by ---------------------------------------------------------------------------------------------


def test_new_connections_get_the_renewed_certificate() -> None:
    member = REALM.membership("switchboard/a")
    renewed = REALM.credential("switchboard/a")

    async def main() -> None:
        async with secured(member=member) as s:
            shown = []
            for _ in range(2):
                raw = await Raw.hello(s.address, REALM.membership("ann").tls_client())
                tls = raw.writer.get_extra_info("ssl_object")
                shown.append(tls.getpeercert(binary_form=True))
                await raw.close()
                member._install(renewed)
            assert shown[0] != shown[1] == renewed.chain[0]

    run(main)


def test_silence_and_garbage_in_the_place_of_tls(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trunkline")

    async def main() -> None:
        async with secured() as s:
            silent = await Raw.dial(s.address)
            garbage = await Raw.dial(s.address)
            garbage.send_bytes(b"\x16\x03\x01\x00\x05hello")
            while await garbage.reader.read(100):
                pass
            good = await Raw.hello(s.address, REALM.membership("ann").tls_client())  # and nobody waits for them
            for raw in (silent, garbage, good):
                await raw.close()
            await until(lambda: not len(s._handshakes))

    run(main)
    assert "refused the connection from" in caplog.text
