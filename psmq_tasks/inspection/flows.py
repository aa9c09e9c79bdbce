"""What looking and mending do, step by step, without the sending: generators that ask queues and are told.

``Inspector`` and ``AsyncInspector`` run the same steps. No step asks for more than a page, so that memory stays
bounded and the server is never held up, however many letters there are.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from psmq import DeadLetter, Finding, MessageRecord
from psmq.errors import MessageNotFound, QueueNotFound
from psmq_tasks.errors import ForgedPayload, IdAmbiguous, IdNotFound, UnsignedPayload
from psmq_tasks.inspection.records import (
    DeadTask,
    Filter,
    Listing,
    Mended,
    QueuedMessage,
    WaitingRetry,
    dead_task,
    queued_message,
    waiting_retry,
)
from psmq_tasks.inspection.workers import read_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from psmq import Message, QueueInfo, QueueStats
    from psmq_tasks.inspection.workers import Worker

T = TypeVar("T")

#: letters in one page, ids in one redrive: a few ms of the server's time
PAGE: Final = 100
#: records without their bodies in one page
_HEADS: Final = 500
#: digits of a message id
_ID_LENGTH: Final = 22
#: candidates shown for an ambiguous id
_MOST_CANDIDATES: Final = 8
#: how reasons of what was buried unread begin where its signature was missing or another's
_NOT_OURS: Final = (f"{UnsignedPayload.__name__}:", f"{ForgedPayload.__name__}:")


class Ask(NamedTuple):
    """One verb of a queue, or of the manager where no queue is named."""

    queue: str
    verb: str
    arguments: dict[str, Any]


if TYPE_CHECKING:
    Steps = Generator[Ask, Any, T]


def ask(queue: str, verb: str, **arguments: Any) -> Ask:
    return Ask(queue, verb, arguments)


def names(queue: str | None) -> Steps[list[str]]:
    """The one queue, which must exist, or all."""
    if queue is not None:
        yield ask("", "queue_info", name=queue)
        return [queue]
    found: list[str] = yield ask("", "list_queues")
    return found


# --- looking


def queues() -> Steps[list[QueueInfo]]:
    """Every queue's counts."""
    found = []
    for name in (yield from names(None)):
        try:
            found.append((yield ask("", "queue_info", name=name)))
        except QueueNotFound:
            continue  # deleted since it was listed
    return found


def stats(queue: str | None, minutes: int) -> Steps[list[QueueStats]]:
    """What was done lately."""
    found = []
    for name in (yield from names(queue)):
        try:
            found.append((yield ask(name, "stats", minutes=minutes)))
        except QueueNotFound:
            continue
    return found


def workers() -> Steps[list[Worker]]:
    """Who said so within the last seconds; notes that are not ours are left out."""
    notes: dict[str, bytes] = yield ask("", "worker_notes")
    found = [worker for worker_id, note in notes.items() if (worker := read_worker(worker_id, note))]
    return sorted(found, key=lambda worker: (worker.host, worker.pid))


def diagnose() -> Steps[list[Finding]]:
    """The server's set-up, its queues, and what came without a signature that is ours."""
    found: list[Finding] = yield ask("", "diagnose")
    for name in (yield from names(None)):
        try:
            latest = yield from newest_dead(Filter(queue=name), PAGE)
        except QueueNotFound:
            continue
        unsigned = sum(one.reason.startswith(_NOT_OURS) for one in latest.items)
        if unsigned:
            message = (
                f"{unsigned} of its last {len(latest.items)} dead letters carry no signature that its workers accept"
            )
            fix = "give senders and workers the same PSMQ_SECRET; if no sender of yours: who else may push here?"
            found.append(Finding("problem", f"queue {name}", message, fix))
    return found


def audit(queue: str) -> Steps[list[Finding]]:
    """A second count of its books."""
    yield from names(queue)
    found: list[Finding] = yield ask("", "audit", name=queue)
    return found


def messages(queue: str, state: str, limit: int) -> Steps[list[QueuedMessage]]:
    """The first of one state, in their order, with their data."""
    found: list[QueuedMessage] = []
    after: MessageRecord | None = None
    while len(found) < limit:
        page: list[Message] = yield ask(
            queue, "messages", state=state, limit=min(limit - len(found), PAGE), after=after, data=True
        )
        if not page:
            break
        found += [queued_message(message.record, state) for message in page]
        after = page[-1].record
    return found


def retries(queue: str | None, limit: int | None) -> Steps[Listing[WaitingRetry]]:
    """What waits for another attempt, next first; a delayed push that was never delivered is none."""
    heads: list[MessageRecord] = []
    total = 0
    for name in (yield from names(queue)):
        after: MessageRecord | None = None
        while True:
            page: list[Message] = yield ask(name, "messages", state="delayed", limit=_HEADS, after=after, data=False)
            if not page:
                break
            after = page[-1].record
            waiting = [m.record for m in page if m.record.retrieval_count or "k" in m.record.extras_dict]
            total += len(waiting)
            heads += waiting
            if limit is not None and len(heads) > limit + _HEADS:
                heads = sorted(heads, key=lambda record: record.score)[:limit]
    heads.sort(key=lambda record: record.score)
    if limit is not None:
        del heads[limit:]
    histories: dict[str, tuple[bytes, ...]] = {}
    for name in {record.queue_name for record in heads}:
        ids = [record.message_id for record in heads if record.queue_name == name]
        histories |= zip(ids, (yield ask(name, "failures", ids=ids)), strict=True)
    return Listing([waiting_retry(record, histories[record.message_id]) for record in heads], total)


def dead_page(queue: str, after: DeadLetter | None) -> Steps[list[DeadLetter]]:
    """The next dead letters, oldest first; none at the end."""
    page: list[DeadLetter] = yield ask(queue, "dead_letters", limit=PAGE, after=after, data=False)
    return page


def newest_dead(wanted: Filter, limit: int) -> Steps[Listing[DeadTask]]:
    """The last that fit, oldest first, and how many there are."""
    found: list[DeadTask] = []
    total = 0
    for name in (yield from names(wanted.queue)):
        latest: deque[DeadTask] = deque(maxlen=limit)
        fitting = 0
        after: DeadLetter | None = None
        if wanted.is_empty:
            after = yield from _before_the_last(name, limit)
        while page := (yield from dead_page(name, after)):
            after = page[-1]
            for one in map(dead_task, page):
                if wanted.fits(one):
                    latest.append(one)
                    fitting += 1
        if wanted.is_empty:
            info: QueueInfo = yield ask("", "queue_info", name=name)
            fitting = max(info.dead, fitting)
        total += fitting
        found += latest
    found.sort(key=lambda one: (one.buried, one.id))
    return Listing(found[-limit:] if limit else [], total)


def _before_the_last(queue: str, count: int) -> Steps[DeadLetter | None]:
    """A place (not a letter) with at least ``count`` letters behind it and hardly more; None: the beginning.

    Letters are kept by time of burial: the time is found by halving, some thirty small questions for any number.
    """
    first: list[Message] = yield ask(queue, "messages", state="dead", limit=1, data=False)
    if not first:
        return None
    low = first[0].record.score
    high = int(datetime.now(UTC).timestamp() * 1000) + 86_400_000  # our clock may be a day behind the server's
    if not (yield from _has_behind(queue, low, count)):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if (yield from _has_behind(queue, middle, count)):
            low = middle
        else:
            high = middle
    return place(queue, low)


def _has_behind(queue: str, milliseconds: int, count: int) -> Steps[bool]:
    after = place(queue, milliseconds).message
    seen = 0
    while seen < count:
        page: list[Message] = yield ask(
            queue, "messages", state="dead", limit=min(count - seen, _HEADS), after=after, data=False
        )
        if not page:
            return False
        seen += len(page)
        after = page[-1].record
    return True


def place(queue: str, milliseconds: int) -> DeadLetter:
    """A cursor in front of what was buried at this time or later; no letter is there."""
    return DeadLetter(MessageRecord("-", b"", queue, score=milliseconds), "", datetime.min.replace(tzinfo=UTC), ())


def dead_one(ending: str, queue: str | None) -> Steps[DeadTask]:
    """One dead letter with everything but its data; IdNotFound, IdAmbiguous."""
    ((name, message_id),) = yield from resolve([ending], queue)
    page: list[DeadLetter] = yield ask(name, "dead_letters", limit=1, ids=[message_id], data=True)
    if not page:
        raise IdNotFound(ending, "dead letter", f"queue {name!r}")
    return dead_task(page[0], size=True)


def resolve(endings: Sequence[str], queue: str | None) -> Steps[list[tuple[str, str]]]:
    """(queue, id) of the dead letters whose ids end like these; each must fit one. Whole ids cost no search."""
    searched = yield from names(queue)
    wanted = {ending: ending.lstrip("….") for ending in dict.fromkeys(endings)}
    found: dict[str, list[tuple[str, str]]] = {ending: [] for ending in wanted}
    whole = [digits for digits in wanted.values() if len(digits) >= _ID_LENGTH]
    parts = {ending: digits for ending, digits in wanted.items() if digits and len(digits) < _ID_LENGTH}
    for name in searched:
        if whole:
            letters: list[DeadLetter] = yield ask(name, "dead_letters", limit=PAGE, ids=whole, data=False)
            for letter in letters:
                for ending, digits in wanted.items():
                    if digits == letter.message.message_id:
                        found[ending].append((name, digits))
        after: MessageRecord | None = None
        while parts:
            page: list[Message] = yield ask(name, "messages", state="dead", limit=_HEADS, after=after, data=False)
            if not page:
                break
            after = page[-1].record
            for message in page:
                for ending, digits in parts.items():
                    if message.record.message_id.endswith(digits):
                        found[ending].append((name, message.record.message_id))
    where = f"queue {queue!r}" if queue is not None else "any queue"
    for ending, hits in found.items():
        if not hits:
            raise IdNotFound(ending, "dead letter", where)
        if len(hits) > 1:
            raise IdAmbiguous(ending, tuple(message_id for _, message_id in hits[:_MOST_CANDIDATES]))
    return list(dict.fromkeys(hits[0] for hits in found.values()))


def count_dead(wanted: Filter) -> Steps[int]:
    """How many fit."""
    total = 0
    for name in (yield from names(wanted.queue)):
        if wanted.is_empty:
            info: QueueInfo = yield ask("", "queue_info", name=name)
            total += info.dead
            continue
        after: DeadLetter | None = None
        while page := (yield from dead_page(name, after)):
            after = page[-1]
            total += sum(wanted.fits(dead_task(letter)) for letter in page)
    return total


# --- mending


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
    """Redrive or purge these (queue, id)s."""
    total, missing, touched = 0, [], []
    for name in dict.fromkeys(name for name, _ in chosen):
        done, gone = yield from batch.run(name, [message_id for queue, message_id in chosen if queue == name])
        total += done
        missing += gone
        if done:
            touched.append(name)
    return Mended(total, tuple(missing), tuple(touched))


def mend_fitting(
    batch: Batch, wanted: Filter, limit: int | None, on_batch: Callable[[int], None] | None
) -> Steps[Mended]:
    """Redrive or purge what fits, oldest first, at most ``limit``; ``on_batch`` is told how many were done.

    What dies again meanwhile queues behind what was there: each queue's walk ends after as many as there were.
    """
    total, missing, touched = 0, [], []
    for name in (yield from names(wanted.queue)):
        info: QueueInfo = yield ask("", "queue_info", name=name)
        there, after, before = info.dead, None, total
        while there > 0 and (limit is None or total < limit):
            page = yield from dead_page(name, after)
            if not page:
                break
            after = page[-1]
            ids = [letter.message.message_id for letter in page[:there] if wanted.fits(dead_task(letter))]
            there -= len(page)
            done, gone = yield from batch.run(name, ids if limit is None else ids[: limit - total])
            total += done
            missing += gone
            if on_batch is not None and done:
                on_batch(done)
        if total > before:
            touched.append(name)
    return Mended(total, tuple(missing), tuple(touched))
