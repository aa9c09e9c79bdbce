"""``psmq trace``: the life of one message, so far or as it goes on."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from psmq_tasks.cli.dead_letter import show_failures
from psmq_tasks.cli.options import Seconds, json_option, place_options, queue_option
from psmq_tasks.cli.showing import Column, age, draw, duration, facts, moment, print_json, tail

if TYPE_CHECKING:
    from psmq import Event
    from psmq_tasks.cli.place import Place
    from psmq_tasks.inspection import Traced

__all__ = ["trace"]

#: what a verb of the log means to people; {by} is who asked for it
_WORDS: Final = {
    "ended": "its lease ended without an answer: ready again",
    "deleted": "done{by}",
    "popped": "taken and deleted{by}",
    "redriven": "back in its queue{by}, attempts are counted anew",
    "hastened": "made ready by hand{by}",
    "amended": "changed by hand{by}",
    "adopted": "imported{by}",
    "expired": "its ttl ended: dropped",
    "purged": "purged{by}",
    "departed": "went to queue {reason}{by}",
    "arrived": "came from queue {reason}{by}",
    "outlived": "kept for its queue's dead_retention: dropped",
    "finished": "finished",
}
#: of the timeline; as wide in one row as in all, for those that follow
_COLUMNS: Final = (Column("WHEN", least=12), Column("AFTER", right=True, least=6), Column("WHAT", gives="end"))
#: what workers write in front of a reason; the line above says it
_ATTEMPT: Final = re.compile(r"^failed at attempt \d+: ")


@click.command()
@click.argument("message_id", metavar="ID")
@queue_option
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until the message has ended.")
@click.option(
    "--every", type=Seconds(0.05, 3600), default=0.5, show_default=True, help="Seconds between looks, with --follow."
)
@json_option
@place_options
def trace(place: Place, *, message_id: str, queue: str | None, follow: bool, every: float, as_json: bool) -> None:
    """Tell the life of one message.

    ID may be the end of the id. How long a delivery lasted, who had it and how often its lease was extended is told
    by the event log of its queue (psmq configure QUEUE event_log=10000), which knows of finished messages too. Without
    one there is what its history tells; of a finished message its whole id finds the result, while that is kept.

    --follow ends when the message is done, dead or gone; with --json it prints one event on a line.
    """
    with place.inspector() as inspector:
        found = inspector.trace(message_id, queue)
        if not follow:
            _show(found, as_json=as_json)
            return
        seen = _tell(found, 0, as_json=as_json, first=True)
        for look in inspector.follow(found, every):
            found = look
            seen = _tell(found, seen, as_json=as_json)
    if not as_json and found.state != "done":
        click.echo(_now(found))


def _show(found: Traced, *, as_json: bool) -> None:
    if as_json:
        print_json(found.as_dict())
        return
    _show_facts(found)
    if found.events and (found.logged or not found.failures):
        click.echo()  # without a log it would say what the attempts say
        draw(_COLUMNS, _rows(found), whole=True)
    show_failures(found.failures)


def _show_facts(found: Traced) -> None:
    by = f" by {found.sender}" if found.sender else ""
    tried = f"{moment(found.first_retrieved)}, {age(found.first_retrieved)} ago" if found.first_retrieved else "never"
    kept = f"kept for {duration(found.result_kept)}" if found.result_kept is not None else ""
    known = found.events or not found.has_ended
    pairs = (
        ("id", found.id),
        ("call", f"{found.task}({found.args})" if found.task else "no call of a task" if known else ""),
        ("pushed", f"{moment(found.sent)}, {age(found.sent)} ago{by}, to queue {found.queue!r}"),
        ("first tried", "" if found.has_ended and not found.first_retrieved else tried),
        ("attempts", _attempts(found) if known else ""),
        ("now", _now(found)),
        ("result", kept),
    )
    facts(pairs)


def _attempts(found: Traced) -> str:
    return f"{found.attempts} of {found.max_attempts}" if found.max_attempts else f"{found.attempts}"


def _tell(found: Traced, seen: int, *, as_json: bool, first: bool = False) -> int:
    """Print the events that were not seen yet. → how many are now"""
    from psmq_tasks.inspection.tracing import event_as_dict

    if first and not as_json:
        _show_facts(found)
        click.echo()
    if as_json:
        for event in found.events[seen:]:
            print_json({**event_as_dict(event), "queue": found.queue, "state": found.state}, line=True)
    elif first or len(found.events) > seen:
        draw(_COLUMNS, _rows(found)[seen:], whole=True, header=first)
    return len(found.events)


def _rows(found: Traced) -> list[tuple[str, str, str]]:
    return [_row(event, before) for event, before in zip(found.events, (None, *found.events), strict=False)]


def _row(event: Event, before: Event | None) -> tuple[str, str, str]:
    after = duration(max((event.time - before.time).total_seconds(), 0.0)) if before is not None else "-"
    return f"{event.time.astimezone(UTC):%H:%M:%S.%f}"[:-3], after.replace("0.0s", "0ms"), _what(event)


def _what(event: Event) -> str:
    by = f" by {event.client}" if event.client else ""
    later = f"in {duration(event.seconds)}" if event.seconds else "at once"
    because = f": {_ATTEMPT.sub('', event.reason)}" if event.reason else ""
    if event.verb == "pushed":
        return f"pushed{by}" + (f", ready {later}" if event.seconds else "")
    if event.verb == "delivered":
        return f"attempt {event.attempt}" + (f", delivered to {event.client}" if event.client else "")
    if event.verb == "extended":
        return f"lease extended to {duration(event.seconds)}"
    if event.verb == "buried":
        return f"dead{because}"
    if event.verb != "released":
        return _WORDS.get(event.verb, event.verb).format(by=by, reason=event.reason)
    if event.how == "uncounted":
        return f"handed back, {later}, uncounted{because}"
    again = f", again {later}" if event.seconds is not None else ""
    return f"{'lost' if event.how == 'lost' else 'failed'}{again}{because}"


def _now(found: Traced) -> str:
    if found.state == "ready":
        return "ready: the next free worker gets it"
    if found.state == "dead":
        return f"dead since {moment(found.due)}: {found.reason} (psmq dead show {tail(found.id)})"
    if found.state in ("delayed", "leased"):
        left = duration(max((found.due - datetime.now(UTC)).total_seconds(), 0)) if found.due else "?"
        return f"delayed, ready in {left}" if found.state == "delayed" else f"leased, its lease ends in {left}"
    if found.state == "gone":
        return "finished" + (f": {found.reason}" if found.reason else "; its queue keeps no event log that says how")
    return found.state
