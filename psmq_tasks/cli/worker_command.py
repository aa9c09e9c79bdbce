"""``psmq-worker``: reads what is asked for, says what will run, and lets the supervisor run it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import click
from click.core import ParameterSource

from psmq_tasks.cli.completing import files, queue_names
from psmq_tasks.cli.options import Number, Seconds
from psmq_tasks.cli.running import Command, ExitWith, version_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psmq_tasks.app import TaskApp
    from psmq_tasks.process import Report

__all__ = ["worker"]

_EPILOG: Final = """\b
Signals: TERM or INT (Ctrl+C) finish what runs and hand the rest back; a
second one, or QUIT, stops at once. What is interrupted runs again. HUP (the
terminal is closed) does as a first one does, unless nohup has it ignored.

\b
Exit status: 0 stopped as asked, 1 tasks were abandoned, 2 usage or the app
does not import, 3 server unreachable (--burst only; otherwise it waits)."""

_MEMORY: Final = "memory: is a server inside one program; a worker needs one that others reach too"


def usable_cpus() -> int:
    """Those that this process may run on, which in a container are fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _names(context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    from psmq.config import check_name
    from psmq.errors import InvalidQueueName

    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    try:
        return tuple(dict.fromkeys(map(check_name, names)))
    except InvalidQueueName as error:
        raise click.BadParameter(str(error), context, param_hint="--queue") from None


def _url(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if not value:
        return None
    from psmq import QueueManager
    from psmq.errors import InvalidOption

    # From the environment it is where apps look that name no server themselves; typed, it is meant for all.
    typed = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
    hint = "--url" if typed else "PSMQ_URL"
    try:
        shown = QueueManager(url=value).url
    except InvalidOption as error:
        raise click.BadParameter(error.problem, context, param_hint=hint) from None
    if shown == "memory:":
        raise click.BadParameter(_MEMORY, context, param_hint=hint)
    return value if typed else None


@click.command(
    name="psmq-worker",
    cls=Command,
    epilog=_EPILOG,
    context_settings={
        "auto_envvar_prefix": "PSMQ_WORKER",
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "max_content_width": 100,
    },
)
@click.argument("apps", metavar="[APP]...", nargs=-1, shell_complete=files)
@click.option(
    "-u", "--url", metavar="URL", envvar="PSMQ_URL", show_envvar=True, callback=_url, is_eager=False,
    help="Server to use instead of the app's. Without it: the app's own, else PSMQ_URL, else this user's embedded one.",
)  # fmt: skip
@click.option(
    "-q", "--queue", "queues", metavar="NAME[,NAME]", multiple=True, callback=_names, show_envvar=True,
    shell_complete=queue_names,
    envvar="PSMQ_WORKER_QUEUE", help="Queues to serve, most urgent first; repeatable.  [default: all that APP uses]",
)  # fmt: skip
@click.option(
    "-p", "--processes", metavar="N", type=Number(1, 1024), default=usable_cpus, show_default="usable CPUs",
    show_envvar=True, help="Child processes.",
)  # fmt: skip
@click.option(
    "-t", "--threads", metavar="N", type=Number(1, 1024), default=8, show_envvar=True,
    help="Tasks that run at once in each process.",
)  # fmt: skip
@click.option(
    "--async-concurrency", metavar="N", type=Number(1, 100_000), default=100, show_envvar=True,
    help="Tasks made by async def that run at once in each process, besides.",
)  # fmt: skip
@click.option(
    "--shutdown-timeout", metavar="SECONDS", type=Seconds(0, 86_400), default=25.0, show_envvar=True,
    help="How long a stopping worker lets its tasks finish.",
)  # fmt: skip
@click.option(
    "-b", "--burst", is_flag=True, show_envvar=True,
    help="Stop when nothing is ready or running; delayed messages and retries stay.",
)  # fmt: skip
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False), default="info",
    show_envvar=True, help="debug shows each task that is done.",
)  # fmt: skip
@version_option("psmq-worker")
def worker(
    apps: tuple[str, ...],
    *,
    url: str | None,
    queues: tuple[str, ...],
    processes: int,
    threads: int,
    async_concurrency: int,
    shutdown_timeout: float,
    burst: bool,
    log_level: str,
) -> None:
    """Run psmq's tasks.

    APP is a file (hello.py), a module (shop.tasks), or an app in one (shop.tasks:app); the working directory is on the
    path. Without APP it serves the queue "default" and runs the calls that carry their own code.
    """
    from psmq.errors import InvalidOption
    from psmq_tasks.cli.banner import show_banner, warn_of_queues
    from psmq_tasks.cli.logs import set_up_logging
    from psmq_tasks.process import Plan
    from psmq_tasks.supervisor import Supervisor

    def load() -> Sequence[TaskApp]:
        from psmq_tasks.loading import load_apps

        found = load_apps(apps, url=url)
        if any(app.manager.url == "memory:" for app in found):
            raise InvalidOption("url", f"of the app: {_MEMORY}")
        return found

    def on_ready(report: Report) -> None:
        show_banner(report, plan)
        warn_of_queues(report, apps)

    set_up_logging(log_level)
    plan = Plan(
        load=load,
        processes=processes,
        threads=threads,
        async_concurrency=async_concurrency,
        shutdown_timeout=shutdown_timeout,
        burst=burst,
        queues=queues,
    )
    raise ExitWith(Supervisor(plan, on_ready).run())
