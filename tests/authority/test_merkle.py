"""The log's tree against RFC 6962 as it is written, and against Certificate Transparency's own test vectors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.authority import merkle
from trunkline.authority.statements import Signed
from trunkline.errors import BadProof

# The eight entries and all the roots of certificate-transparency's reference tests (merkle_tree_test.cc).
ENTRIES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = [bytes.fromhex(text) for text in (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)]  # fmt: skip
LEAVES = [merkle.leaf_hash(entry) for entry in ENTRIES]


def mth(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word, on leaf hashes."""
    if not leaves:
        return merkle.EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return merkle.node_hash(mth(leaves[:split]), mth(leaves[split:]))


def path(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962 section 2.1.1."""
    if len(leaves) == 1:
        return []
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if index < split:
        return [*path(index, leaves[:split]), mth(leaves[split:])]
    return [*path(index - split, leaves[split:]), mth(leaves[:split])]


def proof(first: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962 section 2.1.2."""

    def subproof(m: int, part: list[bytes], whole: bool) -> list[bytes]:
        if m == len(part):
            return [] if whole else [mth(part)]
        split = 1
        while split * 2 < len(part):
            split *= 2
        if m <= split:
            return [*subproof(m, part[:split], whole), mth(part[split:])]
        return [*subproof(m - split, part[split:], False), mth(part[:split])]

    return subproof(first, leaves, True) if first > 0 else []


def prover(leaves: list[bytes]):
    return lambda subtree: mth(leaves[subtree[1] << subtree[0] : (subtree[1] + 1) << subtree[0]])


def prove(ranges, subtree) -> tuple[bytes, ...]:
    return tuple(merkle.fold([subtree(each) for each in merkle.complete_subtrees(*found)]) for found in ranges)


def make_leaves(count: int) -> list[bytes]:
    return [merkle.leaf_hash(index.to_bytes(4, "big")) for index in range(count)]


def test_the_empty_trees_root_is_the_hash_of_nothing():
    assert merkle.EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert merkle.fold([]) == merkle.EMPTY_ROOT


def test_roots_are_those_of_certificate_transparency():
    for size in range(1, 9):
        hashes = [prover(LEAVES)(each) for each in merkle.complete_subtrees(0, size)]
        assert merkle.fold(hashes) == mth(LEAVES[:size]) == ROOTS[size - 1]


@pytest.mark.parametrize(
    ("index", "size", "expected"),
    [  # from the same tests; they count leaves from 1
        (0, 1, []),
        (0, 8, [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ]),
        (5, 8, [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]),
        (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
        (1, 5, [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ]),
    ],
)  # fmt: skip
def test_inclusion_proofs_are_those_of_certificate_transparency(index, size, expected):
    found = prove(merkle.inclusion_ranges(index, size), prover(LEAVES))
    assert [each.hex() for each in found] == expected
    merkle.verify_inclusion(LEAVES[index], index, size, found, ROOTS[size - 1])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (1, 1, []),
        (1, 8, [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ]),
        (6, 8, [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]),
        (2, 5, [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ]),
    ],
)  # fmt: skip
def test_consistency_proofs_are_those_of_certificate_transparency(first, second, expected):
    found = prove(merkle.consistency_ranges(first, second), prover(LEAVES))
    assert [each.hex() for each in found] == expected
    merkle.verify_consistency(first, second, ROOTS[first - 1], ROOTS[second - 1], found)


def test_every_proof_of_small_trees_is_that_of_the_rfc_and_is_accepted():
    leaves = make_leaves(33)
    roots = [mth(leaves[:size]) for size in range(34)]
    for size in range(34):
        part = prover(leaves[:size])
        for index in range(size):
            found = prove(merkle.inclusion_ranges(index, size), part)
            assert list(found) == path(index, leaves[:size])
            merkle.verify_inclusion(leaves[index], index, size, found, roots[size])
        for first in range(size + 1):
            found = prove(merkle.consistency_ranges(first, size), part)
            assert list(found) == (proof(first, leaves[:size]) if 0 < first < size else [])
            merkle.verify_consistency(first, size, roots[first], roots[size], found)


@given(st.integers(1, 70), st.data())
def test_no_altered_inclusion_proof_is_accepted(size, data):
    leaves = make_leaves(size)
    index = data.draw(st.integers(0, size - 1))
    good = list(prove(merkle.inclusion_ranges(index, size), prover(leaves)))
    root = mth(leaves)
    other = data.draw(st.integers(0, size - 1))
    how = data.draw(st.sampled_from(["flip", "drop", "more", "leaf", "index", "root", "short"]))
    leaf, at, bad = leaves[index], index, list(good)
    if how == "flip" and bad:
        place = data.draw(st.integers(0, len(bad) - 1))
        bad[place] = bytes([bad[place][0] ^ 1]) + bad[place][1:]
    elif how == "drop" and bad:
        del bad[data.draw(st.integers(0, len(bad) - 1))]
    elif how == "short" and bad:
        bad[0] = bad[0][:-1]
    elif how == "leaf":
        leaf = merkle.leaf_hash(b"another")
    elif how == "index" and other != index:
        at = other
    elif how == "root":
        root = mth([*leaves, leaves[0]])
    else:
        bad.append(leaves[0])
    with pytest.raises(BadProof):
        merkle.verify_inclusion(leaf, at, size, bad, root)


@given(st.integers(2, 70), st.data())
def test_no_altered_consistency_proof_is_accepted(second, data):
    leaves = make_leaves(second)
    first = data.draw(st.integers(1, second - 1))
    bad = list(prove(merkle.consistency_ranges(first, second), prover(leaves)))
    old, new = mth(leaves[:first]), mth(leaves)
    how = data.draw(st.sampled_from(["flip", "drop", "more", "old", "new"]))
    if how == "flip":
        place = data.draw(st.integers(0, len(bad) - 1))
        bad[place] = bytes([bad[place][0] ^ 1]) + bad[place][1:]
    elif how == "drop":
        del bad[data.draw(st.integers(0, len(bad) - 1))]
    elif how == "more":
        bad.append(leaves[0])
    elif how == "old":  # history was rewritten: another leaf stood there
        changed = data.draw(st.integers(0, first - 1))
        old = mth([*leaves[:changed], merkle.leaf_hash(b"another"), *leaves[changed + 1 : first]])
    else:
        new = mth(leaves[:-1]) if second - 1 != first else mth([*leaves, leaves[0]])
    with pytest.raises(BadProof):
        merkle.verify_consistency(first, second, old, new, bad)


def test_what_needs_no_proof_gets_none():
    root = mth(make_leaves(3))
    merkle.verify_consistency(0, 3, merkle.EMPTY_ROOT, root, ())
    merkle.verify_consistency(3, 3, root, root, ())
    for first, old, given_proof in (
        (0, merkle.EMPTY_ROOT, [root]),
        (0, root, []),
        (3, root, [root]),
        (3, ROOTS[2], []),
    ):
        with pytest.raises(BadProof, match="differ, or a proof"):
            merkle.verify_consistency(first, 3, old, root, given_proof)


def test_sizes_that_cannot_be_are_refused():
    root = ROOTS[2]
    for index, size in ((3, 3), (-1, 3), (0, 0)):
        with pytest.raises(BadProof, match="can't be in a log"):
            merkle.verify_inclusion(LEAVES[0], index, size, (), root)
    with pytest.raises(BadProof, match="can't go on from"):
        merkle.verify_consistency(4, 3, root, root, ())
    with pytest.raises(BadProof, match="is empty"):
        merkle.verify_consistency(3, 5, ROOTS[2], ROOTS[4], ())


def test_a_statements_hash_covers_both_signatures():
    hashes = {merkle.statement_hash(Signed(*parts)) for parts in ((b"a", b"b"), (b"a", b"c"), (b"a", b"b", b"c"))}
    assert len(hashes) == 3


def test_a_proof_is_verified_no_further_than_to_a_subtree_that_is_known(monkeypatch):
    monkeypatch.setattr(merkle, "KEPT", (2, 3))
    size = 27
    leaves = make_leaves(size)
    root, known = mth(leaves), {}
    for index in range(size):
        merkle.verify_inclusion(leaves[index], index, size, path(index, leaves), root, known)
    complete = [(2, place) for place in range(6)] + [(3, place) for place in range(3)]
    assert known == {(level, at): mth(leaves[at << level : (at + 1) << level]) for level, at in complete}
    for index in range(size):
        found = path(index, leaves)
        merkle.verify_inclusion(leaves[index], index, size, found, root, known)
        for bad, leaf in ((found, bytes(32)), ([bytes(32), *found[1:]], leaves[index]), (found[1:], leaves[index])):
            with pytest.raises(BadProof):
                merkle.verify_inclusion(leaf, index, size, bad, root, known)
