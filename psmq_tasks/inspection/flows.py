"""What looking and mending do, step by step, without the sending: generators that ask queues and are told.

``Inspector`` and ``AsyncInspector`` run the same steps. No step asks for more than a page, so that memory stays
bounded and the server is never held up, however many letters there are.
"""

from __future__ import annotations

import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar

from psmq import DeadLetter, Finding, MessageRecord
from psmq.errors import MessageNotFound, QueueNotFound
from psmq_tasks.errors import ForgedPayload, IdAmbiguous, IdNotFound, UnsignedPayload
from psmq_tasks.inspection.records import (
    DeadTask,
    Filter,
    Group,
    Listing,
    Mended,
    QueuedMessage,
    WaitingRetry,
    dead_task,
    kind_of,
    queued_message,
    waiting_retry,
)
from psmq_tasks.inspection.workers import read_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from psmq import Message, QueueInfo, QueueStats
    from psmq_tasks.inspection.calls import Change
    from psmq_tasks.inspection.workers import Worker

T = TypeVar("T")

#: letters in one page, ids in one redrive: a few ms of the server's time
PAGE: Final = 100
#: letters without their histories in one page
_LIGHT: Final = 150
#: records without their bodies in one page
_HEADS: Final = 500
#: digits of a message id
_ID_LENGTH: Final = 22
#: candidates shown for an ambiguous id
_MOST_CANDIDATES: Final = 8
#: kinds that are told apart when letters are counted by kind
_MOST_GROUPS: Final = 1000

_NOUNS: Final = {"dead": "dead letter", "delayed": "message that waits"}

Key = Literal["error", "task", "queue", "reason"]
#: how reasons of what was buried unread begin where its signature was missing or another's
_NOT_OURS: Final = (f"{UnsignedPayload.__name__}:", f"{ForgedPayload.__name__}:")


class Ask(NamedTuple):
    """One verb of a queue, or of the manager where no queue is named."""

    queue: str
    verb: str
    arguments: dict[str, Any]


class Rest(NamedTuple):
    """Nothing to ask for so many seconds."""

    seconds: float


if TYPE_CHECKING:
    Steps = Generator[Ask | Rest, Any, T]


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


def dead_page(queue: str, after: DeadLetter | None, *, history: bool = True) -> Steps[list[DeadLetter]]:
    """The next dead letters, oldest first; none at the end."""
    page: list[DeadLetter] = yield ask(
        queue, "dead_letters", limit=PAGE if history else _LIGHT, after=after, data=False, history=history
    )
    return page


def letters_page(
    queue: str, wanted: Filter, after: DeadLetter | None, *, data: bool = False, history: bool = True
) -> Steps[tuple[list[DeadLetter], DeadLetter | None]]:
    """Those of the next page that fit, and where to go on; None: nothing that fits is left.

    Histories are many times the rest: without ``history`` they are read only where the filter looks into them.
    """
    if after is None and wanted.first_ms is not None:
        after = place(queue, wanted.first_ms)
    history = data or history or wanted.error is not None
    page: list[DeadLetter] = yield ask(
        queue, "dead_letters", limit=PAGE if history else _LIGHT, after=after, data=data, history=history
    )
    past = not page or wanted.is_past(page[-1].buried)
    return list(filter(fitting(wanted), page)), None if past else page[-1]


def fitting(wanted: Filter) -> Callable[[DeadLetter], bool]:
    """Whether a letter fits; those of one queue are not looked into when all of it is meant."""
    return (lambda _: True) if wanted.is_empty else (lambda letter: wanted.fits(dead_task(letter)))


def fitting_page(
    queue: str, wanted: Filter, after: DeadLetter | None
) -> Steps[tuple[list[DeadTask], DeadLetter | None]]:
    """The same, read."""
    page, after = yield from letters_page(queue, wanted, after)
    return list(map(dead_task, page)), after


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
        more = True
        while more:
            page, after = yield from fitting_page(name, wanted, after)
            latest.extend(page)
            fitting += len(page)
            more = after is not None
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


def resolve(endings: Sequence[str], queue: str | None, state: str = "dead") -> Steps[list[tuple[str, str]]]:
    """(queue, id) of the messages in this state whose ids end like these; each must fit one.

    Whole ids of dead letters cost no search.
    """
    what = _NOUNS.get(state, f"{state} message")
    searched = yield from names(queue)
    wanted = {ending: ending.lstrip("….") for ending in dict.fromkeys(endings)}
    found: dict[str, list[tuple[str, str]]] = {ending: [] for ending in wanted}
    longest = _ID_LENGTH if state == "dead" else _ID_LENGTH + 1
    whole = [digits for digits in wanted.values() if len(digits) >= longest]
    parts = {ending: digits for ending, digits in wanted.items() if digits and len(digits) < longest}
    for name in searched:
        if whole:
            letters: list[DeadLetter] = yield ask(name, "dead_letters", limit=PAGE, ids=whole, data=False)
            for letter in letters:
                for ending, digits in wanted.items():
                    if digits == letter.message.message_id:
                        found[ending].append((name, digits))
        after: MessageRecord | None = None
        while parts:
            page: list[Message] = yield ask(name, "messages", state=state, limit=_HEADS, after=after, data=False)
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
            raise IdNotFound(ending, what, where)
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
        more = True
        while more:
            page, after = yield from letters_page(name, wanted, after, history=False)
            total += len(page)
            more = after is not None
    return total


def group_dead(wanted: Filter, by: Key) -> Steps[list[Group]]:
    """How many fit of each error, task, queue or reason, the most first; beyond a thousand kinds: one "(others)"."""
    counts: dict[str, int] = {}
    newest: dict[str, DeadLetter] = {}
    for name in (yield from names(wanted.queue)):
        after: DeadLetter | None = None
        more = True
        while more:
            page, after = yield from letters_page(name, wanted, after, history=False)
            for letter in page:
                key = _key(letter, by)
                if key not in counts and len(counts) >= _MOST_GROUPS:
                    key = "(others)"
                counts[key] = counts.get(key, 0) + 1
                if key not in newest or letter.buried >= newest[key].buried:
                    newest[key] = letter
            more = after is not None
    examples = {key: dead_task(letter) for key, letter in newest.items()}
    groups = [Group(key, count, examples[key].buried, examples[key]) for key, count in counts.items()]
    return sorted(groups, key=lambda group: (-group.count, group.key))


def _key(letter: DeadLetter, by: Key) -> str:
    if by == "error":
        return kind_of(letter.reason)
    if by == "reason":
        return letter.reason
    return letter.message.queue_name if by == "queue" else dead_task(letter).task


def whole_letters(chosen: Sequence[tuple[str, str]]) -> Steps[list[DeadLetter]]:
    """These (queue, id)s with their data; those that are gone are left out."""
    found: list[DeadLetter] = []
    for name in dict.fromkeys(name for name, _ in chosen):
        ids = [message_id for queue, message_id in chosen if queue == name]
        found += yield ask(name, "dead_letters", limit=PAGE, ids=ids, data=True)
    return found


# --- mending


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
