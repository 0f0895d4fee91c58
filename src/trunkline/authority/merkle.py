"""The log's Merkle tree: hashes, proofs and their verification (RFC 6962 section 2.1).

A complete subtree is named by its level and its place among those of its level: ``(0, 7)`` is the leaf with index 7,
``(3, 0)`` covers the leaves 0 to 7. What is not complete is the hash of the complete ones that it consists of, folded
from the right. The verification follows RFC 9162 sections 2.1.3.2 and 2.1.4.2, which spell out what RFC 6962 implies.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import msgspec

from trunkline.authority.statements import HASH_SIZE, Signed
from trunkline.errors import BadProof

EMPTY_ROOT: Final = sha256().digest()
"""The hash of the tree without leaves."""

Subtree = tuple[int, int]
"""Level and place of a complete subtree."""

KEPT: Final = (8, 12)
"""Levels of the complete subtrees that whoever verifies many proofs keeps: a log of a million has 4150 of them."""

_encode: Final = msgspec.msgpack.Encoder().encode


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf that holds ``entry``."""
    return sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of what has these two children."""
    return sha256(b"\1" + left + right).digest()


def statement_hash(signed: Signed) -> bytes:
    """Return the leaf hash of a signed statement: `Statement.previous` of the next about the same user."""
    return leaf_hash(_encode(signed))


def complete_subtrees(start: int, stop: int) -> list[Subtree]:
    """Return the largest complete subtrees that make up the leaves from ``start`` up to ``stop``, left to right."""
    found: list[Subtree] = []
    while start < stop:
        level = (stop - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        found.append((level, start >> level))
        start += 1 << level
    return found


def fold(hashes: Sequence[bytes]) -> bytes:
    """Return the hash of the subtree that consists of these complete ones, the largest first."""
    if not hashes:
        return EMPTY_ROOT
    result = hashes[-1]
    for left in reversed(hashes[:-1]):
        result = node_hash(left, result)
    return result


def inclusion_ranges(index: int, size: int, width: int = 1) -> list[tuple[int, int]]:
    """Return the ranges of leaves whose hashes prove that leaf ``index`` is in the tree of ``size``, deepest first.

    This is PATH(m, D[n]) of RFC 6962 section 2.1.1.

    Args:
        width: leave out what proves it within the complete subtree of so many leaves.
    """
    assert 0 <= index < size, f"leaf {index} is not in a tree of {size}"
    ranges: list[tuple[int, int]] = []
    start, stop = 0, size
    while stop - start > width:
        split = start + _split(stop - start)
        if index < split:
            ranges.append((split, stop))
            stop = split
        else:
            ranges.append((start, split))
            start = split
    ranges.reverse()
    return ranges


def consistency_ranges(first: int, second: int) -> list[tuple[int, int]]:
    """Return the ranges of leaves whose hashes prove that the tree of ``second`` goes on from that of ``first``.

    This is PROOF(m, D[n]) of RFC 6962 section 2.1.2; nothing needs a proof if ``first`` is 0 or ``second``.
    """
    assert 0 <= first <= second, f"a tree of {second} does not go on from one of {first}"
    if first in (0, second):
        return []
    ranges: list[tuple[int, int]] = []
    start, stop = 0, second
    known = True  # the subtree is the whole first tree, which the verifier has
    while first != stop:
        split = start + _split(stop - start)
        if first <= split:
            ranges.append((split, stop))
            stop = split
        else:
            ranges.append((start, split))
            start = split
            known = False
    if not known:
        ranges.append((start, stop))
    ranges.reverse()
    return ranges


def verify_inclusion(
    leaf: bytes,
    index: int,
    size: int,
    proof: Sequence[bytes],
    root: bytes,
    known: dict[Subtree, bytes] | None = None,
) -> None:
    """Check that the leaf with this hash stands at ``index`` in the tree of ``size`` leaves that has this root.

    Args:
        known: complete subtrees that were verified to be in the tree with this size and root: the way is gone no
            further than to one of them. More are put in.

    Raises:
        BadProof: the proof does not show it.
    """
    if not 0 <= index < size:
        raise BadProof(f"statement {index} can't be in a log of {size}")
    place, last, level = index, size - 1, 0
    result = leaf
    passed: list[tuple[Subtree, bytes]] = []
    for sibling in _checked(proof):
        if last == 0:
            raise BadProof(f"the proof that statement {index} is in the log has too many hashes")
        # `node_hash` written out: a look-up takes some twenty.
        if place & 1 or place == last:
            result = sha256(b"\1" + sibling + result).digest()
            while not place & 1 and place:
                place >>= 1
                last >>= 1
                level += 1
        else:
            result = sha256(b"\1" + result + sibling).digest()
        place >>= 1
        last >>= 1
        level += 1
        if level in KEPT and known is not None and place < last:  # left of the last one: it is complete
            if known.get((level, place)) == result:
                result, last = root, 0
                break
            passed.append(((level, place), result))
    if last == 0 and result == root:
        if known is not None:
            known.update(passed)
    else:
        raise BadProof(f"the proof that statement {index} is in the log of {size} does not fit the signed head")


def verify_consistency(first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of ``second`` leaves begins with the ``first`` leaves of the other.

    Raises:
        BadProof: the proof does not show it.
    """
    if not 0 <= first <= second:
        raise BadProof(f"a log of {second} statements can't go on from one of {first}")
    if first in (0, second):
        known = EMPTY_ROOT if first == 0 else second_root
        if proof or first_root != known:
            raise BadProof(f"two logs of {first} statements differ, or a proof was given where none is needed")
        return
    hashes = list(_checked(proof))
    if first & (first - 1) == 0:
        hashes.insert(0, first_root)  # a power of two: the first tree is itself a complete subtree
    if not hashes:
        raise BadProof(f"the proof that the log of {second} goes on from that of {first} is empty")
    place, last = first - 1, second - 1
    while place & 1:
        place >>= 1
        last >>= 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise BadProof(f"the proof that the log of {second} goes on from that of {first} has too many hashes")
        if place & 1 or place == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        place >>= 1
        last >>= 1
    if last != 0 or old != first_root or new != second_root:
        raise BadProof(f"the log of {second} statements does not go on from the one of {first} that was seen before")


def _split(size: int) -> int:
    """Return the largest power of two that is less than ``size``."""
    return 1 << ((size - 1).bit_length() - 1)


def _checked(proof: Sequence[bytes]) -> Sequence[bytes]:
    for each in proof:
        if len(each) != HASH_SIZE:
            raise BadProof(f"a proof holds {len(each)} bytes where a hash of {HASH_SIZE} belongs")
    return proof
