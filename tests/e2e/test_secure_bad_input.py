"""Bad input against a real authority and a real secured server: each is refused, and others notice nothing of it.

Two users meet before each abuse, while it lasts, and after it, and the directory answers. In the end both end in good
order, and their logs hold no traceback.
"""

import asyncio
import contextlib
import json
import os
import random
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.cli.authoritykit import Person
from tests.drivers.aiokit import Raw, run
from tests.e2e.process import Process
from tests.e2e.test_bad_input import GROWTH, frame, resident, talk
from trunkline import aio
from trunkline.authority import messages as msg
from trunkline.authority.codec import answers, encode
from trunkline.drivers.membership import Membership
from trunkline.names import Address
from trunkline.wire.codec import PREAMBLE
from trunkline.wire.limits import MAX_FRAME
from trunkline.wire.messages import Goodbye

pytestmark = pytest.mark.e2e

REALM = "lab.example"
WITHIN = 60.0
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""How a ClientHello of 512 bytes begins; the rest never comes."""
HALF_OPEN = 300
SLOW = 20


class Real:
    """An authority and a secured server that wants every client's user, in processes of their own; ann and ben."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.person = Person(home)
        self.person.says("authority", "init", REALM, "--listen", "127.0.0.1:0")
        self.authority = self._start("authority", "serve")
        self.directory = Address.parse(self._said(self.authority)["listen"][0])
        settings = msgspec.structs.replace(self.person.home.settings(), authorities=(str(self.directory),), user="ann")
        self.person.home.join(self.person.home.root(), settings)
        users = ("switchboard/a", "ann", "ben")
        for user in users:
            self.person.says("key", "new", user)
            self.person.says("key", "insert", user)
        self.person.says("key", "approve", "--yes", *users)
        (home / "policy.toml").write_text("require_user = true\n")
        self.server = self._start("switchboard")
        self.address = Address.parse(self._said(self.server)["address"])
        self._meetings = 0
        self.member = Membership.open(self.person.home, "ann")
        self.nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        """Of a client that has no certificate, and does not care who the server is."""
        self.nobody.check_hostname = False
        self.nobody.verify_mode = ssl.CERT_NONE

    def _start(self, *words: str) -> Process:
        environment = os.environ | {"TRUNKLINE_HOME": str(self.home), "PYTHONUNBUFFERED": "1"}
        argv = [sys.executable, "-m", "trunkline", *words, "--listen", "127.0.0.1:0", "--json"]
        return Process(argv, env=environment)

    def _said(self, process: Process) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(process.wait_for_line(r"^\{.*\}$", WITHIN)[0])
        return said

    async def serves(self) -> None:
        """See that two users meet, and that the directory answers."""
        self._meetings += 1
        one, other = f"a{self._meetings}", f"b{self._meetings}"
        async with (
            aio.Switchboard(self.address, home=self.home) as ann,
            aio.Switchboard(self.address, home=self.home) as ben,
        ):
            await talk(
                ann.secure_meet(one, other, peer_user="ben", timeout=WITHIN),
                ben.secure_meet(other, one, user="ben", peer_user="ann", timeout=WITHIN),
                other,
                one,
            )
        found = await asyncio.to_thread(self.member.get, "ben", timeout=WITHIN)
        assert found is not None

    def stop(self) -> None:
        self.member.close()
        for process in (self.server, self.authority):
            assert process.stop() == 0
            assert "Traceback" not in process.stderr

    def close(self) -> None:
        for process in (self.server, self.authority):
            process.close()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    made = Real(tmp_path_factory.mktemp("home"))
    try:
        made.member.ready(WITHIN)
        yield made
        made.stop()
    finally:
        made.close()


async def ended(raw: Raw) -> bytes:
    """Return all that comes until the other side closes, within the time that it gives to who is slow."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while data := await asyncio.wait_for(raw.reader.read(65536), WITHIN):
            said += data
    await raw.close()
    return said


def among(real: Real, abuse: Any) -> None:
    async def main() -> None:
        await real.serves()
        await abuse()
        await real.serves()

    run(main)


def test_garbage_in_the_place_of_tls(real: Real) -> None:
    draw = random.Random(7118)
    garbage = [
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        b"\x16\x03\x01\x40\x00" + draw.randbytes(16384),
        b"\x16\x03\x01\x00\x05hello",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x80\x2e\x01\x00\x02",
        *(draw.randbytes(draw.randrange(1, 4000)) for _ in range(30)),
        *(b"\x16\x03\x03" + draw.randbytes(draw.randrange(1, 400)) for _ in range(30)),
    ]

    async def throw(address: Address, data: bytes) -> None:
        raw = await Raw.dial(address)
        with contextlib.suppress(ConnectionError):
            raw.send_bytes(data)
            raw.writer.write_eof()
        await ended(raw)

    async def abuse() -> None:
        for address in (real.address, real.directory):
            await asyncio.gather(real.serves(), *(throw(address, data) for data in garbage))

    among(real, abuse)


def test_who_speaks_plainly_is_turned_away(real: Real) -> None:
    async def abuse() -> None:
        raw = await Raw.dial(real.address)
        raw.send_bytes(PREAMBLE)
        words = await raw.receive()
        assert isinstance(words, Goodbye)
        assert "TLS" in words.text
        await raw.close()
        raw = await Raw.dial(real.directory)
        raw.send_bytes(msg.PREAMBLE + encode(msg.AskHead(1)))
        assert msg.PREAMBLE not in await ended(raw), "nothing is answered in clear text"

    among(real, abuse)


def test_garbage_inside_tls(real: Real) -> None:
    """Who has come by the encryption is told what was wrong, as anywhere."""
    draw = random.Random(7119)

    async def abuse() -> None:
        for data, said in (
            (b"GET / HTTP/1.1\r\n\r\n", "does not speak Trunkline"),
            (PREAMBLE + (MAX_FRAME + 1).to_bytes(4, "big"), f"exceeds the limit of {MAX_FRAME} bytes"),
            (PREAMBLE + frame(b"\xc1"), "malformed message"),
        ):
            raw = await Raw.dial(real.address, real.member.tls_client())
            raw.send_bytes(data)
            words = None
            while (message := await raw.receive()) is not None:
                words = message
            assert isinstance(words, Goodbye)
            assert said in words.text
            await raw.close()
        for data, said in (
            (b"GET / HTTP/1.1\r\n\r\n", "does not speak Trunkline"),
            (msg.PREAMBLE + (msg.MAX_REQUEST + 1).to_bytes(4, "big"), f"exceeds the limit of {msg.MAX_REQUEST} bytes"),
            (msg.PREAMBLE + frame(b"\x91" * 60_000), "malformed message"),
            (msg.PREAMBLE + encode(msg.Stored(1, msg.SignedHead(b"", b""), 1)), "malformed message"),
        ):
            raw = await Raw.dial(real.directory, real.nobody)
            raw.send_bytes(data)
            inbound = answers()
            inbound.receive_data(await ended(raw))
            denied = inbound.next_message()
            assert isinstance(denied, msg.Denied)
            assert said in denied.text
        for address, start in ((real.address, PREAMBLE), (real.directory, msg.PREAMBLE)):
            for _ in range(20):
                raw = await Raw.dial(address, real.member.tls_client())
                with contextlib.suppress(ConnectionError):
                    raw.send_bytes(start + draw.randbytes(draw.randrange(1, 4000)))
                    raw.writer.write_eof() if raw.writer.can_write_eof() else raw.writer.close()
                await raw.close()

    among(real, abuse)


def test_slow_handshakes_and_a_flood_of_half_open_ones(real: Real) -> None:
    async def drip(raw: Raw) -> None:
        """Send a byte of a ClientHello, wait a while for the end, and so on until it comes."""
        end = asyncio.create_task(ended(raw))
        for at in range(512):
            with contextlib.suppress(ConnectionError):
                raw.send_bytes(HELLO[at : at + 1] or b"\0")
            done, _ = await asyncio.wait([end], timeout=0.2)
            if done:
                break
        await end

    async def abuse() -> None:
        before = {address: resident(process) for address, process in ends}
        flood = [await Raw.dial(address) for address, _ in ends for _ in range(HALF_OPEN)]
        for raw in flood:
            raw.send_bytes(HELLO)
        slow = [await Raw.dial(real.address) for _ in range(SLOW)]
        await asyncio.gather(real.serves(), *map(drip, slow))
        for address, process in ends:
            assert resident(process) - before[address] < GROWTH
        for raw in flood:
            await raw.close()

    ends = ((real.address, real.server), (real.directory, real.authority))
    among(real, abuse)


def test_a_client_without_a_certificate_where_one_is_required(real: Real) -> None:
    async def abuse() -> None:
        raw = await Raw.dial(real.address, real.nobody)
        raw.send_bytes(PREAMBLE)
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
            await raw.receive()
        await raw.close()

    among(real, abuse)
