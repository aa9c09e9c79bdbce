"""What the Tab key offers: names and ids as the server has them now. Whatever goes wrong there, it offers nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from click.shell_completion import CompletionItem

from psmq import server
from psmq_tasks.cli.place import NAMESPACE, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import click

    from psmq_tasks.inspection import Inspector

__all__ = ["dead_ids", "files", "queue_names", "settings", "task_names", "waiting_ids"]

#: of the newest dead letters and the next retries so many are looked at
_MOST: Final = 200


def _from_server(look: Callable[[Inspector, click.Context], Iterator[tuple[str, str]]]) -> Any:
    """Offers what ``look`` finds, each with a word about it."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from psmq_tasks.cli.showing import printable

        try:
            with _place(ctx).inspector() as inspector:
                found = dict(look(inspector, ctx))
        except Exception:  # nobody who presses a key wants to read why
            return []
        return [
            CompletionItem(value, help=printable(about)[:60] or None)
            for value, about in found.items()
            if value.startswith(incomplete)
        ]

    return complete


def _place(ctx: click.Context) -> Place:
    url = ctx.params.get("url") or os.environ.get("PSMQ_URL") or None
    folder = ctx.params.get("db_dir") or os.environ.get("PSMQ_DB_DIR") or server.default_db_dir()
    namespace = ctx.params.get("namespace") or os.environ.get("PSMQ_NAMESPACE") or NAMESPACE
    return Place(url, Path(folder), namespace)


def _queues(inspector: Inspector, _: click.Context) -> Iterator[tuple[str, str]]:
    for name in inspector.manager.list_queues():
        yield name, ""


def _tasks(inspector: Inspector, ctx: click.Context) -> Iterator[tuple[str, str]]:
    for letter in inspector.newest_dead(_chosen(ctx), _MOST).items:
        if letter.task:
            yield letter.task, ""


def _dead(inspector: Inspector, ctx: click.Context) -> Iterator[tuple[str, str]]:
    from psmq_tasks.cli.showing import tail

    for letter in reversed(inspector.newest_dead(_chosen(ctx), _MOST).items):
        yield tail(letter.id), f"{letter.task or letter.queue}: {letter.reason}"


def _waiting(inspector: Inspector, ctx: click.Context) -> Iterator[tuple[str, str]]:
    from psmq_tasks.cli.showing import tail

    for retry in inspector.retries(ctx.params.get("queue"), _MOST).items:
        yield tail(retry.id), retry.task or retry.queue


def _chosen(ctx: click.Context) -> Any:
    from psmq_tasks.inspection import Filter

    return Filter(queue=ctx.params.get("queue"))


queue_names: Final = _from_server(_queues)
task_names: Final = _from_server(_tasks)
dead_ids: Final = _from_server(_dead)
waiting_ids: Final = _from_server(_waiting)


def settings(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The settings of a queue."""
    from dataclasses import fields

    from psmq import QueueConfig

    return [CompletionItem(f"{field.name}=") for field in fields(QueueConfig) if field.name.startswith(incomplete)]


def files(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What the shell itself offers."""
    return [CompletionItem(incomplete, type="file")]
