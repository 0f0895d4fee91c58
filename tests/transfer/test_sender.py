import pytest

from trunkline import errors
from trunkline.transfer import messages as m
from trunkline.transfer.messages import Entry, Kind, Verdict
from trunkline.transfer.sender import Sender

DIGEST = bytes(32)


def sender(*heard):
    machine = Sender([Entry("f", Kind.FILE, 10, 0o644, 0)], 0.0)
    machine.data_to_send()
    machine.receive_data(m.PREAMBLE + b"".join(map(m.encode, heard)), 0.0)
    return machine


def test_it_begins_with_the_whole_offer():
    machine = Sender([], 0.0)
    assert machine.data_to_send() == m.PREAMBLE + m.encode(m.OfferEnd(0, 0))


def test_reasons_are_cut_to_their_limit():
    machine = sender(m.Ready(), m.Want(0, 0, DIGEST))
    machine.send_spoiled(0, "x" * 10_000)
    assert machine.data_to_send() == m.encode(m.Spoiled(0, "x" * m.MAX_TEXT))


def test_same():
    machine = sender(m.Ready(), m.Whole(0, DIGEST))
    machine.send_same(0)
    assert machine.data_to_send() == m.encode(m.Same(0))


@pytest.mark.parametrize(
    "lie",
    [
        [m.Want(0, 0, DIGEST)],
        [m.Ready(), m.Ready()],
        [m.Ready(), m.Want(0, 11, DIGEST)],
        [m.Ready(), m.Want(1, 0, DIGEST)],
        [m.Ready(), m.Want(0, 0, DIGEST), m.Want(0, 0, DIGEST)],
        [m.Ready(), m.Settled(0, Verdict.KEPT)],
        [m.Ready(), m.Want(0, 0, DIGEST), m.Settled(0, Verdict.KEPT)],
        [m.Ready(), m.Complete()],
        [m.Done()],
        [m.Run(0, 0, 1)],
    ],
)
def test_a_receiver_that_lies_is_found_out(lie):
    with pytest.raises((errors.MalformedMessage, errors.MessageNotAllowed)):
        sender(*lie)
