"""What all commands share: the options of every command, where output goes, how asyncio is run."""

import dataclasses
import sys
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from trunkline.aio import Switchboard
    from trunkline.names import Address

FAILED: Final = 1
"""Exit code of a stated error."""

T = TypeVar("T")


@dataclasses.dataclass
class Common:
    """The options of every command, and how it speaks: results to stdout, everything else to stderr."""

    switchboards: str | None = None
    home: str | None = None
    verbose: bool = False
    debug: bool = False

    def servers(self) -> "tuple[Address, ...] | None":
        """Return what --switchboards says; None leaves it to the environment and the host list.

        Raises:
            InvalidAddress: one of the addresses can't be used.
        """
        from trunkline.names import Address

        if self.switchboards is None:
            return None
        return tuple(Address.parse(part) for part in self.switchboards.split(",") if part.strip())

    def switchboard(self) -> "Switchboard":
        """Return the switchboard that the options and the settings lead to."""
        from trunkline.aio import Switchboard

        return Switchboard(self.servers(), home=self.home)

    def say(self, text: str) -> None:
        """Tell the user something that is no result."""
        print(text, file=sys.stderr, flush=True)

    def tell(self, text: str) -> None:
        """Give a line of the result."""
        print(text, flush=True)

    def tell_json(self, value: Any) -> None:
        """Give a result that a program reads, as one line."""
        import msgspec

        self.tell(msgspec.json.encode(value).decode())

    def start_logs(self, level: int | None = None) -> None:
        """Log to stderr, one line an event: ``level`` and above, INFO with --verbose, everything with --debug."""
        import logging

        chosen = logging.WARNING if level is None else level
        if self.verbose:
            chosen = min(chosen, logging.INFO)
        if self.debug:
            chosen = logging.DEBUG
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger = logging.getLogger("trunkline")
        logger.addHandler(handler)
        logger.setLevel(chosen)


def run(main: Coroutine[Any, Any, T], *, spin: float = 0.0) -> T:
    """Run a command's coroutine. SIGTERM ends it as SIGINT does: it is cancelled first, so that it leaves in order.

    Args:
        main: the coroutine.
        spin: for how many seconds the loop polls before it blocks; TRUNKLINE_SPIN goes before 0.

    Raises:
        Terminated: SIGTERM came.
        KeyboardInterrupt: SIGINT came.
    """
    import os

    from trunkline.drivers import selector
    from trunkline.drivers.spin import SPIN_VARIABLE

    chosen = None if spin == 0.0 and os.environ.get(SPIN_VARIABLE) else spin
    results: list[T] = []
    selector.run(_until_told(main, results), spin=chosen)
    if not results:
        raise Terminated
    return results[0]


def run_service(main: Coroutine[Any, Any, None], *, spin: float = 0.0) -> None:
    """Run a command that goes on until it is told to end: SIGTERM is how it is done."""
    import contextlib

    with contextlib.suppress(Terminated):
        run(main, spin=spin)


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


async def _until_told(main: Coroutine[Any, Any, T], results: list[T]) -> None:
    """Put the result into ``results``; nothing if SIGTERM came first."""
    import asyncio
    import signal

    told = False
    task = asyncio.current_task()
    assert task is not None, "a coroutine runs in a task"

    def end() -> None:
        nonlocal told
        told = True
        task.cancel()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, end)
    try:
        results.append(await main)
    except asyncio.CancelledError:
        if not told:
            raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def more_descriptors() -> None:
    """Raise this process's limit of open files as far as it may: each connection that is passed on takes several."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


_FLAGS: Final = ("--verbose", "-v", "--debug")
_WITH_VALUE: Final = ("--switchboards", "--home")


def hoist(argv: Sequence[str]) -> list[str]:
    """Return the arguments with the options of every command in front, where typer wants them.

    What follows ``--exec`` is the command's own: it becomes one argument, quoted as a shell would have it.
    """
    front: list[str] = []
    rest: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            rest += [word, *words]
            break
        if word == "--exec" and words:
            import shlex

            rest += [word, shlex.join(words)]
            break
        if word in _FLAGS or word.startswith(tuple(f"{name}=" for name in _WITH_VALUE)):
            front.append(word)
        elif word in _WITH_VALUE and words:
            front += [word, words.pop(0)]
        else:
            rest.append(word)
    return front + rest


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as text, for people and for awk."""
    table = [head, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)
