"""``psmq check`` and ``psmq sentinel``: rules about queues, looked at once or again and again."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from psmq.errors import PsmqError, QueueNotFound
from psmq_tasks.cli.options import Seconds, json_option, place_options
from psmq_tasks.cli.running import FAILED, USAGE, ExitWith, Problem
from psmq_tasks.cli.showing import counted, moment, print_json, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from psmq.rules import Rule
    from psmq_tasks.cli.place import Place

__all__ = ["check", "sentinel"]


def _rule_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.argument("rules", nargs=-1, metavar="[RULE]...")(command)
    return click.option(
        "-f", "--file", "path", type=click.Path(path_type=Path), envvar="PSMQ_RULES_FILE", show_envvar=True,
        metavar="FILE", help='TOML: rules = ["…", …] and, for psmq sentinel, command = "…".',
    )(command)  # fmt: skip


def _rules(texts: tuple[str, ...], path: Path | None) -> tuple[list[Rule], str | None]:
    from psmq.rules import read_rules_file, rules_of

    rules, command = rules_of(texts or (os.environ.get("PSMQ_RULES", ""),)), None
    if path is not None:
        from_file, command = read_rules_file(path)
        rules += from_file
    if not rules:
        command_line = click.get_current_context().command_path
        raise Problem(f"no rule is given: {command_line} 'oldest_age > 60' 'no workers', PSMQ_RULES, or -f FILE", USAGE)
    return rules, command


@click.command()
@_rule_options
@json_option
@place_options
def check(place: Place, *, rules: tuple[str, ...], path: Path | None, as_json: bool) -> None:
    """Look at RULEs once.

    \b
    psmq check 'oldest_age > 60' 'mail*: ready > 10000' 'dead_rate > 5/min'
    psmq check 'no workers' 'paused for 5m'

    A rule is about every queue, or those that fit the pattern before its colon; a queue that is named must exist.
    It can measure oldest_age, ready, delayed, leased, dead, wait_p95 and run_p95 (times: 60, 5m, 2h), dead_rate,
    failed_rate and push_rate (…/min, over the last minute or two). no workers: nobody has asked for messages within
    the last minute; unserved: nor does anybody come for those that wait. PSMQ_RULES separates rules by semicolons.

    Exit status: 0 all are kept, 1 one is broken, 2 usage, 3 no server, 4 no such queue.
    """  # noqa: D301  # click wants the character itself
    from psmq.rules import firing, take_samples

    wanted, _ = _rules(rules, path)
    with place.manager() as manager:
        samples = take_samples(manager)
    names = {sample.info.name for sample in samples}
    for rule in wanted:
        if not any(mark in rule.queue for mark in "*?[") and rule.queue not in names:
            raise QueueNotFound(rule.queue)
    broken = firing(wanted, samples)
    if as_json:
        print_json({"queues": sorted(names), "alerts": [alert.as_dict() for alert in broken]})
    else:
        for alert in broken:
            click.echo(printable(str(alert)))
        if not broken:
            click.echo(f"{counted(len(wanted), 'rule')} kept by {counted(len(names), 'queue')}.")
    if broken:
        raise ExitWith(FAILED)


@click.command()
@_rule_options
@click.option("-c", "--command", metavar="COMMAND", help="Gets each change as JSON on its stdin.")
@click.option("--every", type=Seconds(0.1, 3600), default=5, show_default=True, help="Seconds between looks.")
@json_option
@place_options
def sentinel(
    place: Place, *, rules: tuple[str, ...], path: Path | None, command: str | None, every: float, as_json: bool
) -> None:
    """Look at RULEs again and again.

    It says each change once: what is broken, and what is fine again. Rules are those of psmq check. Each change is a
    line (with --json, a JSON document on a line), and what COMMAND gets: {"queue", "rule", "firing", "value",
    "message"}. A server that is away is waited for. Beside an embedded server the same runs by itself, with the rules
    in PSMQ_RULES.
    """
    from psmq.rules import Watch, take_samples
    from psmq.sentinel import tell

    wanted, from_file = _rules(rules, path)
    watch, command, trouble = Watch(wanted), command or from_file, ""
    with place.manager() as manager:
        manager.list_queues()  # a server that is not there at the start is a mistake
        click.echo(f"{counted(len(wanted), 'rule')}, every {every:g} s, on {manager.url}; Ctrl-C ends it.", err=True)
        while True:
            try:
                changes = watch.changes(take_samples(manager))
            except PsmqError as error:
                if str(error) != trouble:
                    click.echo(f"{moment(datetime.now(UTC))}  {printable(str(error))}", err=True)
                trouble, changes = str(error), []
            else:
                trouble = ""
            for alert in changes:
                if as_json:
                    print_json({**alert.as_dict(), "time": datetime.now(UTC).isoformat()}, line=True)
                else:
                    click.echo(f"{moment(datetime.now(UTC))}  {printable(str(alert))}")
                problem = tell(alert, command)
                if problem:
                    click.echo(f"{moment(datetime.now(UTC))}  {printable(problem)}", err=True)
            time.sleep(every)
