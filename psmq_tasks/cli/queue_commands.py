"""``psmq queues``, ``peek``, ``pause``, ``resume``: queues as they are now."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from psmq_tasks.cli.completing import queue_names
from psmq_tasks.cli.options import Number, json_option, place_options
from psmq_tasks.cli.place import Place, looked_at
from psmq_tasks.cli.showing import Column, age, counted, draw, duration, per_second, print_json, tail

if TYPE_CHECKING:
    from psmq import QueueInfo, QueueStats
    from psmq_tasks.inspection import QueuedMessage

__all__ = ["pause", "peek", "queues", "resume"]

_STATES: Final = ("ready", "delayed", "leased", "dead")
#: where there is no room, rates go first: psmq stats tells them, too; CONSUMERS stay, for they say "paused"
_COLUMNS: Final = (
    Column("QUEUE", gives="end"),
    Column("READY", right=True),
    Column("DELAYED", right=True, goes=4),
    Column("LEASED", right=True, goes=3),
    Column("DEAD", right=True, alarms=True),
    Column("IN/S", right=True, goes=1),
    Column("OUT/S", right=True, goes=1),
    Column("OLDEST", right=True, goes=2),
    Column("CONSUMERS", right=True),
)


@click.command()
@json_option
@place_options
def queues(place: Place, *, as_json: bool) -> None:
    """List queues with their counts and ages.

    READY can be taken now, DELAYED waits for its time (retries too), LEASED is being worked on, DEAD has failed for
    good. IN/S and OUT/S are messages pushed and finished in a second over the last minute or two (psmq stats tells
    more). OLDEST is how long the oldest ready message has been ready; CONSUMERS are the connections that asked for
    messages within the last minute; a paused queue gives them nothing. A narrow terminal leaves the rates out
    first.
    """
    with place.inspector() as inspector:
        rates = {one.name: one for one in inspector.stats(None, 1)}
        found = [info for info in inspector.queues() if info.name in rates]  # not those made in between
        where = looked_at(inspector.manager)
    if as_json:
        print_json({"queues": [{**info.as_dict(), **_rates(rates[info.name])} for info in found]})
        return
    if not found:
        click.echo(f"There are no queues on {where}: the first push makes one.", err=True)
        return
    draw(
        _COLUMNS,
        [
            (
                info.name,
                *(f"{count}" for count in (info.ready, info.delayed, info.leased, info.dead)),
                *map(per_second, _rates(rates[info.name]).values()),
                duration(info.oldest_ready),
                "paused" if info.paused else f"{info.consumers}",
            )
            for info in found
        ],
    )


def _rates(stats: QueueStats) -> dict[str, float]:
    """For each second."""
    return {"pushed_rate": round(stats.rate("pushed"), 4), "done_rate": round(stats.rate("done"), 4)}


@click.command()
@click.argument("queue", shell_complete=queue_names)
@click.option(
    "--state", type=click.Choice(_STATES), default="ready", show_default=True,
    help="Which messages.",
)  # fmt: skip
@click.option("-n", "--limit", type=Number(1, 10_000), default=10, show_default=True, help="At most so many.")
@json_option
@place_options
def peek(place: Place, *, queue: str, state: str, limit: int, as_json: bool) -> None:
    """Show messages of QUEUE without taking them.

    The first is the one that the next get would give. Calls of tasks show the task and its arguments, other messages
    the beginning of their data; --json has all of it.
    """
    with place.inspector() as inspector:
        found = inspector.messages(queue, state, limit)
        elsewhere = "" if found or as_json else _elsewhere(inspector.manager.queue_info(queue), state)
    if as_json:
        print_json({"messages": [message.as_dict() for message in found]})
        return
    if not found:
        click.echo(f"Queue {queue!r} has no {state} messages{elsewhere}.", err=True)
        return
    columns = [Column("ID"), Column("AGE", right=True), Column("ATTEMPTS", right=True), Column("PRIORITY", right=True)]
    if state in ("delayed", "leased"):
        columns.append(Column("READY IN" if state == "delayed" else "LEASE ENDS IN", right=True))
    columns.append(Column("MESSAGE", gives="end"))
    draw(columns, [_row(message) for message in found])


def _elsewhere(info: QueueInfo, looked_at: str) -> str:
    """``; 1 is delayed: --state delayed``"""
    counts = {state: getattr(info, state) for state in _STATES if state != looked_at}
    return "".join(
        f"; {counted(count, 'is', 'are')} {state}: --state {state}" for state, count in counts.items() if count
    )


def _row(message: QueuedMessage) -> list[str]:
    row = [tail(message.id), age(message.sent), f"{message.attempts}", f"{message.priority}"]
    if message.due is not None:
        row.append(duration(max((message.due - datetime.now(UTC)).total_seconds(), 0)))
    return [*row, _content(message)]


def _content(message: QueuedMessage) -> str:
    from psmq_tasks.inspection.records import text_of

    if message.task:
        return f"{message.task}({message.args})"
    text = text_of(message.data[:200])
    return text if text is not None else f"{counted(len(message.data), 'byte')}, not text"


@click.command()
@click.argument("queue", shell_complete=queue_names)
@json_option
@place_options
def pause(place: Place, *, queue: str, as_json: bool) -> None:
    """Stop deliveries from QUEUE.

    What runs goes on, and pushes are stored; nobody gets anything until psmq resume.
    """
    with place.manager() as manager:
        manager.find_queue(queue).pause()
    if as_json:
        print_json({"queue": queue, "paused": True})
        return
    click.echo(f"Queue {queue!r} is paused: psmq resume {queue} ends that.")


@click.command()
@click.argument("queue", shell_complete=queue_names)
@json_option
@place_options
def resume(place: Place, *, queue: str, as_json: bool) -> None:
    """Start deliveries from QUEUE again."""
    with place.manager() as manager:
        manager.find_queue(queue).resume()
    if as_json:
        print_json({"queue": queue, "paused": False})
        return
    click.echo(f"Queue {queue!r} delivers.")
