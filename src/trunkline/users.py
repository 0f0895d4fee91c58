"""Realms, users and the names that certificates carry for them (docs/spec/authority.md section 1).

A user name has 1 to 8 segments of ``[A-Za-z0-9._-]`` joined by ``/``. In a certificate the user ``ops/ann`` of the
realm ``lab.example`` is ``spiffe://lab.example/user/ops/ann``. Names whose first segment is ``switchboard`` or
``authority`` belong to services: ``switchboard/a1`` is ``spiffe://lab.example/switchboard/a1``.
"""

import re
from typing import Final

from trunkline.errors import InvalidRealm, InvalidUser, TrustError

MAX_USER: Final = 255
"""Longest user name in characters; like a process name, it fits wherever names do."""

MAX_SEGMENTS: Final = 8

SERVICES: Final = frozenset({"switchboard", "authority"})
"""First segments that name services, not people. The directory gives them out like any other, to who is approved."""

_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+")
_REALM: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_SCHEME: Final = "spiffe://"


def check_user(user: str) -> str:
    """Return ``user`` if it can be a user's name in a realm's directory.

    Raises:
        InvalidUser: it is empty or too long, or a segment of it is.
    """
    return _checked(user, pattern=False)


def check_pattern(pattern: str) -> str:
    """Return ``pattern`` if it can stand for users: a user name in which a segment may be ``*``.

    Raises:
        InvalidUser: with the reason.
    """
    return _checked(pattern, pattern=True)


def user_matches(user: str, pattern: str) -> bool:
    """Say whether ``pattern`` stands for ``user``; ``*`` stands for one whole segment."""
    segments, wanted = user.split("/"), pattern.split("/")
    return len(segments) == len(wanted) and all(w in ("*", s) for s, w in zip(segments, wanted, strict=True))


def check_realm(realm: str) -> str:
    """Return ``realm`` if it can be a realm's name, which is a SPIFFE trust domain.

    Raises:
        InvalidRealm: with the reason.
    """
    given: object = realm
    if not (isinstance(given, str) and _REALM.fullmatch(given)):
        raise InvalidRealm(realm, "it has 1 to 63 of a-z 0-9 . _ - and begins and ends with a letter or digit")
    return realm


def spiffe_id(realm: str, user: str) -> str:
    """Return the URI under which certificates of ``realm`` name ``user``."""
    first, slash, _ = user.partition("/")
    path = user if slash and first in SERVICES else f"user/{user}"
    return f"{_SCHEME}{realm}/{path}"


def parse_spiffe_id(uri: str) -> tuple[str, str]:
    """Return the realm and the user of what `spiffe_id` returned.

    Raises:
        TrustError: it is something else.
    """
    realm, _, path = uri.removeprefix(_SCHEME).partition("/")
    kind, _, rest = path.partition("/")
    user = rest if kind == "user" else path
    try:
        check_realm(realm)
        check_user(user)
    except (InvalidRealm, InvalidUser) as error:
        raise TrustError(f"the certificate names {uri[:200]!r}, which is no user of any realm") from error
    if spiffe_id(realm, user) != uri:
        raise TrustError(f"the certificate names {uri[:200]!r}, which is no user of any realm")
    return realm, user


def _checked(user: str, *, pattern: bool) -> str:
    given: object = user
    if not isinstance(given, str):
        raise InvalidUser(given, f"a user name is a str, not {type(given).__name__}")
    if not user:
        raise InvalidUser(user, "it is empty")
    if len(user) > MAX_USER:
        raise InvalidUser(user, f"it has {len(user)} characters, and the limit is {MAX_USER}")
    segments = user.split("/")
    if len(segments) > MAX_SEGMENTS:
        raise InvalidUser(user, f"it has {len(segments)} segments, and the limit is {MAX_SEGMENTS}")
    for segment in segments:
        if pattern and segment == "*":
            continue
        if not _SEGMENT.fullmatch(segment) or segment in (".", ".."):
            raise InvalidUser(user, "its segments are of A-Z a-z 0-9 . _ - and joined by /, like ops/ann")
    if segments[0] in SERVICES and len(segments) == 1:
        raise InvalidUser(user, f"names of services have a second segment, like {user}/host1")
    return user
