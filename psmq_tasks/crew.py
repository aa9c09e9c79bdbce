"""What the slots of a child share, and what each has decided and not told yet."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from psmq import Release
from psmq_tasks.pace import Lead, Pace
from psmq_tasks.teller import Pending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psmq import Settlement
    from psmq_tasks.runner import Runner
    from psmq_tasks.settler import Settler
    from psmq_tasks.teller import Held, Served, Teller

__all__ = ["Crew", "Decisions"]


@dataclass(frozen=True)
class Crew:
    """What the slots of a child share."""

    served: tuple[Served, ...]
    teller: Teller
    settler: Settler
    runner: Runner
    stopping: threading.Event
    #: how many slots there are
    size: int
    #: takes suspects only, one at a time
    solo: bool
    #: held by the slot that waits on the server, or works alone
    lead: Lead
    pace: Pace = field(default_factory=Pace)
    #: messages that wait for a process of their own, by queue
    suspects: dict[int, int] = field(default_factory=dict)


class Decisions:
    """Settlements of one slot that the server does not know yet; the settler takes those that become old."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._pending: list[Pending] = []
        self._since = 0.0
        self._lent: list[Pending] = []
        self._lent_at = 0.0
        self._lock = threading.Lock()

    @property
    def any(self) -> bool:
        """Whether there are some."""
        return bool(self._pending or self._lent)

    def take(self, older_than: float = 0.0) -> list[Pending]:
        """All of them, for whoever tells the server next; none unless the first is so many seconds old."""
        if not self._pending or time.monotonic() - self._since < older_than:
            return []
        with self._lock:
            taken, self._pending = self._pending, []
        return taken

    def lend(self, pending: list[Pending]) -> None:
        """They travel with a question, and their slot works before it reads the answer."""
        if pending:
            with self._lock:
                self._lent, self._lent_at = pending, time.monotonic()
            self._crew.settler.look()

    def reclaim(self) -> None:
        """The slot reads the answer now. What the settler has taken meanwhile is gone from its list."""
        with self._lock:
            self._lent = []

    def take_lent(self, older_than: float) -> list[Pending]:
        """What was lent so many seconds ago and is not known to have arrived, to be told once more."""
        if not self._lent or time.monotonic() - self._lent_at < older_than:
            return []
        with self._lock:
            taken = [one._replace(again=True) for one in self._lent]
            self._lent.clear()
        return taken

    def take_for(self, served: Served) -> list[Pending]:
        """Those for one queue."""
        if len(self._crew.served) == 1:
            return self.take()
        with self._lock:
            mine = [one for one in self._pending if one.held.served is served]
            self._pending = [one for one in self._pending if one.held.served is not served]
        return mine

    def add(self, held: Held, settlement: Settlement, *, more: bool = False) -> None:
        """One more. ``more``: its slot has others to work at before it asks again."""
        with self._lock:
            if not self._pending:
                self._since = time.monotonic()
            self._pending.append(Pending(held, settlement))
        if more:
            self._crew.settler.look()

    def keep(self, pending: list[Pending]) -> None:
        """They were taken, and nobody knows whether they were told."""
        if pending:
            with self._lock:
                self._pending = [one._replace(again=True) for one in pending] + self._pending

    def hand_back(self, batch: Sequence[Held]) -> None:
        """Not started: back to its place in line, uncounted; refused if the supervisor has been faster."""
        for held in batch:
            settlement = Release(count=False)
            self._crew.runner.mark(held, settlement)
            self.add(held, settlement)

    def flush(self) -> None:
        """Have them told now, by the settler."""
        for pending in self.take():
            self._crew.settler.add(pending)
