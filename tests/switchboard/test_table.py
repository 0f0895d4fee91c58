"""The pending table: its indexes."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trunkline.switchboard.entries import Entry, PostEntry
from trunkline.switchboard.table import Table


def everything(name: str) -> bool:
    return True


def entry(rid: int, me: str = "ann", you: str = "ben", owner: str = "", n: int = 1) -> Entry:
    return Entry(bytes([rid]) * 16, n, me, you, b"", False, owner, 1, 0.0)


def post(rid: int, name: str = "printer", owner: str = "", **more: Any) -> PostEntry:
    settings: dict[str, Any] = {"backlog": 2, "unique": False, "claim": b"", "generation": 0} | more
    return PostEntry(bytes([rid]) * 16, 1, name, b"", False, owner, 1, 0.0, **settings)


def test_partners_are_those_who_name_each_other_in_order_of_arrival() -> None:
    table = Table()
    first, second = entry(1, owner="b"), entry(2)
    for it in (first, second, entry(3, you="carl"), entry(4, me="carl", you="ann")):
        table.add(it)
    assert table.partners(entry(9, "ben", "ann")) == [first, second]


def test_a_pool_is_chosen_from_by_load_then_turn() -> None:
    table = Table()
    pool = [post(1), post(2)]
    for it in pool:
        table.add(it)
    chosen = []
    for _ in range(4):
        it = table.choose(entry(9, you="printer"))
        assert it is not None
        it.matched += 1
        chosen.append(it)
    assert chosen == [*pool, *pool]
    assert table.choose(entry(9, you="printer")) is None


def test_of_unique_contenders_only_the_greatest_is_seen() -> None:
    table = Table()
    for rid, generation in ((1, 5), (2, 7), (3, 6)):
        table.add(post(rid, owner="abc"[rid - 1], unique=True, generation=generation))
    assert [it.generation for it in table.pool("printer", False, "")] == [7]


def test_users_are_part_of_what_is_looked_up() -> None:
    table = Table()
    ours = Entry(bytes(16), 1, "a", "b", b"", False, "", 1, 0.0, user="ann", peer_user="ben")
    plain, secure = entry(1, "b", "a"), entry(2, "b", "a", "x")
    secure.user, secure.peer_user = "ben", "ann"
    for it in (plain, secure):
        table.add(it)
    assert table.partners(ours) == [secure]
    assert table.partners(entry(9, "a", "b")) == [plain]
    assert table.seekers("a", False) == [plain, secure]


def test_a_name_is_posted_by_each_user_for_itself() -> None:
    table = Table()
    plain, bens, eves = post(1, "p"), post(2, "p", user="ben", allow=("ann",)), post(3, "p", user="eve", allow=("*",))
    for it in (plain, bens, eves):
        table.add(it)
    seeker = Entry(bytes(16), 1, "a", "p", b"", False, "", 1, 0.0, user="ann", peer_user="ben")
    assert table.choose(seeker) is bens
    assert table.choose(entry(9, "a", "p")) is plain
    seeker.user = "zoe"
    assert table.choose(seeker) is None
    assert list(table.pools("p", False)) == [[plain], [bens], [eves]]
    assert list(table.pools("p", True)) == []


def test_a_page_of_names_ends_between_two_names() -> None:
    table = Table()
    for rid, (name, user) in enumerate([("a", ""), ("b", "ann"), ("b", "ben"), ("c", "")]):
        table.add(post(rid, name, user=user, allow=("*",) if user else ()))
    page, more = table.names("", "", 2, everything)
    assert [key[0] for key, _ in page] == ["a"]
    assert more
    page, more = table.names("", "a", 2, everything)
    assert [key[::2] for key, _ in page] == [("b", "ann"), ("b", "ben")]
    assert more
    assert [key[0] for key, _ in table.names("", "b", 2, everything)[0]] == ["c"]
    assert len(table.names("", "a", 1, everything)[0]) == 1  # more users of one name than fit


names = st.sampled_from(["a", "b", "c", "a/b"])
steps = st.lists(
    st.tuples(
        st.sampled_from(["meet", "post", "remove"]),
        st.integers(0, 5),
        names,
        names,
        st.sampled_from(["", "x", "y"]),
    ),
    max_size=40,
)


@given(steps)
def test_indexes_agree_with_a_plain_list(script: list[tuple[str, int, str, str, str]]) -> None:
    table = Table()
    model: list[Entry] = []
    for what, rid, me, you, owner in script:
        known = table.get(owner, bytes([rid]) * 16)
        if what == "remove":
            if known is not None:
                table.remove(known)
                model.remove(known)
        elif known is None and me != you:
            it = entry(rid, me, you, owner) if what == "meet" else post(rid, me, owner)
            table.add(it)
            model.append(it)
    for me in "abc":
        for you in "abc":
            pair = [e for e in model if not isinstance(e, PostEntry) and (e.me, e.you) == (you, me)]
            assert table.partners(entry(9, me, you)) == pair
        assert table.seekers(me, False) == [e for e in model if not isinstance(e, PostEntry) and e.you == me]
        assert table.pool(me, False, "") == [e for e in model if isinstance(e, PostEntry) and e.me == me]
    posted = sorted({e.me for e in model if isinstance(e, PostEntry)})
    assert [key[0] for key, _ in table.names("", "", 100, everything)[0]] == posted
    again = Table()
    again.restore(table.snapshot())
    assert again.snapshot() == table.snapshot()
    for it in model:
        table.remove(it)
    assert table.counts() == (0, 0, 0)
    assert table.snapshot()[:3] == ((), (), ())
