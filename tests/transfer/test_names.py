import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline import errors
from trunkline.transfer import names

EVIL = {
    "../x": "component '..'",
    "..": "component '..'",
    "a/../../b": "component '..'",
    "/etc/passwd": "absolute",
    "/": "absolute",
    "": "empty",
    ".": "component '.'",
    "a/./b": "component '.'",
    "a//b": "empty component",
    "a/": "empty component",
    "a\0b": "U\\+0000",
    "a\nb": "U\\+000A",
    "a\x7fb": "U\\+007F",
    "a\x9bb": "U\\+009B",
    "a\\b": "backslash",
    "..\\x": "backslash",
    "\udcff": "not UTF-8",
    "x" * 256: "256 bytes, the limit is 255",
    "é" * 128: "256 bytes, the limit is 255",
    "/".join(["x" * 200] * 21)[:4097]: "4097 bytes, the limit is 4096",
    "e\u0301": "NFC",
    "a\uff0fb": "another path",
    "\u2024\u2024": "another path",
    "a\uff3cb": "another path",
    "a\u202egpj.exe": "U\\+202E",
    "\ufeffa": "U\\+FEFF",
    ".x.trunkline-part": "unfinished",
    "a/.x.Trunkline-PART": "unfinished",
}

GOOD = [
    "a",
    "a/b/c",
    "ü",
    "日本語.txt",
    "👩‍👩‍👧",
    "a b",
    "-rf",
    "~",
    "...",
    "a:b",
    ".hidden",
    "x" * 255,
    "CON",
    "%2e%2e",
]


@pytest.mark.parametrize("name", EVIL, ids=ascii)
def test_evil_names_are_refused_with_the_reason(name):
    with pytest.raises(errors.InvalidName, match=EVIL[name]):
        names.check_name(name)


@pytest.mark.parametrize("name", GOOD, ids=ascii)
def test_good_names_give_their_components(name):
    assert names.check_name(name) == tuple(name.split("/"))


@given(st.text(max_size=30) | st.lists(st.sampled_from(["..", ".", "a", "", "\0"])).map("/".join))
def test_whatever_passes_stays_inside(name):
    try:
        components = names.check_name(name)
    except errors.InvalidName:
        return
    assert components
    assert "/".join(components) == name
    assert not {"", ".", ".."} & set(components)


def test_part_names_fit_and_are_reserved():
    for component in ("a", "x" * 239, "x" * 240, "x" * 255, "é" * 127):
        part = names.part_name(component)
        assert len(part.encode()) <= 255
        assert names.is_part_name(part)
    assert names.part_name("a") == ".a.trunkline-part"
    assert names.part_name("x" * 255) != names.part_name("x" * 254 + "y")
    assert not names.is_part_name("a.trunkline-part")
