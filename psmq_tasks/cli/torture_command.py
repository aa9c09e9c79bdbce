"""``psmq torture``: ask a server, under fire, whether anything gets lost."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from psmq import QueueManager
from psmq.errors import InvalidOption
from psmq.managing import blaming
from psmq_tasks.cli.options import Number, Seconds, json_option, place_options
from psmq_tasks.cli.running import FAILED, USAGE, ExitWith, Problem
from psmq_tasks.cli.showing import print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from psmq_tasks.cli.place import Place
    from psmq_tasks.torture.ordeal import Outcome

__all__ = ["torture"]

#: seconds that a command waits for the server, which nobody harms
_PATIENCE: Final = 5.0
#: what is counted, in the order of the page
_COUNTED: Final = {
    "pushed": "jobs that the server took",
    "done": "ran to their end",
    "lost": "not done, and nowhere",
    "phantom": "done or queued, and never pushed",
    "copied": "stored more than once",
    "twice": "ran again: allowed, and expected of workers that are killed",
    "overlapping": "ran at the same time: allowed, and expected of workers that are stopped",
    "dead": "dead letters",
    "queued": "still there at the end",
}


@click.command()
@click.argument("server", metavar="[URL]", required=False)
@click.option(
    "-s", "--seconds", type=Seconds(1, 86_400), default=20.0, show_default=True, help="How long workers are tortured.",
)  # fmt: skip
@click.option("--seed", type=Number(1, 10**9), default=None, help="Repeat the choices of another run.")
@json_option
@place_options
def torture(place: Place, *, server: str | None, seconds: float, seed: int | None, as_json: bool) -> None:
    """Kill workers for a while, and see whether a job gets lost.

    URL is the server to try, by default the one that -u, PSMQ_URL or the user's own is. It gets a queue for the
    purpose, some thousand small jobs, and two workers, whose processes are killed, stopped for longer than their leases
    and replaced. Other queues and workers are left alone, and all of it is taken away at the end.

    Exit status 1: a job was lost, stored twice, or not done.
    """
    from psmq_tasks.torture.ordeal import Ordeal

    url = server or place.url or f"embedded://{place.db_dir.absolute()}"
    try:
        with blaming("url" if server else place.named_by):
            manager = QueueManager(url=url, namespace=place.namespace, timeout=_PATIENCE)
    except InvalidOption as error:
        raise Problem(str(error), USAGE) from None
    if manager.url == "memory:":
        raise Problem("memory: is a server inside one program, which workers cannot reach", USAGE)
    with manager, Ordeal(manager, url, seconds, seed or 0) as ordeal:
        outcome = _show_progress(ordeal.run, seconds, quiet=as_json)
    if as_json:
        print_json(
            {**outcome.verdict.as_dict(), "faults": outcome.faults, "seed": outcome.seed, "holds": outcome.holds}
        )
    else:
        click.echo(f"tried: {manager.url}")
        _show(outcome)
    if not outcome.holds:
        raise ExitWith(FAILED)


def _show_progress(run: Callable[[Callable[[float], None]], Outcome], seconds: float, *, quiet: bool) -> Outcome:
    if quiet or not sys.stderr.isatty():
        return run(lambda _: None)
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("torturing workers", total=seconds)
        return run(lambda passed: progress.update(task, completed=passed))


def _show(outcome: Outcome) -> None:
    found = outcome.verdict.as_dict()
    click.echo(", ".join(f"{what}: {count}" for what, count in outcome.faults.items()) or "no faults")
    for name, meaning in _COUNTED.items():
        click.echo(f"{name:12} {found[name]:>8,}  {meaning}")
    if found["interrupted"]:
        click.echo(
            f"{'interrupted':12} {found['interrupted']:>8,}  started again after {found['recovery_p50']:.2f} s "
            f"(median), {found['recovery_p95']:.2f} s (95 %)"
        )
    click.echo(
        "Nothing was lost." if outcome.holds else f"It does not hold: --seed {outcome.seed} repeats the choices."
    )
