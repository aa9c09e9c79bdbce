"""For tests of programs that use psmq_tasks: run what is waiting, in this process, when the test says so.

Calls are sent, signed, pickled, delivered and settled as in production; only the worker's processes are left out. On
queues made with ``clock="test"`` time is this process's own, so freezegun moves delays, retries, leases and ttls::

    app = TaskApp("t", url="memory:")
    app.manager.get_queue("t", clock="test")
    with freeze_time() as now:
        flaky.delay()
        run_pending(app)          # fails, waits for its second attempt
        now.tick(60)
        run_pending(app)          # runs again
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from psmq_tasks.attempt import HeldMessage, Ready, prepare, settle
from psmq_tasks.executor import arun, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psmq import Settlement
    from psmq_tasks.app import TaskApp
    from psmq_tasks.outcome import Outcome

__all__ = ["run_pending"]


def run_pending(app: TaskApp, *, limit: int = 1000, queues: Sequence[str] | None = None) -> list[Outcome | Settlement]:
    """Run what is ready now in the app's queues, and what that makes ready, until nothing is or ``limit`` ran.

    → for each message how it ended; for one that could not be run (forged, unknown), what was done with it.
    Not for coroutines to call: an ``async def`` task gets an event loop of its own here.
    """
    results: list[Outcome | Settlement] = []
    consumer = app.manager.consumer()
    try:
        found = True
        while found and len(results) < limit:
            found = False
            for name in queues or app.queue_names:
                queue = app.queue(name)
                for record in consumer.exchange(queue, limit=1, mode="plain").messages:
                    found = True
                    started = time.time()
                    ready = prepare((app,), record)
                    settlement: Settlement
                    if isinstance(ready, Ready):
                        message = HeldMessage(record, ready.task.name, lambda: False)
                        call = (ready.task.function, ready.args, ready.kwargs, message, ready.soft_limit)
                        outcome = asyncio.run(arun(*call)) if ready.task.is_async else run(*call)
                        settlement = settle(ready.app, ready.task, record, outcome, started)
                        results.append(outcome)
                    else:
                        settlement = ready
                        results.append(ready)
                    consumer.exchange(queue, [(record.message_id, record.receipt, settlement)], mode="plain")
    finally:
        consumer.close()
    return results
