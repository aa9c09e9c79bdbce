"""Letters sent back, removed, changed and brought in, so many at a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from psmq import is_id
from psmq.errors import MessageNotFound, QueueNotFound
from psmq_tasks.envelope import Keyring
from psmq_tasks.inspection.calls import Calls
from psmq_tasks.inspection.letters import dead_page, fitting, place
from psmq_tasks.inspection.records import Filter, Mended
from psmq_tasks.inspection.steps import PAGE, Rest, ask, names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from psmq import DeadLetter, QueueInfo, Transfer
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


class Done(NamedTuple):
    """What was done with some ids."""

    number: int
    gone: Sequence[str] = ()
    stayed: Mapping[str, str] = {}
    #: it is of no use to go on
    full: bool = False


class Batch(NamedTuple):
    """How ids are dealt with, a page at a time; one call is all or nothing."""

    verb: str
    options: dict[str, Any]

    def begin(self, queue: str) -> Steps[list[str]]:  # noqa: ARG002  # every call is complete in itself
        yield from ()
        return []

    def where(self, queue: str) -> str:
        """The queue that then has them."""
        return queue

    def run(self, queue: str, ids: Sequence[str]) -> Steps[Done]:
        stayed: dict[str, str] = {}
        if self.verb == "redrive":
            # The next get would set it aside again, and errors do not name it so that it could be told from others.
            stayed = {message_id: "its id is none of ours" for message_id in ids if not is_id(message_id)}
        left, gone, done = [message_id for message_id in ids if message_id not in stayed], [], 0
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
        return Done(done, gone, stayed)


class Transferring(NamedTuple):
    """Redrive into another queue; what is in that one already goes back to work there."""

    to: str
    keep_count: bool
    rewrite: Callable[[DeadLetter], bytes]

    def begin(self, queue: str) -> Steps[list[str]]:
        """Complete what was broken off on this way. → ids that are there now"""
        yield ask("", "queue_info", name=self.to)
        if queue == self.to:
            return []
        done: list[str] = yield ask(queue, "finish_transfers", other=self.to)
        done += yield ask(self.to, "finish_transfers", other=queue)
        return done

    def where(self, queue: str) -> str:  # noqa: ARG002  # from wherever
        return self.to

    def run(self, queue: str, ids: Sequence[str]) -> Steps[Done]:
        if queue == self.to:
            return (yield from Batch("redrive", {"keep_count": self.keep_count}).run(queue, ids))
        found: Transfer = yield ask(
            queue, "transfer", ids=ids, to=self.to, keep_count=self.keep_count, rewrite=self.rewrite
        )
        return Done(len(found.done), found.gone, found.stayed, found.full)


PURGING: Final = Batch("purge", {})
HASTENING: Final = Batch("hasten", {})


def redriving(to: str | None, calls: Calls | None, *, keep_attempts: bool) -> Batch | Transferring:
    """``to`` None: where they are; ``calls`` None: there is no key that vouches for a call elsewhere."""
    if to is None:
        return Batch("redrive", {"keep_count": keep_attempts})
    vouching = calls or Calls(Keyring(()))
    return Transferring(to, keep_attempts, lambda letter: vouching.moved(letter, to))


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


def mend_ids(
    batch: Batch | Transferring,
    chosen: Sequence[tuple[str, str]],
    on_batch: Callable[[int], None] | None = None,
    rate: float | None = None,
) -> Steps[Mended]:
    """Do it with these (queue, id)s; ``on_batch`` is told how many were done."""
    total, touched = 0, {}
    missing: list[str] = []
    stayed: dict[str, str] = {}
    pace = Pace(rate)
    for name in dict.fromkeys(name for name, _ in chosen):
        finished = yield from batch.begin(name)
        ids = dict.fromkeys(message_id for queue, message_id in chosen if queue == name)
        left = [one for one in ids if one not in finished]
        count = len(ids) - len(left)
        for start in range(0, len(left), pace.slice):
            done = yield from batch.run(name, left[start : start + pace.slice])
            count += done.number
            missing += done.gone
            stayed |= done.stayed
            if on_batch is not None and done.number:
                on_batch(done.number)
            yield from pace.rest(done.number)
        total += count
        if count:
            touched[batch.where(name)] = True
    return Mended(total, tuple(missing), tuple(touched), stayed)


def finish_transfers(queue: str | None) -> Steps[list[tuple[str, str]]]:
    """Complete what was broken off between queues. → (one of both queues, id) of what is where it should be now"""
    found = []
    for name in (yield from names(queue)):
        try:
            found += [(name, one) for one in (yield ask(name, "finish_transfers"))]
        except QueueNotFound:
            continue  # deleted since it was listed
    return found


def mend_fitting(
    batch: Batch | Transferring,
    wanted: Filter,
    limit: int | None,
    on_batch: Callable[[int], None] | None,
    rate: float | None = None,
) -> Steps[Mended]:
    """Redrive or purge what fits, oldest first, at most ``limit``; ``on_batch`` is told how many were done.

    What dies again meanwhile queues behind what was there: each queue's walk ends with what had died when it began.
    """
    total, touched = 0, {}
    missing: list[str] = []
    stayed: dict[str, str] = {}
    pace, fits, full = Pace(rate), fitting(wanted), False
    for name in (yield from names(wanted.queue)):
        before = total
        total += len((yield from batch.begin(name)))
        info: QueueInfo = yield ask("", "queue_info", name=name)
        there, after = info.dead, None
        if wanted.first_ms is not None:
            after = place(name, wanted.first_ms)
        while there > 0 and not full and (limit is None or total < limit):
            page = yield from dead_page(name, after, history="short" if wanted.error is not None else False)
            if not page:
                break
            after = page[-1]
            ids = [letter.message.message_id for letter in filter(fits, page[:there])]
            there = 0 if wanted.is_past(after.buried) else there - len(page)
            ids = ids if limit is None else ids[: limit - total]
            for start in range(0, len(ids), pace.slice):
                done = yield from batch.run(name, ids[start : start + pace.slice])
                total += done.number
                missing += done.gone
                stayed |= done.stayed
                if on_batch is not None and done.number:
                    on_batch(done.number)
                yield from pace.rest(done.number)
                full = done.full
                if full:
                    break
        if total > before:
            touched[batch.where(name)] = True
    return Mended(total, tuple(missing), tuple(touched), stayed)
