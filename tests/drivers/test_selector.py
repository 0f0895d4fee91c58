"""The selector keeps the contract of `selectors`, polls when the policy says so, and ends a loop's turn."""

import asyncio
import contextlib
import itertools
import os
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from trunkline.drivers import selector as module
from trunkline.drivers.selector import EventLoop, PollingSelector, new_event_loop, run
from trunkline.drivers.spin import CREDIT_TO_SPIN, MAX_SPIN, SPIN_VARIABLE, STOLEN, SpinPolicy
from trunkline.errors import ConfigError

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
SPIN = 100e-6


def eager(spin: float = SPIN) -> PollingSelector:
    """A selector whose policy is ready to poll."""
    made = PollingSelector(spin, cores=2)
    for _ in range(CREDIT_TO_SPIN):
        made.policy.blocked(0.0)
    return made


KINDS: dict[str, Callable[[], selectors.BaseSelector]] = {
    "stock": selectors.DefaultSelector,
    "off": lambda: PollingSelector(0, cores=2),
    "adaptive": lambda: PollingSelector(SPIN, cores=2),
    "eager": eager,
    "one core": lambda: PollingSelector(SPIN, cores=1),
}


@pytest.fixture(params=KINDS)
def sel(request: pytest.FixtureRequest) -> Iterator[selectors.BaseSelector]:
    with KINDS[request.param]() as made:
        yield made


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = socket.socketpair()
    with a, b:
        a.setblocking(False)
        b.setblocking(False)
        yield a, b


Pair = tuple[socket.socket, socket.socket]


class TestContract:
    """One battery over the standard selector and ours, in every mode."""

    def test_register_and_unregister(self, sel: selectors.BaseSelector, pair: Pair) -> None:
        key = sel.register(pair[0], READ, "data")
        assert key == selectors.SelectorKey(pair[0], pair[0].fileno(), READ, "data")
        assert sel.get_key(pair[0]) == sel.get_key(pair[0].fileno()) == key
        assert list(sel.get_map()) == [pair[0].fileno()]
        with pytest.raises(KeyError):
            sel.register(pair[0], WRITE)
        assert sel.unregister(pair[0]) == key
        assert len(sel.get_map()) == 0
        with pytest.raises(KeyError):
            sel.unregister(pair[0])
        with pytest.raises(KeyError):
            sel.get_key(pair[0])

    def test_what_cannot_be_registered(self, sel: selectors.BaseSelector, pair: Pair) -> None:
        with pytest.raises(ValueError, match="Invalid events"):
            sel.register(pair[0], 0)
        with pytest.raises(ValueError, match="Invalid file"):
            sel.register(-1, READ)
        with pytest.raises(KeyError):
            sel.modify(pair[0], READ)

    def test_events(self, sel: selectors.BaseSelector, pair: Pair) -> None:
        a, b = pair
        sel.register(a, READ | WRITE)
        key = sel.register(b, READ)
        assert sel.select(0) == [(sel.get_key(a), WRITE)]
        a.send(b"x")
        assert dict(sel.select()) == {sel.get_key(a): WRITE, key: READ}
        key = sel.modify(b, READ | WRITE, "new")
        sel.unregister(a)
        assert sel.select(1) == [(key, READ | WRITE)]
        assert key.data == "new"

    def test_modify_changes_the_data_alone(self, sel: selectors.BaseSelector, pair: Pair) -> None:
        sel.register(pair[0], WRITE, "old")
        sel.modify(pair[0], WRITE, "new")
        assert [(key.data, events) for key, events in sel.select()] == [("new", WRITE)]

    @pytest.mark.parametrize("timeout", [0, -1, 1e-6, SPIN / 2, SPIN * 2, 0.002])
    def test_nothing_happens(self, sel: selectors.BaseSelector, pair: Pair, timeout: float) -> None:
        sel.register(pair[0], READ)
        assert sel.select(timeout) == []

    def test_hang_up_is_readable(self, sel: selectors.BaseSelector, pair: Pair) -> None:
        key = sel.register(pair[0], READ)
        pair[1].close()
        assert sel.select() == [(key, READ)]

    def test_no_files(self, sel: selectors.BaseSelector) -> None:
        assert sel.select(0) == []
        assert sel.select(1e-3) == []

    def test_a_closed_file_is_forgotten(self, sel: selectors.BaseSelector, pair: Pair) -> None:
        key = sel.register(pair[0], READ)
        pair[0].close()
        assert sel.select(0) == []
        assert sel.unregister(pair[0]) == key

    def test_waits_for_another_thread(self, sel: selectors.BaseSelector, pair: Pair) -> None:
        key = sel.register(pair[0], READ)
        go = threading.Event()

        def other() -> None:
            go.wait()
            pair[1].send(b"x")

        thread = threading.Thread(target=other)
        thread.start()
        go.set()
        assert sel.select() == [(key, READ)]
        thread.join()

    def test_close(self, sel: selectors.BaseSelector, pair: Pair) -> None:
        sel.register(pair[0], READ)
        sel.close()
        sel.close()
        assert not sel.get_map()
        with pytest.raises((RuntimeError, KeyError, ValueError)):
            sel.get_key(pair[0])
        with pytest.raises(ValueError, match="closed"):
            sel.select(0)


class Watched(SpinPolicy):
    """Notes what it is told."""

    __slots__ = ("told",)

    def __init__(self, budget: float) -> None:
        super().__init__(budget, cores=2)
        self.told: list[str] = []

    def budget(self, now: float) -> float:
        return self.spin

    def found(self) -> None:
        self.told.append("found")

    def missed(self) -> None:
        self.told.append("missed")

    def stolen(self, now: float) -> None:
        self.told.append("stolen")

    def blocked(self, seconds: float) -> None:
        self.told.append("short" if seconds <= self.short else "long")


class Asleep(Watched):
    """Never polls, though it could."""

    __slots__ = ()

    def budget(self, now: float) -> float:
        return 0.0


class Clock:
    """A clock that moves when it is read; stands in for the module `time`."""

    def __init__(self, step: float) -> None:
        self.now = 0.0
        self.step = step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


class TestPolling:
    """What the selector tells its policy. Time is ours, so nothing depends on the machine."""

    @pytest.fixture
    def made(self) -> Iterator[PollingSelector]:
        with PollingSelector(SPIN, cores=2) as made:
            made.policy = Watched(SPIN)
            yield made

    def told(self, made: PollingSelector) -> list[str]:
        assert isinstance(made.policy, Watched)
        return made.policy.told

    def test_found(self, made: PollingSelector, pair: Pair) -> None:
        key = made.register(pair[0], WRITE)
        assert made.select() == [(key, WRITE)]
        assert self.told(made) == ["found"]

    def test_found_after_some_polls(self, made: PollingSelector, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        key = made.register(pair[0], READ)
        yields = itertools.count()
        monkeypatch.setattr(module, "time", Clock(SPIN / 10))
        monkeypatch.setattr(module, "give_way", lambda: next(yields) == 2 and pair[1].send(b"x"))
        assert made.select() == [(key, READ)]
        assert self.told(made) == ["found"]

    def test_missed(self, made: PollingSelector, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        made.register(pair[0], READ)
        monkeypatch.setattr(module, "time", Clock(SPIN / 3))
        assert made.select(1e-3) == []
        assert self.told(made) == ["missed"]

    def test_blocks_after_it_missed(self, made: PollingSelector, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        key = made.register(pair[0], READ)
        monkeypatch.setattr(module, "time", Clock(SPIN * 2))
        monkeypatch.setattr(module, "give_way", lambda: pair[1].send(b"x"))
        assert made.select() == [(key, READ)]
        assert self.told(made) == ["missed"]

    def test_does_not_poll_beyond_the_timeout(
        self, made: PollingSelector, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made.register(pair[0], READ)
        clock = Clock(SPIN / 10)
        monkeypatch.setattr(module, "time", clock)
        assert made.select(SPIN / 4) == []
        assert clock.now < SPIN / 2

    def test_stolen(self, made: PollingSelector, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        made.register(pair[0], READ)
        monkeypatch.setattr(module, "time", Clock(STOLEN * 1.5))
        assert made.select(1e-3) == []
        assert self.told(made) == ["stolen"]

    def test_a_wait_that_blocked_is_measured(
        self, made: PollingSelector, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made.policy = Asleep(SPIN)
        made.register(pair[0], WRITE)
        monkeypatch.setattr(module, "time", Clock(SPIN))
        made.select()
        monkeypatch.setattr(module, "time", Clock(1.0))
        made.select()
        assert self.told(made) == ["short", "long"]

    def test_a_timer_is_no_reason_to_poll(
        self, made: PollingSelector, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made.policy = Asleep(SPIN)
        made.register(pair[0], READ)
        monkeypatch.setattr(module, "time", Clock(SPIN / 10))
        assert made.select(1e-3) == []
        assert self.told(made) == ["long"]

    @pytest.mark.parametrize("timeout", [0, -1])
    def test_a_loop_with_work_to_do_is_not_a_wait(self, made: PollingSelector, timeout: float) -> None:
        assert made.select(timeout) == []
        assert self.told(made) == []

    @pytest.mark.parametrize(("spin", "cores"), [(0.0, 2), (SPIN, 1)])
    def test_off_reads_no_clock(self, spin: float, cores: int, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "time", None)
        with PollingSelector(spin, cores=cores) as made:
            key = made.register(pair[0], WRITE)
            assert made.select() == [(key, WRITE)]


class TestHooks:
    def test_a_hook_that_scheduled_something_makes_select_return(self, pair: Pair) -> None:
        for made in (PollingSelector(0), eager()):
            with made:
                made.register(pair[0], READ)
                made.before_wait.append(lambda: True)
                assert made.select(None) == []

    def test_all_hooks_run_in_order_and_one_may_remove_itself(self, pair: Pair) -> None:
        ran: list[str] = []

        def first() -> bool:
            ran.append("first")
            made.before_wait.remove(first)
            return True

        def second() -> bool:
            ran.append("second")
            return False

        with PollingSelector(0) as made:
            made.register(pair[0], WRITE)
            made.before_wait += [first, second]
            assert len(made.select()) == 1
            assert len(made.select()) == 1
        assert ran == ["first", "second", "second"]

    def test_without_a_loop_the_error_reaches_the_caller(self) -> None:
        with PollingSelector(0) as made:
            made.before_wait.append(lambda: 1 // 0 == 0)
            with pytest.raises(ZeroDivisionError):
                made.select(0)

    def test_what_a_hook_registers_is_in_this_wait(self, pair: Pair) -> None:
        def watch() -> bool:
            if not made.get_map():
                made.register(pair[0], WRITE)
            return False

        with PollingSelector(0) as made:
            made.before_wait.append(watch)
            assert len(made.select()) == 1


@pytest.fixture(params=[0.0, SPIN])
def spin(request: pytest.FixtureRequest) -> float:
    return float(request.param)


class TestLoop:
    """With a real asyncio loop, polling and not."""

    def test_echo(self, spin: float) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1000):
                writer.write(data)
                await writer.drain()
            writer.close()
            await writer.wait_closed()

        async def talk(port: int, word: bytes) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(50):
                writer.write(word)
                assert await reader.readexactly(len(word)) == word
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

        async def main() -> None:
            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            await asyncio.gather(*(talk(port, b"word %d" % n) for n in range(5)))
            server.close()
            await server.wait_closed()

        run(main(), spin=spin)

    def test_large_writes_wait_for_the_socket(self, spin: float) -> None:
        """The loop registers, modifies and unregisters writers."""
        size = 5_000_000

        async def main() -> None:
            a, b = socket.socketpair()
            reader, near = await asyncio.open_connection(sock=a)
            _, far = await asyncio.open_connection(sock=b)
            far.write(bytes(size))
            assert len(await reader.readexactly(size)) == size
            for writer in (near, far):
                writer.close()
                await writer.wait_closed()

        run(main(), spin=spin)

    def test_threads_wake_the_loop(self, spin: float) -> None:
        async def main() -> str:
            return await asyncio.to_thread(lambda: "done")

        assert run(main(), spin=spin) == "done"

    def test_a_subprocess_is_waited_for(self, spin: float) -> None:
        async def main() -> int:
            process = await asyncio.create_subprocess_exec("true")
            return await process.wait()

        assert run(main(), spin=spin) == 0

    def test_timers_keep_their_order(self, spin: float) -> None:
        async def main() -> list[int]:
            done: list[int] = []
            loop = asyncio.get_running_loop()
            finished = asyncio.Event()
            for n in (3, 1, 2):
                loop.call_later(n * 1e-3, done.append, n)
            loop.call_later(4e-3, finished.set)
            await finished.wait()
            return done

        assert run(main(), spin=spin) == [1, 2, 3]

    def test_one_write_per_turn(self, spin: float) -> None:
        """What the hooks are for: three callbacks of a turn write once."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, EventLoop)
            a, b = socket.socketpair()
            reader, near = await asyncio.open_connection(sock=a)
            pending: list[bytes] = []
            writes: list[bytes] = []

            def flush() -> bool:
                if pending:
                    writes.append(b"".join(pending))
                    b.send(writes[-1])
                    pending.clear()
                return False

            loop.selector.before_wait.append(flush)
            for word in (b"one ", b"two ", b"three"):
                loop.call_soon(pending.append, word)
            assert await reader.readexactly(13) == b"one two three"
            assert writes == [b"one two three"]
            b.close()
            near.close()
            await near.wait_closed()

        run(main(), spin=spin)

    @pytest.mark.parametrize("how", ["result", "soon", "timer", "task"])
    def test_what_a_hook_schedules_is_run_though_nothing_else_happens(self, spin: float, how: str) -> None:
        """The loop works out its wait before it calls select: here it would be for ever."""

        async def main() -> str:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, EventLoop)
            future: asyncio.Future[str] = loop.create_future()
            tasks: list[asyncio.Task[None]] = []

            async def resolve() -> None:
                future.set_result(how)

            def hook() -> bool:
                hooks.remove(hook)
                if how == "result":
                    future.set_result(how)
                elif how == "soon":
                    loop.call_soon(future.set_result, how)
                elif how == "timer":
                    loop.call_later(1e-3, future.set_result, how)
                else:
                    tasks.append(loop.create_task(resolve()))
                return True

            hooks = loop.selector.before_wait
            loop.call_soon(lambda: loop.call_soon(hooks.append, hook))
            return await future

        assert run(main(), spin=spin) == how

    def test_a_failing_hook_is_reported_and_the_loop_goes_on(self, spin: float) -> None:
        async def main() -> list[dict[str, Any]]:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, EventLoop)
            reports: list[dict[str, Any]] = []
            loop.set_exception_handler(lambda _, context: reports.append(context))

            def fails() -> bool:
                hooks.remove(fails)
                raise RuntimeError("no")

            hooks = loop.selector.before_wait
            hooks.append(fails)
            await asyncio.sleep(0)
            await asyncio.to_thread(int)
            return reports

        (report,) = run(main(), spin=spin)
        assert "before_wait hook failed" in report["message"]
        assert isinstance(report["exception"], RuntimeError)

    def test_an_interrupt_in_a_hook_ends_the_loop(self, spin: float) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, EventLoop)

            def interrupt() -> bool:
                loop.selector.before_wait.remove(interrupt)
                raise KeyboardInterrupt

            loop.selector.before_wait.append(interrupt)
            await asyncio.Event().wait()

        with pytest.raises(KeyboardInterrupt):
            run(main(), spin=spin)


class TestSettings:
    @pytest.mark.parametrize("spin", [-1e-6, MAX_SPIN * 2, float("nan")])
    def test_what_the_argument_cannot_be(self, spin: float) -> None:
        with pytest.raises(ConfigError, match="can't be used"):
            PollingSelector(spin)

    @pytest.mark.parametrize(("argument", "variable", "wanted"), [(None, "50", 50e-6), (20e-6, "50", 20e-6)])
    def test_an_argument_beats_the_variable(
        self, argument: float | None, variable: str, wanted: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(SPIN_VARIABLE, variable)
        monkeypatch.setattr(module, "available_cores", lambda: 2)
        with contextlib.closing(new_event_loop(argument)) as loop:
            assert loop.selector.policy.spin == pytest.approx(wanted)

    def test_a_process_pinned_to_one_core_does_not_poll(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
        with PollingSelector(SPIN) as made:
            assert made.policy.spin == 0
