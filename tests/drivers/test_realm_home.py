"""A member's files: what is read, written, and refused with the command that mends it."""

import logging

import pytest

from tests.realmkit import Realm
from trunkline.authority.certificates import fingerprint_text
from trunkline.authority.freshness import TrustSettings
from trunkline.drivers.keys import UserKey
from trunkline.drivers.realm_home import RealmHome, RealmSettings
from trunkline.errors import ConfigError, InvalidUser, TrustError
from trunkline.names import Address, Secret


@pytest.fixture(scope="module")
def realm():
    return Realm()


@pytest.fixture
def home(realm, tmp_path):
    return realm.home(tmp_path / "home", "ops/ann", "127.0.0.1:7118", "[::1]", key=False, grace=10)


class TestRealm:
    def test_is_read_back(self, realm, home):
        assert home.has_realm
        settings = home.settings()
        assert settings.realm == "lab.example"
        assert settings.user == "ops/ann"
        assert settings.root == fingerprint_text(realm.issuer.fingerprint)
        assert settings.addresses() == (Address("127.0.0.1", 7118), Address("::1", 7118))
        assert settings.trust_settings() == TrustSettings(300, "grace", 10)
        assert home.root() == realm.root

    def test_may_be_none(self, tmp_path):
        home = RealmHome(tmp_path / "none", {})
        assert not home.has_realm
        with pytest.raises(ConfigError, match="belongs to no realm: make one with `trunkline up`"):
            home.settings()

    def test_is_where_the_environment_says(self, tmp_path):
        assert RealmHome(None, {"TRUNKLINE_HOME": str(tmp_path)}).path == tmp_path

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('realm = "lab.example"', 'realm = "Lab Example"'),
            ('root = "', 'root = "x'),
            ("7118", "x"),
            ("ops/ann", "ops//ann"),
            ("grace = 10", "grace = -1"),
            ("grace = 10", "max_staleness = 0"),
            ("grace = 10", 'when_stale = "maybe"'),
            ("grace = 10", "colour = 1"),
            ("grace = 10", "grace = = 1"),
        ],
    )
    def test_a_mistake_says_where(self, home, old, new):
        file = home.path / "realm.toml"
        file.write_text(file.read_text().replace(old, new))
        with pytest.raises(ConfigError, match=r"realm.toml can't be used: "):
            home.settings()

    def test_what_is_no_file_of_ours(self, home):
        (home.path / "realm.toml").write_bytes(bytes(70_000))
        with pytest.raises(ConfigError, match="is larger than"):
            home.settings()
        (home.path / "realm.toml").unlink()
        (home.path / "realm.toml").mkdir()
        with pytest.raises(ConfigError, match="can't be read: Is a directory"):
            home.settings()

    def test_another_root_than_the_fingerprint_says(self, realm, home):
        other = Realm()
        with pytest.raises(TrustError, match="its fingerprint is another"):
            home.join(other.root, home.settings())
        import ssl

        (home.path / "root.pem").write_text(ssl.DER_cert_to_PEM_cert(other.root))
        with pytest.raises(ConfigError, match=r"is not the root that realm.toml names"):
            home.root()
        (home.path / "root.pem").write_text("junk")
        with pytest.raises(ConfigError, match=r"root.pem can't be used"):
            home.root()
        (home.path / "root.pem").unlink()
        with pytest.raises(ConfigError, match=r"root.pem is missing: join the realm again"):
            home.root()

    def test_a_home_is_of_one_realm(self, realm, home):
        home.join(realm.root, home.settings())
        other = Realm("other.example")
        told = RealmSettings("other.example", fingerprint_text(other.issuer.fingerprint))
        with pytest.raises(ConfigError, match="belongs to the realm 'lab.example' already"):
            home.join(other.root, told)

    def test_where_nothing_can_be_written(self, realm, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="can't be written"):
            realm.home(tmp_path / "file" / "below")


class TestKeys:
    def test_have_a_file_for_each_user(self, home):
        made = UserKey.generate()
        assert home.users() == []
        path = home.save_key("ops/ann", made)
        assert path == home.path / "keys" / "ops%2Fann.pem"
        assert home.users() == ["ops/ann"]
        assert home.load_key("ops/ann").public == made.public
        with pytest.raises(ConfigError, match="is there already"):
            home.save_key("ops/ann", made)

    def test_no_name_leads_out_of_the_folder(self, home):
        for user in ("..", "../x", "a\0b", ""):
            with pytest.raises(InvalidUser):
                home.key_path(user)

    def test_that_are_missing(self, home):
        with pytest.raises(ConfigError, match="make some with `trunkline key new ben`"):
            home.load_key("ben")

    def test_that_others_can_read(self, home):
        path = home.save_key("ops/ann", UserKey.generate())
        path.chmod(0o644)
        with pytest.raises(ConfigError, match=f"run `chmod 600 {path}`"):
            home.load_key("ops/ann")

    def test_under_a_passphrase(self, home, realm):
        key = UserKey.generate()
        home.save_key("ops/ann", key, Secret(b"horse"))
        with pytest.raises(ConfigError, match="set TRUNKLINE_PASSPHRASE"):
            home.load_key("ops/ann")
        again = RealmHome(home.path, {"TRUNKLINE_PASSPHRASE": "horse"})
        assert again.load_key("ops/ann").public == key.public


class TestState:
    def test_comes_back(self, home, realm):
        assert home.load_state() is None
        assert home.load_evidence() == ()
        assert home.load_credential("ops/ann") is None
        home.keep_state(b"state")
        head = realm.signed_head()
        home.keep_evidence((head, head))
        credential = realm.credential("ops/ann")
        home.keep_credential("ops/ann", credential)
        assert home.load_state() == b"state"
        assert home.load_evidence() == (head, head)
        assert home.load_credential("ops/ann").chain == credential.chain
        for file in (home.path / "state").iterdir():
            assert file.stat().st_mode & 0o777 == 0o600
        assert (home.path / "state").stat().st_mode & 0o777 == 0o700

    def test_that_others_can_change(self, home):
        home.keep_state(b"state")
        home.state_path().chmod(0o622)
        with pytest.raises(ConfigError, match="run `chmod 600"):
            home.load_state()
        home.state_path().chmod(0o600)
        (home.path / "state").chmod(0o777)
        with pytest.raises(ConfigError, match="run `chmod 700"):
            home.load_state()

    def test_that_is_damaged(self, home, caplog):
        home.keep_state(b"state")
        home.state_path("ops/ann").write_bytes(b"junk")
        home.state_path("ops/ann").chmod(0o600)
        with caplog.at_level(logging.WARNING):
            assert home.load_credential("ops/ann") is None
        assert "is left out" in caplog.text
        home.evidence_path.write_bytes(b"junk")
        home.evidence_path.chmod(0o600)
        with pytest.raises(ConfigError, match="evidence"):
            home.load_evidence()

    def test_that_can_not_be_kept_is_a_warning(self, home, caplog):
        (home.path / "state").write_text("in the way")
        with caplog.at_level(logging.WARNING):
            home.keep_state(b"state")
        assert "can't be written" in caplog.text
        assert "going on without" in caplog.text
