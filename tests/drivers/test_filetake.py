"""The taking side against peers that lie, disks that fail, and places that may not be written."""

import hashlib
import os
import resource
import socket
import subprocess
import sys
import threading

import pytest

from trunkline import errors
from trunkline.drivers.filesend import Sending
from trunkline.drivers.filetake import Taking
from trunkline.transfer import messages as m
from trunkline.transfer.messages import Entry, Kind, Verdict
from trunkline.transfer.report import Status

BODY = b"0123456789"
DIGEST = hashlib.sha256(BODY).digest()
FILE = Entry("f", Kind.FILE, 10, 0o644, 0)


def offer(*entries):
    return m.PREAMBLE + b"".join(
        map(m.encode, [*m.split_offer(list(entries)), m.OfferEnd(len(entries), sum(e.size for e in entries))])
    )


def said(data):
    """The messages in what a side sent."""
    assert data.startswith(m.PREAMBLE)
    data = data[len(m.PREAMBLE) :]
    heard = []
    while data:
        size = m.frame_size(data[:4])
        heard.append(m.decode(data[4 : 4 + size]))
        data = data[4 + size :]
    return heard


def take_from_script(into, script, **options):
    """Take from a peer that says all its lines at once; return what came of it and what the peer heard."""
    near, far = socket.socketpair()
    heard = []

    def listen():
        while data := near.recv(65536):
            heard.append(data)

    with near, Taking(into, **options) as taking:
        near.sendall(script)
        near.shutdown(socket.SHUT_WR)
        listener = threading.Thread(target=listen)
        listener.start()
        try:
            with far:
                result = taking.run(far)
        except errors.TrunklineError as error:
            result = error
        listener.join()
        return result, said(b"".join(heard)), taking.outcome


def lines(*messages):
    return b"".join(line if isinstance(line, bytes) else m.encode(line) for line in messages)


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/../../b", "", ".", "a\0b", "a/./b", ".f.trunkline-part", "a\nb", "a\\b"],
)
def test_evil_names_end_the_transfer_before_a_byte_is_written(tmp_path, name):
    into = tmp_path / "into"
    into.mkdir()
    result, heard, _ = take_from_script(into, offer(FILE, Entry(name, Kind.FILE, 1, 0o644, 0)))
    assert isinstance(result, errors.MalformedMessage)
    assert "can't be used" in str(result)
    assert heard == [m.Stop(errors.MalformedMessage.code, str(result))]
    assert not any(into.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["into"]


ASKED = offer(FILE) + lines(m.Start(0, 0))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "does not speak Trunkline"),
        (b"TRUNKF/9", "speaks TRUNKF/9"),
        (m.PREAMBLE + b"\x7f\0\0\0", "exceeds the limit"),
        (m.PREAMBLE + b"\0\0\0\5hello", "malformed"),
        (offer(FILE) + lines(m.OfferEnd(1, 10)), "may not send OfferEnd"),
    ],
)
def test_a_peer_that_breaks_the_rules_is_told(tmp_path, script, reason):
    result, heard, _ = take_from_script(tmp_path, script)
    assert isinstance(result, errors.RemoteError)
    assert reason in str(result)
    assert heard[-1] == m.Stop(result.code, str(result))


class Liar:
    """Waits until the file is wanted, then says its lines."""

    def __init__(self, *script, entry=FILE):
        self.near, self.far = socket.socketpair()
        self.script = lines(*script)
        self.entry = entry
        self.heard = b""
        self.before = lambda: None

    def run(self, into, **options):
        thread = threading.Thread(target=self._lie)
        with self.near, Taking(into, **options) as taking:
            thread.start()
            try:
                with self.far:
                    return taking.run(self.far), taking.outcome
            except errors.TrunklineError as error:
                return error, taking.outcome
            finally:
                thread.join()

    def _lie(self):
        self.near.sendall(offer(self.entry))
        while not any(isinstance(line, (m.Want, m.Whole, m.Settled)) for line in self._lines()):
            self.heard += self.near.recv(65536)
        self.before()
        self.near.sendall(self.script)
        while not any(isinstance(line, m.Complete) for line in self._lines()):
            data = self.near.recv(65536)
            if not data:
                break
            self.heard += data
        else:
            self.near.sendall(m.encode(m.Done()))
        self.near.shutdown(socket.SHUT_WR)

    def _lines(self):
        try:
            return said(self.heard)
        except (AssertionError, errors.RemoteError):
            return []


def test_a_wrong_hash_keeps_nothing(tmp_path):
    result, outcome = Liar(m.Start(0, 0), m.Run(0, 0, 10), BODY, m.Sum(0, bytes(32))).run(tmp_path)
    assert isinstance(result, errors.TransferFailed)
    assert "another hash" in str(result)
    assert [file.status for file in outcome.files] == [Status.FAILED]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([m.Start(0, 0), m.Run(0, 0, 11), BODY + b"x"], "11 bytes, and 10 were offered"),
        ([m.Start(0, 0), m.Run(0, 0, 9), BODY[:9], m.Sum(0, DIGEST)], "9 bytes, and 10 were offered"),
        ([m.Start(0, 3)], "starts at 3, 0 was asked"),
        ([m.Start(0, 0), m.Run(0, 5, 5), BODY[5:]], "bytes from 5, 0 is next"),
        ([m.Sum(0, DIGEST)], "Sum of an entry that is WANTED"),
        ([m.Same(0)], "Same of an entry that is WANTED"),
        ([m.Start(1, 0)], "entry 1 of 1"),
        ([m.Done()], "may not send Done"),
        ([m.Ready()], "may not send Ready"),
    ],
)
def test_a_sender_that_lies_is_found_out(tmp_path, script, reason):
    result, _ = Liar(*script).run(tmp_path)
    assert isinstance(result, errors.RemoteError)
    assert reason in str(result)
    assert not (tmp_path / "f").exists()


def test_a_sender_that_gives_up(tmp_path):
    result, outcome = Liar(m.Start(0, 0), m.Run(0, 0, 4), BODY[:4], m.Spoiled(0, "it changed")).run(tmp_path)
    assert isinstance(result, errors.TransferFailed)
    assert "it changed" in str(result)
    assert outcome.files[0].status is Status.FAILED
    assert (tmp_path / ".f.trunkline-part").read_bytes() == BODY[:4]


def test_an_honest_script_for_comparison(tmp_path):
    result, outcome = Liar(m.Start(0, 0), m.Run(0, 0, 10), BODY, m.Sum(0, DIGEST)).run(tmp_path)
    assert result == outcome
    assert outcome.ok
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path):
    liar = Liar(m.Start(0, 0), m.Run(0, 0, 10), BODY, m.Sum(0, DIGEST))
    liar.before = lambda: (tmp_path / "f").write_bytes(b"first")
    result, _ = liar.run(tmp_path)
    assert isinstance(result, errors.TransferFailed)
    assert "appeared here meanwhile" in str(result)
    assert (tmp_path / "f").read_bytes() == b"first"


LIMITED = """
import resource, socket, sys
from trunkline import errors
from trunkline.drivers.files import take_files
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    take_files(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
except errors.TransferFailed as error:
    print(error.again, error)
"""


def test_a_disk_that_fills_up_ends_the_transfer_on_both_sides(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(30_000_000))
    into = tmp_path / "into"
    into.mkdir()
    near, far = socket.socketpair()
    with near:
        with far:
            taker = subprocess.Popen(
                [sys.executable, "-c", LIMITED, str(far.fileno()), str(into)],
                pass_fds=[far.fileno()],
                stdout=subprocess.PIPE,
                text=True,
            )
        with pytest.raises(errors.TransferFailed, match="can't write 'source': File too large") as caught:
            Sending([source]).run(near)
        assert not caught.value.again
    output, _ = taker.communicate()
    assert output.startswith("False the receiver can't write 'source': File too large")
    assert (into / ".source.trunkline-part").read_bytes() == source.read_bytes()[:100_000]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(errors.ConfigError, match="name a directory that exists"):
        Taking(tmp_path / "nowhere")


def test_directories_where_files_are_and_the_other_way_round(tmp_path):
    (tmp_path / "d").write_bytes(b"a file")
    result, outcome = Liar(entry=Entry("d", Kind.DIRECTORY, 0, 0o755, 0)).run(tmp_path)
    assert isinstance(result, errors.TransferFailed)
    assert outcome.files[0].status is Status.REFUSED
    (tmp_path / "f").mkdir()
    result, outcome = Liar().run(tmp_path, overwrite=True)
    assert "no plain file has this name" in outcome.files[0].reason
    assert (tmp_path / "f").is_dir()


def test_verdicts_are_what_the_peer_hears(tmp_path):
    (tmp_path / "f").write_bytes(b"other")
    liar = Liar()
    liar.run(tmp_path)
    settled = [line for line in liar._lines() if isinstance(line, m.Settled)]
    assert [line.verdict for line in settled] == [Verdict.REFUSED]
    assert "5 bytes instead of 10" in settled[0].reason
