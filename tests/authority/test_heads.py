"""Signed heads: what is signed, and what is not believed."""

import msgspec
import pytest

from tests.authority import kit
from tests.authority.kit import ADMIN, ISSUER, WALL
from trunkline.authority.heads import CONTEXT, check_head, read_head, revoked_digest, sign_head
from trunkline.authority.merkle import statement_hash
from trunkline.authority.messages import Head, SignedHead
from trunkline.errors import BadSignature

HEAD = Head(ADMIN.realm, 7, b"l" * 32, b"m" * 32, WALL, revoked_digest(()), ISSUER.key_id)


def test_a_head_is_signed_the_same_each_time_and_read_again():
    signed = sign_head(HEAD, ISSUER)
    assert signed == sign_head(HEAD, ISSUER)
    assert read_head(signed) == HEAD
    check_head(signed, ISSUER.authority)
    assert len(signed.body) <= 256


def test_every_altered_byte_of_a_head_is_noticed():
    signed = sign_head(HEAD, ISSUER)
    for place in range(len(signed.body)):
        body = signed.body[:place] + bytes([signed.body[place] ^ 1]) + signed.body[place + 1 :]
        with pytest.raises(BadSignature):
            check_head(SignedHead(body, signed.signature), ISSUER.authority)


def test_another_key_or_another_context_is_not_believed():
    signed = sign_head(HEAD, ISSUER)
    for signature in (
        sign_head(HEAD, ADMIN.issuer(2)).signature,
        ISSUER.sign(signed.body),
        ISSUER.sign(b"trunkline statement v1\0" + signed.body),
        b"",
    ):
        with pytest.raises(BadSignature, match="the head is not signed"):
            check_head(SignedHead(signed.body, signature), ISSUER.authority)
    assert CONTEXT == b"trunkline head v1\0"


def test_what_is_no_head_or_has_another_form_is_refused():
    fields = msgspec.msgpack.decode(sign_head(HEAD, ISSUER).body)
    for body, text in (
        (b"", "is no head"),
        (b"\x90", "is no head"),
        (msgspec.msgpack.encode([*fields[:1], -1, *fields[2:]]), "is no head"),
        (msgspec.msgpack.encode([*fields, 1]), "not in the one form"),
        (b"\xdc\x00\x07" + msgspec.msgpack.encode(fields)[1:], "not in the one form"),
    ):
        with pytest.raises(BadSignature, match=text):
            read_head(SignedHead(body, b""))


def test_what_is_revoked_and_what_is_retired_is_all_in_the_digest():
    one, other = kit.retire(b"1" * 32), kit.retire(b"2" * 32)
    digests = [revoked_digest(serials, retired) for serials in ((), [b"a" * 16]) for retired in ((), (one,), (other,))]
    digests += [revoked_digest((), (one, other)), revoked_digest((), (other, one))]
    leaf = statement_hash(one)
    digests.append(revoked_digest([leaf[:16], leaf[16:]]))  # the same bytes as of a Retire statement
    assert len(set(digests)) == len(digests)


def test_revoked_serials_are_hashed_in_order():
    assert revoked_digest([b"a" * 16, b"b" * 16]) == revoked_digest([b"b" * 16, b"a" * 16])
    assert revoked_digest([b"a" * 16]) != revoked_digest([])
