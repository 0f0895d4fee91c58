"""Answers to all questions that only read: the authority and its replicas give the same, with the same proofs."""

from typing import Final

import msgspec

from trunkline.authority.ledger import Ledger
from trunkline.authority.messages import (
    MAX_RECORDS,
    MAX_STATEMENTS,
    Answer,
    AskHead,
    AskRoot,
    Certificate,
    Denied,
    Fetch,
    Found,
    Get,
    HeadIs,
    History,
    List,
    Listing,
    RootIs,
    Serial,
    SignedHead,
    Statements,
)
from trunkline.authority.statements import Signed
from trunkline.authority.store import Reader
from trunkline.errors import DeniedError, RemoteError, TrunklineError, TrustError
from trunkline.users import check_user

MAX_TEXT: Final = 1024
Question = AskRoot | AskHead | Get | List | History | Fetch


class Shown(msgspec.Struct, frozen=True):
    """What goes with every answer at present."""

    head: SignedHead
    size: int
    """Statements in the log that the head is of."""
    revoked: tuple[Serial, ...]
    """Sorted."""
    authorities: tuple[Certificate, ...]
    retired: tuple[Signed, ...]


def answer(request: Question, shown: Shown, ledger: Ledger, reader: Reader, root: RootIs) -> Answer:
    """Return the answer to a question."""
    query = request.query
    match request:
        case AskRoot():
            return RootIs(query, root.realm, root.root, shown.authorities)
        case AskHead():
            proof = ledger.consistency(request.size)
            return HeadIs(query, shown.head, proof, shown.revoked, shown.authorities, shown.retired)
        case Get():
            return _found(request, shown, ledger)
        case List():
            found = reader.users(request.prefix, request.after, request.state, MAX_RECORDS + 1)
            return Listing(query, tuple(found[:MAX_RECORDS]), more=len(found) > MAX_RECORDS)
        case History():
            return _statements(query, reader.history(request.user, request.start, MAX_STATEMENTS + 1), shown)
        case Fetch():
            return _statements(query, reader.statements(request.start, MAX_STATEMENTS + 1), shown)


def denied(query: int, error: TrunklineError) -> Denied:
    """Return the refusal that tells of ``error``."""
    code = error.code if isinstance(error, DeniedError | TrustError | RemoteError) else DeniedError.code
    return Denied(query, code, str(error)[:MAX_TEXT])


def _found(request: Get, shown: Shown, ledger: Ledger) -> Answer:
    try:
        check_user(request.user)
    except TrunklineError as error:
        return denied(request.query, error)
    record, statement, proof, inclusion = ledger.look_up(request.user)
    return Found(request.query, shown.head, ledger.consistency(request.size), record, proof, statement, inclusion)


def _statements(query: int, found: list[tuple[int, Signed]], shown: Shown) -> Statements:
    return Statements(query, tuple(found[:MAX_STATEMENTS]), len(found) > MAX_STATEMENTS, shown.size)
