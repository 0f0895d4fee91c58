"""Secret keys and their files: kept well, shown to nobody."""

import logging
import os
import pickle
import traceback
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mlkem, x25519

from trunkline.authority.certificates import key_text
from trunkline.authority.rules import KEY_SIZES
from trunkline.authority.statements import X25519, X25519_MLKEM768
from trunkline.drivers import keys
from trunkline.drivers.keys import (
    UserKey,
    generate_p256,
    load_p256,
    read_secret,
    save_p256,
    write_secret,
)
from trunkline.errors import ConfigError
from trunkline.names import Secret

PASSPHRASE = Secret(b"correct horse")


@pytest.fixture
def key():
    return UserKey.generate()


class TestUserKeys:
    def test_sign_as_their_public_half_says(self, key):
        public = ed25519.Ed25519PublicKey.from_public_bytes(key.public.signing)
        public.verify(key.sign(b"data"), b"data")

    def test_are_hybrid_where_that_can_be(self, key):
        assert key.suite == X25519_MLKEM768
        assert len(key.public.encryption) == KEY_SIZES[X25519_MLKEM768]
        assert key.public.encryption[-32:] == key.x25519.public_key().public_bytes_raw()
        assert key.public.encryption[:-32] == key.mlkem768.public_key().public_bytes_raw()

    def test_are_plain_where_it_can_not(self, monkeypatch):
        def unable():
            raise UnsupportedAlgorithm("no ML-KEM here")

        monkeypatch.setattr(keys, "mlkem", type("Old", (), {"MLKEM768PrivateKey": type("K", (), {"generate": unable})}))
        key = UserKey.generate()
        assert key.suite == X25519
        assert key.mlkem768 is None
        assert key.public.encryption == key.x25519.public_key().public_bytes_raw()

    @pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
    @pytest.mark.parametrize("hybrid", [False, True])
    def test_come_back_from_their_file(self, tmp_path, passphrase, hybrid):
        made = UserKey(
            ed25519.Ed25519PrivateKey.generate(),
            x25519.X25519PrivateKey.generate(),
            mlkem.MLKEM768PrivateKey.generate() if hybrid else None,
        )
        path = tmp_path / "keys" / "ann.pem"
        made.save(path, passphrase)
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert UserKey.load(path, passphrase).public == made.public
        assert (b"ENCRYPTED" in path.read_bytes()) == (passphrase is not None)

    def test_a_passphrase_that_is_not_needed_does_no_harm(self, tmp_path, key):
        key.save(tmp_path / "ann.pem")
        assert UserKey.load(tmp_path / "ann.pem", PASSPHRASE).public == key.public


class TestSecrecy:
    def test_nothing_shows_them(self, key, tmp_path, caplog):
        key.save(tmp_path / "ann.pem")
        secrets = [
            key._signing.private_bytes_raw(),
            key.x25519.private_bytes_raw(),
            key.mlkem768.private_bytes_raw(),
            (tmp_path / "ann.pem").read_bytes()[60:80],
        ]
        with caplog.at_level(logging.DEBUG):
            logging.getLogger("trunkline").warning("%s %r %s", key, key, {"key": [key]})
        shown = [repr(key), str(key), f"{key}", repr([key]), repr(vars_of(key)), caplog.text]
        damaged = tmp_path / "damaged.pem"
        write_secret(damaged, Secret((tmp_path / "ann.pem").read_bytes().replace(b"MFQ", b"AAA")), replace=False)
        for fail in (
            lambda: UserKey.load(tmp_path / "missing.pem", PASSPHRASE),
            lambda: UserKey.load(damaged, PASSPHRASE),
            lambda: key.save(tmp_path / "ann.pem"),
            lambda: key.save(tmp_path / "ann.pem" / "below", PASSPHRASE),
        ):
            with pytest.raises(ConfigError) as caught:
                fail()
            of_ours = caught.value.with_traceback(caught.tb.tb_next)  # this function's variables are no secret here
            shown.append("".join(traceback.TracebackException.from_exception(of_ours, capture_locals=True).format()))
        assert repr(key) == f"UserKey({key_text(key.public.signing)})"
        for text in shown:
            for secret in secrets:
                assert secret.hex() not in text
                assert repr(secret)[2:-1] not in text
            assert "correct horse" not in text

    def test_nothing_takes_them_along(self, key):
        with pytest.raises(TypeError, match="secret"):
            pickle.dumps(key)
        assert not hasattr(key, "__dict__")


def vars_of(key):
    return {name: str(getattr(key, name)) for name in UserKey.__slots__}


class TestFilesThatAreRefused:
    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o777])
    def test_that_others_can_read_or_write(self, tmp_path, key, mode):
        path = tmp_path / "ann.pem"
        key.save(path)
        path.chmod(mode)
        with pytest.raises(ConfigError) as caught:
            UserKey.load(path)
        assert f"(mode {mode:04o}): run `chmod 600 {path}`" in str(caught.value)
        path.chmod(0o400)
        UserKey.load(path)

    def test_of_another_user_of_the_machine(self, tmp_path, key, monkeypatch):
        key.save(tmp_path / "ann.pem")
        if os.geteuid() == 0:
            os.chown(tmp_path / "ann.pem", 12345, 12345)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: 12345)
        with pytest.raises(ConfigError, match="belongs to another user of this machine"):
            UserKey.load(tmp_path / "ann.pem")

    def test_with_the_wrong_passphrase_or_none(self, tmp_path, key):
        key.save(tmp_path / "ann.pem", PASSPHRASE)
        with pytest.raises(ConfigError, match="set TRUNKLINE_PASSPHRASE"):
            UserKey.load(tmp_path / "ann.pem")
        with pytest.raises(ConfigError, match="the passphrase is wrong") as caught:
            UserKey.load(tmp_path / "ann.pem", Secret(b"wrong"))
        assert caught.value.__cause__ is None

    def test_with_something_else_in_them(self, tmp_path):
        save_p256(tmp_path / "root.key", generate_p256())
        with pytest.raises(ConfigError, match="holds no user's keys"):
            UserKey.load(tmp_path / "root.key")
        write_secret(
            tmp_path / "bad.pem",
            Secret(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
            replace=False,
        )
        with pytest.raises(ConfigError, match="it can't be read"):
            UserKey.load(tmp_path / "bad.pem")

    def test_that_are_missing_folders_or_too_large(self, tmp_path):
        with pytest.raises(ConfigError, match="is missing"):
            read_secret(tmp_path / "no.pem")
        with pytest.raises(ConfigError, match="can't be read: Is a directory"):
            read_secret(tmp_path)
        write_secret(tmp_path / "large", Secret(bytes(101)), replace=False)
        with pytest.raises(ConfigError, match="is larger than 100 bytes"):
            read_secret(tmp_path / "large", 100)
        with pytest.raises(ConfigError, match="is no file"):
            read_secret(Path(os.devnull))


class TestWriting:
    def test_keys_are_never_written_over(self, tmp_path, key):
        key.save(tmp_path / "ann.pem")
        with pytest.raises(ConfigError, match="is there already"):
            UserKey.generate().save(tmp_path / "ann.pem")
        assert UserKey.load(tmp_path / "ann.pem").public == key.public
        assert [each.name for each in tmp_path.iterdir()] == ["ann.pem"]

    def test_other_secrets_may_be(self, tmp_path):
        write_secret(tmp_path / "state", Secret(b"1"), replace=True)
        write_secret(tmp_path / "state", Secret(b"2"), replace=True)
        assert read_secret(tmp_path / "state") == b"2"
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600

    def test_whatever_the_umask(self, tmp_path, key):
        before = os.umask(0)
        try:
            key.save(tmp_path / "new" / "ann.pem")
        finally:
            os.umask(before)
        assert (tmp_path / "new" / "ann.pem").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700

    def test_what_a_crash_has_left_is_no_hindrance(self, tmp_path):
        (tmp_path / f".state.{os.getpid()}").write_bytes(b"half")
        write_secret(tmp_path / "state", Secret(b"whole"), replace=True)
        assert [each.name for each in tmp_path.iterdir()] == ["state"]

    def test_where_nothing_can_be_written(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(ConfigError, match="can't be written"):
            write_secret(tmp_path / "file" / "below", Secret(b""), replace=True)


class TestCertificateKeys:
    @pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
    def test_come_back(self, tmp_path, passphrase):
        made = generate_p256()
        save_p256(tmp_path / "root.key", made, passphrase)
        loaded = load_p256(tmp_path / "root.key", passphrase)
        made.public_key().verify(loaded.sign(b"x", ec.ECDSA(hashes.SHA256())), b"x", ec.ECDSA(hashes.SHA256()))

    def test_users_keys_are_none(self, tmp_path, key):
        key.save(tmp_path / "ann.pem")
        with pytest.raises(ConfigError, match="holds no P-256 key"):
            load_p256(tmp_path / "ann.pem")
