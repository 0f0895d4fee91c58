"""Users with fixed keys, and the little of a membership that sealing needs: no directory, no disk."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from trunkline.authority.statements import APPROVED, NOTHING, X25519, X25519_MLKEM768, PublicKeys, Record
from trunkline.drivers.keys import UserKey
from trunkline.names import digest

REALM = digest(b"the realm of the tests", 32)
SUITES = (X25519, X25519_MLKEM768)


def fixed_key(word: str, suite: int = X25519) -> UserKey:
    """Return a user's keys, made of a word: the same each time."""
    seed = word.encode()
    return UserKey(
        Ed25519PrivateKey.from_private_bytes(digest(seed + b" signing", 32)),
        X25519PrivateKey.from_private_bytes(digest(seed + b" x25519", 32)),
        MLKEM768PrivateKey.from_seed_bytes(digest(seed + b" mlkem", 64)) if suite == X25519_MLKEM768 else None,
    )


def record(user: str, keys: PublicKeys, state: int = APPROVED) -> Record:
    """Return the directory's entry for a user."""
    return Record(user, state, keys, 0, NOTHING)


class FixedMember:
    """One user, and a directory that all members of a test share."""

    def __init__(self, user: str, directory: dict[str, Record], suite: int = X25519, word: str = "") -> None:
        self.fingerprint = REALM
        self.user: str | None = user
        self.key = fixed_key(word or user, suite)
        self.directory = directory
        self.asked: list[str] = []
        directory[user] = record(user, self.key.public)

    def get(self, user: str) -> Record | None:
        self.asked.append(user)
        return self.directory.get(user)
