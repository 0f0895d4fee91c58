"""Statements as they are put together: the directory accepts each, and only in its turn."""

import pytest

from tests.authority.kit import ADMIN, WALL, Desk, Person, p256
from trunkline.authority import requests
from trunkline.authority.issuing import build_request
from trunkline.authority.messages import Denied, Issued, Stored
from trunkline.authority.rules import RETIRED_USER
from trunkline.authority.statements import APPROVED, DELETED, TENTATIVE

ANN, NEW = Person("ann"), Person("ann", 2)
REALM = ADMIN.realm
ROOT = requests.root_signer(ADMIN.key)


@pytest.fixture
def desk():
    return Desk()


def stored(desk, signed):
    answer = desk.submit(signed)
    assert isinstance(answer, Stored), answer
    return desk.get("ann")


def test_a_life(desk):
    record = stored(desk, requests.insert(REALM, "ann", ANN.keys, ANN.sign, requester="me"))
    assert (record.state, record.requester) == (TENTATIVE, "me")
    record = stored(desk, requests.approve(REALM, record, ROOT))
    assert record.state == APPROVED
    record = stored(desk, requests.change(REALM, record, NEW.keys, ANN.sign, NEW.sign))
    assert record.keys == NEW.keys
    record = stored(desk, requests.delete(REALM, record, NEW.sign, "lost"))
    assert record.state == DELETED
    record = stored(desk, requests.insert(REALM, "ann", ANN.keys, ANN.sign, record=record))
    record = stored(desk, requests.delete(REALM, record, ROOT))
    assert record.state == DELETED


def test_signed_by_who_may_not(desk):
    record = stored(desk, requests.insert(REALM, "ann", ANN.keys, ANN.sign))
    for signed in (
        requests.insert(REALM, "ben", ANN.keys, NEW.sign),
        requests.approve(REALM, record, ANN.sign),
        requests.change(REALM, record, NEW.keys, NEW.sign, NEW.sign),
        requests.change(REALM, record, NEW.keys, ANN.sign, ANN.sign),
        requests.delete(REALM, record, NEW.sign),
        requests.retire(REALM, None, bytes(32), ANN.sign),
    ):
        assert "not signed by" in desk.submit(signed).text


def test_retiring_goes_on_from_the_last(desk):
    assert isinstance(desk.submit(requests.retire(REALM, None, bytes(32), ROOT)), Stored)
    record = desk.get(RETIRED_USER)
    assert isinstance(desk.submit(requests.retire(REALM, record, b"\1" * 32, ROOT)), Stored)


def test_certificates(desk):
    desk.add(ANN)
    request = build_request(p256(7), "ann")
    assert isinstance(desk.ask(requests.issue(REALM, "ann", WALL, request, ANN.sign)), Issued)
    assert isinstance(desk.ask(requests.issue(REALM, "ann", WALL, request, NEW.sign)), Denied)
