"""Statements in a file, carried by hand to where the administrator's key is, and back (docs/spec/authority.md section 11).

    trunkline statements 1
    realm FINGERPRINT
    # insert of ops/ann, key ed25519:0123456789abcdef, asked for by the help desk
    statement BASE64

Lines that begin with ``#`` are for people, and nothing is believed of them. A statement is the MessagePack of a `Signed`.
What is carried there are the latest statements about entries that are tentative; what comes back are approvals.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct

from trunkline.authority.certificates import fingerprint_text, parse_fingerprint
from trunkline.authority.merkle import statement_hash
from trunkline.authority.requests import Sign, approve
from trunkline.authority.rules import judge_alone, read_statement
from trunkline.authority.statements import (
    TENTATIVE,
    AnyStatement,
    Approve,
    Change,
    Insert,
    PublicKeys,
    Record,
    Signed,
)
from trunkline.errors import BadSignature, ConfigError, InvalidRealm, InvalidUser, NotAllowed, TrustError
