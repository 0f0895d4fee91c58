"""The receiving directory: no way out, no overwriting unasked."""

import os
import subprocess
import sys
import textwrap

import pytest

from trunkline import errors
from trunkline.drivers import filetree
from trunkline.drivers.filesource import Refusal
from trunkline.drivers.filetree import Tree
from trunkline.transfer.messages import Entry, Kind


def file(name, size=3, mode=0o644):
    return Entry(name, Kind.FILE, size, mode, 0)


@pytest.fixture
def into(tmp_path):
    path = tmp_path / "into"
    path.mkdir()
    return path


@pytest.fixture
def tree(into):
    with Tree(into) as tree:
        yield tree


def put(tree, entry, data=b"abc", overwrite=False):
    fd = tree.open_part(entry)
    try:
        os.pwrite(fd, data, 0)
        tree.finish_part(fd, entry, overwrite=overwrite)
    finally:
        os.close(fd)


def test_a_file_deep_inside(tree, into):
    put(tree, file("a/b/c"))
    tree.finish()
    assert (into / "a/b/c").read_bytes() == b"abc"
    assert tree.status("a/b/c").st_size == 3
    assert tree.status("a/x/c") is None
    assert tree.part_size("a/b/c") == 0


def test_never_through_a_link_planted_at_any_time(tree, into, tmp_path):
    (tmp_path / "outside").mkdir()
    (into / "a").symlink_to(tmp_path / "outside")
    for act in (tree.status, tree.open_file, tree.part_size, lambda name: tree.open_part(file(name))):
        with pytest.raises(Refusal, match="symbolic link"):
            act("a/f")
    with pytest.raises(Refusal):
        tree.make_directory(Entry("a", Kind.DIRECTORY, 0, 0o755, 0))
    entry = file("d/f")
    fd = tree.open_part(entry)
    tree.status("elsewhere")  # so that the way is walked anew
    (into / "d").rename(into / "moved")
    (into / "d").symlink_to(tmp_path / "outside")
    with pytest.raises(Refusal, match="symbolic link"):
        tree.finish_part(fd, entry, overwrite=True)
    os.close(fd)
    assert not any((tmp_path / "outside").iterdir())
    (into / "l").symlink_to("/etc/passwd")
    with pytest.raises(Refusal, match="can't be read"):
        tree.open_file("l")


@pytest.mark.parametrize("links", [True, False], ids=["link", "renameat2"])
def test_placing_never_replaces_unasked(tree, into, monkeypatch, links):
    if not links:

        def no_links(*_args, **_options):
            raise PermissionError(1, "Operation not permitted")  # what FAT answers

        monkeypatch.setattr(filetree.os, "link", no_links)
    put(tree, file("f"))
    with pytest.raises(Refusal, match="appeared here meanwhile"):
        put(tree, file("f"), b"xyz")
    assert (into / "f").read_bytes() == b"abc"
    put(tree, file("f"), b"xyz", overwrite=True)
    assert (into / "f").read_bytes() == b"xyz"
    assert [path.name for path in into.iterdir()] == ["f"]
    (into / "d").mkdir()
    with pytest.raises(Refusal, match="appeared"):
        put(tree, file("d"), overwrite=True)


def test_directories_get_their_modes_at_the_end(tree, into):
    entry = Entry("d", Kind.DIRECTORY, 0, 0o500, 1_000_000_000)
    assert tree.make_directory(entry)
    put(tree, file("d/f"))
    tree.finish()
    assert (into / "d").stat().st_mode & 0o777 == 0o500
    assert (into / "d").stat().st_mtime_ns == 1_000_000_000
    assert not tree.make_directory(entry)
    (into / "d").chmod(0o700)


def test_the_umask_holds(into):
    code = """
        import os, sys
        from trunkline.drivers.filetree import Tree
        from trunkline.transfer.messages import Entry, Kind
        os.umask(0o077)
        with Tree(sys.argv[1]) as tree:
            entry = Entry("f", Kind.FILE, 0, 0o755, 0)
            tree.finish_part(tree.open_part(entry), entry, overwrite=False)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(into)], check=True)
    assert (into / "f").stat().st_mode & 0o777 == 0o700


DENIED = """
    import os, sys
    from trunkline.drivers.filesource import Refusal
    from trunkline.drivers.filetree import Tree
    from trunkline.transfer.messages import Entry, Kind
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    with Tree("." if len(sys.argv) < 2 else sys.argv[1]) as tree:
        for act in (
            lambda: tree.open_part(Entry("f", Kind.FILE, 0, 0o644, 0)),
            lambda: tree.open_part(Entry("d/f", Kind.FILE, 0, 0o644, 0)),
            lambda: tree.make_directory(Entry("d", Kind.DIRECTORY, 0, 0o755, 0)),
            lambda: tree.open_file("secret"),
        ):
            try:
                act()
            except Refusal as refusal:
                print(refusal)
"""


def test_permission_denied_is_a_refusal(tree, into):
    (into / "secret").write_bytes(b"x")
    (into / "secret").chmod(0)
    into.chmod(0o555)
    # Entered by its working directory: another user may not walk the way to a directory of the tests.
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DENIED)], cwd=into, capture_output=True, text=True, check=False
    )
    into.chmod(0o755)
    assert done.stdout.count("Permission denied") == 4, done.stderr


def test_free_bytes_and_closing(tree, tmp_path):
    assert tree.free_bytes() > 0
    tree.close()
    tree.close()
    with pytest.raises(errors.ConfigError):
        Tree(tmp_path / "nowhere")
    tree.remove_part("gone")
