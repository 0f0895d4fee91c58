"""What is asked of an authority or a replica, and answered (docs/spec/authority.md section 6).

Each message is a MessagePack array whose first element is its number, in the frames of docs/spec/wire.md section 2,
inside TLS 1.3. All requests but Submit and Issue only read; a replica refuses those two, and names the authority.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from trunkline.authority.statements import HASH_SIZE, Hash, Record, Signed, UserName

PREAMBLE: Final = b"TRUNKA/1\n"
"""The first bytes of either side, inside TLS."""

MAX_REQUEST: Final = 64 * 1024
"""Largest frame body that the authority reads, in bytes."""

MAX_ANSWER: Final = 1024 * 1024
"""Largest frame body that a client reads: a head with all its revoked serials fits."""

MAX_REVOKED: Final = 32 * 1024
"""Most serials revoked and not yet expired; then changes and deletions are refused until some have expired."""

SERIAL_SIZE: Final = 16
MAX_PROOF: Final = 256
"""Most hashes in a proof: the map's keys have 256 bits, a log of 2**63 entries needs 63."""

MAX_STATEMENTS: Final = 32
"""Most statements in one answer; the asker pages on."""

MAX_RECORDS: Final = 64
"""Most records in one listing."""

Serial = Annotated[bytes, Meta(min_length=SERIAL_SIZE, max_length=SERIAL_SIZE)]
Proof = Annotated[tuple[Hash, ...], Meta(max_length=MAX_PROOF)]
Certificate = Annotated[bytes, Meta(max_length=8192)]
Count = Annotated[int, Meta(ge=0, lt=1 << 53)]
Text = Annotated[str, Meta(max_length=1024)]


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The state of the whole directory, in 200 bytes."""

    realm: Hash
    """The root's fingerprint."""
    size: Count
    """Statements in the log."""
    log: Hash
    """The Merkle tree hash of the log (RFC 6962 section 2.1)."""
    map: Hash
    """The root of the map from users to the hashes of their records."""
    time: Count
    """When it was signed, in seconds since 1970: what `max_staleness` is measured against."""
    revoked: Hash
    """The hash of the revoked serials and the Retire statements (`trunkline.authority.heads.revoked_digest`)."""
    authority: Hash
    """The id of the key that signs it: the SHA-256 of its SubjectPublicKeyInfo."""


class SignedHead(msgspec.Struct, frozen=True, array_like=True):
    """A head as it was signed, byte for byte."""

    body: Annotated[bytes, Meta(max_length=512)]
    signature: Annotated[bytes, Meta(max_length=128)]
    """ECDSA P-256 with SHA-256 (DER), by the authority's intermediate key."""


class Message(msgspec.Struct, frozen=True, array_like=True):
    """The base of every message."""

    query: Count
    """Chosen by the asker; the answer carries the same."""


# ---- asked -----------------------------------------------------------------------------------------------------


class AskRoot(Message, frozen=True, tag=1):
    """What is the realm's root certificate? Whoever asks compares its fingerprint."""


class AskHead(Message, frozen=True, tag=2):
    """What is the newest head, and does it go on from the one with ``size`` statements (0: none was seen)?"""

    size: Count = 0


class Get(Message, frozen=True, tag=3):
    """What is the record of ``user``? ``size`` is as in AskHead. (The paper's *getkey*.)"""

    user: UserName
    size: Count = 0
    requester: Annotated[str, Meta(max_length=255)] = ""


class Submit(Message, frozen=True, tag=4):
    """Append this statement to the log."""

    statement: Signed


class Issue(Message, frozen=True, tag=5):
    """Certify the key of this PKCS#10 request for ``user``."""

    user: UserName
    request: Annotated[bytes, Meta(max_length=4096)]
    """PKCS#10, DER, self-signed by the P-256 key that is to be certified."""
    time: Count
    """When it was signed, in seconds since 1970."""
    signature: Annotated[bytes, Meta(max_length=128)]
    """By the user's Ed25519 key, over `trunkline.authority.certificates.issue_bytes`."""


class List(Message, frozen=True, tag=6):
    """Which users are there, in order of names, after ``after``, under ``prefix``? Not proven complete."""

    prefix: Annotated[str, Meta(max_length=255)] = ""
    after: Annotated[str, Meta(max_length=255)] = ""
    state: int = 0
    """Only those in this state; 0 for all."""


class History(Message, frozen=True, tag=7):
    """Which statements were made about ``user``, from the one at log index ``start`` on?"""

    user: UserName
    start: Count = 0


class Fetch(Message, frozen=True, tag=8):
    """The log's statements from index ``start`` on: for replicas and auditors."""

    start: Count


# ---- answered --------------------------------------------------------------------------------------------------


class RootIs(Message, frozen=True, tag=20):
    """The answer to AskRoot."""

    realm: str
    root: Certificate
    """X.509, DER."""
    authorities: Annotated[tuple[Certificate, ...], Meta(max_length=8)]
    """The intermediates' certificates, newest first."""


class HeadIs(Message, frozen=True, tag=21):
    """The answer to AskHead."""

    head: SignedHead
    consistency: Proof
    """From the size that was asked about to this head (RFC 6962 section 2.1.2); empty if that was 0 or the same."""
    revoked: Annotated[tuple[Serial, ...], Meta(max_length=MAX_REVOKED)]
    """Sorted; of certificates that are not expired."""
    authorities: Annotated[tuple[Certificate, ...], Meta(max_length=8)]
    retired: Annotated[tuple[Signed, ...], Meta(max_length=64)] = ()
    """Every Retire statement, in the order of the log."""


class Found(Message, frozen=True, tag=22):
    """The answer to Get; all of it fits the same head."""

    head: SignedHead
    consistency: Proof
    record: Record | None
    """None: nobody has that name, which the proof shows too."""
    proof: "MapProof"
    statement: Signed | None
    """The latest one about this user."""
    inclusion: Proof
    """That it stands in the log at ``record.index``."""


class MapProof(msgspec.Struct, frozen=True, array_like=True):
    """The way from the map's root to where a user's leaf is, or would be (docs/spec/authority.md section 4)."""

    siblings: Proof
    """From the leaf's up to the root's children."""
    leaf_key: Annotated[bytes, Meta(max_length=HASH_SIZE)] = b""
    """If another user's leaf stands there: its key..."""
    leaf_value: Annotated[bytes, Meta(max_length=HASH_SIZE)] = b""
    """...and value. Both empty: the place is empty, or the user's own leaf stands there."""


class Stored(Message, frozen=True, tag=23):
    """The answer to Submit: it is in the log, on disk, at ``index``."""

    index: Count
    head: SignedHead


class Issued(Message, frozen=True, tag=24):
    """The answer to Issue: the leaf and the intermediate that signed it, X.509 DER."""

    chain: Annotated[tuple[Certificate, ...], Meta(max_length=4)]


class Listing(Message, frozen=True, tag=25):
    """The answer to List; ``more``: ask again after the last."""

    records: Annotated[tuple[Record, ...], Meta(max_length=MAX_RECORDS)]
    more: bool


class Statements(Message, frozen=True, tag=26):
    """The answer to History and Fetch: pairs of log index and statement, and the head that they fit."""

    statements: Annotated[tuple[tuple[Count, Signed], ...], Meta(max_length=MAX_STATEMENTS)]
    more: bool
    size: Count


class Denied(Message, frozen=True, tag=27):
    """The request is refused; ``code`` is an error's wire code."""

    code: Count
    text: Text


Request = AskRoot | AskHead | Get | Submit | Issue | List | History | Fetch
Answer = RootIs | HeadIs | Found | Stored | Issued | Listing | Statements | Denied
AnyMessage = Request | Answer
