from trunkline.drivers.filetally import Tally
from trunkline.transfer.messages import Entry, Kind
from trunkline.transfer.report import FileOutcome, Phase, Status

A = Entry("a", Kind.FILE, 10, 0o644, 0)
B = Entry("b", Kind.FILE, 5, 0o644, 0)


def test_the_books_over_two_connections():
    tally = Tally([FileOutcome("link", Status.LEFT_OUT)])
    reports = []
    tally.start(reports.append)
    tally.expect([A, B])
    tally.report(Phase.MOVING, A, 4)
    tally.settle(A, Status.RESUMED, at=3, sha256=b"\1")
    assert [file.status for file in tally.outcome().files] == [
        Status.RESUMED,
        Status.PENDING,
        Status.LEFT_OUT,
    ]
    tally.start(None)
    tally.expect([A, B])
    tally.settle(A, Status.SKIPPED)  # its acknowledgement was lost: it counts as what it was
    tally.settle(B, Status.SENT, at=3)
    outcome = tally.outcome()
    assert [(file.name, file.status, file.resumed_at) for file in outcome.files] == [
        ("a", Status.RESUMED, 3),
        ("b", Status.SENT, 0),
        ("link", Status.LEFT_OUT, 0),
    ]
    assert outcome.ok
    assert outcome.connections == 2
    assert [(r.phase, r.done, r.all_done, r.all_total, r.files_done) for r in reports] == [
        (Phase.MOVING, 4, 4, 15, 0),
        (Phase.SETTLED, 10, 10, 15, 1),
    ]


def test_a_file_that_failed_can_succeed_later():
    tally = Tally()
    tally.start(None)
    tally.expect([A])
    tally.settle(A, Status.FAILED, "hash")
    tally.settle(A, Status.SENT)
    assert tally.outcome().ok
