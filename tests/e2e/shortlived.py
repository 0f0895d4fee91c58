"""An authority whose certificates are renewed every few seconds and whose heads are always new, for tests.

    python shortlived.py HOME HOST:PORT

It serves the realm in HOME as ``trunkline authority serve`` does. A certificate is due for renewal when two thirds of
its life are over, and begins in the past here: so it is renewed after RENEWED seconds, and still good for a minute and
more if the authority is gone by then.
"""

import asyncio
import logging
import sys
from pathlib import Path

from trunkline.authority.events import DirectoryConfig
from trunkline.drivers.authority_aio import AuthorityServer
from trunkline.drivers.authority_home import AuthorityHome
from trunkline.drivers.disk import open_store
from trunkline.names import Address

LIFETIME = 120
RENEWED = 3
BACKDATED = 2 * LIFETIME - 3 * RENEWED


async def main(path: str, listen: str) -> None:
    home = AuthorityHome(Path(path))
    authority = home.load()
    config = DirectoryConfig(
        authority.root, authority.authorities, 0.0, head_refresh=1.0, lifetime=LIFETIME, backdated=BACKDATED
    )
    fingerprint = authority.issuer.fingerprint
    async with AuthorityServer(
        authority, lambda: open_store(home.store, fingerprint), listen=[Address.parse(listen)], config=config
    ) as server:
        print(f"authority listens on {server.address}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(*sys.argv[1:]))
