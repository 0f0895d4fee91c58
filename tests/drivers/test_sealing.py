"""encrypt and decrypt between members of a realm; each refusal of the format has its test in tests/authority."""

import pytest

from tests.sealkit import SUITES, FixedMember, record
from trunkline.authority import sealing
from trunkline.authority.statements import DELETED, TENTATIVE, X25519, PublicKeys, Record
from trunkline.drivers.sealing import decrypt, encrypt
from trunkline.errors import ConfigError, DecryptError, InvalidUser, NotAllowed, TrustError


@pytest.fixture
def directory() -> dict[str, Record]:
    return {}


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("data", [b"", b"hello", bytes(100_000)])
def test_there_and_back(suite: int, data: bytes, directory: dict[str, Record]) -> None:
    ann, ben = FixedMember("ann", directory, X25519), FixedMember("ben", directory, suite)
    blob = encrypt(ann, data, to="ben")
    assert decrypt(ben, blob) == (data, "ann")
    assert blob != encrypt(ann, data, to="ben"), "HPKE draws a key of its own each time"
    assert decrypt(ann, encrypt(ann, data, to="ann")) == (data, "ann")


def test_nobody_else_opens_it(directory: dict[str, Record]) -> None:
    ann, ben = FixedMember("ann", directory), FixedMember("ben", directory)
    eve = FixedMember("eve", directory)
    blob = encrypt(ann, b"hello", to="ben")
    with pytest.raises(DecryptError, match="for 'ben'"):
        decrypt(eve, blob)
    eve.user = "ben"
    with pytest.raises(DecryptError, match="not the one here"):
        decrypt(eve, blob)
    ben.fingerprint = bytes(32)
    with pytest.raises(DecryptError, match="realm"):
        decrypt(ben, blob)


def test_the_directory_is_asked_only_about_who_sealed_something_for_us(directory: dict[str, Record]) -> None:
    ann, ben = FixedMember("ann", directory), FixedMember("ben", directory)
    blob = encrypt(ann, b"hello", to="ben")
    with pytest.raises(DecryptError):
        decrypt(ann, blob)
    assert ann.asked == ["ben"]
    decrypt(ben, blob)
    assert ben.asked == ["ann"]


def test_nothing_is_encrypted_for_who_is_not_approved(directory: dict[str, Record]) -> None:
    ann, ben = FixedMember("ann", directory), FixedMember("ben", directory)
    with pytest.raises(NotAllowed, match="'eve'.*no such user"):
        encrypt(ann, b"hello", to="eve")
    for state in (TENTATIVE, DELETED):
        directory["ben"] = record("ben", ben.key.public, state)
        with pytest.raises(NotAllowed, match="not approved"):
            encrypt(ann, b"hello", to="ben")
    with pytest.raises(InvalidUser):
        encrypt(ann, b"hello", to="no user")


def test_a_sender_who_was_deleted_or_changed_its_key_is_refused(directory: dict[str, Record]) -> None:
    ann, ben = FixedMember("ann", directory), FixedMember("ben", directory)
    blob = encrypt(ann, b"hello", to="ben")
    directory["ann"] = record("ann", ann.key.public, DELETED)
    with pytest.raises(DecryptError, match="deleted"):
        decrypt(ben, blob)
    FixedMember("ann", directory, word="ann's new key")
    with pytest.raises(DecryptError, match="changed its key"):
        decrypt(ben, blob)
    del directory["ann"]
    with pytest.raises(DecryptError, match="no user 'ann'"):
        decrypt(ben, blob)


def test_a_key_that_would_open_it_to_anybody(directory: dict[str, Record]) -> None:
    ann = FixedMember("ann", directory)
    directory["ben"] = record("ben", PublicKeys(bytes(32), X25519, bytes(32)))  # the point of order 1
    with pytest.raises(TrustError, match="nothing can be encrypted"):
        encrypt(ann, b"hello", to="ben")


def test_it_takes_a_user(directory: dict[str, Record]) -> None:
    ann = FixedMember("ann", directory)
    ann.user = None
    with pytest.raises(ConfigError, match="need a user"):
        encrypt(ann, b"hello", to="ann")
    with pytest.raises(ConfigError, match="need a user"):
        decrypt(ann, b"")


def test_the_limit(directory: dict[str, Record], monkeypatch: pytest.MonkeyPatch) -> None:
    ann = FixedMember("ann", directory)
    monkeypatch.setattr(sealing, "MAX_CLEAR", 4)
    with pytest.raises(ValueError, match="5 bytes exceed the limit of 4"):
        encrypt(ann, b"hello", to="ann")
    assert not ann.asked
