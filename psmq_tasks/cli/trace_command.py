"""``psmq trace``: the life of one message."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from psmq_tasks.cli.options import Place, json_option, place_options, queue_option
from psmq_tasks.cli.showing import age, duration, moment, print_json, printable

if TYPE_CHECKING:
    from psmq_tasks.inspection import Traced

__all__ = ["trace"]


@click.command()
@click.argument("message_id", metavar="ID")
@queue_option
@json_option
@place_options
def trace(place: Place, *, message_id: str, queue: str | None, as_json: bool) -> None:
    """Tell the life of one message so far.

    ID may be the end of the id. A message that is finished has left no trace here: its result says how it went.
    """
    from psmq_tasks.cli.dead_letter import draw_attempts

    with place.inspector() as inspector:
        found = inspector.trace(message_id, queue)
    if as_json:
        print_json(found.as_dict())
        return
    what = f"{found.task}({found.args})" if found.task else "no call of a task"
    by = f" by {found.sender}" if found.sender else ""
    tried = f"{moment(found.first_retrieved)}, {age(found.first_retrieved)} ago" if found.first_retrieved else "never"
    for name, value in (
        ("id", found.id),
        ("call", what),
        ("pushed", f"{moment(found.sent)}, {age(found.sent)} ago,{by} to queue {found.queue!r}"),
        ("first tried", tried),
        ("attempts", f"{found.attempts}" + (f" of {found.max_attempts}" if found.max_attempts else "")),
        ("now", _now(found)),
    ):
        click.echo(f"{name:<11}  {printable(value)}")
    if found.failures:
        click.echo()
        draw_attempts(found.failures)


def _now(found: Traced) -> str:
    if found.due is None:
        return "ready: the next free worker gets it"
    if found.state == "dead":
        return f"dead since {moment(found.due)}: {found.reason}"
    left = duration(max((found.due - datetime.now(UTC)).total_seconds(), 0))
    return f"delayed, ready in {left}" if found.state == "delayed" else f"leased, its lease ends in {left}"
