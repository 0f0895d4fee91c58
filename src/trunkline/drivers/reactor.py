"""One `Client` machine with its sockets, for whichever thread turns it (docs/spec/switchboard.md section 1).

Everything but the two waits is called under the lock of the owner, `trunkline.drivers.client_blocking`, and never
blocks. The order is always the same: what happened goes in, the effects are carried out, and when nothing more
follows, what they wrote goes out in one write for each connection.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from trunkline.drivers.clock import now as clock
from trunkline.drivers.peers_blocking import Peers
from trunkline.drivers.pollers import Pollers, Ready
from trunkline.drivers.proofs_blocking import Proofs
from trunkline.drivers.servers_tls import RealmMember
from trunkline.drivers.sockets import Connection, Listeners
from trunkline.drivers.spin import SPIN_VARIABLE, spin_setting
from trunkline.drivers.uplinks_blocking import Uplinks
from trunkline.switchboard.client import Client
from trunkline.switchboard.config import ClientConfig
from trunkline.switchboard.events import (
    Answered,
    ClientEffect,
    ClientEvent,
    Close,
    Delivered,
    Dial,
    Failed,
    Log,
    Noticed,
    PeerBind,
    PeerClose,
    PeerDial,
    PeerSend,
    PostStands,
    Remember,
    Send,
    Stop,
    Tick,
)

Outcome = Delivered | Failed | PostStands | Answered | Noticed | Remember | Log
"""The effects that are for callers."""

_TICK: Final = Tick()


class Reactor:
    """Turns readiness into events, and effects into system calls.

    Args:
        config: the machine's settings.
        listeners: where peers dial us; closed with the reactor.
        outcome: called with each effect that is for callers; with `Delivered` comes the connection.
        look_around: returns events that tell where we can be dialled, if that has changed.
        member: the realm of the servers; None if they are plain.
    """

    def __init__(
        self,
        config: ClientConfig,
        listeners: Listeners,
        outcome: Callable[[Outcome, Connection | None], None],
        look_around: Callable[[], Iterable[ClientEvent]],
        member: RealmMember | None = None,
    ) -> None:
        self._outcome = outcome
        self._machine = Client(config, seed=os.urandom(32), now=clock())
        self.events: deque[ClientEvent] = deque()
        """What the machine is fed with next; `run` does it."""
        # Off unless asked for: a meeting has three processes awake, and on two cores the one that polls is in the way.
        self.pollers = Pollers(spin_setting(os.environ.get(SPIN_VARIABLE, "0")))
        self._uplinks = Uplinks(self.pollers, self.events, config.dial_timeout, look_around, member)
        self._peers = Peers(
            self.pollers, listeners, self.events, self.run, self._machine.bytes_wanted, config.dial_timeout
        )
        self.proofs = Proofs(self.pollers)
        """Where the owner has the clients of its secure posts prove who they are."""
        self._carry: dict[type, Callable[..., None]] = {
            Send: self._uplinks.send,
            Dial: self._uplinks.dial,
            Close: self._uplinks.close,
            PeerSend: self._peers.send,
            PeerDial: self._peers.dial,
            PeerBind: self._peers.bind,
            PeerClose: self._peers.close,
        }

    @property
    def busy(self) -> bool:
        """Whether anything is open or due that must go on while nobody waits."""
        return bool(len(self._uplinks) or len(self._peers) or len(self.proofs)) or self.next_deadline() is not None

    def step(self, event: ClientEvent) -> None:
        """Feed one event and what follows from it."""
        self.events.append(event)
        self.run()

    def run(self) -> None:
        """Feed the machine with what happened, until nothing more follows."""
        events, step, carry = self.events, self._machine.step, self._carry
        uplinks, peers = self._uplinks, self._peers
        now = clock()
        while True:
            while events:
                for effect in step(events.popleft(), now):
                    action = carry.get(type(effect))
                    if action is not None:
                        action(effect)
                    else:
                        self._say(effect)
            if uplinks.unsent:
                uplinks.flush()
            if peers.touched:
                peers.settle()
            if not events:
                return

    def _say(self, effect: ClientEffect) -> None:
        match effect:
            case Delivered():
                self._outcome(effect, self._peers.hand_over(effect))
            case Failed() | PostStands() | Answered() | Noticed() | Remember() | Log():
                self._outcome(effect, None)
            case _:
                raise AssertionError(f"the table has {type(effect).__name__}")

    def handle(self, ready: Ready) -> None:
        """Do the reading and writing that a wait found possible, and all that follows."""
        self.pollers.handle(ready)
        if self._uplinks.resolved:
            self._uplinks.take_resolved()
        self.run()

    def next_deadline(self) -> float | None:
        """Return when `tick` is due."""
        due = self._machine.next_deadline()
        if self._uplinks.timed or self._peers.timed or self.proofs.timed:
            for other in (
                self._uplinks.next_deadline(),
                self._peers.next_deadline(),
                self.proofs.next_deadline(),
            ):
                if other is not None and (due is None or other < due):
                    due = other
        return due

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._uplinks.handle_timer(now)
        self._peers.handle_timer(now)
        self.proofs.handle_timer(now)
        self.step(_TICK)

    def say_goodbye(self) -> None:
        """Tell the servers that we leave in good order, and peers that were not handed over yet; then `abandon`."""
        self.step(Stop())
        self._peers.hang_up()
        self.proofs.hang_up()

    def abandon(self) -> None:
        """Close every descriptor and tell nobody: in the child of a fork, or when there is nothing to save."""
        self.pollers.close()
        self._uplinks.abandon()
        self._peers.abandon()
        self.proofs.abandon()
