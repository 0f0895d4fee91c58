"""Every error that Trunkline raises.

    TrunklineError
    ├── LocalError          the caller broke the rules: nothing changed, nothing was sent
    │   ├── InvalidName         (also a ValueError)
    │   ├── InvalidAddress      (also a ValueError)
    │   ├── InvalidUser         (also a ValueError)
    │   ├── InvalidRealm        (also a ValueError)
    │   ├── ConfigError         a setting or file of ours can't be used
    │   │   └── StoreFailed         what an authority keeps can't be read or written
    │   └── ClosedError         used after close()
    ├── RemoteError         the other side broke the rules: it is told the code, and the link closes
    │   ├── NotTrunkline        the first bytes are not our preamble
    │   ├── VersionMismatch
    │   ├── FrameTooLarge
    │   ├── MalformedMessage
    │   ├── UnknownMessage
    │   ├── MessageNotAllowed   known, but not from that side or not now
    │   └── SilentPeer          nothing was heard in time
    ├── DeniedError         a right or permission is absent, or a stated limit is reached
    │   ├── NameTaken           somebody holds that unique name, or that server id
    │   ├── Displaced           somebody took over the unique name that was ours
    │   ├── TooMany             a cap of the server
    │   ├── NotAllowed          this user may not do that: policy, or a key that is not approved
    │   └── NotWritable         a replica was asked to write
    ├── TrustError          a certificate or directory check failed: names the step
    │   ├── BadSignature        what was signed is not what is there, or another key signed it
    │   ├── BadProof            a proof of the log or the map doesn't fit
    │   ├── ForkedHistory       two heads that can't both be true: kept as evidence
    │   ├── StaleHead           no head that is new enough
    │   ├── Revoked             the certificate, its key or its issuer was revoked
    │   ├── NotThatUser         the peer is somebody, but not who was asked for
    │   ├── DecryptError        the blob was altered, or is for another
    │   └── WrongCode           the words of `invite --code` were not those
    ├── LinkClosed          the connection is gone: who closed it, and why
    │   ├── NoSwitchboard       no server could be reached (also a ConnectionError)
    │   ├── NoAuthority         no authority or replica could be reached (also a ConnectionError)
    │   ├── TransferFailed      a file did not arrive whole
    │   └── ServiceUnreachable  the local service behind `expose` did not answer
    └── MeetTimeout         the deadline passed (also a TimeoutError): nobody's fault

Errors carry fields and build their sentence in ``__str__``: what happened, the name or limit concerned, what to do
next. A class that is visible on the wire holds its code there (docs/spec/wire.md section 5).
"""

from collections.abc import Sequence
from typing import ClassVar


class TrunklineError(Exception):
    """The root of every error of ours."""


class LocalError(TrunklineError):
    """The caller broke the rules; nothing was changed and nothing was sent."""


class InvalidName(LocalError, ValueError):
    """A process name that can't be used."""

    def __init__(self, name: object, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        shown = repr(self.name)
        if len(shown) > 60:
            shown = shown[:57] + "…"
        return f"the name {shown} can't be used: {self.reason}"


class InvalidAddress(LocalError, ValueError):
    """An address that can't be parsed."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text, reason)
        self.text = text
        self.reason = reason

    def __str__(self) -> str:
        return f"the address {self.text[:80]!r} can't be used: {self.reason}"


class InvalidUser(LocalError, ValueError):
    """A user name that can't be used."""

    def __init__(self, user: object, reason: str) -> None:
        super().__init__(user, reason)
        self.user = user
        self.reason = reason

    def __str__(self) -> str:
        shown = repr(self.user)
        if len(shown) > 60:
            shown = shown[:57] + "…"
        return f"the user name {shown} can't be used: {self.reason}"


class InvalidRealm(LocalError, ValueError):
    """A realm name that can't be used."""

    def __init__(self, realm: object, reason: str) -> None:
        super().__init__(realm, reason)
        self.realm = realm
        self.reason = reason

    def __str__(self) -> str:
        return f"the realm name {str(self.realm)[:70]!r} can't be used: {self.reason}"


class ConfigError(LocalError):
    """A setting or a file of ours can't be used; the text says which, and the fix."""


class StoreFailed(ConfigError):
    """What an authority keeps can't be read or written: full, locked, damaged, gone. The text says what to do."""


class ClosedError(LocalError):
    """Something was used after it had been closed."""


class RemoteError(TrunklineError):
    """The other side broke the rules of the protocol."""

    code: ClassVar[int] = 1


class NotTrunkline(RemoteError):
    """The first bytes are not Trunkline's preamble."""

    code = 2

    def __init__(self, start: bytes) -> None:
        super().__init__(start)
        self.start = start

    def __str__(self) -> str:
        return f"the other side does not speak Trunkline: it began with {self.start!r}"


class VersionMismatch(RemoteError):
    """The other side speaks another version of the protocol."""

    code = 3

    def __init__(self, theirs: str, ours: str) -> None:
        super().__init__(theirs, ours)
        self.theirs = theirs
        self.ours = ours

    def __str__(self) -> str:
        return (
            f"the other side speaks {self.theirs}, this side speaks {self.ours}: install the same major version on both"
        )


class FrameTooLarge(RemoteError):
    """A frame announces more than the limit; its body was not read."""

    code = 4

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return f"frame with {self.size} bytes exceeds the limit of {self.limit} bytes"


class MalformedMessage(RemoteError):
    """A frame whose body is no message, or a message with a field out of its limits."""

    code = 5

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"malformed message: {self.what}"


class UnknownMessage(RemoteError):
    """A well-formed frame with a message number that this version doesn't know."""

    code = 6

    def __init__(self, tag: object) -> None:
        super().__init__(tag)
        self.tag = tag

    def __str__(self) -> str:
        return f"unknown message {self.tag!r}"


class MessageNotAllowed(RemoteError):
    """A known message from a side that may not send it, or at a time when it may not."""

    code = 7

    def __init__(self, message: str, role: str) -> None:
        super().__init__(message, role)
        self.message = message
        self.role = role

    def __str__(self) -> str:
        return f"a {self.role} may not send {self.message} here"


class SilentPeer(RemoteError):
    """Nothing was heard from the other side within the stated time."""

    code = 8

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"nothing was heard for {self.seconds:g} s"


class DeniedError(TrunklineError):
    """A right or a permission is absent, or a stated limit is reached."""

    code: ClassVar[int] = 32


class NameTaken(DeniedError):
    """Somebody else holds that unique name, or a live server has that id."""

    code = 33

    def __init__(self, name: str, detail: str = "") -> None:
        super().__init__(name, detail)
        self.name = name
        self.detail = detail

    def __str__(self) -> str:
        return f"the name {self.name!r} is taken" + (f": {self.detail}" if self.detail else "")


class Displaced(DeniedError):
    """Somebody with a greater claim holds the unique name that was ours."""

    code = 34

    def __init__(self, name: str, generation: int) -> None:
        super().__init__(name, generation)
        self.name = name
        self.generation = generation

    def __str__(self) -> str:
        return f"the unique name {self.name!r} was taken over (generation {self.generation}): this post is closed"


class TooMany(DeniedError):
    """A cap of the server is reached."""

    code = 35

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(what, limit)
        self.what = what
        self.limit = limit

    def __str__(self) -> str:
        return f"too many {self.what}: the limit is {self.limit}"


class NotAllowed(DeniedError):
    """This user may not do that; the text says what was asked, and which rule or state says no."""

    code = 36


class NotWritable(DeniedError):
    """A replica was asked to write; the text says where writes go."""

    code = 37


class TrustError(TrunklineError):
    """A certificate or directory check failed; the text names the step."""

    code: ClassVar[int] = 64


class BadSignature(TrustError):
    """What was signed is not what is there, or another key signed it."""

    code = 65


class BadProof(TrustError):
    """A proof of the log or of the map doesn't fit the signed head."""

    code = 66


class ForkedHistory(TrustError):
    """Two signed heads can't both be true: the authority shows different people different histories.

    ``evidence`` holds both, as they were signed.
    """

    code = 67

    def __init__(self, text: str, evidence: Sequence[bytes] = ()) -> None:
        super().__init__(text)
        self.evidence = tuple(evidence)


class StaleHead(TrustError):
    """There is no signed head that is new enough, so nobody knows what was revoked since."""

    code = 68


class Revoked(TrustError):
    """The certificate, its key or its issuer was revoked."""

    code = 69


class NotThatUser(TrustError):
    """The peer has proved to be somebody, but not who was asked for."""

    code = 70


class DecryptError(TrustError):
    """The blob was altered, or is meant for another, or is from another than it says."""

    code = 71


class WrongCode(TrustError):
    """The one-time code was wrong, or somebody in between tried to guess it; that was its only use."""

    code = 72


class LinkClosed(TrunklineError):
    """The connection is gone. ``__cause__`` is the first failure."""


class NoSwitchboard(LinkClosed, ConnectionError):
    """No switchboard server could be reached."""

    def __init__(self, tried: Sequence[tuple[str, str]]) -> None:
        super().__init__(tuple(tried))
        self.tried = tuple(tried)

    def __str__(self) -> str:
        if not self.tried:
            return (
                "no switchboard server is known: start one with `trunkline up`, or set TRUNKLINE_SWITCHBOARDS=host:port"
            )
        shown = "; ".join(f"{address}: {why}" for address, why in self.tried[:6])
        more = f"; and {len(self.tried) - 6} more" if len(self.tried) > 6 else ""
        return (
            f"no switchboard server answered (tried {shown}{more}): "
            "start one with `trunkline up`, or set TRUNKLINE_SWITCHBOARDS=host:port"
        )


class NoAuthority(LinkClosed, ConnectionError):
    """No authority or replica could be reached."""

    def __init__(self, tried: Sequence[tuple[str, str]]) -> None:
        super().__init__(tuple(tried))
        self.tried = tuple(tried)

    def __str__(self) -> str:
        if not self.tried:
            return "no authority is known: join a realm with `trunkline join`, or start one with `trunkline up`"
        shown = "; ".join(f"{address}: {why}" for address, why in self.tried[:6])
        return f"no authority answered (tried {shown}): see `trunkline status`, or name one with --authority H:P"


class TransferFailed(LinkClosed):
    """A file did not arrive whole; what has arrived is kept, and a new attempt resumes it.

    ``again`` is true when a new connection is all it takes (the link broke); false when a person must act
    first.
    """

    def __init__(self, text: str, *, again: bool = False) -> None:
        super().__init__(text)
        self.again = again


class ServiceUnreachable(LinkClosed):
    """The local service behind `expose` did not answer."""


class MeetTimeout(TrunklineError, TimeoutError):
    """The deadline passed before the peer came. ``explanation`` says what the switchboard knew."""

    def __init__(self, me: str, you: str, seconds: float, explanation: Sequence[str] = ()) -> None:
        super().__init__(me, you, seconds, tuple(explanation))
        self.me = me
        self.you = you
        self.seconds = seconds
        self.explanation = tuple(explanation)

    def __str__(self) -> str:
        within = f"within {round(self.seconds, 2):g} s"  # what was left of it by our clock is not what was asked
        if self.you:
            head = f"{self.you!r} did not come to meet {self.me!r} {within}"
        else:
            head = f"nobody came to the post {self.me!r} {within}"
        return head + "".join(f"\n  - {line}" for line in self.explanation)
