"""Leases of what children hold: kept while it runs, given up when another has it, taken back when a slot does not
come to start it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from psmq import Release
from psmq.errors import PsmqError, QueueNotFound
from psmq.kill_points import passing
from psmq_tasks.inflight import HELD, STARTED, Entry, Unread
from psmq_tasks.teller import SHORT_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psmq_tasks.dues import Dues
    from psmq_tasks.process import ChildProcess, Lease

__all__ = ["Leases"]

#: seconds a slot may hold what it has not started, before that is given to others: behind a task that runs for so long,
#: and behind whatever else it does
_BEHIND_LONG, _LONG = 0.04, 0.1
#: seconds between revoking and looking at the marks: a slot marks, then looks at `revoked`
_REVOKE_PAUSE: Final = 0.003
#: seconds a lease lasts, as long as nothing else is known
_LEASE: Final = 30.0
#: seconds until a lease is extended for the first time: well within the shortest that a child asks for by itself
_SOON: Final = 1.0
#: seconds a task without a hard limit keeps its lease
MAX_LEASE: Final = 12 * 3600.0

_log = logging.getLogger("psmq_tasks.supervisor")

#: a message in a child's hands: pid, place, generation
Key = tuple[int, int, int]
#: whether a slot of this process takes too long: pid, slot, since when it has what it should come to
IsLate = Callable[[int, "int | None", float], bool]


def _key(lease: Lease) -> Key:
    return lease.child.pid, lease.entry.place, lease.entry.generation


class Leases:
    """What the supervisor does with the leases of its children, tick by tick."""

    def __init__(self, dues: Dues) -> None:
        self._dues = dues
        self._taken_back: set[Key] = set()
        #: what was not started when it was seen first, and when that was
        self._held_since: dict[Key, float] = {}
        #: the same of answers that their slots have not read: pid, Unread
        self._unread_since: dict[tuple[object, ...], float] = {}
        self._any_unread = False
        #: when each was seen first, monotonic; inf once its lease was extended
        self._first_seen: dict[Key, float] = {}
        self._extended_at = time.monotonic()

    @property
    def any_unstarted(self) -> bool:
        """Whether anything waits for its slot: then a look is due sooner."""
        return bool(self._held_since) or self._any_unread

    def was_taken_back(self, child: ChildProcess, entry: Entry) -> bool:
        """Whether others have it already."""
        return entry.state == HELD and (child.pid, entry.place, entry.generation) in self._taken_back

    def forget(self, pid: int) -> None:
        """That child is no more."""
        self._taken_back = {key for key in self._taken_back if key[0] != pid}

    def extend(self, leases: list[Lease], children: Sequence[ChildProcess]) -> None:
        """Every third of the shortest lease, whatever the children are doing; and once when a message is held for a
        second, because the first lease of some is short.
        """
        now = time.monotonic()
        shortest = self._dues.shortest_lease = self._shortest(children)
        self._first_seen = {_key(lease): self._first_seen.get(_key(lease), now) for lease in leases}
        all_ = now - self._extended_at >= shortest / 3
        if not all_:
            leases = [lease for lease in leases if now - self._first_seen[_key(lease)] >= _SOON]
        if not self._dues.asking or not (all_ or leases):
            return
        failed: set[object] = set()
        asked = False
        for index, queue in enumerate(self._dues.queues):
            mine = [lease for lease in leases if lease.entry.queue == index and self._keeps(lease, now)]
            node = self._dues.consumer.node_of(queue)
            if not mine or node in failed:
                continue
            try:
                pairs = [(lease.entry.message_id, lease.entry.receipt) for lease in mine]
                words = self._dues.consumer.extend(queue, pairs)
                asked = True
            except QueueNotFound:
                continue
            except PsmqError as error:
                self._dues.failing(error)
                failed.add(node)
                continue
            for lease, word in zip(mine, words, strict=True):
                self._first_seen[_key(lease)] = math.inf  # from now on it is one of many
                if word == "stale":
                    self._lose(lease)
                else:
                    lease.child.table.note_extended(lease.entry)
        passing("supervisor.extended")
        if not failed:
            if asked:
                self._dues.answered()
            if all_:
                self._extended_at = now

    def _shortest(self, children: Sequence[ChildProcess]) -> float:
        """A child asks for leases as its queues were set up when it started, which may have been after us."""
        ours = [queue.visibility_seconds for queue in self._dues.queues]
        return min(ours + [child.table.lease for child in children if child.table.ready], default=_LEASE)

    def _keeps(self, lease: Lease, now: float) -> bool:
        child, entry = lease
        if self.was_taken_back(child, entry) or child.table.is_lost(entry.place, entry.generation):
            return False
        if entry.started_at and not entry.limit and now - entry.started_at > MAX_LEASE:
            child.table.lose(entry)
            short, hours = entry.message_id[-SHORT_ID:], MAX_LEASE / 3600
            _log.error("%s runs for more than %g h: others may have it (a time_limit would end it)", short, hours)
            return False
        return True

    def _lose(self, lease: Lease) -> None:
        """Refused: settled in this moment, or passed on. The table as it is now tells which."""
        for entry in lease.child.table.entries():
            same = entry.place == lease.entry.place and entry.generation == lease.entry.generation
            if same and entry.state == STARTED:
                lease.child.table.lose(entry)
                short = entry.message_id[-SHORT_ID:]
                _log.warning("%s has passed to another worker, though it still runs here", short)

    def take_back(self, leases: list[Lease], children: Sequence[ChildProcess], *, all_: bool = False) -> None:
        """Give to others what a slot does not come to start (or everything not started, at a stop), uncounted.

        It is behind a long task, its process is stopped or another thread there keeps the GIL: slots take no more than
        ten milliseconds of work at once, and ask for no more than the next.
        """
        now = time.monotonic()
        running = {(child.pid, entry.slot): entry.started_at for child, entry in leases if entry.state == STARTED}

        def is_late(pid: int, slot: int | None, since: float) -> bool:
            started = running.get((pid, slot))
            # Also behind many that are each short: nobody extends the lease of what has not been read.
            return all_ or now - since >= _LONG or (started is not None and now - started >= _BEHIND_LONG)

        busy = {pid for (pid, _), since in running.items() if now - since >= _LONG}
        held = self._late_held(leases, now, is_late)
        unread = self._late_unread(children, now, is_late, busy)
        if not held and not unread:
            return
        passing("supervisor.revoked")
        time.sleep(_REVOKE_PAUSE)
        for child in {child.pid: child for child in held.values()}.values():
            for entry in child.table.entries():
                key = (child.pid, entry.place, entry.generation)
                if key in held and entry.state == HELD:
                    self._taken_back.add(key)
                    self._dues.owe(entry, Release(count=False))
        for child, answer in unread:
            if child.table.is_unread(answer):
                self._dues.abandon_unread(answer.client_id, answer.number)
        self._dues.pay()

    def _late_held(self, leases: list[Lease], now: float, is_late: IsLate) -> dict[Key, ChildProcess]:
        """Revokes, and gives, the messages that their slots do not come to start."""
        keys = {_key(lease): lease for lease in leases}
        self._taken_back &= keys.keys()
        held = {key: lease for key, lease in keys.items() if lease[1].state == HELD and lease[1].slot is not None}
        self._held_since = {key: self._held_since.get(key, now) for key in held}
        late: dict[Key, ChildProcess] = {}
        for key, (child, entry) in held.items():
            if key not in self._taken_back and is_late(child.pid, entry.slot, self._held_since[key]):
                assert entry.slot is not None
                child.table.revoke(entry.slot)
                late[key] = child
        return late

    def _late_unread(
        self, children: Sequence[ChildProcess], now: float, is_late: IsLate, busy: set[int]
    ) -> list[tuple[ChildProcess, Unread]]:
        """The same with the answers that their slots do not come to read. ``busy``: processes with a long task"""
        found = {(child.pid, *one): (child, one) for child in children for one in child.table.unread()}
        self._unread_since = {key: self._unread_since.get(key, now) for key in found}
        self._any_unread = any(not answer.awaited for _, answer in found.values())
        late = []
        for key, (child, answer) in found.items():
            since = self._unread_since[key]
            if answer.awaited:
                # No more late than the server is, unless nobody can read it: its process is stopped, or a task that
                # began after all may keep the GIL.
                unreadable = child.is_stopped() or (child.pid in busy and now - since >= _LONG)
            else:
                unreadable = is_late(child.pid, answer.slot, since)
            if unreadable:
                child.table.revoke_unread(answer)
                late.append((child, answer))
        return late
