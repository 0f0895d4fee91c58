"""A program that meets on demand, for tests: a job a line on stdin, a result a line on stdout, both JSON.

    python worker.py aio|blocking

Jobs run at the same time. Each meeting tells the other side one line, its nonce, and is told one. At the end of
stdin the program closes its switchboard, whatever is under way, and ends.

    {"id": 1, "do": "meet", "me": "a", "you": "b", "nonce": "x", "timeout": 30}
        {"id": 1, "peer": "b", "theirs": "y"}, or {"id": 1, "error": "MeetTimeout: …"}
    {"id": 2, "do": "post", "name": "p", "nonce": "z"}, and "unique": true, or "secret": "…" of an earlier one
        {"id": 2, "stands": 0, "secret": ""}, then for each client {"id": 2, "peer": "c", "theirs": "u", "mine": "z/1"}
    {"id": 3, "do": "status", "server": "host:port"}
        {"id": 3, "status": {"meets": 0, …}}
    {"id": 4, "do": "expires"}: when the certificate of the home's user ends
        {"id": 4, "expires": 1700000000}

With "peer_user" a meeting is secure, with "allow" a post; "user" in what is said of it is whose certificate the other
has shown, "certificate" tells certificates apart.
"""

import asyncio
import hashlib
import itertools
import json
import os
import sys
import threading
from typing import Any

import msgspec

import trunkline.aio
from trunkline.connect import Switchboard
from trunkline.names import Peer

Job = dict[str, Any]


def tell(job: Job, **result: object) -> None:
    # One write of less than PIPE_BUF bytes: workers may share a pipe, and lines don't mix.
    os.write(1, msgspec.json.encode({"id": job["id"]} | result) + b"\n")


def shown(peer: Peer) -> dict[str, str]:
    if peer.user is None:
        return {"peer": peer.name}
    certificate = hashlib.sha256(peer.certificate or b"").hexdigest()[:16]
    return {"peer": peer.name, "user": peer.user, "certificate": certificate}


def failed(job: Job, error: Exception) -> None:
    tell(job, error=f"{type(error).__name__}: {error}"[:3000])


class Aio:
    """Everything on one loop, by `trunkline.aio`."""

    def __init__(self) -> None:
        self.switchboard = trunkline.aio.Switchboard()

    def run(self) -> None:
        asyncio.run(self.main())

    async def main(self) -> None:
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        tasks = set()
        async with self.switchboard:
            tell({"id": 0}, ready=True)
            async for line in lines:
                job = json.loads(line)
                task = asyncio.create_task(self.do(job))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def do(self, job: Job) -> None:
        try:
            await getattr(self, job["do"])(job)
        except ExceptionGroup as group:
            failed(job, group.exceptions[0])
        except Exception as error:
            failed(job, error)

    async def meet(self, job: Job) -> None:
        who = {"peer_user": job["peer_user"]} if "peer_user" in job else {}
        call = self.switchboard.secure_meet if who else self.switchboard.meet
        reader, writer, peer = await call(job["me"], job["you"], timeout=job["timeout"], **who)
        tell(job, **shown(peer), theirs=await exchange(reader, writer, job["nonce"]))

    async def post(self, job: Job) -> None:
        secret = bytes.fromhex(job["secret"]) if "secret" in job else None
        count = itertools.count(1)
        whom = {"allow": job["allow"]} if "allow" in job else {}
        offer = self.switchboard.secure_post if whom else self.switchboard.post
        async with (
            offer(job["name"], unique=job.get("unique", False), secret=secret, **whom) as post,
            asyncio.TaskGroup() as clients,
        ):
            tell(job, stands=post.generation, secret=post.secret.reveal().hex() if post.secret else "")
            while True:
                reader, writer, peer = await post.accept()
                mine = f"{job['nonce']}/{next(count)}"
                clients.create_task(self.serve(job, reader, writer, peer, mine))

    async def serve(
        self, job: Job, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer, mine: str
    ) -> None:
        tell(job, **shown(peer), mine=mine, theirs=await exchange(reader, writer, mine))

    async def status(self, job: Job) -> None:
        async with trunkline.aio.Switchboard(job["server"]) as there:
            tell(job, status=msgspec.structs.asdict(await there.status()))


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mine: str) -> str:
    writer.write(f"{mine}\n".encode())
    theirs = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return theirs.decode().strip()


class Blocking:
    """A thread for each job, by `trunkline.connect`."""

    def __init__(self) -> None:
        self.switchboard = Switchboard()

    def run(self) -> None:
        tell({"id": 0}, ready=True)
        threads = []
        for line in sys.stdin:
            thread = threading.Thread(target=self.do, args=(json.loads(line),))
            thread.start()
            threads.append(thread)
        self.switchboard.close()
        for thread in threads:
            thread.join()

    def do(self, job: Job) -> None:
        try:
            getattr(self, job["do"])(job)
        except Exception as error:
            failed(job, error)

    def meet(self, job: Job) -> None:
        who = {"peer_user": job["peer_user"]} if "peer_user" in job else {}
        call = self.switchboard.secure_meet if who else self.switchboard.meet
        with call(job["me"], job["you"], timeout=job["timeout"], **who) as conn:
            tell(job, **shown(conn.peer), theirs=self.exchange(conn, job["nonce"]))

    def post(self, job: Job) -> None:
        secret = bytes.fromhex(job["secret"]) if "secret" in job else None
        whom = {"allow": job["allow"]} if "allow" in job else {}
        offer = self.switchboard.secure_post if whom else self.switchboard.post
        with offer(job["name"], unique=job.get("unique", False), secret=secret, **whom) as post:
            tell(job, stands=post.generation, secret=post.secret.reveal().hex() if post.secret else "")
            for number, conn in enumerate(post, 1):
                threading.Thread(target=self.serve, args=(job, conn, f"{job['nonce']}/{number}")).start()

    def serve(self, job: Job, conn: Any, mine: str) -> None:
        try:
            with conn:
                tell(job, **shown(conn.peer), mine=mine, theirs=self.exchange(conn, mine))
        except OSError as error:
            failed(job, error)

    def exchange(self, conn: Any, mine: str) -> str:
        conn.sendall(f"{mine}\n".encode())
        with conn.makefile("r") as lines:
            return str(lines.readline().strip())

    def expires(self, job: Job) -> None:
        tell(job, expires=self.switchboard.membership().expires)

    def status(self, job: Job) -> None:
        with Switchboard(job["server"]) as there:
            tell(job, status=msgspec.structs.asdict(there.status()))


if __name__ == "__main__":
    {"aio": Aio, "blocking": Blocking}[sys.argv[1]]().run()
