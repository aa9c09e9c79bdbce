"""``psmq doctor``: is the server set up to keep messages, and are the queues well."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from psmq_tasks.cli.options import json_option, place_options
from psmq_tasks.cli.running import FAILED, ExitWith
from psmq_tasks.cli.showing import counted, hang, print_json

if TYPE_CHECKING:
    from psmq import Finding
    from psmq_tasks.cli.place import Place

__all__ = ["doctor"]

_MARKS = {"fine": "ok", "advice": "advice", "problem": "PROBLEM"}


@click.command()
@click.argument("server_url", metavar="[URL]", required=False)
@click.option("--audit", metavar="QUEUE", help="Recount the books of this queue instead.")
@json_option
@place_options
def doctor(place: Place, *, server_url: str | None, audit: str | None, as_json: bool) -> None:
    """Say whether a server is set up well.

    Does it keep messages safe, and are its queues well? Of a cluster each primary is looked at. Each finding says
    what it means and what to do. It only reads, in small steps; a function library that is missing is loaded if
    there is a queue to look at. --audit counts a queue's messages and notes again and says what does not add up,
    also while it works.

    Exit status: 0 no problem (advice is none), 1 a problem, 2 usage, 3 no server, 4 no such queue.
    """
    if server_url:
        place = replace(place, url=server_url, named_by="url")
    with place.inspector() as inspector:
        found = inspector.audit(audit) if audit is not None else inspector.diagnose()
        where = inspector.manager.url
    problems = sum(finding.level == "problem" for finding in found)
    if as_json:
        print_json({"url": where, "problems": problems, "findings": [finding.as_dict() for finding in found]})
    else:
        for finding in found:
            _show(finding)
        click.echo(f"{where}: {counted(problems, 'problem') if problems else 'no problems'}.", err=True)
    if problems:
        raise ExitWith(FAILED)


def _show(finding: Finding) -> None:
    style = {"fine": "", "advice": "bold", "problem": "bold red"}[finding.level]
    hang(_MARKS[finding.level].ljust(7), f"{finding.subject}: {finding.message}", style)
    if finding.fix:
        hang(" " * 7, f"→ {finding.fix}")
