import pytest

from trunkline import errors
from trunkline.transfer import messages as m
from trunkline.transfer.messages import Entry, Kind, Verdict
from trunkline.transfer.receiver import Receiver

DIGEST = bytes(32)


def receiver(*heard, **limits):
    machine = Receiver(0.0, **limits)
    machine.data_to_send()
    machine.receive_data(m.PREAMBLE + b"".join(map(m.encode, heard)), 0.0)
    return machine


def offer(*entries):
    return [*m.split_offer(list(entries)), m.OfferEnd(len(entries), sum(entry.size for entry in entries))]


def test_it_answers_in_order_within_the_window():
    files = [Entry(f"f{n}", Kind.FILE, 0, 0o644, 0) for n in range(m.MAX_WINDOW + 2)]
    machine = receiver(*offer(*files))
    assert machine.next_to_answer() is None
    machine.send_ready()
    for n in range(m.MAX_WINDOW):
        assert machine.next_to_answer() == n
        machine.send_want(n, 0, DIGEST)
    assert machine.next_to_answer() is None
    machine.receive_data(m.encode(m.Spoiled(3, "gone")), 0.0)
    machine.send_settled(3, Verdict.FAILED)
    assert machine.next_to_answer() == m.MAX_WINDOW
    machine.send_settled(m.MAX_WINDOW, Verdict.REFUSED, "no")
    machine.send_whole(m.MAX_WINDOW + 1, DIGEST)
    assert machine.next_to_answer() is None
    assert not machine.all_settled()


def test_its_own_limits_hold():
    big = Entry("f", Kind.FILE, 11, 0o644, 0)
    with pytest.raises(errors.MalformedMessage, match="limit is 10"):
        receiver(*offer(big), max_file=10)
    with pytest.raises(errors.MalformedMessage, match="limit is 10"):
        receiver(*offer(big), max_total=10)


def test_it_ends_once_all_is_settled():
    machine = receiver(*offer())
    machine.send_ready()
    assert machine.all_settled()
    machine.send_complete()
    machine.data_to_send()
    machine.send_stop(0, "x" * 10_000)
    assert machine.data_to_send() == m.encode(m.Stop(0, "x" * m.MAX_TEXT))
