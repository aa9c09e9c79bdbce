"""``psmq retries``: what waits for another attempt."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from psmq_tasks.cli.options import Number, Place, json_option, place_options, queue_option
from psmq_tasks.cli.running import ListingGroup
from psmq_tasks.cli.showing import Column, draw, duration, print_json, tail

if TYPE_CHECKING:
    from psmq_tasks.inspection import WaitingRetry

__all__ = ["retries"]


@click.group(cls=ListingGroup)
def retries() -> None:
    """Messages that wait for another attempt.

    Without a subcommand: list.
    """


@retries.command("list")
@queue_option
@click.option("--limit", type=Number(0, 10**9), default=50, show_default=True, help="At most so many; 0: all.")
@json_option
@place_options
def list_retries(place: Place, *, queue: str | None, limit: int, as_json: bool) -> None:
    """List what waits, next first.

    NEXT is when the attempt begins, ATTEMPTS how many there were (of how many, where the message has a limit of its
    own).
    """
    with place.inspector() as inspector:
        listing = inspector.retries(queue, limit or None)
    if as_json:
        print_json({"retries": [retry.as_dict() for retry in listing.items], "total": listing.total})
        return
    if not listing.items:
        click.echo("Nothing waits for another attempt.", err=True)
        return
    several = len({retry.queue for retry in listing.items}) > 1
    columns = [Column("ID"), Column("NEXT", right=True), Column("ATTEMPTS", right=True)]
    columns += [Column("QUEUE", gives="end")] * several
    columns += [Column("CALL", gives="end"), Column("LAST ERROR", gives="end")]
    draw(columns, [_row(retry, several=several) for retry in listing.items])
    if listing.total > len(listing.items):
        click.echo(f"{len(listing.items)} of {listing.total} are shown; --limit 0 shows all.", err=True)


def _row(retry: WaitingRetry, *, several: bool) -> list[str]:
    seconds = (retry.due - datetime.now(UTC)).total_seconds()
    attempts = f"{retry.attempts}/{retry.max_attempts}" if retry.max_attempts else f"{retry.attempts}"
    row = [tail(retry.id), "now" if seconds <= 0 else duration(seconds), attempts]
    return [*row, *([retry.queue] if several else []), f"{retry.task}({retry.args})", _last_error(retry)]


def _last_error(retry: WaitingRetry) -> str:
    if retry.unknown_since is not None:
        return "no worker that got it knows this task"
    if not retry.failures:
        return ""
    last = retry.failures[-1]
    return f"{last.type}: {last.message}" if last.type else last.message
