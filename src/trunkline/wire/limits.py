"""Every limit of the wire, with its reason (docs/spec/wire.md section 4)."""

from typing import Final

MAX_FRAME: Final = 64 * 1024
"""Largest frame body in bytes. Our largest message is a list of names; NATS allows 1 MiB, HTTP/2 16 KiB by default."""

MAX_CANDIDATES: Final = 1024
"""Largest encoded candidate list in bytes: a dozen addresses."""

MAX_TEXT: Final = 1024
"""Longest human text (a reason, an explanation's line) in characters."""

MAX_NOTICE: Final = 512
"""Largest broadcast payload in bytes: it fits a datagram on any path."""

MAX_MEMBERS: Final = 64
"""Most servers in one mesh: every one is connected to every other."""

MAX_SERVER: Final = 128
"""Longest id or address of a server: MAX_MEMBERS of them fit a frame three times."""

MAX_REMOVALS: Final = 512
"""Most entries that one message takes off the table; more go in further messages."""

MAX_NAMES: Final = 120
"""Most names in one answer; the asker pages on. 120 names and users of 255 bytes each fit a frame."""

MAX_SECRET: Final = 64
"""Longest proof in bytes for taking over a unique name."""

MAX_BACKLOG: Final = 4096
"""Most connections that a post may let wait for its accept; the kernel's own cap on a listener is of that size."""

MAX_ALLOW: Final = 16
"""Most patterns of users that a secure post allows."""

MAX_AVOID: Final = 16
"""Most requests that one meet asks not to be matched with again; the oldest go."""

RID_SIZE: Final = 16
HANDLE_SIZE: Final = 16
TOKEN_SIZE: Final = 16
MATCH_SIZE: Final = 8
