"""The memberships of one home: one for each user that this program speaks as, opened when it is first needed."""

import threading
from pathlib import Path

from trunkline.drivers.membership import Membership
from trunkline.drivers.realm_home import RealmHome


class Members:
    """Memberships by user. Any thread may ask.

    Args:
        home: the folder; by default TRUNKLINE_HOME or the platform's.
    """

    def __init__(self, home: str | Path | None = None) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._open: dict[str | None, Membership] = {}

    def get(self, user: str | None = None) -> Membership:
        """Return the membership of ``user``; by default of the user whom ``realm.toml`` names.

        Raises:
            ConfigError: the home belongs to no realm, has no key of this user, or a file in it can't be used.
            TrustError: what is kept there does not hold.
        """
        with self._lock:
            known = self._open.get(user)
            if known is None:
                opened = Membership.open(RealmHome(self._home), user)
                # The default user by name is the same one.
                known = self._open.setdefault(opened.user, opened)
                self._open[user] = known
                if known is not opened:
                    opened.close()
            return known

    def close(self) -> None:
        """Close all of them. Connections that are open stay so; `get` opens anew."""
        with self._lock:
            closing, self._open = set(self._open.values()), {}
        for membership in closing:
            membership.close()
