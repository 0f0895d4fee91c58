"""Sender and receiver joined in memory: what one says the other hears, however the bytes are cut."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline import errors
from trunkline.transfer import link as link_module
from trunkline.transfer import messages as m
from trunkline.transfer.lifecycle import LinkState
from trunkline.transfer.link import FileBytes
from trunkline.transfer.messages import Entry, Kind, Verdict
from trunkline.transfer.receiver import Receiver
from trunkline.transfer.sender import Sender

EMPTY = hashlib.sha256().digest()
BODY = b"0123456789"
DIGEST = hashlib.sha256(BODY).digest()
FILE = Entry("f", Kind.FILE, len(BODY), 0o644, 0)


def events(machine):
    while (event := machine.next_event()) is not None:
        yield event


class Pair:
    """Two machines; deliver() carries what one has to say to the other, in pieces of `step` bytes."""

    def __init__(self, entries=(FILE,), step=None):
        self.sender = Sender(entries, 0.0)
        self.receiver = Receiver(0.0)
        self.step = step

    def deliver(self, source):
        target = self.receiver if source is self.sender else self.sender
        data = source.data_to_send()
        heard = []
        step = self.step or len(data) or 1
        for start in range(0, len(data), step):
            target.receive_data(data[start : start + step], 0.0)
            heard += [
                FileBytes(e.index, e.offset, bytes(e.data)) if isinstance(e, FileBytes) else e for e in events(target)
            ]
        return heard


@pytest.mark.parametrize("step", [None, 1, 3, 7])
def test_a_whole_conversation(step):
    pair = Pair(step=step)
    sender, receiver = pair.sender, pair.receiver
    assert pair.deliver(sender) == [m.OfferEnd(1, 10)]
    assert receiver.next_to_answer() is None
    receiver.send_ready()
    assert receiver.next_to_answer() == 0
    receiver.send_want(0, 0, EMPTY)
    assert receiver.next_to_answer() is None
    assert pair.deliver(receiver) == [m.Ready(), m.Want(0, 0, EMPTY)]
    sender.send_start(0, 0)
    sender.send_run(0, 4)
    sender.send_raw(BODY[:4])
    sender.send_run(0, 6)
    assert sender.raw_due == 6
    sender.send_raw(BODY[4:])
    sender.send_sum(0, DIGEST)
    heard = pair.deliver(sender)
    assert b"".join(e.data for e in heard if isinstance(e, FileBytes)) == BODY
    assert [e for e in heard if not isinstance(e, FileBytes)] == [
        m.Start(0, 0),
        m.Run(0, 0, 4),
        m.Run(0, 4, 6),
        m.Sum(0, DIGEST),
    ]
    assert not receiver.all_settled()
    receiver.send_settled(0, Verdict.KEPT)
    assert receiver.all_settled()
    receiver.send_complete()
    assert pair.deliver(receiver) == [m.Settled(0, Verdict.KEPT), m.Complete()]
    sender.send_done()
    assert pair.deliver(sender) == [m.Done()]
    for machine in (sender, receiver):
        assert machine.over
        assert machine.next_deadline() is None
        machine.receive_eof(1.0)
        machine.handle_timer(1e9)


def test_comparing():
    pair = Pair()
    pair.deliver(pair.sender)
    pair.receiver.send_ready()
    pair.receiver.send_whole(0, DIGEST)
    pair.deliver(pair.receiver)
    pair.sender.send_differs(0)
    assert pair.deliver(pair.sender) == [m.Differs(0)]
    pair.receiver.send_settled(0, Verdict.REFUSED, "no\x1b")
    assert pair.deliver(pair.receiver) == [m.Settled(0, Verdict.REFUSED, "no\ufffd")]


def serving():
    pair = Pair()
    pair.deliver(pair.sender)
    pair.receiver.send_ready()
    pair.receiver.send_want(0, 0, EMPTY)
    pair.deliver(pair.receiver)
    pair.sender.send_start(0, 0)
    return pair


def test_nothing_else_is_said_amid_a_run():
    pair = serving()
    sender = pair.sender
    sender.send_run(0, 10)
    sender.data_to_send()
    sender.raw_sent(3, 1.0)
    sender.handle_timer(1.0 + link_module.ALIVE_EVERY)
    sender.send_spoiled(0, "changed")
    assert sender.data_to_send() == b""
    sender.raw_sent(7, 2.0)
    assert sender.data_to_send() == m.encode(m.Spoiled(0, "changed"))


@pytest.mark.parametrize(
    "act",
    [
        lambda sender: sender.send_same(0),
        lambda sender: sender.send_run(0, 11),
        lambda sender: sender.send_sum(0, DIGEST),
        lambda sender: sender.send_done(),
        lambda sender: sender.raw_sent(1, 0.0),
        lambda sender: sender.send_raw(b"x"),
        lambda sender: sender.send_start(1, 0),
    ],
)
def test_a_local_error_changes_nothing_and_sends_nothing(act):
    sender = serving().sender
    sender.data_to_send()
    with pytest.raises(errors.LocalError):
        act(sender)
    assert sender.data_to_send() == b""
    assert not sender.over
    sender.send_run(0, 10)


def test_a_bad_name_never_leaves():
    with pytest.raises(errors.LocalError, match="component"):
        Sender([Entry("../f", Kind.FILE, 0, 0, 0)], 0.0)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"GET / HTTP/1.1\r\n", errors.NotTrunkline),
        (b"T", None),
        (b"TX", errors.NotTrunkline),
        (b"TRUNKF/2", errors.VersionMismatch),
        (b"TRUNKL/1", errors.NotTrunkline),
        (m.PREAMBLE + b"\xff\xff\xff\xff", errors.FrameTooLarge),
        (m.PREAMBLE + b"\0\0\0\0", errors.MalformedMessage),
        (m.PREAMBLE + b"\0\0\0\1\xc1", errors.MalformedMessage),
        (m.PREAMBLE + b"\0\0\0\2\x91\x63", errors.UnknownMessage),
        (m.PREAMBLE + m.encode(m.Ready()), errors.MessageNotAllowed),
        (m.PREAMBLE + m.encode(m.Done()), errors.MessageNotAllowed),
    ],
)
def test_a_peer_that_breaks_the_rules_is_told_once(data, error):
    receiver = Receiver(0.0)
    receiver.data_to_send()
    if error is None:
        receiver.receive_data(data, 0.0)
        return
    with pytest.raises(error) as caught:
        receiver.receive_data(data, 0.0)
    stop = m.decode(receiver.data_to_send()[4:])
    assert stop == m.Stop(caught.value.code, str(caught.value))
    assert receiver.over
    with pytest.raises(error):
        receiver.receive_data(b"more", 0.0)
    with pytest.raises(error):
        receiver.receive_eof(0.0)
    with pytest.raises(errors.ClosedError):
        receiver.send_ready()
    assert receiver.data_to_send() == b""


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_give_events_or_a_remote_error(data, greeted):
    receiver = Receiver(0.0)
    try:
        receiver.receive_data((m.PREAMBLE if greeted else b"") + data, 0.0)
    except errors.RemoteError:
        assert receiver.over


def test_an_early_end_can_be_resumed():
    pair = serving()
    for machine in (pair.sender, pair.receiver):
        with pytest.raises(errors.TransferFailed, match="run the same command again") as caught:
            machine.receive_eof(0.0)
        assert caught.value.again


def test_the_receiver_needs_no_done():
    pair = Pair([])
    pair.deliver(pair.sender)
    pair.receiver.send_ready()
    pair.receiver.send_complete()
    pair.receiver.receive_eof(0.0)
    assert pair.receiver.course.state is LinkState.ENDED
    pair.deliver(pair.receiver)
    with pytest.raises(errors.TransferFailed):
        pair.sender.receive_eof(0.0)


def test_stop_is_heard_ahead_of_everything():
    pair = serving()
    pair.receiver.send_stop(0, "no room\n")
    assert pair.deliver(pair.receiver) == []
    assert pair.sender.stopped_by_peer == m.Stop(0, "no room\ufffd")
    assert pair.sender.over
    pair.sender.receive_eof(0.0)


def test_signs_of_life():
    pair = Pair()
    sender, receiver = pair.sender, pair.receiver
    pair.deliver(sender)
    assert sender.next_deadline() == link_module.ALIVE_EVERY
    sender.handle_timer(link_module.ALIVE_EVERY - 1)
    assert sender.data_to_send() == b""
    sender.handle_timer(link_module.ALIVE_EVERY)
    alive = sender.data_to_send()
    assert alive == m.encode(m.Alive())
    receiver.receive_data(alive, 100.0)
    assert receiver.next_event() == m.OfferEnd(1, 10) or receiver.next_event() is None
    receiver.handle_timer(link_module.SILENCE + 1)
    receiver.peer_is_there(200.0)
    receiver.handle_timer(200.0 + link_module.SILENCE - 1)
    with pytest.raises(errors.SilentPeer, match="120 s"):
        receiver.handle_timer(200.0 + link_module.SILENCE)
    assert receiver.over
