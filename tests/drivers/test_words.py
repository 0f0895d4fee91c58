"""The words of one-time codes."""

import pytest

from trunkline.drivers.words import COUNT, new_code, parse_code, words
from trunkline.errors import ConfigError


def test_the_list_can_be_said_and_typed() -> None:
    found = words()
    assert len(set(found)) == len(found) == COUNT == 2**11
    assert list(found) == sorted(found)
    assert all(word.isascii() and word.isalpha() and word.islower() and 4 <= len(word) <= 8 for word in found)
    assert len({word[:5] for word in found}) == COUNT


def test_no_slip_makes_one_word_another() -> None:
    """No two words are one letter apart: left out, put in, or another in its place."""
    seen: dict[str, str] = {}
    every = set(words())
    for word in words():
        for at in range(len(word)):
            other = seen.setdefault(f"{word[:at]}?{word[at + 1 :]}", word)
            assert other == word, "another letter in its place"
            assert word[:at] + word[at + 1 :] not in every, "a letter left out"


def test_codes_are_drawn_and_read_again() -> None:
    code = new_code()
    assert code != new_code()
    text = code.reveal().decode()
    assert len(text.split("-")) == 3
    assert text not in repr(code)
    for typed in (text, text.upper(), f" {text.replace('-', '  ')} "):
        assert parse_code(typed) == code


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("river-candle", "has 3 words with hyphens between them, and this has 2"),
        ("", "this has 0"),
        ("river-candel-otter", "word 2 of the code is in no code: 'candel'; did they say 'candle'"),
        ("river-candle-xqxqxq", "word 3 of the code is in no code: 'xqxqxq'$"),
    ],
)
def test_slips_are_found_before_anybody_is_asked(typed: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_code(typed)


def test_each_word_of_a_code_has_eleven_bits() -> None:
    drawn = {word for _ in range(200) for word in new_code().reveal().decode().split("-")}
    assert len(drawn) > 400, "600 draws of 2048 words give 520 different ones"
    assert not drawn - set(words())
