"""`trunkline authority`: a realm made in one place or in two, served, renewed, followed and checked."""

import asyncio
import contextlib
import json
import re
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.authoritykit import LiveAuthority, Person
from tests.cli.conftest import WITHIN, Commands
from trunkline.authority import requests
from trunkline.authority.messages import AskRoot, Found, Get, RootIs, Stored, Submit
from trunkline.cli import main
from trunkline.drivers.authority_home import AuthorityHome
from trunkline.drivers.keys import UserKey
from trunkline.drivers.realm_home import RealmHome
from trunkline.drivers.upstream_aio import Upstream
from trunkline.names import Address


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Commands]:
    with contextlib.ExitStack() as stack:
        yield Commands(tmp_path / "home", "", stack)


def call(home: Path, *words: object) -> int:
    """Run a command that serves nobody in this process: it is quicker."""
    return main(["--home", str(home), "authority", *map(str, words)])


def test_a_realm_made_in_one_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, "init", "lab.example", "--listen", "0.0.0.0:99", "--name", "east") == 0
    said = capsys.readouterr().out
    fingerprint = re.search(r"^fingerprint ([a-z2-7]{52})$", said, re.MULTILINE)
    assert fingerprint is not None
    settings = RealmHome(tmp_path).settings()
    assert (settings.realm, settings.root, settings.authorities) == ("lab.example", fingerprint[1], ("127.0.0.1:99",))
    assert call(tmp_path, "verify") == 1
    assert "the store has no head: nothing was ever written to it" in capsys.readouterr().err
    assert call(tmp_path, "init", "lab.example") == 1
    assert "there is an authority" in capsys.readouterr().err
    assert call(tmp_path, "renew") == 0
    assert len(AuthorityHome(tmp_path).load().authorities) == 2


def test_a_realm_made_in_two_places(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    admins, host, stick = tmp_path / "admins", tmp_path / "host", tmp_path / "stick"
    monkeypatch.setenv("TRUNKLINE_PASSPHRASE", "open sesame")
    assert call(admins, "init", "lab.example", "--root-only", "--admin-dir", stick) == 0
    request, certificate = tmp_path / "main.csr", tmp_path / "main.pem"
    assert call(host, "init", "lab.example", "--root", stick / "root.pem", "--request", request) == 0
    assert call(admins, "sign", request, "--out", certificate, "--admin-dir", stick) == 0
    assert call(host, "renew", "--certificate", certificate) == 0
    assert AuthorityHome(host).load().realm == "lab.example"
    assert (host / "authority" / "directory.sqlite").exists()
    assert call(host, "renew", "--request", request) == 0
    assert call(admins, "sign", request, "--out", certificate, "--admin-dir", stick) == 0
    assert call(host, "renew", "--certificate", certificate) == 0
    assert b"ENCRYPTED" in (stick / "root.key").read_bytes()
    monkeypatch.setenv("TRUNKLINE_PASSPHRASE", "open barley")
    assert call(admins, "sign", request, "--out", certificate, "--admin-dir", stick) == 1
    captured = capsys.readouterr()
    assert "the passphrase is wrong" in captured.err
    assert "sesame" not in captured.out + captured.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init", "Not.A.Realm"], "the realm name 'Not.A.Realm' can't be used"),
        (["init", "lab.example", "--request", "x.csr"], "--root and --request go together"),
        (["renew"], "is missing"),
        (["renew", "--request", "a", "--certificate", "b"], "`sign` comes between them"),
        (["sign", "nothing.csr", "--out", "x"], "nothing.csr can't be read"),
        (["serve"], "make one with `trunkline authority init REALM`"),
        (["serve", "--replica-of", "127.0.0.1:1"], "--replica-of and --user go together"),
        (["verify"], "root.pem is missing"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(tmp_path / "home", *words) == 1
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


async def ask(home: Path, port: int, *asked: Any) -> list[Any]:
    async with Upstream(Address("127.0.0.1", port), AuthorityHome(home).root()) as upstream:
        return [await upstream.ask(each) for each in asked]


def insert_and_approve(home: Path, port: int, user: str) -> None:
    loaded, key = AuthorityHome(home).load(), UserKey.generate()
    of, administrator = loaded.issuer.fingerprint, requests.root_signer(AuthorityHome(home).root_key())
    RealmHome(home).save_key(user, key)
    inserted, found = asyncio.run(
        ask(home, port, Submit(1, requests.insert(of, user, key.public, key.sign)), Get(2, user))
    )
    assert isinstance(inserted, Stored)
    assert isinstance(found, Found)
    assert found.record is not None
    (approved,) = asyncio.run(ask(home, port, Submit(1, requests.approve(of, found.record, administrator))))
    assert isinstance(approved, Stored)


@pytest.mark.e2e
def test_served_followed_measured_and_checked(place: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    home = place.home
    assert call(home, "init", "lab.example") == 0
    server = place.start("authority", "serve", "--listen", "127.0.0.1:0", "--json")
    port = int(json.loads(server.wait_for_line(r"^\{.*\}$", WITHIN)[0])["listen"][0].rpartition(":")[2])
    insert_and_approve(home, port, "ops/replica")
    words = ["--listen", "127.0.0.1:0", "--replica-of", f"127.0.0.1:{port}", "--user", "ops/replica"]
    replica = place.start("authority", "serve", *words)
    other = int(replica.wait_for_line(r"^replica listens on 127\.0\.0\.1:(\d+)$", WITHIN)[1])
    replica.wait_for_line("INFO took: statements 0 to 1", WITHIN)
    server.kill()
    capsys.readouterr()
    assert call(home, "verify") == 0
    said = capsys.readouterr().out
    assert "2 statements follow the rules and are signed: 1 approve, 1 insert" in said
    assert "1 records are what the log comes to" in said
    assert call(home, "verify", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["head"]["size"], report["users"]) == (2, {"approved": 1})
    (root,) = asyncio.run(ask(home, other, AskRoot(1)))
    assert isinstance(root, RootIs)
    assert replica.stop(WITHIN) == 0
    assert not re.search("Traceback|ERROR", replica.stderr)


@pytest.mark.e2e
def test_metrics(place: Commands) -> None:
    assert call(place.home, "init", "lab.example") == 0
    with socket.create_server(("127.0.0.1", 0)) as free:
        at = f"127.0.0.1:{free.getsockname()[1]}"
    server = place.start("authority", "serve", "--listen", "127.0.0.1:0", "--metrics", at)
    server.wait_for_line("^authority listens on", WITHIN)
    with urllib.request.urlopen(f"http://{at}/metrics", timeout=WITHIN) as response:
        text = response.read().decode()
    assert "trunkline_authority_statements 0.0" in text
    assert "trunkline_authority_requests_total 0.0" in text
    assert server.stop(WITHIN) == 0
    assert "authority has stopped" in server.stderr


def test_a_stolen_key_is_retired(tmp_path: Path) -> None:
    ann = Person(tmp_path)
    ann.says("authority", "init", "lab.example")
    stolen = AuthorityHome(tmp_path).load().issuer.key_id.hex()[:16]
    ann.says("authority", "renew")
    with LiveAuthority(tmp_path) as authority:
        where = ("--authority", authority.address)
        keys = ann.says("authority", "retire", *where).splitlines()
        assert len(keys) == 2
        assert any(line.startswith(f"{stolen}  until 20") for line in keys)
        ann.says("authority", "retire", "", *where, code=1)
        assert "2 of the authority's keys begin with ''" in ann.errors
        assert ann.says("authority", "retire", stolen, "--yes", *where) == f"the key {stolen} is retired\n"
        (left,) = ann.says("authority", "retire", *where).splitlines()
        assert not left.startswith(stolen)
        ann.says("authority", "retire", left[:16], "--yes", *where, code=1)
        assert "can't be retired while it does" in ann.errors
