import os

import pytest

from trunkline import errors
from trunkline.drivers.filesource import Refusal, check_unchanged, open_source, plan
from trunkline.transfer.messages import Kind
from trunkline.transfer.report import Status


def test_directories_come_before_what_is_in_them(tmp_path):
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/e/f").write_bytes(b"12")
    (tmp_path / "d/a").touch()
    sources, left_out = plan([tmp_path / "d"])
    assert [source.entry.name for source in sources] == ["d", "d/a", "d/e", "d/e/f"]
    assert [source.entry.kind for source in sources] == [Kind.DIRECTORY, Kind.FILE, Kind.DIRECTORY, Kind.FILE]
    assert left_out == []


@pytest.mark.parametrize("spelling", ["d", "d/", "d/.", "./d", "d/../d"])
def test_every_spelling_of_a_directory_gives_its_name(tmp_path, monkeypatch, spelling):
    (tmp_path / "d").mkdir()
    monkeypatch.chdir(tmp_path)
    assert plan([spelling])[0][0].entry.name == "d"
    monkeypatch.chdir(tmp_path / "d")
    assert plan(["."])[0][0].entry.name == "d"


def test_a_link_that_is_named_is_followed(tmp_path):
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to("real")
    (source,), _ = plan([tmp_path / "link"])
    assert (source.entry.name, source.entry.size) == ("link", 1)
    os.close(open_source(source))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: None, "No such file"),
        (os.mkfifo, "no file and no directory"),
        (lambda path: path.symlink_to("loop"), "can't be sent"),
    ],
)
def test_what_can_not_be_sent(tmp_path, make, error):
    make(tmp_path / "loop")
    with pytest.raises(errors.ConfigError, match=error):
        plan([tmp_path / "loop"])


def test_nothing_and_twice_the_same_and_no_name(tmp_path):
    with pytest.raises(errors.ConfigError, match="nothing to send"):
        plan([])
    (tmp_path / "f").touch()
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").touch()
    with pytest.raises(errors.InvalidName, match="twice"):
        plan([tmp_path / "f", tmp_path / "d/f"])
    with pytest.raises(errors.InvalidName, match="empty"):
        plan(["/"])


def test_names_inside_that_no_receiver_takes(tmp_path):
    (tmp_path / "d").mkdir()
    for name in (b"not-utf8-\xff", b".x.trunkline-part", b"fine"):
        (tmp_path / "d" / os.fsdecode(name)).touch()
    sources, left_out = plan([tmp_path / "d"])
    assert [source.entry.name for source in sources] == ["d", "d/fine"]
    assert [file.status for file in left_out] == [Status.FAILED] * 2
    for file in left_out:
        file.name.encode()
        file.reason.encode()


def test_an_unchanged_file_passes_and_a_changed_one_does_not(tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    (source,), _ = plan([tmp_path / "f"])
    fd = open_source(source)
    check_unchanged(source, fd)
    (tmp_path / "f").write_bytes(b"xy")
    with pytest.raises(Refusal, match="changed"):
        check_unchanged(source, fd)
    os.close(fd)
    with pytest.raises(Refusal, match="changed"):
        open_source(source)
