"""The two doors to the same looks and repairs: for programs with threads, and for asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from psmq.errors import PsmqError
from psmq_tasks.inspection import flows
from psmq_tasks.inspection.flows import Batch
from psmq_tasks.inspection.records import Filter, dead_task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence

    from psmq import AsyncQueue, AsyncQueueManager, DeadLetter, Finding, Queue, QueueInfo, QueueManager, QueueStats
    from psmq_tasks.inspection.flows import Ask
    from psmq_tasks.inspection.records import DeadTask, Listing, Mended, QueuedMessage, WaitingRetry
    from psmq_tasks.inspection.workers import Worker

__all__ = ["AsyncInspector", "Inspector"]

T = TypeVar("T")
ANY = Filter()


def _redriving(*, keep_attempts: bool) -> Batch:
    return Batch("redrive", {"keep_count": keep_attempts})


_PURGING = Batch("purge", {})


class Inspector:
    """Looks into the queues of a manager and mends what is in them; makes no queue."""

    def __init__(self, manager: QueueManager) -> None:
        self.manager = manager
        self._queues: dict[str, Queue] = {}

    def _ask(self, request: Ask) -> Any:
        if not request.queue:
            return getattr(self.manager, request.verb)(**request.arguments)
        queue = self._queues.get(request.queue)
        if queue is None:
            queue = self._queues[request.queue] = self.manager.find_queue(request.queue)
        return getattr(queue, request.verb)(**request.arguments)

    def _drive(self, steps: Generator[Ask, Any, T]) -> T:
        try:
            request = next(steps)
            while True:
                try:
                    answer = self._ask(request)
                except PsmqError as error:
                    request = steps.throw(error)
                else:
                    request = steps.send(answer)
        except StopIteration as stop:
            found: T = stop.value
            return found

    def queues(self) -> list[QueueInfo]:
        """Every queue's counts, ages, counters and settings, by name."""
        return self._drive(flows.queues())

    def stats(self, queue: str | None = None, minutes: int = 5) -> list[QueueStats]:
        """What a queue, or each, did in the last whole ``minutes`` (1 … 480) and the one that runs."""
        return self._drive(flows.stats(queue, minutes))

    def workers(self) -> list[Worker]:
        """The workers that are there, by host and pid."""
        return self._drive(flows.workers())

    def diagnose(self) -> list[Finding]:
        """Is the server set up to keep messages, are the queues well, are calls signed? Reads only."""
        return self._drive(flows.diagnose())

    def audit(self, queue: str) -> list[Finding]:
        """Recount a queue's books, page by page."""
        return self._drive(flows.audit(queue))

    def messages(self, queue: str, state: str = "ready", limit: int = 10) -> list[QueuedMessage]:
        """The first messages that are ready, delayed, leased or dead, in their order; nothing changes."""
        return self._drive(flows.messages(queue, state, limit))

    def retries(self, queue: str | None = None, limit: int | None = None) -> Listing[WaitingRetry]:
        """What waits for another attempt, next first, of one queue or all."""
        return self._drive(flows.retries(queue, limit))

    def dead(self, wanted: Filter = ANY) -> Iterator[DeadTask]:
        """The dead letters that fit, queue by queue, oldest burial first, in pages."""
        for name in self._drive(flows.names(wanted.queue)):
            after: DeadLetter | None = None
            while page := self._drive(flows.dead_page(name, after)):
                after = page[-1]
                yield from filter(wanted.fits, map(dead_task, page))

    def newest_dead(self, wanted: Filter = ANY, limit: int = 50) -> Listing[DeadTask]:
        """The ``limit`` dead letters of all queues that were buried last, oldest first, and how many fit."""
        return self._drive(flows.newest_dead(wanted, limit))

    def count_dead(self, wanted: Filter = ANY) -> int:
        """How many dead letters fit."""
        return self._drive(flows.count_dead(wanted))

    def find(self, ending: str, queue: str | None = None) -> DeadTask:
        """The dead letter whose id ends like this. IdNotFound, IdAmbiguous."""
        return self._drive(flows.dead_one(ending, queue))

    def resolve(self, endings: Sequence[str], queue: str | None = None) -> list[tuple[str, str]]:
        """(queue, whole id) of dead letters. IdNotFound, IdAmbiguous: for the first that fits none or several."""
        return self._drive(flows.resolve(endings, queue))

    def redrive(self, chosen: Sequence[tuple[str, str]], *, keep_attempts: bool = False) -> Mended:
        """Make these (queue, id)s ready again, with their history; ``keep_attempts``: for one more attempt only."""
        return self._drive(flows.mend_ids(_redriving(keep_attempts=keep_attempts), chosen))

    def redrive_all(
        self,
        wanted: Filter = ANY,
        *,
        limit: int | None = None,
        keep_attempts: bool = False,
        on_batch: Callable[[int], None] | None = None,
    ) -> Mended:
        """Redrive what fits, oldest first, at most ``limit``; ``on_batch`` is told how many, page by page."""
        return self._drive(flows.mend_fitting(_redriving(keep_attempts=keep_attempts), wanted, limit, on_batch))

    def purge(self, chosen: Sequence[tuple[str, str]]) -> Mended:
        """Delete these dead letters for good."""
        return self._drive(flows.mend_ids(_PURGING, chosen))

    def purge_all(
        self, wanted: Filter = ANY, *, limit: int | None = None, on_batch: Callable[[int], None] | None = None
    ) -> Mended:
        """Delete what fits for good, oldest first, at most ``limit``."""
        return self._drive(flows.mend_fitting(_PURGING, wanted, limit, on_batch))


class AsyncInspector:
    """Looks into the queues of a manager and mends what is in them; makes no queue."""

    def __init__(self, manager: AsyncQueueManager) -> None:
        self.manager = manager
        self._queues: dict[str, AsyncQueue] = {}

    async def _ask(self, request: Ask) -> Any:
        if not request.queue:
            return await getattr(self.manager, request.verb)(**request.arguments)
        queue = self._queues.get(request.queue)
        if queue is None:
            queue = self._queues[request.queue] = await self.manager.find_queue(request.queue)
        return await getattr(queue, request.verb)(**request.arguments)

    async def _drive(self, steps: Generator[Ask, Any, T]) -> T:
        try:
            request = next(steps)
            while True:
                try:
                    answer = await self._ask(request)
                except PsmqError as error:
                    request = steps.throw(error)
                else:
                    request = steps.send(answer)
        except StopIteration as stop:
            found: T = stop.value
            return found

    async def queues(self) -> list[QueueInfo]:
        """Every queue's counts, ages, counters and settings, by name."""
        return await self._drive(flows.queues())

    async def stats(self, queue: str | None = None, minutes: int = 5) -> list[QueueStats]:
        """What a queue, or each, did in the last whole ``minutes`` (1 … 480) and the one that runs."""
        return await self._drive(flows.stats(queue, minutes))

    async def workers(self) -> list[Worker]:
        """The workers that are there, by host and pid."""
        return await self._drive(flows.workers())

    async def diagnose(self) -> list[Finding]:
        """Is the server set up to keep messages, are the queues well, are calls signed? Reads only."""
        return await self._drive(flows.diagnose())

    async def audit(self, queue: str) -> list[Finding]:
        """Recount a queue's books, page by page."""
        return await self._drive(flows.audit(queue))

    async def messages(self, queue: str, state: str = "ready", limit: int = 10) -> list[QueuedMessage]:
        """The first messages that are ready, delayed, leased or dead, in their order; nothing changes."""
        return await self._drive(flows.messages(queue, state, limit))

    async def retries(self, queue: str | None = None, limit: int | None = None) -> Listing[WaitingRetry]:
        """What waits for another attempt, next first, of one queue or all."""
        return await self._drive(flows.retries(queue, limit))

    async def dead(self, wanted: Filter = ANY) -> AsyncIterator[DeadTask]:
        """The dead letters that fit, queue by queue, oldest burial first, in pages."""
        for name in await self._drive(flows.names(wanted.queue)):
            after: DeadLetter | None = None
            while page := await self._drive(flows.dead_page(name, after)):
                after = page[-1]
                for found in filter(wanted.fits, map(dead_task, page)):
                    yield found

    async def newest_dead(self, wanted: Filter = ANY, limit: int = 50) -> Listing[DeadTask]:
        """The ``limit`` dead letters of all queues that were buried last, oldest first, and how many fit."""
        return await self._drive(flows.newest_dead(wanted, limit))

    async def count_dead(self, wanted: Filter = ANY) -> int:
        """How many dead letters fit."""
        return await self._drive(flows.count_dead(wanted))

    async def find(self, ending: str, queue: str | None = None) -> DeadTask:
        """The dead letter whose id ends like this. IdNotFound, IdAmbiguous."""
        return await self._drive(flows.dead_one(ending, queue))

    async def resolve(self, endings: Sequence[str], queue: str | None = None) -> list[tuple[str, str]]:
        """(queue, whole id) of dead letters. IdNotFound, IdAmbiguous: for the first that fits none or several."""
        return await self._drive(flows.resolve(endings, queue))

    async def redrive(self, chosen: Sequence[tuple[str, str]], *, keep_attempts: bool = False) -> Mended:
        """Make these (queue, id)s ready again, with their history; ``keep_attempts``: for one more attempt only."""
        return await self._drive(flows.mend_ids(_redriving(keep_attempts=keep_attempts), chosen))

    async def redrive_all(
        self,
        wanted: Filter = ANY,
        *,
        limit: int | None = None,
        keep_attempts: bool = False,
        on_batch: Callable[[int], None] | None = None,
    ) -> Mended:
        """Redrive what fits, oldest first, at most ``limit``; ``on_batch`` is told how many, page by page."""
        return await self._drive(flows.mend_fitting(_redriving(keep_attempts=keep_attempts), wanted, limit, on_batch))

    async def purge(self, chosen: Sequence[tuple[str, str]]) -> Mended:
        """Delete these dead letters for good."""
        return await self._drive(flows.mend_ids(_PURGING, chosen))

    async def purge_all(
        self, wanted: Filter = ANY, *, limit: int | None = None, on_batch: Callable[[int], None] | None = None
    ) -> Mended:
        """Delete what fits for good, oldest first, at most ``limit``."""
        return await self._drive(flows.mend_fitting(_PURGING, wanted, limit, on_batch))
