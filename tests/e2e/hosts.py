"""Hosts on a network of their own: one network namespace each, joined by a bridge in another one.

    with Lan() as lan:
        one, two = lan.host("one"), lan.host("two")
        with one.start([sys.executable, "-m", "http.server", "-b", one.address, "8000"]) as server:
            server.wait_for_line("Serving")
            lan.cut("one", "two")

Nothing of the machine's own network is touched. It needs root and iproute2, no more.

Every host knows the others' hardware addresses for good, and no address is ever asked for on the wire. So a
cut is one changed entry: packets go to an address that nobody has, and vanish with no error to either side.
(A `blackhole` route would not do: it gives the sender EINVAL. Packet filters would be one more package.)
"""

import contextlib
import ipaddress
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from tests.e2e.namespaces import entered, new_namespace
from tests.e2e.process import Process, die_with_us
from tests.programs import find_program

# Addresses exist inside the namespaces only: every Lan can have the same ones.
NETWORK = ipaddress.IPv4Network("10.77.0.0/24")
NETWORK6 = ipaddress.IPv6Network("fd77:7472:756e::/64")
NOBODY = "02:77:00:00:00:ff"  # the hardware address of no host
RTMGRP_LINK = 1  # netlink group: news of links, which Python does not name
LINK_DEADLINE = 10.0  # seconds for a link to come up; it takes milliseconds

# Programs must not hold back what they print when a pipe takes it: tests wait for lines.
ENVIRONMENT = {"PYTHONUNBUFFERED": "1"}


class Host:
    """One host of a Lan; made by Lan.host."""

    def __init__(self, name: str, number: int, namespace: int) -> None:
        self.name = name
        self.address = str(NETWORK[number])
        self.address6 = str(NETWORK6[number])
        self.namespace = namespace
        self.plugged = True
        self._processes: list[Process] = []
        self._hardware = f"02:77:00:00:00:{number:02x}"
        self._port = f"port{number}"

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """Put the calling thread onto this host: sockets made in the block belong to it, for their life."""
        return entered(self.namespace)

    def start(
        self, argv: Sequence[str | os.PathLike[str]], *, env: dict[str, str] | None = None, **options: Any
    ) -> Process:
        """Start a program here. `env` is added to the environment; `options` are those of subprocess.Popen.

        Use the result as a context; what is still running when the Lan ends is ended then.
        """
        with self.entered():
            process = Process(argv, env=os.environ | ENVIRONMENT | (env or {}), **options)
        self._processes.append(process)
        return process

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        env: dict[str, str] | None = None,
        check: bool = True,
        deadline: float = 30.0,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program here to its end, within `deadline` seconds, and return its output as text.

        Raises CalledProcessError (unless check=False) with the output in its notes, TimeoutExpired.
        """
        options = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL} | options
        if "input" in options:
            del options["stdin"]
        environment = os.environ | ENVIRONMENT | (env or {})
        with self.entered():
            done = subprocess.run(
                argv,
                env=environment,
                timeout=deadline,
                check=False,
                preexec_fn=die_with_us,
                **options,
            )
        if check and done.returncode != 0:
            error = subprocess.CalledProcessError(done.returncode, list(argv), done.stdout, done.stderr)
            error.add_note(f"{done.stdout}\n{done.stderr}")
            raise error
        return done

    def _ip(self, commands: list[str]) -> None:
        _ip(self.namespace, commands)


class Lan:
    """A network of hosts. Leaving its context ends every program on them and removes them."""

    def __init__(self) -> None:
        self._hosts: dict[str, Host] = {}
        self._cuts: set[frozenset[str]] = set()
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.push(self._open)
            self._switch = self._namespace()
            # Without snooping the bridge passes on all multicast, as a plain switch does.
            _ip(self._switch, ["link add lan type bridge mcast_snooping 0", "link set lan up"])
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        processes = [process for host in self._hosts.values() for process in host._processes]
        for process in processes:
            process.ask_to_end()  # all at once; then wait for each
        for process in processes:
            self._open.callback(process.close)
        self._open.close()

    def host(self, name: str) -> Host:
        """Return the host of that name, made at the first call. Addresses are given in order from .1 on."""
        if name in self._hosts:
            return self._hosts[name]
        host = Host(name, len(self._hosts) + 1, self._namespace())
        path = f"/proc/{os.getpid()}/fd/{host.namespace}"
        _ip(
            self._switch,
            [
                f"link add {host._port} type veth peer name eth0 address {host._hardware} netns {path}",
                f"link set {host._port} master lan up",
            ],
        )
        host._ip(["link set lo up"])
        self._hosts[name] = host
        self._join(host)
        for other in self._hosts.values():
            if other.plugged and other is not host:
                other._ip(self._neighbours(other))
        return host

    def cut(self, one: str, two: str) -> None:
        """Drop all packets between two hosts, in both directions, with no error to either."""
        self._cuts.add(frozenset((one, two)))
        self._tell_neighbours(one, two)

    def heal(self, one: str, two: str) -> None:
        """Let packets pass between two hosts again."""
        self._cuts.discard(frozenset((one, two)))
        self._tell_neighbours(one, two)

    def unplug(self, name: str) -> None:
        """Take a host's link down: its own programs get ENETUNREACH, the others hear nothing from it."""
        host = self._hosts[name]
        host.plugged = False
        host._ip(["link set eth0 down"])

    def plug(self, name: str) -> None:
        """Bring a host's link up again, with the same addresses; return when it passes packets."""
        host = self._hosts[name]
        host.plugged = True
        self._join(host)

    def _namespace(self) -> int:
        namespace = new_namespace()
        self._open.callback(os.close, namespace)
        return namespace

    def _join(self, host: Host) -> None:
        with self._link_news() as news:
            host._ip(
                [
                    "link set eth0 up",
                    f"addr replace {host.address}/{NETWORK.prefixlen} dev eth0",
                    f"addr replace {host.address6}/{NETWORK6.prefixlen} dev eth0 nodad",
                    *self._neighbours(host),
                ]
            )
            self._wait_until_forwarding(host, news)

    def _neighbours(self, host: Host) -> list[str]:
        """Return what tells a host the hardware addresses of the others: nobody's, where the way is cut."""
        return [
            f"neigh replace {address} lladdr {hardware} dev eth0 nud permanent"
            for other in self._hosts.values()
            if other is not host
            for hardware in [NOBODY if frozenset((host.name, other.name)) in self._cuts else other._hardware]
            for address in (other.address, other.address6)
        ]

    def _tell_neighbours(self, *names: str) -> None:
        for host in [self._hosts[name] for name in names]:
            if host.plugged:  # or plug() will do it
                host._ip(self._neighbours(host))

    @contextlib.contextmanager
    def _link_news(self) -> Iterator[socket.socket]:
        with (
            entered(self._switch),
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as news,
        ):
            news.bind((0, RTMGRP_LINK))
            yield news

    def _wait_until_forwarding(self, host: Host, news: socket.socket) -> None:
        """Wait for the kernel, which brings a port up in its own time and drops packets until then."""
        limit = time.monotonic() + LINK_DEADLINE
        poll = select.poll()
        poll.register(news, select.POLLIN)
        show = [find_program("bridge") or "bridge", "-json", "link", "show", "dev", host._port]
        while True:
            with entered(self._switch):
                shown = subprocess.run(show, capture_output=True, check=True, stdin=subprocess.DEVNULL)
            if any(port.get("state") == "forwarding" for port in json.loads(shown.stdout)):
                return
            if not poll.poll(max(0.0, limit - time.monotonic()) * 1000):
                raise TimeoutError(f"the link of host {host.name} did not come up in {LINK_DEADLINE} s")
            news.recv(65536)


def _ip(namespace: int, commands: list[str]) -> None:
    """Run `ip` commands in a namespace, in one process. Raises AssertionError with what `ip` says."""
    with entered(namespace):
        done = subprocess.run(
            [find_program("ip") or "ip", "-batch", "-"],
            input="\n".join(commands) + "\n",
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise AssertionError(f"ip: {done.stderr}\n" + "\n".join(commands))
