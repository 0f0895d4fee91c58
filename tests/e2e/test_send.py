"""A file of 100 MB goes from host to host over a link that fails, to a taker that is killed and started again."""

import hashlib
import json
import os
import random
import time
from pathlib import Path

import pytest

from tests.e2e.hosts import Lan
from tests.e2e.mesh import PATIENCE, Mesh
from tests.e2e.process import Process

pytestmark = [pytest.mark.e2e, pytest.mark.requires_root_netns]

SIZE = 100_000_000
IN_FLIGHT = 20_000_000  # bytes that may be under way, in buffers of kernels and programs, when a connection breaks


def freeze_at(process: Process, folder: Path, size: int) -> None:
    """Freeze the taker when so much of its one file has arrived."""
    limit = time.monotonic() + PATIENCE
    while sum(file.stat().st_size for file in folder.iterdir()) < size:
        assert time.monotonic() < limit, f"{size} bytes did not arrive"
        os.sched_yield()
    process.freeze()
    assert sum(file.stat().st_size for file in folder.iterdir()) < SIZE, "it was quicker than we are"


def test_a_transfer_goes_on_where_it_broke_off(lan: Lan, tmp_path: Path) -> None:
    mesh = Mesh(lan, ("one", "two", "three"), tmp_path).start().wait_until_joined()
    given, taken = tmp_path / "given", tmp_path / "taken"
    taken.mkdir()
    body = random.Random(1).randbytes(SIZE)
    given.write_bytes(body)
    take = ["take", "bob", "alice", "--into", taken, "--json"]
    with mesh.command("one", "send", given, "alice", "bob", "--json") as sender:
        with mesh.command("two", *take) as taker:
            # The link fails, and comes back: the connection outlives that.
            freeze_at(taker, taken, SIZE // 20)
            lan.unplug("two")
            taker.thaw()
            mesh.wait_until("one", "two", seen=False)
            assert sender.returncode is None
            assert taker.returncode is None
            lan.plug("two")
            # The link fails, and the taker is gone when it comes back.
            freeze_at(taker, taken, SIZE // 4)
            lan.unplug("two")
            taker.kill()
            lan.plug("two")
        with mesh.command("two", *take) as taker:
            assert taker.wait(PATIENCE) == 0
            assert sender.wait(PATIENCE) == 0
    sent, got = json.loads(sender.stdout), json.loads(taker.stdout)
    digest = hashlib.sha256(body).hexdigest()
    assert hashlib.sha256((taken / "given").read_bytes()).hexdigest() == digest
    assert [file.name for file in taken.iterdir()] == ["given"]
    for report in (sent, got):
        (file,) = report["files"]
        assert file["status"] == "resumed"
        assert file["sha256"] == digest
        assert SIZE // 4 <= file["resumed_at"] < SIZE
    assert sent["connections"] == 2
    assert SIZE <= sent["bytes_moved"] <= SIZE + IN_FLIGHT
    assert got["bytes_moved"] == SIZE - got["files"][0]["resumed_at"]
    mesh.stop()
