"""What `make demo` shows: Trunkline's main job, on real input, in under a minute.

Everything here runs on this machine: the servers, the programs and the traffic between them use loopback addresses
and a temporary folder, and nothing is left behind.
"""

import contextlib
import hashlib
import http.client
import http.server
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

SIZE = 200 * 1000 * 1000

HOST = """
import sys, trunkline
me, you, words = sys.argv[1:]
with trunkline.meet(me, you, timeout=20) as conn:      # a socket, connected to whoever calls meet(you, me)
    conn.sendall(words.encode())
    conn.shutdown(1)
    print(f"{me} hears: {conn.makefile().read()}", flush=True)
"""


SECURE = """
import sys, trunkline
me, you, user, words = sys.argv[1:]
with trunkline.secure_meet(me, you, peer_user=user, timeout=40) as conn:      # an ssl.SSLSocket
    conn.sendall(words.encode() + b"\\n")
    print(f"{me} hears from {conn.peer.user}: {conn.makefile().readline().strip()}", flush=True)
"""

IMPOSTOR = """
import sys, trunkline
trunkline.explain("bob", "alice", peer_user="ann")      # is connected then: the time counts from here
try:
    trunkline.secure_meet("bob", "alice", peer_user="ann", timeout=3)
except trunkline.MeetTimeout as error:
    print(error)
else:
    sys.exit("the impostor was let in")
"""

SEAL = """
import sys, pathlib, trunkline
pathlib.Path(sys.argv[1]).write_bytes(trunkline.encrypt(b"for ben alone", to="ben"))
"""

OPEN = """
import sys, pathlib, trunkline
blob = bytearray(pathlib.Path(sys.argv[1]).read_bytes())
try:
    data, sender = trunkline.decrypt(blob)
    print(f"opened: {data.decode()!r}, sealed by {sender}")
    blob[-1] ^= 1
    trunkline.decrypt(blob)
except trunkline.DecryptError as error:
    print(f"refused: {error}")
else:
    sys.exit("an altered blob was opened")
"""


def say(text: str = "") -> None:
    """Print a paragraph."""
    print(textwrap.fill(text, 96), flush=True)


def step(number: int, title: str) -> None:
    """Print a heading."""
    print(f"\n{number}. {title}\n", flush=True)


class Demo:
    """The processes of the demonstration, and the folder that they share."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.servers: list[tuple[str, subprocess.Popen[str]]] = []
        self.environment = dict(os.environ, TRUNKLINE_HOME=str(folder / "home"), PYTHONUNBUFFERED="1")
        self.environment.pop("TRUNKLINE_SWITCHBOARDS", None)

    def start(self, *argv: str, home: str = "home") -> subprocess.Popen[str]:
        """Start a program of Python's, with a folder of settings and keys; it ends with the demonstration."""
        process = subprocess.Popen(
            [sys.executable, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment | {"TRUNKLINE_HOME": str(self.folder / home)},
        )
        self.stack.callback(end, process)
        return process

    def trunkline(self, *argv: str, home: str = "home") -> subprocess.Popen[str]:
        """Start one of Trunkline's commands."""
        return self.start("-m", "trunkline", *argv, home=home)

    def server(self, *more: str) -> str:
        """Start a switchboard server on a free port, and return its address."""
        process = self.trunkline("switchboard", "--listen", "127.0.0.1:0", "--heartbeat", "0.5", "--json", *more)
        address = first_line(process)["address"]
        threading.Thread(target=drain, args=(process,), daemon=True).start()
        self.servers.append((address, process))
        return str(address)

    def kill_server(self) -> str:
        """Kill one of the servers, without a chance to say goodbye."""
        address, process = self.servers.pop(0)
        process.kill()
        process.wait()
        return address


def first_line(process: subprocess.Popen[str]) -> dict[str, str]:
    """Return the JSON that a command prints when it is ready."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        assert process.stderr is not None
        sys.exit(f"a command ended at once: {process.stderr.read()}")
    return dict(json.loads(line))


def outcome(process: subprocess.Popen[str]) -> str:
    """Return what a program prints, when it has ended well."""
    out, errors = process.communicate(timeout=60)
    if process.returncode:
        sys.exit(errors or out)
    return out.strip()


def show(text: str) -> None:
    """Print what a program said."""
    print(textwrap.indent(text, "   "), flush=True)


def drain(process: subprocess.Popen[str]) -> None:
    """Read what a long-running command logs, so that it never waits for us."""
    assert process.stderr is not None
    with contextlib.suppress(ValueError):
        for _ in process.stderr:
            pass


def end(process: subprocess.Popen[str]) -> None:
    """End a process, if it still runs."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


@contextlib.contextmanager
def website(folder: Path) -> Iterator[int]:
    """Serve a folder by HTTP on a free loopback port, as some service that knows nothing of Trunkline."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def fetch(port: int, path: str) -> bytes:
    """Fetch a page as any HTTP client would."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        client.request("GET", path)
        response = client.getresponse()
        assert response.status == 200, response.status
        return response.read()
    finally:
        client.close()


def main() -> None:
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trunkline-demo-")))
        demo = Demo(folder, stack)
        run(demo, folder, stack)
    print(f"\nDone in {time.monotonic() - begun:.0f} seconds. Everything that was started has been ended.", flush=True)


def run(demo: Demo, folder: Path, stack: contextlib.ExitStack) -> None:
    step(1, "Three switchboard servers find each other")
    first = demo.server()
    demo.server("--join", first)
    demo.server("--join", first)
    (folder / "home").mkdir(exist_ok=True)
    addresses = [address for address, _ in demo.servers]
    (folder / "home" / "switchboards").write_text("\n".join(addresses) + "\n")
    say(f"They listen at {', '.join(addresses)}. Each knows what waits at the others; any one of them is enough.")

    step(2, "Two programs meet by name, whichever comes first")
    for early, late in (("alice", "bob"), ("bob", "alice")):
        waiting = demo.start("-c", HOST, early, late, f"hello from {early}, who came first")
        answer = demo.start("-c", HOST, late, early, f"hello from {late}")
        for process in (waiting, answer):
            show(outcome(process))

    step(3, "A web server under a name, while two of the three servers are killed")
    site = folder / "site"
    site.mkdir()
    (site / "index.html").write_text("<h1>served by name</h1>\n")
    (site / "photo.bin").write_bytes(os.urandom(5_000_000))
    port = stack.enter_context(website(site))
    expose = demo.trunkline("expose", "demo/website", f"tcp:127.0.0.1:{port}", "--json")
    first_line(expose)
    reach = demo.trunkline("reach", "demo/website", "--listen", "127.0.0.1:0", "--json")
    here = int(first_line(reach)["listen"].rpartition(":")[2])
    for process in (expose, reach):
        threading.Thread(target=drain, args=(process,), daemon=True).start()
    say(f"`trunkline expose demo/website tcp:127.0.0.1:{port}` and `trunkline reach demo/website` run.")
    fetched = 0
    for killed in range(3):
        if killed:
            say(f"The server at {demo.kill_server()} is killed (SIGKILL).")
        for _ in range(20):
            assert fetch(here, "/index.html") == (site / "index.html").read_bytes()
            fetched += 1
        photo = fetch(here, "/photo.bin")
        assert hashlib.sha256(photo).digest() == hashlib.sha256((site / "photo.bin").read_bytes()).digest()
        fetched += 1
    say(f"{fetched} pages were fetched through http://127.0.0.1:{here}/ by a stock HTTP client; none failed.")

    step(4, "A file of 200 MB by name, checked by hash")
    source = folder / "big.bin"
    with source.open("wb") as file:
        for _ in range(SIZE // 1_000_000):
            file.write(os.urandom(1_000_000))
    arrived = folder / "arrived"
    arrived.mkdir()
    taking = demo.trunkline("take", "bob", "alice", "--into", str(arrived), "--json")
    since = time.monotonic()
    sending = demo.trunkline("send", str(source), "alice", "bob", "--json")
    for process in (sending, taking):
        outcome(process)
    seconds = time.monotonic() - since
    digests = []
    for path in (source, arrived / "big.bin"):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    assert digests[0] == digests[1]
    say(
        f"{SIZE // 1_000_000} MB in {seconds:.1f} s, starting both commands included. "
        f"SHA-256 on both sides: {digests[0]}"
    )

    realm(demo, folder)


def realm(demo: Demo, folder: Path) -> None:
    """Show whose process is whose."""
    step(5, "A realm: from here on everybody proves who they are")
    up = demo.trunkline("up", "--listen", "127.0.0.1:0", "--realm", "demo", "--user", "ann", "--json", home="ann")
    about = first_line(up)
    threading.Thread(target=drain, args=(up,), daemon=True).start()
    say(f"`trunkline up` made the realm {about['realm']}: an authority, a switchboard, and a first user, ann.")
    line = json.loads(outcome(demo.trunkline("invite", "--json", home="ann")))["invitation"]
    joining = [demo.trunkline("join", line, "--user", user, home=user) for user in ("ben", "eve")]
    for process in joining:
        outcome(process)
    show(outcome(demo.trunkline("key", "approve", "ben", "eve", "--yes", home="ann")))
    say("`trunkline invite` printed one line, and two others joined with it, each with a key of their own.")

    step(6, "Two users meet over TLS, and an impostor does not")
    ann = demo.start("-c", SECURE, "alice", "bob", "ben", "hello from alice, who is ann", home="ann")
    eve = demo.start("-c", IMPOSTOR, home="eve")
    say("alice waits for ben's bob. eve calls herself bob, and gives up after a while. She is told:")
    show(outcome(eve))
    ben = demo.start("-c", SECURE, "bob", "alice", "ann", "hello from bob, who is ben", home="ben")
    say("Then ben comes.")
    for process in (ann, ben):
        show(outcome(process))

    step(7, "Something sealed for one user")
    sealed = str(folder / "sealed")
    outcome(demo.start("-c", SEAL, sealed, home="ann"))
    opening = {user: demo.start("-c", OPEN, sealed, home=user) for user in ("ben", "eve")}
    say("ann sealed it. ben opens it, and then once more with one bit changed; eve tries, too.")
    for user, process in opening.items():
        show(textwrap.indent(outcome(process), f"{user}: "))


if __name__ == "__main__":
    main()
