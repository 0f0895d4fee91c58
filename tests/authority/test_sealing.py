"""Blobs: whatever is not as the sender made it, or not for whom it is for, is refused, and by which step."""

import hashlib
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke
from hypothesis import given
from hypothesis import strategies as st

from tests.sealkit import REALM, SUITES, fixed_key, record
from trunkline.authority import sealing
from trunkline.authority.statements import APPROVED, DELETED, TENTATIVE, X25519, X25519_MLKEM768, PublicKeys, Record
from trunkline.drivers.keys import UserKey
from trunkline.errors import BadSignature, ConfigError, DecryptError, InvalidUser, NotAllowed, TrustError

CLEAR = b"meet me at the usual place"
VECTORS = Path(__file__).parent / "vectors"


def private(key: UserKey) -> sealing.PrivateKey:
    return key.x25519 if key.mlkem768 is None else hpke.MLKEM768X25519PrivateKey(key.mlkem768, key.x25519)


def seal(ann: UserKey, ben: UserKey, clear: bytes = CLEAR, sender: str = "ops/ann", realm: bytes = REALM) -> bytes:
    header = sealing.build_header(realm, sender, ann.public.signing, record("ben", ben.public))
    sealed = sealing.SUITES[ben.public.suite].encrypt(clear, sealing.encryption_key(ben.public), sealing.info(header))
    return sealing.finish(header, sealed, ann.sign)


def unseal(blob: bytes, ann: Record | None, ben: UserKey, user: str = "ben") -> bytes:
    envelope = sealing.parse(blob)
    sealing.check_addressee(envelope, REALM, user, ben.public)
    return sealing.unseal(envelope, ann, private(ben))


@pytest.fixture(params=SUITES, ids=["x25519", "hybrid"])
def suite(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def ann(suite: int) -> UserKey:
    return fixed_key("ann", suite)


@pytest.fixture
def ben(suite: int) -> UserKey:
    return fixed_key("ben", suite)


@pytest.fixture
def entry(ann: UserKey) -> Record:
    return record("ops/ann", ann.public)


@given(clear=st.binary(max_size=300))
def test_what_was_sealed_is_opened(clear: bytes) -> None:
    for suite in SUITES:
        ann, ben = fixed_key("ann", suite), fixed_key("ben", suite)
        assert unseal(seal(ann, ben, clear), record("ops/ann", ann.public), ben) == clear


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(kind: type, ann: UserKey, ben: UserKey, entry: Record) -> None:
    assert unseal(kind(seal(ann, ben, kind(CLEAR))), entry, ben) == CLEAR


def test_an_altered_byte_anywhere_is_refused(ann: UserKey, ben: UserKey, entry: Record) -> None:
    blob = seal(ann, ben)
    for at in range(len(blob)):
        for change in (0x01, 0x80, 0xFF):
            altered = bytearray(blob)
            altered[at] ^= change
            with pytest.raises(DecryptError):
                unseal(altered, entry, ben)


def test_a_cut_or_longer_blob_is_refused(ann: UserKey, ben: UserKey, entry: Record) -> None:
    blob = seal(ann, ben)
    for size in range(len(blob)):
        with pytest.raises(DecryptError):
            unseal(blob[:size], entry, ben)
    for more in (b"\0", b"more", blob):
        with pytest.raises(DecryptError, match="step 6"):
            unseal(blob + more, entry, ben)


@given(st.data())
def test_nothing_but_a_decrypt_error_comes_of_any_bytes(data: st.DataObject) -> None:
    ann, ben = fixed_key("ann", X25519), fixed_key("ben", X25519)
    blob = seal(ann, ben)
    kept = data.draw(st.integers(0, len(blob)))
    rest = data.draw(st.binary(max_size=200))
    if blob[:kept] + rest != blob:
        with pytest.raises(DecryptError):
            unseal(blob[:kept] + rest, record("ops/ann", ann.public), ben)


# ---- each step, by its own failure ---------------------------------------------------------------------------------


def test_step_1_a_blob_that_is_too_long_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "MAX_BLOB", 100)
    with pytest.raises(DecryptError, match="step 1.*101 bytes exceed the limit of 100"):
        sealing.parse(bytes(101))


def test_step_1_no_blob() -> None:
    for bytes_ in (b"", b"TRUNK", b"GET / HTTP/1.1\r\n\r\n"):
        with pytest.raises(DecryptError, match=r"nothing that encrypt\(\) returned"):
            sealing.parse(bytes_)
    with pytest.raises(DecryptError, match="breaks off after 9 bytes"):
        sealing.parse(b"TRUNKE/1\n")


def test_step_1_another_version(ann: UserKey, ben: UserKey) -> None:
    with pytest.raises(DecryptError, match="version b'2"):
        sealing.parse(seal(ann, ben).replace(b"TRUNKE/1", b"TRUNKE/2", 1))


def test_step_1_a_name_that_no_user_can_have(ann: UserKey, ben: UserKey) -> None:
    blob = seal(ann, ben)
    for name in (b"ops//nn", b"ops/\xffnn", b"ops/ nn"):
        with pytest.raises(DecryptError, match="names no user"):
            sealing.parse(blob.replace(b"ops/ann", name, 1))


def test_step_2_an_unknown_suite(ann: UserKey, ben: UserKey) -> None:
    blob = bytearray(seal(ann, ben))
    blob[9] = 77
    with pytest.raises(DecryptError, match="step 2, suite: encryption suite 77"):
        sealing.parse(blob)


def test_step_3_another_realm(ann: UserKey, ben: UserKey, entry: Record) -> None:
    with pytest.raises(DecryptError, match="step 3"):
        unseal(seal(ann, ben, realm=bytes(32)), entry, ben)


def test_step_4_another_recipient(ann: UserKey, ben: UserKey, entry: Record) -> None:
    with pytest.raises(DecryptError, match="step 4, recipient: it is for 'ben', and this is 'eve'"):
        unseal(seal(ann, ben), entry, ben, user="eve")


def test_step_4_a_key_of_the_recipients_that_was_changed_since(ann: UserKey, ben: UserKey, entry: Record) -> None:
    with pytest.raises(DecryptError, match="step 4.*changed since"):
        unseal(seal(ann, ben), entry, fixed_key("ben's new one", ben.public.suite))


def test_step_5_a_sender_whom_nobody_knows(ann: UserKey, ben: UserKey) -> None:
    with pytest.raises(DecryptError, match="step 5, sender: the directory has no user 'ops/ann'"):
        unseal(seal(ann, ben), None, ben)


@pytest.mark.parametrize(("state", "word"), [(TENTATIVE, "tentative"), (DELETED, "deleted"), (9, "9")])
def test_step_5_a_sender_who_is_not_approved(state: int, word: str, ann: UserKey, ben: UserKey) -> None:
    with pytest.raises(DecryptError, match=f"step 5.*'ops/ann' is {word}"):
        unseal(seal(ann, ben), record("ops/ann", ann.public, state), ben)


def test_step_5_a_sender_who_has_another_key_now(ann: UserKey, ben: UserKey) -> None:
    new = record("ops/ann", fixed_key("ann's new one", X25519).public)
    with pytest.raises(DecryptError, match="step 5.*changed its key since"):
        unseal(seal(ann, ben), new, ben)


def test_step_5_the_directorys_answer_about_another(ann: UserKey, ben: UserKey) -> None:
    with pytest.raises(DecryptError, match="step 5"):
        unseal(seal(ann, ben), record("eve", ann.public), ben)


def test_step_6_a_sender_is_swapped_for_another(ann: UserKey, ben: UserKey, suite: int) -> None:
    """Eve puts her name and key on Ann's blob: the signature is still Ann's."""
    eve = fixed_key("eve", suite)
    blob = seal(ann, ben).replace(b"ops/ann", b"ops/eve", 1).replace(ann.public.signing, eve.public.signing, 1)
    with pytest.raises(DecryptError, match="step 6") as caught:
        unseal(blob, record("ops/eve", eve.public), ben)
    assert isinstance(caught.value.__cause__, BadSignature)


def test_step_7_a_blob_is_signed_anew_by_another(ann: UserKey, ben: UserKey, suite: int) -> None:
    """Eve signs it too, as if she had known what is in it: then HPKE's key is another, and nobody can open it."""
    eve = fixed_key("eve", suite)
    envelope = sealing.parse(seal(ann, ben))
    header = sealing.build_header(REALM, "ops/eve", eve.public.signing, record("ben", ben.public))
    blob = sealing.finish(header, bytes(envelope.sealed), eve.sign)
    with pytest.raises(DecryptError, match="step 7"):
        unseal(blob, record("ops/eve", eve.public), ben)


def test_step_7_rubbish_that_is_well_signed(ann: UserKey, ben: UserKey, entry: Record) -> None:
    header = sealing.build_header(REALM, "ops/ann", ann.public.signing, record("ben", ben.public))
    for rubbish in (bytes(1200), b"\xff" * 1200):  # the first encapsulates a point of low order
        with pytest.raises(DecryptError, match="step 7"):
            unseal(sealing.finish(header, rubbish, ann.sign), entry, ben)


def test_no_clear_text_without_the_signature(ann: UserKey, ben: UserKey, entry: Record, monkeypatch) -> None:
    """HPKE is not even asked before the signature is known to be good."""
    blob = bytearray(seal(ann, ben))
    blob[-1] ^= 1
    monkeypatch.setattr(sealing, "SUITES", dict.fromkeys(sealing.SUITES))
    with pytest.raises(DecryptError, match="step 6"):
        unseal(bytes(blob), entry, ben)


# ---- the other direction -------------------------------------------------------------------------------------------


def test_what_may_be_sealed_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "MAX_CLEAR", 10)
    sealing.check_clear(bytes(10))
    with pytest.raises(ValueError, match="11 bytes exceed the limit of 10"):
        sealing.check_clear(memoryview(bytes(11)))


def test_the_longest_blob_is_within_its_limit() -> None:
    key = fixed_key("ben", X25519_MLKEM768)
    name = "x" * 255
    header = sealing.build_header(REALM, name, key.public.signing, record(name, key.public))
    assert len(header) == sealing.MAX_HEADER
    sealed = sealing.SUITES[X25519_MLKEM768].encrypt(b"", sealing.encryption_key(key.public), sealing.info(header))
    assert len(sealing.finish(header, sealed, key.sign)) + sealing.MAX_CLEAR == sealing.MAX_BLOB
    for suite, size in sealing.ENCAPSULATIONS.items():
        public = sealing.encryption_key(fixed_key("ben", suite).public)
        assert len(sealing.SUITES[suite].encrypt(b"", public)) == size + sealing.TAG_SIZE


def test_only_an_approved_user_gets_anything(ben: UserKey) -> None:
    entry = record("ben", ben.public)
    assert sealing.check_recipient("ben", entry) is entry
    with pytest.raises(NotAllowed, match="no such user"):
        sealing.check_recipient("ben", None)
    for state, word in ((TENTATIVE, "tentative"), (DELETED, "deleted"), (9, "9")):
        with pytest.raises(NotAllowed, match=word):
            sealing.check_recipient("ben", record("ben", ben.public, state))
    with pytest.raises(NotAllowed):
        sealing.check_recipient("eve", record("ben", ben.public, APPROVED))


def test_names_are_checked_before_they_are_written(ben: UserKey) -> None:
    with pytest.raises(InvalidUser):
        sealing.build_header(REALM, "no user", bytes(32), record("ben", ben.public))


def test_keys_that_are_none(ben: UserKey) -> None:
    with pytest.raises(TrustError, match="suite 9 is unknown"):
        sealing.encryption_key(PublicKeys(bytes(32), 9, b""))
    with pytest.raises(TrustError, match="has 32 bytes, not 31"):
        sealing.encryption_key(PublicKeys(bytes(32), X25519, bytes(31)))
    with pytest.raises(TrustError, match="no key of suite 2"):
        sealing.encryption_key(PublicKeys(bytes(32), X25519_MLKEM768, b"\xff" * (1184 + 32)))


def test_an_openssl_without_mlkem_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lacking:
        @staticmethod
        def from_public_bytes(data: bytes) -> None:
            raise UnsupportedAlgorithm("ML-KEM is not here")

    monkeypatch.setattr(sealing, "MLKEM768PublicKey", Lacking)
    with pytest.raises(ConfigError, match="needs ML-KEM"):
        sealing.encryption_key(fixed_key("ben", X25519_MLKEM768).public)


def test_key_ids_tell_keys_and_suites_apart() -> None:
    key = fixed_key("ben", X25519).public
    ids = {
        sealing.key_id(PublicKeys(bytes(32), suite, data)) for suite in (1, 2) for data in (key.encryption, b"", b"\1")
    }
    assert len(ids) == 6


# ---- what must go on being opened ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", SUITES)
def test_a_blob_of_old_goes_on_being_opened(suite: int) -> None:
    """These files were written by the first version, and are never written anew."""
    blob = (VECTORS / f"sealed-v1-suite{suite}.bin").read_bytes()
    assert unseal(blob, record("ops/ann", fixed_key("ann", suite).public), fixed_key("ben", suite)) == CLEAR


def test_the_layout_is_that_of_the_spec() -> None:
    """docs/spec/sealing.md section 2, spelt out."""
    ann, ben = fixed_key("ann", X25519), fixed_key("ben", X25519)
    blob = (VECTORS / "sealed-v1-suite1.bin").read_bytes()
    key_id = hashlib.sha256(b"trunkline encryption key v1\0" + b"\1" + ben.public.encryption).digest()
    header = b"TRUNKE/1\n" + b"\1" + REALM + ann.public.signing + key_id + b"\7ops/ann" + b"\3ben"
    assert blob.startswith(header)
    signature, sealed = blob[len(header) : len(header) + 64], blob[len(header) + 64 :]
    assert len(sealed) == 32 + len(CLEAR) + 16
    assert signature == ann.sign(b"trunkline sealed v1\0" + header + hashlib.sha256(sealed).digest())
    suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    assert suite.decrypt(sealed, ben.x25519, b"trunkline hpke v1\0" + header) == CLEAR
