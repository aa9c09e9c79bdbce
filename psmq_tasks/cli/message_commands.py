"""``psmq push``, ``get``, ``purge``: messages by hand."""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING

import click

from psmq_tasks.cli.completing import queue_names
from psmq_tasks.cli.options import (
    Number,
    Seconds,
    Span,
    confirm,
    dry_run_option,
    json_option,
    place_options,
    yes_option,
)
from psmq_tasks.cli.running import FAILED, ExitWith
from psmq_tasks.cli.showing import counted, print_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psmq_tasks.cli.place import Place

__all__ = ["get", "purge", "push"]


@click.command()
@click.argument("queue", shell_complete=queue_names)
@click.argument("data", required=False)
@click.option("--delay", type=Span(), metavar="DURATION", help="Ready after this: 90s, 5m, 2h.")
@click.option("--ttl", type=Span(), metavar="DURATION", help="Dropped if nobody got it by then.")
@click.option("--priority", type=Number(-100, 100), default=0, show_default=True, help="-100 to 100, higher first.")
@click.option("--metadata", metavar="KEY=VALUE", multiple=True, help="Noted beside the data; repeatable.")
@click.option("--deduplication-id", metavar="ID", help="Of two with the same the second is not stored.")
@json_option
@place_options
def push(
    place: Place,
    *,
    queue: str,
    data: str | None,
    delay: float | None,
    ttl: float | None,
    priority: int,
    metadata: tuple[str, ...],
    deduplication_id: str | None,
    as_json: bool,
) -> None:
    """Store DATA, or each line of stdin, in QUEUE.

    The queue is made if there is none of that name. A call of a task that takes unsigned ones is
    {"task": "module:name", "args": [...], "kwargs": {...}}.
    """
    from psmq import NewMessage

    like = NewMessage(
        b"",
        delay=delay,
        ttl=ttl,
        priority=priority,
        metadata=dict(_pair(text) for text in metadata) or None,
        deduplication_id=deduplication_id,
    )
    if data is None and sys.stdin.isatty():
        raise click.UsageError("give DATA, or lines on stdin", click.get_current_context())
    bodies: Iterable[bytes]
    if data is not None:
        bodies = [data.encode("utf-8", "surrogateescape")]
    else:
        bodies = (line.rstrip(b"\r\n") for line in sys.stdin.buffer)
    if deduplication_id is not None:
        bodies = list(islice(bodies, 2))
        if len(bodies) > 1:
            raise click.UsageError(
                "--deduplication-id is that of one message: of several lines on stdin only the first would be stored",
                click.get_current_context(),
            )
    with place.manager() as manager:
        ids = manager.get_queue(queue).push_many(like._replace(data=body) for body in bodies)
    if as_json:
        print_json({"ids": ids})
        return
    if not ids:
        click.echo("There was nothing on stdin, so nothing was pushed.", err=True)
    for message_id in ids:
        click.echo(message_id)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.UsageError(f"--metadata takes KEY=VALUE, not {text!r}", click.get_current_context())
    return key, value


@click.command()
@click.argument("queue", shell_complete=queue_names)
@click.option("-n", "--limit", type=Number(1, 1000), default=1, show_default=True, help="At most so many.")
@click.option("--wait", type=Seconds(0, 86_400), default=0, metavar="SECONDS", help="Wait so long for the first.")
@click.option("--release", is_flag=True, help="Hand them back, uncounted, instead of deleting them.")
@json_option
@place_options
def get(place: Place, *, queue: str, limit: int, wait: float, release: bool, as_json: bool) -> None:
    """Get messages of QUEUE, print their data, and delete them.

    One message a line; what cannot be written to stdout is not deleted. Exit status 1: there was none. psmq peek shows
    without taking.
    """
    from psmq_tasks.inspection.records import queued_message

    with place.manager() as manager:
        found = manager.find_queue(queue)
        messages = found.get_many(limit, wait=wait)
        if as_json:
            print_json({"messages": [queued_message(message.record, "leased").as_dict() for message in messages]})
        else:
            for message in messages:
                click.echo(message.data)
        sys.stdout.flush()
        for message in messages:
            if release:
                message.release(count=False)
            else:
                message.delete()
        paused = not messages and found.info().paused
    if not messages:
        word = f"is paused: psmq resume {queue} ends that" if paused else "has nothing ready"
        click.echo(f"Queue {queue!r} {word}.", err=True)
        raise ExitWith(FAILED)


@click.command()
@click.argument("queue", shell_complete=queue_names)
@click.option(
    "--state", "states", type=click.Choice(["ready", "delayed", "leased", "dead"]), multiple=True,
    default=("ready", "delayed"), show_default=True, help="Which messages; repeatable.",
)  # fmt: skip
@yes_option
@dry_run_option
@json_option
@place_options
def purge(place: Place, *, queue: str, states: tuple[str, ...], yes: bool, dry_run: bool, as_json: bool) -> None:
    """Delete the messages of QUEUE for good.

    Asks first. The queue itself stays; psmq dead purge deletes dead letters by filter.
    """
    with place.manager() as manager:
        found = manager.find_queue(queue)
        info = found.info()
        count = sum(getattr(info, state) for state in set(states))
        words = counted(count, f"{' and '.join(dict.fromkeys(states))} message") + f" of queue {queue!r}"
        if not dry_run and not yes and count:
            confirm(f"Delete {words} for good?")
        purged = 0 if dry_run else found.purge(states=tuple(dict.fromkeys(states)))  # type: ignore[arg-type]  # click checked them
    if as_json:
        print_json({"purged": purged, "found": count, "dry_run": dry_run})
    elif dry_run:
        click.echo(f"{words} would be deleted.")
    else:
        click.echo(f"{counted(purged, 'message')} deleted.")
