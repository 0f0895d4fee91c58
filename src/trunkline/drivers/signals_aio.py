"""Wait until a server is told to stop: by its owner, or by a signal."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Sequence


async def until_told(told: asyncio.Event, signals: Sequence[signal.Signals]) -> None:
    """Wait for ``told``; on the main thread, each of ``signals`` sets it meanwhile."""
    loop = asyncio.get_running_loop()
    caught: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        for number in signals:
            with contextlib.suppress(NotImplementedError):  # not on every platform
                loop.add_signal_handler(number, told.set)
                caught.append(number)
    try:
        await told.wait()
    finally:
        for number in caught:
            loop.remove_signal_handler(number)
