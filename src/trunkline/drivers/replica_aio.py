"""A read replica in asyncio: runs one `Replica` machine over a store of its own (docs/spec/authority.md section 9).

It follows one authority, or another replica, over one connection; and in TLS it shows the certificate of the user who
runs it, which it gets from that authority like any other member.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from trunkline.authority.certificates import issue_bytes, parse_leaf, parse_root
from trunkline.authority.events import Accuse, Answered, Ask, DirectoryConfig, Effect, Event, Failed
from trunkline.authority.issuing import build_request
from trunkline.authority.messages import Denied, Issue, Issued
from trunkline.authority.replica import Replica
from trunkline.drivers.authority_server import MAX_CLIENTS, Server
from trunkline.drivers.clock import epoch, now
from trunkline.drivers.disk import Store
from trunkline.drivers.keys import UserKey, generate_p256, write_secret
from trunkline.drivers.tls import Credential
from trunkline.drivers.upstream_aio import Upstream
from trunkline.errors import ConfigError, MalformedMessage, NotAllowed, TrunklineError
from trunkline.names import Address

CERTIFY_AGAIN: Final = 5.0
"""Seconds between two tries to get a certificate."""

_log: Final = logging.getLogger("trunkline")


class ReplicaServer(Server):
    """A replica on the running event loop; see `trunkline.drivers.authority_aio.AuthorityServer`.

    Args:
        root: the realm's root certificate, DER.
        open_store: opens the replica's own store; called again when it has failed.
        upstream: whom it follows.
        user: whose certificate it shows; approved in the realm.
        key: that user's.
        evidence: the folder where it keeps what proves that the upstream has lied.
        credential: a certificate of an earlier run, if there is one.
        keep: told each new certificate, for a later run.
        listen: where to listen; port 0 lets the system choose.
        config: settings of the machine; what is about the root and the clock is put in here.
    """

    kind = "replica"

    def __init__(
        self,
        root: bytes,
        open_store: Callable[[], Store],
        upstream: Address,
        user: str,
        key: UserKey,
        *,
        evidence: Path,
        listen: Sequence[Address],
        credential: Credential | None = None,
        keep: Callable[[Credential], None] = lambda _: None,
        max_clients: int = MAX_CLIENTS,
        config: DirectoryConfig | None = None,
    ) -> None:
        super().__init__(root, open_store, listen=listen, max_clients=max_clients)
        base = config or DirectoryConfig(root, (), 0.0)
        self._config = msgspec.structs.replace(base, root=root, authorities=(), writer=str(upstream))
        self._fingerprint = parse_root(root).key_id
        self._upstream = Upstream(upstream, root)
        self._registrar = Upstream(upstream, root)  # of its own: a question has one answer at a time
        self._user = user
        self._key = key
        self._evidence = evidence
        self._keep = keep
        self._own = credential
        self._asking: asyncio.Task[None] | None = None
        self._certifying: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        for task in (self._asking, self._certifying):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        await super().stop()
        await self._upstream.close()
        await self._registrar.close()

    def _machine(self, store: Store) -> Replica:
        return Replica(msgspec.structs.replace(self._config, epoch=epoch()), reader=store, now=now())

    def _carry_out_more(self, effect: Effect) -> None:
        match effect:
            case Ask():
                self._asking = self._loop.create_task(self._ask(effect))
            case Accuse():
                self._keep_evidence(effect)
            case _:
                super()._carry_out_more(effect)

    async def _ask(self, ask: Ask) -> None:
        runner = self._runner
        event: Event
        try:
            event = Answered(await self._upstream.ask(ask.request))
        except TrunklineError as error:
            event = Failed(error)
        if runner is self._runner:  # a machine that was made anew since has asked nothing yet
            self._step(event)

    def _keep_evidence(self, accuse: Accuse) -> None:
        file = self._evidence / f"evidence-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.msgpack"
        _log.error("%s: %s says what can't be true: %s", self.kind, self._upstream.address, accuse.error)
        try:
            write_secret(file, msgspec.msgpack.encode(list(accuse.evidence)), replace=True)
        except ConfigError as error:
            _log.error("%s: the evidence could not be kept: %s", self.kind, error)
        else:
            _log.error("%s: the evidence is in %s; look into it before anybody goes on", self.kind, file)

    # ---- its certificate ------------------------------------------------------------------------------------

    def _credential(self) -> Credential | None:
        wall = time.time()
        own = None if self._own is None else parse_leaf(self._own.chain[0])
        due = own is None or wall >= own.not_before + (own.not_after - own.not_before) * 2 / 3
        if due and self._certifying is None:
            self._certifying = self._loop.create_task(self._certify())
        return self._own if own is not None and wall < own.not_after else None

    async def _certify(self) -> None:
        try:
            self._own = await self._issued()
        except TrunklineError as error:
            _log.warning("%s: no certificate for %r: %s", self.kind, self._user, error)
            self._later("certify", CERTIFY_AGAIN, self._certify_again)
            return
        finally:
            await self._registrar.close()
        self._keep(self._own)
        self._certify_again()

    async def _issued(self) -> Credential:
        key, wall = generate_p256(), int(time.time())
        request = build_request(key, self._user)
        signature = self._key.sign(issue_bytes(self._fingerprint, self._user, wall, request))
        answer = await self._registrar.ask(Issue(1, self._user, request, wall, signature))
        if isinstance(answer, Denied):
            raise NotAllowed(answer.text)
        if not isinstance(answer, Issued):
            raise MalformedMessage(f"asked for a certificate, it said {type(answer).__name__}")
        return Credential(answer.chain, key)

    def _certify_again(self) -> None:
        self._certifying = None
        self._renew()
