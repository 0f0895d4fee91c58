"""A member's files in TRUNKLINE_HOME: the realm, its root, users' keys, what is kept between runs.

    realm.toml          realm, root fingerprint, authorities, default user, how fresh is fresh enough
    root.pem            the realm's root certificate
    keys/NAME.pem       a user's secret keys, 0600 (``/`` in a name is written ``%2F``)
    state/              0700: head.bin, the last head that was seen; NAME.pem, the certificate in use and its key;
                        evidence.bin, two heads that can't both be true: while it is there, nothing is believed

docs/spec/authority.md section 12. A secret that others can read is refused, with the command that mends it.
"""

import contextlib
import logging
import os
import ssl
import stat
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from trunkline.authority.certificates import fingerprint_text, parse_fingerprint, parse_root
from trunkline.authority.freshness import GRACE, MAX_STALENESS, TrustSettings
from trunkline.authority.messages import SignedHead
from trunkline.authority.trust import Trust
from trunkline.authority.truststate import MAX_STATE, decode_evidence, encode_evidence
from trunkline.drivers.authority_client import DEFAULT_PORT
from trunkline.drivers.home import MAX_FILE, Home, to_toml
from trunkline.drivers.keys import UserKey, read_secret, write_secret
from trunkline.drivers.tls import Credential, load_credential
from trunkline.errors import ConfigError, InvalidAddress, InvalidRealm, InvalidUser, TrustError
from trunkline.names import Address, Secret
from trunkline.users import check_realm, check_user

_log: Final = logging.getLogger("trunkline")


class RealmSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What ``realm.toml`` says."""

    realm: str
    root: str
    """The root's fingerprint (`trunkline.authority.certificates.fingerprint_text`)."""
    authorities: tuple[str, ...] = ()
    """Authorities and replicas, ``host:port`` each, the best first."""
    user: str = ""
    """Who processes of this home are if nothing else is said; empty: none."""
    when_stale: Literal["grace", "strict"] = "grace"
    max_staleness: Annotated[int, Meta(ge=1)] = MAX_STALENESS
    """Seconds that a head is good for."""
    grace: Annotated[int, Meta(ge=0)] = GRACE
    """Seconds beyond max_staleness for which `grace` goes on."""

    def trust_settings(self) -> TrustSettings:
        """Return how fresh heads have to be."""
        return TrustSettings(self.max_staleness, self.when_stale, self.grace)

    def addresses(self) -> tuple[Address, ...]:
        """Return where authorities and replicas are."""
        return tuple(Address.parse(text, DEFAULT_PORT) for text in self.authorities)


class RealmHome:
    """The folder of a member.

    Args:
        path: default: TRUNKLINE_HOME, or the platform's folder for settings.
    """

    def __init__(self, path: Path | str | None = None, environ: Mapping[str, str] = os.environ) -> None:
        self.path: Final = Home(path, environ).path
        self._environ = environ

    # ---- the realm ---------------------------------------------------------------------------------------------

    @property
    def has_realm(self) -> bool:
        """Whether this home has joined a realm."""
        return (self.path / "realm.toml").exists()

    def settings(self) -> RealmSettings:
        """Read ``realm.toml``.

        Raises:
            ConfigError: it is missing, or says what can't be used.
        """
        file = self.path / "realm.toml"
        try:
            data = _read(file)
        except FileNotFoundError:
            raise ConfigError(
                f"{self.path} belongs to no realm: make one with `trunkline up`, or join one with `trunkline join`"
            ) from None
        try:
            settings = msgspec.toml.decode(data, type=RealmSettings)
            check_realm(settings.realm)
            parse_fingerprint(settings.root)
            settings.addresses()
            if settings.user:
                check_user(settings.user)
        except (
            msgspec.DecodeError,
            UnicodeDecodeError,
            InvalidRealm,
            InvalidUser,
            InvalidAddress,
        ) as error:
            raise ConfigError(f"{file} can't be used: {error}") from None
        return settings

    def join(self, root: bytes, settings: RealmSettings) -> None:
        """Write ``root.pem`` and ``realm.toml``.

        Args:
            root: the root certificate, DER, whose fingerprint is compared with that in ``settings``.

        Raises:
            ConfigError: the home belongs to another realm already, or can't be written.
            TrustError: the root is another's.
        """
        anchor = parse_root(root)
        if anchor.key_id != parse_fingerprint(settings.root) or anchor.realm != settings.realm:
            raise TrustError(f"that is not the root of {settings.realm!r}: its fingerprint is another")
        if self.has_realm and self.settings().root != settings.root:
            raise ConfigError(
                f"{self.path} belongs to the realm {self.settings().realm!r} already: "
                "use another TRUNKLINE_HOME for another realm"
            )
        _write(self.path / "root.pem", ssl.DER_cert_to_PEM_cert(root).encode())
        _write(
            self.path / "realm.toml",
            to_toml(settings, "The realm that this home belongs to (docs/spec/authority.md section 12)."),
        )

    def root(self) -> bytes:
        """Read ``root.pem`` and compare it with the fingerprint; return DER.

        Raises:
            ConfigError: it is missing, or not what ``realm.toml`` says.
        """
        file, wanted = self.path / "root.pem", self.settings()
        try:
            anchor = parse_root(ssl.PEM_cert_to_DER_cert(_read(file).decode("ascii")))
        except FileNotFoundError:
            raise ConfigError(f"{file} is missing: join the realm again with `trunkline join`") from None
        except (ValueError, TrustError) as error:
            raise ConfigError(f"{file} can't be used: {error}") from None
        if fingerprint_text(anchor.key_id) != wanted.root:
            raise ConfigError(f"{file} is not the root that realm.toml names: join again with `trunkline join`")
        return anchor.certificate

    # ---- keys --------------------------------------------------------------------------------------------------

    def key_path(self, user: str) -> Path:
        """Return where the keys of ``user`` are."""
        return self.path / "keys" / f"{_file_name(user)}.pem"

    def users(self) -> list[str]:
        """Return whose keys are here, in order."""
        return sorted(file.stem.replace("%2F", "/") for file in (self.path / "keys").glob("*.pem"))

    def load_key(self, user: str, passphrase: Secret | None = None) -> UserKey:
        """Read the keys of ``user``, under ``passphrase`` or TRUNKLINE_PASSPHRASE if they are.

        Raises:
            ConfigError: they are missing, others can read them, or the passphrase is wrong.
        """
        path = self.key_path(user)
        if not path.exists():
            raise ConfigError(f"there are no keys of {user!r} here ({path}): make some with `trunkline key new {user}`")
        return UserKey.load(path, passphrase or self.passphrase())

    def save_key(self, user: str, key: UserKey, passphrase: Secret | None = None) -> Path:
        """Write the keys of ``user``, who must have none here yet; return where.

        Raises:
            ConfigError: there are some, or the file can't be written.
        """
        path = self.key_path(user)
        key.save(path, passphrase or self.passphrase())
        return path

    def passphrase(self) -> Secret | None:
        """Return TRUNKLINE_PASSPHRASE."""
        text = self._environ.get("TRUNKLINE_PASSPHRASE", "")
        return Secret(text.encode()) if text else None

    # ---- between runs ------------------------------------------------------------------------------------------

    def state_path(self, user: str | None = None) -> Path:
        """Return where the last head is kept, or the certificate of ``user``."""
        return self.path / "state" / ("head.bin" if user is None else f"{_file_name(user)}.pem")

    def load_state(self) -> bytes | None:
        """Read what `Trust.state` returned in another run; None if there was none.

        Raises:
            ConfigError: it can't be read, or others can write it.
        """
        return self._load(self.state_path())

    def keep_state(self, state: bytes) -> None:
        """Write what `Trust.state` returned. Failing is no error but a warning: this run goes on all the same."""
        self._keep(self.state_path(), Secret(state))

    @property
    def evidence_path(self) -> Path:
        """Where the evidence of two histories is kept."""
        return self.path / "state" / "evidence.bin"

    def load_evidence(self) -> tuple[SignedHead, ...]:
        """Read the evidence of two histories; empty if there is none.

        Raises:
            ConfigError: it can't be read.
        """
        data = self._load(self.evidence_path)
        try:
            return () if data is None else decode_evidence(data)
        except TrustError as error:
            raise ConfigError(f"{self.evidence_path} can't be used: {error}") from None

    def keep_evidence(self, evidence: Sequence[SignedHead]) -> None:
        """Write the evidence of two histories, for a person to look at."""
        self._keep(self.evidence_path, Secret(encode_evidence(evidence)))
        _log.error("two histories: the evidence is kept in %s", self.evidence_path)

    def load_credential(self, user: str) -> Credential | None:
        """Read the certificate that was in use last, with its key; None if there is none that can be used."""
        data = self._load(self.state_path(user))
        try:
            return None if data is None else load_credential(data)
        except ConfigError as error:
            _log.warning("%s is left out: %s", self.state_path(user), error)
            return None

    def keep_credential(self, user: str, credential: Credential) -> None:
        """Write the certificate in use, so that a restart goes on with it. Failing is no error but a warning."""
        self._keep(self.state_path(user), Secret(credential.pem()))

    def _load(self, path: Path) -> bytes | None:
        if not path.exists():
            return None
        self._check_folder(path.parent)
        return read_secret(path, MAX_STATE)

    def _keep(self, path: Path, data: Secret) -> None:
        try:
            write_secret(path, data, replace=True)
        except ConfigError as error:
            _log.warning("%s; going on without", error)

    @staticmethod
    def _check_folder(folder: Path) -> None:
        mode = folder.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(
                f"{folder} is open to others (mode {stat.S_IMODE(mode):04o}), who could put an old head there: "
                f"run `chmod 700 {folder}`"
            )


class Kept:
    """What a home keeps of a `Trust`, written when there is more of it than before. Thread-safe."""

    def __init__(self, home: RealmHome, trust: Trust) -> None:
        self._home = home
        self._writing = threading.Lock()
        self._state = trust.state()
        self._accused = bool(trust.evidence)

    def update(self, lock: contextlib.AbstractContextManager[object], trust: Trust) -> None:
        """Write down what ``trust`` has learnt. It is read under ``lock``, not held while the disk is slow."""
        with self._writing:
            with lock:
                state, evidence = trust.state(), trust.evidence
            if evidence and not self._accused:
                self._accused = True
                self._home.keep_evidence(evidence)
            if state is not None and state != self._state:
                self._state = state
                self._home.keep_state(state)


def _file_name(user: str) -> str:
    return check_user(user).replace("/", "%2F")


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror}") from error
    if len(data) > MAX_FILE:
        raise ConfigError(f"{file} is larger than {MAX_FILE} bytes: that is no file of ours")
    return data


def _write(file: Path, data: bytes) -> None:
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.write_bytes(data)
        draft.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise ConfigError(f"{file} can't be written: {error.strerror}") from error
