"""The authority's files: made, certified from afar, renewed, and refused when others can read them."""

import time
from pathlib import Path

import pytest

from trunkline.authority.certificates import parse_intermediate, parse_root
from trunkline.authority.issuing import DAY
from trunkline.drivers.authority_home import AuthorityHome, Settings, certificates_pem, new_serial, read_certificates
from trunkline.errors import BadSignature, ConfigError, InvalidRealm, InvalidUser, TrustError
from trunkline.names import Secret

WALL = time.time()


def made(path: Path, **settings: object) -> AuthorityHome:
    """A realm with its root and its authority in one home."""
    home = AuthorityHome(path)
    root = home.create_root("lab.example", WALL)
    home.install(home.sign_request(home.make_request(Settings(**settings)), WALL), WALL, root.certificate)
    return home


def test_a_realm_is_made_and_loaded(tmp_path: Path) -> None:
    home = made(tmp_path, name="east", listen=("10.0.0.1:7118",))
    loaded = home.load()
    assert (loaded.realm, loaded.name, loaded.settings.listen) == ("lab.example", "east", ("10.0.0.1:7118",))
    assert (
        loaded.root == read_certificates(tmp_path / "root.pem")[0] == read_certificates(tmp_path / "admin/root.pem")[0]
    )
    authority = parse_intermediate(loaded.authorities[0], parse_root(loaded.root))
    assert WALL + 365 * DAY < authority.not_after < WALL + 367 * DAY
    for secret in ("admin/root.key", "authority/intermediate.key"):
        assert (tmp_path / secret).stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in repr(loaded)


def test_the_root_can_stay_elsewhere(tmp_path: Path) -> None:
    admin, host = AuthorityHome(tmp_path / "admins", tmp_path / "stick"), AuthorityHome(tmp_path / "host")
    root = admin.create_root("lab.example", WALL, Secret(b"open"))
    request = host.make_request(Settings())
    assert host.make_request() == request, "asked again, it is the same key's"
    with pytest.raises(ConfigError, match="passphrase"):
        admin.sign_request(request, WALL)
    certificate = admin.sign_request(request, WALL, Secret(b"open"))
    host.install(certificate, WALL, root.certificate)
    assert host.load().authorities == (certificate,)
    assert not (tmp_path / "host" / "admin").exists()
    host.install(certificate, WALL)  # as after a death in the middle
    assert host.load().authorities == (certificate,)


def test_renewed_it_keeps_the_old_certificates_until_they_expire(tmp_path: Path) -> None:
    home = made(tmp_path)
    first = home.load()
    later = WALL + 300 * DAY
    home.install(home.sign_request(home.make_request(), later), later)
    second = home.load()
    assert second.authorities[1:] == first.authorities
    assert second.issuer.key_id != first.issuer.key_id
    much_later = WALL + 400 * DAY
    home.install(home.sign_request(home.make_request(), much_later), much_later)
    assert home.load().authorities[1:] == second.authorities[:1]


def test_a_death_between_certificate_and_key_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    home = made(tmp_path)
    before = home.load()
    certificate = home.sign_request(home.make_request(), WALL)
    kept = (home.folder / "intermediate.pem").read_bytes()
    (home.folder / "intermediate.pem").write_bytes(certificates_pem((certificate,)) + kept)  # and then it died
    assert home.load().issuer.key_id == before.issuer.key_id
    home.install(certificate, WALL)
    assert home.load().authorities == (certificate, *before.authorities)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    home, other = made(tmp_path / "a"), made(tmp_path / "b")
    with pytest.raises(TrustError, match="for another key"):
        home.install(home.sign_request(other.make_request(), WALL), WALL)
    with pytest.raises(BadSignature):
        home.install(other.sign_request(home.make_request(), WALL), WALL)
    with pytest.raises(BadSignature, match="can't be read"):
        home.sign_request(b"nothing", WALL)
    with pytest.raises(ConfigError, match="has the root of a realm already"):
        home.create_root("lab.example", WALL)
    (home.admin / "root.key").write_bytes((other.admin / "root.key").read_bytes())
    with pytest.raises(TrustError, match="not the key of the root"):
        home.root_key()
    (home.folder / "intermediate.key").write_bytes((other.folder / "intermediate.key").read_bytes())
    with pytest.raises(TrustError, match="authority renew"):
        home.load()


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    home = made(tmp_path)
    (home.folder / "intermediate.key").chmod(0o640)
    with pytest.raises(ConfigError, match=r"run `chmod 600 "):
        home.load()


def test_names_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    home = AuthorityHome(tmp_path / "new")
    with pytest.raises(InvalidRealm):
        home.create_root("Not A Realm", WALL)
    with pytest.raises(InvalidUser):
        home.make_request(Settings(name="no name"))
    assert not (tmp_path / "new").exists()


def test_files_that_are_missing_or_garbage_are_said_so(tmp_path: Path) -> None:
    home = AuthorityHome(tmp_path)
    with pytest.raises(ConfigError, match="trunkline authority init"):
        home.load()
    with pytest.raises(ConfigError, match="is missing"):
        home.admin_root()
    made(tmp_path)
    (home.folder / "settings.toml").write_text("listen = 5")
    with pytest.raises(ConfigError, match=r"settings\.toml can't be used"):
        home.load()
    (home.folder / "settings.toml").unlink()
    (home.folder / "settings.toml").mkdir()
    with pytest.raises(ConfigError, match="can't be read"):
        home.load()
    (home.admin / "root.pem").write_text("nothing")
    with pytest.raises(ConfigError, match="holds no certificate"):
        home.admin_root()
    (home.admin / "root.pem").unlink()
    (home.admin / "root.pem").mkdir()
    with pytest.raises(ConfigError, match="can't be read"):
        home.admin_root()


def test_serials_are_positive_and_differ() -> None:
    serials = {new_serial() for _ in range(100)}
    assert len(serials) == 100
    assert all(len(serial) == 16 and 0 < int.from_bytes(serial, "big") < 1 << 127 for serial in serials)
