"""What a worker says of itself, every few seconds, to whoever looks: a note on the server that expires.

Display only: nothing is decided by it, and a beat that cannot be told is left out.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from psmq import __version__, draw_randoms
from psmq.errors import PsmqError, ServerFull, ServerUnsuitable
from psmq_tasks.inflight import STARTED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from psmq import QueueManager
    from psmq_tasks.process import ChildProcess, Lease, Plan

__all__ = ["Beat"]

_log = logging.getLogger("psmq_tasks.supervisor")

#: seconds between beats, and until a worker that fell silent is forgotten
_EVERY, _KEPT = 5.0, 20.0
#: running tasks that a beat names, the longest first
_MOST_RUNNING: Final = 64
#: what a worker needs so that it is listed, and not any more when it has ended
_RIGHTS: Final = "+set +del +sadd +srem"


class Beat:
    """The beats of one worker, told by its supervisor."""

    def __init__(self, manager: QueueManager, plan: Plan, queues: Sequence[str]) -> None:
        self._manager = manager
        self._plan = plan
        self._queues = list(queues)
        self._id = draw_randoms(1)[0]
        self._started = time.time()
        self._done = self._failed = 0
        self._next = 0.0
        self._complained = False

    def remember(self, child: ChildProcess) -> None:
        """A child has ended: what it did still counts."""
        done, failed = child.table.settled
        self._done += done
        self._failed += failed

    def tell(self, children: Sequence[ChildProcess], leases: Iterable[Lease]) -> None:
        """Say how things are, if it is time. ServerUnreachable is for the supervisor, who then asks less often."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY
        note = json.dumps(self._note(children, leases)).encode()
        try:
            self._manager.note_worker(self._id, note, seconds=_KEPT)
        except ServerFull:
            pass  # another time
        except ServerUnsuitable as error:
            self._complain(error)

    def _complain(self, error: ServerUnsuitable) -> None:
        """Once: it goes on like that until somebody does something about it."""
        if not self._complained:
            self._complained = True
            fix = f"; ACL SETUSER … {_RIGHTS} ~{self._manager.namespace}:*" if "NOPERM" in str(error) else ""
            _log.warning("psmq workers and psmq top do not show this worker: %s%s", error, fix)

    def _note(self, children: Sequence[ChildProcess], leases: Iterable[Lease]) -> dict[str, Any]:
        now, steady = time.time(), time.monotonic()
        running = sorted((one for one in leases if one.entry.state == STARTED), key=lambda one: one.entry.started_at)
        settled = [child.table.settled for child in children]
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": __version__,
            "started": round(self._started, 3),
            "beat": round(now, 3),
            "queues": self._queues,
            "processes": self._plan.processes,
            "slots": self._plan.processes * self._plan.threads,
            "running": len(running),
            "done": self._done + sum(done for done, _ in settled),
            "failed": self._failed + sum(failed for _, failed in settled),
            "memory": _memory([os.getpid(), *(child.pid for child in children)]),
            "tasks": [
                {
                    "id": entry.message_id,
                    "task": child.table.task_of(entry),
                    "queue": self._queues[entry.queue],
                    "attempt": entry.attempt,
                    "pid": child.pid,
                    "slot": entry.slot,
                    "since": round(now - (steady - entry.started_at), 3),
                }
                for child, entry in running[:_MOST_RUNNING]
            ],
        }

    def end(self) -> None:
        """The worker ends: nobody shall wait for its note to expire."""
        with contextlib.suppress(PsmqError):
            self._manager.forget_worker(self._id)


def _memory(pids: Iterable[int]) -> int | None:
    """Resident bytes of these processes; None where there is no /proc."""
    page, pages = os.sysconf("SC_PAGE_SIZE"), 0
    try:
        for pid in pids:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * page
