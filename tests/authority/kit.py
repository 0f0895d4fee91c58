"""A realm in memory for the tests of the directory: keys, statements, and a store that is written as a driver would."""

from hashlib import sha256

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trunkline.authority import messages as msg
from trunkline.authority.certificates import issue_bytes, parse_root
from trunkline.authority.directory import Directory
from trunkline.authority.events import DirectoryConfig, Log, Received, Save, Saved, Send, Tick
from trunkline.authority.heads import check_head, read_head
from trunkline.authority.issuing import DAY, Issuer, build_intermediate, build_request, build_root
from trunkline.authority.mapping import map_key, record_hash, verify
from trunkline.authority.merkle import statement_hash, verify_consistency, verify_inclusion
from trunkline.authority.rules import RETIRED_USER, encode_statement, statement_bytes
from trunkline.authority.statements import (
    NOTHING,
    X25519,
    Approve,
    Change,
    Delete,
    Insert,
    PublicKeys,
    Record,
    Retire,
    Signed,
)
from trunkline.authority.store import MemoryStore

WALL = 1_800_000_000
REALM = "lab.example"


def p256(number: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(number, ec.SECP256R1())


class Person:
    """A user's key; other generations of it have other numbers."""

    def __init__(self, name: str, number: int = 0) -> None:
        self.name = name
        self.key = Ed25519PrivateKey.from_private_bytes(sha256(f"{name} {number}".encode()).digest())
        self.signing = self.key.public_key().public_bytes_raw()
        self.keys = PublicKeys(self.signing, X25519, sha256(self.signing).digest())

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(data)


class Administrator:
    """The realm's root key."""

    def __init__(self, number: int = 4711) -> None:
        self.key = p256(number)
        self.root = build_root(REALM, self.key, bytes(15) + b"\1", WALL - DAY, WALL + 3650 * DAY)
        self.anchor = parse_root(self.root)
        self.realm = self.anchor.key_id

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))

    def issuer(self, number: int = 1) -> Issuer:
        key = p256(1000 + number)
        certificate = build_intermediate(
            self.root, self.key, key.public_key(), bytes(14) + b"\2%c" % number, WALL - DAY, WALL + 365 * DAY
        )
        return Issuer(self.root, certificate, key)


def signed(statement, *signers) -> Signed:
    body = encode_statement(statement)
    return Signed(body, *([each.sign(statement_bytes(body)) for each in signers] or [b""]))


ADMIN = Administrator()
ISSUER = ADMIN.issuer()


def insert(
    who: Person, previous: bytes = NOTHING, *, name: str = "", realm: bytes = ADMIN.realm, requester=""
) -> Signed:
    return signed(Insert(realm, name or who.name, previous, who.keys, requester), who)


def approve(who: Person, previous: bytes, by=ADMIN, realm: bytes = ADMIN.realm) -> Signed:
    return signed(Approve(realm, who.name, previous, who.signing), by)


def change(old: Person, new: Person, previous: bytes) -> Signed:
    return signed(Change(ADMIN.realm, old.name, previous, old.signing, new.keys), old, new)


def delete(who: Person, previous: bytes, by=None) -> Signed:
    return signed(Delete(ADMIN.realm, who.name, previous, who.signing), by or who)


def retire(key_id: bytes, previous: bytes = NOTHING, by=ADMIN) -> Signed:
    return signed(Retire(ADMIN.realm, RETIRED_USER, previous, key_id), by)


def leaf(statement: Signed) -> bytes:
    return statement_hash(statement)


def issue(who: Person, query: int = 1, *, key: int = 7, time: int = WALL, by: Person | None = None, request=None):
    request = build_request(p256(key), who.name) if request is None else request
    signature = (by or who).sign(issue_bytes(ADMIN.realm, who.name, time, request))
    return msg.Issue(query, who.name, request, time, signature)


def config(**settings) -> DirectoryConfig:
    return DirectoryConfig(ADMIN.root, (ISSUER.authority.certificate,), WALL, **settings)


class Desk:
    """A directory and its store, driven as a driver would."""

    def __init__(self, store: MemoryStore | None = None, now: float = 0.0, **settings) -> None:
        self.store = MemoryStore() if store is None else store
        self.now = now
        self.config = settings.pop("config", None) or config(**settings)
        self.issuer = settings.pop("issuer", ISSUER)
        self.machine = Directory(self.config, reader=self.store, issuer=self.issuer, seed=b"s" * 16, now=now)
        self.logs: list[Log] = []
        self.saves = 0
        self.query = 0

    def ask(self, *requests):
        """Hand over all these at once and return the answers in the order of the requests."""
        named = []
        for request in requests:
            self.query += 1
            named.append(msgspec.structs.replace(request, query=self.query))
        answers = self.drive(Received(tuple((-1, each) for each in named)))
        answers = {answer.query: answer for answer in answers}
        found = [answers[each.query] for each in named]
        return found[0] if len(found) == 1 else found

    def tick(self):
        return self.drive(Tick())

    def drive(self, event):
        answers, events = [], [event]
        while events:
            for effect in self.machine.step(events.pop(0), self.now):
                match effect:
                    case Save():
                        self.store.apply(effect.batch)
                        self.saves += 1
                        events.append(Saved())
                    case Send():
                        answers.append(effect.answer)
                    case Log():
                        self.logs.append(effect)
        return answers

    def submit(self, *statements: Signed):
        return self.ask(*(msg.Submit(0, each) for each in statements))

    def get(self, user: str, since: msg.Head | None = None) -> Record | None:
        """Ask for a record and check everything that comes with it, as any client does."""
        return check_found(self.ask(msg.Get(0, user, since.size if since else 0)), user, since, self.issuer)

    def head(self) -> msg.Head:
        return read_head(self.ask(msg.AskHead(0)).head)

    def add(self, who: Person, *, approved: bool = True) -> Record:
        """Insert a user, approved."""
        first = insert(who)
        self.submit(first, *([approve(who, leaf(first))] if approved else []))
        record = self.get(who.name)
        assert record is not None
        return record


def check_found(found, user: str, since: msg.Head | None = None, issuer: Issuer = ISSUER) -> Record | None:
    assert isinstance(found, msg.Found), found
    check_head(found.head, issuer.authority)
    head = read_head(found.head)
    value = None if found.record is None else record_hash(found.record)
    verify(map_key(user), value, found.proof, head.map)
    if found.record is not None:
        assert found.record.user == user
        assert found.record.latest == statement_hash(found.statement)
        verify_inclusion(found.record.latest, found.record.index, head.size, found.inclusion, head.log)
    if since is not None:
        verify_consistency(since.size, head.size, since.log, head.log, found.consistency)
    return found.record


def refused(answer, error, text: str) -> None:
    assert isinstance(answer, msg.Denied), answer
    assert answer.code == error.code
    assert text in answer.text, answer.text
