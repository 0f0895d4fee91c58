"""Kills an authority at every point of its work, and looks what it remembers. Run by test_authority_aio.py.

A child process serves; it kills itself (SIGKILL) when it comes to the point whose turn it is: before each request is
looked at, before each save, before and after each commit and each answer. Then the authority is
started anew from what is on disk. Everything that was answered must be there; what was not is asked again, and must be
answered as if nothing had happened. So it goes on, point by point, until a whole script runs through without dying.

    python -m tests.drivers.mortal FOLDER
"""

import asyncio
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.realmkit import Realm
from trunkline.authority import requests
from trunkline.authority.certificates import parse_leaf
from trunkline.authority.codec import decode_answer, encode, frame_size
from trunkline.authority.issuing import build_request
from trunkline.authority.messages import (
    PREAMBLE,
    Answer,
    AskHead,
    Found,
    Get,
    HeadIs,
    Issue,
    Issued,
    Request,
    Stored,
    Submit,
)
from trunkline.authority.rules import read_statement
from trunkline.authority.statements import APPROVED, DELETED, Record
from trunkline.authority.trust import Trust
from trunkline.drivers.authority_aio import AuthorityServer
from trunkline.drivers.authority_home import Authority, Settings
from trunkline.drivers.disk import Store, open_store
from trunkline.drivers.keys import UserKey, generate_p256
from trunkline.drivers.tls import client_context
from trunkline.names import Address

NEVER = 1 << 30


class Points:
    """Counts the points that are come to, and dies at one of them."""

    left = NEVER

    @classmethod
    def come_to(cls, what: str) -> None:
        if cls.left == 0:
            os.write(2, f"dies {what}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        cls.left -= 1


class MortalStore(Store):
    def apply(self, batch: Any) -> None:
        Points.come_to("before the save")
        super().apply(batch)

    def _commit(self) -> None:
        Points.come_to("before the commit")
        super()._commit()
        Points.come_to("after the commit")


class MortalServer(AuthorityServer):
    mortal = False

    def _work(self) -> None:
        self.mortal = any(isinstance(request, Submit | Issue) for _, request in self._waiting)
        if self.mortal:
            Points.come_to("before a request is looked at")
        super()._work()

    def _settle(self) -> None:
        if self.mortal:
            Points.come_to("before the answer goes out")
        super()._settle()
        if self.mortal:
            Points.come_to("after the answer went out")
        self.mortal = False


def serve(realm: Realm, file: Path, listener: int, dies_at: int) -> None:
    """The child: tell the port, then serve until it is killed."""

    def store() -> Store:
        opened = open_store(file, realm.issuer.fingerprint, create=True)
        opened.__class__ = MortalStore
        return opened

    async def main() -> None:
        authority = Authority("main", realm.issuer, (realm.issuer.authority.certificate,), Settings())
        async with MortalServer(authority, store, listen=[Address("127.0.0.1", 0)]) as server:
            Points.left = dies_at
            os.write(listener, str(server.address.port).encode())
            os.close(listener)
            await asyncio.Event().wait()

    asyncio.run(main())


class Child:
    """An authority in a process of its own."""

    def __init__(self, realm: Realm, file: Path, dies_at: int = NEVER) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(reader)
            try:
                serve(realm, file, writer, dies_at)
            finally:
                os._exit(1)
        os.close(writer)
        with os.fdopen(reader, "rb") as told:
            port = int(told.read())
        raw = socket.create_connection(("127.0.0.1", port), timeout=30)
        try:
            self.sock: Any = client_context(realm.root, None).wrap_socket(raw)
            self.sock.sendall(PREAMBLE)
        except OSError:
            raw.close()
            self.sock = None  # it died before it could say a word
        self.begun = False

    def ask(self, request: Request) -> Answer | None:
        """Ask; None if it dies before it has answered."""
        if self.sock is None:
            return None
        try:
            if not self.begun:
                self._exactly(len(PREAMBLE))
                self.begun = True
            self.sock.sendall(encode(request))
            return decode_answer(self._exactly(frame_size(self._exactly(4))))
        except OSError:
            return None

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            if not more:
                raise ConnectionResetError
            data += more
        return data

    def end(self) -> None:
        """Kill it, if it hasn't done so itself."""
        if self.sock is not None:
            self.sock.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def script(realm: Realm, known: dict[str, Record]) -> Iterator[Request]:
    """Yield the requests; ``known`` has each user's record as it was answered last."""
    ann, new, ben, leaf = realm.key("ann"), UserKey.generate(), realm.key("ben"), generate_p256()
    of, root = realm.issuer.fingerprint, realm.administrator
    yield Submit(1, requests.insert(of, "ann", ann.public, ann.sign))
    yield Submit(1, requests.approve(of, known["ann"], root))
    yield requests.issue(of, "ann", int(time.time()), build_request(leaf, "ann"), ann.sign)
    yield Submit(1, requests.change(of, known["ann"], new.public, ann.sign, new.sign))
    yield Submit(1, requests.insert(of, "ben", ben.public, ben.sign))
    yield Submit(1, requests.delete(of, known["ben"], ben.sign))


class Survivor:
    """A client of an authority that dies once and is started anew."""

    def __init__(self, realm: Realm, file: Path, dies_at: int) -> None:
        self.realm = realm
        self.file = file
        self.died = False
        self.trust = Trust(realm.name, realm.root)
        self.trust.learn((realm.issuer.authority.certificate,))
        self.known: dict[str, Record] = {}
        self.child = Child(realm, file, dies_at)

    def ask(self, request: Request) -> Answer:
        """Ask, and ask again if it has died."""
        answer = self.child.ask(request)
        if answer is None:
            assert not self.died, "it dies once"
            self.died = True
            self.child.end()
            self.child = Child(self.realm, self.file)
            for name, record in self.known.items():
                now = self.look_up(name)
                assert now is not None
                assert now.index >= record.index, f"statement {record.index} about {name} is lost"
            answer = self.child.ask(request)
        assert answer is not None
        return answer

    def look_up(self, name: str) -> Record | None:
        """Return a record; proven, and by a head that goes on from all that were seen before."""
        found = self.child.ask(Get(1, name, self.trust.size))
        if found is None:  # it died after it had answered
            self.ask(AskHead(1))
            found = self.child.ask(Get(1, name, self.trust.size))
        assert isinstance(found, Found)
        return self.trust.check_found(found, name, time.time())


def run_through(realm: Realm, file: Path, dies_at: int) -> bool:
    """Run the script against an authority that dies at one point; say whether it did."""
    client = Survivor(realm, file, dies_at)
    issued: set[bytes] = set()
    try:
        for request in script(realm, client.known):
            answer = client.ask(request)
            if isinstance(request, Issue):
                assert isinstance(answer, Issued), answer
                issued.add(parse_leaf(answer.chain[0]).serial)
                continue
            assert isinstance(request, Submit)
            assert isinstance(answer, Stored), answer
            name = read_statement(request.statement).user
            record = client.look_up(name)
            assert record is not None
            assert record.index == answer.index, "what was acknowledged is there, and nothing after it"
            client.known[name] = record
        assert {name: record.state for name, record in client.known.items()} == {"ann": APPROVED, "ben": DELETED}
        client.ask(AskHead(1))  # it may have died after its last answer
        head = client.ask(AskHead(1, client.trust.size))
        assert isinstance(head, HeadIs)
        client.trust.update_head(head, time.time())
        assert issued <= set(head.revoked), "a certificate that was handed out can be revoked"
    finally:
        client.child.end()
    return client.died


def main() -> None:
    folder = Path(sys.argv[1])
    realm, dies_at = Realm(), 0
    while run_through(realm, folder / str(dies_at) / "directory.sqlite", dies_at):
        shutil.rmtree(folder / str(dies_at))
        dies_at += 1
    print(f"died at {dies_at} points, and lost nothing")


if __name__ == "__main__":
    main()
