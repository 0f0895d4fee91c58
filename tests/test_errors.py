"""The error tree: every error says something, and codes are unique."""

import inspect

from trunkline import errors


def all_errors() -> list[type[errors.TrunklineError]]:
    return [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.TrunklineError) and kind.__module__ == errors.__name__
    ]


def test_the_drawing_names_every_class() -> None:
    for kind in all_errors():
        assert kind.__name__ in (errors.__doc__ or ""), f"{kind.__name__} is missing in the tree of errors.py"
        assert kind.__doc__


def test_wire_codes_are_unique() -> None:
    codes = [kind.__dict__["code"] for kind in all_errors() if "code" in kind.__dict__]
    assert len(codes) == len(set(codes))


def test_sentences() -> None:
    for error, wanted in (
        (errors.InvalidName("x" * 300, "it is too long"), "…"),
        (errors.FrameTooLarge(9, 8), "frame with 9 bytes exceeds the limit of 8 bytes"),
        (errors.NoSwitchboard([("h:1", "refused")]), "h:1: refused"),
        (errors.NoSwitchboard([]), "trunkline up"),
        (errors.NoSwitchboard([(f"h:{n}", "refused") for n in range(9)]), "and 3 more"),
        (errors.MeetTimeout("a", "b", 3, ["because"]), "because"),
        (errors.MeetTimeout("a", "", 3), "nobody came to the post 'a' within 3 s"),
        (errors.NameTaken("n", "by x"), "by x"),
        (errors.Displaced("n", 4), "generation 4"),
        (errors.TooMany("things", 3), "the limit is 3"),
        (errors.SilentPeer(3.0), "3 s"),
        (errors.InvalidAddress("x y", "no"), "x y"),
        (errors.NotTrunkline(b"GET"), "GET"),
        (errors.VersionMismatch("TRUNK/2", "TRUNK/1"), "TRUNK/2"),
        (errors.MessageNotAllowed("Welcome", "client"), "a client may not send Welcome here"),
        (errors.UnknownMessage(99), "99"),
        (errors.MalformedMessage("bad"), "bad"),
    ):
        assert wanted in str(error)
    assert issubclass(errors.MeetTimeout, TimeoutError)
    assert issubclass(errors.NoSwitchboard, ConnectionError)
