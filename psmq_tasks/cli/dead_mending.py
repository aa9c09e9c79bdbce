"""``psmq dead redrive`` and ``purge``: sent back, or thrown away."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from psmq_tasks.cli.completing import dead_ids, queue_names
from psmq_tasks.cli.dead_commands import dead, filters
from psmq_tasks.cli.options import Number, Rate, confirm, dry_run_option, json_option, place_options, yes_option
from psmq_tasks.cli.running import FAILED, ExitWith
from psmq_tasks.cli.showing import counted, print_json, printable, progress, tail

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psmq_tasks.cli.place import Place
    from psmq_tasks.inspection import Calls, Filter, Inspector, Mended

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

    def __init__(
        self,
        inspector: Inspector,
        ids: tuple[str, ...],
        wanted: Filter,
        limit: int | None,
        finished: Sequence[str] = (),
    ) -> None:
        """``finished``: whole ids that an earlier run had begun, and that are done by now."""
        self.inspector = inspector
        self.wanted = wanted
        self.limit = limit
        left = [ending for ending in ids if not any(one.endswith(ending.lstrip("….")) for one in finished)]
        self.finished = len(ids) - len(left)
        self.chosen = (inspector.resolve(left, wanted.queue) if left else []) if ids else None

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
        if "count" in vars(self) or self.chosen is not None or self.wanted.is_empty:
            return self.count
        return None

    def __str__(self) -> str:
        words = counted(self.count, "dead letter")
        return f"{words} of queue {self.wanted.queue!r}" if self.wanted.queue else words


def _check(ids: tuple[str, ...], wanted: Filter, *, all_: bool, limit: int | None, verb: str) -> None:
    """Exactly one way of choosing."""
    if ids and (all_ or limit is not None or not wanted.is_empty):
        raise click.UsageError("give IDs, or --all or filters, not both", click.get_current_context())
    if not ids and not all_ and wanted.is_empty:
        raise click.UsageError(
            f"name what to {verb}: IDs, --all or filters (--task, --error, --since …)", click.get_current_context()
        )


#: what --unfinished goes with: where, and how it is told
_BESIDE_UNFINISHED: Final = {"unfinished", "queue", "yes", "as_json", "url", "db_dir", "namespace"}


def _check_alone(context: click.Context) -> None:
    """Nothing beside --unfinished that it would not heed: whoever typed it means something by it.

    A dry run, too: what becomes of a letter on its way is decided by asking for it, and not before.
    """
    given = [
        param.opts[0] if isinstance(param, click.Option) else "IDs"
        for param in context.command.params
        if param.name not in _BESIDE_UNFINISHED and context.params.get(param.name or "") not in (None, False, ())
    ]
    if given:
        hint = "; psmq doctor shows what is on its way" if "--dry-run" in given else ""
        raise click.UsageError(f"--unfinished goes with --queue only, not with {', '.join(given)}{hint}", context)


def _report(choice: _Choice, done: str, mended: Mended | None, *, as_json: bool, to: str | None = None) -> None:
    """``mended`` None: it was a dry run."""
    gone = list(mended.gone) if mended else []
    stayed = mended.stayed if mended else {}
    count = choice.finished + mended.done if mended else 0
    found = count + len(gone) + len(stayed) if mended else choice.count
    there = "" if to is None else f" to queue {to!r}"
    if as_json:
        why = ({} if to is None else {"to": to}) | ({"stayed": stayed} if done == "redriven" else {})
        print_json({done: count, "found": found, "gone": gone, "dry_run": mended is None, **why})
    elif not found:
        click.echo(f"No dead letters fit: nothing is {done}.")
    elif mended is None:
        click.echo(f"{choice} would be {done}{there}.")
    else:
        click.echo(f"{counted(count, 'dead letter')} {done}{there}.")
        if mended.gone:
            click.echo(f"{len(mended.gone)} had gone before: someone else was faster.", err=True)
        for reason, number in Counter(stayed.values()).most_common():
            example = next(one for one, why in stayed.items() if why == reason)
            click.echo(printable(f"{counted(number, 'stays', 'stay')} dead ({tail(example)}): {reason}"), err=True)


def _show_finished(finished: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"finished": finished})
        return
    if finished:
        click.echo(f"{counted(len(finished), 'dead letter has', 'dead letters have')} reached the other queue.")
    else:
        click.echo("No dead letter was on its way to another queue.")


@dead.command()
@click.option("--to", metavar="QUEUE", help="Into this queue, signed anew.", shell_complete=queue_names)
@click.option("--keep-attempts", is_flag=True, help="Do not count anew: one more attempt only.")
@click.option("--rate", type=Rate(), metavar="NUMBER", help="At most so many in a second.")
@click.option("--unfinished", is_flag=True, help="Only complete what was broken off on its way to another queue.")
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
    to: str | None,
    keep_attempts: bool,
    rate: float | None,
    unfinished: bool,
) -> None:
    """Send dead letters back to work (requeue, retry, replay).

    Asks first where --all or filters choose. They are ready again in their queue, with the same id and their history;
    attempts count anew. It may be broken off at any moment: each letter is then either dead or ready, and the same
    command goes on with the rest. On its way to another queue (--to) a letter may be in neither; the same command, or
    --unfinished, completes that.
    """
    if not unfinished:
        _check(ids, wanted, all_=all_, limit=limit, verb="redrive")
    else:
        _check_alone(click.get_current_context())
    with place.inspector() as inspector:
        if to is not None:
            inspector.manager.queue_info(to)  # it must be there
        finished: list[str] = []
        if unfinished or (to is not None and not dry_run):
            finished = [one for _, one in inspector.finish_transfers(wanted.queue)]
        if unfinished:
            _show_finished(finished, as_json=as_json)
            return
        if finished and not ids:
            click.echo(f"Before that: {len(finished)} that an earlier redrive had left on their way.", err=True)
        choice = _Choice(inspector, ids, wanted, limit, finished)
        mended: Mended | None = None
        if not dry_run:
            calls = None if to is None else _calls(place)
            if choice.chosen is None and not yes and choice.count:
                confirm(f"Redrive {choice}{'' if to is None else f' to queue {to!r}'}?")
            with progress("redriving", choice.estimate) as on_batch:
                if choice.chosen is not None:
                    mended = inspector.redrive(
                        choice.chosen, to=to, calls=calls, keep_attempts=keep_attempts, rate=rate, on_batch=on_batch
                    )
                else:
                    mended = inspector.redrive_all(
                        wanted,
                        to=to,
                        calls=calls,
                        limit=limit,
                        keep_attempts=keep_attempts,
                        rate=rate,
                        on_batch=on_batch,
                    )
        _report(choice, "redriven", mended, as_json=as_json, to=to)
        for name in mended.queues if mended else ():
            if not inspector.manager.queue_info(name).consumers:
                click.echo(f"Nothing serves queue {name!r} now: start a worker (psmq-worker APP).", err=True)
        if mended and mended.stayed:
            raise ExitWith(FAILED)


def _calls(place: Place) -> Calls | None:
    """The key that vouches for calls in their new queue; None: there is none here, and none may be needed."""
    from psmq_tasks.errors import SecretMissing

    try:
        return place.calls()
    except SecretMissing:
        return None


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
                confirm(f"Delete {choice} for good?")
            if choice.chosen is not None:
                mended = inspector.purge(choice.chosen)
            else:
                with progress("purging", choice.estimate) as on_batch:
                    mended = inspector.purge_all(wanted, limit=limit, on_batch=on_batch)
        _report(choice, "purged", mended, as_json=as_json)
