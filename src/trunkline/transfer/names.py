"""Which file names from a peer are acceptable (docs/spec/transfer.md section 4).

Names are relative paths with `/` between components. The rules are the same on both sides, so a sender
learns of a name that no receiver would take before anything is sent. They are about text only; that a
path which looks harmless doesn't leave the directory by a symbolic link is seen to on disk
(drivers/filetree.py).
"""

import hashlib
import unicodedata

from trunkline import errors

MAX_COMPONENT_BYTES = 255
"""NAME_MAX of every Linux file system."""
MAX_NAME_BYTES = 4096
"""PATH_MAX."""

PART_PREFIX = "."
PART_SUFFIX = ".trunkline-part"

# Characters that reorder or break the line they are shown on: a name with one of them reads as another name.
_DECEPTIVE = frozenset("\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\ufeff")


def check_name(name: str) -> tuple[str, ...]:
    """Return the components of a relative path.

    Raises:
        InvalidName: with the reason.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise errors.InvalidName(name, "it is not UTF-8; rename the file") from None
    if not name:
        raise errors.InvalidName(name, "it is empty")
    if size > MAX_NAME_BYTES:
        raise errors.InvalidName(name, f"it has {size} bytes, the limit is {MAX_NAME_BYTES}")
    if name.startswith("/"):
        raise errors.InvalidName(name, "it is absolute, and only names inside the directory are taken")
    components = tuple(name.split("/"))
    for component in components:
        _check_component(name, component)
    return components


def _check_component(name: str, component: str) -> None:
    if not component:
        raise errors.InvalidName(name, "it has an empty component")
    if component in (".", ".."):
        raise errors.InvalidName(name, f"it has the component {component!r}")
    size = len(component.encode())
    if size > MAX_COMPONENT_BYTES:
        raise errors.InvalidName(name, f"a component has {size} bytes, the limit is {MAX_COMPONENT_BYTES}")
    if "\\" in component:
        raise errors.InvalidName(name, "it has a backslash, which separates directories elsewhere")
    for character in component:
        if unicodedata.category(character) == "Cc":
            raise errors.InvalidName(name, f"it has the control character U+{ord(character):04X}")
        if character in _DECEPTIVE:
            raise errors.InvalidName(name, f"it has the character U+{ord(character):04X}, which disguises names")
    # A file system or tool that normalises must not make another path of it: neither a second spelling of the
    # same name (NFC), nor a fullwidth slash or a one-dot leader that folds to "/" or "." (NFKC).
    if not unicodedata.is_normalized("NFC", component):
        raise errors.InvalidName(name, "it is not in Unicode's composed form (NFC); rename the file")
    folded = unicodedata.normalize("NFKC", component)
    if folded in (".", "..") or ("/" in folded) or ("\\" in folded):
        raise errors.InvalidName(name, "it turns into another path when normalised")
    if is_part_name(component):
        raise errors.InvalidName(name, f"names of the form {PART_PREFIX}…{PART_SUFFIX} are kept for unfinished files")


def part_name(component: str) -> str:
    """Return the name under which an unfinished file grows, beside its place.

    A name too long to be lengthened is replaced by the start of its hash.
    """
    part = f"{PART_PREFIX}{component}{PART_SUFFIX}"
    if len(part.encode()) > MAX_COMPONENT_BYTES:
        part = f"{PART_PREFIX}{hashlib.sha256(component.encode()).hexdigest()[:48]}{PART_SUFFIX}"
    return part


def is_part_name(component: str) -> bool:
    """Tell whether a component is of the form that `part_name` returns, in upper or lower case."""
    folded = component.casefold()
    return folded.startswith(PART_PREFIX) and folded.endswith(PART_SUFFIX)
