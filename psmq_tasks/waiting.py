"""Why a call has no result yet, in words for who waits for it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from psmq_tasks.history import Failure
from psmq_tasks.results import Hint
from psmq_tasks.strategies import in_seconds

if TYPE_CHECKING:
    from psmq import QueueInfo, Trace

__all__ = ["explain"]


def explain(trace: Trace, info: QueueInfo, target: str) -> Hint:
    """From where its message is and how its queue does. ``target``: what to give psmq-worker to have it run."""
    record = trace.record
    if record is None:
        return Hint(f"it is not in queue {info.name!r} any more: it was deleted, or its result was kept no longer")
    if trace.state == "dead":
        return Hint(f"it is a dead letter ({trace.reason}): psmq dead show {record.message_id}", stuck=True)
    failed = _failed(trace)
    if trace.state == "leased":
        return Hint(f"{failed}a worker has it: attempt {record.retrieval_count}")
    if trace.state == "delayed":
        due = f"in {in_seconds(max(record.score / 1000 - time.time(), 0.0))}"
        if "k" in record.extras_dict:
            return Hint(f"no worker that got it has that task: psmq-worker {target} (next try {due})", stuck=True)
        return Hint(f"{failed}again {due}" if failed else f"it is due {due}")
    if info.paused:
        return Hint(f"queue {info.name!r} is paused: psmq resume {info.name}", stuck=True)
    if not info.consumers:
        return Hint(f"nothing serves queue {info.name!r}: psmq-worker {target}", stuck=True)
    return Hint(f"{failed}it waits in line: queue {info.name!r} has {info.ready} ready")


def _failed(trace: Trace) -> str:
    if not trace.failures:
        return ""
    outcome, error = Failure.in_short(trace.failures[-1])
    count = len(trace.failures)
    times = "once" if count == 1 else f"{count} times"
    return f"failed {times}, last: {error.partition(chr(10))[0] if outcome == 'raised' else outcome}; "[:300]
