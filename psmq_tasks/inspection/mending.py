"""Letters sent back, removed, changed and brought in, so many at a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from psmq.errors import MessageNotFound
from psmq_tasks.inspection.letters import dead_page, fitting, place
from psmq_tasks.inspection.records import Filter, Mended
from psmq_tasks.inspection.steps import PAGE, Rest, ask, names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psmq import DeadLetter, QueueInfo
    from psmq_tasks.inspection.calls import Change
    from psmq_tasks.inspection.records import DeadTask
    from psmq_tasks.inspection.steps import Steps


def amend(letter: DeadTask, change: Change, *, redrive: bool) -> Steps[None]:
    """Store a change in place of a letter's call."""
    yield ask(
        letter.queue,
        "amend",
        message_id=letter.id,
        data=change.data,
        metadata=change.metadata,
        note=change.note,
        redrive=redrive,
    )


def adopt(letters: Sequence[DeadLetter]) -> Steps[int]:
    """Bring letters back into the queues they were in."""
    stored = 0
    for name in dict.fromkeys(letter.message.queue_name for letter in letters):
        stored += yield ask(name, "adopt", letters=[one for one in letters if one.message.queue_name == name])
    return stored


class Batch(NamedTuple):
    """How ids are dealt with, a page at a time; one call is all or nothing."""

    verb: str
    options: dict[str, Any]

    def run(self, queue: str, ids: Sequence[str]) -> Steps[tuple[int, list[str]]]:
        """→ how many were done, and which were gone."""
        left, gone, done = list(ids), [], 0
        while left:
            try:
                done += yield ask(queue, self.verb, ids=left[:PAGE], **self.options)
            except MessageNotFound as error:
                if error.message_id not in left:
                    raise
                left.remove(error.message_id)
                gone.append(error.message_id)
            else:
                del left[:PAGE]
        return done, gone


def mend_ids(batch: Batch, chosen: Sequence[tuple[str, str]]) -> Steps[Mended]:
    """Do it with these (queue, id)s."""
    total, missing, touched = 0, [], []
    for name in dict.fromkeys(name for name, _ in chosen):
        done, gone = yield from batch.run(name, [message_id for queue, message_id in chosen if queue == name])
        total += done
        missing += gone
        if done:
            touched.append(name)
    return Mended(total, tuple(missing), tuple(touched))


class Pace:
    """At most so many in a second, evenly; None: as fast as it goes."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._began = time.monotonic()
        self._done = 0

    @property
    def slice(self) -> int:
        """How many may be done at once: a fifth of a second's, at least one."""
        return PAGE if self._rate is None else max(1, min(PAGE, int(self._rate / 5)))

    def rest(self, done: int) -> Steps[None]:
        """Wait until so many more were due."""
        self._done += done
        if self._rate is not None and done:
            ahead = self._done / self._rate - (time.monotonic() - self._began)
            if ahead > 0:
                yield Rest(ahead)


def mend_fitting(
    batch: Batch,
    wanted: Filter,
    limit: int | None,
    on_batch: Callable[[int], None] | None,
    rate: float | None = None,
) -> Steps[Mended]:
    """Redrive or purge what fits, oldest first, at most ``limit``; ``on_batch`` is told how many were done.

    What dies again meanwhile queues behind what was there: each queue's walk ends with what had died when it began.
    """
    total, missing, touched = 0, [], []
    pace, fits = Pace(rate), fitting(wanted)
    for name in (yield from names(wanted.queue)):
        info: QueueInfo = yield ask("", "queue_info", name=name)
        there, after, before = info.dead, None, total
        if wanted.first_ms is not None:
            after = place(name, wanted.first_ms)
        while there > 0 and (limit is None or total < limit):
            page = yield from dead_page(name, after, history=wanted.error is not None)
            if not page:
                break
            after = page[-1]
            ids = [letter.message.message_id for letter in filter(fits, page[:there])]
            there = 0 if wanted.is_past(after.buried) else there - len(page)
            ids = ids if limit is None else ids[: limit - total]
            for start in range(0, len(ids), pace.slice):
                done, gone = yield from batch.run(name, ids[start : start + pace.slice])
                total += done
                missing += gone
                if on_batch is not None and done:
                    on_batch(done)
                yield from pace.rest(done)
        if total > before:
            touched.append(name)
    return Mended(total, tuple(missing), tuple(touched))
