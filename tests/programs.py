"""The programs of others that the tests use: where they are, and which Debian package brings them."""

import os
import shutil
from pathlib import Path

PACKAGES = {
    "bridge": "iproute2",
    "initdb": "postgresql",
    "ip": "iproute2",
    "nginx": "nginx-light",
    "pgbench": "postgresql",
    "postgres": "postgresql",
    "psql": "postgresql",
    "socat": "socat",
    "wrk": "wrk",
}


def find_program(name: str) -> str | None:
    """Return a program's path, or None. Debian keeps some where a user's PATH does not lead."""
    beside = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    places = [os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", *map(str, beside)]
    return shutil.which(name, path=os.pathsep.join(places))


def lacks(name: str) -> str | None:
    """Return what to say if a program is missing, None if it is there."""
    if find_program(name):
        return None
    package = PACKAGES.get(name)
    install = f"apt-get install {package}" if package else f"install what brings {name}"
    return f"no program {name}: {install}"
