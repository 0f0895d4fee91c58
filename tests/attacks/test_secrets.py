"""Secrets in what a program logs, shows or raises: searched for while two users do all that can be done securely.

Everything is logged at DEBUG, and errors are shown with the values of all variables. The commands are searched in
tests/cli/test_secrets.py.
"""

import base64
import logging
import threading
import traceback
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.leaks import no_leaks
from tests.live import LiveServer
from tests.realmkit import LiveAuthority, Realm
from trunkline import connect
from trunkline.drivers.tls import Credential
from trunkline.errors import TrunklineError

SAID = b"the password is swordfish"


def forms(secret: bytes) -> list[str]:
    """Return how a secret might show itself: a part is enough."""
    return [secret.hex()[:40], repr(secret)[2:-1][:40], base64.b64encode(secret).decode()[:24]]


def secrets_of(realm: Realm, credentials: list[Credential]) -> list[str]:
    """Return the private parts of every key of the realm's users, and of their certificates."""
    found = []
    for key in realm.keys.values():
        for part in (key._signing, key.x25519):
            found += forms(part.private_bytes_raw())
        assert key.mlkem768 is not None
        found += forms(key.mlkem768.private_bytes_raw())
    for each in credentials:
        found += forms(each.key.private_numbers().private_value.to_bytes(32, "big"))
        found += forms(each.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())[36:])
        found.append(str(each.key.private_numbers().private_value))
    return found


def test_nothing_that_two_users_do_shows_a_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    realm = Realm("lab.example")
    shown: list[str] = []
    with no_leaks(), LiveAuthority(realm, tmp_path) as authority, LiveServer.of(realm) as server:
        realm.approve(authority, "ann", "ben")
        home = realm.home(tmp_path / "ann", "ann", authority.address)
        home.save_key("ben", realm.key("ben"))
        with caplog.at_level(logging.DEBUG), connect.Switchboard(server.address, home=home.path) as switchboard:
            with switchboard.secure_post("vault", user="ben", allow="ann", datagram=False) as post:

                def serve() -> None:
                    with post.accept(60) as conn:
                        conn.sendall(conn.recv(100))

                thread = threading.Thread(target=serve)
                thread.start()
                with switchboard.secure_meet("a", "vault", peer_user="ben", timeout=60) as conn:
                    conn.sendall(SAID)
                    assert conn.recv(100) == SAID
                    shown.append(repr(conn))
                thread.join()
                shown.append(repr(post))
            blob = switchboard.encrypt(SAID, to="ben")
            assert switchboard.decrypt(blob, user="ben") == (SAID, "ann")
            failing = (
                lambda: switchboard.decrypt(blob[:-1], user="ben"),
                lambda: switchboard.decrypt(blob),
                lambda: switchboard.encrypt(SAID[:0], to="nobody"),
                lambda: switchboard.secure_meet("a", "b", peer_user="ben", timeout=0.1),
                lambda: switchboard.secure_post("vault", user="zoe", allow="ann"),
            )
            for fail in failing:
                with pytest.raises(TrunklineError) as caught:
                    fail()
                ours = caught.value.with_traceback(caught.tb.tb_next.tb_next)  # without this test's own variables
                shown += traceback.TracebackException.from_exception(ours, capture_locals=True).format()
            members = [switchboard.membership(user) for user in ("ann", "ben")]
            shown += [f"{each!r} {each} {each.key!r} {vars(each)!r}" for each in (*members,)]
            credentials = [each._credential for each in members]
    text = "\n".join(shown) + caplog.text
    assert "ed25519:" in text
    for secret in [*secrets_of(realm, credentials), *forms(SAID), SAID.decode(), "PRIVATE KEY"]:
        assert secret not in text
