"""Tells the server what became of messages, and notes what it gives in return.

Between the slots and the settler of a child on one side and the queues on the other. What the server knows of is free
in the in-flight table, and what it gave is in there before anybody touches it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from psmq import Bury, Delete, Release
from psmq.errors import InvalidOption, PsmqError, QueueNotFound
from psmq.kill_points import passing
from psmq_tasks.outcome import type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psmq import Consumer, Delivered, MessageRecord, Queue, Settlement
    from psmq.commands import Mode
    from psmq_tasks.app import TaskApp
    from psmq_tasks.inflight import Table

__all__ = ["SHORT_ID", "Held", "Pending", "Seldom", "Served", "Teller"]

#: last characters of an id, which tell messages apart; they begin with the time
SHORT_ID: Final = 8
#: seconds until what goes wrong in the same way is said again
_SAY_AGAIN: Final = 60.0
#: seconds by which a worker lets others go first to what becomes due, and for how long after it could not run
#: something, which comes back within a minute
_YIELD, _YIELDS_FOR = 0.05, 120.0

_log = logging.getLogger("psmq_tasks.worker")


class Served(NamedTuple):
    """A queue that the child serves, and the apps whose tasks are in it."""

    number: int
    queue: Queue
    apps: tuple[TaskApp, ...]


class Held(NamedTuple):
    """A message with its place in the in-flight table."""

    served: Served
    record: MessageRecord
    place: int
    generation: int


class Pending(NamedTuple):
    """A decision that the server does not know yet."""

    held: Held
    settlement: Settlement
    #: it may have been told before: then "stale" says nothing
    again: bool = False


class Seldom:
    """What many threads meet many times, and people want to read once."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def __call__(self, what: str) -> bool:
        """Whether this was not said in the last minute."""
        now = time.monotonic()
        if now - self._said.get(what, -_SAY_AGAIN) < _SAY_AGAIN:
            return False
        if len(self._said) > 1000:
            self._said.clear()
        self._said[what] = now
        return True


class Teller:
    """Settles and gets for all threads of a child. ``solo``: the child takes suspects, one at a time."""

    def __init__(self, table: Table, *, solo: bool) -> None:
        self.table = table
        self._mode: Mode = "solo" if solo else "worker"
        self._seldom = Seldom()
        #: when a message was handed back last that this worker cannot run
        self._unready_at = -_YIELDS_FOR
        self._counting = threading.Lock()
        self._done = self._failed = 0

    def hold(self, served: Served, records: Sequence[MessageRecord], slot: int, consumer: Consumer) -> list[Held]:
        """Note what was got, before anything else is done with it; what there is no room for goes back."""
        put, queue = self.table.put, served.number
        held: list[Held] = []
        try:
            for record in records:
                place = put(slot, queue, record.retrieval_count, record.message_id, record.receipt)
                held.append(Held(served, record, *place))
        except IndexError:
            # There was when it was asked for.
            left = [(record.message_id, record.receipt, Release(count=False)) for record in records[len(held) :]]
            with contextlib.suppress(PsmqError):  # then its lease ends
                consumer.exchange(served.queue, left)
        return held

    def exchange(
        self,
        consumer: Consumer,
        served: Served,
        pending: list[Pending],
        limit: int = 0,
        *,
        lease: float | None = None,
        wake: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> Delivered:
        """Tell a queue what was decided, and get up to ``limit``; takes out of ``pending`` what the server knows."""
        words = [_words(one) for one in pending]
        try:
            try:
                answer = consumer.exchange(
                    served.queue, words, limit, mode=self._mode, lease=lease, wake=wake, meanwhile=meanwhile
                )
            except InvalidOption:
                if not pending:
                    raise
                self._settle_singly(consumer, served, pending)
                return consumer.exchange(served.queue, (), limit, mode=self._mode)
        except QueueNotFound as error:
            # Deleted, and with it what we hold of it. It may be made again.
            for one in pending:
                self.table.free(one.held.place)
            pending.clear()
            if self._seldom(str(error)):
                _log.error("%s; it is served again once it exists", error)
            raise
        if pending:
            passing("teller.told")
            self._settled(pending, answer.words)
            pending.clear()
        return answer

    def _settle_singly(self, consumer: Consumer, served: Served, pending: list[Pending]) -> None:
        """One settlement is refused, and with it all: each goes by itself, and a plain burial in its place."""
        while pending:
            one = pending[0]
            try:
                words = consumer.exchange(served.queue, [_words(one)]).words
            except InvalidOption as error:
                reason = f"the server refused what became of it: {error}"
                _log.error("%s is a dead letter now: %s", one.held.record.message_id[-SHORT_ID:], reason)
                words = consumer.exchange(served.queue, [_words(one._replace(settlement=Bury(reason)))]).words
            self._settled([one], words)
            del pending[0]

    def _settled(self, pending: Sequence[Pending], words: Sequence[str]) -> None:
        done = failed = 0
        for one, word in zip(pending, words, strict=True):
            self.table.free(one.held.place)
            if word != "stale" or one.again:
                done += type(one.settlement) is Delete
                failed += type(one.settlement) is Bury or (type(one.settlement) is Release and one.settlement.count)
            elif not (type(one.settlement) is Release and not one.settlement.count):
                short = one.held.record.message_id[-SHORT_ID:]
                _log.warning("%s had passed on to another worker: what became of it here was refused", short)

        if done or failed:
            with self._counting:
                self._done += done
                self._failed += failed
                self.table.report_settled(self._done, self._failed)

    # --- what stands in the way

    @property
    def yields(self) -> float:
        """Seconds by which it comes later to what becomes due by itself: after a message that it could not run, the
        others may be those that can.
        """
        return _YIELD if time.monotonic() - self._unready_at < _YIELDS_FOR else 0.0

    def say_unready(self, held: Held, settlement: Settlement) -> None:
        """Tell the log why a message was not run: the same reason once in a while, however many messages have it."""
        if type(settlement) is Release:
            self._unready_at = time.monotonic()
        short, reason = held.record.message_id[-SHORT_ID:], getattr(settlement, "reason", "")
        if type(settlement) is not Release:
            _log.error("%s is a dead letter now: %s", short, reason)
        elif self._seldom(reason):
            _log.warning("%s cannot be run here (%s); handed back for %.3g s", short, reason, settlement.delay)

    def complain(self, error: BaseException) -> None:
        """Tell the log what stands in the way, once in a while."""
        if self._seldom(type_name(error)):
            with contextlib.suppress(BaseException):
                if isinstance(error, PsmqError):
                    _log.warning("%s", error)
                else:
                    _log.error("a mistake", exc_info=error)


def _words(pending: Pending) -> tuple[str, str, Settlement]:
    record = pending.held.record
    return record.message_id, record.receipt, pending.settlement
