"""What encrypt() and decrypt() add to HPKE: signature, header and checks, without the directory's look-up.

The rows take turns, a call each, so that noise on the machine meets all alike. The first of each pair is HPKE alone, by
the same library with the same suite and key; the directory is a dictionary. Datagrams are sealed and opened in the same
way, beside the bare AEAD.

    python benchmarks/sealing.py [--size BYTES ...] [--rounds N]
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from trunkline.authority import sealing
from trunkline.authority.statements import APPROVED, NOTHING, X25519, X25519_MLKEM768, Record
from trunkline.drivers.keys import UserKey
from trunkline.drivers.sealing import decrypt, encrypt, private_key
from trunkline.meeting.datagram_keys import derive
from trunkline.meeting.datagrams import Opener, Sealer
from trunkline.meeting.handshake import Role
from trunkline.names import Secret

KEM = {X25519: "X25519", X25519_MLKEM768: "X25519 + ML-KEM-768"}
DATAGRAM = 1200


class Member:
    """A user whose directory is at hand."""

    def __init__(self, user: str, key: UserKey, directory: dict[str, Record]) -> None:
        self.fingerprint = bytes(32)
        self.user = user
        self.key = key
        self.get = directory.get
        directory[user] = Record(user, APPROVED, key.public, 0, NOTHING)


def key_of(suite: int) -> UserKey:
    key = UserKey.generate()
    return key if suite == X25519_MLKEM768 else UserKey(key._signing, key.x25519)


def sealed(suite: int, size: int) -> dict[str, Callable[[], object]]:
    """What is compared: HPKE there and back, ours there and back."""
    directory: dict[str, Record] = {}
    ann, ben = Member("ann", key_of(suite), directory), Member("ben", key_of(suite), directory)
    hpke, public, private = sealing.SUITES[suite], sealing.encryption_key(ben.key.public), private_key(ben.key)
    data, info = os.urandom(size), bytes(150)
    alone, blob = hpke.encrypt(data, public, info), encrypt(ann, data, to="ben")
    return {
        "HPKE encrypt": lambda: hpke.encrypt(data, public, info),
        "encrypt()": lambda: encrypt(ann, data, to="ben"),
        "HPKE decrypt": lambda: hpke.decrypt(alone, private, info),
        "decrypt()": lambda: decrypt(ben, blob),
        "HPKE both": lambda: hpke.decrypt(hpke.encrypt(data, public, info), private, info),
        "encrypt() + decrypt()": lambda: decrypt(ben, encrypt(ann, data, to="ben")),
    }


def datagrams() -> dict[str, Callable[[], object]]:
    one, two = Secret(os.urandom(32)), Secret(os.urandom(32))
    sealer = Sealer(derive(Role.ACTIVE, bytes(8), one, two))
    opener = Opener(derive(Role.PASSIVE, bytes(8), two, one))
    aead, data, nonce = ChaCha20Poly1305(os.urandom(32)), os.urandom(DATAGRAM), bytes(12)
    return {
        "AEAD both": lambda: aead.decrypt(nonce, aead.encrypt(nonce, data, b""), b""),
        "seal() + open()": lambda: opener.open(sealer.seal(data)),
    }


def compare(title: str, rows: dict[str, Callable[[], object]], rounds: int) -> None:
    """Time the rows in turn; each second one is set beside the one before it."""
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, call in rows.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    print(f"\n{title}, {rounds} rounds\n{'':24}{'median':>12}{'ratio':>8}")
    base = 0.0
    for number, (name, taken) in enumerate(times.items()):
        median = statistics.median(taken)
        base = base if number % 2 else median
        print(f"{name:24}{median * 1e6:9.1f} us{median / base:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, nargs="*", default=[100, 1 << 20], help="of the clear text, in bytes")
    parser.add_argument("--rounds", type=int, default=301)
    args = parser.parse_args()
    for suite, name in KEM.items():
        for size in args.size:
            compare(f"{name}, {size} bytes", sealed(suite, size), args.rounds)
    compare(f"a datagram of {DATAGRAM} bytes", datagrams(), args.rounds * 20)


if __name__ == "__main__":
    main()
