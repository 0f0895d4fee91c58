"""Who may meet and post under which names on a server (docs/spec/switchboard.md section 15).

A server that belongs to a realm is *secured*: it knows each client's user by its certificate. What users may do there
is a list of rules; with no rule at all, everybody may do everything. Each check raises: a forgotten ``if`` refuses.

What a refusal says depends on who asks. A user who may see a name, because some rule lets it meet or post there, is
told which rule is missing. Anybody else is told no more than "not allowed": not even whether the name is there.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec

from trunkline.errors import NotAllowed
from trunkline.users import user_matches
from trunkline.wire.messages import Broadcast, Explain, MateHello, MateWelcome, Meet, Message, Post

ANYBODY: Final = "*"
"""In a rule's users, alone: anybody, also clients that proved no user."""

SERVICE: Final = "switchboard/"
"""How the users begin under which servers run."""

MAX_RULES: Final = 1000
"""Most rules of one server. Each request looks at those of its user: a millisecond at most."""

_UNSAID: Final = "not allowed"


class Rule(msgspec.Struct, frozen=True):
    """What some users may do. Names are given by prefixes of whole ``/`` levels: ``db`` is db and db/x, not dbx."""

    users: tuple[str, ...]
    """Patterns of users; ``*`` alone is anybody."""
    meet: tuple[str, ...] = ()
    """Names that they may ask for."""
    post: tuple[str, ...] = ()
    """Names that they may post."""
    call: tuple[str, ...] = ("",)
    """Names that they may call themselves when they ask for one of ``meet``."""

    def is_for(self, user: str) -> bool:
        """Say whether this rule is about ``user``, empty for a client that proved none."""
        return any(pattern == ANYBODY or (user and user_matches(user, pattern)) for pattern in self.users)


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of one server."""

    realm: str = ""
    """The realm that the server belongs to; empty if it is not secured."""
    require_user: bool = False
    """Whether clients that proved no user may lodge nothing."""
    plain: bool = False
    """Whether clients may connect without TLS; they prove nothing."""
    rules: tuple[Rule, ...] = ()

    # ---- checks ------------------------------------------------------------------------------------------------

    def check(self, user: str, message: Message) -> None:
        """Check that a connection on which ``user`` was proven (or nobody: '') may send ``message``.

        Raises:
            NotAllowed: with what its sender may know of the reason.
        """
        rule = CHECKS.get(type(message))
        if rule is not None:
            rule(self, user, message)

    def may_see(self, user: str, name: str) -> bool:
        """Say whether ``user`` may know of a name: it may be met or posted by it."""
        if not self.rules:
            return not self._lacks_user(user)
        if self._lacks_user(user):
            return False
        return any(covers(rule.meet, name) or covers(rule.post, name) for rule in self._of(user))

    def check_meet(self, user: str, message: Meet | Explain) -> None:
        """Check meet(me, you), and the question why it waits."""
        self._check_user(user, message.user)
        if not self.rules:
            return
        if any(covers(rule.meet, message.you) and covers(rule.call, message.me) for rule in self._of(user)):
            return
        if not self.may_see(user, message.you):
            raise NotAllowed(_UNSAID)
        met = [rule for rule in self._of(user) if covers(rule.meet, message.you)]
        if met:
            names = _listed(prefix for rule in met for prefix in rule.call)
            raise NotAllowed(f"{_who(user)} may ask for {message.you!r} only under the names {names}")
        names = _listed(prefix for rule in self._of(user) for prefix in rule.meet)
        raise NotAllowed(f"{_who(user)} may not meet {message.you!r}; what it may meet is {names}")

    def check_post(self, user: str, message: Post) -> None:
        """Check a post."""
        self._check_user(user, message.user)
        if not self.rules or any(covers(rule.post, message.name) for rule in self._of(user)):
            return
        if not self.may_see(user, message.name):
            raise NotAllowed(_UNSAID)
        names = _listed(prefix for rule in self._of(user) for prefix in rule.post)
        raise NotAllowed(f"{_who(user)} may not post {message.name!r}; what it may post is {names}")

    def check_mate(self, user: str, message: MateHello | MateWelcome) -> None:
        """Check that the other side is a server of the realm, if there is one."""
        if self.realm and not user.startswith(SERVICE):
            raise NotAllowed(
                f"{_who(user)} is no switchboard server of the realm {self.realm!r}: that takes a certificate for "
                f"{SERVICE}NAME"
            )

    def check_broadcast(self, user: str, message: Broadcast) -> None:
        """Check a notice to everybody."""
        self._check_user(user, "")

    def _check_user(self, proven: str, claimed: str) -> None:
        if self._lacks_user(proven):
            raise NotAllowed(
                f"this server asks for a proven user: connect with a certificate of the realm {self.realm!r}"
            )
        if self.realm and claimed and claimed != proven:
            raise NotAllowed(f"the request is for the user {claimed!r}, and this connection proved {_who(proven)}")

    def _lacks_user(self, proven: str) -> bool:
        return self.require_user and not proven

    def _of(self, user: str) -> Iterator[Rule]:
        return (rule for rule in self.rules if rule.is_for(user))


Check = Callable[[Policy, str, Any], None]

CHECKS: Final[dict[type[Message], Check]] = {
    Meet: Policy.check_meet,
    Explain: Policy.check_meet,
    Post: Policy.check_post,
    Broadcast: Policy.check_broadcast,
    MateHello: Policy.check_mate,
    MateWelcome: Policy.check_mate,
}
"""What is checked of each message; of those that are not here, nothing: they concern the sender's own requests."""


def covers(prefixes: Iterable[str], name: str) -> bool:
    """Say whether a name is one of these or below one; '' is above all."""
    return any(not prefix or name == prefix or name.startswith(prefix + "/") for prefix in prefixes)


def _who(user: str) -> str:
    return f"the user {user!r}" if user else "a client that proved no user"


def _listed(prefixes: Iterable[str]) -> str:
    found = sorted(set(prefixes))
    return "everything" if "" in found else ", ".join(map(repr, found)) or "nothing"
