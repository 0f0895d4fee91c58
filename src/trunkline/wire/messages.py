"""The message catalogue of the switchboard (docs/spec/wire.md section 3).

Each message is a MessagePack array; its first element is the message's number. Fields that a later version adds come
last and have defaults, so both sides may differ by them. A message is immutable and hashable: the explorer keeps
them in sets.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from trunkline.wire.limits import (
    HANDLE_SIZE,
    MATCH_SIZE,
    MAX_ALLOW,
    MAX_AVOID,
    MAX_BACKLOG,
    MAX_CANDIDATES,
    MAX_MEMBERS,
    MAX_NAMES,
    MAX_NOTICE,
    MAX_REMOVALS,
    MAX_SECRET,
    MAX_SERVER,
    MAX_TEXT,
    RID_SIZE,
    TOKEN_SIZE,
)

Rid = Annotated[bytes, Meta(min_length=RID_SIZE, max_length=RID_SIZE)]
Token = Annotated[bytes, Meta(min_length=TOKEN_SIZE, max_length=TOKEN_SIZE)]
Match = Annotated[bytes, Meta(min_length=MATCH_SIZE, max_length=MATCH_SIZE)]
Name = Annotated[str, Meta(max_length=255)]
User = Annotated[str, Meta(max_length=255)]
"""A user of a realm; empty on a plain request. Checked by the codec."""
Handle = Annotated[bytes, Meta(min_length=HANDLE_SIZE, max_length=HANDLE_SIZE)]
"""What stands for somebody's request towards its partners; see `trunkline.switchboard.entries.handle`."""
Avoid = Annotated[tuple[Handle, ...], Meta(max_length=MAX_AVOID)]
Allow = Annotated[tuple[User, ...], Meta(max_length=MAX_ALLOW)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Blob = Annotated[bytes, Meta(max_length=MAX_CANDIDATES)]
Count = Annotated[int, Meta(ge=0, lt=1 << 53)]


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A server of the mesh as others know it."""

    id: Annotated[str, Meta(min_length=1, max_length=MAX_SERVER)]
    incarnation: Count
    """Grows with each start of the same server."""
    address: Annotated[str, Meta(min_length=1, max_length=MAX_SERVER)]


_UNSHOWN: Final = frozenset({"token", "secret", "claim"})


class Message(msgspec.Struct, frozen=True, array_like=True):
    """The base of every message. Its ``repr`` shows no token and no secret: logs are made of it."""

    def __repr__(self) -> str:
        fields = ", ".join(
            f"{name}=…" if name in _UNSHOWN and getattr(self, name) else f"{name}={getattr(self, name)!r}"
            for name in self.__struct_fields__
        )
        return f"{type(self).__name__}({fields})"


# ---- from anyone -----------------------------------------------------------------------------------------------


class Alive(Message, frozen=True, tag=1):
    """Heartbeat: sent when nothing else was, for a heartbeat's time."""


class Goodbye(Message, frozen=True, tag=2):
    """The last message on a connection that its sender closes on purpose; ``code`` is an error's wire code."""

    code: Count
    text: Text


# ---- from a client ---------------------------------------------------------------------------------------------


class Hello(Message, frozen=True, tag=10):
    """A client's first message."""

    software: Name
    notices: bool = False
    """Whether this client wants the broadcasts of others."""


class Meet(Message, frozen=True, tag=11):
    """Lodge attempt ``n`` of the request ``rid``: meet(me, you)."""

    rid: Rid
    n: Count
    me: Name
    you: Name
    candidates: Blob
    """Encoded by the client and read by its peer only; the server passes it on unread."""
    datagram: bool = False
    user: User = ""
    """The caller's user, if the request is secure: it then matches only requests that ask for this user."""
    peer_user: User = ""
    """The user that the partner must have; empty exactly if ``user`` is."""
    avoid: Avoid = ()
    """The requests that failed authentication with this one: it is not matched with them again."""


class Post(Message, frozen=True, tag=12):
    """Lodge a standing offer under ``name``."""

    rid: Rid
    n: Count
    name: Name
    candidates: Blob
    datagram: bool = False
    backlog: Annotated[int, Meta(ge=1, le=MAX_BACKLOG)] = 128
    unique: bool = False
    secret: Annotated[bytes, Meta(max_length=MAX_SECRET)] = b""
    """Whoever shows the same secret later may take a unique name over."""
    generation: Count = 0
    """The generation that this client held before, when it lodges a unique post anew."""
    user: User = ""
    """The poster's user, if the post is secure."""
    allow: Allow = ()
    """Patterns of the users that may meet a secure post (`trunkline.users.user_matches`)."""


class Withdraw(Message, frozen=True, tag=13):
    """The caller of this request waits no longer."""

    rid: Rid
    n: Count


class Settled(Message, frozen=True, tag=14):
    """How many matches of this post's attempt are accepted or have lapsed, since it was lodged (an acknowledgement)."""

    rid: Rid
    n: Count
    count: Count


class Explain(Message, frozen=True, tag=15):
    """Why does meet(me, you) wait?"""

    query: Count
    me: Name
    you: Name
    datagram: bool = False
    user: User = ""
    peer_user: User = ""


class ListNames(Message, frozen=True, tag=16):
    """What is posted under this prefix? In order of names, after ``after``."""

    query: Count
    prefix: Name
    after: Name = ""


class AskStatus(Message, frozen=True, tag=17):
    """How is this server?"""

    query: Count


class Broadcast(Message, frozen=True, tag=18):
    """A notice for every client that wants notices: unreliable and rate-limited."""

    payload: Annotated[bytes, Meta(max_length=MAX_NOTICE)]


# ---- to a client -----------------------------------------------------------------------------------------------


class Welcome(Message, frozen=True, tag=20):
    """The server's answer to Hello."""

    server: Name
    incarnation: Count
    heartbeat: float
    """Seconds after which a silent side sends Alive; three times this and it is held for lost."""
    members: Annotated[tuple[Member, ...], Meta(max_length=MAX_MEMBERS)]


class Matched(Message, frozen=True, tag=21):
    """Attempt ``n`` is matched: dial (active) or be dialled (passive), and show the token."""

    rid: Rid
    n: Count
    match: Match
    token: Token
    active: bool
    peer: Name
    candidates: Blob
    generation: Count = 0
    """Not 0 when the peer holds a unique name: the generation of its hold."""
    peer_user: User = ""
    """The peer's user, as it claims: only the peers themselves can prove it to each other. Empty if plain."""
    partner: Annotated[bytes, Meta(max_length=HANDLE_SIZE)] = b""
    """The handle of the partner's request, for `Meet.avoid`. Empty if plain."""


class Posted(Message, frozen=True, tag=22):
    """The post stands (an acknowledgement)."""

    rid: Rid
    n: Count
    generation: Count = 0


class Refused(Message, frozen=True, tag=23):
    """The request is not lodged, or no longer; ``code`` is an error's wire code."""

    rid: Rid
    n: Count
    code: Count
    text: Text
    limit: Count = 0


class Explanation(Message, frozen=True, tag=24):
    """The answer to Explain: a line for each thing that may be the reason."""

    query: Count
    lines: Annotated[tuple[Text, ...], Meta(max_length=32)]


class PostedName(msgspec.Struct, frozen=True, array_like=True):
    """One line of the answer to ListNames."""

    name: Name
    holders: Count
    unique: bool
    datagram: bool
    user: User = ""
    """The user that posted it; empty for a plain post."""


class NameList(Message, frozen=True, tag=25):
    """The answer to ListNames; ``more`` says that the asker should ask again, after the last name."""

    query: Count
    names: Annotated[tuple[PostedName, ...], Meta(max_length=MAX_NAMES)]
    more: bool


class ServerStatus(Message, frozen=True, tag=26):
    """The answer to AskStatus."""

    query: Count
    server: Name
    incarnation: Count
    address: Name
    uptime: float
    clients: Count
    meets: Count
    posts: Count
    foreign: Count
    """Entries that other servers own."""
    matches: Count
    connected: Annotated[tuple[Member, ...], Meta(max_length=MAX_MEMBERS)]
    missing: Annotated[tuple[Member, ...], Meta(max_length=MAX_MEMBERS)]


class Notice(Message, frozen=True, tag=27):
    """Somebody's broadcast."""

    payload: Annotated[bytes, Meta(max_length=MAX_NOTICE)]


class Members(Message, frozen=True, tag=28):
    """The mesh has changed; clients keep the addresses for later."""

    members: Annotated[tuple[Member, ...], Meta(max_length=MAX_MEMBERS)]


class Elsewhere(Message, frozen=True, tag=29):
    """This server can't see all its mates: lodge waiting attempts with these members too."""

    members: Annotated[tuple[Member, ...], Meta(max_length=MAX_MEMBERS)]


# ---- between servers -------------------------------------------------------------------------------------------


class MateHello(Message, frozen=True, tag=40):
    """The first message of a server that dials another."""

    me: Member
    members: Annotated[tuple[Member, ...], Meta(max_length=MAX_MEMBERS)]


class MateWelcome(Message, frozen=True, tag=41):
    """The answer to MateHello; with it the link is up, and both send what they own."""

    me: Member
    members: Annotated[tuple[Member, ...], Meta(max_length=MAX_MEMBERS)]


class Propagated(Message, frozen=True, tag=42):
    """An entry that the sender owns."""

    rid: Rid
    n: Count
    me: Name
    you: Name
    """Empty for a post."""
    candidates: Blob
    datagram: bool
    unique: bool = False
    claim: Annotated[bytes, Meta(max_length=16)] = b""
    """For a unique post, the hash of its secret."""
    generation: Count = 0
    room: Count = 0
    """For a post, how many more clients it can take now. Said again when it was full and has room once more."""
    user: User = ""
    peer_user: User = ""
    avoid: Avoid = ()
    allow: Allow = ()


class Removal(msgspec.Struct, frozen=True, array_like=True):
    """One entry that its owner removed."""

    rid: Rid
    n: Count
    partner: Annotated[bytes, Meta(max_length=RID_SIZE)] = b""
    """The request that it was matched with, if it was: that one is taken as well, and its owner says so later."""
    partner_n: Count = 0


class Removed(Message, frozen=True, tag=43):
    """Entries that the sender owned, and that are gone."""

    removals: Annotated[tuple[Removal, ...], Meta(max_length=MAX_REMOVALS)]


class Propose(Message, frozen=True, tag=44):
    """The sender has reserved its entry for a match with the receiver's entry ``(target, target_n)``."""

    match: Match
    token: Token
    target: Rid
    target_n: Count
    rid: Rid
    n: Count
    me: Name
    candidates: Blob
    active: bool
    """Whether the proposer's client is to be the active side."""
    generation: Count = 0
    user: User = ""
    peer_user: User = ""


class Granted(Message, frozen=True, tag=45):
    """The receiver's proposal is granted: both entries are matched."""

    match: Match


class Declined(Message, frozen=True, tag=46):
    """The proposal is refused: the entry is gone, or (``busy``) reserved for another match at this moment."""

    match: Match
    busy: bool


class MateNotice(Message, frozen=True, tag=47):
    """A broadcast of one of the sender's clients."""

    payload: Annotated[bytes, Meta(max_length=MAX_NOTICE)]


class MateAlive(Message, frozen=True, tag=48):
    """Heartbeat between servers: which others the sender is connected to, and removals that could wait."""

    sees: Annotated[tuple[Member, ...], Meta(max_length=MAX_MEMBERS)]
    removals: Annotated[tuple[Removal, ...], Meta(max_length=MAX_REMOVALS)] = ()


class Leaving(Message, frozen=True, tag=49):
    """The sender stops in good order: it isn't missing, it is gone."""


ClientMessage = Hello | Meet | Post | Withdraw | Settled | Explain | ListNames | AskStatus | Broadcast
ServerMessage = (
    Welcome | Matched | Posted | Refused | Explanation | NameList | ServerStatus | Notice | Members | Elsewhere
)
MateMessage = (
    MateHello | MateWelcome | Propagated | Removed | Propose | Granted | Declined | MateNotice | MateAlive | Leaving
)
AnyMessage = Alive | Goodbye | ClientMessage | ServerMessage | MateMessage
