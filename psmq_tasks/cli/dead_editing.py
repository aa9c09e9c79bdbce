"""``psmq dead edit``, ``export`` and ``import``: other arguments for a dead letter; letters in files, and back."""

from __future__ import annotations

import json
import tempfile
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

import click

from psmq_tasks.cli.completing import dead_ids
from psmq_tasks.cli.dead_commands import dead, filters
from psmq_tasks.cli.options import json_option, place_options, queue_option
from psmq_tasks.cli.showing import counted, print_json, printable, progress, tail

if TYPE_CHECKING:
    from psmq_tasks.cli.place import Place
    from psmq_tasks.inspection import Filter

__all__ = ["edit", "export", "import_"]


@dead.command()
@click.argument("message_id", metavar="ID", shell_complete=dead_ids)
@queue_option
@click.option("--set", "values", metavar="NAME=JSON", multiple=True, help="Give this argument this value; repeatable.")
@click.option(
    "--json-args", metavar="FILE", type=click.File("r"),
    help='Replace all: a list, or {"args": […], "kwargs": {…}}; - reads it from stdin.',
)  # fmt: skip
@click.option("--redrive", is_flag=True, help="And send it back to work, in the same step.")
@click.option("--drop-original", is_flag=True, help="Do not keep the original call in the history.")
@json_option
@place_options
def edit(
    place: Place,
    *,
    message_id: str,
    queue: str | None,
    values: tuple[str, ...],
    json_args: IO[str] | None,
    redrive: bool,
    drop_original: bool,
    as_json: bool,
) -> None:
    """Change the arguments of a dead letter.

    NAME is a parameter, or a position (0, 1 …). The call is verified, unpickled, and signed anew with your key; its
    history keeps the original, who changed it and when.
    """
    changed = dict(_pair(text) for text in values)
    args, kwargs = _all_arguments(json_args) if json_args is not None else (None, None)
    if not changed and json_args is None:
        raise click.UsageError("say what to change: --set NAME=JSON or --json-args FILE", click.get_current_context())
    with place.inspector() as inspector:
        letter = inspector.find(message_id, queue)
        change = place.calls().change(letter, changed, args=args, kwargs=kwargs, keep_original=not drop_original)
        inspector.amend(letter, change, redrive=redrive)
    if as_json:
        print_json({"edited": letter.id, "args": change.metadata.get("args", ""), "redriven": redrive})
        return
    shown = change.metadata.get("args", "…" if change.shown else "")
    click.echo(printable(f"{letter.task}({shown})") + (" is redriven." if redrive else " is stored."))
    if not redrive:
        click.echo(f"psmq dead redrive {tail(letter.id)} sends it back to work.", err=True)


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--set takes NAME=JSON, not {text!r}", click.get_current_context())
    try:
        return name, json.loads(value)
    except ValueError:
        raise click.UsageError(
            f"--set {name}: {value!r} is no JSON; a string is {name}='{json.dumps(value)}'", click.get_current_context()
        ) from None


def _all_arguments(file: IO[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        found: Any = json.load(file)
    except ValueError as error:
        raise click.UsageError(f"--json-args: that is no JSON: {error}", click.get_current_context()) from None
    if isinstance(found, list):
        return tuple(found), {}
    if isinstance(found, dict) and found and found.keys() <= {"args", "kwargs"}:
        args, kwargs = found.get("args", []), found.get("kwargs", {})
        if isinstance(args, list) and isinstance(kwargs, dict):
            return tuple(args), kwargs
    raise click.UsageError('--json-args takes a list, or {"args": […], "kwargs": {…}}', click.get_current_context())


@dead.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, shell_complete=dead_ids)
@filters
@click.option(
    "-o", "--output", metavar="FILE", type=click.File("w", atomic=True), default="-",
    help="Write there; the file is there when it is whole.",
)  # fmt: skip
@place_options
def export(place: Place, *, ids: tuple[str, ...], wanted: Filter, output: IO[str]) -> None:
    """Write dead letters as JSON lines: all, those that fit, or IDs.

    psmq dead import brings them back, with their ids and histories. They stay where they are.
    """
    if ids and not wanted.is_empty:
        raise click.UsageError("give IDs or filters, not both", click.get_current_context())
    count = 0
    with place.inspector() as inspector:
        lines = inspector.export_ids(inspector.resolve(ids, wanted.queue)) if ids else inspector.export(wanted)
        for line in lines:
            output.write(f"{line}\n")
            count += 1
    click.echo(f"{counted(count, 'dead letter')} exported.", err=True)


@dead.command("import")
@click.argument("file", type=click.File("r"), default="-")
@json_option
@place_options
def import_(place: Place, *, file: IO[str], as_json: bool) -> None:
    """Bring back dead letters from a FILE that psmq dead export wrote.

    Without FILE, from stdin. They are dead again, in their queues. What is there already stays as it is: an import
    that was broken off is simply run again.
    """
    from psmq_tasks.inspection import letters_of

    if file.isatty():
        raise click.UsageError("give FILE, or lines on stdin", click.get_current_context())
    with tempfile.TemporaryFile("w+", encoding="utf-8") as copy, place.inspector() as inspector:
        total = 0
        for line in file:  # all is read, and checked, before the first is stored
            copy.write(line)
        copy.seek(0)
        names = set()
        for letter in letters_of(copy):
            names.add(letter.message.queue_name)
            total += 1
        for name in sorted(names):
            inspector.manager.find_queue(name)
        copy.seek(0)
        stored, letters = 0, letters_of(copy)
        with progress("importing", total) as on_batch:
            while batch := list(islice(letters, 100)):
                stored += inspector.adopt(batch)
                on_batch(len(batch))
    if as_json:
        print_json({"imported": stored, "found": total})
        return
    click.echo(f"{counted(stored, 'dead letter')} imported.")
    if stored < total:
        click.echo(f"{counted(total - stored, 'was', 'were')} there already.", err=True)
