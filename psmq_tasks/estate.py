"""What a dead child leaves behind: its table says what it held and how far it was."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from psmq import Delete, Release
from psmq_tasks.history import Failure
from psmq_tasks.inflight import DONE, HELD, Entry

if TYPE_CHECKING:
    from psmq import Settlement
    from psmq_tasks.process import ChildProcess

__all__ = ["gives_up", "last_word"]

#: seconds until a task is tried again whose process was ended, at most
_LONGEST_DELAY: Final = 60.0

_host: Final = socket.gethostname()


def gives_up(child: ChildProcess, entry: Entry) -> bool:
    """Whether a task that ran is abandoned because the worker stops."""
    return child.interrupted and child.over_limit is None and entry.state not in (DONE, HELD)


def last_word(child: ChildProcess, entry: Entry) -> Settlement:
    """What becomes of a message that a dead child held."""
    if entry.state == DONE:
        return Delete()
    if entry.state == HELD:
        return Release(count=False)
    if child.over_limit is not None:
        if child.over_limit[:2] != (entry.place, entry.generation):
            return Release(count=False)  # ended by us, for another's sake
        reason = f"passed its time limit of {entry.limit:g} s and was ended with its process"
        delay = min(2.0 ** min(entry.attempt - 1, 10), _LONGEST_DELAY)
        failure = _failure(child, entry, "timed out", "TimeLimitExceeded", reason, delay)
        return Release(delay, failure=failure, reason=reason, result=f"!timeout {entry.limit:g}".encode())
    if gives_up(child, entry):
        return Release(count=False)  # interrupted by the shutdown, not by itself
    how = child.how_it_ended()
    return Release(
        failure=_failure(child, entry, "lost", "WorkerLost", how, 0.0),
        reason=f"its process was lost at attempt {entry.attempt}: {how}",
        crashed=True,
        result=f"!lost {how}".encode(),
    )


def _failure(child: ChildProcess, entry: Entry, outcome: Any, kind: str, message: str, delay: float) -> bytes:
    """No policy is asked: it is the user's code. The server compares the message's count with its limit."""
    now = time.time()
    again = "again, alone" if outcome == "lost" else f"again in {delay:g} s"
    ran = time.monotonic() - entry.started_at if entry.started_at else 0.0
    record = Failure(
        attempt=entry.attempt,
        outcome=outcome,
        type=kind,
        message=message,
        traceback="",
        started=now - ran,
        ended=now,
        host=_host,
        pid=child.pid,
        task=child.table.task_of(entry),
        decision=f"{again}, if the limit allows",
        why=f"decided by the supervisor: attempt {entry.attempt} counts towards max_retrievals",
        delay=delay,
        worker=f"{_host}:{os.getpid()}",
        extensions=child.table.extensions(entry.place, entry.generation),
    )
    return record.pack()
