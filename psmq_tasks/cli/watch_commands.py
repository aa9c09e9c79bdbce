"""``psmq workers``, ``psmq stats``: who works, and what was done."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import click

from psmq_tasks.cli.options import Number, Seconds, json_option, place_options
from psmq_tasks.cli.place import Place, looked_at
from psmq_tasks.cli.showing import Column, age, draw, duration, per_second, print_json, tail

if TYPE_CHECKING:
    from psmq import QueueStats
    from psmq_tasks.inspection import Inspector, Running, Worker

__all__ = ["stats", "worker_columns", "worker_row", "workers"]

#: kinds of running tasks that are named below a worker
_MOST_KINDS: Final = 3
#: of psmq stats; where there is no room, both that have no name of their own go first
_COLUMNS: Final = (
    Column("QUEUE", gives="end"),
    Column("IN/S", right=True),
    Column("OUT/S", right=True),
    Column("FAILED", right=True, goes=4),
    Column("DEAD", right=True, alarms=True),
    Column("WAIT 50%", right=True, goes=3),
    Column("95%", right=True, goes=1),
    Column("RUN 50%", right=True, goes=2),
    Column("95%", right=True, goes=1),
)


@click.command()
@json_option
@place_options
def workers(place: Place, *, as_json: bool) -> None:
    """List the workers that are there.

    DONE and FAILED are since it started, MEMORY is what its processes have resident, BEAT how long ago it said so:
    each worker does every 5 s, and one that was silent for 20 s is gone. Below each: the tasks that have run for
    longest, and for how long; --json tells all.
    """
    with place.inspector() as inspector:
        found = inspector.workers()
        where = looked_at(inspector.manager)
    if as_json:
        print_json({"workers": [worker.as_dict() for worker in found]})
    elif not found:
        click.echo(f"No worker has said that it is there, on {where}: psmq-worker APP starts one.", err=True)
    else:
        columns = worker_columns("SLOTS", "RUNNING", "DONE", "FAILED", "MEMORY", "UP", "BEAT")
        draw(columns, list(map(worker_row, found)), list(map(_running, found)))


def _running(worker: Worker) -> str:
    """``mail:send 12s, 6 x shop:order up to 3s, 5 more``"""
    kinds: dict[str, list[Running]] = {}
    for task in worker.tasks:
        kinds.setdefault(task.task or tail(task.id), []).append(task)
    shown = list(kinds.items())[:_MOST_KINDS]
    words = [
        f"{len(tasks)} x {name} up to {age(tasks[0].since)}" if len(tasks) > 1 else f"{name} {age(tasks[0].since)}"
        for name, tasks in shown
    ]
    left = worker.running - sum(len(tasks) for _, tasks in shown)
    return ", ".join([*words, f"{left} more"] if left > 0 and words else words)


def worker_columns(slots: str, *titles: str) -> list[Column]:
    """For ``worker_row``. Where there is no room, what changes least goes first."""
    goes = (0, 5, 0, 1, 2, 3)  # running and failed stay
    return [
        Column("WORKER", gives="start"),
        Column("QUEUES", gives="end"),
        Column(slots, right=True, goes=4),
        *(Column(title, right=True, goes=turn) for title, turn in zip(titles, goes, strict=True)),
    ]


def worker_row(worker: Worker) -> tuple[str, ...]:
    """A worker in a table."""
    memory = "-" if worker.memory is None else f"{worker.memory / 2**20:.0f}M"
    numbers = (f"{worker.slots}", f"{worker.running}", f"{worker.done}", f"{worker.failed}", memory)
    return f"{worker.host}:{worker.pid}", ",".join(worker.queues), *numbers, age(worker.started), age(worker.beat)


@click.command()
@click.argument("queue", required=False)
@click.option("-m", "--minutes", type=Number(1, 480), default=5, show_default=True, help="Of the last so many minutes.")
@click.option("-w", "--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option("--every", type=Seconds(0.1, 3600), default=2, show_default=True, help="Seconds between, with --watch.")
@json_option
@place_options
def stats(place: Place, *, queue: str | None, minutes: int, watch: bool, every: float, as_json: bool) -> None:
    """Say what QUEUE, or each queue, did in the last minutes.

    IN and OUT are messages pushed and finished in a second, FAILED deliveries that came back or were lost, DEAD what
    was buried. WAIT is from being ready to delivery, RUN from delivery to the end of it: half were as fast as the
    first number, 95 % as the second. The server keeps eight hours; with --json --watch, one line for each look.
    """
    with place.inspector() as inspector:
        while True:
            found = inspector.stats(queue, minutes)
            if as_json:
                print_json({"queues": [one.as_dict() for one in found]}, line=watch)
            else:
                _show(inspector, found)
            if not watch:
                return
            time.sleep(every)
            if not as_json:
                click.echo()


def _show(inspector: Inspector, found: list[QueueStats]) -> None:
    if not found:
        click.echo(f"There are no queues on {looked_at(inspector.manager)}: the first push makes one.", err=True)
        return
    draw(_COLUMNS, map(_row, found))


def _row(stats: QueueStats) -> tuple[str, ...]:
    times = (histogram.percentile(percent) for histogram in (stats.wait, stats.run) for percent in (50, 95))
    counts = (f"{stats.total('failed')}", f"{stats.total('buried')}")
    return stats.name, per_second(stats.rate("pushed")), per_second(stats.rate("done")), *counts, *map(duration, times)
