import errno
import logging
from pathlib import Path

import pytest

from trunkline.drivers.home import MAX_FILE, MAX_REMEMBERED, Home, Settings
from trunkline.errors import ConfigError
from trunkline.names import Address

A, B, C = Address("a.example", 7117), Address("b.example", 1), Address("2001:db8::1", 9)
LOCAL = Address("127.0.0.1", 7117)


def home(path: Path, switchboards: str = "") -> Home:
    return Home(path, {"TRUNKLINE_SWITCHBOARDS": switchboards})


def test_where_the_home_is(tmp_path: Path) -> None:
    assert Home(environ={"TRUNKLINE_HOME": str(tmp_path)}).path == tmp_path
    assert Home(tmp_path, {"TRUNKLINE_HOME": "/elsewhere"}).path == tmp_path
    assert Home(environ={}).path.name == "trunkline"


def test_the_host_list_comes_back(tmp_path: Path) -> None:
    home(tmp_path / "new" / "home").remember([B, A, B, C])
    assert home(tmp_path / "new" / "home").remembered() == (B, A, C)
    assert [file.name for file in (tmp_path / "new" / "home").iterdir()] == ["switchboards"]


def test_nothing_is_written_twice(tmp_path: Path) -> None:
    here = home(tmp_path)
    here.remember([A])
    (tmp_path / "switchboards").unlink()
    here.remember([A])
    assert here.remembered() == ()
    here.remember([A, B])
    assert here.remembered() == (A, B)


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    here = home(tmp_path)
    here.remember(Address(f"h{i}", 1) for i in range(200))
    assert len(here.remembered()) == MAX_REMEMBERED


def test_nothing_named_means_this_host(tmp_path: Path) -> None:
    assert home(tmp_path).switchboards() == (LOCAL,)
    home(tmp_path).remember([A])
    assert home(tmp_path).switchboards() == (A, LOCAL)


def test_the_environment_goes_first(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('switchboards = ["c.example"]\n')
    home(tmp_path).remember([C, B])
    assert home(tmp_path, "a.example, b.example:1,").switchboards() == (B, A, C)
    assert home(tmp_path).switchboards() == (Address("c.example", 7117), C, B)


def test_the_environment_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"TRUNKLINE_SWITCHBOARDS: the address 'a:b' .*host:port"):
        home(tmp_path, "a:b").switchboards()


def test_settings(tmp_path: Path) -> None:
    assert home(tmp_path).settings() == Settings()
    (tmp_path / "config.toml").write_text('switchboards = ["a.example"]\nadvertise = ["198.51.100.1"]\n')
    assert home(tmp_path).settings() == Settings(("a.example",), ("198.51.100.1",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"switchboards = 3", "switchboards"),
        (b"swichboards = []", "swichboards"),
        (b"= = =", "config.toml"),
        (b"\xff", "config.toml"),
        (b"#" * (MAX_FILE + 1), "larger than"),
    ],
)
def test_a_wrong_settings_file_is_an_error(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "config.toml").write_bytes(text)
    with pytest.raises(ConfigError, match=said):
        home(tmp_path).settings()


def test_a_settings_file_with_a_wrong_address(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('switchboards = ["a:b:c"]')
    with pytest.raises(ConfigError, match=r"config\.toml: the address 'a:b:c'"):
        home(tmp_path).switchboards()


def test_a_settings_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(ConfigError, match="can't be read"):
        home(tmp_path).settings()


def test_garbage_in_the_host_list_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "switchboards").write_bytes(b"# old\n\na.example\n\xff\xfe:::\nb.example:99999\nb.example:1\n")
    assert home(tmp_path).remembered() == (A, B)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_host_list_that_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "switchboards").mkdir()
    assert home(tmp_path).switchboards() == (LOCAL,)
    assert "can't be read" in caplog.text


def test_a_full_disk_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, *args: object) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    here = home(tmp_path)
    here.remember([A])
    here.remember([B])
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert str(tmp_path / "switchboards") in said
    assert "can't be written (No space left on device): going on without" in said
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    home(tmp_path / "file" / "home").remember([A])
    assert "going on without" in caplog.text


def test_a_home_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    home(tmp_path).remember([A])


def test_settings_are_written_as_they_are_read():
    from msgspec import toml

    from trunkline.drivers.home import to_toml

    settings = Settings(switchboards=("a:1", 'qu"ote\\ä:2'), advertise=())
    assert toml.decode(to_toml(settings, "of a test"), type=Settings) == settings


def test_what_nobody_named_is_left_out_if_no_guess_is_wanted(tmp_path):
    home = Home(tmp_path, {})
    assert home.switchboards(guess=False) == ()
    home.remember([Address("10.0.0.1", 1)])
    assert home.switchboards(guess=False) == (Address("10.0.0.1", 1),)
    assert home.switchboards() == (Address("10.0.0.1", 1), Address("127.0.0.1", 7117))
