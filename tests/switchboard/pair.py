"""A few servers and their clients' connections, joined by queues: enough to write a protocol trace as a test."""

from collections import Counter, deque
from typing import Any

from trunkline.names import Address
from trunkline.switchboard.config import ServerConfig
from trunkline.switchboard.events import Close, Dial, Halt, Log, Lost, Opened, Received, Send, Stop, Tick
from trunkline.switchboard.server import Server
from trunkline.wire.messages import Hello, Meet, Message, Post, Welcome

GREETING = {
    "Hello",
    "Welcome",
    "MateHello",
    "MateWelcome",
    "MateAlive",
    "Alive",
    "Members",
    "Posted",
    "Settled",
}


class Mesh:
    """Servers named by letters, greater letters greater ids; delivered in order, link by link, until all is quiet."""

    def __init__(self, names: str = "a", **settings: Any) -> None:
        self.now = 0.0
        self.servers: dict[str, Server] = {}
        self.wires: dict[tuple[str, int], tuple[str, int]] = {}
        self.queue: deque[tuple[str, int, Message]] = deque()
        self.inbox: dict[int, list[Message]] = {}
        self.home: dict[int, str] = {}
        self.counted: Counter[str] = Counter()
        self.halted: dict[str, Exception] = {}
        self.logs: list[str] = []
        self.held: set[tuple[str, str]] = set()
        self._conn = 0
        self.settings = settings
        for name in names:
            self.start(name, join=names[0] if name != names[0] else "")

    def start(self, name: str, join: str = "", incarnation: int = 1, port: int | None = None) -> None:
        address = Address(name, port or 7117)
        config = ServerConfig(id=name, address=address, join=tuple(Address(j, 7117) for j in join), **self.settings)
        seed = name.encode() * 16
        self.servers[name] = Server(config, seed=seed, incarnation=incarnation, epoch=1000.0, now=self.now)
        self.step(name, Tick())
        self.run()
        self.pass_time(0.001)  # those who heard of it connect

    def step(self, name: str, event: Any) -> None:
        for effect in self.servers[name].step(event, self.now):
            self.carry_out(name, effect)

    def carry_out(self, name: str, effect: Any) -> None:
        match effect:
            case Send(conn=conn, message=message):
                self.counted[type(message).__name__] += 1
                self.queue.append((name, conn, message))
            case Close(conn=conn):
                self.queue.append((name, conn, None))  # type: ignore[arg-type]
            case Dial(conn=conn, address=address):
                target = address.host
                if target not in self.servers or (name, target) in self.held:
                    self.step(name, Lost(conn, "refused"))
                    return
                self._conn -= 1
                self.wires[name, conn] = (target, self._conn)
                self.wires[target, self._conn] = (name, conn)
                self.step(target, Opened(self._conn, name))
                self.step(name, Opened(conn, target))
            case Halt(error=error):
                self.halted[name] = error
            case Log(what=what, about=about):
                self.logs.append(f"{name}: {what}: {about}")

    def run(self) -> None:
        while self.queue:
            name, conn, message = self.queue.popleft()
            if conn in self.home and self.home[conn] == name:
                if message is None:
                    del self.home[conn]
                else:
                    self.inbox[conn].append(message)
                continue
            other = self.wires.get((name, conn))
            if other is None or other[0] not in self.servers:
                continue
            if message is None:
                self.wires.pop((name, conn), None)
                self.wires.pop(other, None)
                self.step(other[0], Lost(other[1], "closed by the other side"))
            else:
                self.step(other[0], Received(other[1], message))

    def client(self, server: str, **hello: Any) -> int:
        self._conn -= 1
        conn = self._conn
        self.home[conn] = server
        self.inbox[conn] = []
        self.step(server, Opened(conn, "client"))
        self.say(conn, Hello("test", **hello))
        assert isinstance(self.inbox[conn].pop(0), Welcome)
        return conn

    def say(self, conn: int, *messages: Message) -> None:
        for message in messages:
            self.counted[type(message).__name__] += 1
            self.step(self.home[conn], Received(conn, message))
        self.run()

    def say_at_once(self, *said: tuple[int, Message]) -> None:
        """Let several clients speak before anything is delivered: a race."""
        for conn, message in said:
            self.counted[type(message).__name__] += 1
            self.step(self.home[conn], Received(conn, message))
        self.run()

    def drop(self, conn: int) -> None:
        self.step(self.home.pop(conn), Lost(conn, "gone"))
        self.run()

    def cut(self, a: str, b: str) -> None:
        """Break the link between two servers, and let no dial through."""
        self.held |= {(a, b), (b, a)}
        for (name, conn), (other, back) in list(self.wires.items()):
            if (name, other) == (a, b):
                del self.wires[name, conn], self.wires[other, back]
                self.step(a, Lost(conn, "cut"))
                self.step(b, Lost(back, "cut"))
        self.run()

    def heal(self, a: str, b: str) -> None:
        self.held -= {(a, b), (b, a)}

    def crash(self, name: str) -> None:
        del self.servers[name]
        for (at, conn), (other, back) in list(self.wires.items()):
            if at == name:
                del self.wires[at, conn]
                self.wires.pop((other, back), None)
                self.step(other, Lost(back, "connection reset"))
        for conn in [conn for conn, home in self.home.items() if home == name]:
            del self.home[conn]
        self.run()

    def stop(self, name: str) -> None:
        self.step(name, Stop())
        self.run()

    def pass_time(self, seconds: float) -> None:
        """Let time go by, deadline by deadline; clients say that they are alive."""
        from trunkline.wire.messages import Alive

        end = self.now + seconds
        while True:
            due = [(d, n) for n, s in self.servers.items() if (d := s.next_deadline()) is not None and d <= end]
            if not due:
                break
            at, name = min(due)
            self.now = max(self.now, at)
            for conn, home in list(self.home.items()):
                self.step(home, Received(conn, Alive()))
            self.step(name, Tick())
            self.run()
        self.now = end

    def take(self, conn: int, kind: type | None = None) -> Any:
        """Return the next message that a client got, of that kind if one is named."""
        box = self.inbox[conn]
        for at, message in enumerate(box):
            if kind is None or isinstance(message, kind):
                return box.pop(at)
        raise AssertionError(f"no {kind} among {box}")

    def got(self, conn: int, kind: type) -> bool:
        return any(isinstance(message, kind) for message in self.inbox[conn])

    def paper_count(self) -> int:
        """Messages as the paper counts them: without greeting, heartbeats and acknowledgements."""
        return sum(count for kind, count in self.counted.items() if kind not in GREETING)


def meet(me: str, you: str, *, rid: bytes | None = None, n: int = 1, **more: Any) -> Meet:
    return Meet(rid or f"{me}>{you}".encode().ljust(16, b".")[:16], n, me, you, me.encode(), **more)


def post(name: str, *, rid: bytes | None = None, n: int = 1, **more: Any) -> Post:
    return Post(rid or f"post {name}".encode().ljust(16, b".")[:16], n, name, name.encode(), **more)
