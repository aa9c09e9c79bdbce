"""``psmq top``: the queues and workers, live, with a few keys."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import time
from typing import TYPE_CHECKING, Final

import click

from psmq.errors import PsmqError
from psmq_tasks.cli.options import Seconds, json_option, place_options
from psmq_tasks.cli.running import USAGE, Problem
from psmq_tasks.cli.showing import print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psmq_tasks.cli.place import Place
    from psmq_tasks.cli.top_view import Look, View
    from psmq_tasks.inspection import Inspector

__all__ = ["top"]

_KEY: Final = re.compile(r"\x1b[\[O][A-D]|.", re.DOTALL)
_UP, _DOWN = ("\x1b[A", "\x1bOA", "k"), ("\x1b[B", "\x1bOB", "j")


@click.command()
@click.option("--every", type=Seconds(0.1, 3600), default=2, show_default=True, help="Seconds between looks.")
@json_option
@place_options
def top(place: Place, *, every: float, as_json: bool) -> None:
    """Watch queues and workers, live.

    \b
    s       sort by the next column: name, ready, dead, oldest, in, out
    ↑ ↓     choose a queue (also k and j)
    p       pause the chosen queue, or resume it
    q       quit

    IN/S and OUT/S are messages pushed and finished in a second over the last minute or two, WAIT and RUN how long
    95 % of them waited and ran at most. With --json: one document on a line for each look.
    """  # noqa: D301  # click wants the character itself
    from psmq_tasks.cli.top_view import look

    with place.inspector() as inspector:
        seen = look(inspector)
        if as_json:
            while True:
                print_json(seen.as_dict(), line=True)
                time.sleep(every)
                seen = look(inspector)
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise Problem("psmq top needs a terminal: psmq stats --watch and psmq top --json do without", USAGE)
        with _keys():
            _show(inspector, seen, every)


@contextlib.contextmanager
def _keys() -> Iterator[None]:
    """Keys come one by one and are not shown; Ctrl-C stays what it is."""
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _typed(seconds: float) -> list[str]:
    """What is typed within so many seconds, key by key; an arrow is several characters. The end of input quits."""
    if not select.select([sys.stdin], [], [], max(seconds, 0))[0]:
        return []
    return _KEY.findall(os.read(sys.stdin.fileno(), 64).decode("utf-8", "replace")) or ["q"]


def _show(inspector: Inspector, seen: Look, every: float) -> None:
    from rich.console import Console
    from rich.live import Live

    from psmq_tasks.cli.top_view import View, look, render

    console, view, trouble, due = Console(highlight=False), View(), "", time.monotonic() + every
    view.move(seen.queues, 0)
    with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            width, height = console.size
            where = inspector.manager.url
            live.update(render(seen, view, width=width, height=height, where=where, trouble=trouble), refresh=True)
            typed = _typed(due - time.monotonic())
            try:
                for key in typed:
                    if key in ("q", "Q", "\x04"):
                        return
                    _obey(key, inspector, seen, view)
                if not typed or "p" in typed:
                    seen, trouble, due = look(inspector), "", time.monotonic() + every
            except PsmqError as error:
                trouble, due = str(error), time.monotonic() + every


def _obey(key: str, inspector: Inspector, seen: Look, view: View) -> None:
    if key == "s":
        view.next_sort()
    elif key in _UP:
        view.move(seen.queues, -1)
    elif key in _DOWN:
        view.move(seen.queues, 1)
    elif key == "p":
        for info, _ in seen.queues:
            if info.name == view.chosen:
                queue = inspector.manager.find_queue(info.name)
                if info.paused:
                    queue.resume()
                else:
                    queue.pause()
