"""One-time codes that people can say: three words of a list of 2048, 33 bits (docs/spec/authority.md section 13).

The list is our own: common English words of 4 to 8 letters, no two with one spelling error between them or with the
same first five letters, and none that sounds as another does.
"""

import difflib
import functools
import importlib.resources
import secrets
from typing import Final

from trunkline.errors import ConfigError
from trunkline.names import Secret

WORDS_IN_CODE: Final = 3
COUNT: Final = 2048
"""Words in the list."""


@functools.cache
def words() -> tuple[str, ...]:
    """Return the list, in order."""
    text = importlib.resources.files("trunkline.drivers").joinpath("words.txt").read_text("ascii")
    found = tuple(text.split())
    assert len(found) == COUNT, f"the list has {len(found)} words"
    return found


def new_code() -> Secret:
    """Return a code that nobody can foresee."""
    return Secret("-".join(secrets.choice(words()) for _ in range(WORDS_IN_CODE)).encode())


def parse_code(text: str) -> Secret:
    """Return the code that somebody typed: capitals and blanks are forgiven.

    Whatever is no word of the list is a slip, and found out here, where it costs the code nothing.

    Raises:
        ConfigError: it has not three words, or one is not in the list; with those that are near.
    """
    typed = text.lower().replace("-", " ").split()
    if len(typed) != WORDS_IN_CODE:
        raise ConfigError(f"a code has {WORDS_IN_CODE} words with hyphens between them, and this has {len(typed)}")
    for number, word in enumerate(typed, 1):
        if word not in words():
            near = difflib.get_close_matches(word[:20], words(), 3, 0.7)
            hint = f"; did they say {' or '.join(map(repr, near))}?" if near else ""
            raise ConfigError(f"word {number} of the code is in no code: {word[:20]!r}{hint}")
    return Secret("-".join(typed).encode())
