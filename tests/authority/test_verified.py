"""What is verified once: bounded, and forgotten with the head that it was verified under."""

from msgspec.structs import replace

from tests.authority.kit import ADMIN, ISSUER, WALL
from trunkline.authority.messages import Head
from trunkline.authority.verified import Verified

HEAD = Head(ADMIN.realm, 7, b"l" * 32, b"m" * 32, WALL, bytes(32), ISSUER.key_id)


def test_nodes_are_forgotten_with_their_roots(monkeypatch):
    monkeypatch.setattr("trunkline.authority.verified.MAX_SUBTREES", 1)
    for other in (replace(HEAD, log=bytes(32)), replace(HEAD, map=bytes(32)), replace(HEAD, size=8)):
        verified = Verified()
        verified.under(HEAD)
        verified.map[1], verified.log[0, 0] = bytes(32), bytes(32)
        verified.under(replace(HEAD, time=WALL + 1))
        assert verified.map
        assert verified.log
        verified.under(other)
        assert not verified.map
        assert not verified.log
    verified.log.update({(0, 0): bytes(32), (0, 1): bytes(32)})
    verified.under(other)
    assert not verified.log


def test_statements_are_known_whatever_the_head_and_so_many(monkeypatch):
    monkeypatch.setattr("trunkline.authority.verified.MAX_STATEMENTS", 2)
    verified = Verified()
    for number in range(3):
        verified.under(replace(HEAD, size=number))
        verified.keep(bytes([number]), b"value")
    assert [verified.rests(bytes([number]), b"value") for number in range(3)] == [False, True, True]
    assert not verified.rests(b"\2", b"another")
    verified.forget_statements()
    assert not verified.rests(b"\2", b"value")
