"""A realm for the simulator: keys that are the same each time, a script of requests, and who runs the machines.

A *writer* works through the script against the authority, saying each request again until it is answered. A *reader*
asks for the record of one user, now of the authority, now of the replica, and believes nothing that its trust doesn't.
"""

import hashlib
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519

from trunkline.authority import requests as say
from trunkline.authority.directory import Directory
from trunkline.authority.events import DirectoryConfig, Received, Save, Saved
from trunkline.authority.heads import read_head
from trunkline.authority.issuing import Issuer, build_intermediate, build_request, build_root
from trunkline.authority.merkle import statement_hash
from trunkline.authority.messages import AskHead, Issue, Submit
from trunkline.authority.replica import Replica
from trunkline.authority.rules import judge, read_statement
from trunkline.authority.statements import X25519, PublicKeys, Record, Signed
from trunkline.authority.store import MemoryStore, Reader
from trunkline.authority.trust import Trust

REALM: Final = "sim.example"
USER: Final = "ann"
EPOCH: Final = 1_700_000_000
"""The wall clock, in seconds since 1970, when the world's says 0."""

CHANGED: Final = 2
"""The statement, counted from 0, from which on the user's key is another than the one that was certified."""

ASK: Final = AskHead(0, 0)

_DAY: Final = 86_400
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256


class Cast:
    """The machines that play, and the keys of their realm; a broken rule replaces a machine."""

    def __init__(
        self,
        directory: type[Directory] = Directory,
        replica: type[Replica] = Replica,
        trust: type[Trust] = Trust,
    ) -> None:
        self._directory = directory
        self._replica = replica
        self._trust = trust
        root_key, key = _p256("root"), _p256("authority")
        start, end = EPOCH - _DAY, EPOCH + 365 * _DAY
        self.root = build_root(REALM, root_key, _serial(1), start, end)
        certificate = build_intermediate(self.root, root_key, key.public_key(), _serial(2), start, end)
        self.issuer = Issuer(self.root, certificate, key)
        self.authorities = (certificate,)
        self.script, self.records = _write_script(self.issuer, root_key)
        other = _ed25519("mallory")
        self.forged = say.insert(self.issuer.fingerprint, USER, _public(other), other.sign)
        """A statement that is in order, and not in the log."""
        self.history = self._write_history()

    def directory(self, reader: Reader, clock: int, now: float) -> Directory:
        """Start the authority on what is on its disk; its wall clock is ``clock`` seconds off."""
        return self._directory(self._config(clock), reader=reader, issuer=self.issuer, seed=b"sim", now=now)

    def replica(self, reader: Reader, now: float) -> Replica:
        """Start a replica on what is on its disk."""
        return self._replica(DirectoryConfig(self.root, (), EPOCH), reader=reader, now=now)

    def trust(self, state: bytes | None) -> Trust:
        """Start the reader on what it has kept."""
        return self._trust(REALM, self.root, state=state)

    def _config(self, clock: int) -> DirectoryConfig:
        return DirectoryConfig(self.root, self.authorities, EPOCH + clock)

    def _write_history(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return the roots of log and map after each statement, from none on."""
        store = MemoryStore()
        authority = Directory(self._config(0), reader=store, issuer=self.issuer, seed=b"sim", now=0.0)
        roots = [(b"", b"")]
        for request in self.script:
            for effect in authority.step(Received(((0, request),)), 0.0):
                if isinstance(effect, Save):
                    store.apply(effect.batch)
                    authority.step(Saved(), 0.0)
            saved = store.head()
            assert saved is not None, "the first request is a statement"
            head = read_head(saved)
            if head.size == len(roots):
                roots.append((head.log, head.map))
        empty = Directory(self._config(0), reader=MemoryStore(), issuer=self.issuer, seed=b"sim", now=0.0)
        first = next(each for each in empty.step(Received(((0, ASK),)), 0.0) if isinstance(each, Save)).batch.head
        assert first is not None, "a head is saved before it is shown"
        roots[0] = (read_head(first).log, read_head(first).map)
        return tuple(roots)


def _write_script(
    issuer: Issuer, root_key: ec.EllipticCurvePrivateKey
) -> tuple[tuple[Submit | Issue, ...], list[Record]]:
    """Return what the writer asks for in turn, and the record of `USER` after each statement."""
    realm, root = issuer.fingerprint, say.root_signer(root_key)
    old, new = _ed25519("old"), _ed25519("new")
    records: list[Record] = []

    def said(signed: Signed) -> Submit:
        outcome = judge(
            signed,
            read_statement(signed),
            records[-1] if records else None,
            index=len(records),
            leaf=statement_hash(signed),
            realm=realm,
            root=root_key.public_key(),
        )
        records.append(outcome.record)
        return Submit(0, signed)

    script: list[Submit | Issue] = [
        said(say.insert(realm, USER, _public(old), old.sign)),
        said(say.approve(realm, records[-1], root)),
        say.issue(realm, USER, EPOCH, build_request(_p256("leaf"), USER), old.sign),
        said(say.change(realm, records[-1], _public(new), old.sign, new.sign)),
        said(say.delete(realm, records[-1], root, "left")),
    ]
    return tuple(script), records


def _public(key: ed25519.Ed25519PrivateKey) -> PublicKeys:
    other = x25519.X25519PrivateKey.from_private_bytes(hashlib.sha256(key.private_bytes_raw()).digest())
    return PublicKeys(key.public_key().public_bytes_raw(), X25519, other.public_key().public_bytes_raw())


def _ed25519(name: str) -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def _p256(name: str) -> ec.EllipticCurvePrivateKey:
    number = int.from_bytes(hashlib.sha512(name.encode()).digest(), "big") % (_ORDER - 1) + 1
    return ec.derive_private_key(number, ec.SECP256R1())


def _serial(number: int) -> bytes:
    return number.to_bytes(16, "big")
