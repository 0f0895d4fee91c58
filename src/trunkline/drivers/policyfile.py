"""Reading ``policy.toml``: what users may do on a server of this home (docs/spec/switchboard.md section 15).

require_user = false      # whether clients without a certificate may lodge nothing
plain = false             # whether clients may connect without TLS

[[allow]]                 # no such entry: everybody may everything
users = ["ann", "ops/*"]  # "*" alone: anybody, also who proved no user
meet = ["db", "web"]      # names that they may ask for: these and what is below them; "" is all
post = ["ops"]            # names that they may post
call = [""]               # names that they may call themselves when they meet; left out: any
"""

from pathlib import Path
from typing import Final

import msgspec

from trunkline.errors import ConfigError, InvalidName, InvalidUser
from trunkline.names import check_name
from trunkline.switchboard.policy import ANYBODY, MAX_RULES, Policy, Rule
from trunkline.users import check_pattern

MAX_FILE: Final = 256 * 1024
"""Most bytes of a policy."""


class _Allow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    users: tuple[str, ...]
    meet: tuple[str, ...] = ()
    post: tuple[str, ...] = ()
    call: tuple[str, ...] = ("",)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    require_user: bool = False
    plain: bool = False
    allow: tuple[_Allow, ...] = ()


def read_policy(home: Path, realm: str) -> Policy:
    """Return what ``policy.toml`` in the folder ``home`` says; if there is none, everything has its default.

    Args:
        home: TRUNKLINE_HOME.
        realm: the server's realm; empty if it is not secured.

    Raises:
        ConfigError: it can't be read, or says something that no rule is.
    """
    file = home / "policy.toml"
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_FILE + 1)
    except FileNotFoundError:
        return Policy(realm=realm)
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror}") from error
    if len(text) > MAX_FILE:
        raise ConfigError(f"{file} is larger than the limit of {MAX_FILE} bytes")
    try:
        return parse_policy(text, realm)
    except ConfigError as error:
        raise ConfigError(f"{file} can't be used: {error}") from error


def parse_policy(text: bytes, realm: str) -> Policy:
    """Return what the text of a ``policy.toml`` says.

    Raises:
        ConfigError: with the entry and the reason.
    """
    try:
        said = msgspec.toml.decode(text, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(error)) from None
    if len(said.allow) > MAX_RULES:
        raise ConfigError(f"it has {len(said.allow)} [[allow]] entries, and the limit is {MAX_RULES}")
    if not realm and (said.require_user or said.allow):
        raise ConfigError("it speaks of users, and nobody can prove one here: this server has no realm")
    if said.require_user and said.plain:
        raise ConfigError("require_user and plain exclude each other: a plain connection proves no user")
    rules = tuple(_rule(number, each) for number, each in enumerate(said.allow, 1))
    return Policy(realm=realm, require_user=said.require_user, plain=said.plain, rules=rules)


def _rule(number: int, said: _Allow) -> Rule:
    if not said.users:
        raise ConfigError(f'[[allow]] entry {number} names no users; "*" stands for anybody')
    try:
        for pattern in said.users:
            if pattern != ANYBODY:
                check_pattern(pattern)
        return Rule(said.users, _prefixes(said.meet), _prefixes(said.post), _prefixes(said.call))
    except (InvalidUser, InvalidName) as error:
        raise ConfigError(f"[[allow]] entry {number}: {error}") from error


def _prefixes(given: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(check_name(prefix.rstrip("/")) if prefix.rstrip("/") else "" for prefix in given)
