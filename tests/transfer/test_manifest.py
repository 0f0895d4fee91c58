import pytest

from trunkline import errors
from trunkline.transfer import messages
from trunkline.transfer.manifest import Manifest
from trunkline.transfer.messages import Entry, Kind


def file(name, size=1):
    return Entry(name, Kind.FILE, size, 0o644, 0)


def directory(name):
    return Entry(name, Kind.DIRECTORY, 0, 0o755, 0)


def test_counts_bytes_and_keeps_the_order():
    manifest = Manifest()
    for entry in (directory("d"), file("d/a", 3), file("b", 4)):
        manifest.add(entry)
    assert [entry.name for entry in manifest.entries] == ["d", "d/a", "b"]
    assert manifest.size == 7


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (file("a"), file("a"), "twice"),
        (file("a"), directory("a"), "twice"),
        (file("a"), file("a/b"), "offered as a file"),
        (file("a"), file("a/b/c"), "offered as a file"),
        (file("a/b"), file("a"), "other names lie under it"),
        (file("ok"), file("../a"), "component"),
    ],
)
def test_a_name_that_does_not_fit_changes_nothing(first, second, reason):
    manifest = Manifest()
    manifest.add(first)
    with pytest.raises(errors.InvalidName, match=reason):
        manifest.add(second)
    assert manifest.entries == [first]


def test_a_directory_may_follow_what_is_in_it():
    manifest = Manifest()
    manifest.add(file("d/a"))
    manifest.add(directory("d"))


def test_limits_name_themselves(monkeypatch):
    manifest = Manifest(max_file=10, max_total=15)
    manifest.add(file("a", 10))
    with pytest.raises(errors.TooMany, match="'b' \\(11\\): the limit is 10"):
        manifest.add(file("b", 11))
    with pytest.raises(errors.TooMany, match="limit is 15"):
        manifest.add(file("b", 6))
    manifest.add(file("b", 5))
    assert manifest.size == 15


def test_number_and_name_limits(monkeypatch):
    monkeypatch.setattr(messages, "MAX_ENTRIES", 2)
    manifest = Manifest()
    manifest.add(file("a"))
    manifest.add(file("b"))
    with pytest.raises(errors.TooMany, match="files in one transfer"):
        manifest.add(file("c"))
    monkeypatch.setattr(messages, "MAX_MANIFEST", 3)
    manifest = Manifest()
    manifest.add(file("ab"))
    with pytest.raises(errors.TooMany, match="file names"):
        manifest.add(file("cd"))
