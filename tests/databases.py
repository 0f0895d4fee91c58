"""A PostgreSQL server of the tests' own, on a unix socket only."""

import contextlib
import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.process import Process
from tests.programs import find_program

PATIENCE = 60.0
"""Seconds for it to start, and to end, on a busy machine."""


@contextlib.contextmanager
def postgresql() -> Iterator[Path]:
    """Run a server; yield the folder of its socket. Its user is ``postgres``, who needs no password."""
    options: dict[str, object] = {"cwd": "/"}
    with tempfile.TemporaryDirectory(prefix="trunkline-pg-") as place:
        folder = Path(place)
        if os.geteuid() == 0:
            # It refuses to run as root; and its user may not enter pytest's own folders.
            user = pwd.getpwnam("postgres")
            options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(folder, user.pw_uid, user.pw_gid)
        data = folder / "data"
        words = ["--pgdata", data, "--username=postgres", "--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8"]
        with Process([find_program("initdb"), *words], **options) as initdb:
            assert initdb.wait(PATIENCE) == 0, initdb.stderr
        settings = ["fsync=off", "listen_addresses=", f"unix_socket_directories={folder}"]
        words = [word for setting in settings for word in ("-c", setting)]
        with Process([find_program("postgres"), "-D", data, *words], **options) as server:
            server.wait_for_line("ready to accept connections", PATIENCE)
            yield folder
            assert server.stop(PATIENCE) == 0
