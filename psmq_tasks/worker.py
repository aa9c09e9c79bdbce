"""A child process at work: its slots, its settler and its event loop, put together, started and stopped."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from psmq_tasks.crew import Crew, Decisions
from psmq_tasks.pace import Lead
from psmq_tasks.runner import Runner
from psmq_tasks.settler import Settler
from psmq_tasks.slot import Slot
from psmq_tasks.teller import Teller

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psmq import QueueManager
    from psmq_tasks.inflight import Table
    from psmq_tasks.teller import Served

__all__ = ["Child"]

#: seconds after which a stopping slot no longer waits for the answer to a question
_LAST_ANSWER: Final = 0.5


class Child:
    """What a child process does. ``solo``: one slot, for suspects, which run alone."""

    def __init__(
        self,
        manager: QueueManager,
        served: Sequence[Served],
        table: Table,
        *,
        threads: int,
        async_concurrency: int,
        solo: bool = False,
    ) -> None:
        size = 1 if solo else threads
        self.stopping = threading.Event()
        self._slots: list[Slot] = []
        teller = Teller(table, solo=solo)
        lead = Lead()
        decisions: list[Decisions] = []
        self._settler = Settler(teller, manager.consumer(), decisions, lead)
        self._runner = Runner(teller, self._settler, self.stopping, async_concurrency=async_concurrency)
        crew = Crew(tuple(served), teller, self._settler, self._runner, self.stopping, size, solo, lead)
        self._slots += (Slot(crew, manager.consumer(), number) for number in range(size))
        decisions += (slot.decisions for slot in self._slots)

    def start(self) -> None:
        """Begin to serve."""
        self._settler.thread.start()
        for slot in self._slots:
            slot.thread.start()

    def stop(self) -> None:
        """Get nothing more; what runs goes on."""
        self.stopping.set()
        for slot in self._slots:
            slot.asker.interrupt_wait()
            self._runner.room_on_loop.release()  # whoever waits for room sees that we stop

    def join(self) -> None:
        """Wait until all that runs has ended and is settled."""
        ends = time.monotonic() + _LAST_ANSWER
        for slot in self._slots:
            slot.thread.join(max(0.0, ends - time.monotonic()))
        for slot in self._slots:
            slot.asker.interrupt_question()
        for slot in self._slots:
            slot.thread.join()
        self._runner.quiet.wait()
        self._settler.finish()
