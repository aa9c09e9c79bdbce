"""``psmq configure`` and ``delete-queue``: a queue as a thing."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from psmq import QueueConfig
from psmq_tasks.cli.completing import queue_names, settings
from psmq_tasks.cli.options import confirm, json_option, place_options, span, yes_option
from psmq_tasks.cli.showing import Column, counted, draw, print_json

if TYPE_CHECKING:
    from psmq_tasks.cli.place import Place

__all__ = ["configure", "delete_queue"]

_DURATION: Final = "seconds, or like 5m"
_WORDS = ("on_expiry", "clock")
_NUMBERS = ("max_size", "max_length", "max_retrievals", "event_log")
#: the largest first
_BYTES: Final = {"MiB": 1024**2, "KiB": 1024}
_SECONDS: Final = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
#: in as few words as fit beside names and defaults
_MEANINGS: Final = {
    "visibility_timeout": "a message that was got stays hidden",
    "delay": "pushes become ready after this",
    "max_size": "data and metadata of a message",
    "max_length": "messages that are not dead, at most",
    "max_retrievals": "deliveries until a message is dead",
    "ttl": "life of a message that nobody took",
    "on_expiry": "what becomes of it then: drop or bury",
    "dead_retention": "how long dead letters are kept",
    "deduplication_window": "a deduplication_id is remembered",
    "event_log": "events kept for psmq trace; 0: none",
    "clock": "test: for tests; set when the queue is made",
}


def _shown(name: str, value: Any) -> str:
    """As it may be given, too, and exactly: ``30s``, ``2m``, ``1MiB``."""
    if value is None:
        return "none"
    if isinstance(value, timedelta):
        value = value.total_seconds()
    units = _BYTES if name == "max_size" else {} if name in _NUMBERS + _WORDS else _SECONDS
    for unit, worth in units.items():
        if value and value % worth == 0:
            return f"{value / worth:.0f}{unit}"
    return f"{value:.15g}s" if units is _SECONDS else f"{value}"


def _listed() -> str:
    """The settings, for the help."""
    config = QueueConfig()
    rows = [f"  {name:20}  {_shown(name, getattr(config, name)):7}  {text}" for name, text in _MEANINGS.items()]
    return "\n".join(["\b", "Settings, their defaults, and what they mean:", *rows])


@click.command(epilog=_listed())
@click.argument("queue", shell_complete=queue_names)
@click.argument("changes", metavar="[SETTING=VALUE]...", nargs=-1, shell_complete=settings)
@json_option
@place_options
def configure(place: Place, *, queue: str, changes: tuple[str, ...], as_json: bool) -> None:
    """Show or change the settings of QUEUE.

    Durations are seconds, or like 90s, 5m, 2h, sizes bytes, or like 64KiB, 2MiB; none takes a limit away: psmq
    configure mail visibility_timeout=2m max_length=none. Messages that are in the queue follow, unless they have a
    setting of their own.
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
        [(field.name, _shown(field.name, getattr(config, field.name))) for field in fields(config)],
    )


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
        if name == "max_size" and value[-3:] in _BYTES:
            return name, int(value[:-3]) * _BYTES[value[-3:]]
        return name, int(value) if name in _NUMBERS else span(value)
    except ValueError:
        kind = "bytes, or like 2MiB" if name == "max_size" else "a whole number" if name in _NUMBERS else _DURATION
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
