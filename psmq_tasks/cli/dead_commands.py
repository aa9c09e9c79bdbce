"""``psmq dead list`` and ``show``: what failed for good, looked at. dead_mending.py has what is done about it."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from psmq_tasks.cli.completing import dead_ids, task_names
from psmq_tasks.cli.dead_letter import body_as, show_letter
from psmq_tasks.cli.options import Moment, Number, json_option, place_options, queue_option
from psmq_tasks.cli.running import ListingGroup, Problem
from psmq_tasks.cli.showing import Column, age, draw, looking, print_json, tail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from psmq_tasks.cli.dead_letter import BodyForm
    from psmq_tasks.cli.place import Place
    from psmq_tasks.inspection import DeadTask, Filter, Group
    from psmq_tasks.inspection.letters import Key

__all__ = ["dead", "filters"]

F = TypeVar("F", bound="Callable[..., Any]")

#: rows of one table; more come in several
_PER_TABLE: Final = 500


@click.group(cls=ListingGroup)
def dead() -> None:
    """Dead letters: what failed for good.

    Without a subcommand: list. IDs may be given by their last characters, as the tables show them.
    """


def filters(command: F) -> F:
    """``--queue --task --error --reason --since --until``: which letters are meant, handed over as ``wanted``."""

    @queue_option
    @click.option(
        "--task", metavar="GLOB", help="Only this task: hello:greet, greet, 'mail.*'.", shell_complete=task_names
    )
    @click.option("--error", metavar="TEXT", help="Only those whose last error or reason contains this.")
    @click.option("--reason", metavar="TEXT", help="Only those whose reason contains this.")
    @click.option("--since", metavar="TIME", type=Moment(), help="Died then or later: 5m, 2h, 1d ago, or ISO 8601.")
    @click.option("--until", "--older-than", metavar="TIME", type=Moment(), help="Died before then.")
    @functools.wraps(command)
    def with_filter(
        *args: Any,
        queue: str | None,
        task: str | None,
        error: str | None,
        reason: str | None,
        since: datetime | None,
        until: datetime | None,
        **options: Any,
    ) -> Any:
        from psmq_tasks.inspection import Filter

        wanted = Filter(queue=queue, task=task, error=error, reason=reason, since=since, until=until)
        return command(*args, wanted=wanted, **options)

    return with_filter  # type: ignore[return-value]  # click wraps it anyway


@dead.command("list")
@filters
@click.option(
    "--group-by", type=click.Choice(["error", "task", "queue", "reason"]),
    help="Count them by what they have in common, the most first.",
)  # fmt: skip
@click.option("-n", "--limit", type=Number(0, 10**9), default=50, show_default=True, help="The newest so many; 0: all.")
@click.option("--skip", type=Number(0, 10**6), default=0, metavar="NUMBER", help="Leave out the newest so many.")
@json_option
@place_options
def list_dead(place: Place, *, wanted: Filter, group_by: Key | None, limit: int, skip: int, as_json: bool) -> None:
    """List dead letters, the newest at the bottom.

    What they have in common is found with --group-by error; the filters then choose one group, here as in redrive and
    purge.
    """
    with place.inspector() as inspector:
        if group_by is not None:
            with looking():
                groups = inspector.group_dead(wanted, group_by)
            _show_groups(groups, group_by, as_json=as_json)
            return
        if limit:
            with contextlib.nullcontext() if wanted.is_empty else looking():  # without filters it is quick
                listing = inspector.newest_dead(wanted, limit + skip)
            found: Iterable[DeadTask] = listing.items[: len(listing.items) - skip] if skip else listing.items
            total: int | None = listing.total
        else:
            found, total = inspector.dead(wanted), None
        if as_json:
            _print_json(found, total)
            return
        shown = _draw(found, one_queue=wanted.queue is not None)
    if not shown:
        click.echo("No dead letters" + (" fit." if wanted.queue or not wanted.is_empty else "."), err=True)
    elif total is not None and total > shown:
        rest = f"{shown} of {total} are shown" if skip else f"The newest {shown} of {total} are shown"
        older = f"; --skip {skip + shown} shows older ones" if total > shown + skip else ""
        click.echo(f"{rest}; --limit 0 shows all{older}.", err=True)


def _show_groups(groups: list[Group], by: Key, *, as_json: bool) -> None:
    if as_json:
        print_json({"groups": [group.as_dict() for group in groups], "total": sum(group.count for group in groups)})
        return
    if not groups:
        click.echo("No dead letters fit.", err=True)
        return
    columns = [Column("COUNT", right=True), Column("NEWEST", right=True), Column(by.upper(), gives="end")]
    columns += [Column("ID"), *([] if by == "reason" else [Column("REASON", gives="end")])]
    draw(
        columns,
        [
            (
                f"{group.count}",
                age(group.newest),
                group.key or "-",
                tail(group.example.id),
                *([] if by == "reason" else [group.example.reason]),
            )
            for group in groups
        ],
    )
    click.echo("ID and REASON are those of the newest: psmq dead show ID tells more.", err=True)


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
@click.argument("message_id", metavar="ID", shell_complete=dead_ids)
@queue_option
@click.option("--body", type=click.Choice(["text", "json", "hex"]), help="Print its data and nothing else.")
@click.option(
    "--decode", is_flag=True, help="Unpickle the arguments, if your key signed them: that may run their code."
)
@click.option("--original", is_flag=True, help="With --body or --decode: what it was before psmq dead edit.")
@json_option
@place_options
def show(
    place: Place,
    *,
    message_id: str,
    queue: str | None,
    body: BodyForm | None,
    decode: bool,
    original: bool,
    as_json: bool,
) -> None:
    """Show one dead letter in full.

    What was called, each attempt, the last traceback. ID may be the end of the id.
    """
    from psmq_tasks.inspection import unedited
    from psmq_tasks.inspection.records import data_as_dict

    if original and body is None and not decode:
        raise click.UsageError("--original goes with --body or --decode", click.get_current_context())
    with place.inspector() as inspector:
        found = inspector.find(message_id, queue)
        before = unedited(found)
        if original:
            if before is None:
                raise Problem("it was not edited, or its original was not kept")
            found = before
        if body is not None:
            click.echo(body_as(found, body))
            return
        call = place.calls().open(found) if decode else None
    if as_json:
        kept = {"original": data_as_dict(before.data or b"") if before is not None else None}
        print_json(found.as_dict() | kept | ({"decoded": call.as_dict()} if call else {}))
    else:
        show_letter(found, call, original=original)
        if before is not None and not original:
            click.echo(f"psmq dead show {tail(found.id)} --original --decode shows what it was before.", err=True)
