"""What is kept between runs, there and back."""

import msgspec
import pytest

from tests.authority.kit import ADMIN, ISSUER, Desk
from trunkline.authority.messages import AskHead
from trunkline.authority.truststate import (
    TrustState,
    decode_evidence,
    decode_state,
    encode_evidence,
    encode_state,
)
from trunkline.errors import TrustError


def state():
    head = Desk().ask(AskHead(0)).head
    return TrustState(ADMIN.realm, head, head, (), (ISSUER.authority.certificate,), ())


def test_states_come_back():
    assert decode_state(encode_state(state()), ADMIN.realm) == state()


def test_states_of_others_are_refused():
    with pytest.raises(TrustError, match="another realm"):
        decode_state(encode_state(state()), bytes(32))
    with pytest.raises(TrustError, match="the version 2, and this release reads 1"):
        decode_state(encode_state(msgspec.structs.replace(state(), version=2)), ADMIN.realm)
    with pytest.raises(TrustError, match="can't be read"):
        decode_state(b"\xc1", ADMIN.realm)


def test_evidence_comes_back():
    head = state().head
    assert decode_evidence(encode_evidence((head, head))) == (head, head)
    for junk in (b"", encode_evidence((head,))):
        with pytest.raises(TrustError, match="can't be read"):
            decode_evidence(junk)
