"""The authority in asyncio: runs one `Directory` machine over a store (docs/spec/authority.md section 10)."""

import secrets
import time
from collections.abc import Callable, Sequence

import msgspec

from trunkline.authority.directory import Directory
from trunkline.authority.events import DirectoryConfig
from trunkline.authority.issuing import BACKDATED, LEAF_LIFETIME
from trunkline.drivers.authority_home import Authority, new_serial
from trunkline.drivers.authority_server import MAX_CLIENTS, Server
from trunkline.drivers.clock import epoch, now
from trunkline.drivers.disk import Store
from trunkline.drivers.keys import generate_p256
from trunkline.drivers.tls import Credential
from trunkline.names import Address


class AuthorityServer(Server):
    """The authority of a realm on the running event loop.

    ``async with AuthorityServer(authority, open_store, listen=…) as server`` serves until the block is left;
    `serve_forever` serves until the process is told to stop.

    Args:
        authority: its key and certificates (`AuthorityHome.load`).
        open_store: opens the store; called again when it has failed.
        listen: where to listen; port 0 lets the system choose.
        config: settings of the machine; what is about keys, certificates and the clock is put in here.
    """

    kind = "authority"

    def __init__(
        self,
        authority: Authority,
        open_store: Callable[[], Store],
        *,
        listen: Sequence[Address],
        max_clients: int = MAX_CLIENTS,
        config: DirectoryConfig | None = None,
    ) -> None:
        super().__init__(authority.root, open_store, listen=listen, max_clients=max_clients)
        self.authority = authority
        base = config or DirectoryConfig(authority.root, authority.authorities, 0.0)
        self._config = msgspec.structs.replace(base, root=authority.root, authorities=authority.authorities)
        self._own: Credential | None = None
        self._renew_at = 0.0

    def _machine(self, store: Store) -> Directory:
        return Directory(
            msgspec.structs.replace(self._config, epoch=epoch()),
            reader=store,
            issuer=self.authority.issuer,
            seed=secrets.token_bytes(32),
            now=now(),
        )

    def _credential(self) -> Credential:
        # Its own certificate it makes itself, in memory only, and in time.
        if self._own is None or time.time() >= self._renew_at:
            key = generate_p256()
            wall = int(time.time())
            chain = self.authority.issuer.certify(
                f"authority/{self.authority.name}",
                self.authority.issuer.key_id,  # it has no identity but that
                key.public_key(),
                new_serial(),
                wall - BACKDATED,
                wall + LEAF_LIFETIME,
            )
            self._own = Credential(chain, key)
            self._renew_at = wall + LEAF_LIFETIME * 2 / 3
        return self._own
