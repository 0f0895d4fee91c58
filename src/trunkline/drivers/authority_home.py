"""An authority's files: its own key and certificates, and the administrator's (docs/spec/authority.md section 12).

    HOME/root.pem                        the realm's root certificate
    HOME/admin/root.key, root.pem        the administrator's; may be on a stick or another machine instead
    HOME/authority/intermediate.key      the key that signs heads and certificates (0600)
    HOME/authority/intermediate.pem      its certificate, and those before it that have not expired: newest first
    HOME/authority/root.pem              what those are certified by
    HOME/authority/settings.toml         name, where to listen, which store
    HOME/authority/next.key              made for a request that the root has not signed yet (0600)
    HOME/authority/directory.sqlite      the directory, unless settings.toml or --store names another

The root's key is needed twice: when the realm is made, and once a year to renew the intermediate; and each time the
other way round will do: the authority makes a request, the administrator signs it where the root's key is, and the
authority installs the certificate.
"""

import secrets
import ssl
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from trunkline.authority.certificates import Anchor, key_id, parse_intermediate, parse_root
from trunkline.authority.issuing import (
    BACKDATED,
    INTERMEDIATE_LIFETIME,
    ROOT_LIFETIME,
    Issuer,
    build_intermediate,
    build_request,
    build_root,
    check_request,
)
from trunkline.authority.messages import SERIAL_SIZE
from trunkline.drivers.home import to_toml
from trunkline.drivers.keys import MAX_FILE, generate_p256, load_p256, save_p256, write_secret
from trunkline.errors import ConfigError, TrustError
from trunkline.names import Secret
from trunkline.users import check_user

DEFAULT_PORT: Final = 7118
"""The authority's TCP port."""

MAX_INTERMEDIATES: Final = 8
"""Most of the authority's certificates that are kept and told: an answer holds no more."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What ``settings.toml`` may say; flags go before it."""

    name: str = "main"
    """The authority is ``authority/NAME`` in its own certificate."""
    listen: tuple[str, ...] = (f"127.0.0.1:{DEFAULT_PORT}",)
    store: str = ""
    """``sqlite:PATH`` or ``postgresql://…``; empty for directory.sqlite beside it."""


class Authority(msgspec.Struct, frozen=True):
    """What an authority is: its names, certificates and key."""

    name: str
    issuer: Issuer
    authorities: tuple[bytes, ...]
    """The intermediates' certificates, DER, the one in use first."""
    settings: Settings

    @property
    def root(self) -> bytes:
        """The realm's root certificate, DER."""
        return self.issuer.anchor.certificate

    @property
    def realm(self) -> str:
        """The realm's name."""
        return self.issuer.realm


class AuthorityHome:
    """The folders of an authority and of an administrator.

    Args:
        path: HOME.
        admin: where the root's key is; HOME/admin by default.
    """

    def __init__(self, path: Path, admin: Path | None = None) -> None:
        self.path = path
        self.folder = path / "authority"
        self.admin = admin or path / "admin"

    @property
    def store(self) -> Path:
        """Where the directory is by default."""
        return self.folder / "directory.sqlite"

    # ---- the administrator ----------------------------------------------------------------------------------

    def create_root(self, realm: str, wall: float, passphrase: Secret | None = None) -> Anchor:
        """Make the root of a new realm.

        Args:
            wall: seconds since 1970.
            passphrase: seals the key's file.

        Raises:
            InvalidRealm: no realm can have that name.
            ConfigError: there is a root already, or the files can't be written.
        """
        if (self.admin / "root.pem").exists():
            raise ConfigError(f"{self.admin} has the root of a realm already: name another folder with --admin-dir")
        key = generate_p256()
        begin = int(wall) - BACKDATED
        root = build_root(realm, key, new_serial(), begin, begin + ROOT_LIFETIME)
        save_p256(self.admin / "root.key", key, passphrase)
        _write_certificates(self.admin / "root.pem", (root,))
        return parse_root(root)

    def admin_root(self) -> Anchor:
        """Return the root whose key the administrator has.

        Raises:
            ConfigError: it is not there.
            TrustError: it is none.
        """
        return parse_root(read_certificates(self.admin / "root.pem")[0])

    def root_key(self, passphrase: Secret | None = None) -> ec.EllipticCurvePrivateKey:
        """Return the administrator's key.

        Raises:
            ConfigError: it is not there, others can read it, or the passphrase is wrong.
            TrustError: it is not the one of the root beside it.
        """
        key = load_p256(self.admin / "root.key", passphrase)
        if key_id(key.public_key()) != self.admin_root().key_id:
            raise TrustError(f"{self.admin / 'root.key'} is not the key of the root certificate beside it")
        return key

    def sign_request(self, request: bytes, wall: float, passphrase: Secret | None = None) -> bytes:
        """Certify the authority that made this request; return its certificate, DER.

        Raises:
            BadSignature: it is no request.
            ConfigError, TrustError: see `root_key`.
        """
        public = check_request(request)
        root = self.admin_root()
        begin = int(wall) - BACKDATED
        end = min(begin + INTERMEDIATE_LIFETIME, root.not_after)
        return build_intermediate(root.certificate, self.root_key(passphrase), public, new_serial(), begin, end)

    # ---- the authority --------------------------------------------------------------------------------------

    def make_request(self, settings: Settings | None = None) -> bytes:
        """Make a new key, and a request for its certificate (PKCS#10, DER); asked again, the same key's.

        Args:
            settings: of a new authority; None for what settings.toml says.

        Raises:
            ConfigError: the key can't be written.
            InvalidUser: the name can't be an authority's.
        """
        chosen = settings or self.settings()
        user = check_user(f"authority/{chosen.name}")
        if settings is not None and settings != self.settings():
            self._write_settings(settings)
        file = self.folder / "next.key"
        if file.exists():
            return build_request(load_p256(file), user)
        key = generate_p256()
        save_p256(file, key)
        return build_request(key, user)

    def install(self, certificate: bytes, wall: float, root: bytes | None = None) -> Anchor:
        """Put the key of `make_request` in use, with the certificate that the root made for it.

        Killed at any point it can be called again.

        Args:
            root: the realm's root certificate, DER; needed the first time.

        Raises:
            ConfigError: there is no request, or a file can't be written.
            TrustError: the certificate is not for that key, or of another realm.
        """
        anchor = parse_root(root if root is not None else self.root())
        authority = parse_intermediate(certificate, anchor)
        draft = self.folder / "next.key"
        key = load_p256(draft if draft.exists() else self.folder / "intermediate.key")
        if key_id(key.public_key()) != authority.key_id:
            raise TrustError("that certificate is for another key: sign what the last request says")
        kept = [each for each in self._certificates() if parse_intermediate(each, anchor).not_after > wall]
        chain = tuple(dict.fromkeys((certificate, *kept)))[:MAX_INTERMEDIATES]
        _write_certificates(self.folder / "root.pem", (anchor.certificate,))
        _write_certificates(self.path / "root.pem", (anchor.certificate,))
        # Between these two the first certificate and the key differ; `load` looks for the one that fits.
        _write_certificates(self.folder / "intermediate.pem", chain)
        if draft.exists():
            draft.replace(self.folder / "intermediate.key")
        return authority

    def settings(self) -> Settings:
        """Read ``settings.toml``; if there is none, everything has its default.

        Raises:
            ConfigError: it can't be read, or says what no setting is.
        """
        file = self.folder / "settings.toml"
        try:
            return msgspec.toml.decode(file.read_bytes(), type=Settings)
        except FileNotFoundError:
            return Settings()
        except OSError as error:
            raise ConfigError(f"{file} can't be read: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} can't be used: {error}") from None

    def root(self) -> bytes:
        """Return the root certificate that the authority goes by, DER.

        Raises:
            ConfigError: there is none.
        """
        file = self.folder / "root.pem"
        return read_certificates(file if file.exists() else self.path / "root.pem")[0]

    def load(self) -> Authority:
        """Return the authority.

        Raises:
            ConfigError: a file is missing, or others can read the key.
            TrustError: key and certificates don't fit.
        """
        if not (self.folder / "intermediate.pem").exists():
            raise ConfigError(
                f"there is no authority in {self.folder}: make one with `trunkline authority init REALM`, or name "
                "its home with --home"
            )
        settings = self.settings()
        key = load_p256(self.folder / "intermediate.key")
        root, certificates = self.root(), self._certificates()
        wanted = key_id(key.public_key())
        anchor = parse_root(root)
        for certificate in certificates:
            if parse_intermediate(certificate, anchor).key_id == wanted:
                rest = tuple(each for each in certificates if each != certificate)
                return Authority(settings.name, Issuer(root, certificate, key), (certificate, *rest), settings)
        raise TrustError(
            f"none of the certificates in {self.folder / 'intermediate.pem'} is for the key beside it: "
            "make a new one with `trunkline authority renew`"
        )

    def _certificates(self) -> tuple[bytes, ...]:
        file = self.folder / "intermediate.pem"
        return read_certificates(file) if file.exists() else ()

    def _write_settings(self, settings: Settings) -> None:
        write_secret(self.folder / "settings.toml", to_toml(settings, "Settings of this authority."), replace=True)


def new_serial() -> bytes:
    """Return a serial for a certificate: 127 random bits, for a serial is a positive number."""
    drawn = bytearray(secrets.token_bytes(SERIAL_SIZE))
    drawn[0] &= 0x7F
    drawn[-1] |= 1
    return bytes(drawn)


def read_certificates(file: Path) -> tuple[bytes, ...]:
    """Return the certificates in a PEM file, DER; at least one.

    Raises:
        ConfigError: the file can't be read, or has none.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
        if len(data) <= MAX_FILE:
            return tuple(each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(data))
    except FileNotFoundError:
        raise ConfigError(f"{file} is missing") from None
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror}") from error
    except ValueError:
        pass
    raise ConfigError(f"{file} holds no certificate (PEM)")


def certificates_pem(certificates: tuple[bytes, ...]) -> bytes:
    """Return certificates as PEM, for a file."""
    return "".join(ssl.DER_cert_to_PEM_cert(each) for each in certificates).encode()


def _write_certificates(file: Path, certificates: tuple[bytes, ...]) -> None:
    data = certificates_pem(certificates)
    write_secret(file, data, replace=True)
    file.chmod(0o644)  # certificates are no secret
