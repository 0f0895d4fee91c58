"""Users with fixed keys, and the little of a membership that sealing needs: no directory, no disk."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from trunkline.authority.statements import APPROVED, NOTHING, X25519, X25519_MLKEM768, PublicKeys, Record
from trunkline.names import digest

REALM = digest(b"the realm of the tests", 32)
SUITES = (X25519, X25519_MLKEM768)


class FixedKey:
    """A user's keys, made of a word: the same each time."""

    def __init__(self, word: str, suite: int) -> None:
        seed = word.encode()
        self._signing = Ed25519PrivateKey.from_private_bytes(digest(seed + b" signing", 32))
        self.x25519 = X25519PrivateKey.from_private_bytes(digest(seed + b" x25519", 32))
        self.mlkem768 = MLKEM768PrivateKey.from_seed_bytes(digest(seed + b" mlkem", 64)) if suite != X25519 else None
        encryption = self.x25519.public_key().public_bytes_raw()
        if self.mlkem768 is not None:
            encryption = self.mlkem768.public_key().public_bytes_raw() + encryption
        self.public = PublicKeys(self._signing.public_key().public_bytes_raw(), suite, encryption)

    def sign(self, data: bytes) -> bytes:
        return self._signing.sign(data)


def record(user: str, keys: PublicKeys, state: int = APPROVED) -> Record:
    """Return the directory's entry for a user."""
    return Record(user, state, keys, 0, NOTHING)


class FixedMember:
    """One user, and a directory that all members of a test share."""

    def __init__(self, user: str, directory: dict[str, Record], suite: int = X25519, word: str = "") -> None:
        self.fingerprint = REALM
        self.user: str | None = user
        self.key: FixedKey | None = FixedKey(word or user, suite)
        self.directory = directory
        self.asked: list[str] = []
        directory[user] = record(user, self.key.public)

    def get(self, user: str) -> Record | None:
        self.asked.append(user)
        return self.directory.get(user)
