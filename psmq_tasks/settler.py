"""Settles for those who cannot: coroutines on the event loop, and slots whose current task takes long."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

from psmq.errors import QueueNotFound
from psmq.kill_points import passing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psmq import Consumer
    from psmq_tasks.pace import Lead
    from psmq_tasks.teller import Pending, Teller

__all__ = ["AFTER_OUTAGE", "SETTLE_WITHIN", "Settler"]

#: seconds that a finished task's settlement waits for company while its slot is busy with the next
SETTLE_WITHIN: Final = 0.05
#: seconds between looks at busy slots, and for how long one of them may keep the lead
_LOOK, _STUCK = 0.02, 0.015
#: seconds that it goes on looking when there is nothing to see: to be woken for each message would delay that message
_STAY: Final = 1.0
#: seconds after which what travels with a question that nobody reads is told once more
_SURELY_ARRIVED: Final = 1.0
#: seconds after an outage that outlasted every retry
AFTER_OUTAGE: Final = 1.0
#: settlements that the settler sends in one command: none takes the server for long
_AT_ONCE: Final = 100


class _Untold(Protocol):
    """What somebody decided who has something else to do before telling it."""

    @property
    def any(self) -> bool: ...

    def take(self, older_than: float = 0.0) -> list[Pending]: ...

    def take_lent(self, older_than: float) -> list[Pending]: ...


class Settler:
    """A thread with a connection of its own.

    ``decisions``: each slot's, which it takes when they become old.
    ``lead``: what it takes from a slot that works for long.
    """

    def __init__(self, teller: Teller, consumer: Consumer, decisions: Sequence[_Untold], lead: Lead) -> None:
        self._teller = teller
        self._decisions = decisions
        self._lead = lead
        self.consumer = consumer
        self.thread = threading.Thread(target=self._run, name="psmq-settler", daemon=True)
        self._added: list[Pending] = []
        self._lock = threading.Lock()
        self._bell = threading.Event()
        self._watching = False
        self._watches_until = 0.0
        self._ending = False

    def add(self, pending: Pending) -> None:
        """Settle this as soon as possible."""
        with self._lock:
            self._added.append(pending)
        self._bell.set()

    def look(self) -> None:
        """A busy slot has something that should not wait for long: decisions, or the lead."""
        if not self._watching:
            self._watching = True
            self._watches_until = time.monotonic() + _STAY
            self._bell.set()

    def finish(self) -> None:
        """Settle what is left, and end."""
        self._ending = True
        self._bell.set()
        self.thread.join()
        self.consumer.close()

    def _run(self) -> None:
        while True:
            self._bell.wait(_LOOK if self._watching else None)
            self._bell.clear()
            # In this order: whatever was added before the end was asked for is among what is taken now.
            last = self._ending
            pending = self._take()
            try:
                self._settle(pending)
            except BaseException as error:
                self._teller.complain(error)
                with self._lock:
                    self._added = pending + self._added
                time.sleep(AFTER_OUTAGE)
                self._bell.set()
                continue
            if last:
                return

    def _take(self) -> list[Pending]:
        with self._lock:
            pending, self._added = self._added, []
        # First: who calls look() from now on is heard.
        self._watching = False
        watching = self._lead.pass_on_if_stuck(_STUCK)
        for untold in self._decisions:
            pending += untold.take(SETTLE_WITHIN) + untold.take_lent(_SURELY_ARRIVED)
            watching = watching or untold.any
        if watching:
            self._watches_until = time.monotonic() + _STAY
        if time.monotonic() < self._watches_until:
            self._watching = True
        return pending

    def _settle(self, pending: list[Pending]) -> None:
        """Settles and takes out of the list what the server knows."""
        while pending:
            served = pending[0].held.served
            part = [one for one in pending if one.held.served is served][:_AT_ONCE]
            chosen = set(map(id, part))
            passing("settler.telling")
            try:
                self._teller.exchange(self.consumer, served, part)
            except QueueNotFound:
                pass  # and nothing left to settle there
            finally:
                passing("settler.told")
                left = set(map(id, part))
                pending[:] = [one for one in pending if id(one) not in chosen or id(one) in left]
