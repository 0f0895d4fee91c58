"""The whole table of who may say what when: every state, statement and signer."""

import itertools

import msgspec
import pytest

from tests.authority.kit import ADMIN, ISSUER, Administrator, Person, signed
from trunkline.authority.rules import (
    FREE,
    KEY_SIZES,
    RETIRED_USER,
    RULES,
    encode_statement,
    judge,
    read_statement,
    statement_bytes,
)
from trunkline.authority.statements import (
    APPROVED,
    DELETED,
    NOTHING,
    TENTATIVE,
    X25519,
    X25519_MLKEM768,
    AnyStatement,
    Approve,
    Change,
    Delete,
    Insert,
    PublicKeys,
    Record,
    Retire,
    Signed,
)
from trunkline.errors import BadSignature, InvalidUser, NameTaken, NotAllowed, TrunklineError

OLD, NEW, EVE = Person("ann"), Person("ann", 1), Person("eve")
SIGNERS = {"old": OLD, "new": NEW, "root": ADMIN, "eve": EVE, "authority": ISSUER, "other root": Administrator(4712)}
LATEST, LEAF = b"p" * 32, b"l" * 32
KINDS = {
    "insert": Insert(ADMIN.realm, "ann", LATEST, NEW.keys, "the desk"),
    "approve": Approve(ADMIN.realm, "ann", LATEST, OLD.signing),
    "change": Change(ADMIN.realm, "ann", LATEST, OLD.signing, NEW.keys),
    "delete": Delete(ADMIN.realm, "ann", LATEST, OLD.signing, "gone"),
    "retire": Retire(ADMIN.realm, RETIRED_USER, LATEST, ISSUER.key_id),
}
STATES = (FREE, TENTATIVE, APPROVED, DELETED)

# (statement, state, first signer, second signer): the state afterwards. Everything that is not here is refused.
ALLOWED = {
    ("insert", FREE, "new", None): TENTATIVE,
    ("insert", DELETED, "new", None): TENTATIVE,
    ("approve", TENTATIVE, "root", None): APPROVED,
    ("change", TENTATIVE, "old", "new"): TENTATIVE,
    ("change", APPROVED, "old", "new"): APPROVED,
    ("delete", TENTATIVE, "old", None): DELETED,
    ("delete", APPROVED, "old", None): DELETED,
    ("delete", TENTATIVE, "root", None): DELETED,
    ("delete", APPROVED, "root", None): DELETED,
    ("retire", FREE, "root", None): DELETED,
    ("retire", DELETED, "root", None): DELETED,
}


def entry(state: int, user: str = "ann") -> Record | None:
    if state == FREE:
        return None
    return Record(user, state, OLD.keys, 4, LATEST, "asked", 3 if state == APPROVED else -1)


def decide(statement: AnyStatement | Signed, record: Record | None, *signers):
    said = statement if isinstance(statement, Signed) else signed(statement, *signers)
    return judge(said, read_statement(said), record, index=7, leaf=LEAF, realm=ADMIN.realm, root=ADMIN.anchor.key)


def fitting(kind: str, state: int) -> AnyStatement:
    return msgspec.structs.replace(KINDS[kind], previous=NOTHING if state == FREE else LATEST)


@pytest.mark.parametrize(("kind", "state"), [*itertools.product(KINDS, STATES)])
def test_every_state_statement_and_signer(kind, state):
    statement = fitting(kind, state)
    for first, second in itertools.product(SIGNERS, [None, *SIGNERS]):
        signers = [SIGNERS[name] for name in (first, second) if name is not None]
        expected = ALLOWED.get((kind, state, first, second))
        if expected is None:
            with pytest.raises((NotAllowed, NameTaken, BadSignature)):
                decide(statement, entry(state, statement.user), *signers)
        else:
            assert decide(statement, entry(state, statement.user), *signers).record.state == expected


def test_the_table_and_the_test_know_the_same_statements():
    assert set(RULES) == {type(each) for each in KINDS.values()}
    rows = {(kind, state) for kind, state, *_ in ALLOWED}
    assert rows == {(kind, state) for kind in KINDS for state in RULES[type(KINDS[kind])].states}


@pytest.mark.parametrize(("kind", "state"), sorted({(kind, state) for kind, state, *_ in ALLOWED}))
def test_what_would_be_allowed_is_refused_out_of_its_place(kind, state):
    statement = fitting(kind, state)
    signers = [[SIGNERS[name] for name in names if name] for k, s, *names in ALLOWED if (k, s) == (kind, state)]
    replace = msgspec.structs.replace
    for each in signers:
        for bad, text in (
            (replace(statement, previous=b"x" * 32), "look the entry up again"),
            (replace(statement, realm=b"r" * 32), "another realm"),
            (replace(statement, user="ann" if kind == "retire" else RETIRED_USER), "stands for retired keys"),
        ):
            with pytest.raises(NotAllowed, match=text):
                decide(bad, entry(state, bad.user), *each)
        if kind in ("approve", "change", "delete"):
            with pytest.raises(NotAllowed, match="is not the one that"):
                decide(replace(statement, signing=EVE.signing), entry(state), *each)


def test_what_comes_of_each():
    approved, tentative = entry(APPROVED), entry(TENTATIVE)
    made = decide(fitting("insert", FREE), None, NEW)
    assert made.record == Record("ann", TENTATIVE, NEW.keys, 7, LEAF, "the desk", -1)
    assert made.lost is None
    again = decide(fitting("insert", DELETED), entry(DELETED), NEW)
    assert (again.record, again.lost) == (made.record, None)
    done = decide(KINDS["approve"], tentative, ADMIN)
    assert (done.record, done.lost) == (Record("ann", APPROVED, OLD.keys, 7, LEAF, "asked", 7), None)
    changed = decide(KINDS["change"], approved, OLD, NEW)
    assert (changed.record, changed.lost) == (Record("ann", APPROVED, NEW.keys, 7, LEAF, "asked", 3), OLD.signing)
    gone = decide(KINDS["delete"], approved, OLD)
    assert (gone.record, gone.lost) == (Record("ann", DELETED, OLD.keys, 7, LEAF, "asked", 3), OLD.signing)
    retired = decide(fitting("retire", FREE), None, ADMIN)
    assert retired.record == Record(RETIRED_USER, DELETED, PublicKeys(ISSUER.key_id, 0, b""), 7, LEAF)
    assert retired.lost is None


def test_a_change_of_the_encryption_key_alone_loses_no_key():
    keys = msgspec.structs.replace(OLD.keys, encryption=b"e" * 32)
    outcome = decide(Change(ADMIN.realm, "ann", LATEST, OLD.signing, keys), entry(APPROVED), OLD, OLD)
    assert (outcome.record.keys, outcome.lost) == (keys, None)


def test_errors_say_what_to_do():
    with pytest.raises(NameTaken, match="its entry is approved; `trunkline key change` needs the key that is there"):
        decide(KINDS["insert"], entry(APPROVED), NEW)
    with pytest.raises(NotAllowed, match="Approve can't be said about 'ann', who is not in the directory"):
        decide(fitting("approve", FREE), None, ADMIN)
    with pytest.raises(NotAllowed, match="who is deleted"):
        decide(KINDS["change"], entry(DELETED), OLD, NEW)
    with pytest.raises(BadSignature, match="Approve of 'ann' is not signed by the realm's administrator"):
        decide(KINDS["approve"], entry(TENTATIVE), EVE)
    with pytest.raises(BadSignature, match="a second signature, which means nothing"):
        decide(KINDS["approve"], entry(TENTATIVE), ADMIN, ADMIN)


def test_what_is_no_key_at_all_signs_nothing():
    keys = PublicKeys(b"\xff" * 32, X25519, bytes(32))
    with pytest.raises(BadSignature):
        decide(Insert(ADMIN.realm, "ann", NOTHING, keys), None, NEW)
    good = signed(fitting("insert", FREE), NEW)
    for signature in (b"", good.signature[:-1], good.signature + b"\0"):
        with pytest.raises(BadSignature):
            decide(msgspec.structs.replace(good, signature=signature), None)


@pytest.mark.parametrize("kind", ["insert", "change"])
def test_encryption_keys_have_the_size_of_their_suite(kind):
    state, signers = (FREE, [NEW]) if kind == "insert" else (APPROVED, [OLD, NEW])
    for suite, size in KEY_SIZES.items():
        keys = PublicKeys(NEW.signing, suite, bytes(size))
        assert decide(msgspec.structs.replace(fitting(kind, state), keys=keys), entry(state), *signers)
    for suite, size in ((0, 32), (3, 32), (X25519, 31), (X25519, 1216), (X25519_MLKEM768, 32)):
        keys = PublicKeys(NEW.signing, suite, bytes(size))
        with pytest.raises(NotAllowed, match="the encryption key of 'ann' has"):
            decide(msgspec.structs.replace(fitting(kind, state), keys=keys), entry(state), *signers)


def test_what_is_signed_has_a_context_of_its_own():
    body = encode_statement(KINDS["insert"])
    assert statement_bytes(body) == b"trunkline statement v1\0" + body
    bare = Signed(body, NEW.sign(body))
    with pytest.raises(BadSignature):
        decide(bare, entry(DELETED))


def test_every_altered_byte_of_a_statement_is_noticed():
    good = signed(fitting("change", APPROVED), OLD, NEW)
    for place in range(len(good.body)):
        body = good.body[:place] + bytes([good.body[place] ^ 1]) + good.body[place + 1 :]
        with pytest.raises(TrunklineError):
            decide(msgspec.structs.replace(good, body=body), entry(APPROVED))


def test_a_statement_has_one_form():
    fields = msgspec.msgpack.decode(encode_statement(KINDS["approve"]))
    assert read_statement(Signed(msgspec.msgpack.encode(fields), b"")) == KINDS["approve"]
    longer = msgspec.msgpack.encode([*fields, "more"])
    for body, text in (
        (longer, "not in the one form"),
        (b"\xdc\x00\x05" + msgspec.msgpack.encode(fields)[1:], "not in the one form"),
        (b"", "is none"),
        (b"\x91" * 5000, "is none"),
        (msgspec.msgpack.encode([9, *fields[1:]]), "is none"),
        (msgspec.msgpack.encode([fields[0], b"short", *fields[2:]]), "is none"),
    ):
        with pytest.raises(BadSignature, match=text):
            read_statement(Signed(body, b""))
    with pytest.raises(InvalidUser):
        read_statement(signed(msgspec.structs.replace(KINDS["approve"], user="a b")))
