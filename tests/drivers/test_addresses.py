import socket
import sys
from pathlib import Path

import pytest

from trunkline.drivers import addresses
from trunkline.names import Candidate
from trunkline.wire.codec import encode_candidates
from trunkline.wire.limits import MAX_CANDIDATES

FIB_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
           |-- 127.0.0.1
              /32 host LOCAL
     +-- 198.51.100.0/24 2 0 2
           |-- 198.51.100.7
              /32 host LOCAL
        |-- 198.51.100.255
           /32 link BROADCAST
"""
IF_INET6 = """\
00000000000000000000000000000001 01 80 10 80       lo
20010db8000000000000000000000007 04 40 00 82     eth0
20010db8000000000000000000000008 04 40 00 c0     eth0
20010db8000000000000000000000009 04 40 00 08     eth0
fe8000000000000000fc00fffe000001 04 40 20 80     eth0
nonsense
zz010db8000000000000000000000007 04 40 00 82     eth0
"""


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "fib_trie").write_text(FIB_TRIE)
    (tmp_path / "if_inet6").write_text(IF_INET6)
    monkeypatch.setattr(addresses, "_FIB_TRIE", tmp_path / "fib_trie")
    monkeypatch.setattr(addresses, "_IF_INET6", tmp_path / "if_inet6")
    return tmp_path


def test_the_kernels_tables_are_read(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_preferred", lambda: iter(()))
    assert addresses.local_addresses() == ("198.51.100.7", "2001:db8::7")


def test_the_default_routes_address_comes_first(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_preferred", lambda: iter(("2001:db8::7", "169.254.1.1")))
    assert addresses.local_addresses() == ("2001:db8::7", "198.51.100.7")


def test_without_tables_the_resolver_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_FIB_TRIE", tmp_path / "absent")
    monkeypatch.setattr(addresses, "_IF_INET6", tmp_path / "absent")
    monkeypatch.setattr(addresses, "_preferred", lambda: iter(()))
    answers = [
        (2, 1, 6, "", ("127.0.1.1", 0)),
        (2, 1, 6, "", ("198.51.100.9", 0)),
        (10, 1, 6, "", ("not an address", 0, 0, 0)),
    ]
    monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *args, **kwargs: answers)
    assert addresses.local_addresses() == ("198.51.100.9",)

    def no_answer(*args: object, **kwargs: object) -> object:
        raise socket.gaierror("no such host")

    monkeypatch.setattr(addresses.socket, "getaddrinfo", no_answer)
    assert addresses.local_addresses() == ()


def test_real_addresses_can_be_bound() -> None:
    for text in addresses.local_addresses():
        family = socket.AF_INET6 if ":" in text else socket.AF_INET
        with socket.socket(family) as sock:
            sock.bind((text, 0))


def test_no_family_no_route(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_socket(*args: object) -> object:
        raise OSError("address family not supported")

    monkeypatch.setattr(addresses.socket, "socket", no_socket)
    assert list(addresses._preferred()) == []


def test_near_candidates_come_first() -> None:
    offer = addresses.candidates(4000, "@near", addresses=["198.51.100.7", "2001:db8::7"])
    assert offer.place == addresses.place()
    assert offer.at == (
        Candidate("unix", "@near"),
        Candidate("tcp4", "127.0.0.1", 4000),
        Candidate("tcp6", "::1", 4000),
        Candidate("tcp4", "198.51.100.7", 4000),
        Candidate("tcp6", "2001:db8::7", 4000),
    )


def test_without_v6_none_is_offered() -> None:
    offer = addresses.candidates(4000, v6=False, addresses=["198.51.100.7", "2001:db8::7"])
    assert [c.host for c in offer.at] == ["127.0.0.1", "198.51.100.7"]


def test_many_addresses_fit_the_limit() -> None:
    many = [f"198.51.100.{i}" for i in range(200)] + [f"2001:db8:1234:5678:9abc:def0:1234:{i:x}" for i in range(200)]
    offer = addresses.candidates(65535, "@" + "x" * 90, addresses=many)
    assert len(encode_candidates(offer)) <= MAX_CANDIDATES
    assert len(offer.at) == 3 + 2 * addresses.MAX_ADDRESSES
    cut = addresses.candidates(65535, "@" + "x" * 700, addresses=many)
    assert len(encode_candidates(cut)) <= MAX_CANDIDATES
    assert cut.at[0].kind == "unix"


def test_place_is_the_same_for_the_same_stack() -> None:
    assert addresses.place() == addresses.place()
    assert len(addresses.place()) == 8


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="network name spaces are Linux's")
def test_place_differs_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = addresses.place()
    monkeypatch.setattr(addresses, "_BOOT_ID", tmp_path / "absent")
    assert len(addresses.place()) == 8
    assert addresses.place() != here
