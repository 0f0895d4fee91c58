"""The users that this process is: one membership each, opened from the files of TRUNKLINE_HOME when first asked for."""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trunkline.drivers.home import Home

if TYPE_CHECKING:
    from trunkline.drivers.membership import Membership


class Memberships:
    """The memberships that one face uses. Any thread may ask.

    Args:
        home: the folder of the realm's files; by default TRUNKLINE_HOME or the platform's.
        given: memberships that are there already; they stay their owner's. The first is the default user's.
    """

    def __init__(self, home: str | Path | None = None, given: Iterable["Membership"] = ()) -> None:
        self._home = home
        self._given: Final = {each.user: each for each in reversed(tuple(given))}
        self._first: Final = next(reversed(self._given), None)
        self._opened: dict[str | None, Membership] = {}
        self._lock = threading.Lock()

    def get(self, user: str | None) -> "Membership":
        """Return the membership of ``user``; None is the default user.

        Raises:
            ConfigError: there is no realm here, or no key of that user.
            TrustError: what is kept about the realm does not hold.
        """
        with self._lock:
            found = self._given.get(user if user is not None else self._first) or self._opened.get(user)
            return found or self._open(user)

    def known(self) -> "Membership | None":
        """Return the default user's membership if this process is of a realm at all, else None.

        Raises:
            ConfigError, TrustError: as `get`.
        """
        if self._given or None in self._opened or Home(self._home).in_realm:
            return self.get(None)
        return None

    def _open(self, user: str | None) -> "Membership":
        from trunkline.drivers.membership import Membership  # X.509 takes its time, which plain meetings need not
        from trunkline.drivers.realm_home import RealmHome

        found = Membership.open(RealmHome(self._home), user)
        for each in self._opened.values():
            if each.user == found.user:  # the default user, by name this time, or the other way round
                found.close()
                found = each
        self._opened[user] = found
        return found

    def close(self) -> None:
        """End what runs for the memberships that were opened here. A later `get` opens them anew."""
        with self._lock:
            opened, self._opened = self._opened, {}
        for each in set(opened.values()):
            each.close()
