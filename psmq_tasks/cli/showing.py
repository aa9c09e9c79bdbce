"""Tables for people, JSON for programs. What senders wrote is never trusted to a terminal as it is."""

from __future__ import annotations

import contextlib
import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from psmq.findings import counted
from psmq_tasks.cli.fitting import GAP, Column, cut, keep_what_fits, widths_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.table import Table

__all__ = [
    "Column",
    "age",
    "counted",
    "draw",
    "duration",
    "facts",
    "hang",
    "looking",
    "moment",
    "paragraphs",
    "per_second",
    "print_json",
    "printable",
    "progress",
    "table_of",
    "tail",
]

#: last characters of an id that tables show: 40 random bits
TAIL: Final = 8
#: red of the terminal's own sixteen colours, and bold: it is read on dark and on light, and without colours
_ALARM: Final = "bold red"


def print_json(document: Any, *, line: bool = False) -> None:
    """One document, indented on a terminal; ``line``: one of many, each on a line."""
    click.echo(json.dumps(document, indent=2 if sys.stdout.isatty() and not line else None))


def draw(
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    notes: Sequence[str] = (),
    *,
    whole: bool = False,
    header: bool = True,
) -> None:
    """A table: on a terminal as wide as that, elsewhere whole and plain.

    ``notes``: below each row, "" for none. ``whole``: cells that are too long go on below themselves, nothing is cut.
    """
    shown = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw_for_terminal(columns, shown, notes, whole=whole, header=header)
        return
    widths = [
        max(len(column.title), column.least, *(len(row[at]) for row in shown)) for at, column in enumerate(columns)
    ]
    if header:
        _print_row(columns, widths, [column.title for column in columns])
    for number, row in enumerate(shown):
        _print_row(columns, widths, row)
        if notes and notes[number]:
            click.echo(" " * (widths[0] + GAP) + printable(notes[number]))


def _print_row(columns: Sequence[Column], widths: Sequence[int], row: Sequence[str]) -> None:
    cells = [
        cell.rjust(width) if column.right else cell.ljust(width)
        for cell, width, column in zip(row, widths, columns, strict=True)
    ]
    click.echo("  ".join(cells).rstrip())


def facts(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values below each other; what has no value is left out."""
    shown = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        hang(printable(name).ljust(width), value)


def hang(head: str, text: str, style: str = "") -> None:
    """A line that goes on below its own text, not below its head, where a terminal is narrow."""
    if not sys.stdout.isatty():
        click.echo(f"{head}  {printable(text)}".rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, GAP, 0, 0))
    grid.add_column(no_wrap=True, width=len(head))
    grid.add_column(overflow="fold")
    grid.add_row(Text(head, style=style), Text(printable(text)))
    Console(highlight=False).print(grid)


def _draw_for_terminal(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    *,
    whole: bool,
    header: bool,
) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(highlight=False)
    columns, rows = keep_what_fits(columns, rows, console.width)
    widths = widths_of(columns, rows, console.width)
    if not notes:
        console.print(_table(columns, widths, rows, whole=whole, header=header))
        return
    # A row at a time, at the widths that all of them need.
    for number, (row, note) in enumerate(zip(rows, notes, strict=True)):
        console.print(_table(columns, widths, [row], whole=whole, header=header and number == 0))
        if note:
            console.print(Padding(Text(printable(note), style="dim"), (0, 0, 0, widths[0] + GAP)))


def table_of(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int, styles: Sequence[str] = ()) -> Table:
    """A table of so many cells' width; cells that are too long are cut. ``styles``: of each row."""
    columns, rows = keep_what_fits(columns, [[printable(cell) for cell in row] for row in rows], width)
    return _table(columns, widths_of(columns, rows, width), rows, styles)


def _table(
    columns: Sequence[Column],
    widths: Sequence[int],
    rows: Sequence[Sequence[str]],
    styles: Sequence[str] = (),
    *,
    whole: bool = False,
    header: bool = True,
) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold", show_header=header)
    for column, its_width in zip(columns, widths, strict=True):
        justify: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(column.title, justify=justify, no_wrap=not whole, overflow="fold", width=its_width)
    for number, row in enumerate(rows):
        cells = [
            Text(
                cell if whole else cut(cell, its_width, column.gives),
                style=_ALARM if column.alarms and cell != "0" else "",
            )
            for cell, its_width, column in zip(row, widths, columns, strict=True)
        ]
        table.add_row(*cells, style=styles[number] if styles else None)
    return table


@contextlib.contextmanager
def progress(doing: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal; gives what is told how many more are done. Nothing where nobody watches, or for one."""
    if not sys.stderr.isatty() or total == 1:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda more: bar.advance(task, more)


@contextlib.contextmanager
def looking() -> Iterator[None]:
    """A word on the terminal while many are read; nothing where nobody watches."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status("looking through the dead letters"):
        yield


def printable(text: str) -> str:
    """One line in which nothing steers a terminal: control characters are spelled out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def paragraphs(text: str) -> str:
    """Several lines, the same."""
    return "\n".join(printable(line.expandtabs(4)) for line in text.splitlines())


def tail(message_id: str) -> str:
    """The end of an id, which tells messages apart; they begin with the time."""
    return message_id[-TAIL:]


def duration(seconds: float | None) -> str:
    """``20ms 1.5s 12s 3m12s 2h05m 5d3h``; "-" for none."""
    if seconds is None:
        return "-"
    if 0 < seconds < 0.9995:
        return f"{max(round(seconds * 1000), 1)}ms"
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600}h"


def per_second(rate: float) -> str:
    """``0 <0.01 0.03 2.5 140``"""
    if 0 < rate < 0.005:
        return "<0.01"
    return f"{rate:.0f}" if rate >= 9.95 or rate == 0 else f"{rate:.1f}" if rate >= 0.095 else f"{rate:.2f}"


def age(when: datetime | None) -> str:
    """How long ago, in whole seconds at least."""
    return (
        "-" if when is None else duration(max(round((datetime.now(UTC) - when).total_seconds()), 0)).replace(".0", "")
    )


def moment(when: datetime | None) -> str:
    """``2026-11-23 23:45:01 UTC``"""
    return "-" if when is None else f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
