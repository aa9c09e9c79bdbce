"""``psmq dead``: what failed for good; looked at, sent back, or thrown away."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from psmq_tasks.cli.dead_letter import show_letter
from psmq_tasks.cli.options import (
    Number,
    Place,
    confirm,
    dry_run_option,
    json_option,
    place_options,
    queue_option,
    yes_option,
)
from psmq_tasks.cli.running import ListingGroup
from psmq_tasks.cli.showing import Column, age, draw, print_json, tail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from psmq_tasks.inspection import DeadTask, Filter, Inspector, Mended

__all__ = ["dead"]

F = TypeVar("F", bound="Callable[..., Any]")

#: rows of one table; more come in several
_PER_TABLE: Final = 500


@click.group(cls=ListingGroup)
def dead() -> None:
    """Dead letters: what failed for good.

    Without a subcommand: list. IDs may be given by their last characters, as the tables show them.
    """


def filters(command: F) -> F:
    """``--queue --task --error``: which letters are meant."""
    for option in (
        click.option("--error", metavar="TEXT", help="Only those whose last error or reason contains this."),
        click.option("--task", metavar="GLOB", help="Only this task: hello:greet, greet, 'mail.*'."),
        queue_option,
    ):
        command = option(command)
    return command


def _filter(queue: str | None, task: str | None, error: str | None) -> Filter:
    from psmq_tasks.inspection import Filter

    return Filter(queue=queue, task=task, error=error)


@dead.command("list")
@filters
@click.option("--limit", type=Number(0, 10**9), default=50, show_default=True, help="The newest so many; 0: all.")
@json_option
@place_options
def list_dead(
    place: Place, *, queue: str | None, task: str | None, error: str | None, limit: int, as_json: bool
) -> None:
    """List dead letters, the newest at the bottom."""
    wanted = _filter(queue, task, error)
    with place.inspector() as inspector:
        if limit:
            listing = inspector.newest_dead(wanted, limit)
            found: Iterable[DeadTask] = listing.items
            total: int | None = listing.total
        else:
            found, total = inspector.dead(wanted), None
        if as_json:
            _print_json(found, total)
            return
        shown = _draw(found, one_queue=queue is not None)
    if not shown:
        click.echo("No dead letters" + (" fit." if wanted.queue or not wanted.is_empty else "."), err=True)
    elif total is not None and total > shown:
        click.echo(f"The newest {shown} of {total} are shown; --limit 0 shows all.", err=True)


def _print_json(found: Iterable[DeadTask], total: int | None) -> None:
    """One document, written as it is read: any number of letters takes the memory of one page."""
    import json

    click.echo('{"dead": [', nl=False)
    count = 0
    for one in found:
        click.echo((", " if count else "") + json.dumps(one.as_dict()), nl=False)
        count += 1
    click.echo(f'], "total": {count if total is None else total}}}')


def _draw(found: Iterable[DeadTask], *, one_queue: bool) -> int:
    from itertools import islice

    columns = [Column("ID"), Column("AGE", right=True), Column("ATTEMPTS", right=True)]
    columns += [] if one_queue else [Column("QUEUE", gives="end")]
    columns += [Column("TASK", gives="start"), Column("REASON", gives="end")]
    reading, shown = iter(found), 0
    while page := list(islice(reading, _PER_TABLE)):
        draw(
            columns,
            [
                (
                    tail(one.id),
                    age(one.buried),
                    f"{one.attempts}",
                    *([] if one_queue else [one.queue]),
                    one.task or "-",
                    one.reason,
                )
                for one in page
            ],
        )
        shown += len(page)
    return shown


@dead.command()
@click.argument("message_id", metavar="ID")
@queue_option
@json_option
@place_options
def show(place: Place, *, message_id: str, queue: str | None, as_json: bool) -> None:
    """Show one dead letter in full.

    What was called, each attempt, the last traceback. ID may be the end of the id.
    """
    with place.inspector() as inspector:
        found = inspector.find(message_id, queue)
    if as_json:
        print_json(found.as_dict())
    else:
        show_letter(found)


def choosing(verb: str) -> Callable[[F], F]:
    """IDs, or --all, or filters; --limit, --dry-run, -y, --json."""

    def decorate(command: F) -> F:
        for option in (
            place_options,
            json_option,
            yes_option,
            dry_run_option,
            click.option("--limit", type=Number(1, 10**9), help=f"{verb} at most so many, oldest first."),
            filters,
            click.option("--all", "all_", is_flag=True, help=f"{verb} all (of --queue)."),
            click.argument("ids", metavar="[ID]...", nargs=-1),
        ):
            command = option(command)
        return command

    return decorate


class _Choice:
    """What a redrive or purge was asked to act on."""

    def __init__(self, inspector: Inspector, ids: tuple[str, ...], wanted: Filter, limit: int | None) -> None:
        self.inspector = inspector
        self.wanted = wanted
        self.limit = limit
        self.chosen = inspector.resolve(ids, wanted.queue) if ids else None

    @cached_property
    def count(self) -> int:
        """How many are meant; looked for only where somebody wants to know first."""
        if self.chosen is not None:
            return len(self.chosen)
        found = self.inspector.count_dead(self.wanted)
        return found if self.limit is None else min(self.limit, found)

    def __str__(self) -> str:
        words = "1 dead letter" if self.count == 1 else f"{self.count} dead letters"
        return f"{words} of queue {self.wanted.queue!r}" if self.wanted.queue else words


def _check(ids: tuple[str, ...], wanted: Filter, *, all_: bool, limit: int | None, verb: str) -> None:
    """Exactly one way of choosing."""
    if ids and (all_ or limit is not None or not wanted.is_empty):
        raise click.UsageError("give IDs, or --all or filters, not both", click.get_current_context())
    if not ids and not all_ and wanted.is_empty:
        raise click.UsageError(f"name what to {verb}: IDs, --all, --task or --error", click.get_current_context())


def _report(choice: _Choice, done: str, mended: Mended | None, *, as_json: bool) -> None:
    """``mended`` None: it was a dry run."""
    gone = list(mended.gone) if mended else []
    found = mended.done + len(gone) if mended else choice.count
    if as_json:
        print_json({done: mended.done if mended else 0, "found": found, "gone": gone, "dry_run": mended is None})
    elif not found:
        click.echo(f"No dead letters fit: nothing is {done}.")
    elif mended is None:
        click.echo(f"{choice} would be {done}.")
    else:
        words = "1 dead letter" if mended.done == 1 else f"{mended.done} dead letters"
        click.echo(f"{words} {done}.")
        if mended.gone:
            click.echo(f"{len(mended.gone)} had gone before: someone else was faster.", err=True)


@dead.command()
@click.option("--keep-attempts", is_flag=True, help="Do not count anew: one more attempt only.")
@choosing("Redrive")
def redrive(
    place: Place,
    *,
    ids: tuple[str, ...],
    all_: bool,
    queue: str | None,
    task: str | None,
    error: str | None,
    limit: int | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    keep_attempts: bool,
) -> None:
    """Send dead letters back to work (requeue, retry, replay).

    They are ready again in their queue, with the same id and their history; attempts count anew.
    """
    wanted = _filter(queue, task, error)
    _check(ids, wanted, all_=all_, limit=limit, verb="redrive")
    with place.inspector() as inspector:
        choice = _Choice(inspector, ids, wanted, limit)
        mended: Mended | None = None
        if not dry_run:
            if choice.chosen is not None:
                mended = inspector.redrive(choice.chosen, keep_attempts=keep_attempts)
            else:
                if not yes and choice.count:
                    confirm(f"Redrive {choice}?", yes=yes)
                mended = inspector.redrive_all(wanted, limit=limit, keep_attempts=keep_attempts)
        _report(choice, "redriven", mended, as_json=as_json)
        for name in mended.queues if mended else ():
            if not inspector.manager.queue_info(name).consumers:
                click.echo(f"Nothing serves queue {name!r} now: start a worker (psmq-worker APP).", err=True)


@dead.command()
@choosing("Purge")
def purge(
    place: Place,
    *,
    ids: tuple[str, ...],
    all_: bool,
    queue: str | None,
    task: str | None,
    error: str | None,
    limit: int | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete dead letters for good.

    Asks first; there is no way back.
    """
    wanted = _filter(queue, task, error)
    _check(ids, wanted, all_=all_, limit=limit, verb="purge")
    with place.inspector() as inspector:
        choice = _Choice(inspector, ids, wanted, limit)
        mended: Mended | None = None
        if not dry_run:
            if not yes and choice.count:
                confirm(f"Delete {choice} for good?", yes=yes)
            if choice.chosen is not None:
                mended = inspector.purge(choice.chosen)
            else:
                mended = inspector.purge_all(wanted, limit=limit)
        _report(choice, "purged", mended, as_json=as_json)
