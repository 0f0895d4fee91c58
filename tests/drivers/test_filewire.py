"""The pump: waiting, timing out, silence, resets, TLS."""

import hashlib
import os
import socket
import ssl
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from trunkline import errors
from trunkline.drivers.clock import now
from trunkline.drivers.files import send_files, take_files
from trunkline.drivers.filewire import FileWire
from trunkline.transfer import link, messages
from trunkline.transfer.receiver import Receiver
from trunkline.transfer.sender import Sender


def test_time_runs_out_on_a_silent_peer(tmp_path):
    near, far = socket.socketpair()
    with near, far:
        for act in (
            lambda: take_files(near, tmp_path, timeout=0.01),
            lambda: send_files(near, [tmp_path], timeout=0.01),
        ):
            with pytest.raises(errors.TransferFailed, match=r"within 0\.01 s") as caught:
                act()
            assert not caught.value.again


def test_a_peer_that_never_reads_is_given_up(tmp_path):
    (tmp_path / "f").write_bytes(bytes(10_000_000))
    near, far = socket.socketpair()
    with near, far:
        far.sendall(
            messages.PREAMBLE
            + messages.encode(messages.Ready())
            + messages.encode(messages.Want(0, 0, hashlib.sha256().digest()))
        )
        with pytest.raises(errors.TransferFailed, match="within"):
            send_files(near, [tmp_path / "f"], timeout=0.2)


def test_silence_can_be_resumed_after(monkeypatch):
    monkeypatch.setattr(link, "SILENCE", 0.01)
    near, far = socket.socketpair()
    with near, far:
        with (
            FileWire(near, Receiver(now()), None) as wire,
            pytest.raises(errors.TransferFailed, match="nothing was heard") as caught,
        ):
            wire.next_event()
        assert caught.value.again


def test_signs_of_life_go_out(monkeypatch):
    monkeypatch.setattr(link, "ALIVE_EVERY", 0.01)
    near, far = socket.socketpair()
    with near, far, ThreadPoolExecutor(1) as pool, FileWire(near, Receiver(now()), None) as wire:
        waiting = pool.submit(wire.next_event)
        want = messages.PREAMBLE + messages.encode(messages.Alive()) * 2
        assert far.recv(len(want), socket.MSG_WAITALL) == want
        far.sendall(Sender([], now()).data_to_send())
        assert waiting.result() == messages.OfferEnd(0, 0)


def test_a_reset_can_be_resumed_after(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        with pytest.raises(errors.TransferFailed, match="broke") as caught:
            take_files(near, tmp_path)
        assert caught.value.again
        assert isinstance(caught.value.__cause__, OSError)


def test_busy_with_the_disk_and_still_there():
    near, far = socket.socketpair()
    machine = Receiver(now())
    with near, far, FileWire(near, machine, None) as wire:
        far.sendall(b"unread")
        machine._heard -= link.SILENCE
        wire.breathe()
        assert machine.next_deadline() > now()


@pytest.mark.requires_program("openssl")
def test_over_tls(tmp_path):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *[
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ],
            *("-subj", "/CN=localhost", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=certificate)
    source, into = tmp_path / "source", tmp_path / "into"
    source.mkdir()
    into.mkdir()
    (source / "big").write_bytes(os.urandom(8_000_001))
    (source / "small").write_bytes(b"small")
    near, far = socket.socketpair()
    with ThreadPoolExecutor(1) as pool:
        shaking = pool.submit(server.wrap_socket, far, server_side=True)
        with client.wrap_socket(near, server_hostname="localhost") as near, shaking.result() as far:
            sent = pool.submit(send_files, near, [source])
            taken = take_files(far, into)
            assert sent.result() == taken
    assert (into / "source/big").read_bytes() == (source / "big").read_bytes()
    assert (into / "source/small").read_bytes() == b"small"
