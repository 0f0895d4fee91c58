"""A realm built in memory, for tests: root, authority, users, certificates, signed heads; and homes on disk.

    realm = Realm("lab.example")
    ann, ben = realm.membership("ann"), realm.membership("ben")

No server is needed for that. With one, in a thread of the test's process:

    with LiveAuthority(realm, tmp_path) as live:
        realm.approve(live, "ann")
        home = realm.home(tmp_path / "ann", "ann", live.address)
        with Membership.open(home) as ann: ...

Dates are about the present (`Realm.wall`), since libssl reads the system's clock.
"""

import asyncio
import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

from trunkline.authority import requests
from trunkline.authority.certificates import fingerprint_text
from trunkline.authority.codec import encode
from trunkline.authority.codec import requests as inbound_requests
from trunkline.authority.events import DirectoryConfig
from trunkline.authority.freshness import TrustSettings
from trunkline.authority.heads import revoked_digest, sign_head
from trunkline.authority.issuing import DAY, LEAF_LIFETIME, Issuer, build_intermediate, build_request, build_root
from trunkline.authority.merkle import EMPTY_ROOT
from trunkline.authority.messages import PREAMBLE, Answer, Head, HeadIs, Request, SignedHead
from trunkline.authority.trust import Trust
from trunkline.drivers.authority_aio import AuthorityServer
from trunkline.drivers.authority_home import Authority, Settings
from trunkline.drivers.directory_client import DirectoryClient
from trunkline.drivers.disk import open_store
from trunkline.drivers.keys import UserKey, generate_p256
from trunkline.drivers.membership import Membership
from trunkline.drivers.realm_home import RealmHome, RealmSettings
from trunkline.drivers.tls import Credential, server_context
from trunkline.names import Address

_numbers = itertools.count(1)


def new_serial() -> bytes:
    """Return a serial that no other certificate of this run has."""
    return next(_numbers).to_bytes(16, "big")


class Realm:
    """One realm. Whatever its authority could sign, this signs, true or not."""

    def __init__(self, name: str = "lab.example") -> None:
        self.name = name
        self.root_key = generate_p256()
        self.wall = int(time.time())
        self.root = build_root(name, self.root_key, new_serial(), self.wall - 10 * DAY, self.wall + 365 * DAY)
        self.issuer = self.new_issuer()
        self.keys: dict[str, UserKey] = {}
        self.revoked: list[bytes] = []

    def new_issuer(self, not_before: int | None = None, not_after: int | None = None) -> Issuer:
        """Certify one more key of the authority."""
        key = generate_p256()
        begin = self.wall - 10 * DAY if not_before is None else not_before
        end = self.wall + 30 * DAY if not_after is None else not_after
        certificate = build_intermediate(self.root, self.root_key, key.public_key(), new_serial(), begin, end)
        return Issuer(self.root, certificate, key)

    def key(self, user: str) -> UserKey:
        """Return the user's key, made at first use."""
        if user not in self.keys:
            self.keys[user] = UserKey.generate()
        return self.keys[user]

    def credential(
        self,
        user: str,
        *,
        not_before: int | None = None,
        not_after: int | None = None,
        issuer: Issuer | None = None,
        serial: bytes | None = None,
    ) -> Credential:
        """Issue a certificate for ``user``, approved or not."""
        secret = generate_p256()
        chain = (issuer or self.issuer).issue(
            user,
            self.key(user).public.signing,
            build_request(secret, user),
            serial or new_serial(),
            self.wall - 300 if not_before is None else not_before,
            self.wall + LEAF_LIFETIME if not_after is None else not_after,
        )
        return Credential(chain, secret)

    def signed_head(
        self,
        *,
        size: int = 0,
        log: bytes | None = None,
        map_root: bytes = bytes(32),
        time: int | None = None,
        revoked: Iterable[bytes] | None = None,
        issuer: Issuer | None = None,
    ) -> SignedHead:
        """Sign a head; what it says need not be so."""
        by = issuer or self.issuer
        head = Head(
            by.fingerprint,
            size,
            EMPTY_ROOT if log is None else log,
            map_root,
            self.wall if time is None else time,
            revoked_digest(self.revoked if revoked is None else revoked),
            by.key_id,
        )
        return sign_head(head, by)

    def head_is(self, head: SignedHead | None = None, consistency: tuple[bytes, ...] = ()) -> HeadIs:
        """Return the authority's answer about a head."""
        return HeadIs(
            1,
            head or self.signed_head(),
            consistency,
            tuple(sorted(self.revoked)),
            (self.issuer.authority.certificate,),
        )

    def trust(self, settings: TrustSettings | None = None, *, head: SignedHead | None = None) -> Trust:
        """Return what a client believes that has just asked for the head."""
        trust = Trust(self.name, self.root, settings)
        trust.update_head(self.head_is(head), self.wall)
        return trust

    def membership(
        self, user: str | None, *, settings: TrustSettings | None = None, credential: Credential | None = None
    ) -> Membership:
        """Return a membership that has its certificate and its head, and asks nobody."""
        if user is None:
            return Membership(self.trust(settings))
        return Membership(self.trust(settings), user, self.key(user), credential=credential or self.credential(user))

    def home(self, path: Path, user: str = "", *authorities: str, key: bool = True, **settings: object) -> RealmHome:
        """Write the home of a member, with the user's key; who is `Membership.open` is up to the test."""
        home = RealmHome(path, {})
        told = RealmSettings(self.name, fingerprint_text(self.issuer.fingerprint), authorities, user, **settings)
        home.join(self.root, told)
        if user and key:
            home.save_key(user, self.key(user))
        return home

    def directory(self, *addresses: str, trust: Trust | None = None) -> DirectoryClient:
        """Return a client of the directory that has seen nothing yet."""
        where = [Address.parse(address) for address in addresses]
        return DirectoryClient(trust or Trust(self.name, self.root), where, time.time)

    @property
    def administrator(self) -> requests.Sign:
        """What signs with the root's key."""
        return requests.root_signer(self.root_key)

    def approve(self, live: "LiveAuthority", *users: str) -> None:
        """Insert and approve users, each with its `key`."""
        directory = self.directory(live.address)
        for user in users:
            directory.insert_key(user, self.key(user))
            directory.approve_key(directory.existing(user), self.administrator)


class LiveAuthority:
    """An authority on a free port of 127.0.0.1, on a loop in a thread; its store is a file, so that it can start anew.

    Args:
        folder: where the store is made.
        port: 0 lets the system choose at the first start.
        settings: of `DirectoryConfig`.
    """

    def __init__(self, realm: Realm, folder: Path, **settings: object) -> None:
        self.realm = realm
        self.issuer = realm.issuer
        self.authorities = (realm.issuer.authority.certificate,)
        self._file = folder / "directory.sqlite"
        self._settings = settings
        self._port = 0
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Return once it listens."""
        started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(started,), name="live-authority")
        self._thread.start()
        started.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def stop(self) -> None:
        """Return once it is gone."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()
            self._thread = None

    @property
    def address(self) -> str:
        """Where clients find it."""
        return f"127.0.0.1:{self._port}"

    def _run(self, started: threading.Event) -> None:
        try:
            asyncio.run(self._main(started))
        except BaseException as error:
            self._failure = error
            started.set()

    async def _main(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        authority = Authority("main", self.issuer, self.authorities, Settings())
        config = DirectoryConfig(self.realm.root, self.authorities, 0.0, **self._settings)
        where, fingerprint = self._file, self.issuer.fingerprint
        server = AuthorityServer(
            authority,
            lambda: open_store(where, fingerprint, create=True),
            listen=[Address("127.0.0.1", self._port)],
            config=config,
        )
        async with server:
            self._port = server.address.port
            started.set()
            await self._end.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class ScriptedAuthority:
    """An authority or replica that answers what the test says, over real TLS; one connection after the other.

    Args:
        credential: what it shows: that of ``authority/…``, of a user who runs a replica, or of an impostor.
        script: returns what is answered: a message, bytes as they are, or None to say nothing and hang up.
    """

    def __init__(
        self, realm: Realm, credential: Credential, script: Callable[[Request], Answer | bytes | None]
    ) -> None:
        self._context = server_context(realm.root, credential, required=False)
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: list[Request] = []
        self._thread = threading.Thread(target=self._serve, name="scripted-authority")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            plain.settimeout(30)
            with plain, contextlib.suppress(OSError), self._context.wrap_socket(plain, server_side=True) as sock:
                self._talk(sock)

    def _talk(self, sock: socket.socket) -> None:
        inbound = inbound_requests()
        sock.sendall(PREAMBLE)
        while data := sock.recv(65536):
            inbound.receive_data(data)
            while (request := inbound.next_message()) is not None:
                self.asked.append(request)
                said = self._script(request)
                if said is None:
                    return
                sock.sendall(said if isinstance(said, bytes) else encode(said))
