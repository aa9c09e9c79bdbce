"""How wide the columns of a table get, and which are left out where a terminal is too narrow for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["GAP", "Column", "cut", "keep_what_fits", "widths_of"]

#: between columns; the narrowest that a column gets; what it is to have before others are left out
GAP: Final = 2
_LEAST, _ENOUGH = 6, 18


class Column(NamedTuple):
    """A column of a table.

    ``gives``: which end is left out where the terminal is narrow; "": never any. ``alarms``: anything but 0 stands out.
    ``goes``: those with 1 are left out first, then those with 2 …; 0: it always stays. ``least``: cells that it has.
    """

    title: str
    right: bool = False
    gives: Literal["", "start", "end"] = ""
    alarms: bool = False
    goes: int = 0
    least: int = 0


def keep_what_fits(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int
) -> tuple[list[Column], list[list[str]]]:
    """The columns without those that must go, so that the others have room; and what the rows have in them."""
    wanted = _wanted(columns, rows)
    needed = [min(one, _ENOUGH) if column.gives else one for one, column in zip(wanted, columns, strict=True)]
    kept = list(range(len(columns)))
    for turn in sorted({column.goes for column in columns} - {0}):
        if sum(needed[at] + GAP for at in kept) - GAP <= width:
            break
        kept = [at for at in kept if columns[at].goes != turn]
    return [columns[at] for at in kept], [[row[at] for at in kept] for row in rows]


def widths_of(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """What each column gets: columns that give share what the others leave, small ones first."""
    wanted = _wanted(columns, rows)
    widths = list(wanted)
    left = width - GAP * (len(columns) - 1)
    left -= sum(one for one, column in zip(wanted, columns, strict=True) if not column.gives)
    giving = sorted((at for at, column in enumerate(columns) if column.gives), key=lambda at: wanted[at])
    for number, at in enumerate(giving):
        widths[at] = max(min(wanted[at], left // (len(giving) - number)), _LEAST)
        left -= widths[at]
    return widths


def _wanted(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[int]:
    from rich.cells import cell_len

    return [
        max(cell_len(column.title), column.least, *(cell_len(row[at]) for row in rows))
        for at, column in enumerate(columns)
    ]


def cut(text: str, width: int, gives: str) -> str:
    """So much of the text; an ellipsis stands for what is left out."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    if gives == "start":
        return "…" + set_cell_size(text[::-1], width - 1)[::-1]
    return set_cell_size(text, width - 1) + "…"
