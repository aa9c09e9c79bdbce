"""``psmq retries``: what waits for another attempt; run at once, or given up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from psmq_tasks.cli.completing import waiting_ids
from psmq_tasks.cli.options import Number, json_option, place_options, queue_option
from psmq_tasks.cli.running import ListingGroup
from psmq_tasks.cli.showing import Column, counted, draw, duration, print_json, tail

if TYPE_CHECKING:
    from psmq_tasks.cli.place import Place
    from psmq_tasks.inspection import Mended, WaitingRetry

__all__ = ["retries"]


@click.group(cls=ListingGroup)
def retries() -> None:
    """Messages that wait for another attempt.

    Without a subcommand: list. IDs may be given by their last characters, as the table shows them.
    """


@retries.command("list")
@queue_option
@click.option("-n", "--limit", type=Number(0, 10**9), default=50, show_default=True, help="At most so many; 0: all.")
@json_option
@place_options
def list_retries(place: Place, *, queue: str | None, limit: int, as_json: bool) -> None:
    """List what waits, next first.

    NEXT is when the attempt begins, ATTEMPTS how many there were (of how many, where the message has a limit of its
    own). Below each: which part of its task's policy said so.
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
    notes = [retry.failures[-1].why if retry.failures else "" for retry in listing.items]
    draw(columns, [_row(retry, several=several) for retry in listing.items], notes)
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


@retries.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=waiting_ids)
@queue_option
@json_option
@place_options
def now(place: Place, *, ids: tuple[str, ...], queue: str | None, as_json: bool) -> None:
    """Make messages ready now (run at once, do not wait).

    The attempt is one of those they have left; nothing else changes. Delayed messages that were never tried are fine,
    too.
    """
    with place.inspector() as inspector:
        _report(inspector.hasten(inspector.resolve_waiting(ids, queue)), "ready", as_json=as_json)


@retries.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=waiting_ids)
@queue_option
@click.option("--reason", default="given up by hand", show_default=True, help="What the dead letter says.")
@json_option
@place_options
def bury(place: Place, *, ids: tuple[str, ...], queue: str | None, reason: str, as_json: bool) -> None:
    """Give up: make messages that wait dead letters.

    psmq dead redrive brings them back.
    """
    if not reason:
        raise click.UsageError("--reason must say why", click.get_current_context())
    with place.inspector() as inspector:
        _report(inspector.bury_waiting(inspector.resolve_waiting(ids, queue), reason), "buried", as_json=as_json)


def _report(mended: Mended, done: str, *, as_json: bool) -> None:
    if as_json:
        print_json({done: mended.done, "gone": list(mended.gone)})
        return
    click.echo(f"{counted(mended.done, 'message is', 'messages are')} {done}.")
    if mended.gone:
        click.echo(f"{len(mended.gone)} did not wait any more: their time had come.", err=True)
