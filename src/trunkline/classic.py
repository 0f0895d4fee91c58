"""The routines of the paper, under its names and with its parameters (its sections 2.1 and 2.2).

Where the paper's routines return an error code, these raise; what they return by a parameter, these return.
`putserver` and `meetclient` keep one registration for the process, as the paper's do; for more than one name, or to
end a registration, use `trunkline.post`.

The paper's keys are numbers that programs carry about. Here secret keys stay in files:

    paper                       here
    publickey, as a result      the directory's `Record`, proven: it names the user, and is what `encrypt` takes
    publickey, to be entered    a `UserKey`, of which the public half is sent: the secret half signs that it is so
    oldsecretkey                a `UserKey`
    key of `decrypt`            the user whose key in TRUNKLINE_HOME opens it
    adminpublickey              the realm's root certificate (DER)
    adminsecretkey              the root's P-256 key

All ask the realm of TRUNKLINE_HOME.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from trunkline import connect
from trunkline.drivers.sockets import Connection
from trunkline.errors import ClosedError, ConfigError, NotAllowed, NotThatUser

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from trunkline.authority.statements import Record
    from trunkline.drivers.directory_client import DirectoryClient
    from trunkline.drivers.keys import UserKey
    from trunkline.drivers.secure_sockets import SecureConnection

_lock: Final = threading.Lock()
_registered: connect.Post | None = None


def meet(me: str, you: str) -> Connection:
    """Establish a connection between a process calling itself ``me`` and one calling itself ``you``."""
    return connect.meet(me, you)


def meet_d(me: str, you: str) -> Connection:
    """Do what `meet` does for datagrams: the paper's ``meet-d``."""
    return connect.meet_datagram(me, you)


def putserver(me: str) -> None:
    """Register this process as a server that is willing to accept connections with anyone.

    A second call registers the new name in place of the first.
    """
    global _registered
    new = connect.post(me)
    with _lock:
        old, _registered = _registered, new
    if old is not None:
        old.close()


def meetclient() -> Connection:
    """Establish a connection with a client that has executed ``meet(anything, me)``, after `putserver`.

    Raises:
        ClosedError: `putserver` was not called.
    """
    with _lock:
        registered = _registered
    if registered is None:
        raise ClosedError("meetclient() needs a registration: call putserver(name) first")
    return registered.accept()


# ---- section 2.2: authenticated connections ------------------------------------------------------------------------


def securemeet(me: str, you: str, myusername: str, yourusername: str) -> "tuple[SecureConnection, Record]":
    """Establish a secure connection between ``me``, owned by ``myusername``, and ``you``, owned by ``yourusername``.

    Returns:
        The connection, and the public key of the process ``you``: see `trunkline.secure_meet`.
    """
    key = getkey(yourusername, myusername)
    conn = connect.secure_meet(me, you, user=myusername, peer_user=yourusername)
    if conn.peer.public_key != key.keys.signing:
        conn.close()
        raise NotThatUser(f"the key of {yourusername!r} was changed while it was met: call securemeet() again")
    return conn, key


def encrypt(cleartext: bytes, clearlength: int, key: "Record") -> bytes:
    """Return the first ``clearlength`` bytes of ``cleartext`` encrypted with ``key``: the paper's ``cyphertext``.

    The default user of TRUNKLINE_HOME signs it; see `trunkline.encrypt`.

    Args:
        key: what `getkey` or `securemeet` returned.
    """
    return connect.encrypt(_first(cleartext, clearlength, "clearlength"), to=key.user)


def decrypt(cyphertext: bytes, cypherlength: int, key: str | None = None) -> tuple[bytes, str]:
    """Return what the first ``cypherlength`` bytes of ``cyphertext`` say, and which user said it.

    Args:
        key: the user whose key opens it; None is the default user of TRUNKLINE_HOME.

    Raises:
        DecryptError: see `trunkline.decrypt`.
    """
    return connect.decrypt(_first(cyphertext, cypherlength, "cypherlength"), user=key)


def _first(data: bytes, length: int, what: str) -> memoryview:
    if not 0 <= length <= len(data):
        raise ValueError(f"{what} is {length}, and there are {len(data)} bytes")
    return memoryview(data)[:length]


# ---- section 2.2.1: the directory of keys ----------------------------------------------------------------------------


def insertkey(username: str, publickey: "UserKey", requestername: str) -> None:
    """Insert a key and its user name into the directory: tentative, until the administrator has marked it.

    Args:
        publickey: made by ``UserKey.generate()``, and to be kept with ``RealmHome.save_key``.
        requestername: the originator of the request, for the administrator to read.

    Raises:
        NameTaken: somebody has that name.
    """
    with _directory() as directory:
        directory.insert_key(username, publickey, requestername)


def getkey(username: str, requestername: str) -> "Record":
    """Return the key of ``username``, which the administrator has approved; the paper's ``publickey``.

    Raises:
        NotAllowed: there is no such user, or it is not approved.
    """
    from trunkline.authority.sealing import check_recipient

    with _directory() as directory:
        return check_recipient(username, directory.get_key(username, requestername))


def changekey(username: str, newpublickey: "UserKey", requestername: str, oldsecretkey: "UserKey") -> None:
    """Put a new key in the place of the one of ``username``; both keys sign that.

    Raises:
        NotAllowed: the requester is not the owner of the entry.
    """
    _check_owner(username, requestername)
    with _directory() as directory:
        directory.change_key(username, oldsecretkey, newpublickey)


def deletekey(username: str, requestername: str) -> None:
    """Delete the entry of ``username``; its key in TRUNKLINE_HOME signs that.

    Raises:
        NotAllowed: the requester is not the owner of the entry.
    """
    from trunkline.drivers.realm_home import RealmHome

    _check_owner(username, requestername)
    key = RealmHome().load_key(username)
    with _directory() as directory:
        directory.delete_key(username, key.sign)


def _check_owner(username: str, requestername: str) -> None:
    if username != requestername:
        raise NotAllowed(f"{requestername!r} may not change the entry of {username!r}: only its owner may")


# ---- section 2.2.2: the administrator --------------------------------------------------------------------------------


def markOK(username: str, adminsecretkey: "EllipticCurvePrivateKey") -> None:  # noqa: N802 - the paper's name
    """Mark the entry of ``username`` as suitable for distribution.

    See first, by another way than this network, that the key is theirs: all trust in that user rests on it.
    """
    from trunkline.authority.requests import root_signer

    with _directory() as directory:
        directory.approve_key(directory.existing(username), root_signer(adminsecretkey))


def initauth(adminpublickey: bytes, adminsecretkey: "EllipticCurvePrivateKey") -> subprocess.Popen[str]:
    """Start the authority's server for the first time, and initialise its keys, in TRUNKLINE_HOME.

    The server gets a key of its own, certified by the administrator's, which it never sees: that may stay off line.

    Args:
        adminpublickey: the realm's root certificate: ``AuthorityHome.create_root`` makes one, and its key.

    Returns:
        The server's process. It listens, and goes on when we end; later ``trunkline authority serve`` starts it.

    Raises:
        ConfigError: there is an authority in TRUNKLINE_HOME already, or it did not start.
        TrustError: the two keys are not a pair.
    """
    from trunkline.authority.certificates import fingerprint_text, parse_root
    from trunkline.authority.issuing import INTERMEDIATE_LIFETIME, build_intermediate, check_request
    from trunkline.drivers.authority_home import AuthorityHome, new_serial
    from trunkline.drivers.disk import open_store
    from trunkline.drivers.realm_home import RealmHome, RealmSettings

    realm = RealmHome()
    home = AuthorityHome(realm.path)
    if (home.folder / "intermediate.pem").exists():
        raise ConfigError(f"there is an authority in {home.folder} already: start it with `trunkline authority serve`")
    root, now = parse_root(adminpublickey), int(time.time())
    asked = check_request(home.make_request())
    certificate = build_intermediate(
        adminpublickey, adminsecretkey, asked, new_serial(), now, min(now + INTERMEDIATE_LIFETIME, root.not_after)
    )
    home.install(certificate, now, adminpublickey)
    open_store(home.store, root.key_id, create=True, write=False).close()
    server = subprocess.Popen(
        [sys.executable, "-m", "trunkline", "authority", "serve"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert server.stdout is not None, "it was asked for"
    with server.stdout as said:
        line = said.readline()
    if " listens on " not in line:
        raise ConfigError(f"the authority's server did not start: it ended with {server.wait()}")
    where = tuple(line.split(" listens on ")[1].strip().split(", "))
    realm.join(adminpublickey, RealmSettings(root.realm, fingerprint_text(root.key_id), where))
    return server


@contextmanager
def _directory() -> "Iterator[DirectoryClient]":
    """Give the directory of TRUNKLINE_HOME's realm, as nobody in particular."""
    from trunkline.authority.trust import Trust
    from trunkline.drivers.membership import Membership
    from trunkline.drivers.realm_home import RealmHome

    home = RealmHome()
    said = home.settings()
    trust = Trust(said.realm, home.root(), said.trust_settings(), home.load_state(), home.load_evidence())
    with Membership(trust, addresses=said.addresses(), home=home) as membership:
        yield membership.directory
