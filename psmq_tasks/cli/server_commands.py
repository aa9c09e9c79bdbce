"""``psmq server``: the embedded server of a data folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from psmq import QueueManager
from psmq import server as embedded
from psmq_tasks.cli.options import json_option, place_options
from psmq_tasks.cli.place import Place, refuse_file
from psmq_tasks.cli.running import UNREACHABLE, USAGE, ExitWith, OrderedGroup, Problem
from psmq_tasks.cli.showing import counted, duration, paragraphs, print_json

if TYPE_CHECKING:
    from psmq.server import ServerStatus

__all__ = ["server"]

#: seconds that loading waits for a server
_PATIENCE: Final = 5.0


@click.group(cls=OrderedGroup)
def server() -> None:
    """The embedded server: start, stop, status.

    It starts by itself whenever a program or worker needs it, and ends a minute after the last one has gone.
    """


@server.command()
@json_option
@place_options
def start(place: Place, *, as_json: bool) -> None:
    """Start it, making its data folder if need be."""
    folder = _folder(place)
    before = embedded.status(folder)
    embedded.ensure(folder)
    status = embedded.status(folder)
    assert status is not None
    if as_json:
        _print(status)
        return
    word = "runs already" if before is not None and before.running else "runs"
    click.echo(f"The server of {status.db_dir} {word} (process {status.pid}, socket {status.socket}).")
    linger = embedded.linger()
    if linger != float("inf"):
        click.echo(f"It ends {duration(linger)} after its last client has gone (PSMQ_SERVER_LINGER).", err=True)


@server.command()
@json_option
@place_options
def stop(place: Place, *, as_json: bool) -> None:
    """Stop it; the data stays.

    Programs and workers that still run start it again with their next command.
    """
    folder = _folder(place)
    status = embedded.status(folder)
    stopped = embedded.stop(folder) if status is not None else False
    if as_json:
        print_json({"db_dir": str(folder), "stopped": stopped})
    elif not stopped:
        click.echo(f"No server runs on {folder}.")
    else:
        click.echo(f"The server of {folder} has stopped; the next use starts it again.")
        if status is not None and status.clients:
            click.echo("Clients were connected: if they go on, it is back at once.", err=True)


@server.command()
@json_option
@place_options
def status(place: Place, *, as_json: bool) -> None:
    """Say what runs; starts nothing. Exit status 3: no server."""
    folder = place.folder
    if folder is None:
        _tell_of_another(place, as_json=as_json)
        return
    refuse_file(folder)
    found = embedded.status(folder)
    if as_json:
        if found is None:
            print_json({"db_dir": str(folder), "exists": False, "running": False})
        else:
            _print(found)
    elif found is None:
        click.echo(f"There is no data folder {folder} yet: the first use makes it, or psmq server start.")
    else:
        click.echo(_words(found))
    if found is None or not found.running:
        raise ExitWith(UNREACHABLE)


@server.command()
@click.argument("url")
def load(url: str) -> None:
    """Load psmq's function library on the server at URL.

    In a cluster: on each primary.

    For an administrator, once, where programs and workers may not do it themselves; they do it by themselves
    otherwise.
    """
    with QueueManager(url=url, timeout=_PATIENCE) as manager:
        if manager.url == "memory:" or manager.db_dir is not None:
            raise Problem("an embedded server has the library from the start", USAGE)
        manager.load_library()
        click.echo(f"{manager.url} has psmq's function library.")


def _folder(place: Place) -> Path:
    folder = place.folder
    if folder is None:
        raise Problem(
            f"{place.manager().url} is not an embedded server: its own tools start and stop it "
            "(--db-dir names an embedded one)",
            USAGE,
        )
    return folder


def _tell_of_another(place: Place, *, as_json: bool) -> None:
    with place.manager() as manager:
        count = len(manager.list_queues())
        if as_json:
            print_json({"url": manager.url, "running": True, "queues": count})
        else:
            click.echo(f"{manager.url} answers; it has {counted(count, 'queue')}.")


def _print(found: ServerStatus) -> None:
    values: dict[str, Any] = asdict(found)
    values = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    print_json({**values, "exists": True})


def _words(found: ServerStatus) -> str:
    lines = [("folder", f"{found.db_dir}")]
    if found.running:
        lines += [
            ("server", f"{found.flavour} {found.version}, process {found.pid}, for {duration(found.uptime_s)}"),
            ("socket", f"{found.socket}"),
            ("clients", f"{found.clients}"),
            ("memory", f"{found.memory_bytes / 1024**2:.1f} MiB"),
        ]
    else:
        last = f"; the last one was {found.flavour} {found.version}" if found.flavour else ""
        lines.append(("server", f"not running{last}"))
    sentinel = f"process {found.sentinel_pid}" if found.sentinel_pid else "not running"
    if found.running or found.sentinel_pid:
        lines.append(("sentinel", sentinel))
    fsync = {"everysec": "written to disk each second", "always": "written to disk with every change"}
    lines.append(("durability", f"{found.durability} ({fsync.get(found.durability, 'unknown')})"))
    text = "\n".join(f"{name.ljust(10)}  {value}" for name, value in lines)
    if found.notices:
        text += "\n\nWhat the sentinel noted last:\n" + "\n".join(f"  {line}" for line in found.notices)
    return paragraphs(text)
