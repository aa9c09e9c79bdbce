"""The door to looks and repairs for asyncio programs; inspector.py is its twin."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from psmq.driving import adrive
from psmq_tasks.inspection import finding, letters, looking, mending, tracing
from psmq_tasks.inspection.exchange import line_of
from psmq_tasks.inspection.mending import HASTENING, PURGING, Batch, redriving
from psmq_tasks.inspection.records import ANY, Filter
from psmq_tasks.inspection.steps import Rest, names

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Sequence

    from psmq import AsyncQueue, AsyncQueueManager, DeadLetter, Finding, QueueInfo, QueueStats
    from psmq_tasks.inspection.calls import Calls, Change
    from psmq_tasks.inspection.letters import Key
    from psmq_tasks.inspection.records import DeadTask, Group, Listing, Mended, QueuedMessage, WaitingRetry
    from psmq_tasks.inspection.steps import Ask
    from psmq_tasks.inspection.tracing import Traced
    from psmq_tasks.inspection.workers import Worker

__all__ = ["AsyncInspector"]

T = TypeVar("T")


class AsyncInspector:
    """Looks into the queues of a manager and mends what is in them; makes no queue."""

    def __init__(self, manager: AsyncQueueManager) -> None:
        self.manager = manager
        self._queues: dict[str, AsyncQueue] = {}

    async def _ask(self, request: Ask | Rest) -> Any:
        if isinstance(request, Rest):
            return await asyncio.sleep(request.seconds)
        if not request.queue:
            return await getattr(self.manager, request.verb)(**request.arguments)
        queue = self._queues.get(request.queue)
        if queue is None:
            queue = self._queues[request.queue] = await self.manager.find_queue(request.queue)
        return await getattr(queue, request.verb)(**request.arguments)

    async def _drive(self, steps: Generator[Ask | Rest, Any, T]) -> T:
        return await adrive(steps, self._ask)

    async def queues(self) -> list[QueueInfo]:
        """Every queue's counts, ages, counters and settings, by name."""
        return await self._drive(looking.queues())

    async def stats(self, queue: str | None = None, minutes: int = 5) -> list[QueueStats]:
        """What a queue, or each, did in the last whole ``minutes`` (1 … 480) and the one that runs."""
        return await self._drive(looking.stats(queue, minutes))

    async def workers(self) -> list[Worker]:
        """The workers that are there, by host and pid."""
        return await self._drive(looking.workers())

    async def diagnose(self) -> list[Finding]:
        """Is each server set up to keep messages, are the queues well, are calls signed? Reads only."""
        return await self._drive(looking.diagnose())

    async def audit(self, queue: str) -> list[Finding]:
        """Recount a queue's books, page by page."""
        return await self._drive(looking.audit(queue))

    async def messages(self, queue: str, state: str = "ready", limit: int = 10) -> list[QueuedMessage]:
        """The first messages that are ready, delayed, leased or dead, in their order; nothing changes."""
        return await self._drive(looking.messages(queue, state, limit))

    async def retries(self, queue: str | None = None, limit: int | None = None) -> Listing[WaitingRetry]:
        """What waits for another attempt, next first, of one queue or all."""
        return await self._drive(looking.retries(queue, limit))

    async def dead(self, wanted: Filter = ANY) -> AsyncIterator[DeadTask]:
        """The dead letters that fit, queue by queue, oldest burial first, in pages."""
        for name in await self._drive(names(wanted.queue)):
            page, after = await self._drive(letters.fitting_page(name, wanted, None))
            for found in page:
                yield found
            while after is not None:
                page, after = await self._drive(letters.fitting_page(name, wanted, after))
                for found in page:
                    yield found

    async def newest_dead(self, wanted: Filter = ANY, limit: int = 50) -> Listing[DeadTask]:
        """The ``limit`` dead letters of all queues that were buried last, oldest first, and how many fit."""
        return await self._drive(letters.newest_dead(wanted, limit))

    async def count_dead(self, wanted: Filter = ANY) -> int:
        """How many dead letters fit."""
        return await self._drive(letters.count_dead(wanted))

    async def group_dead(self, wanted: Filter = ANY, by: Key = "error") -> list[Group]:
        """How many fit of each error, task, queue or reason, the most first."""
        return await self._drive(letters.group_dead(wanted, by))

    async def find(self, ending: str, queue: str | None = None) -> DeadTask:
        """The dead letter whose id ends like this. IdNotFound, IdAmbiguous."""
        return await self._drive(finding.dead_one(ending, queue))

    async def trace(self, ending: str, queue: str | None = None) -> Traced:
        """The life of a message: where it is, what failed, what its queue's event log tells. IdNotFound, IdAmbiguous.

        Of what is finished there is the log, if its queue keeps one, and for a whole id whether a result is kept.
        """
        return await self._drive(tracing.trace(ending, queue))

    async def follow(self, found: Traced, every: float = 0.5) -> AsyncIterator[Traced]:
        """The same message at a look every so many seconds, the last when it has ended."""
        while not found.has_ended:
            await asyncio.sleep(every)
            found = await self._drive(tracing.again(found))
            yield found

    async def resolve(self, endings: Sequence[str], queue: str | None = None) -> list[tuple[str, str]]:
        """(queue, whole id) of dead letters. IdNotFound, IdAmbiguous: for the first that fits none or several."""
        return await self._drive(finding.resolve(endings, queue))

    async def resolve_waiting(self, endings: Sequence[str], queue: str | None = None) -> list[tuple[str, str]]:
        """(queue, whole id) of messages that wait for their time. IdNotFound, IdAmbiguous."""
        return await self._drive(finding.resolve(endings, queue, "delayed"))

    async def hasten(self, chosen: Sequence[tuple[str, str]]) -> Mended:
        """Make these (queue, id)s, which wait for another attempt or their delay, ready now."""
        return await self._drive(mending.mend_ids(HASTENING, chosen))

    async def bury_waiting(self, chosen: Sequence[tuple[str, str]], reason: str) -> Mended:
        """Make these (queue, id)s, which wait, dead letters."""
        return await self._drive(mending.mend_ids(Batch("bury_waiting", {"reason": reason}), chosen))

    async def redrive(
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
        return await self._drive(
            mending.mend_ids(redriving(to, calls, keep_attempts=keep_attempts), chosen, on_batch, rate)
        )

    async def redrive_all(
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
        return await self._drive(
            mending.mend_fitting(redriving(to, calls, keep_attempts=keep_attempts), wanted, limit, on_batch, rate)
        )

    async def finish_transfers(self, queue: str | None = None) -> list[tuple[str, str]]:
        """Complete redrives to other queues that were broken off, of one queue or all; one under way begins anew.

        → (one of both queues, id) of what is ready where it should be now
        """
        return await self._drive(mending.finish_transfers(queue))

    async def amend(self, letter: DeadTask, change: Change, *, redrive: bool = False) -> None:
        """Give a dead letter the arguments of ``Calls.change``; ``redrive``: and send it back, in the same step."""
        await self._drive(mending.amend(letter, change, redrive=redrive))

    async def export(self, wanted: Filter = ANY) -> AsyncIterator[str]:
        """The dead letters that fit, each as a line from which ``adopt`` brings it back, in pages."""
        for name in await self._drive(names(wanted.queue)):
            after: DeadLetter | None = None
            more = True
            while more:
                page, after = await self._drive(letters.letters_page(name, wanted, after, data=True))
                for letter in page:
                    yield line_of(letter)
                more = after is not None

    async def export_ids(self, chosen: Sequence[tuple[str, str]]) -> list[str]:
        """The same for these (queue, id)s; those that are gone are left out."""
        return [line_of(letter) for letter in await self._drive(letters.whole_letters(chosen))]

    async def adopt(self, letters: Sequence[DeadLetter]) -> int:
        """Bring letters (``letters_of`` reads them from lines) back into their queues. → how many were not there"""
        return await self._drive(mending.adopt(letters))

    async def purge(self, chosen: Sequence[tuple[str, str]]) -> Mended:
        """Delete these dead letters for good."""
        return await self._drive(mending.mend_ids(PURGING, chosen))

    async def purge_all(
        self, wanted: Filter = ANY, *, limit: int | None = None, on_batch: Callable[[int], None] | None = None
    ) -> Mended:
        """Delete what fits for good, oldest first, at most ``limit``."""
        return await self._drive(mending.mend_fitting(PURGING, wanted, limit, on_batch))
