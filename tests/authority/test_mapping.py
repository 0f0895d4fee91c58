"""The map's proofs against a tree that is built as the specification says, with nothing stored."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.authority import mapping
from trunkline.authority.messages import MapProof
from trunkline.authority.statements import APPROVED, PublicKeys, Record
from trunkline.errors import BadProof

keys = st.binary(min_size=32, max_size=32)
near = st.builds(
    lambda prefix, rest: prefix + bytes(30) + rest,
    st.sampled_from([b"\0", b"\1", b"\x80"]),
    st.binary(min_size=1, max_size=1),
)
maps = st.dictionaries(st.one_of(keys, near), keys, max_size=24)


def naive_root(leaves: dict[bytes, bytes], depth: int = 0) -> bytes:
    """The root of docs/spec/authority.md section 4, word for word."""
    if not leaves:
        return bytes(32)
    if len(leaves) == 1:
        ((key, value),) = leaves.items()
        return sha256(b"\2" + key + value).digest()
    sides = ({}, {})
    for key, value in leaves.items():
        sides[mapping.bit(key, depth)][key] = value
    return sha256(b"\3" + naive_root(sides[0], depth + 1) + naive_root(sides[1], depth + 1)).digest()


def naive_proof(leaves: dict[bytes, bytes], wanted: bytes) -> MapProof:
    siblings: list[bytes] = []
    depth = 0
    while len(leaves) > 1:
        sides = ({}, {})
        for key, value in leaves.items():
            sides[mapping.bit(key, depth)][key] = value
        way = mapping.bit(wanted, depth)
        siblings.insert(0, naive_root(sides[1 - way], depth + 1))
        leaves = sides[way]
        depth += 1
    ((key, value),) = leaves.items() or ((wanted, b""),)
    return MapProof(tuple(siblings)) if key == wanted else MapProof(tuple(siblings), key, value)


@given(maps, keys)
def test_what_is_there_and_what_is_not_is_proven(leaves, other):
    root = naive_root(leaves)
    for key, value in leaves.items():
        mapping.verify(key, value, naive_proof(leaves, key), root)
    if other not in leaves:
        mapping.verify(other, None, naive_proof(leaves, other), root)


@given(maps.filter(bool), st.data())
def test_no_other_value_no_absence_and_no_presence_can_be_proven(leaves, data):
    root = naive_root(leaves)
    key = data.draw(st.sampled_from(sorted(leaves)))
    proof = naive_proof(leaves, key)
    other = bytes([key[0] ^ data.draw(st.integers(1, 255))]) + key[1:]
    for asked, value, given_proof in (
        (key, sha256(leaves[key]).digest(), proof),
        (key, None, proof),
        (key, None, MapProof(proof.siblings, key, leaves[key])),
        (other, leaves[key], proof),
    ):
        if asked == other and leaves.get(other) == leaves[key]:
            continue
        with pytest.raises(BadProof):
            mapping.verify(asked, value, given_proof, root)


@given(maps.filter(lambda leaves: len(leaves) > 1), st.data())
def test_no_altered_proof_is_accepted(leaves, data):
    root = naive_root(leaves)
    key = data.draw(st.one_of(st.sampled_from(sorted(leaves)), keys))
    value = leaves.get(key)
    proof = naive_proof(leaves, key)
    how = data.draw(st.sampled_from(["flip", "drop", "more", "short", "leaf", "half", "stray"]))
    siblings, leaf_key, leaf_value = list(proof.siblings), proof.leaf_key, proof.leaf_value
    place = data.draw(st.integers(0, len(siblings) - 1))
    if how == "flip":
        siblings[place] = bytes([siblings[place][0] ^ 1]) + siblings[place][1:]
    elif how == "drop":
        del siblings[place]
    elif how == "more":
        siblings.insert(0, bytes(32))
    elif how == "short":
        siblings[place] = siblings[place][:-1]
    elif how == "leaf":
        leaf_key, leaf_value = bytes([key[0] ^ 0x80]) + key[1:], bytes(32)  # stands on another way
    elif how == "half":
        leaf_key, leaf_value = b"k" * 32, b""
    else:
        leaf_key, leaf_value = key, b"v" * 32
    with pytest.raises(BadProof):
        mapping.verify(key, value, MapProof(tuple(siblings), leaf_key, leaf_value), root)


def test_a_map_without_leaves_and_with_one():
    mapping.verify(b"k" * 32, None, MapProof(()), mapping.EMPTY)
    one = mapping.leaf_node(b"k" * 32, b"v" * 32)
    mapping.verify(b"k" * 32, b"v" * 32, MapProof(()), one)
    mapping.verify(b"o" * 32, None, MapProof((), b"k" * 32, b"v" * 32), one)
    with pytest.raises(BadProof, match="that nobody has that name does not fit"):
        mapping.verify(b"o" * 32, None, MapProof(()), one)


def test_half_a_leaf_and_the_leaf_of_that_very_name_show_no_absence():
    key = b"k" * 32
    root = mapping.leaf_node(key, b"v" * 32)
    for proof, text in (
        (MapProof((), b"o" * 32, b""), "half a leaf"),
        (MapProof((), b"", b"v" * 32), "half a leaf"),
        (MapProof((), key, b"v" * 32), "the leaf of that very name"),
    ):
        with pytest.raises(BadProof, match=text):
            mapping.verify(key, None, proof, root)


def test_a_proof_is_not_deeper_than_a_key_is_long():
    with pytest.raises(BadProof, match="256 levels deep, and the proof has 257"):
        mapping.verify(b"k" * 32, None, MapProof((bytes(32),) * 257), mapping.EMPTY)


def test_keys_and_values_are_hashes_of_what_they_stand_for():
    assert mapping.map_key("ops/ann") == sha256(b"ops/ann").digest()
    record = Record("ann", APPROVED, PublicKeys(bytes(32), 1, bytes(32)), 4, bytes(32))
    assert mapping.record_hash(record) != mapping.record_hash(Record("ann", APPROVED, record.keys, 5, bytes(32)))


def test_a_proof_is_verified_no_further_than_to_a_node_that_is_known(monkeypatch):
    monkeypatch.setattr(mapping, "KEPT", (4, 2))
    leaves = {sha256(b"%d" % number).digest(): bytes([number]) * 32 for number in range(100)}
    root, known = naive_root(leaves), {}
    proofs = {key: naive_proof(leaves, key) for key in leaves}
    for key, value in leaves.items():
        mapping.verify(key, value, proofs[key], root, known)
    assert sorted(known) == [*range(4, 8), *range(16, 32)]
    before = dict(known)
    for key, value in leaves.items():
        way = proofs[key].siblings
        mapping.verify(key, value, proofs[key], root, known)
        for bad, claimed in ((way, b"\xff" * 32), ((b"\xff" * 32, *way[1:]), value), (way[1:], value)):
            with pytest.raises(BadProof):
                mapping.verify(key, claimed, MapProof(bad), root, known)
    assert known == before
