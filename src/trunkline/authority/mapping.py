"""The directory's map from users to the hashes of their records, and its proofs (docs/spec/authority.md section 4).

A binary prefix tree over 256-bit keys, the same for the same contents whatever happened before:

    empty subtree                       32 zero bytes
    subtree with exactly one leaf       SHA-256(2, key, value), wherever it stands: a lone leaf is pulled up
    any other                           SHA-256(3, left, right)

On the way of a key's bits down from the root there is hence exactly one place where its leaf, another's, or nothing
stands, and a proof shows which. CONIKS and Certificate Transparency's maps do the same with deeper trees.
"""

from hashlib import sha256
from typing import Final

import msgspec

from trunkline.authority.messages import MapProof
from trunkline.authority.statements import HASH_SIZE, Record
from trunkline.errors import BadProof

EMPTY: Final = bytes(HASH_SIZE)
"""The hash of a subtree without leaves."""

KEPT: Final = (12, 8)
"""Depths of the nodes that whoever verifies many proofs keeps: 4352 at most."""

_PREFIX: Final = 16
_BITS: Final = HASH_SIZE * 8
_encode: Final = msgspec.msgpack.Encoder().encode


def map_key(user: str) -> bytes:
    """Return the key under which ``user`` stands in the map."""
    return sha256(user.encode()).digest()


def record_hash(record: Record) -> bytes:
    """Return the value that stands for ``record`` in the map."""
    return sha256(_encode(record)).digest()


def leaf_node(key: bytes, value: bytes) -> bytes:
    """Return the hash of a subtree that consists of this leaf."""
    return sha256(b"\2" + key + value).digest()


def inner_node(left: bytes, right: bytes) -> bytes:
    """Return the hash of a subtree with two leaves or more."""
    return sha256(b"\3" + left + right).digest()


def bit(key: bytes, depth: int) -> int:
    """Return which way ``key`` goes from a node at ``depth``: 0 is left."""
    return key[depth >> 3] >> (7 - (depth & 7)) & 1


def verify(
    key: bytes, value: bytes | None, proof: MapProof, root: bytes, known: dict[int, bytes] | None = None
) -> None:
    """Check that in the map with this root ``key`` has ``value``; for None, that it has none.

    Args:
        known: nodes that were verified to be in the map with this root, by their places: the way is gone no further
            than to one of them. More are put in.

    Raises:
        BadProof: the proof does not show it.
    """
    depth = len(proof.siblings)
    if depth > _BITS:
        raise BadProof(f"the map is {_BITS} levels deep, and the proof has {depth}")
    node = _at_the_end(key, value, proof, depth)
    start = int.from_bytes(key[: _PREFIX // 8], "big")
    passed: list[tuple[int, bytes]] = []
    for sibling in proof.siblings:
        depth -= 1
        if len(sibling) != HASH_SIZE:
            raise BadProof(f"a proof holds {len(sibling)} bytes where a hash of {HASH_SIZE} belongs")
        # `bit` and `inner_node` written out: a look-up takes some twenty of them, and the calls took half of its time.
        right = key[depth >> 3] >> (7 - (depth & 7)) & 1
        node = sha256(b"\3" + sibling + node if right else b"\3" + node + sibling).digest()
        if depth in KEPT and known is not None:
            place = 1 << depth | start >> (_PREFIX - depth)
            if known.get(place) == node:
                node = root
                break
            passed.append((place, node))
    if node != root:
        shown = "that this is the user's record" if value is not None else "that nobody has that name"
        raise BadProof(f"the proof {shown} does not fit the signed head")
    if known is not None:
        known.update(passed)


def _at_the_end(key: bytes, value: bytes | None, proof: MapProof, depth: int) -> bytes:
    """Return the node that the proof says is where the key's way ends."""
    other, others = proof.leaf_key, proof.leaf_value
    if value is not None:
        if other or others:
            raise BadProof("the proof that this is the user's record shows another's leaf")
        return leaf_node(key, value)
    if not other and not others:
        return EMPTY
    if len(other) != HASH_SIZE or len(others) != HASH_SIZE:
        raise BadProof("the proof that nobody has that name shows half a leaf")
    if other == key:
        raise BadProof("the proof that nobody has that name shows the leaf of that very name")
    differing = int.from_bytes(key, "big") ^ int.from_bytes(other, "big")
    if differing >> (_BITS - depth):
        raise BadProof("the proof that nobody has that name shows a leaf that does not stand on its way")
    return leaf_node(other, others)
