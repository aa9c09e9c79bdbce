"""What ``psmq top`` shows: one look at the server as tables, as wide and as high as the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from psmq_tasks.cli.showing import Column, age, counted, duration, per_second, printable, table_of, tail
from psmq_tasks.cli.watch_commands import worker_columns, worker_row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Group

    from psmq import QueueInfo, QueueStats
    from psmq_tasks.inspection import Inspector, Worker

__all__ = ["Look", "View", "look", "render"]

#: narrower than this, percentiles are the 95 % alone
_WIDE: Final = 100
#: lines that are no queue, worker or task: title, headers, gaps, the line of keys
_FRAME: Final = 8


class Look(NamedTuple):
    """One look at the server."""

    queues: list[tuple[QueueInfo, QueueStats]]
    workers: list[Worker]

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        queues = [{**info.as_dict(), "stats": stats.as_dict()} for info, stats in self.queues]
        workers = [worker.as_dict() for worker in self.workers]
        return {"time": datetime.now(UTC).isoformat(), "queues": queues, "workers": workers}


def look(inspector: Inspector) -> Look:
    """Three small questions for each queue, one for each worker."""
    stats = {one.name: one for one in inspector.stats(None, 1)}
    queues = [(info, stats[info.name]) for info in inspector.queues() if info.name in stats]
    return Look(queues, inspector.workers())


_SORTS: Final[dict[str, Callable[[tuple[QueueInfo, QueueStats]], Any]]] = {
    "name": lambda one: one[0].name,
    "ready": lambda one: -one[0].ready,
    "dead": lambda one: -one[0].dead,
    "oldest": lambda one: -(one[0].oldest_ready or 0),
    "in": lambda one: -one[1].rate("pushed"),
    "out": lambda one: -one[1].rate("done"),
}


@dataclass
class View:
    """What whoever looks has chosen."""

    sort: str = "name"
    #: the name of the queue that keys act on
    chosen: str = ""

    def order(self, queues: Sequence[tuple[QueueInfo, QueueStats]]) -> list[tuple[QueueInfo, QueueStats]]:
        """The queues in the order that was chosen, equals by name."""
        return sorted(queues, key=lambda one: (_SORTS[self.sort](one), one[0].name))

    def next_sort(self) -> None:
        """The one behind it."""
        names = list(_SORTS)
        self.sort = names[(names.index(self.sort) + 1) % len(names)]

    def move(self, queues: Sequence[tuple[QueueInfo, QueueStats]], by: int) -> None:
        """Choose the queue above or below."""
        names = [info.name for info, _ in self.order(queues)]
        if names:
            at = names.index(self.chosen) + by if self.chosen in names else 0
            self.chosen = names[min(max(at, 0), len(names) - 1)]


def render(seen: Look, view: View, *, width: int, height: int, where: str, trouble: str = "") -> Group:
    """The screen. What does not fit is counted."""
    from rich.console import Group
    from rich.text import Text

    ordered = view.order(seen.queues)
    room = max(height - _FRAME, 4)
    some = _around(ordered, view.chosen, max(room - min(len(seen.workers) * 2, room // 2), 2))
    title = Text(f"psmq top  {datetime.now(UTC):%H:%M:%S} UTC  {printable(where)}", style="bold", no_wrap=True)
    parts: list[Any] = [title, Text(printable(trouble), style="red", no_wrap=True)]
    styles = [_style(info, chosen=info.name == view.chosen) for info, _ in some]
    parts.append(table_of(_columns(width), [_row(info, stats, width) for info, stats in some], width, styles))
    if len(some) < len(ordered):
        parts.append(Text(counted(len(ordered) - len(some), "more queue"), style="italic"))
    parts += [Text(""), *_workers(seen.workers, width, room - len(some))]
    keys = f"q quit   s sort ({view.sort})   ↑↓ choose   p pause or resume {view.chosen or 'it'}"
    return Group(*parts, Text(""), Text(printable(keys), style="reverse", no_wrap=True, overflow="ellipsis"))


def _around(queues: list[tuple[QueueInfo, QueueStats]], chosen: str, room: int) -> list[tuple[QueueInfo, QueueStats]]:
    """As many as there is room for, the chosen one among them."""
    at = next((number for number, (info, _) in enumerate(queues) if info.name == chosen), 0)
    start = min(max(at - room + 1, 0), max(len(queues) - room, 0))
    return queues[start : start + room]


def _style(info: QueueInfo, *, chosen: bool) -> str:
    return ("dim " if info.paused else "") + ("reverse" if chosen else "")


def _columns(width: int) -> list[Column]:
    times = (("WAIT50", 2), ("95%", 1), ("RUN50", 2), ("95%", 1)) if width >= _WIDE else (("WAIT95", 2), ("RUN95", 1))
    return [
        Column("QUEUE", gives="end"),
        Column("READY", right=True),
        Column("DELAY", right=True, goes=4),
        Column("LEASED", right=True, goes=5),
        Column("DEAD", right=True, alarms=True),
        Column("IN/S", right=True, goes=7),
        Column("OUT/S", right=True, goes=6),
        Column("OLDEST", right=True, goes=3),
        *(Column(title, right=True, goes=turn) for title, turn in times),
    ]


def _row(info: QueueInfo, stats: QueueStats, width: int) -> tuple[str, ...]:
    percents = (50, 95) if width >= _WIDE else (95,)
    times = (duration(histogram.percentile(percent)) for histogram in (stats.wait, stats.run) for percent in percents)
    counts = map(_short, (info.ready, info.delayed, info.leased, info.dead))
    rates = per_second(stats.rate("pushed")), per_second(stats.rate("done"))
    name = f"{info.name} (paused)" if info.paused else info.name
    return name, *counts, *rates, "paused" if info.paused else duration(info.oldest_ready), *times


def _short(count: int) -> str:
    """``9999 12k 3.4M``"""
    if count < 10_000:
        return f"{count}"
    return f"{count / 1000:.0f}k" if count < 1_000_000 else f"{count / 1e6:.1f}M"


def _workers(workers: Sequence[Worker], width: int, room: int) -> list[Any]:
    from rich.text import Text

    if not workers:
        return [Text("no worker has said that it is there: psmq-worker APP", style="italic")]
    columns = worker_columns("SLOTS", "RUN", "DONE", "FAILED", "MEM", "UP", "BEAT")
    shown = workers[: max(room, 1)]
    parts: list[Any] = [table_of(columns, [worker_row(worker) for worker in shown], width)]
    tasks = sorted(((task.since, task, worker) for worker in workers for task in worker.tasks), key=itemgetter(0))
    some = tasks[: max(room - len(shown) - 1, 0)]
    if some:
        rows = [
            (
                tail(task.id),
                task.task or "-",
                task.queue,
                f"{task.attempt}",
                age(task.since),
                f"{worker.host}:{task.pid}/{_slot(task.slot)}",
            )
            for _, task, worker in some
        ]
        columns = [
            Column("RUNNING"),
            Column("TASK", gives="start"),
            Column("QUEUE", gives="end"),
            Column("ATTEMPT", right=True, goes=1),
            Column("FOR", right=True),
            Column("PROCESS/SLOT", gives="start"),
        ]
        parts += [Text(""), table_of(columns, rows, width)]
    left = sum(worker.running for worker in workers) - len(some)
    if left > 0:
        parts.append(Text(counted(left, "more task runs", "more tasks run"), style="italic"))
    return parts


def _slot(slot: int | None) -> str:
    return "loop" if slot is None else f"{slot}"
