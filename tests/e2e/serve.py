"""A switchboard server to be started by the tests: ``serve.py [--listen H:P] [--join H:P]... [--id ID]``."""

import argparse
import asyncio
import logging
import sys

from trunkline.drivers.server_aio import SwitchboardServer
from trunkline.errors import TrunklineError
from trunkline.names import Address
from trunkline.switchboard.config import ServerConfig


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", type=Address.parse, default=Address("127.0.0.1", 0))
    parser.add_argument("--join", type=Address.parse, action="append", default=[])
    parser.add_argument("--id", default="")
    parser.add_argument("--heartbeat", type=float, default=2.0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = ServerConfig(id=given.id, address=given.listen, join=tuple(given.join), heartbeat=given.heartbeat)
    try:
        asyncio.run(SwitchboardServer(config).serve_forever())
    except TrunklineError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
