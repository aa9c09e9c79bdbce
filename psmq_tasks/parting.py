"""What a worker says when it stops: what it waits for, and what it does not wait for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from psmq.findings import counted
from psmq_tasks.inflight import ENDED, STARTED
from psmq_tasks.teller import SHORT_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psmq_tasks.process import Lease

__all__ = ["stopped", "stopping"]

#: tasks that are named; the rest is counted
_MOST: Final = 3


def stopping(leases: Sequence[Lease], grace: float) -> str:
    """``stopping: 1 task runs (slow:nap, 2 s), for up to 25 s; Ctrl+C again stops at once``, ``stopping``."""
    running = sorted((one for one in leases if one.entry.state == STARTED), key=lambda one: one.entry.started_at)
    if not running:
        return "stopping"
    now = time.monotonic()
    named = [_named(one, now) for one in running[:_MOST]]
    if len(running) > _MOST:
        named.append(f"{len(running) - _MOST} more")
    runs = counted(len(running), "task runs", "tasks run")
    return f"stopping: {runs} ({'; '.join(named)}), for up to {grace:g} s; Ctrl+C again stops at once"


def stopped(leases: Sequence[Lease], grace: float | None) -> str:
    """``stopped at once: 1 task goes back and will run again``; ``stopped after 25 s: …`` with a grace that is over."""
    when = "stopped at once" if grace is None else f"stopped after {grace:g} s"
    left = sum(one.entry.state in (STARTED, ENDED) for one in leases)
    if not left:
        return when
    return f"{when}: {counted(left, 'task goes', 'tasks go')} back and will run again"


def _named(lease: Lease, now: float) -> str:
    child, entry = lease
    name = child.table.task_of(entry) or entry.message_id[-SHORT_ID:]
    seconds = max(0.0, now - entry.started_at) if entry.started_at else 0.0
    return f"{name}, {seconds:.{0 if seconds >= 1 else 1}f} s"
