"""A realm of this machine's own: made once, in steps that can be cut off anywhere, and found again."""

import asyncio
import re
from pathlib import Path

import pytest

from trunkline.authority.statements import APPROVED
from trunkline.drivers.authority_aio import AuthorityServer
from trunkline.drivers.membership import Membership
from trunkline.drivers.own_realm import OwnRealm, host_name
from trunkline.errors import ConfigError, NotAllowed
from trunkline.names import Address
from trunkline.users import check_realm, check_user


def enter(own: OwnRealm) -> None:
    """Do what `trunkline up` does: serve, and have the keys entered."""

    async def main() -> None:
        async with AuthorityServer(own.load(), own.open_store, listen=[Address("127.0.0.1", 0)]) as server:
            own.found_at(server.bound)
            await asyncio.to_thread(own.enter_keys)
            with Membership.open(own.home) as member:
                await member.ready_async()
                record = await asyncio.to_thread(member.get, own.server_user)
                assert record is not None
                assert record.state == APPROVED

    asyncio.run(main())


def files(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in path.rglob("*") if file.suffix in (".key", ".pem")}


def test_it_is_made_once_and_used_again(tmp_path: Path) -> None:
    own = OwnRealm(tmp_path)
    assert not own.exists
    own.make("lab", "ann")
    assert own.exists
    assert not own.is_elsewhere
    assert own.user == "ann"
    enter(own)
    before = files(tmp_path)
    again = OwnRealm(tmp_path)
    again.make("another name", "ben")
    enter(again)
    assert {name: data for name, data in files(tmp_path).items() if "state" not in name} == {
        name: data for name, data in before.items() if "state" not in name
    }
    assert (again.home.settings().realm, again.user) == ("lab", "ann")


def test_it_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    own = OwnRealm(tmp_path)
    own.make("lab", "ann")
    root = own.authority.admin_root()
    for missing in ("realm.toml", "authority/intermediate.pem", "keys/ann.pem", "authority/directory.sqlite"):
        (tmp_path / missing).unlink()
        OwnRealm(tmp_path).make("lab", "ann")
        assert own.exists
        assert own.authority.admin_root() == root
    enter(own)


def test_what_only_a_person_can_mend_is_said(tmp_path: Path) -> None:
    own = OwnRealm(tmp_path)
    own.make("lab", "ann")
    key = tmp_path / "admin" / "root.key"
    kept = key.read_bytes()
    key.unlink()
    with pytest.raises(ConfigError, match=r"not approved.*trunkline key approve ann --admin-dir DIR"):
        enter(own)
    key.write_bytes(kept)
    key.chmod(0o600)
    enter(own)
    own.home.key_path("ann").unlink()
    own.make("lab", "ann")
    with pytest.raises(NotAllowed, match="is not the one in the directory"):
        enter(own)


def test_the_root_may_be_kept_elsewhere_afterwards(tmp_path: Path) -> None:
    own = OwnRealm(tmp_path)
    own.make("lab", "ann")
    enter(own)
    (tmp_path / "admin").rename(tmp_path / "stick")
    (tmp_path / "realm.toml").unlink()
    own.make("lab", "ann")
    enter(own)
    assert not (tmp_path / "admin").exists()


def test_a_home_of_another_realm_is_told_apart(tmp_path: Path) -> None:
    own = OwnRealm(tmp_path)
    own.make("lab", "ann")
    (tmp_path / "authority" / "intermediate.pem").unlink()
    assert own.is_elsewhere


def test_the_hosts_name_can_be_a_realms_and_a_users(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("North.Example", "", "-._", "é", "x" * 80):
        monkeypatch.setattr("platform.node", lambda given=given: given)
        assert re.fullmatch(r"[a-z0-9._-]+", check_realm(host_name()))
        check_user(f"switchboard/{host_name()}")
