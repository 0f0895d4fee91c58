"""The asking side of a connection, without a network."""

import pytest

from tests.authority.kit import Desk
from trunkline.authority.codec import encode, requests
from trunkline.authority.link import ANSWERS, MAX_UNANSWERED, AuthorityLink, denial
from trunkline.authority.messages import PREAMBLE, AskHead, AskRoot, Denied, Get, HeadIs, Request, RootIs
from trunkline.errors import (
    BadSignature,
    DeniedError,
    LinkClosed,
    MalformedMessage,
    NameTaken,
    NotAllowed,
    NotTrunkline,
    NotWritable,
    Revoked,
    TooMany,
    TrustError,
    VersionMismatch,
)


def greeted():
    link = AuthorityLink()
    link.receive_data(PREAMBLE)
    return link


def test_asks_in_order_and_knows_answers_by_their_number():
    link, desk, inbound = greeted(), Desk(), requests()
    numbers = [link.send_request(AskHead(0)), link.send_request(AskRoot(0))]
    inbound.receive_data(link.data_to_send())
    assert link.data_to_send() == b""
    assert link.waiting == 2
    asked = [inbound.next_message(), inbound.next_message()]
    assert [each.query for each in asked] == numbers
    for request in reversed(asked):
        for answer in desk.drive(_received(request)):
            link.receive_data(encode(answer))
    assert [type(link.next_answer()[1]) for _ in range(2)] == [RootIs, HeadIs]
    assert link.next_answer() is None
    assert link.waiting == 0
    link.receive_eof()


def _received(request):
    from trunkline.authority.events import Received

    return Received(((1, request),))


def test_bytes_come_as_they_like():
    link = AuthorityLink()
    query = link.send_request(AskHead(0))
    data = PREAMBLE + encode(Denied(query, 36, "no"))
    for place in range(len(data) - 1):
        link.receive_data(data[place : place + 1])
        assert link.next_answer() is None
    link.receive_data(data[-1:])
    assert link.next_answer()[1].text == "no"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Denied(7, 36, ""), "answers the question 7, which nobody asked"),
        (RootIs(1, "lab", b"", ()), "RootIs is no answer to AskHead"),
    ],
)
def test_what_answers_nothing_is_refused(answer, text):
    link = greeted()
    link.send_request(AskHead(0))
    link.receive_data(encode(answer))
    with pytest.raises(MalformedMessage, match=text):
        link.next_answer()


def test_requests_are_no_answers():
    link = greeted()
    link.send_request(AskHead(0))
    link.receive_data(encode(Get(1, "ann")))
    with pytest.raises(MalformedMessage):
        link.next_answer()


@pytest.mark.parametrize(("start", "error"), [(b"HTTP/1.1 400", NotTrunkline), (b"TRUNKA/2\n", VersionMismatch)])
def test_others_are_told_apart(start, error):
    link = AuthorityLink()
    link.receive_data(start)
    with pytest.raises(error):
        link.next_answer()


def test_an_end_before_the_answer():
    link = greeted()
    link.receive_eof()
    link.send_request(AskHead(0))
    with pytest.raises(LinkClosed, match="before it had answered"):
        link.receive_eof()


def test_asks_only_so_much_at_a_time():
    link = greeted()
    for _ in range(MAX_UNANSWERED):
        link.send_request(AskHead(0))
    with pytest.raises(AssertionError):
        link.send_request(AskHead(0))


def test_every_request_has_its_answer():
    assert set(ANSWERS) == set(Request.__args__)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (NotAllowed.code, NotAllowed),
        (NotWritable.code, NotWritable),
        (BadSignature.code, BadSignature),
        (Revoked.code, Revoked),
        (TooMany.code, NotAllowed),
        (DeniedError.code, DeniedError),
        (TrustError.code, TrustError),
        (5, DeniedError),
    ],
)
def test_denials_are_the_errors_they_stand_for(code, kind):
    error = denial(Denied(1, code, "the reason"))
    assert type(error) is kind
    assert "the reason" in str(error)


def test_a_taken_name_is_said_once():
    told = str(NameTaken("ann", "its entry is approved"))
    assert str(denial(Denied(1, NameTaken.code, told), "ann")) == told
