"""``psmq configure`` and ``delete-queue``: a queue as a thing."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import click

from psmq_tasks.cli.completing import queue_names, settings
from psmq_tasks.cli.options import Place, confirm, json_option, place_options, span, yes_option
from psmq_tasks.cli.showing import Column, counted, draw, print_json

__all__ = ["configure", "delete_queue"]

_WORDS = ("on_expiry", "clock")
_NUMBERS = ("max_size", "max_length", "max_retrievals", "event_log")


@click.command()
@click.argument("queue", shell_complete=queue_names)
@click.argument("changes", metavar="[SETTING=VALUE]...", nargs=-1, shell_complete=settings)
@json_option
@place_options
def configure(place: Place, *, queue: str, changes: tuple[str, ...], as_json: bool) -> None:
    """Show or change the settings of QUEUE.

    Durations are seconds, or like 90s, 5m, 2h; none takes a limit away: psmq configure mail visibility_timeout=2m
    max_length=none. Messages that are in the queue follow, unless they have a setting of their own.
    """
    from psmq_tasks.inspection.records import plain

    wanted = dict(_setting(text) for text in changes)
    with place.manager() as manager:
        found = manager.find_queue(queue)
        config = found.configure(**wanted) if wanted else found.info().config
    shown = {field.name: plain(getattr(config, field.name)) for field in fields(config)}
    if as_json:
        print_json({"queue": queue, "config": shown})
        return
    draw(
        [Column("SETTING"), Column("VALUE", gives="end")],
        [(name, "none" if value is None else f"{value:g}" if isinstance(value, float) else f"{value}")
         for name, value in shown.items()],
    )  # fmt: skip


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    context = click.get_current_context()
    if not equals:
        raise click.UsageError(f"settings are given as SETTING=VALUE, not {text!r}", context)
    if value == "none":
        return name, None
    if name in _WORDS:
        return name, value
    try:
        return name, int(value) if name in _NUMBERS else span(value)
    except ValueError:
        kind = "a whole number" if name in _NUMBERS else "seconds, or like 5m"
        raise click.UsageError(f"{name} must be {kind}, not {value!r}", context) from None


@click.command("delete-queue")
@click.argument("queue", shell_complete=queue_names)
@yes_option
@json_option
@place_options
def delete_queue(place: Place, *, queue: str, yes: bool, as_json: bool) -> None:
    """Delete QUEUE with all that is in it.

    Asks first; there is no way back but a psmq dead export made before.
    """
    with place.manager() as manager:
        info = manager.queue_info(queue)
        held = info.ready + info.delayed + info.leased
        words = f"with {counted(held, 'message')} and {counted(info.dead, 'dead letter')}"
        if not yes:
            confirm(f"Delete queue {queue!r} {words} for good?")
        manager.delete_queue(queue)
    if as_json:
        print_json({"deleted": queue, "messages": held, "dead": info.dead})
        return
    click.echo(f"Queue {queue!r} is deleted, {words}.")
