"""Whether an answer about a user follows from a signed head (docs/spec/authority.md section 8, step 7)."""

from msgspec.structs import replace

from trunkline.authority import mapping
from trunkline.authority.certificates import Anchor
from trunkline.authority.merkle import statement_hash, verify_inclusion
from trunkline.authority.messages import Found, Head
from trunkline.authority.rules import judge, read_statement, statement_bytes
from trunkline.authority.statements import (
    APPROVED,
    DELETED,
    NOTHING,
    TENTATIVE,
    AnyStatement,
    Approve,
    Change,
    Record,
    Retire,
    Signed,
)
from trunkline.authority.verified import Verified
from trunkline.errors import BadProof, BadSignature, DeniedError, InvalidUser


def check_record(answer: Found, user: str, head: Head, root: Anchor, verified: Verified | None = None) -> Record | None:
    """Return the record of ``user``; None if it is shown that there is none.

    Args:
        head: what the answer's head says, verified.
        verified: what is not verified again; a signature takes longer to verify than all the rest.

    Raises:
        BadProof: the answer doesn't follow from the head.
        BadSignature: who signed the latest statement may not have said it.
    """
    if verified is None:
        verified = Verified()
    verified.under(head)
    key, record = mapping.map_key(user), answer.record
    if record is None:
        mapping.verify(key, None, answer.proof, head.map, verified.map)
        return None
    if record.user != user:
        raise BadProof(f"the answer about {user!r} has the record of {record.user!r}")
    value = mapping.record_hash(record)
    mapping.verify(key, value, answer.proof, head.map, verified.map)
    signed = answer.statement
    if signed is None or statement_hash(signed) != record.latest:
        raise BadProof(f"the record of {user!r} came without the statement that it rests on, or with another")
    verify_inclusion(record.latest, record.index, head.size, answer.inclusion, head.log, verified.log)
    if not verified.rests(record.latest, value):
        _check_rests_on(record, signed, root)
        verified.keep(record.latest, value)
    return record


def check_retired(signed: Signed, root: Anchor) -> bytes:
    """Return the key id of the intermediate that a Retire statement is about.

    Raises:
        BadSignature: it is none of this realm, or the administrator did not sign it.
    """
    statement = _read(signed)
    if not isinstance(statement, Retire) or statement.realm != root.key_id:
        raise BadSignature("what should retire an authority's key does not, or is of another realm")
    root.check(statement_bytes(signed.body), signed.signature, "the statement that retires an authority's key")
    return statement.authority


def _check_rests_on(record: Record, signed: Signed, root: Anchor) -> None:
    """Check that the rules make this record of its latest statement, and that whoever signed it may say it."""
    statement = _read(signed)
    before = _before(record, statement)
    try:
        outcome = judge(
            signed, statement, before, index=record.index, leaf=record.latest, realm=root.key_id, root=root.key
        )
    except DeniedError as error:
        raise BadProof(f"the latest statement about {record.user!r} breaks the rules: {error}") from error
    if outcome.record != record:
        raise BadProof(f"the record of {record.user!r} is not what its latest statement says")


def _before(record: Record, statement: AnyStatement) -> Record | None:
    """Return the entry as it must have been: what the statement says nothing about was as it is now."""
    if isinstance(statement, Approve):
        return replace(record, state=TENTATIVE, latest=statement.previous, approval=-1)
    if isinstance(statement, Change):
        return replace(record, keys=replace(record.keys, signing=statement.signing), latest=statement.previous)
    if record.state == DELETED and not isinstance(statement, Retire):
        return replace(record, state=APPROVED, latest=statement.previous)
    if statement.previous == NOTHING:
        return None
    return replace(record, state=DELETED, latest=statement.previous)


def _read(signed: Signed) -> AnyStatement:
    try:
        return read_statement(signed)
    except InvalidUser as error:
        raise BadSignature(f"a statement is about somebody who can't be: {error}") from error
