"""The kit's network: hosts reach each other, and stop doing so, as told; and nothing of it is left."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.hosts import Host, Lan
from tests.e2e.namespaces import entered
from tests.e2e.process import Process
from tests.leaks import children

pytestmark = [pytest.mark.e2e, pytest.mark.requires_root_netns]

# Answers each line with the same line, on the address and port given; prints the port.
ECHO = """
import socketserver, sys
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    address_family = {4: socketserver.socket.AF_INET, 6: socketserver.socket.AF_INET6}[int(sys.argv[2])]
server = Server((sys.argv[1], 0), Echo)
print("port", server.server_address[1])
server.serve_forever()
"""

# Connects to address and port; sends each line of its input and prints the answer.
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60) as connection:
    stream = connection.makefile("rwb")
    print("connected")
    for line in sys.stdin.buffer:
        stream.write(line)
        stream.flush()
        print("answer", stream.readline().decode().strip())
"""


def start_echo(host: Host, address: str) -> tuple[Process, int]:
    version = "6" if ":" in address else "4"
    process = host.start([sys.executable, "-c", ECHO, address, version])
    return process, int(process.wait_for_line(r"port (\d+)").group(1))


def start_ask(host: Host, address: str, port: int) -> Process:
    process = host.start([sys.executable, "-c", ASK, address, str(port)], stdin=subprocess.PIPE)
    process.wait_for_line("connected")
    return process


def tell(process: Process, word: str) -> None:
    process.stdin.write(f"{word}\n".encode())
    process.stdin.flush()


def first_heard(source: Host, target: Host, *, then: Host | None = None) -> str:
    """Send a datagram from source, another from `then`; return the name in the first that target gets."""
    senders = [source, then] if then else [source]
    with contextlib.ExitStack() as stack:
        with target.entered():
            listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            listener.bind((target.address, 0))
            listener.settimeout(10)
        for sender in senders:
            with sender.entered():
                outlet = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            outlet.sendto(sender.name.encode(), listener.getsockname())
        return listener.recv(100).decode()


def hears(source: Host, target: Host) -> bool:
    return first_heard(source, target) == source.name


def silent(source: Host, target: Host) -> bool:
    """Return whether what source sends does not arrive, where what target sends itself afterwards does."""
    return first_heard(source, target, then=target) == target.name


def test_hosts_have_own_addresses_and_the_same_port_free(lan: Lan) -> None:
    hosts = [lan.host(name) for name in ("one", "two", "three", "four")]
    assert len({host.address for host in hosts}) == len({host.address6 for host in hosts}) == 4
    assert lan.host("one") is hosts[0]
    for host in hosts:
        with host.entered(), socket.create_server(("0.0.0.0", 7117)):
            pass
        assert f"{host.address}/24" in host.run(["ip", "-brief", "address"]).stdout


@pytest.mark.parametrize("address", ["address", "address6"])
def test_programs_on_two_hosts_talk_over_tcp(lan: Lan, address: str) -> None:
    one, two = lan.host("one"), lan.host("two")
    _, port = start_echo(two, getattr(two, address))
    ask = start_ask(one, getattr(two, address), port)
    tell(ask, "hello")
    ask.wait_for_line("answer hello")


def test_sockets_of_the_test_itself(lan: Lan) -> None:
    one, two = lan.host("one"), lan.host("two")
    with two.entered():
        listener = socket.create_server((two.address, 0))
    with listener:
        with pytest.raises(OSError):
            with socket.create_connection(listener.getsockname(), timeout=0.01):
                pass
        with one.entered():
            client = socket.create_connection(listener.getsockname(), timeout=10)
        with client:
            served, peer = listener.accept()
            with served:
                assert peer == client.getsockname()
                assert peer[0] == one.address


def test_cut_is_silent_both_ways_and_leaves_others_alone(lan: Lan) -> None:
    one, two, three = (lan.host(name) for name in ("one", "two", "three"))
    _, port = start_echo(two, two.address)
    near, far = start_ask(one, two.address, port), start_ask(three, two.address, port)
    lan.cut("one", "two")
    assert silent(one, two)
    assert silent(two, one)
    assert hears(one, three)
    assert hears(three, two)
    tell(near, "across the cut")
    tell(far, "beside the cut")
    far.wait_for_line("answer beside")
    assert near.returncode is None, "no error reached it"
    lan.heal("two", "one")
    assert hears(one, two)
    near.wait_for_line("answer across the cut", deadline=30)


def test_a_host_that_comes_later_respects_the_cuts(lan: Lan) -> None:
    one, two = lan.host("one"), lan.host("two")
    lan.cut("one", "two")
    three = lan.host("three")
    assert silent(one, two)
    assert hears(one, three)
    assert hears(three, two)


def test_unplugged_host_knows_it_and_the_others_hear_nothing(lan: Lan) -> None:
    one, two, three = (lan.host(name) for name in ("one", "two", "three"))
    _, port = start_echo(two, two.address)
    ask = start_ask(one, two.address, port)
    lan.unplug("one")
    assert silent(two, one)
    with one.entered(), pytest.raises(OSError, match="Network is unreachable"):
        socket.create_connection((two.address, port))
    lan.cut("one", "three")  # what changes meanwhile holds when the link is back
    lan.plug("one")
    assert hears(two, one)
    assert silent(three, one)
    tell(ask, "back")
    ask.wait_for_line("answer back", deadline=30)


def test_frozen_server_keeps_its_connections(lan: Lan) -> None:
    one, two = lan.host("one"), lan.host("two")
    server, port = start_echo(two, two.address)
    ask = start_ask(one, two.address, port)
    server.freeze()
    tell(ask, "patience")
    with one.entered():  # the kernel of a frozen host's still accepts
        socket.create_connection((two.address, port), timeout=10).close()
    server.thaw()
    ask.wait_for_line("answer patience")


def test_killed_server_ends_its_connections(lan: Lan) -> None:
    one, two = lan.host("one"), lan.host("two")
    server, port = start_echo(two, two.address)
    ask = start_ask(one, two.address, port)
    server.kill()
    tell(ask, "anyone?")
    ask.stdin.close()
    ask.wait()
    assert "anyone?" not in ask.stdout


def test_run_returns_output_or_raises_with_it(lan: Lan) -> None:
    one = lan.host("one")
    assert one.run(["cat"], input="words").stdout == "words"
    assert one.run(["sh", "-c", "exit 3"], check=False).returncode == 3
    with pytest.raises(subprocess.CalledProcessError) as caught:
        one.run(["sh", "-c", "echo reason >&2; exit 3"])
    assert "reason" in caught.value.__notes__[0]


@pytest.mark.parametrize("error", [None, KeyError("in the test")], ids=["well", "failing"])
def test_nothing_is_left(error: Exception | None) -> None:
    before = children()
    try:
        with Lan() as lan:
            one = lan.host("one")
            kept = os.fstat(one.namespace).st_ino
            frozen, running = one.start(["sleep", "1000"]), one.start(["sleep", "1000"])
            frozen.freeze()
            assert kept in namespaces_in_use()
            if error:
                raise error
    except KeyError:
        assert error is not None
    assert kept not in namespaces_in_use()
    assert children() == before
    assert frozen.returncode == running.returncode == -signal.SIGTERM


def test_a_killed_run_leaves_nothing() -> None:
    code = """
import os, signal
from tests.e2e.hosts import Lan
with Lan() as lan:
    sleeper = lan.host("one").start(["sleep", "1000"])
    sleeper.freeze()
    print("started", sleeper.pid)
    signal.pause()
"""
    with Process([sys.executable, "-uc", code], cwd=Path(__file__).parents[2]) as run:
        sleeper = os.pidfd_open(int(run.wait_for_line(r"started (\d+)").group(1)))
        run.kill()
        poll = select.poll()
        poll.register(sleeper, select.POLLIN)
        assert poll.poll(10_000), "what a killed run had started ends with it"
        os.close(sleeper)


def test_entering_ends_with_its_block(lan: Lan) -> None:
    def here() -> int:
        return Path("/proc/thread-self/ns/net").stat().st_ino

    outside = here()
    one, two = lan.host("one"), lan.host("two")
    with one.entered():
        inside = here()
        with entered(two.namespace):
            assert here() not in (outside, inside)
        assert here() == inside
    with pytest.raises(KeyError), one.entered():
        raise KeyError
    assert here() == outside


def namespaces_in_use() -> set[int]:
    """Return the network namespaces in which some process of this machine is."""
    found = set()
    for namespace in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(namespace.stat().st_ino)
        except OSError:
            continue  # ended meanwhile
    return found
