"""A realm on the hosts of a Lan: its authority, a replica, two secured servers, and members who came by invitation."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.cli.authoritykit import Person
from tests.e2e.hosts import Host, Lan
from tests.e2e.mesh import HEARTBEAT, PATIENCE, PORT, TRUNKLINE, Workers
from tests.e2e.process import Process
from trunkline.drivers.authority_home import DEFAULT_PORT, AuthorityHome, new_serial
from trunkline.drivers.home import Home
from trunkline.drivers.keys import generate_p256
from trunkline.drivers.tls import Credential
from trunkline.names import Address

AUTHORITY = Path(__file__).with_name("shortlived.py")
REALM = "lab.example"
STALE = 3  # seconds after which a head is too old, so that a newer one is had each second

POLICY = """
require_user = true
[[allow]]
users = ["cleo", "dan", "lap", "eve"]
meet = ["cleo", "dan"]
[[allow]]
users = ["cleo"]
post = ["cleo"]
[[allow]]
users = ["dan"]
post = ["dan"]
"""


class E2eRealm:
    """Host ``one``: the authority and a server; ``two``: a replica and a server. Everything ends with the Lan."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self.lan = lan
        self.folder = folder
        self.hosts = {name: lan.host(name) for name in ("one", "two")}
        self.servers: dict[str, Process] = {}
        self.admin = Person(folder / "one")

    def address(self, name: str, port: int = PORT) -> str:
        return f"{self.hosts[name].address}:{port}"

    def says(self, host: str, person: Person, *words: object) -> str:
        """Run a command on a host, in this process."""
        with self.lan.host(host).entered():
            return person.says(*words)

    # ---- the servers -------------------------------------------------------------------------------------------

    def make(self) -> None:
        """Make the realm, and start its servers."""
        self.says("one", self.admin, "authority", "init", REALM, "--listen", self.address("one", DEFAULT_PORT))
        self.start_authority()
        Home(self.admin.home.path).remember([Address.parse(self.address(name)) for name in self.hosts])
        self._settle(self.admin, [self.address(name, DEFAULT_PORT) for name in self.hosts])
        services = {"one": ["switchboard/one"], "two": ["switchboard/two", "ops/replica"]}
        for user in services["one"]:
            self.says("one", self.admin, "key", "new", user)
            self.says("one", self.admin, "key", "insert", user)
        self.join("two", *services["two"])
        self.says("one", self.admin, "key", "approve", "--yes", *services["one"], *services["two"])
        self.start_replica()
        for name in self.hosts:
            (self.folder / name / "policy.toml").write_text(POLICY)
        self.start_switchboards()

    def start_authority(self) -> None:
        listen = self.address("one", DEFAULT_PORT)
        self.servers["authority"] = self.hosts["one"].start([sys.executable, AUTHORITY, self.folder / "one", listen])
        self.servers["authority"].wait_for_line("^authority listens on", PATIENCE)

    def start_replica(self) -> None:
        where = ["--listen", self.address("two", DEFAULT_PORT), "--replica-of", self.address("one", DEFAULT_PORT)]
        self.servers["replica"] = self._command("two", "authority", "serve", *where, "--user", "ops/replica")
        self.servers["replica"].wait_for_line("^replica listens on", PATIENCE)

    def start_switchboards(self, *names: str) -> None:
        for name in names or self.hosts:
            join = [word for other in self.hosts if other != name for word in ("--join", self.address(other))]
            self.servers[name] = self._command(
                name, "switchboard", "--listen", self.address(name), *join, "--heartbeat", str(HEARTBEAT)
            )
        for name in names or self.hosts:
            self.servers[name].wait_for_line("^switchboard listens on .* secured by", PATIENCE)

    def _command(self, name: str, *words: str) -> Process:
        home = {"TRUNKLINE_HOME": str(self.folder / name)}
        return self.hosts[name].start([*TRUNKLINE, *words], env=home)

    # ---- members -----------------------------------------------------------------------------------------------

    def join(self, name: str, *users: str) -> Person:
        """Join, on a host, by the line that `invite` prints, as each of these users, the last one first."""
        line = self.says("one", self.admin, "invite").split()[-1]
        person = Person(self.folder / name)
        for user in reversed(users):
            self.says(name, person, "join", line, "--user", user)
        self._settle(person, [self.address(at, DEFAULT_PORT) for at in self.hosts])
        return person

    def _settle(self, person: Person, authorities: Sequence[str], stale: int = STALE) -> None:
        settings = msgspec.structs.replace(
            person.home.settings(), authorities=tuple(authorities), max_staleness=stale, grace=60
        )
        person.home.join(person.home.root(), settings)

    def make_deaf(self, person: Person) -> None:
        """Have a member ask nobody for news any more, and be content with that."""
        self._settle(person, (), stale=10**6)

    def certify(self, person: Person, user: str, seconds: float) -> int:
        """Put a certificate into a home that ends so many seconds from now; return when."""
        issuer, key, wall = AuthorityHome(self.admin.home.path).load().issuer, generate_p256(), int(time.time())
        public, ends = person.home.load_key(user).public.signing, int(wall + seconds)
        chain = issuer.certify(user, public, key.public_key(), new_serial(), wall - 1, ends)
        person.home.keep_credential(user, Credential(chain, key))
        return ends

    def worker(self, workers: Workers, name: str, kind: str, host: Host | None = None) -> None:
        """Start a worker who is the user of the home ``name``."""
        environment = {"TRUNKLINE_HOME": str(self.folder / name)}
        workers.start(name, host or self.lan.host(name), environment, kind)

    def stop(self) -> None:
        """End the servers in good order; see that none of them had a fault of its own."""
        for server in self.servers.values():
            server.ask_to_end()
        for name, server in self.servers.items():
            assert server.wait(PATIENCE) == 0, f"{name}:\n{server.stderr}"
            assert "Traceback" not in server.stderr, f"{name}:\n{server.stderr}"
