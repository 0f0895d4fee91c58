"""Statements carried by hand: out, approved, and back; and what may happen to the file on the way."""

import base64

import msgspec
import pytest
from msgspec.structs import replace

from tests.authority import kit
from tests.authority.kit import ADMIN, Administrator, Desk, Person
from trunkline.authority.approvals import MAX_FILE, MAX_STATEMENTS, check_pending, decode_file, encode_file
from trunkline.authority.messages import History, Stored
from trunkline.authority.requests import approve, root_signer
from trunkline.authority.statements import APPROVED
from trunkline.errors import BadSignature, ConfigError, NotAllowed, TrustError

ANN, BEN, NEW = Person("ops/ann"), Person("ben"), Person("ops/ann", 2)
ROOT = root_signer(ADMIN.key)


def latest(desk, user):
    return desk.ask(History(0, user)).statements[-1][1]


def test_the_whole_way():
    desk = Desk()
    desk.submit(kit.insert(ANN, requester="the help desk"), kit.insert(BEN))
    desk.submit(kit.change(ANN, NEW, desk.get("ops/ann").latest))
    out = encode_file(ADMIN.realm, [latest(desk, "ops/ann"), latest(desk, "ben")])
    assert "# change of ops/ann, new key ed25519:" in out

    records = [check_pending(signed, ADMIN.anchor) for signed in decode_file(out, ADMIN.realm)]
    assert [(each.user, each.keys) for each in records] == [("ops/ann", NEW.keys), ("ben", BEN.keys)]
    back = encode_file(ADMIN.realm, [approve(ADMIN.realm, each, ROOT) for each in records])

    for signed in decode_file(back, ADMIN.realm):
        assert isinstance(desk.submit(signed), Stored)
    assert desk.get("ops/ann").state == desk.get("ben").state == APPROVED


def test_people_can_read_it():
    statements = [
        kit.insert(ANN, requester="the help desk"),
        kit.approve(ANN, bytes(32)),
        kit.change(ANN, NEW, bytes(32)),
        kit.delete(ANN, bytes(32)),
        kit.retire(bytes(32)),
    ]
    text = encode_file(ADMIN.realm, statements)
    assert text.startswith("trunkline statements 1\nrealm ")
    for word in ("asked for by 'the help desk'", "approval of ops/ann", "new key", "deletion of", "retirement of"):
        assert word in text
    assert decode_file("\n" + text.replace("\n", " \r\n"), ADMIN.realm) == statements


def test_an_approval_fits_nothing_that_has_changed_meanwhile():
    desk = Desk()
    desk.submit(kit.insert(ANN))
    record = check_pending(latest(desk, "ops/ann"), ADMIN.anchor)
    desk.submit(kit.change(ANN, NEW, record.latest))
    assert "look the entry up again" in desk.submit(approve(ADMIN.realm, record, ROOT)).text


def test_a_name_inserted_again_after_it_was_deleted():
    desk = Desk()
    desk.add(ANN)
    desk.submit(kit.delete(ANN, desk.get("ops/ann").latest))
    desk.submit(kit.insert(NEW, desk.get("ops/ann").latest))
    record = check_pending(latest(desk, "ops/ann"), ADMIN.anchor)
    assert isinstance(desk.submit(approve(ADMIN.realm, record, ROOT)), Stored)


class TestWhatIsNotSigned:
    def test_inserted_with_another_key_than_its_own(self):
        forged = replace(kit.insert(ANN), signature=kit.insert(BEN).signature)
        with pytest.raises(BadSignature, match="not signed by the new key itself"):
            check_pending(forged, ADMIN.anchor)

    def test_changed_without_the_old_key(self):
        forged = kit.signed(kit.Change(ADMIN.realm, "ops/ann", b"\1" * 32, ANN.signing, NEW.keys), NEW, NEW)
        with pytest.raises(BadSignature, match="the key that is there"):
            check_pending(forged, ADMIN.anchor)

    def test_what_needs_no_approval(self):
        for signed in (kit.approve(ANN, bytes(32)), kit.delete(ANN, bytes(32)), kit.retire(bytes(32))):
            with pytest.raises(NotAllowed, match="nothing to approve"):
                check_pending(signed, ADMIN.anchor)

    def test_of_another_realm(self):
        with pytest.raises(NotAllowed, match="another realm"):
            check_pending(kit.insert(ANN), Administrator(1).anchor)
        with pytest.raises(TrustError, match="for the realm"):
            decode_file(encode_file(bytes(32), []), ADMIN.realm)


GOOD = encode_file(ADMIN.realm, [kit.insert(ANN)])
HEAD = "\n".join(GOOD.splitlines()[:2]) + "\n"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "does not begin with"),
        ("something else\n", "does not begin with"),
        ("trunkline statements 1\n", "does not say its realm"),
        ("trunkline statements 1\nrealm x\n", "line 2: the realm name"),
        (HEAD + "word abc\n", "line 3: 'word' is no word"),
        (HEAD + "statement ä\n", "line 3: the statement is damaged"),
        (HEAD + "statement abc\n", "line 3: the statement is damaged"),
        (HEAD + "statement AAAA\n", "line 3: the statement is damaged"),
        (HEAD + "statement x\n" * (MAX_STATEMENTS + 1), f"and the limit is {MAX_STATEMENTS}"),
        (" " * (MAX_FILE + 1), "is larger than"),
    ],
)
def test_damaged_files_say_where(text, error):
    with pytest.raises(ConfigError, match=error):
        decode_file(text, ADMIN.realm)


def test_any_altered_byte_of_a_statement_is_found():
    signed = kit.insert(ANN)
    data = msgspec.msgpack.encode(signed)
    for place in range(len(data)):
        altered = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        text = HEAD + f"statement {base64.b64encode(altered).decode()}\n"
        with pytest.raises((ConfigError, BadSignature, NotAllowed)):
            check_pending(decode_file(text, ADMIN.realm)[0], ADMIN.anchor)
