import json

from trunkline.transfer.report import FileOutcome, Outcome, Status


def test_an_outcome_is_good_when_every_file_is():
    good = [FileOutcome(s.value, s) for s in (Status.SENT, Status.RESUMED, Status.SKIPPED, Status.LEFT_OUT)]
    assert Outcome(tuple(good), 0, 1).ok
    for status in (Status.REFUSED, Status.FAILED, Status.PENDING):
        assert not Outcome((*good, FileOutcome("x", status)), 0, 1).ok


def test_it_can_be_printed_as_json():
    outcome = Outcome((FileOutcome("a", Status.RESUMED, 10, 4, sha256="00"),), 6, 2)
    assert json.loads(json.dumps(outcome.as_dict())) == {
        "ok": True,
        "files": [
            {
                "name": "a",
                "status": "resumed",
                "size": 10,
                "resumed_at": 4,
                "reason": "",
                "sha256": "00",
                "directory": False,
            }
        ],
        "bytes_moved": 6,
        "connections": 2,
    }
