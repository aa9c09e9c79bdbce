"""The life of one message: where it is, what failed, what the queue's event log tells; and what it does next."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from psmq import Event, MessageRecord, id_time
from psmq.errors import QueueNotFound
from psmq_tasks.errors import IdNotFound
from psmq_tasks.history import Failure
from psmq_tasks.inspection.records import _or, _Seen, _seen, _time, plain
from psmq_tasks.inspection.steps import HEADS, ID_LENGTH, ambiguous, ask, names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psmq import Message, Trace
    from psmq_tasks.inspection.steps import Steps

__all__ = ["Traced", "again", "trace"]

#: how a message left its queue, by the last thing that happened to it
_ENDS: Final = {
    "deleted": "done",
    "popped": "done",
    **{verb: verb for verb in ("expired", "purged", "departed", "outlived")},
}
#: what is not in any queue and not known to be done
_GONE: Final = "gone"
#: where one looks for a message, the end of whose id is known
_STATES: Final = ("dead", "delayed", "leased", "ready")


@dataclass(frozen=True, slots=True)
class Traced(_Seen):
    """The life of a message, as far as its queue, its history and the event log tell."""

    #: ready, delayed, leased or dead; done, expired, purged, departed (to another queue) or
    #: outlived (its queue's dead_retention); gone: finished, without a log that would say how
    state: str
    #: delayed: becomes ready; leased: its lease ends; dead: was buried; None otherwise
    due: datetime | None
    first_retrieved: datetime | None
    #: dead: why; finished: what the server wrote as its result
    reason: str
    #: what went wrong so far, and changes by hand, oldest first; of what is finished there is none
    failures: tuple[Failure, ...]
    #: seconds for which its result is kept; None: there is none
    result_kept: float | None
    #: whether its queue keeps an event log
    logged: bool
    #: what happened, oldest first; without a log what its history tells, and what was seen by looking (number 0)
    events: tuple[Event, ...]
    #: (queue, number of the event) behind which the next look at the logs goes on
    places: tuple[tuple[str, int], ...]

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.state not in ("ready", "delayed", "leased")

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        values = super(Traced, self).as_dict()
        del values["places"]
        values["events"] = [event_as_dict(event) for event in self.events]
        return values


def event_as_dict(event: Event) -> dict[str, Any]:
    """For ``--json``."""
    return {name: plain(value) for name, value in asdict(event).items()}


def trace(ending: str, queue: str | None) -> Steps[Traced]:
    """The life of the one message whose id ends like this; IdNotFound, IdAmbiguous.

    A whole id costs one question for each queue. Of an end of one, all that is in the queues is searched, and all logs.
    """
    digits = ending.lstrip("….")
    where = f"queue {queue!r}" if queue is not None else "any queue"
    searched = (yield from names(queue)) if digits else []
    ids = [digits] if len(digits) == ID_LENGTH else (yield from _candidates(digits, searched))
    if len(ids) > 1:
        raise ambiguous(ending, ids)
    for message_id in ids:
        places = [(name, 0) for name in searched]
        looks = yield from _look(message_id, places)
        known = {name: one for name, one in looks.items() if one.state or one.events or one.result_kept is not None}
        if known:
            return _told(message_id, known)
    raise IdNotFound(ending, "message", where)


def again(before: Traced) -> Steps[Traced]:
    """The same message at a later look; its events go on where the other's end."""
    now = _told(before.id, (yield from _look(before.id, before.places)), before)
    return now if now.logged else replace(now, events=(*before.events, *_changes(before, now)))


def _candidates(digits: str, searched: Sequence[str]) -> Steps[list[str]]:
    """The ids that end like this, of what is in the queues and of what their logs tell."""
    found: dict[str, None] = {}
    for name in searched:
        for state in _STATES:
            after: MessageRecord | None = None
            while page := (yield ask(name, "messages", state=state, limit=HEADS, after=after, data=False)):
                page_: list[Message] = page
                after = page_[-1].record
                found |= dict.fromkeys(m.message_id for m in page_ if m.message_id.endswith(digits))
    looks = yield from _look(digits, [(name, 0) for name in searched])
    return [*found | dict.fromkeys(event.message_id for one in looks.values() for event in one.events)]


def _look(message_id: str, places: Sequence[tuple[str, int]]) -> Steps[dict[str, Trace]]:
    """What each queue says of it, with all events behind these places."""
    found: dict[str, Trace] = {}
    for name, place in places:
        after = place
        events: list[Event] = []
        more = True
        while more:
            try:
                one: Trace = yield ask(name, "trace", message_id=message_id, after=after)
            except QueueNotFound:
                break
            events += one.events
            after, more = one.after, one.more
            found[name] = replace(one, events=tuple(events))
    return found


def _told(message_id: str, looks: dict[str, Trace], before: Traced | None = None) -> Traced:
    """One life of what the queues say: where it is now, or was last."""
    events = [*before.events] if before is not None else []
    events += sorted((event for one in looks.values() for event in one.events), key=lambda event: event.time)
    name, here = _home(looks, before)
    record = here.record if here is not None else None
    failures = tuple(map(Failure.unpack, here.failures)) if here is not None else ()
    seen = _seen(record, failures) if record is not None else _seen_before(message_id, name, events, before)
    state = here.state if here is not None else ""
    said = here.server_result.decode("utf-8", "replace").partition(" ")[2] if here is not None else ""
    logged = any(one.event_log for one in looks.values())
    if record is not None and before is None and not events:
        events = _of_history(record, seen["metadata"], failures)
        if state == "dead" and here is not None:
            events.append(
                Event(0, _time(record.score) or events[-1].time, "buried", message_id, "", reason=here.reason)
            )
    return Traced(
        **seen,
        state=state or _end(events, here),
        due=None if record is None or state == "ready" else _time(record.score),
        first_retrieved=_first(record, events),
        reason=here.reason or (said if not state else "") if here is not None else "",
        failures=failures,
        result_kept=here.result_kept if here is not None else None,
        logged=logged,
        events=tuple(events),
        places=tuple((queue, one.after) for queue, one in looks.items()),
    )


def _end(events: Sequence[Event], last: Trace | None) -> str:
    """How what is in no queue ended."""
    known = _ENDS.get(events[-1].verb) if events else None
    if known is not None or last is None or last.result_kept is None:
        return known or _GONE
    # Its holder stored a result with the deletion; the server writes one when a ttl ends.
    return "expired" if last.server_result.startswith(b"!expired") else _GONE if last.server_result else "done"


def _first(record: MessageRecord | None, events: Sequence[Event]) -> datetime | None:
    """When it was delivered first."""
    if record is not None:
        return _or(lambda: record.first_retrieved, None)
    return next((event.time for event in events if event.attempt), None)


def _of_history(record: MessageRecord, metadata: dict[str, str], failures: Sequence[Failure]) -> list[Event]:
    """What is known of a message without a log: its push, the attempts that failed, the first delivery."""
    found: list[Event] = []

    def note(when: datetime | None, verb: str, client: str, **told: Any) -> None:
        if when is not None:
            found.append(Event(0, when, verb, record.message_id, client, **told))

    note(_or(lambda: record.sent, None), "pushed", metadata.get("sender", ""), metadata=metadata)
    if not failures:
        note(_or(lambda: record.first_retrieved, None), "delivered", "", attempt=1)
    last = 0
    for failure in failures:
        if 0 < failure.attempt <= last and failure.started:
            # Its attempts are counted anew: somebody sent it back meanwhile, nobody noted when.
            note(_time(int(failure.started * 1000)), "redriven", "")
        last = failure.attempt
        found += _of_failure(failure, record.message_id)
    return found


def _of_failure(failure: Failure, message_id: str) -> list[Event]:
    """The delivery that failed, and what was decided; or the change by hand."""
    started, ended = (_time(int(seconds * 1000)) if seconds else None for seconds in (failure.started, failure.ended))
    who = f"{failure.host}:{failure.pid}"
    found = []
    if failure.outcome == "edited":
        return [Event(0, ended, "amended", message_id, who, reason=failure.message)] if ended else []
    if started is not None:
        found.append(Event(0, started, "delivered", message_id, who, attempt=failure.attempt))
    if ended is not None:
        words = f"{failure.type}: {failure.message}" if failure.type else failure.message
        reason = words + (f" ({failure.why})" if failure.why else "")
        how = "lost" if failure.outcome == "lost" else "counted"
        found.append(Event(0, ended, "released", message_id, who, failure.delay, how=how, reason=reason))
    return found


def _home(looks: dict[str, Trace], before: Traced | None) -> tuple[str, Trace | None]:
    """The queue that it is in, or was last: one that redrives into another leaves its own log."""
    if not looks:
        return before.queue if before is not None else "", None
    held = {name: one for name, one in looks.items() if one.state} or looks
    last = max(
        held, key=lambda name: held[name].events[-1].time if held[name].events else datetime.min.replace(tzinfo=UTC)
    )
    return last, held[last]


def _seen_before(message_id: str, queue: str, events: Sequence[Event], before: Traced | None) -> dict[str, Any]:
    """Of what is in no queue any more: as it was at the look before, or as the log tells."""
    attempts = max((event.attempt for event in events), default=0)
    if before is not None:
        kept = {field.name: getattr(before, field.name) for field in fields(_Seen)}
        return {**kept, "attempts": max(attempts, before.attempts)}
    pushed = next((event.metadata for event in events if event.metadata), {})
    return {
        "id": message_id,
        "queue": queue,
        "task": pushed.get("task", ""),
        "args": pushed.get("args", ""),
        "sender": pushed.get("sender", ""),
        "sent": _or(lambda: id_time(message_id), None),
        "attempts": attempts,
        "max_attempts": None,
        "priority": 0,
        "expires": None,
        "metadata": pushed,
    }


def _changes(before: Traced, now: Traced) -> list[Event]:
    """What must have happened between two looks, where no log tells."""
    when = datetime.now(UTC)
    found: list[Event] = []

    def note(verb: str, **told: Any) -> None:
        found.append(Event(0, when, verb, now.id, "", **told))

    known = {(one.attempt, one.ended) for one in before.failures}
    attempts = {event.attempt for event in before.events}
    for failure in now.failures:
        if (failure.attempt, failure.ended) not in known:
            told = _of_failure(failure, now.id)
            found += [event for event in told if not event.attempt or event.attempt not in attempts]
    if (before.state, before.attempts, before.due) == (now.state, now.attempts, now.due):
        return found
    if now.state == "leased" and now.attempts > before.attempts:
        note("delivered", attempt=now.attempts)
    elif now.state == "leased" and now.due and before.due and now.due > before.due:
        note("extended", seconds=max((now.due - when).total_seconds(), 0.0))
    elif now.state == "dead" != before.state:
        note("buried", reason=now.reason)
    elif now.state == "delayed" and not found:
        note("released", seconds=max((now.due - when).total_seconds(), 0.0) if now.due else None, how="counted")
    elif now.state == "ready" and before.state == "leased" and not found:
        note("ended")
    elif now.has_ended and not before.has_ended:
        note("finished")
    return found
