"""What there is: queues, what they did, who works, what waits, and whether all is well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from psmq import Finding
from psmq.errors import QueueNotFound, ServerUnsuitable
from psmq_tasks.errors import ForgedPayload, UnsignedPayload
from psmq_tasks.inspection.letters import newest_dead
from psmq_tasks.inspection.records import Filter, Listing, QueuedMessage, WaitingRetry, queued_message, waiting_retry
from psmq_tasks.inspection.steps import HEADS, PAGE, ask, names
from psmq_tasks.inspection.workers import read_worker

if TYPE_CHECKING:
    from psmq import Message, MessageRecord, QueueInfo, QueueStats
    from psmq_tasks.inspection.steps import Steps
    from psmq_tasks.inspection.workers import Worker

#: how reasons of what was buried unread begin where its signature was missing or another's
_NOT_OURS: Final = (f"{UnsignedPayload.__name__}:", f"{ForgedPayload.__name__}:")


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
    try:
        listed: list[str] = yield ask("", "list_queues", tidy=False)
    except ServerUnsuitable:
        return found  # no list: that is among what was found
    for name in listed:
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
            page: list[Message] = yield ask(name, "messages", state="delayed", limit=HEADS, after=after, data=False)
            if not page:
                break
            after = page[-1].record
            waiting = [m.record for m in page if m.record.retrieval_count or "k" in m.record.extras_dict]
            total += len(waiting)
            heads += waiting
            if limit is not None and len(heads) > limit + HEADS:
                heads = sorted(heads, key=lambda record: record.score)[:limit]
    heads.sort(key=lambda record: record.score)
    if limit is not None:
        del heads[limit:]
    histories: dict[str, tuple[bytes, ...]] = {}
    for name in {record.queue_name for record in heads}:
        ids = [record.message_id for record in heads if record.queue_name == name]
        histories |= zip(ids, (yield ask(name, "failures", ids=ids)), strict=True)
    return Listing([waiting_retry(record, histories[record.message_id]) for record in heads], total)
