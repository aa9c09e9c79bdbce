"""What a worker says when it begins."""

from __future__ import annotations

import logging
import os
import platform
import textwrap
from typing import TYPE_CHECKING, Final

import click

from psmq import __version__
from psmq_tasks.cli.showing import counted, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psmq_tasks.process import Plan, Report

__all__ = ["show_banner", "warn_of_queues"]

#: tasks that are listed; the rest is counted
_MOST_TASKS: Final = 12

_log = logging.getLogger("psmq_tasks.cli")


def show_banner(report: Report, plan: Plan) -> None:
    """To stderr, where the log goes; what tasks print has stdout for itself."""
    folder = report.server.get("db_dir")
    stops = "when nothing is left, or with Ctrl+C" if plan.burst else "Ctrl+C once: tasks finish; twice: at once"
    facts = [
        ("server", f"embedded, data in {folder}" if folder else report.url),
        ("queues", ", ".join(report.queues)),
        ("tasks", _tasks(report.tasks)),
        ("runs", f"{counted(plan.processes, 'process', 'processes')} x {counted(plan.threads, 'thread')}"),
        ("stop", stops),
    ]
    lines = [f"psmq-worker {__version__}, Python {platform.python_version()}, process {os.getpid()}"]
    for name, value in facts:
        lines += textwrap.wrap(
            printable(value), 79, initial_indent=f"  {name:<8}", subsequent_indent=" " * 10, break_long_words=False,
            break_on_hyphens=False,
        )  # fmt: skip
    click.echo("\n".join(lines), err=True)


def warn_of_queues(report: Report, apps: Sequence[str]) -> None:
    """A name that no task of these apps is sent to may be misspelled, or meant for using(queue=…): it is served."""
    unused = [repr(name) for name in report.queues if name not in report.sent_to]
    if apps and unused:
        queues = f"queue{'s' if len(unused) > 1 else ''} {', '.join(unused)}"
        _log.warning("no task of %s is sent to %s; theirs: %s", ", ".join(apps), queues, ", ".join(report.sent_to))


def _tasks(names: list[str]) -> str:
    if not names:
        return "none of its own: runs calls that carry their code (name an APP to serve its tasks)"
    left = len(names) - _MOST_TASKS
    return ", ".join(names[:_MOST_TASKS]) + (f" and {left} more" if left > 0 else "")
