"""Nothing that the commands say, log or raise has a secret in it: everything is run with --debug, and searched."""

import base64
import traceback

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.cli.authoritykit import World
from trunkline.authority.pairing import Inviter, Offer
from trunkline.drivers.keys import UserKey, load_p256
from trunkline.drivers.membership import Membership
from trunkline.drivers.own_realm import OwnRealm
from trunkline.drivers.realm_home import RealmHome
from trunkline.drivers.words import new_code, parse_code
from trunkline.errors import ConfigError
from trunkline.names import Draw, Secret

pytestmark = pytest.mark.e2e

PASSPHRASE = "correct horse battery staple"


def forms(secret: bytes) -> list[str]:
    """Return how a secret might show itself."""
    return [secret.hex(), repr(secret)[2:-1], base64.b64encode(secret).decode().rstrip("=")[2:-2]]


def secrets_of(*homes: RealmHome) -> list[str]:
    """Return every secret in the files of these homes, in every form."""
    found: list[str] = []
    for home in homes:
        for file in home.path.rglob("*"):
            if file.is_file() and b"PRIVATE KEY" in (data := file.read_bytes()):
                lines = data.decode().splitlines()
                found += [line for line in lines if len(line) > 40 and not line.startswith("---")]
        for user in home.users():
            key = home.load_key(user)
            for part in (key._signing, key.x25519):
                found += forms(part.private_bytes_raw())
        root = home.path / "admin" / "root.key"
        if root.exists():
            loaded = load_p256(root)
            found += forms(loaded.private_numbers().private_value.to_bytes(32, "big"))
            found += forms(loaded.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    assert len(found) > 10
    return found


def test_no_command_says_a_secret(world: World) -> None:
    ann, ben = world.ann, world.person("ben")
    said: list[str] = []

    def run(person, *words: object, code: int = 0) -> None:
        try:
            said.append(person.says("--debug", *words, code=code))
        except Exception:  # with --debug what is wrong is raised, with all that it has on the way
            said.append(traceback.format_exc())
        said.append(person.errors)

    for words in (
        ("key", "new"),
        ("key", "insert"),
        ("key", "approve", "ann", "--yes"),
        ("key", "get", "--json", "--history"),
        ("key", "list", "--json"),
        ("key", "change"),
        ("invite", "--json"),
        ("authority", "verify", "--json"),
        ("key", "new", "ann"),
        ("key", "get", "nobody"),
    ):
        run(ann, *words)
    run(ben, "join", ann.says("invite").split()[-1], "--user", "ben")
    run(ben, "status", "--json", "--switchboards", "127.0.0.1:1")
    run(ben, "key", "delete", "--yes")
    text = "\n".join(said)
    assert "Traceback" in text, "errors were searched too"
    assert "ed25519:" in text
    for secret in secrets_of(ann.home, ben.home):
        assert secret not in text


def test_nothing_shows_what_it_keeps(world: World) -> None:
    ann = world.ann
    ann.says("key", "new")
    code = new_code()
    with Membership.open(ann.home) as member:
        inviter = Inviter(code, Offer("line", b"root"), Draw(b"seed"), 0.0)
        held = [member, member.key, inviter, code, ann.home, OwnRealm(ann.home.path, Secret(PASSPHRASE.encode()))]
        shown = "\n".join(f"{each!r} {each!s} {each:}" for each in held)
    for secret in [*secrets_of(ann.home), PASSPHRASE, *code.reveal().decode().split("-")]:
        assert secret not in shown


def test_a_wrong_passphrase_or_code_is_not_repeated(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = world.ann
    monkeypatch.setenv("TRUNKLINE_PASSPHRASE", PASSPHRASE)
    ann.says("key", "new")
    UserKey.load(ann.home.key_path("ann"), Secret(PASSPHRASE.encode()))
    monkeypatch.setenv("TRUNKLINE_PASSPHRASE", "another")
    ann.says("key", "insert", code=1)
    assert "the passphrase is wrong" in ann.errors
    assert "another" not in ann.errors.replace("another realm", "")
    with pytest.raises(ConfigError) as caught:
        parse_code("river-candle-oter")
    assert "river" not in str(caught.value).partition("did they")[0].replace("'oter'", "")
