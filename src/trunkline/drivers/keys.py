"""Secret keys of users and administrators: made, used, kept in files that nobody else can read.

A file is a few PKCS#8 PEM blocks, each under the passphrase if there is one: for a user Ed25519, X25519 and, with the
hybrid suite, ML-KEM-768; for an administrator or an authority one P-256 key.
"""

import contextlib
import os
import re
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mlkem, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from trunkline.authority.certificates import key_text
from trunkline.authority.statements import X25519, X25519_MLKEM768, PublicKeys
from trunkline.errors import ConfigError
from trunkline.names import Secret

MAX_FILE: Final = 64 * 1024
"""Most bytes that are read of a key file."""

_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z ]+)-----\r?\n.*?-----END \1-----\r?\n?", re.DOTALL)


class UserKey:
    """A user's secret keys. What shows it hides them."""

    __slots__ = ("_mlkem", "_signing", "_x25519", "public")

    def __init__(
        self,
        signing: ed25519.Ed25519PrivateKey,
        encryption: x25519.X25519PrivateKey,
        hybrid: mlkem.MLKEM768PrivateKey | None = None,
    ) -> None:
        self._signing = signing
        self._x25519 = encryption
        self._mlkem = hybrid
        own = encryption.public_key().public_bytes_raw()
        self.public: Final = PublicKeys(
            signing.public_key().public_bytes_raw(),
            X25519 if hybrid is None else X25519_MLKEM768,
            # As draft-connolly-cfrg-xwing-kem section 5.1: ML-KEM's first.
            own if hybrid is None else hybrid.public_key().public_bytes_raw() + own,
        )
        """What the directory says of this user."""

    @classmethod
    def generate(cls) -> "UserKey":
        """Make new keys, with the hybrid suite if the library has it."""
        hybrid = None
        with contextlib.suppress(UnsupportedAlgorithm):
            hybrid = mlkem.MLKEM768PrivateKey.generate()
        return cls(ed25519.Ed25519PrivateKey.generate(), x25519.X25519PrivateKey.generate(), hybrid)

    @property
    def suite(self) -> int:
        """`X25519` or `X25519_MLKEM768`."""
        return self.public.suite

    @property
    def x25519(self) -> x25519.X25519PrivateKey:
        """The secret half of X25519, for `decrypt`."""
        return self._x25519

    @property
    def mlkem768(self) -> mlkem.MLKEM768PrivateKey | None:
        """The secret half of ML-KEM-768, for `decrypt`; None in the plain suite."""
        return self._mlkem

    def sign(self, data: bytes) -> bytes:
        """Return the Ed25519 signature over ``data``, which begins with the context that it is for."""
        return self._signing.sign(data)

    def __repr__(self) -> str:
        return f"UserKey({key_text(self.public.signing)})"

    def __reduce__(self) -> str:
        raise TypeError("a UserKey can't be pickled: it is secret")

    def save(self, path: Path, passphrase: Secret | None = None) -> None:
        """Write a new key file (0600).

        Raises:
            ConfigError: there is a file already, or it can't be written.
        """
        write_secret(path, Secret(self._pem(passphrase)), replace=False)

    def _pem(self, passphrase: Secret | None) -> bytes:
        form = (Encoding.PEM, PrivateFormat.PKCS8, _sealing(passphrase))
        hybrid = b"" if self._mlkem is None else self._mlkem.private_bytes(*form)
        return self._signing.private_bytes(*form) + self._x25519.private_bytes(*form) + hybrid

    @classmethod
    def load(cls, path: Path, passphrase: Secret | None = None) -> "UserKey":
        """Read a key file.

        Raises:
            ConfigError: it is missing, others can read it, the passphrase is wrong, or it holds something else.
        """
        signing: ed25519.Ed25519PrivateKey | None = None
        encryption: x25519.X25519PrivateKey | None = None
        hybrid = None
        for key in _load_blocks(path, passphrase):
            if isinstance(key, ed25519.Ed25519PrivateKey):
                signing = key
            elif isinstance(key, x25519.X25519PrivateKey):
                encryption = key
            elif isinstance(key, mlkem.MLKEM768PrivateKey):
                hybrid = key
        if signing is None or encryption is None:
            raise ConfigError(f"{path} holds no user's keys (Ed25519 and X25519): make some with `trunkline key new`")
        return cls(signing, encryption, hybrid)


# ---- keys of certificates --------------------------------------------------------------------------------------


def generate_p256() -> ec.EllipticCurvePrivateKey:
    """Make a key for a root, an intermediate or a leaf."""
    return ec.generate_private_key(ec.SECP256R1())


def save_p256(path: Path, key: ec.EllipticCurvePrivateKey, passphrase: Secret | None = None) -> None:
    """Write a new file with the key of a root or an authority (0600).

    Raises:
        ConfigError: there is a file already, or it can't be written.
    """
    pem = Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, _sealing(passphrase)))
    write_secret(path, pem, replace=False)


def load_p256(path: Path, passphrase: Secret | None = None) -> ec.EllipticCurvePrivateKey:
    """Read what `save_p256` has written.

    Raises:
        ConfigError: it is missing, others can read it, the passphrase is wrong, or it holds something else.
    """
    for key in _load_blocks(path, passphrase):
        if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == ec.SECP256R1.name:
            return key
    raise ConfigError(f"{path} holds no P-256 key")


# ---- files -----------------------------------------------------------------------------------------------------


def read_secret(path: Path, limit: int = MAX_FILE) -> bytes:
    """Read a file that only its owner may read.

    Raises:
        ConfigError: it is missing, can't be read, is too large, or others can read or write it; with the fix.
    """
    try:
        with path.open("rb") as stream:
            about = os.fstat(stream.fileno())  # of what was opened, whatever the name leads to by now
            check_private(path, about)
            data = stream.read(limit + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing") from None
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    if len(data) > limit:
        raise ConfigError(f"{path} is larger than {limit} bytes: that is no key file of ours")
    return data


def check_private(path: Path, about: os.stat_result) -> None:
    """Check that what was opened at ``path`` is a file of ours that nobody else can read or write.

    Raises:
        ConfigError: with the command that mends it.
    """
    if not stat.S_ISREG(about.st_mode):
        raise ConfigError(f"{path} is no file")
    if about.st_uid not in (os.geteuid(), 0):
        raise ConfigError(f"{path} belongs to another user of this machine (uid {about.st_uid}): it is not used")
    if about.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"{path} is secret, and others can read or write it (mode {stat.S_IMODE(about.st_mode):04o}): "
            f"run `chmod 600 {path}`; if others have an account here, take new keys as well"
        )


def write_secret(path: Path, data: bytes | Secret, *, replace: bool) -> None:
    """Write a file that only its owner may read (0600), whole or not at all, and wait until it is on disk.

    Raises:
        ConfigError: it can't be written, or is there and is not to be replaced.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _make_folder(path.parent)
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()  # of a process that had our number and crashed
        opened = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            with os.fdopen(opened, "wb") as stream:
                stream.write(data if isinstance(data, bytes) else data.reveal())
                stream.flush()
                os.fsync(stream.fileno())
            if replace:
                draft.replace(path)
            else:
                os.link(draft, path)  # which, unlike replacing, fails if there is one
        finally:
            with contextlib.suppress(FileNotFoundError):
                draft.unlink()
        _sync_folder(path.parent)
    except FileExistsError:
        raise ConfigError(f"{path} is there already: it is never written over; move it away first") from None
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from error


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError as error:  # something else has that name
            raise NotADirectoryError(error.errno, "what should be its folder is none") from error


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _sealing(passphrase: Secret | None) -> KeySerializationEncryption:
    return NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase.reveal())


def _load_blocks(path: Path, passphrase: Secret | None) -> list[object]:
    # Secrets have no place in local variables either: tracebacks can show those.
    blocks = [Secret(found.group()) for found in _BLOCK.finditer(read_secret(path))]
    return [_load_block(path, block, passphrase) for block in blocks]


def _load_block(path: Path, block: Secret, passphrase: Secret | None) -> object:
    sealed = b"ENCRYPTED" in block.reveal()
    if sealed and passphrase is None:
        raise ConfigError(f"{path} is under a passphrase: set TRUNKLINE_PASSPHRASE, or give it when asked")
    try:
        return load_pem_private_key(block.reveal(), passphrase.reveal() if sealed and passphrase is not None else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The library's text says nothing secret, and its cause is left out all the same.
        why = "the passphrase is wrong, or the file is damaged" if sealed else f"it can't be read ({error})"
        raise ConfigError(f"{path} can't be used: {why}") from None
