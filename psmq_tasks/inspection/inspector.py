"""The door to looks and repairs for programs with threads; async_inspector.py is its twin."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

from psmq.driving import drive
from psmq_tasks.inspection import finding, letters, looking, mending, tracing
from psmq_tasks.inspection.exchange import line_of
from psmq_tasks.inspection.mending import HASTENING, PURGING, Batch, redriving
from psmq_tasks.inspection.records import ANY, Filter
from psmq_tasks.inspection.steps import Rest, names

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from psmq import DeadLetter, Finding, Queue, QueueInfo, QueueManager, QueueStats
    from psmq_tasks.inspection.calls import Calls, Change
    from psmq_tasks.inspection.letters import Key
    from psmq_tasks.inspection.records import DeadTask, Group, Listing, Mended, QueuedMessage, WaitingRetry
    from psmq_tasks.inspection.steps import Ask
    from psmq_tasks.inspection.tracing import Traced
    from psmq_tasks.inspection.workers import Worker

__all__ = ["Inspector"]

T = TypeVar("T")


class Inspector:
    """Looks into the queues of a manager and mends what is in them; makes no queue."""

    def __init__(self, manager: QueueManager) -> None:
        self.manager = manager
        self._queues: dict[str, Queue] = {}

    def _ask(self, request: Ask | Rest) -> Any:
        if isinstance(request, Rest):
            return time.sleep(request.seconds)
        if not request.queue:
            return getattr(self.manager, request.verb)(**request.arguments)
        queue = self._queues.get(request.queue)
        if queue is None:
            queue = self._queues[request.queue] = self.manager.find_queue(request.queue)
        return getattr(queue, request.verb)(**request.arguments)

    def _drive(self, steps: Generator[Ask | Rest, Any, T]) -> T:
        return drive(steps, self._ask)

    def queues(self) -> list[QueueInfo]:
        """Every queue's counts, ages, counters and settings, by name."""
        return self._drive(looking.queues())

    def stats(self, queue: str | None = None, minutes: int = 5) -> list[QueueStats]:
        """What a queue, or each, did in the last whole ``minutes`` (1 … 480) and the one that runs."""
        return self._drive(looking.stats(queue, minutes))

    def workers(self) -> list[Worker]:
        """The workers that are there, by host and pid."""
        return self._drive(looking.workers())

    def diagnose(self) -> list[Finding]:
        """Is each server set up to keep messages, are the queues well, are calls signed? Reads only."""
        return self._drive(looking.diagnose())

    def audit(self, queue: str) -> list[Finding]:
        """Recount a queue's books, page by page."""
        return self._drive(looking.audit(queue))

    def messages(self, queue: str, state: str = "ready", limit: int = 10) -> list[QueuedMessage]:
        """The first messages that are ready, delayed, leased or dead, in their order; nothing changes."""
        return self._drive(looking.messages(queue, state, limit))

    def retries(self, queue: str | None = None, limit: int | None = None) -> Listing[WaitingRetry]:
        """What waits for another attempt, next first, of one queue or all."""
        return self._drive(looking.retries(queue, limit))

    def dead(self, wanted: Filter = ANY) -> Iterator[DeadTask]:
        """The dead letters that fit, queue by queue, oldest burial first, in pages."""
        for name in self._drive(names(wanted.queue)):
            page, after = self._drive(letters.fitting_page(name, wanted, None))
            yield from page
            while after is not None:
                page, after = self._drive(letters.fitting_page(name, wanted, after))
                yield from page

    def newest_dead(self, wanted: Filter = ANY, limit: int = 50) -> Listing[DeadTask]:
        """The ``limit`` dead letters of all queues that were buried last, oldest first, and how many fit."""
        return self._drive(letters.newest_dead(wanted, limit))

    def count_dead(self, wanted: Filter = ANY) -> int:
        """How many dead letters fit."""
        return self._drive(letters.count_dead(wanted))

    def group_dead(self, wanted: Filter = ANY, by: Key = "error") -> list[Group]:
        """How many fit of each error, task, queue or reason, the most first."""
        return self._drive(letters.group_dead(wanted, by))

    def find(self, ending: str, queue: str | None = None) -> DeadTask:
        """The dead letter whose id ends like this. IdNotFound, IdAmbiguous."""
        return self._drive(finding.dead_one(ending, queue))

    def trace(self, ending: str, queue: str | None = None) -> Traced:
        """The life of a message: where it is, what failed, what its queue's event log tells. IdNotFound, IdAmbiguous.

        Of what is finished there is the log, if its queue keeps one, and for a whole id whether a result is kept.
        """
        return self._drive(tracing.trace(ending, queue))

    def follow(self, found: Traced, every: float = 0.5) -> Iterator[Traced]:
        """The same message at a look every so many seconds, the last when it has ended."""
        while not found.has_ended:
            time.sleep(every)
            found = self._drive(tracing.again(found))
            yield found

    def resolve(self, endings: Sequence[str], queue: str | None = None) -> list[tuple[str, str]]:
        """(queue, whole id) of dead letters. IdNotFound, IdAmbiguous: for the first that fits none or several."""
        return self._drive(finding.resolve(endings, queue))

    def resolve_waiting(self, endings: Sequence[str], queue: str | None = None) -> list[tuple[str, str]]:
        """(queue, whole id) of messages that wait for their time. IdNotFound, IdAmbiguous."""
        return self._drive(finding.resolve(endings, queue, "delayed"))

    def hasten(self, chosen: Sequence[tuple[str, str]]) -> Mended:
        """Make these (queue, id)s, which wait for another attempt or their delay, ready now."""
        return self._drive(mending.mend_ids(HASTENING, chosen))

    def bury_waiting(self, chosen: Sequence[tuple[str, str]], reason: str) -> Mended:
        """Make these (queue, id)s, which wait, dead letters."""
        return self._drive(mending.mend_ids(Batch("bury_waiting", {"reason": reason}), chosen))

    def redrive(
        self,
        chosen: Sequence[tuple[str, str]],
        *,
        to: str | None = None,
        calls: Calls | None = None,
        keep_attempts: bool = False,
        rate: float | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> Mended:
        """Make these (queue, id)s ready again, with their history; ``keep_attempts``: for one more attempt only.

        ``to``: in that queue, signed anew by ``calls``; what was signed with another key stays. What an earlier redrive
        to there had begun is completed first. ``rate``: at most so many in a second; ``on_batch`` is told how many, as
        it goes.
        """
        return self._drive(mending.mend_ids(redriving(to, calls, keep_attempts=keep_attempts), chosen, on_batch, rate))

    def redrive_all(
        self,
        wanted: Filter = ANY,
        *,
        to: str | None = None,
        calls: Calls | None = None,
        limit: int | None = None,
        keep_attempts: bool = False,
        rate: float | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> Mended:
        """Redrive what fits, oldest first, at most ``limit``, and at most ``rate`` in a second.

        ``on_batch`` is told how many, as it goes; ``to``, ``calls``: as for ``redrive``. Broken off at any moment,
        each letter is either dead or redriven, or on its way to another queue, which the same call completes.
        """
        return self._drive(
            mending.mend_fitting(redriving(to, calls, keep_attempts=keep_attempts), wanted, limit, on_batch, rate)
        )

    def finish_transfers(self, queue: str | None = None) -> list[tuple[str, str]]:
        """Complete redrives to other queues that were broken off, of one queue or all; one under way begins anew.

        → (one of both queues, id) of what is ready where it should be now
        """
        return self._drive(mending.finish_transfers(queue))

    def amend(self, letter: DeadTask, change: Change, *, redrive: bool = False) -> None:
        """Give a dead letter the arguments of ``Calls.change``; ``redrive``: and send it back, in the same step."""
        self._drive(mending.amend(letter, change, redrive=redrive))

    def export(self, wanted: Filter = ANY) -> Iterator[str]:
        """The dead letters that fit, each as a line from which ``adopt`` brings it back, in pages."""
        for name in self._drive(names(wanted.queue)):
            after: DeadLetter | None = None
            more = True
            while more:
                page, after = self._drive(letters.letters_page(name, wanted, after, data=True))
                for letter in page:
                    yield line_of(letter)
                more = after is not None

    def export_ids(self, chosen: Sequence[tuple[str, str]]) -> list[str]:
        """The same for these (queue, id)s; those that are gone are left out."""
        return [line_of(letter) for letter in self._drive(letters.whole_letters(chosen))]

    def adopt(self, letters: Sequence[DeadLetter]) -> int:
        """Bring letters (``letters_of`` reads them from lines) back into their queues. → how many were not there"""
        return self._drive(mending.adopt(letters))

    def purge(self, chosen: Sequence[tuple[str, str]]) -> Mended:
        """Delete these dead letters for good."""
        return self._drive(mending.mend_ids(PURGING, chosen))

    def purge_all(
        self, wanted: Filter = ANY, *, limit: int | None = None, on_batch: Callable[[int], None] | None = None
    ) -> Mended:
        """Delete what fits for good, oldest first, at most ``limit``."""
        return self._drive(mending.mend_fitting(PURGING, wanted, limit, on_batch))
