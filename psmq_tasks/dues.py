"""What the supervisor has to say to the server, and does not wait for: what became of messages, and who has gone.

One thread has more to do than to wait for a server: each call has two seconds, and after one that failed the next is
a while away. What could not be said stays for a later tick.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from psmq import QueueManager, Release
from psmq.errors import InvalidOption, OutcomeUnknown, PsmqError, QueueNotFound, ServerUnreachable
from psmq.kill_points import passing
from psmq_tasks.teller import SHORT_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from psmq import Queue, QueueInfo, Settlement
    from psmq_tasks.inflight import Entry

__all__ = ["Dues"]

#: messages in one call of what a dead child leaves behind
_BILL: Final = 100
#: seconds a call may take
_PATIENCE: Final = 2.0
#: seconds between questions whether the server is there
_LOOK: Final = 5.0
#: seconds to the next call after one that failed: at most this, and a part of the shortest lease
_PAUSE, _PART = 1.0, 6

_log = logging.getLogger("psmq_tasks.supervisor")


class Dues:
    """The supervisor's connection to its server, and what is still to be said over it."""

    def __init__(self, server: dict[str, Any]) -> None:
        self.manager = QueueManager(**server, timeout=_PATIENCE)
        self.consumer = self.manager.consumer()
        self.queues: list[Queue] = []
        #: seconds that the shortest lease lasts: outages are met by looking again in time for it
        self.shortest_lease = 30.0
        #: (queue's index, message id, receipt, settlement)
        self._owed: list[tuple[int, str, str, Settlement]] = []
        #: clients, and the number of the command of which nobody has seen the answer; None: they have gone
        self._abandoned: list[tuple[str, int | None]] = []
        self._failing_since: float | None = None
        self._ask_again_at = 0.0
        self._next_look = 0.0

    def open(self, names: Sequence[str], asked_to_stop: Callable[[], bool], wait: Callable[[float], None]) -> bool:
        """Open the queues, however long the server takes. → False: asked to stop meanwhile"""
        while not asked_to_stop():
            try:
                # Made anew should one have been deleted since the child opened it.
                self.queues = [self.manager.get_queue(name) for name in names]
            except (ServerUnreachable, OutcomeUnknown) as error:
                self.failing(error)
                wait(1.0)
            else:
                self.answered()
                return True
        return False

    @property
    def asking(self) -> bool:
        """Whether the server may be asked now: a while after a call that failed, not before."""
        return time.monotonic() >= self._ask_again_at

    @property
    def owes(self) -> bool:
        """Whether there are settlements that the server was not told."""
        return bool(self._owed)

    def owe(self, entry: Entry, settlement: Settlement) -> None:
        """To be told: what becomes of a message that a child held."""
        self._owed.append((entry.queue, entry.message_id, entry.receipt, settlement))

    def abandon(self, client_ids: Iterable[str]) -> None:
        """To be told: these clients have gone, and what they were given and never saw goes back."""
        self._abandoned += ((client_id, None) for client_id in client_ids)

    def abandon_unread(self, client_id: str, number: int) -> None:
        """To be told: what this command of a client's was given goes back; the client lives on."""
        self._abandoned.append((client_id, number))

    def pay(self, *, now: bool = False) -> None:
        """Tell the server what it is owed; what it cannot be told now stays for a later tick."""
        if (not self._owed and not self._abandoned) or not (now or self.asking):
            return
        failed: set[object] = set()
        for index, queue in enumerate(self.queues):
            mine = [item[1:] for item in self._owed if item[0] == index]
            node = self.consumer.node_of(queue)
            if node in failed:
                continue
            try:
                for start in range(0, len(mine), _BILL):
                    self._tell(queue, mine[start : start + _BILL])
                # After what is known of them: what is still theirs then, they never saw.
                for client_id, number in self._abandoned:
                    self.consumer.abandon(queue, client_id, number=number)
            except QueueNotFound:
                pass
            except PsmqError as error:
                self.failing(error)
                failed.add(node)  # in a cluster the others may well answer
                continue
            self._owed = [item for item in self._owed if item[0] != index]
        passing("supervisor.paid")
        if not failed:
            self._abandoned = []
            self.answered()

    def _tell(self, queue: Queue, settlements: Sequence[tuple[str, str, Settlement]]) -> None:
        try:
            words = self.consumer.exchange(queue, settlements).words
        except InvalidOption:
            _log.exception("the server refuses what became of %d messages: their leases end", len(settlements))
            return
        for (message_id, _, settlement), word in zip(settlements, words, strict=True):
            if word == "dead" and isinstance(settlement, Release):
                _log.error("%s is a dead letter now: %s", message_id[-SHORT_ID:], settlement.reason)

    def look(self) -> None:
        """Children that have nothing to do wait out an outage in silence: it is told of here."""
        if not self.asking or time.monotonic() < self._next_look:
            return
        try:
            self.queues[0].info()
            self.answered()
        except QueueNotFound:
            self.answered()
        except PsmqError as error:
            self.failing(error)
        self._next_look = time.monotonic() + _LOOK

    def infos(self) -> list[QueueInfo]:
        """Of the queues that exist."""
        infos = []
        for queue in self.queues:
            with contextlib.suppress(QueueNotFound):
                infos.append(queue.info())
        return infos

    def failing(self, error: PsmqError) -> None:
        """A call had no answer."""
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            _log.warning("the server does not answer (%s); running tasks go on", error)
        self._ask_again_at = time.monotonic() + min(_PAUSE, self.shortest_lease / _PART)

    def answered(self) -> None:
        """A call had one."""
        if self._failing_since is not None:
            _log.warning("the server answers again after %.1f s", time.monotonic() - self._failing_since)
            self._failing_since = None
