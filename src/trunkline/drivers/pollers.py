"""Waiting for sockets: what the leading thread of the blocking driver sleeps on.

Two pollers, one inside the other. What lives long (links to servers, listeners) is in an epoll set. A socket to a
peer is ours for two round trips, so that telling the kernel of it and taking it back would cost as much as its use:
it goes into the list that `poll` takes, and the epoll set is the first entry of that list.

The thread inside `wait` is the only one that reads the list. What others open while it sleeps goes into the epoll
set, which the kernel lets them change under it.
"""

import math
import os
import select
import time
from collections.abc import Callable
from typing import Final

from trunkline.drivers.spin import STOLEN, SpinPolicy, available_cores, give_way

IN: Final = select.EPOLLIN
OUT: Final = select.EPOLLOUT
HANGUP: Final = select.EPOLLRDHUP
BROKEN: Final = select.EPOLLERR | select.EPOLLHUP
"""poll and epoll have the same numbers for these."""

Ready = list[tuple[int, int]]
Handler = Callable[[int], None]

_BATCH: Final = 64
"""Most descriptors that one look returns; the others come with the next."""


class Pollers:
    """Descriptors and who is told when they are ready. All but `wait` and `wait_aside` need the owner's lock.

    Args:
        spin: seconds for which `wait` may poll before it sleeps.
    """

    def __init__(self, spin: float = 0.0) -> None:
        self._policy = SpinPolicy(spin, available_cores())
        self._sleepers = 0
        self._closed = False
        self._handlers: dict[int, Handler] = {}
        self._brief: dict[int, int] = {}
        self._epoll = select.epoll()
        self._epoll_fd = self._epoll.fileno()
        self._list = select.poll()
        self._list.register(self._epoll_fd, IN)
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.add(self._bell, IN, self._rung)

    def add(self, fd: int, mask: int, handler: Handler, *, brief: bool = False) -> None:
        """Call ``handler`` with what is ready of ``mask``, each time that it is; ``brief``: not for long."""
        self._handlers[fd] = handler
        if brief and not self._sleepers:
            self._brief[fd] = mask
            self._list.register(fd, mask)
        else:
            self._epoll.register(fd, mask)

    def change(self, fd: int, mask: int) -> None:
        """Look for ``mask`` from now on."""
        if fd in self._brief:
            self._brief[fd] = mask
            self._list.register(fd, mask)
        else:
            self._epoll.modify(fd, mask)

    def remove(self, fd: int) -> None:
        """Look no longer. Call it before ``fd`` is closed; if it was never added, nothing happens."""
        if self._handlers.pop(fd, None) is None:
            return
        if self._brief.pop(fd, None) is not None:
            self._list.unregister(fd)
        else:
            self._epoll.unregister(fd)

    def enter(self) -> None:
        """Announce one `wait` or `wait_aside`, under the lock that it is then called without."""
        self._sleepers += 1

    def leave(self) -> None:
        """Say that it has returned."""
        self._sleepers -= 1
        if self._closed and not self._sleepers:
            self._free()

    def wait(self, timeout: float | None) -> Ready:
        """Return what is ready, after ``timeout`` seconds at the latest; without the lock, one thread at a time.

        If there is a spin, it polls for a moment before it sleeps, when `trunkline.drivers.spin` says that this pays.
        """
        policy = self._policy
        if not policy.spin:
            return self._look(timeout)
        start = time.monotonic()
        budget = policy.budget(start)
        if not budget:
            ready = self._look(timeout)
            policy.blocked(time.monotonic() - start if ready else math.inf)
            return ready
        end = start + (budget if timeout is None else min(budget, timeout))
        last = start
        while True:
            ready = self._look(0)
            if ready:
                policy.found()
                return ready
            give_way()
            now = time.monotonic()
            if now - last > STOLEN:
                policy.stolen(now)
                break
            if now >= end:
                policy.missed()
                break
            last = now
        return self._look(None if timeout is None else max(0.0, timeout - (now - start)))

    def _look(self, timeout: float | None) -> Ready:
        if self._brief:
            return self._list.poll(None if timeout is None else timeout * 1000)
        return self._epoll.poll(timeout, _BATCH)

    def wait_aside(self, timeout: float | None) -> Ready:
        """Do what `wait` does, even while another thread does; `keep_all` must have been called."""
        return self._epoll.poll(timeout, _BATCH)

    def keep_all(self) -> None:
        """Move the brief ones to the epoll set, because nobody is about to call `wait`."""
        for fd, mask in self._brief.items():
            self._list.unregister(fd)
            self._epoll.register(fd, mask)
        self._brief.clear()

    def handle(self, ready: Ready) -> None:
        """Call the handlers of what `wait` returned."""
        for fd, mask in ready:
            if fd == self._epoll_fd:
                self.handle(self._epoll.poll(0, _BATCH))
                continue
            handler = self._handlers.get(fd)
            if handler is not None:  # else one before it in this batch had it closed
                handler(mask)

    def ring(self) -> None:
        """Make `wait` and `wait_aside` return; any thread may call it, without the lock."""
        os.eventfd_write(self._bell, 1)

    def _rung(self, _: int) -> None:
        os.eventfd_read(self._bell)

    def close(self) -> None:
        """Close our own descriptors, when nobody sleeps on them any more: the bell tells those who do.

        Nothing is taken out of the set: after a fork it is the parent's as well.
        """
        self._closed = True
        self._handlers.clear()
        self._brief.clear()
        if self._sleepers:
            self.ring()
        else:
            self._free()

    def forked(self) -> None:
        """Forget the sleepers: in the child of a fork there are none."""
        self._sleepers = 0

    def _free(self) -> None:
        self._epoll.close()
        os.close(self._bell)
