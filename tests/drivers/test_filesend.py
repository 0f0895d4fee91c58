"""The sending side against peers that lie, and files that change or can't be read."""

import hashlib
import os
import socket
import threading

import pytest

from trunkline import errors
from trunkline.drivers.filesend import Sending
from trunkline.drivers.filetake import Taking
from trunkline.transfer import messages as m
from trunkline.transfer.messages import Verdict
from trunkline.transfer.report import Phase, Status

EMPTY = hashlib.sha256().digest()


def send_to_script(sending, *script):
    """Send to a peer that says all its lines at once and reads until the end."""
    near, far = socket.socketpair()

    def listen():
        while far.recv(1 << 20):
            pass
        far.shutdown(socket.SHUT_WR)

    with far:
        far.sendall(b"".join(line if isinstance(line, bytes) else m.encode(line) for line in script))
        listener = threading.Thread(target=listen)
        listener.start()
        try:
            with near:
                return sending.run(near)
        except errors.TrunklineError as error:
            return error
        finally:
            listener.join()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    return path


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([b"HTTP/1.1 400 Bad Request\r\n"], "does not speak Trunkline"),
        ([m.PREAMBLE, b"\xff" * 50], "exceeds the limit"),
        ([m.PREAMBLE, m.Ready(), m.Want(0, 11, EMPTY)], "wanted from 11, it has 10"),
        ([m.PREAMBLE, m.Ready(), m.Want(5, 0, EMPTY)], "entry 5 of 1"),
        ([m.PREAMBLE, m.Ready(), m.Settled(0, Verdict.KEPT)], "settled as KEPT while OFFERED"),
        ([m.PREAMBLE, m.Ready(), m.Settled(0, Verdict.SAME)], "settled as SAME while OFFERED"),
        ([m.PREAMBLE, m.Ready(), m.Complete()], "1 entries are not settled"),
        ([m.PREAMBLE, m.Complete()], "may not send Complete"),
        ([m.PREAMBLE, m.Ready(), m.Run(0, 0, 1)], "may not send Run"),
    ],
)
def test_a_receiver_that_lies_is_found_out(path, script, reason):
    error = send_to_script(Sending([path]), *script)
    assert isinstance(error, errors.RemoteError)
    assert reason in str(error)


def test_a_stop_names_its_reason_without_escapes(path):
    error = send_to_script(Sending([path]), m.PREAMBLE, m.Stop(0, "disk \x1b[2J full"))
    assert isinstance(error, errors.TransferFailed)
    assert "the other side ended the transfer: disk \ufffd[2J full" in str(error)
    assert not error.again
    error = send_to_script(Sending([path]), m.PREAMBLE, m.Stop(errors.SilentPeer.code, "silence"))
    assert error.again


def test_a_prefix_hash_that_is_wrong_gives_the_file_from_the_start(path):
    sending = Sending([path])
    moved = []
    near, far = socket.socketpair()
    with near, far:
        far.sendall(m.PREAMBLE + m.encode(m.Ready()) + m.encode(m.Want(0, 4, bytes(32))))
        far.shutdown(socket.SHUT_WR)
        with pytest.raises(errors.TransferFailed) as caught:
            sending.run(near, on_progress=moved.append)
        assert caught.value.again
    assert [report.done for report in moved if report.phase is Phase.MOVING] == [0, 10]
    assert sending.outcome.files[0].status is Status.PENDING


def transfer(sending, into, on_progress=None):
    """Send to an honest receiver; return what the sender raised or returned."""
    near, far = socket.socketpair()
    caught = []

    def take():
        with far, Taking(into) as taking:
            try:
                taking.run(far)
            except errors.TransferFailed as error:
                caught.append(error)

    taker = threading.Thread(target=take)
    taker.start()
    try:
        with near:
            return sending.run(near, on_progress=on_progress)
    except errors.TrunklineError as error:
        return error
    finally:
        taker.join()


def into_of(tmp_path):
    into = tmp_path / "into"
    into.mkdir(exist_ok=True)
    return into


def grow(path):
    with path.open("ab") as stream:
        stream.write(b"!")


def rewrite(path):
    with path.open("r+b") as stream:
        stream.write(b"!")


def replace(path):
    path.with_suffix(".new").write_bytes(path.read_bytes())
    path.with_suffix(".new").replace(path)


CHANGES = [grow, rewrite, replace, lambda path: os.truncate(path, 5), lambda path: path.unlink()]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changed_since_it_was_planned_is_not_sent(path, tmp_path, change):
    other = tmp_path / "other"
    other.write_bytes(b"at rest")
    sending = Sending([path, other])
    change(path)
    error = transfer(sending, into_of(tmp_path))
    assert isinstance(error, errors.TransferFailed)
    assert "1 of 2 did not go over: f: " in str(error)
    assert [file.status for file in sending.outcome.files] == [Status.FAILED, Status.SENT]
    assert [path.name for path in into_of(tmp_path).iterdir()] == ["other"]


@pytest.mark.parametrize("change", CHANGES[:2] + CHANGES[3:4])
def test_a_file_that_changes_while_it_is_sent_is_told_of(path, tmp_path, change):
    path.write_bytes(os.urandom(20_000_000))
    sending = Sending([path])

    def on_progress(report):
        if report.phase is Phase.MOVING and 0 < report.done < 8_400_000:
            change(path)

    error = transfer(sending, into_of(tmp_path), on_progress)
    assert isinstance(error, errors.TransferFailed)
    assert "changed at the sender" in str(error) or "became shorter" in str(error)
    assert not (into_of(tmp_path) / "f").exists()
    assert transfer(Sending([path]), into_of(tmp_path)).ok  # at rest again: it goes, whatever the part holds
    assert (into_of(tmp_path) / "f").read_bytes() == path.read_bytes()


def test_what_may_not_be_read_fails_alone(path, tmp_path):
    sending = Sending([path])
    path.unlink()
    path.symlink_to("/etc/hostname")
    error = transfer(sending, into_of(tmp_path))
    assert "the sender can't read it" in str(error)


def test_hash_marks_spare_reading_twice(tmp_path):
    path = tmp_path / "f"
    with path.open("wb") as stream:
        stream.truncate(40 << 20)
    sending = Sending([path])
    near, far = socket.socketpair()
    with near, far:
        far.sendall(m.PREAMBLE + m.encode(m.Ready()) + m.encode(m.Want(0, 0, EMPTY)))
        reader = threading.Thread(
            target=lambda: [far.recv(1 << 20, socket.MSG_WAITALL) for _ in range(36)] and far.shutdown(2)
        )
        reader.start()
        with pytest.raises(errors.TransferFailed):
            sending.run(near)
        reader.join()
    (into_of(tmp_path) / ".f.trunkline-part").write_bytes(bytes(36 << 20))
    checked = []
    outcome = transfer(
        sending, into_of(tmp_path), lambda r: checked.append(r.done) if r.phase is Phase.CHECKING else None
    )
    assert outcome.files[0].resumed_at == 36 << 20
    assert min(checked) > 32 << 20
