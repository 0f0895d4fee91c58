"""S5: how many messages a connection takes, against the paper's section 3.1."""

from trunkline.sim.budget import count_messages, table


def test_the_budget_holds() -> None:
    rows = count_messages(4)
    assert rows[0].one_after_other == rows[0].racing_worst == 4
    for row in rows:
        assert row.racing_seen_all
        assert row.one_after_other <= row.paper
        assert row.racing_worst <= row.paper_racing
        assert row.with_post <= 6
    assert len(table(rows).splitlines()) == 5
