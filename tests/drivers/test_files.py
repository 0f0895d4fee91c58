"""Files sent and taken over real sockets: round trips, resuming after cuts, what is refused."""

import contextlib
import fcntl
import hashlib
import os
import random
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from trunkline import errors
from trunkline.drivers.files import Phase, Sending, Status, Taking, send_files, take_files

OVERHEAD = 4096  # frames of one small transfer, both ways


def unix_pair():
    return socket.socketpair()


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        return near, listener.accept()[0]


def both(send, take, pair=unix_pair):
    """Run the two sides; return what each returned or raised."""

    def guarded(act, sock):
        with sock:
            try:
                return act(sock)
            except errors.TrunklineError as error:
                return error

    near, far = pair()
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(guarded, send, near)
        taken = guarded(take, far)
        return sent.result(), taken


def transfer(paths, into, pair=unix_pair, **options):
    return both(lambda sock: send_files(sock, paths), lambda sock: take_files(sock, into, **options), pair)


def statuses(outcome):
    return {file.name: file.status for file in outcome.files}


def tree(root):
    """Everything below a directory: contents of files, None for directories."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))
    }


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.mkdir()
    return path


@pytest.fixture
def into(tmp_path):
    path = tmp_path / "into"
    path.mkdir()
    return path


@pytest.mark.parametrize("pair", [unix_pair, tcp_pair])
def test_many_files_and_a_tree(source, into, pair):
    top = source / "top"
    for directory in ("", "empty", "deep/er/still", "ünïcode/日本"):
        (top / directory).mkdir(parents=True, exist_ok=True)
    rng = random.Random(1)
    for n in range(200):
        (top / f"f{n}").write_bytes(rng.randbytes(n * 7))
    (top / "deep/er/still/x").write_bytes(rng.randbytes(300_000))
    (top / "ünïcode/日本/файл").write_bytes(b"hi")
    (top / "none").touch()
    single = source / "single"
    single.write_bytes(b"one")
    sent, taken = transfer([top, single], into, pair)
    assert tree(into) == {f"{p}": data for p, data in tree(source).items()}
    assert sent.ok
    assert taken.ok
    assert set(statuses(sent).values()) == set(statuses(taken).values()) == {Status.SENT}
    assert statuses(sent) == statuses(taken)
    assert sent.bytes_moved == taken.bytes_moved == sum(len(data) for data in tree(source).values() if data)
    assert next(f for f in sent.files if f.name == "single").sha256 == hashlib.sha256(b"one").hexdigest()


@pytest.mark.parametrize("pair", [unix_pair, tcp_pair])
def test_a_large_file(source, into, pair):
    path = source / "large"
    block = random.Random(2).randbytes(1 << 20)
    with path.open("wb") as stream:
        for n in range(64):
            stream.write(n.to_bytes(4, "big") + block[4:])
    sent, taken = transfer([path], into, pair)
    assert sent == taken
    assert sent.bytes_moved == 64 << 20
    assert (into / "large").read_bytes() == path.read_bytes()
    assert [path.name for path in into.iterdir()] == ["large"]


def test_modes_and_times_travel_and_special_bits_do_not(source, into):
    top = source / "top"
    top.mkdir()
    for name, mode in (("plain", 0o600), ("run", 0o755), ("setuid", 0o4755), ("locked", 0o444)):
        path = top / name
        path.write_bytes(name.encode())
        path.chmod(mode)
        os.utime(path, ns=(1, 1_500_000_000_123_456_789))
    os.utime(top, ns=(1, 1_400_000_000_000_000_000))
    top.chmod(0o555)
    try:
        sent, _ = transfer([top], into)
        assert sent.ok
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (into / "top").iterdir()}
        assert modes == {"plain": 0o600, "run": 0o755, "setuid": 0o755, "locked": 0o444}
        assert (into / "top/run").stat().st_mtime_ns == 1_500_000_000_123_456_789
        assert (into / "top").stat().st_mtime_ns == 1_400_000_000_000_000_000
        assert stat.S_IMODE((into / "top").stat().st_mode) == 0o555
    finally:
        top.chmod(0o755)
        with contextlib.suppress(FileNotFoundError):
            (into / "top").chmod(0o755)


def test_links_and_devices_are_left_out_and_said(source, into):
    top = source / "top"
    top.mkdir()
    (top / "real").write_bytes(b"x")
    (top / "link").symlink_to("/etc/passwd")
    os.mkfifo(top / "pipe")
    (top / "bad\\name").touch()
    sent, taken = transfer([top], into)
    assert isinstance(sent, errors.TransferFailed)  # the bad name is a failure, links are not
    assert "backslash" in str(sent)
    assert tree(into / "top") == {"real": b"x"}
    assert taken.ok
    (top / "bad\\name").unlink()
    sent, _ = transfer([top], into)
    assert statuses(sent) == {
        "top": Status.SKIPPED,
        "top/real": Status.SKIPPED,
        "top/link": Status.LEFT_OUT,
        "top/pipe": Status.LEFT_OUT,
    }


def test_a_file_that_is_there_is_skipped_when_it_is_the_same(source, into):
    (source / "f").write_bytes(b"same" * 1000)
    (into / "f").write_bytes(b"same" * 1000)
    before = (into / "f").stat()
    sent, taken = transfer([source / "f"], into)
    assert statuses(sent) == statuses(taken) == {"f": Status.SKIPPED}
    assert sent.bytes_moved == 0
    assert (into / "f").stat() == before or (into / "f").stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("there", [b"something else", b"samf" * 1000])
def test_a_file_that_differs_is_refused_untouched_or_replaced_at_will(source, into, there):
    (source / "f").write_bytes(b"same" * 1000)
    (source / "g").write_bytes(b"goes over all the same")
    (into / "f").write_bytes(there)
    sent, taken = transfer([source / "f", source / "g"], into)
    for error in (sent, taken):
        assert isinstance(error, errors.TransferFailed)
        assert not error.again
        assert "--force" in str(error)
    assert tree(into) == {"f": there, "g": b"goes over all the same"}
    inode = (into / "f").stat().st_ino
    with (into / "f").open("rb") as reader:
        sent, taken = transfer([source / "f", source / "g"], into, overwrite=True)
        assert reader.read() == there  # replaced in one step: who had it open keeps the old one
    assert statuses(sent) == statuses(taken) == {"f": Status.SENT, "g": Status.SKIPPED}
    assert (into / "f").read_bytes() == b"same" * 1000
    assert (into / "f").stat().st_ino != inode


def test_overwriting_skips_what_is_the_same(source, into):
    (source / "f").write_bytes(b"same")
    (into / "f").write_bytes(b"same")
    sent, _ = transfer([source / "f"], into, overwrite=True)
    assert statuses(sent) == {"f": Status.SKIPPED}


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_link_leads_out(source, into, tmp_path, overwrite):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "target").write_bytes(b"precious")
    (source / "d").mkdir()
    (source / "d" / "f").write_bytes(b"attack")
    (source / "link").write_bytes(b"attack")
    (source / "pipe").write_bytes(b"attack")
    (source / "part").write_bytes(b"attack")
    (into / "d").symlink_to(outside)
    (into / "link").symlink_to(outside / "target")
    os.mkfifo(into / "pipe")
    (into / ".part.trunkline-part").symlink_to(outside / "new")
    sent, taken = transfer(sorted(source.iterdir()), into, overwrite=overwrite)
    assert isinstance(sent, errors.TransferFailed)
    assert isinstance(taken, errors.TransferFailed)
    assert "5 of 5" in str(sent)
    assert tree(outside) == {"target": b"precious"}
    assert (into / "d").is_symlink()


def test_a_planted_part_with_two_names_is_not_written_through(source, into):
    (source / "f").write_bytes(b"new content")
    (into / "victim").write_bytes(b"new")
    os.link(into / "victim", into / ".f.trunkline-part")
    sent, _ = transfer([source / "f"], into)
    assert sent.ok
    assert tree(into) == {"f": b"new content", "victim": b"new"}


def test_one_part_has_one_transfer(source, into):
    (source / "f").write_bytes(b"new content")
    with (into / ".f.trunkline-part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        sent, _ = transfer([source / "f"], into)
    assert "another transfer is receiving it" in str(sent)


def test_names_too_long_for_a_part_name(source, into):
    for name in ("x" * 255, "é" * 127):
        (source / name).write_bytes(name.encode())
    sent, _ = transfer(source.iterdir(), into)
    assert sent.ok
    assert tree(into) == tree(source)


# Breaking off and going on


class Cut:
    """Carries bytes from the sender until `limit` have passed, then closes both ways."""

    def __init__(self, limit, pair=unix_pair):
        self.near, inner = pair()
        outer, self.far = pair()
        self._pumps = [
            threading.Thread(target=self._pump, args=(inner, outer, limit)),
            threading.Thread(target=self._pump, args=(outer, inner, None)),
        ]
        self._ends = (inner, outer)
        self.carried = 0
        for pump in self._pumps:
            pump.start()

    def _pump(self, source, target, limit):
        with contextlib.suppress(OSError):
            while limit is None or self.carried < limit:
                data = source.recv(65536 if limit is None else min(65536, limit - self.carried))
                if not data:
                    break
                if limit is not None:
                    self.carried += len(data)
                target.sendall(data)
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        for pump in self._pumps:
            pump.join()
        for end in self._ends:
            end.close()


def cut_transfer(send, take, limit):
    cut = Cut(limit)
    try:
        return *both(send, take, lambda: (cut.near, cut.far)), cut.carried
    finally:
        cut.close()


SIZE = 3_000_000
CUTS = [0, 1, 7, 8, 9, 30, 60, 100, 130, 150, 200, 5_000, 65_536, 700_001, 2_999_999, SIZE + 100, SIZE + 163]
CUTS += random.Random(3).sample(range(SIZE), 8)


@pytest.mark.parametrize("limit", CUTS)
@pytest.mark.parametrize("same_objects", [True, False], ids=["reconnect", "restart"])
def test_a_cut_anywhere_is_resumed(source, into, limit, same_objects):
    body = random.Random(4).randbytes(SIZE)
    (source / "f").write_bytes(body)
    (source / "g").write_bytes(b"small")
    paths = [source / "f", source / "g"]
    sending = Sending(paths)
    with Taking(into) as taking:
        sent, taken, carried = cut_transfer(sending.run, taking.run, limit)
        assert isinstance(sent, errors.TransferFailed), sent
        assert sent.again
        assert isinstance(taken, errors.TransferFailed)
        assert taken.again
        assert carried == limit
        assert not sending.outcome.ok
        placed = (into / "f").exists()
        part = into / ".f.trunkline-part"
        had = part.stat().st_size if part.exists() else 0
        first = taking.outcome.bytes_moved
        assert first >= min(limit - OVERHEAD, SIZE)
        if same_objects:
            sent, taken = both(sending.run, taking.run)
            assert sent.connections == taken.connections == 2
            assert taken.bytes_moved == SIZE + 5  # not one byte arrived twice
        else:
            sent, taken = transfer(paths, into)
            assert sent.bytes_moved == taken.bytes_moved == SIZE + 5 - first
    assert sent.ok
    assert taken.ok
    assert tree(into) == tree(source)
    if not placed:
        for outcome in (sent, taken):
            (of_f,) = (file for file in outcome.files if file.name == "f")
            assert of_f.resumed_at == had
            assert of_f.status is (Status.RESUMED if had else Status.SENT)


def test_cut_again_and_again(source, into):
    body = random.Random(5).randbytes(SIZE)
    (source / "f").write_bytes(body)
    sending = Sending([source / "f"])
    carried = 0
    with Taking(into) as taking:
        for limit in [400_000] * 7:
            sent, _, now = cut_transfer(sending.run, taking.run, limit)
            assert sent.again
            carried += now
        sent, taken = both(sending.run, taking.run)
    assert sent.ok
    assert (into / "f").read_bytes() == body
    assert taken.bytes_moved == SIZE  # not one byte twice
    assert sent.connections == 8


def test_a_prefix_that_is_not_ours_is_sent_anew(source, into):
    body = random.Random(6).randbytes(SIZE)
    (source / "f").write_bytes(body)
    (into / ".f.trunkline-part").write_bytes(body[:1_000_000] + b"x" + body[1_000_001:2_000_000])
    sent, taken = transfer([source / "f"], into)
    assert statuses(sent) == statuses(taken) == {"f": Status.SENT}
    assert sent.bytes_moved == SIZE
    assert tree(into) == tree(source)


def test_a_part_longer_than_the_file_is_dropped(source, into):
    (source / "f").write_bytes(b"short")
    (into / ".f.trunkline-part").write_bytes(b"short and then some")
    sent, _ = transfer([source / "f"], into)
    assert statuses(sent) == {"f": Status.SENT}
    assert tree(into) == tree(source)


def test_a_whole_part_needs_no_bytes(source, into):
    (source / "f").write_bytes(b"all of it")
    (into / ".f.trunkline-part").write_bytes(b"all of it")
    sent, _ = transfer([source / "f"], into)
    assert statuses(sent) == {"f": Status.RESUMED}
    assert sent.bytes_moved == 0
    assert tree(into) == tree(source)


def test_a_skipped_file_leaves_no_part(source, into):
    (source / "f").write_bytes(b"all of it")
    (into / "f").write_bytes(b"all of it")
    (into / ".f.trunkline-part").write_bytes(b"all")
    assert transfer([source / "f"], into)[0].ok
    assert [path.name for path in into.iterdir()] == ["f"]


# Progress and limits


def test_progress_adds_up(source, into):
    (source / "a").write_bytes(bytes(10_000_000))
    (source / "b").write_bytes(b"xyz")
    (into / ".a.trunkline-part").write_bytes(bytes(2_000_000))
    near, far = [], []
    both(
        lambda sock: send_files(sock, [source / "a", source / "b"], near.append),
        lambda sock: take_files(sock, into, far.append),
    )
    for reports in (near, far):
        assert reports[0].phase is Phase.OFFERING
        assert {report.phase for report in reports} == set(Phase)
        for report in reports:
            assert 0 <= report.done <= report.total
            assert 0 <= report.all_done <= report.all_total
            assert report.files_done <= report.files_total
        moving = [r.all_done for r in reports if r.phase in (Phase.MOVING, Phase.SETTLED) and r.name == "a"]
        assert moving == sorted(moving)
        last = reports[-1]
        assert (last.phase, last.files_done, last.files_total) == (Phase.SETTLED, 2, 2)
        assert last.all_done == last.all_total == 10_000_003
        assert last.outcome.name == "b"


def test_limits_of_the_receiver(source, into):
    (source / "f").write_bytes(bytes(11))
    for limits in ({"max_file": 10}, {"max_total": 10}):
        sent, taken = transfer([source / "f"], into, **limits)
        assert isinstance(taken, errors.MalformedMessage)
        assert isinstance(sent, errors.TransferFailed)
        assert "limit is 10" in str(sent)
        assert not any(into.iterdir())


def test_a_disk_too_small_is_said_before_a_byte_moves(source, into):
    with (source / "huge").open("wb") as stream:
        stream.truncate(1 << 43)  # 8 TiB of hole
    sent, taken = transfer([source / "huge"], into)
    for error in (sent, taken):
        assert isinstance(error, errors.TransferFailed)
        assert not error.again
        assert f"{1 << 43} are needed" in str(error)
    assert not any(into.iterdir())


def test_the_socket_stays_open_with_its_timeout(source, into):
    (source / "f").write_bytes(b"x")
    near, far = unix_pair()
    with near, far, ThreadPoolExecutor(1) as pool:
        near.settimeout(5)
        sent = pool.submit(send_files, near, [source / "f"])
        take_files(far, into)
        sent.result()
        assert near.gettimeout() == 5
        assert far.gettimeout() is None
        near.sendall(b"on we go")
        assert far.recv(100) == b"on we go"
