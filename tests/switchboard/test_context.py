"""What the parts of the client share."""

from tests.switchboard.clientside import config
from trunkline.switchboard.context import Context, Timer


def test_numbers_are_positive_and_never_used_twice() -> None:
    ctx = Context(config(), b"seed")
    assert [ctx.new_conn() for _ in range(3)] == [1, 2, 3]


def test_a_snapshot_is_the_whole_state() -> None:
    ctx, other = Context(config(), b"seed"), Context(config(), b"seed")
    ctx.new_conn()
    ctx.draw.fraction()
    ctx.timers.set((Timer.FINDER, 0), 1.0)
    snapshot = ctx.snapshot()
    other.restore(snapshot)
    assert other.snapshot() == snapshot
    assert other.new_conn() == 2
    assert other.draw.bytes(8) == ctx.draw.bytes(8)
    assert other.timers.next() == 1.0
