"""``psmq dead redrive`` and ``purge``: sent back, or thrown away."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import click

from psmq_tasks.cli.completing import dead_ids
from psmq_tasks.cli.dead_commands import dead, filters
from psmq_tasks.cli.options import (
    Number,
    Place,
    Rate,
    confirm,
    dry_run_option,
    json_option,
    place_options,
    yes_option,
)
from psmq_tasks.cli.showing import print_json, progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from psmq_tasks.inspection import Filter, Inspector, Mended

__all__ = ["purge", "redrive"]

F = TypeVar("F", bound="Callable[..., Any]")


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
            click.argument("ids", metavar="[ID]...", nargs=-1, shell_complete=dead_ids),
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

    @property
    def estimate(self) -> int | None:
        """The count, where it is known or cheap; else None."""
        if "count" in vars(self) or self.wanted.is_empty:
            return self.count
        return None

    def __str__(self) -> str:
        words = "1 dead letter" if self.count == 1 else f"{self.count} dead letters"
        return f"{words} of queue {self.wanted.queue!r}" if self.wanted.queue else words


def _check(ids: tuple[str, ...], wanted: Filter, *, all_: bool, limit: int | None, verb: str) -> None:
    """Exactly one way of choosing."""
    if ids and (all_ or limit is not None or not wanted.is_empty):
        raise click.UsageError("give IDs, or --all or filters, not both", click.get_current_context())
    if not ids and not all_ and wanted.is_empty:
        raise click.UsageError(
            f"name what to {verb}: IDs, --all or filters (--task, --error, --since …)", click.get_current_context()
        )


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
@click.option("--rate", type=Rate(), metavar="NUMBER", help="At most so many in a second.")
@choosing("Redrive")
def redrive(
    place: Place,
    *,
    ids: tuple[str, ...],
    all_: bool,
    wanted: Filter,
    limit: int | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    keep_attempts: bool,
    rate: float | None,
) -> None:
    """Send dead letters back to work (requeue, retry, replay).

    They are ready again in their queue, with the same id and their history; attempts count anew. It may be broken off
    at any moment: each letter is then either dead or ready, and the same command goes on with the rest.
    """
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
                with progress("redriving", choice.estimate) as on_batch:
                    mended = inspector.redrive_all(
                        wanted, limit=limit, keep_attempts=keep_attempts, rate=rate, on_batch=on_batch
                    )
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
    wanted: Filter,
    limit: int | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete dead letters for good.

    Asks first. psmq dead export writes them to a file before, from which psmq dead import brings them back.
    """
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
                with progress("purging", choice.estimate) as on_batch:
                    mended = inspector.purge_all(wanted, limit=limit, on_batch=on_batch)
        _report(choice, "purged", mended, as_json=as_json)
